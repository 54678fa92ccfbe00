//! Erasing one member: nothing of them is left, and the log is whole.

use std::fs;

use serde_json::json;

use crate::audit::verification;
use crate::organizations::file_of;
use crate::process::Deployment;
use crate::world::{PASSWORD, World};

const ADA: &str = "ada@acme.test";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_member_is_left_and_the_log_is_whole() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme");
    let body = json!({"email": "augusta@elsewhere.test", "password": PASSWORD});
    let keyed = operator.clone().with_header("idempotency-key", "once");
    let ada = keyed.post(&format!("{at}/members"), &body).await.expect(201).id();
    let neighbour = world.member("acme", "dada@acme.test").await;
    let member = format!("{at}/members/{ada}");
    // Another address, a name, sessions, failures, a mail that cannot be delivered yet.
    operator.patch(&member, &json!({"email": ADA, "name": "Ada Lovelace"})).await.expect(200);
    let mut browser = world.signed_in("acme", ADA).await;
    let mut other = world.signed_in("acme", "dada@acme.test").await;
    world.browser("acme").sign_in(ADA, "wrong-password-77").await.expect(401);
    let mut typed = world.browser("acme");
    typed.sign_in("augusta@elsewhere.test", "wrong-password-77").await.expect(401);
    operator.put(&format!("{member}/deactivation"), &json!({})).await.expect(200);
    operator.delete(&format!("{member}/deactivation")).await.expect(200);
    let before = verification(&world, "acme").await;
    let count = before["events"].as_i64().unwrap();

    let erased = operator.put(&format!("{member}/erasure"), &json!({})).await.expect(200).json();
    assert_eq!((&erased["object"], &erased["member_id"]), (&json!("member_erasure"), &json!(ada)));
    assert!(erased["audit_events"].as_u64().unwrap() >= 7, "{erased}");
    operator.get(&member).await.expect_problem(404, "member_not_found");
    operator.put(&format!("{member}/erasure"), &json!({})).await.expect_problem(404, "member_not_found");
    assert_eq!(browser.get("/account").await.status, 303);
    other.get("/account").await.expect(200);

    let after = verification(&world, "acme").await;
    assert_eq!((&after["intact"], after["events"].as_i64()), (&json!(true), Some(count + 1)), "{after}");
    let events = world.events("acme").await;
    let told = format!("{events:?}").to_lowercase();
    for personal in ["ada lovelace", "augusta", "\"ada@acme.test"] {
        assert!(!told.contains(personal), "{personal} is in the log");
    }
    let event = events.iter().find(|event| event["action"] == "member.erased").unwrap();
    assert_eq!((&event["targets"][0]["id"], &event["actor"]["name"]), (&json!(ada), &json!(null)), "{event}");
    assert_eq!(event["context"]["ip_address"], json!(null), "{event}");
    // Of everybody else the log says what it said.
    let about = |id: &str| events.iter().filter(|event| event["targets"][0]["id"] == id).count();
    assert!(about(&neighbour) >= 1 && told.contains("dada@acme.test"), "{told}");
    // The file itself holds nothing either.
    let file = file_of(&world, &id);
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend(fs::read(file.with_file_name("db.sqlite-wal")).unwrap_or_default());
    let text = String::from_utf8_lossy(&bytes).to_lowercase();
    for personal in ["ada lovelace", "augusta", "\"ada@acme.test"] {
        assert!(!text.contains(personal), "{personal} is in the file");
    }
    // What was answered once is answered without them.
    let replayed = keyed.post(&format!("{at}/members"), &body).await.expect(201);
    assert_eq!(replayed.text(), "{}");
    let log = operator.get("/v1/audit_events?limit=100").await.expect(200).text();
    assert!(log.contains("member.erased"), "{log}");

    // Erasing a second one keeps what the first has left accounted for.
    operator.put(&format!("{at}/members/{neighbour}/erasure"), &json!({})).await.expect(200);
    assert_eq!(verification(&world, "acme").await["intact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_and_mail_on_its_way_goes() {
    // Nobody takes the mail.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let world = World::with(&[
        ("BULKHEAD_MAIL_TRANSPORT", "smtp"),
        ("BULKHEAD_MAIL_FROM", "no-reply@localhost.test"),
        ("BULKHEAD_MAIL_SMTP_HOST", "127.0.0.1"),
        ("BULKHEAD_MAIL_SMTP_PORT", &port),
        ("BULKHEAD_MAIL_SMTP_TLS", "none"),
    ])
    .await;
    world.organization("acme").await;
    let at = "/v1/organizations/acme/members";
    let owner = world.operator().get(at).await.expect(200).json()["data"][0]["id"].as_str().unwrap().to_owned();
    world.operator().put(&format!("{at}/{owner}/erasure"), &json!({})).await.expect_problem(409, "last_owner");
    world.operator().get(&format!("{at}/{owner}")).await.expect(200);
    assert_eq!(verification(&world, "acme").await["intact"], true);
    let ada = world.member("acme", ADA).await;
    let mut browser = world.browser("acme");
    let page = browser.get("/recovery").await.expect(200);
    browser.submit_form(&page, &[("email", ADA)]).await.expect(303);
    let key = world.organization_key("acme", &["members:write"]).await;
    let erased = world.api(&key).put(&format!("{at}/{ada}/erasure"), &json!({})).await.expect(200).json();
    assert_eq!(erased["mails"], 1, "{erased}");
    // The name of the key that did it is not in the event, its id is.
    let events = world.events("acme").await;
    assert_eq!((&events[0]["action"], &events[0]["actor"]["type"]), (&json!("member.erased"), &json!("api_key")));
}

#[test]
fn a_member_is_erased_at_the_command_line() {
    let deployment = Deployment::new();
    deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme", "--owner-email", "owner@acme.test"]);
    deployment.json(&["member", "create", "acme", "--email", ADA, "--name", "Ada Lovelace"]);
    let ran = deployment.run(&["member", "erase", "acme", ADA]);
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && said.contains("Erased"), "{said}");
    assert_eq!(deployment.json(&["org", "audit", "verify", "acme"])["intact"], true);
    assert!(!deployment.json(&["org", "audit", "list", "acme"]).to_string().contains("Lovelace"));
    assert_eq!(deployment.run(&["member", "erase", "acme", ADA]).status.code(), Some(1));
}
