//! The walk over every page: with another organization's session, with another's form token, with neither.

use bulkhead::base::time::length;

use super::table::{DEPLOYMENT_PAGES, Page, TENANT_PAGES};
use super::{Scene, Side, assert_unmarked};
use crate::world::{Answer, Browser, HOST, PASSWORD, encoded, host_of};

/// Every field that any form of ours has; each takes those that it knows.
fn fields<'a>(csrf: &'a str, side: &'a Side) -> Vec<(&'a str, &'a str)> {
    vec![
        ("csrf", csrf),
        ("email", &side.email),
        ("password", "not-the-password-77"),
        ("code", "000000"),
        ("current_password", PASSWORD),
        ("new_password", "grove-cinder-meadow-51"),
        ("name", "Taken over"),
        ("slug", "taken-over"),
        ("action", "continue"),
        ("client_id", "app_00000000000000000000000009"),
        ("token", "none"),
    ]
}

/// Opens a page, or sends it a form with everything filled in.
async fn visit(browser: &mut Browser<'_>, base: &str, page: (&str, &str, Page), csrf: &str, side: &Side) -> Answer {
    let (method, path, _) = page;
    let path = format!("{base}{}", side.fill(path, side));
    if method == "GET" { browser.get(&path).await } else { browser.post(&path, &fields(csrf, side)).await }
}

/// The address of an organization as a host and what stands in front of its paths.
fn addresses(slug: &str) -> [(String, String); 2] {
    [(host_of(slug), String::new()), (HOST.to_owned(), format!("/o/{slug}"))]
}

