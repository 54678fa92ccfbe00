//! Four ways to name an organization, and none of them outvotes another.

use std::net::{IpAddr, Ipv4Addr};

use super::{MARK, Scene, assert_unmarked};
use crate::world::{Call, HOST, World, host_of};

#[tokio::test(flavor = "multi_thread")]
async fn two_names_that_disagree_are_a_conflict() {
    let Scene { world, app, acme, other } = &Scene::new().await;
    let (operator, acme_host, other_host) = (world.operator(), host_of(acme.slug), host_of(other.slug));
    // Host and path.
    for host in [&acme_host, &acme.custom_host] {
        let page = world.call(Call::new("GET", host, &format!("/o/{MARK}/sign-in"))).await.expect(400);
        assert!(page.mentions("organization_conflict"), "{page:?}");
        assert_unmarked(&page);
        for name in [&other.id, other.slug, &format!("ext-{MARK}")] {
            let answer = operator.clone().at(host).get(&format!("/v1/organizations/{name}/members")).await;
            assert_unmarked(&answer.expect_problem(400, "organization_conflict"));
        }
    }
    // Host, path and key.
    for (host, name, key) in [
        (&acme_host, other.slug, &other.key),
        (&acme_host, other.slug, &acme.key),
        (&other_host, acme.slug, &acme.key),
        (&HOST.to_owned(), other.slug, &acme.key),
        (&acme_host, acme.slug, &other.key),
    ] {
        let answer = world.api(key).at(host).get(&format!("/v1/organizations/{name}/members")).await;
        answer.expect_problem(400, "organization_conflict");
    }
    // Host and parameter.
    for value in [&other.id, other.slug, &format!("ext-{MARK}"), "nobody-here"] {
        for parameter in ["organization", "organization_id"] {
            let page = world.browser(acme.slug).get(&app.authorize(&[(parameter, value)])).await.expect(400);
            assert!(page.mentions("organization_conflict"), "{page:?}");
        }
    }
    // Parameter and parameter, where both are free.
    let page =
        world.visitor().get(&app.authorize(&[("organization", acme.slug), ("organization_id", &other.id)])).await;
    assert!(page.expect(400).mentions("organization_conflict"));
    // Agreement is no conflict.
    for host in [&acme_host, &acme.custom_host, &HOST.to_owned()] {
        world.api(&acme.key).at(host).get(&format!("/v1/organizations/{}/members", acme.id)).await.expect(200);
    }
    world.browser(acme.slug).get(&app.authorize(&[("organization", "ext-acme")])).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_nowhere_does_not_fall_back_on_another() {
    let Scene { world, acme, .. } = &Scene::new().await;
    for host in [&host_of(acme.slug), &acme.custom_host] {
        let answer = world.operator().at(host).get("/v1/organizations/nobody-here/members").await;
        answer.expect_problem(404, "organization_not_found");
        let page = world.call(Call::new("GET", host, "/o/nobody-here/sign-in")).await.expect(404);
        assert!(page.mentions("organization_not_found"), "{page:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_header_counts_from_configured_proxies_only() {
    let settings = [("BULKHEAD_SERVER_ORGANIZATION_HEADER", "true"), ("BULKHEAD_SERVER_TRUSTED_PROXIES", "10.0.0.0/8")];
    let world = World::with(&settings).await;
    world.organization("acme").await;
    world.organization(MARK).await;
    let proxy = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    let page = |host: &str, name: &str, peer: Option<IpAddr>| {
        let mut call = Call::new("GET", host, "/sign-in").header("bulkhead-organization", name);
        call.peer = peer.unwrap_or(call.peer);
        world.call(call)
    };
    let named = page(HOST, "acme", Some(proxy)).await.expect(200);
    assert!(named.mentions("acme"), "{named:?}");
    // Somebody else's word is nothing: the deployment's own host has no sign-in page.
    page(HOST, "acme", None).await.expect(404);
    assert_unmarked(&page(&host_of("acme"), MARK, None).await.expect(200));
    // A proxy's word counts, but does not outvote the host.
    assert!(page(&host_of("acme"), MARK, Some(proxy)).await.expect(400).mentions("organization_conflict"));
    page(HOST, "nobody-here", Some(proxy)).await.expect(404);
    let mut call = world.operator().call("GET", &format!("/v1/organizations/{MARK}/members"));
    call = call.header("bulkhead-organization", "acme");
    call.peer = proxy;
    world.call(call).await.expect_problem(400, "organization_conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_the_header_is_nothing_even_from_a_proxy() {
    let world = World::with(&[("BULKHEAD_SERVER_TRUSTED_PROXIES", "10.0.0.0/8")]).await;
    world.organization("acme").await;
    let mut call = Call::new("GET", HOST, "/sign-in").header("bulkhead-organization", "acme");
    call.peer = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
    world.call(call).await.expect(404);
}
