//! Erasing one member: nothing of them is left, and the log is whole.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use crate::audit::verification;
use crate::erasure::{bytes_of, holds};
use crate::organizations::file_of;
use crate::process::{Deployment, patience};
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
    // Again changes nothing and says the same.
    assert_eq!(operator.put(&format!("{member}/erasure"), &json!({})).await.expect(200).json(), erased);
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

/// With one organization, whose mails wait.
async fn where_nobody_takes_the_mail() -> World {
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
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_and_mail_on_its_way_goes() {
    let world = where_nobody_takes_the_mail().await;
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

/// What is personal of Ada in a text in lower case; `dada@acme.test` is somebody else.
fn personal_in(text: &str) -> Vec<&'static str> {
    ["lovelace", "augusta", "\"ada@acme.test", "peculiar-agent"].into_iter().filter(|of| text.contains(of)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_who_was_deleted_first_is_erased_all_the_same() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    world.organization("beside").await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme/members");
    let body = json!({"email": ADA, "name": "Ada Lovelace", "password": PASSWORD});
    let keyed = operator.clone().with_header("idempotency-key", "once");
    let ada = keyed.post(at, &body).await.expect(201).id();
    let neighbour = world.member("acme", "dada@acme.test").await;
    let mut browser = world.browser("acme");
    "Peculiar-Agent/7".clone_into(&mut browser.user_agent);
    browser.sign_in(ADA, "wrong-password-77").await.expect(401);
    browser.sign_in(ADA, PASSWORD).await.expect(303);
    operator.delete(&format!("{at}/{ada}")).await.expect(204);
    // Nobody knows the address any more but the log: this is about nobody, and yet about her.
    browser.sign_in(ADA, "wrong-password-77").await.expect(401);
    let told = format!("{:?}", world.events("acme").await).to_lowercase();
    assert_eq!(personal_in(&told).len(), 3, "there is nothing to be taken out: {told}");

    // An id of another organization and one that never was are the same: not known, and nothing is done.
    let before = verification(&world, "acme").await;
    let key = world.organization_key("beside", &["*"]).await;
    let elsewhere = format!("/v1/organizations/beside/members/{ada}/erasure");
    for api in [world.operator(), world.api(&key)] {
        api.put(&elsewhere, &json!({})).await.expect_problem(404, "member_not_found");
        let never = "/v1/organizations/beside/members/mem_01h00000000000000000000000/erasure";
        api.put(never, &json!({})).await.expect_problem(404, "member_not_found");
    }
    let events = world.events("beside").await;
    assert!(!events.iter().any(|event| event["action"] == "member.erased"), "{events:?}");
    assert_eq!(verification(&world, "acme").await, before);

    let erasure = format!("{at}/{ada}/erasure");
    let erased = operator.put(&erasure, &json!({})).await.expect(200).json();
    assert!(erased["audit_events"].as_u64().unwrap() >= 5, "{erased}");
    assert_eq!((&erased["member_id"], &erased["overwritten"]), (&json!(ada), &json!(true)), "{erased}");
    let after = verification(&world, "acme").await;
    let count = before["events"].as_i64().unwrap() + 1;
    assert_eq!((&after["intact"], after["events"].as_i64()), (&json!(true), Some(count)), "{after}");
    let events = world.events("acme").await;
    let told = format!("{events:?}").to_lowercase();
    assert_eq!(personal_in(&told), Vec::<&str>::new(), "{told}");
    assert!(told.contains("dada@acme.test") && events.iter().any(|event| event["targets"][0]["id"] == neighbour));
    let bytes = bytes_of(&file_of(&world, &id));
    assert_eq!(personal_in(&String::from_utf8_lossy(&bytes).to_lowercase()), Vec::<&str>::new());
    assert_eq!(keyed.post(at, &body).await.expect(201).text(), "{}");

    // Again says the same and writes nothing, in neither log.
    assert_eq!(operator.put(&erasure, &json!({})).await.expect(200).json(), erased);
    assert_eq!(verification(&world, "acme").await, after);
    let log = operator.get("/v1/audit_events?limit=100").await.expect(200).json();
    let noted = log["data"].as_array().unwrap().iter().filter(|event| event["action"] == "member.erased").count();
    assert_eq!(noted, 1, "{log}");
    // She is a stranger from here on, and whoever takes her address is somebody else.
    let again = world.member("acme", ADA).await;
    assert_ne!(again, ada);
    assert_eq!(operator.put(&erasure, &json!({})).await.expect(200).json(), erased);
    world.signed_in("acme", ADA).await;
}

/// An address is a name that can be given to somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_the_address_of_one_who_is_erased_keeps_what_is_theirs() {
    let world = where_nobody_takes_the_mail().await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme/members");
    let body = json!({"email": ADA, "password": PASSWORD});
    let [hers, theirs] = ["hers", "theirs"].map(|key| operator.clone().with_header("idempotency-key", key));
    let ada = hers.post(at, &body).await.expect(201).id();
    world.signed_in("acme", ADA).await;
    operator.delete(&format!("{at}/{ada}")).await.expect(204);
    // One without a name is called by the address.
    let heir = theirs.post(at, &body).await.expect(201).id();
    let mut browser = world.signed_in("acme", ADA).await;
    world.browser("acme").sign_in(ADA, "wrong-password-77").await.expect(401);
    let mut lost = world.browser("acme");
    let page = lost.get("/recovery").await.expect(200);
    lost.submit_form(&page, &[("email", ADA)]).await.expect(303);
    let is_about = |event: &Value, id: &str| event.to_string().contains(id);
    let about = async |id: &str| {
        let events = world.events("acme").await;
        events.into_iter().filter(|event| event["action"] != "member.erased" && is_about(event, id)).collect::<Vec<_>>()
    };
    let (of_ada, of_heir) = (about(&ada).await, about(&heir).await);
    assert!(of_ada.len() >= 3 && of_heir.len() >= 4, "{of_ada:?} {of_heir:?}");
    assert!(of_heir.iter().any(|event| event.to_string().contains(ADA)), "{of_heir:?}");

    let erased = operator.put(&format!("{at}/{ada}/erasure"), &json!({})).await.expect(200).json();
    assert_eq!(erased["mails"], 0, "{erased}");
    assert!(erased["audit_events"].as_u64().unwrap() >= of_ada.len() as u64, "{erased}");
    assert_eq!(about(&ada).await, Vec::<Value>::new());
    assert_eq!(about(&heir).await, of_heir);
    assert_eq!(verification(&world, "acme").await["intact"], true);
    assert_eq!(hers.post(at, &body).await.expect(201).text(), "{}");
    assert_eq!(theirs.post(at, &body).await.expect(201).id(), heir);
    browser.get("/account").await.expect(200);
    // The mail is on its way still, until it is the other's turn.
    let erased = operator.put(&format!("{at}/{heir}/erasure"), &json!({})).await.expect(200).json();
    assert_eq!(erased["mails"], 1, "{erased}");
    assert_eq!(about(&heir).await, Vec::<Value>::new());
    assert_eq!(personal_in(&format!("{:?}", world.events("acme").await)), Vec::<&str>::new());
}

/// A deployment with a backup in this folder.
async fn backed_up(replica: &Path) -> World {
    let url = format!("file://{}", replica.display());
    let settings = [
        ("BULKHEAD_BACKUP_URL", url.as_str()),
        ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20"),
        // However slow the machine is.
        ("BULKHEAD_BACKUP_CONFIRM_SECONDS", "250"),
    ];
    World::with(&settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_that_a_backup_reads_is_folded_at_once() {
    let copies = tempfile::tempdir().unwrap();
    let world = backed_up(&copies.path().join("replica")).await;
    let id = world.organization("acme").await;
    let body = json!({"email": ADA, "name": "Ada Lovelace", "password": PASSWORD});
    let at = "/v1/organizations/acme/members";
    let ada = world.operator().post(at, &body).await.expect(201).id();
    let file = file_of(&world, &id);
    assert!(holds(&bytes_of(&file), b"Ada Lovelace"), "the search would find nothing");
    let erased = world.operator().put(&format!("{at}/{ada}/erasure"), &json!({})).await.expect(200).json();
    assert_eq!(erased["overwritten"], true, "{erased}");
    for personal in ["Ada Lovelace", ADA] {
        assert!(!holds(&bytes_of(&file), personal.as_bytes()), "{personal} is in the file or in its log");
    }
    // The backup goes on where it was: what follows arrives there, and nothing has to be shipped whole.
    assert!(!file.with_file_name("db.sqlite-unread").exists());
    world.member("acme", "later@acme.test").await;
    let told = world.operator().get("/v1/organizations/acme/differences?from=0000000000000001").await.expect(200);
    assert!(told.mentions("later@acme.test"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_gone_an_erasure_says_what_its_log_still_holds() {
    let copies = tempfile::tempdir().unwrap();
    let (replica, away) = (copies.path().join("replica"), copies.path().join("away"));
    let url = format!("file://{}", replica.display());
    let settings = [
        ("BULKHEAD_BACKUP_URL", url.as_str()),
        ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20"),
        ("BULKHEAD_BACKUP_CONFIRM_SECONDS", "2"),
    ];
    let world = World::with(&settings).await;
    let id = world.organization("acme").await;
    let at = "/v1/organizations/acme/members";
    let body = json!({"email": ADA, "name": "Ada Lovelace"});
    let ada = world.operator().post(at, &body).await.expect(201).id();
    world.operator().get("/v1/organizations/acme/differences?from=0000000000000001").await.expect(200);
    // Where the folder should be there is a file, as if a mount had gone away.
    fs::rename(&replica, &away).unwrap();
    fs::write(&replica, "in the way").unwrap();
    let erasure = format!("{at}/{ada}/erasure");
    let erased = world.operator().put(&erasure, &json!({})).await.expect(200).json();
    assert_eq!(erased["overwritten"], false, "{erased}");
    world.operator().get(&format!("{at}/{ada}")).await.expect_problem(404, "member_not_found");
    fs::remove_file(&replica).unwrap();
    fs::rename(&away, &replica).unwrap();
    // Asked again once the store is there.
    let deadline = patience();
    let last: Value = loop {
        let again = world.operator().put(&erasure, &json!({})).await.expect(200).json();
        if again["overwritten"] == true {
            break again;
        }
        assert!(Instant::now() < deadline, "{again}");
    };
    assert_eq!(last["audit_events"], erased["audit_events"]);
    assert!(!holds(&bytes_of(&file_of(&world, &id)), b"Ada Lovelace"));
}

/// Between her deletion and her erasure there is a moment in the backup in which the log alone knows her.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_deleted_and_then_erased_is_in_no_copy_of_an_earlier_time() {
    let copies = tempfile::tempdir().unwrap();
    let world = backed_up(&copies.path().join("replica")).await;
    world.organization("acme").await;
    let at = "/v1/organizations/acme";
    let body = json!({"email": ADA, "name": "Ada Lovelace"});
    let ada = world.operator().post(&format!("{at}/members"), &body).await.expect(201).id();
    world.operator().delete(&format!("{at}/members/{ada}")).await.expect(204);
    world.operator().get(&format!("{at}/differences?from=0000000000000001")).await.expect(200);
    let history = world.operator().get(&format!("{at}/backup")).await.expect(200).json();
    let txid = history["newest"]["txid"].as_str().unwrap();
    world.operator().put(&format!("{at}/members/{ada}/erasure"), &json!({})).await.expect(200);
    let asked = json!({"slug": "acme-yesterday", "txid": txid});
    let made = world.operator().post(&format!("{at}/copies"), &asked).await.expect(201).json();
    assert_eq!(made["erased_members"], 1, "{made}");
    let log = world.operator().get("/v1/organizations/acme-yesterday/audit_events?limit=100").await.expect(200);
    assert!(!log.mentions("Lovelace") && !log.mentions(ADA), "{log:?}");
    assert_eq!(verification(&world, "acme-yesterday").await["intact"], true);
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
    // By an address nobody is found any more, and it is said how to name them.
    let ran = deployment.run(&["member", "erase", "acme", ADA]);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.code() == Some(1) && said.contains("by id"), "{said}");

    let boole = deployment.json(&["member", "create", "acme", "--email", "boole@acme.test", "--name", "George Boole"]);
    let id = boole["id"].as_str().unwrap();
    let ran = deployment.run(&["member", "delete", "acme", "boole@acme.test"]);
    assert!(String::from_utf8(ran.stdout).unwrap().contains(id), "whoever deletes is not told the id");
    let erased = deployment.json(&["member", "erase", "acme", id]);
    assert_eq!((&erased["member_id"], &erased["overwritten"]), (&json!(id), &json!(true)), "{erased}");
    assert!(!deployment.json(&["org", "audit", "list", "acme"]).to_string().to_lowercase().contains("boole"));
    assert_eq!(deployment.json(&["org", "audit", "verify", "acme"])["intact"], true);
}
