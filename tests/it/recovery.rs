//! A new password by way of the mailbox; also a pending member's first.

use bulkhead::base::time::length;
use serde_json::json;

use crate::world::{Answer, Browser, PASSWORD, World};

const EMAIL: &str = "ada@acme.test";
const NEW: &str = "grove-cinder-meadow-51";

/// Asks for a code; the page on which it is typed.
async fn ask(browser: &mut Browser<'_>, email: &str) -> Answer {
    let page = browser.get("/recovery").await.expect(200);
    let sent = browser.submit_form(&page, &[("email", email)]).await.expect_redirect("/recovery/code");
    browser.follow(&sent).await.expect(200)
}

async fn prove(world: &World, browser: &mut Browser<'_>, email: &str) -> Answer {
    let page = ask(browser, email).await;
    let code = world.mailbox_code(email).await;
    let proven = browser.submit_form(&page, &[("code", &code)]).await.expect_redirect("/recovery/password");
    browser.follow(&proven).await.expect(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_leads_to_a_new_password_and_ends_what_was_before() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let mut old = world.signed_in("acme", EMAIL).await;
    for _ in 0..5 {
        world.browser("acme").sign_in(EMAIL, "wrong-password-1").await.expect(401);
    }
    let mut browser = world.browser("acme");
    let page = prove(&world, &mut browser, EMAIL).await;
    browser.submit_form(&page, &[("password", "password")]).await.expect(422);
    old.get("/account").await.expect(200);
    browser.submit_form(&page, &[("password", NEW)]).await.expect_redirect("/account");
    browser.get("/account").await.expect(200);
    old.get("/account").await.expect_redirect("/sign-in");
    world.browser("acme").sign_in(EMAIL, PASSWORD).await.expect(401);
    world.browser("acme").sign_in(EMAIL, NEW).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_member_sets_the_first_password() {
    let world = World::new().await;
    world.organization("acme").await;
    let made = world.operator().post("/v1/organizations/acme/members", &json!({"email": EMAIL})).await.expect(201);
    let mut browser = world.browser("acme");
    let page = prove(&world, &mut browser, EMAIL).await;
    browser.submit_form(&page, &[("password", NEW)]).await.expect_redirect("/account");
    let member = world.operator().get(&format!("/v1/organizations/acme/members/{}", made.id())).await.json();
    assert_eq!(member["status"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_tells_whether_an_address_belongs_to_a_member() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let gone = world.member("acme", "gone@acme.test").await;
    let path = format!("/v1/organizations/acme/members/{gone}/deactivation");
    world.operator().put(&path, &json!({})).await.expect(200);
    let mut first = world.browser("acme");
    first.get("/recovery").await.expect(200);
    let mut seen = Vec::new();
    for email in [EMAIL, "gone@acme.test", "nobody@acme.test"] {
        let mut browser = first.clone();
        let asked = ask(&mut browser, email).await;
        let wrong = browser.submit_form(&asked, &[("code", "12 345")]).await;
        let essence = |answer: &Answer| {
            let (status, location, text) = answer.essence();
            (status, location, text.replace(email, "the-address"))
        };
        seen.push((essence(&asked), essence(&wrong)));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    world.mailbox_code(EMAIL).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!((world.next_code("gone@acme.test"), world.next_code("nobody@acme.test")), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn five_tries_ten_minutes_one_password() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    // Five tries.
    let mut browser = world.browser("acme");
    let page = ask(&mut browser, EMAIL).await;
    let code = world.mailbox_code(EMAIL).await;
    let wrong = if code == "000000" { "000001" } else { "000000" };
    for _ in 0..5 {
        browser.submit_form(&page, &[("code", wrong)]).await.expect(422);
    }
    browser.submit_form(&page, &[("code", &code)]).await.expect(422);
    browser.get("/recovery/password").await.expect_redirect("/recovery?again=1");
    // Ten minutes for the code.
    for (wait, status) in [(length::seconds(599), 303), (length::minutes(10), 422)] {
        let mut browser = world.browser("acme");
        let page = ask(&mut browser, EMAIL).await;
        let code = world.mailbox_code(EMAIL).await;
        world.clock.advance(wait);
        browser.submit_form(&page, &[("code", &code)]).await.expect(status);
    }
    // Ten minutes for the proof.
    let mut browser = world.browser("acme");
    let page = prove(&world, &mut browser, EMAIL).await;
    world.clock.advance(length::minutes(10));
    browser.submit_form(&page, &[("password", NEW)]).await.expect_redirect("/recovery?again=1");
    // One password.
    let mut browser = world.browser("acme");
    let page = prove(&world, &mut browser, EMAIL).await;
    let mut replay = browser.clone();
    browser.submit_form(&page, &[("password", NEW)]).await.expect_redirect("/account");
    replay.submit_form(&page, &[("password", "another-quiet-lantern-8")]).await.expect_redirect("/recovery?again=1");
    world.browser("acme").sign_in(EMAIL, NEW).await.expect(303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_of_no_use_without_the_browser_that_asked() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", EMAIL).await;
    let mut browser = world.browser("acme");
    ask(&mut browser, EMAIL).await;
    let code = world.mailbox_code(EMAIL).await;
    let mut other = world.browser("acme");
    let page = ask(&mut other, "nobody@acme.test").await;
    other.submit_form(&page, &[("code", &code)]).await.expect(422);
    let mut none = world.browser("acme");
    let csrf = none.csrf().await;
    none.post("/recovery/code", &[("csrf", &csrf), ("code", &code)]).await.expect_redirect("/recovery?again=1");
    // Without the code there is no way to the password either.
    let fields = [("csrf", csrf.as_str()), ("password", NEW)];
    none.post("/recovery/password", &fields).await.expect_redirect("/recovery?again=1");
    browser.get("/recovery/password").await.expect_redirect("/recovery?again=1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_who_is_deactivated_on_the_way_does_not_arrive() {
    let world = World::new().await;
    world.organization("acme").await;
    let member = world.member("acme", EMAIL).await;
    let mut browser = world.browser("acme");
    let page = prove(&world, &mut browser, EMAIL).await;
    let path = format!("/v1/organizations/acme/members/{member}/deactivation");
    world.operator().put(&path, &json!({})).await.expect(200);
    browser.submit_form(&page, &[("password", NEW)]).await.expect_redirect("/recovery?again=1");
    assert_eq!(browser.session(), None);
}
