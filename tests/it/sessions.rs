//! How sessions live and end, by a clock that stands still.

use bulkhead::base::time::length;
use serde_json::json;

use crate::process::patience;
use crate::world::{Browser, PASSWORD, World, host_of};

const EMAIL: &str = "ada@acme.test";

async fn acme() -> World {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    world
}

async fn is_signed_in(browser: &mut Browser<'_>) -> bool {
    browser.get("/v1/session").await.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_ends_to_the_millisecond() {
    let world = acme().await;
    let mut browser = world.signed_in("acme", EMAIL).await;
    world.clock.advance(length::hours(24) - std::time::Duration::from_millis(1));
    assert!(is_signed_in(&mut browser).await);
    // That was a sign of life: another day.
    world.clock.advance(length::hours(24) - std::time::Duration::from_millis(1));
    assert!(is_signed_in(&mut browser).await);
    world.clock.advance(length::hours(24));
    assert!(!is_signed_in(&mut browser).await);
    browser.get("/account").await.expect_redirect("/sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_session_ends_after_its_whole_time() {
    let world = acme().await;
    let mut browser = world.signed_in("acme", EMAIL).await;
    for _ in 0..13 {
        world.clock.advance(length::hours(12));
        assert!(is_signed_in(&mut browser).await);
    }
    world.clock.advance(length::hours(12) - std::time::Duration::from_millis(1));
    assert!(is_signed_in(&mut browser).await);
    world.clock.advance(std::time::Duration::from_millis(1));
    assert!(!is_signed_in(&mut browser).await);
    let session = &world.operator().get("/v1/organizations/acme/sessions").await.json()["data"][0];
    assert_eq!(
        (session["status"].as_str(), session["expires_at"].as_str()),
        (Some("expired"), Some("2025-12-01T16:00:00.000Z"))
    );
}

/// Without a timer: the file is tidied behind a write, at most once a day.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_long_ago_is_forgotten_behind_the_next_write() {
    let world = acme().await;
    let sessions = async || {
        let listed = world.operator().get("/v1/organizations/acme/sessions").await.json();
        listed["data"].as_array().unwrap().len()
    };
    for (days, there) in [(0, 1), (36, 2)] {
        world.clock.advance(length::days(days));
        world.signed_in("acme", EMAIL).await;
        assert_eq!(sessions().await, there);
    }
    // Its 7 days and 30 more are over, and nobody writes: whoever looked behind the write before is done.
    tokio::time::sleep(length::seconds(3)).await;
    world.clock.advance(length::days(2));
    assert_eq!(sessions().await, 2);
    world.signed_in("acme", EMAIL).await;
    let deadline = patience();
    while sessions().await != 2 {
        assert!(std::time::Instant::now() < deadline, "it is still there");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_can_choose_its_own_lifetimes() {
    let world = acme().await;
    world.organization("globex").await;
    world.member("globex", EMAIL).await;
    let policy = json!({"policy": {"session_idle_seconds": 300, "session_absolute_seconds": 600}});
    world.operator().patch("/v1/organizations/acme", &policy).await.expect(200);
    let (mut strict, mut lenient) = (world.signed_in("acme", EMAIL).await, world.signed_in("globex", EMAIL).await);
    world.clock.advance(length::seconds(299));
    assert!(is_signed_in(&mut strict).await);
    world.clock.advance(length::seconds(299));
    assert!(is_signed_in(&mut strict).await);
    world.clock.advance(length::seconds(2));
    assert!(!is_signed_in(&mut strict).await && is_signed_in(&mut lenient).await);
    let mut idle = world.signed_in("acme", EMAIL).await;
    world.clock.advance(length::seconds(300));
    assert!(!is_signed_in(&mut idle).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_can_ask_whose_session_it_is() {
    let world = acme().await;
    let browser = world.signed_in("acme", EMAIL).await;
    let key = world.organization_key("acme", &["sessions:read"]).await;
    let ask = async |token: String| {
        let body = json!({"session_token": token});
        world.api(&key).post("/v1/organizations/acme/sessions/authenticate", &body).await
    };
    let token = browser.session().unwrap();
    let session = ask(token.clone()).await.expect(200).json();
    assert_eq!((session["status"].as_str(), session["member"]["email"].as_str()), (Some("active"), Some(EMAIL)));
    assert_eq!(session["amr"], json!(["pwd"]));
    let unknown = ask("nonsense".to_owned()).await.expect_problem(404, "session_not_found");
    let path = format!("/v1/organizations/acme/sessions/{}", session["id"].as_str().unwrap());
    for _ in 0..2 {
        world.operator().delete(&path).await.expect(204);
    }
    assert_eq!(ask(token).await.essence(), unknown.essence());
    assert_eq!(world.operator().get(&path).await.expect(200).json()["status"], "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_takes_with_it_what_apps_have_got() {
    let world = acme().await;
    let (app, host) = (world.application().await, host_of("acme"));
    let mut browser = world.signed_in("acme", EMAIL).await;
    let tokens = app.tokens(&world, &mut browser).await;
    let waiting = app.code(&mut browser).await;
    world.userinfo(&host, &tokens.access).await.expect(200);
    let page = browser.get("/account").await;
    browser.submit_form_to(&page, "/sign-out", &[]).await.expect(303);
    world.userinfo(&host, &tokens.access).await.expect(401);
    assert_eq!(world.refresh(&host, &app, &tokens.refresh).await.expect(400).json()["error"], "invalid_grant");
    assert_eq!(world.redeem(&host, &app, &waiting).await.expect(400).json()["error"], "invalid_grant");
    assert!(!world.is_live(&host, &app, &tokens.access).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_ends_every_other_session() {
    let world = acme().await;
    let mut elsewhere = world.signed_in("acme", EMAIL).await;
    let mut here = world.signed_in("acme", EMAIL).await;
    let page = here.get("/account").await.expect(200);
    let change = |current: &'static str, new: &'static str| [("current_password", current), ("new_password", new)];
    let wrong =
        here.submit_form_to(&page, "/account/password", &change("wrong-password-1", "grove-cinder-meadow-51")).await;
    assert!(wrong.expect(422).mentions("not your current password"));
    here.submit_form_to(&page, "/account/password", &change(PASSWORD, "password")).await.expect(422);
    assert!(is_signed_in(&mut elsewhere).await);
    let done = here.submit_form_to(&page, "/account/password", &change(PASSWORD, "grove-cinder-meadow-51")).await;
    done.expect_redirect("/account?done=password");
    assert!(is_signed_in(&mut here).await && !is_signed_in(&mut elsewhere).await);
    world.browser("acme").sign_in(EMAIL, PASSWORD).await.expect(401);
    world.browser("acme").sign_in(EMAIL, "grove-cinder-meadow-51").await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_the_current_password_on_the_account_page_is_no_way_around_the_lock() {
    let world = acme().await;
    let mut thief = world.signed_in("acme", EMAIL).await;
    let page = thief.get("/account").await;
    for _ in 0..5 {
        let fields = [("current_password", "wrong-password-1"), ("new_password", "grove-cinder-meadow-51")];
        thief.submit_form_to(&page, "/account/password", &fields).await.expect(422);
    }
    let fields = [("current_password", PASSWORD), ("new_password", "grove-cinder-meadow-51")];
    let answer = thief.submit_form_to(&page, "/account/password", &fields).await;
    assert_ne!(answer.location(), "/account?done=password", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_cookies_of_one_name_are_none() {
    let world = acme().await;
    let mut browser = world.signed_in("acme", EMAIL).await;
    let (name, value) = browser.cookie("bh_session_").unwrap();
    let call = browser.call("GET", "/v1/session").header("cookie", &format!("{name}={value}"));
    browser.send(call).await.expect(401);
    assert!(is_signed_in(&mut browser).await);
}
