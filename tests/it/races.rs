//! Access that is taken away while somebody is on the way in: their password is being hashed, which takes
//! long, and what was true when they began is not true when they arrive.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::world::{Answer, Browser, Call, PASSWORD, World, host_of};

/// A password takes long enough for an operator to act meanwhile, whatever the machine.
const SLOW: [(&str, &str); 2] = [("BULKHEAD_PASSWORD_MEMORY_KIB", "65536"), ("BULKHEAD_PASSWORD_ITERATIONS", "12")];
const ADA: &str = "ada@acme.test";

async fn acme() -> (World, String) {
    let world = World::with(&SLOW).await;
    world.organization("acme").await;
    let ada = world.member("acme", ADA).await;
    (world, ada)
}

/// Begins to sign in, and comes back while the password is being hashed.
async fn on_the_way_in(browser: &mut Browser<'_>, world: &World) -> JoinHandle<Answer> {
    let csrf = browser.csrf().await;
    let call = browser.call("POST", "/sign-in").form(&[("csrf", &csrf), ("email", ADA), ("password", PASSWORD)]);
    begin(world, call).await
}

async fn begin(world: &World, call: Call) -> JoinHandle<Answer> {
    let task = tokio::spawn(world.call_later(call));
    tokio::time::sleep(Duration::from_millis(100)).await;
    task
}

/// An operator's act in the organization, done when this comes back.
async fn act(world: &World, method: &str, path: &str) {
    let answer = world.operator().send(method, &format!("/v1/organizations/acme{path}"), Some(&json!({}))).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
}

/// How it ended for them, given that it had not when the operator was answered.
async fn arrival(task: JoinHandle<Answer>) -> Option<Answer> {
    if task.is_finished() { None } else { Some(task.await.unwrap()) }
}

/// Again where there was no race: the machine may keep the operator waiting for longer than a password takes.
async fn raced(race: impl AsyncFn() -> Option<()>) {
    for _ in 0..5 {
        if race().await.is_some() {
            return;
        }
    }
    panic!("there was no race: the password was hashed too fast");
}

/// The sessions of the organization that are still good.
async fn active_sessions(world: &World) -> Vec<Value> {
    let list = world.operator().get("/v1/organizations/acme/sessions?limit=100").await.expect(200).json();
    let all = list["data"].as_array().unwrap().iter();
    all.filter(|session| session["status"] == "active").cloned().collect()
}

/// Whether an answer's cookie is good for anything, asked in every way there is.
async fn is_any_good(world: &World, answer: &Answer) -> bool {
    let cookies = answer.cookies();
    let session = cookies.iter().find(|cookie| cookie.starts_with("bh_session_"));
    let Some((session, _)) = session.and_then(|cookie| cookie.split_once(';')) else { return false };
    let by_cookie = world.call(Call::new("GET", &host_of("acme"), "/v1/session").header("cookie", session)).await;
    let (_, token) = session.split_once('=').unwrap();
    let body = json!({ "session_token": token });
    let by_program = world.operator().post("/v1/organizations/acme/sessions/authenticate", &body).await;
    by_cookie.status == 200 || by_program.status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_arrives_in_an_organization_that_was_suspended_meanwhile() {
    raced(async || {
        let (world, _) = acme().await;
        let mut browser = world.browser("acme");
        let sign_in = on_the_way_in(&mut browser, &world).await;
        act(&world, "PUT", "/suspension").await;
        let answer = arrival(sign_in).await?;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        assert!(!is_any_good(&world, &answer).await, "signed in to a suspended organization");
        act(&world, "DELETE", "/suspension").await;
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        assert!(!is_any_good(&world, &answer).await, "the suspension was survived");
        // And nothing of it stays.
        browser.sign_in(ADA, PASSWORD).await.expect(303);
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_arrives_with_a_new_password_in_an_organization_that_was_suspended_meanwhile() {
    raced(async || {
        const NEW: &str = "copper-lantern-orchid-81";
        let (world, _) = acme().await;
        let mut browser = world.browser("acme");
        let page = browser.get("/recovery").await.expect(200);
        let sent = browser.submit_form(&page, &[("email", ADA)]).await;
        let page = browser.follow(&sent).await.expect(200);
        let code = world.mailbox_code(ADA).await;
        let proven = browser.submit_form(&page, &[("code", &code)]).await;
        browser.follow(&proven).await.expect(200);
        let csrf = browser.csrf().await;
        let call = browser.call("POST", "/recovery/password").form(&[("csrf", &csrf), ("password", NEW)]);
        let recovery = begin(&world, call).await;
        act(&world, "PUT", "/suspension").await;
        let answer = arrival(recovery).await?;
        assert_eq!(answer.status, 403, "{answer:?}");
        assert!(!is_any_good(&world, &answer).await);
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        act(&world, "DELETE", "/suspension").await;
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        // Refused is refused: the password of before is still the one.
        browser.sign_in(ADA, NEW).await.expect(401);
        browser.sign_in(ADA, PASSWORD).await.expect(303);
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_who_was_deactivated_meanwhile_does_not_arrive() {
    raced(async || {
        let (world, ada) = acme().await;
        let mut browser = world.browser("acme");
        let sign_in = on_the_way_in(&mut browser, &world).await;
        let place = format!("/members/{ada}/deactivation");
        act(&world, "PUT", &place).await;
        let answer = arrival(sign_in).await?;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(!is_any_good(&world, &answer).await);
        act(&world, "DELETE", &place).await;
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        assert!(!is_any_good(&world, &answer).await, "the deactivation was survived");
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_who_was_deleted_meanwhile_does_not_arrive() {
    raced(async || {
        let (world, ada) = acme().await;
        let mut browser = world.browser("acme");
        let sign_in = on_the_way_in(&mut browser, &world).await;
        act(&world, "DELETE", &format!("/members/{ada}")).await;
        let answer = arrival(sign_in).await?;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(active_sessions(&world).await, Vec::<Value>::new());
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_ended_meanwhile_changes_no_password() {
    raced(async || {
        const NEW: &str = "copper-lantern-orchid-81";
        let (world, ada) = acme().await;
        let mut browser = world.signed_in("acme", ADA).await;
        let csrf = browser.csrf().await;
        let fields = [("csrf", csrf.as_str()), ("current_password", PASSWORD), ("new_password", NEW)];
        let call = browser.call("POST", "/account/password").form(&fields);
        let change = begin(&world, call).await;
        act(&world, "DELETE", &format!("/members/{ada}/sessions")).await;
        let answer = arrival(change).await?;
        answer.expect_redirect("/sign-in");
        browser.sign_in(ADA, NEW).await.expect(401);
        browser.sign_in(ADA, PASSWORD).await.expect(303);
        Some(())
    })
    .await;
}