fn has_form(kind: Page) -> bool {
    matches!(kind, Page::Form | Page::PrivateForm)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_session_is_no_session() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let name = |side: &Side| format!("bh_session_{}", side.id.trim_start_matches("org_"));
    for (host, base) in addresses(acme.slug) {
        for page in TENANT_PAGES {
            let mut nobody = world.browser(acme.slug);
            host.clone_into(&mut nobody.host);
            let token = token_at(&mut nobody, &base).await;
            let own = ("bh_csrf".to_owned(), nobody.cookie("bh_csrf").unwrap().1);
            // Under this organization's name, under its own, and a member of ours without any right to it.
            for cookie in [(name(acme), &other.session_token), (name(other), &other.session_token)] {
                let mut intruder = world.browser(acme.slug);
                host.clone_into(&mut intruder.host);
                intruder.set_cookie(&own.0, &own.1);
                intruder.set_cookie(&cookie.0, cookie.1);
                let answer = visit(&mut intruder, &base, *page, &token, acme).await;
                let mut without = nobody.clone();
                let expected = visit(&mut without, &base, *page, &token, acme).await;
                assert_unmarked(&answer);
                assert_eq!(stable(&answer), stable(&expected), "{answer:?} {expected:?}");
                if matches!(page.2, Page::Private | Page::PrivateForm) {
                    answer.expect_redirect(&format!("{base}/sign-in"));
                }
            }
        }
    }
    // It has been of no use, and no harm came to it.
    let mut home = world.browser(other.slug);
    home.set_cookie(&name(other), &other.session_token);
    assert!(home.get("/account").await.expect(200).mentions(&other.email));
    // Nor to the member of ours that the forms named, but for the lock after so many wrong passwords.
    world.clock.advance(length::minutes(10));
    world.browser(acme.slug).sign_in(&acme.email, PASSWORD).await.expect_redirect("/account");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_form_token_is_no_token() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let (mut elsewhere, mut deployment) = (world.browser(other.slug), world.visitor());
    let of_other = token_at(&mut elsewhere, "").await;
    let page = deployment.get("/sign-up").await;
    let of_deployment = crate::world::text_between(&page.text(), "name=\"csrf\" value=\"", "\"").unwrap().to_owned();
    for (host, base) in addresses(acme.slug) {
        for page in TENANT_PAGES.iter().filter(|(_, _, kind)| has_form(*kind)) {
            for (cookie, token) in [
                (None, of_other.as_str()),
                (elsewhere.cookie("bh_csrf"), of_other.as_str()),
                (deployment.cookie("bh_csrf"), of_deployment.as_str()),
                (None, ""),
            ] {
                let mut member = world.signed_in(acme.slug, &acme.email).await;
                // The same session, at the other address of the same organization.
                let session = member.cookie("bh_session_").unwrap();
                host.clone_into(&mut member.host);
                member.set_cookie(&session.0, &session.1);
                if let Some((name, value)) = cookie {
                    member.set_cookie(&name, &value);
                }
                let answer = visit(&mut member, &base, *page, token, acme).await.expect(403);
                assert!(answer.mentions("csrf_failed"), "{answer:?}");
            }
        }
    }
    for page in DEPLOYMENT_PAGES.iter().filter(|(_, _, kind)| has_form(*kind)) {
        let mut visitor = world.visitor();
        let (name, value) = elsewhere.cookie("bh_csrf").unwrap();
        visitor.set_cookie(&name, &value);
        let answer = visit(&mut visitor, "", *page, &of_other, other).await.expect(403);
        assert!(answer.mentions("csrf_failed"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployments_pages_know_nobody() {
    let Scene { world, other, .. } = &Scene::new().await;
    for page in DEPLOYMENT_PAGES {
        let mut visitor = world.visitor();
        visitor.set_cookie(&format!("bh_session_{}", other.id.trim_start_matches("org_")), &other.session_token);
        let form = page.0 == "POST";
        let address = if form {
            page.1.to_owned()
        } else {
            format!("{}?{}", page.1, encoded(&[("organization", "nobody-here")]))
        };
        let answer = if form { visitor.post(&address, &fields("", other)).await } else { visitor.get(&address).await };
        assert!((200..500).contains(&answer.status), "{answer:?}");
        assert_unmarked(&answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_only_be_revoked_by_whose_it_is() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    world.member(acme.slug, "grace@acme.test").await;
    let mut ada = world.signed_in(acme.slug, &acme.email).await;
    let mut grace = world.signed_in(acme.slug, "grace@acme.test").await;
    let found = world.operator().post("/v1/organizations/acme/sessions/authenticate", &token_body(&grace)).await;
    let (of_grace, nowhere) = (found.expect(200).id(), Side::nowhere(acme).session);
    let csrf = ada.csrf().await;
    let revoke = |session: &str| format!("/account/sessions/{session}/revoke");
    let unknown = ada.post(&revoke(&nowhere), &[("csrf", &csrf)]).await.expect(404);
    for session in [&of_grace, &other.session] {
        let answer = ada.post(&revoke(session), &[("csrf", &csrf)]).await;
        assert_eq!(answer.essence(), unknown.essence(), "{answer:?}");
    }
    grace.get("/account").await.expect(200);
    // Her own other session she may end.
    ada.post(&revoke(&acme.session), &[("csrf", &csrf)]).await.expect_redirect("/account?done=session");
    ada.post(&revoke("session_nonsense"), &[("csrf", &csrf)]).await.expect(404);
}

fn token_body(browser: &Browser<'_>) -> serde_json::Value {
    serde_json::json!({"session_token": browser.session().unwrap()})
}

/// The token of the forms at an address, for this browser.
async fn token_at(browser: &mut Browser<'_>, base: &str) -> String {
    let page = browser.get(&format!("{base}/recovery")).await.expect(200);
    crate::world::text_between(&page.text(), "name=\"csrf\" value=\"", "\"").unwrap().to_owned()
}

/// What two answers can be told apart by, without values that are random in each.
fn stable(answer: &Answer) -> (u16, String, String) {
    let (status, location, text) = answer.essence();
    (status, location.split('?').next().unwrap_or("").to_owned(), text)
}
