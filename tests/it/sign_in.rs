//! Signing in with e-mail and password: one answer for everything that is wrong, lock-out, redirects.

use bulkhead::base::time::length;
use serde_json::json;

use crate::world::{Answer, Browser, PASSWORD, World};

const EMAIL: &str = "ada@acme.test";

/// What a person sees, without what was typed and without the values that are random in each answer.
fn seen(answer: &Answer, email: &str) -> (u16, String) {
    let (status, _, text) = answer.essence();
    (status, text.replace(email, "the-address"))
}

async fn attempt(browser: &Browser<'_>, email: &str, password: &str) -> Answer {
    // The same browser each time, so that the form's token is the same.
    browser.clone().sign_in(email, password).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_signs_in_and_the_session_is_for_this_host_only() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let mut browser = world.browser("acme");
    browser.get("/").await.expect_redirect("/sign-in");
    browser.get("/account").await.expect_redirect("/sign-in");
    let answer = browser.sign_in("  ADA@Acme.test ", PASSWORD).await.expect_redirect("/account");
    let cookie = answer.cookies().into_iter().find(|cookie| cookie.starts_with("bh_session_")).unwrap();
    for attribute in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=604800"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    assert!(browser.get("/account").await.expect(200).mentions(EMAIL));
    browser.get("/").await.expect_redirect("/account");
    browser.get("/sign-in").await.expect_redirect("/account");
    let page = browser.get("/account").await;
    browser.submit_form_to(&page, "/sign-out", &[]).await.expect_redirect("/signed-out");
    assert_eq!(browser.session(), None);
    browser.get("/account").await.expect_redirect("/sign-in");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_the_answer_is_the_same() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    let members = "/v1/organizations/acme/members";
    for email in [EMAIL, "locked@acme.test", "inactive@acme.test"] {
        world.member("acme", email).await;
    }
    operator.post(members, &json!({"email": "pending@acme.test"})).await.expect(201);
    let inactive = world.member("acme", "gone@acme.test").await;
    operator.put(&format!("{members}/{inactive}/deactivation"), &json!({})).await.expect(200);
    let mut browser = world.browser("acme");
    browser.get("/sign-in").await.expect(200);
    for _ in 0..5 {
        attempt(&browser, "locked@acme.test", "wrong-password-1").await.expect(401);
    }

    let unknown = attempt(&browser, "nobody@acme.test", PASSWORD).await.expect(401);
    let expected = seen(&unknown, "nobody@acme.test");
    assert!(unknown.cookies().is_empty(), "{unknown:?}");
    for (email, password) in [
        (EMAIL, "wrong-password-1"),
        ("locked@acme.test", PASSWORD),
        ("locked@acme.test", "wrong-password-1"),
        ("pending@acme.test", PASSWORD),
        ("gone@acme.test", PASSWORD),
        ("gone@acme.test", "wrong-password-1"),
        ("not an address", PASSWORD),
        (EMAIL, &"x".repeat(5000)),
    ] {
        let answer = attempt(&browser, email, password).await;
        assert_eq!(seen(&answer, email), expected, "{email} {answer:?}");
        assert_eq!(answer.cookies(), unknown.cookies());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_lock_for_ten_minutes_to_the_second() {
    let world = World::new().await;
    world.organization("acme").await;
    let member = world.member("acme", EMAIL).await;
    let browser = world.browser("acme");
    let path = format!("/v1/organizations/acme/members/{member}");
    for _ in 0..4 {
        attempt(&browser, EMAIL, "wrong-password-1").await.expect(401);
    }
    attempt(&browser, EMAIL, PASSWORD).await.expect(303);
    // A success starts the count anew.
    for failed in 1..=5 {
        attempt(&browser, EMAIL, "wrong-password-1").await.expect(401);
        let locked = !world.operator().get(&path).await.json()["locked_until"].is_null();
        assert_eq!(locked, failed == 5);
    }
    world.clock.advance(length::seconds(599));
    attempt(&browser, EMAIL, PASSWORD).await.expect(401);
    world.clock.advance(length::seconds(1));
    attempt(&browser, EMAIL, "wrong-password-1").await.expect(401);
    // One failure after a lock is one failure.
    attempt(&browser, EMAIL, PASSWORD).await.expect(303);
    assert!(world.operator().get(&path).await.json()["locked_until"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_while_locked_do_not_prolong_the_lock() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let browser = world.browser("acme");
    for _ in 0..5 {
        attempt(&browser, EMAIL, "wrong-password-1").await.expect(401);
    }
    for _ in 0..5 {
        world.clock.advance(length::minutes(2));
        let status = attempt(&browser, EMAIL, "wrong-password-1").await.status;
        assert_eq!(status, 401);
    }
    attempt(&browser, EMAIL, PASSWORD).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_can_be_lifted_and_follows_the_organizations_policy() {
    let world = World::new().await;
    world.organization("acme").await;
    let member = world.member("acme", EMAIL).await;
    let operator = world.operator();
    let policy = json!({"policy": {"lockout_attempts": 3, "lockout_seconds": 60}});
    operator.patch("/v1/organizations/acme", &policy).await.expect(200);
    let browser = world.browser("acme");
    let lock = || async {
        for _ in 0..3 {
            attempt(&browser, EMAIL, "wrong-password-1").await.expect(401);
        }
        attempt(&browser, EMAIL, PASSWORD).await.expect(401);
    };
    lock().await;
    operator.delete(&format!("/v1/organizations/acme/members/{member}/lock")).await.expect(204);
    attempt(&browser, EMAIL, PASSWORD).await.expect(303);
    lock().await;
    world.clock.advance(length::seconds(60));
    attempt(&browser, EMAIL, PASSWORD).await.expect(303);
    // A new password is the end of a lock, too.
    lock().await;
    let body = json!({"password": "grove-cinder-meadow-51"});
    operator.put(&format!("/v1/organizations/acme/members/{member}/password"), &body).await.expect(204);
    attempt(&browser, EMAIL, "grove-cinder-meadow-51").await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_one_organization_is_none_in_another() {
    let world = World::new().await;
    for slug in ["acme", "globex"] {
        world.organization(slug).await;
        world.member(slug, EMAIL).await;
    }
    for _ in 0..5 {
        attempt(&world.browser("acme"), EMAIL, "wrong-password-1").await.expect(401);
    }
    attempt(&world.browser("acme"), EMAIL, PASSWORD).await.expect(401);
    attempt(&world.browser("globex"), EMAIL, PASSWORD).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_sign_in_nobody_is_led_anywhere_else() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let evil = "https://evil.test/";
    for name in ["next", "return_to", "redirect_uri", "url", "continue", "base"] {
        let mut browser = world.browser("acme");
        let page = browser.get(&format!("/sign-in?{name}={evil}")).await.expect(200);
        assert!(!page.mentions("evil.test"), "{page:?}");
        let fields = [("email", EMAIL), ("password", PASSWORD), (name, evil)];
        browser.submit_form(&page, &fields).await.expect_redirect("/account");
    }
    for request in [evil, "//evil.test", "\\\\evil.test", "javascript:alert(1)", "a\r\nLocation: https://evil.test"] {
        let mut browser = world.browser("acme");
        let page = browser.get("/sign-in").await;
        let fields = [("email", EMAIL), ("password", PASSWORD), ("request", request)];
        let answer = browser.submit_form(&page, &fields).await.expect(303);
        assert!(answer.location().starts_with("/oauth2/continue?request="), "{answer:?}");
        let refused = browser.follow(&answer).await.expect(400);
        assert!(refused.location().is_empty() && refused.mentions("authorization_request_invalid"), "{refused:?}");
    }
    // Nor by a host that only looks like one of ours.
    let mut browser = world.browser("acme");
    browser.get("/relay?token=https://evil.test").await.expect_redirect("/sign-in");
    let landing = world.visitor().get("/find?organization=//evil.test").await.expect(404);
    assert!(landing.location().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_in_again_ends_the_session_before() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let mut browser = world.signed_in("acme", EMAIL).await;
    let mut old = browser.clone();
    let csrf = browser.csrf().await;
    let fields = [("csrf", csrf.as_str()), ("email", EMAIL), ("password", PASSWORD)];
    browser.post("/sign-in", &fields).await.expect_redirect("/account");
    assert_ne!(browser.session(), old.session());
    old.get("/account").await.expect_redirect("/sign-in");
    browser.get("/account").await.expect(200);
}
