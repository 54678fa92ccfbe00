//! Everything that is given out in one organization and handed in at another: refused there, and not used up.

use serde_json::json;

use super::{MARK, Scene, assert_unmarked};
use crate::world::{Answer, Call, HOST, PASSWORD, Tokens, encoded, host_of, text_between};

#[tokio::test(flavor = "multi_thread")]
async fn codes_and_tokens_are_good_where_they_were_given() {
    let Scene { world, app, acme, other } = &Scene::new().await;
    let (here, there) = (host_of(acme.slug), host_of(other.slug));
    let mut person = world.signed_in(other.slug, &other.email).await;
    let code = app.code(&mut person).await;
    let never = world.redeem(&here, app, "bh_ac_nonsense").await.expect(400);
    assert_eq!(never.json()["error"], "invalid_grant");
    for host in [here.as_str(), HOST] {
        let refused = world.redeem(host, app, &code).await;
        assert_eq!(refused.essence(), never.essence(), "{refused:?}");
    }
    let tokens = Tokens::of(&world.redeem(&there, app, &code).await.expect(200));

    for host in [here.as_str(), HOST] {
        let refused = world.refresh(host, app, &tokens.refresh).await;
        assert_eq!(refused.essence(), never.essence(), "{refused:?}");
        assert_unmarked(&world.userinfo(host, &tokens.access).await.expect(401));
        for token in [&tokens.access, &tokens.refresh, &tokens.id] {
            let answer = world.as_application(host, "/oauth2/introspect", app, &[("token", token)]).await.expect(200);
            assert_eq!(answer.json(), json!({"active": false}), "{answer:?}");
            world.as_application(host, "/oauth2/revoke", app, &[("token", token)]).await.expect(200);
        }
    }
    // Nothing was used up or taken back by all that.
    assert!(world.is_live(&there, app, &tokens.access).await && world.is_live(&there, app, &tokens.refresh).await);
    assert!(world.userinfo(&there, &tokens.access).await.expect(200).mentions(&other.member));
    world.refresh(&there, app, &tokens.refresh).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployments_tokens_are_not_an_organizations_and_the_other_way_round() {
    let Scene { world, app, acme, .. } = &Scene::new().await;
    let here = host_of(acme.slug);
    let mut person = world.signed_in(acme.slug, &acme.email).await;
    let onward = person.get(&format!("http://{HOST}{}", app.authorize(&[("organization", acme.slug)]))).await;
    let back = person.follow(&onward).await.expect(303);
    assert_eq!(query(&back, "iss"), format!("http://{HOST}"));
    let code = query(&back, "code");
    assert_eq!(world.redeem(&here, app, &code).await.expect(400).json()["error"], "invalid_grant");
    let tokens = Tokens::of(&world.redeem(HOST, app, &code).await.expect(200));
    world.userinfo(&here, &tokens.access).await.expect(401);
    assert!(!world.is_live(&here, app, &tokens.refresh).await);
    assert!(world.userinfo(HOST, &tokens.access).await.expect(200).mentions(&acme.member));
    world.refresh(&here, app, &tokens.refresh).await.expect(400);
    world.refresh(HOST, app, &tokens.refresh).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_opens_its_own_organization_alone() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let check = |host: &str| {
        let call = Call::new("GET", host, "/v1/session");
        world.call(call.header("authorization", &format!("Bearer {}", other.session_token)))
    };
    assert_unmarked(&check(&host_of(acme.slug)).await.expect_problem(401, "unauthenticated"));
    assert!(check(&host_of(other.slug)).await.expect(200).mentions(MARK));
    let by_path = Call::new("GET", HOST, "/o/acme/v1/session");
    let by_path = by_path.header("authorization", &format!("Bearer {}", other.session_token));
    assert_unmarked(&world.call(by_path).await.expect_problem(401, "unauthenticated"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_authorization_request_is_pinned_to_its_organization() {
    let Scene { world, app, acme, other } = &Scene::new().await;
    let sealed = app.sealed(&mut world.browser(other.slug)).await;
    let mut person = world.signed_in(acme.slug, &acme.email).await;
    let csrf = person.csrf().await;
    let resumed = person.get(&format!("/oauth2/continue?{}", encoded(&[("request", &sealed)]))).await.expect(400);
    assert!(resumed.mentions("organization_conflict"), "{resumed:?}");
    for action in ["continue", "switch", "deny"] {
        let fields = [("csrf", csrf.as_str()), ("request", sealed.as_str()), ("action", action)];
        let confirmed = person.post("/oauth2/confirm", &fields).await.expect(400);
        assert!(confirmed.mentions("organization_conflict"), "{confirmed:?}");
        assert_unmarked(&confirmed);
    }
    // Signing in with it leads on within the organization, where it is refused.
    let mut fresh = world.browser(acme.slug);
    let page = fresh.get(&format!("/sign-in?{}", encoded(&[("request", &sealed)]))).await.expect(200);
    let onward = fresh.submit_form(&page, &[("email", &acme.email), ("password", PASSWORD)]).await.expect(303);
    assert!(onward.location().starts_with("/oauth2/continue?"), "{onward:?}");
    fresh.follow(&onward).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_sign_out_request_is_pinned_to_its_organization() {
    let Scene { world, app, acme, other } = &Scene::new().await;
    let mut elsewhere = world.signed_in(other.slug, &other.email).await;
    let wish = [("client_id", app.id.as_str()), ("post_logout_redirect_uri", "https://app.example.com/bye")];
    let page = elsewhere.get(&format!("/oauth2/logout?{}", encoded(&wish))).await.expect(200);
    let sealed = text_between(&page.text(), "name=\"request\" value=\"", "\"").unwrap().to_owned();
    let mut person = world.signed_in(acme.slug, &acme.email).await;
    let csrf = person.csrf().await;
    let fields = [("csrf", csrf.as_str()), ("request", sealed.as_str())];
    let refused = person.post("/oauth2/logout/confirm", &fields).await.expect(400);
    assert!(refused.mentions("organization_conflict"), "{refused:?}");
    person.get("/account").await.expect(200);
    // An ID token of the other organization proves nothing here: the person is asked.
    let tokens = app.tokens(world, &mut elsewhere).await;
    let page = person.get(&format!("/oauth2/logout?{}", encoded(&[("id_token_hint", &tokens.id)]))).await.expect(200);
    assert_unmarked(&page);
    person.get("/account").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_goes_on_where_it_began() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let mut elsewhere = world.browser(other.slug);
    let page = elsewhere.get("/recovery").await;
    elsewhere.submit_form(&page, &[("email", &other.email)]).await.expect_redirect("/recovery/code");
    let code = world.mailbox_code(&other.email).await;
    let (_, ticket) = elsewhere.cookie("bh_recovery_").unwrap();

    let mut here = world.browser(acme.slug);
    here.set_cookie(&format!("bh_recovery_{}", acme.id.trim_start_matches("org_")), &ticket);
    let csrf = here.csrf().await;
    for path in ["/recovery/code", "/recovery/password"] {
        assert_unmarked(&here.get(path).await.expect_redirect("/recovery?again=1"));
        let fields = [("csrf", csrf.as_str()), ("code", code.as_str()), ("password", "grove-cinder-meadow-51")];
        assert_unmarked(&here.post(path, &fields).await.expect_redirect("/recovery?again=1"));
    }
    assert!(here.session().is_none());
    // At home it still works, after all these tries.
    let page = elsewhere.get("/recovery/code").await.expect(200);
    elsewhere.submit_form(&page, &[("code", &code)]).await.expect_redirect("/recovery/password");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_arrives_at_its_own_organization() {
    let Scene { world, acme, .. } = &Scene::new().await;
    let mut founder = world.visitor();
    let relay = super::super::sign_up::found(world, &mut founder, "zoe@initech.test", "initech").await;
    let token = query(&relay, "token");
    let mut elsewhere = world.browser(acme.slug);
    let answer = elsewhere.get(&format!("/relay?{}", encoded(&[("token", &token)]))).await;
    answer.expect_redirect("/sign-in");
    let csrf = elsewhere.csrf().await;
    let fields = [("csrf", csrf.as_str()), ("token", token.as_str())];
    elsewhere.post("/relay", &fields).await.expect_redirect("/sign-in");
    assert!(elsewhere.session().is_none());
    let page = founder.follow(&relay).await.expect(200);
    founder.submit_form(&page, &[]).await.expect_redirect("/account");
}

fn query(answer: &Answer, name: &str) -> String {
    let address = url::Url::parse(answer.location()).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
    address.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned()
}
