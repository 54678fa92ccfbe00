//! Frozen organizations: read by everybody, changed by nobody, and certified to the bit.

use std::fs;

use bulkhead::features::freeze::certificate;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, Operator};
use crate::world::{Answer, PASSWORD, World, host_of};

const PATH: &str = "/v1/organizations/acme/freeze";

async fn freeze(world: &World) -> Value {
    world.operator().put(PATH, &json!({"reason": "case 4711"})).await.expect(200).json()
}

async fn is_identical(world: &World) -> bool {
    let found = world.operator().get(&format!("{PATH}/verification")).await.expect(200).json();
    found["identical"] == true
}

/// Everything that would change something.
async fn assert_nothing_changes(world: &World) {
    let operator = world.operator();
    let org = "/v1/organizations/acme";
    let member = operator.get(&format!("{org}/members")).await.expect(200).json()["data"][0]["id"].clone();
    let member = format!("{org}/members/{}", member.as_str().unwrap());
    let refused = |answer: Answer| drop(answer.expect_problem(409, "organization_frozen"));
    refused(operator.patch(org, &json!({"name": "Other"})).await);
    refused(operator.patch(org, &json!({"slug": "other"})).await);
    refused(operator.put(&format!("{org}/suspension"), &json!({"reason": "unpaid"})).await);
    refused(operator.delete(&format!("{org}/suspension")).await);
    refused(operator.put(&format!("{org}/hosts/login.acme.test"), &json!({})).await);
    refused(operator.post(&format!("{org}/members"), &json!({"email": "new@acme.test"})).await);
    refused(operator.put(&format!("{member}/deactivation"), &json!({})).await);
    refused(operator.put(&format!("{member}/erasure"), &json!({})).await);
    refused(operator.delete(&format!("{member}/sessions")).await);
    refused(operator.delete(&member).await);
    refused(operator.post(&format!("{org}/api_keys"), &json!({"name": "k", "scopes": ["keys:read"]})).await);
    refused(operator.post(&format!("{org}/signing_keys/rotation"), &json!({"algorithm": "ES256"})).await);
    refused(operator.post(&format!("{org}/exports"), &json!({"secrets": "omit"})).await);
    refused(operator.post(&format!("{org}/compaction"), &json!({})).await);
    refused(operator.put(&format!("{org}/erasure"), &json!({"immediately": true})).await);
    refused(operator.post(&format!("{org}/migration_rollback"), &json!({})).await);
    operator.get(&format!("{org}/erasure")).await.expect_problem(404, "erasure_not_found");
    // The catalog has not gone ahead of the file.
    let found = operator.get(org).await.expect(200).json();
    assert_eq!((&found["slug"], &found["state"], &found["hosts"]), (&json!("acme"), &json!("active"), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_organization_is_read_and_not_changed_in_one_bit() {
    let mut world = World::new().await;
    world.organization("acme").await;
    world.organization("other").await;
    let app = world.application().await;
    let (session, tokens) = {
        let mut browser = world.signed_in("acme", "owner@acme.test").await;
        (browser.session().unwrap(), app.tokens(&world, &mut browser).await)
    };
    let key = world.organization_key("acme", &["members:read"]).await;
    let frozen = freeze(&world).await;
    assert_eq!((&frozen["state"], &frozen["reason"]), (&json!("frozen"), &json!("case 4711")), "{frozen}");
    // A sign of life, and the use of a key, would be written down by now.
    world.clock.advance(std::time::Duration::from_secs(120));

    assert_nothing_changes(&world).await;
    let host = host_of("acme");
    for _ in 0..2 {
        let check = json!({"session_token": session});
        let checked = world.operator().post("/v1/organizations/acme/sessions/authenticate", &check).await;
        checked.expect(200);
        world.userinfo(&host, &tokens.access).await.expect(200);
        assert!(world.is_live(&host, &app, &tokens.access).await);
        assert!(!world.is_live(&host, &app, "nonsense").await);
        world.api(&key).get("/v1/organizations/acme/members").await.expect(200);
        world.browser("acme").get("/oauth2/jwks").await.expect(200);
        world.browser("acme").get("/sign-in").await.expect(200);
    }
    // The same for a wrong password and for an address that nobody has.
    for (email, password) in
        [("owner", PASSWORD), ("owner", "wrong-guess-of-nobody-9"), ("nobody", "wrong-guess-of-nobody-9")]
    {
        let page = world.browser("acme").sign_in(&format!("{email}@acme.test"), password).await.expect(409);
        assert!(page.mentions("frozen"), "{page:?}");
    }
    for email in ["owner@acme.test", "nobody@acme.test"] {
        let mut lost = world.browser("acme");
        let page = lost.get("/recovery").await.expect(200);
        lost.submit_form(&page, &[("email", email)]).await.expect(409);
    }
    let refused = world.refresh(&host, &app, &tokens.refresh).await.expect(409).json();
    assert_eq!(refused["error"], "temporarily_unavailable");
    // Whoever looks after files looks elsewhere.
    let walk = world.operator().post("/v1/fleet/checks", &json!({"full": true})).await.expect(202).id();
    let found = world.walked("checks", &walk).await;
    assert_eq!(found["findings"], json!([]), "{found}");

    assert!(is_identical(&world).await);
    assert_eq!(world.events("acme").await[0]["action"], "organization.frozen");
    // The same again is the same, and after a restart as well.
    assert_eq!(freeze(&world).await["certificate"], frozen["certificate"]);
    world.while_stopped(|_| ()).await;
    assert!(is_identical(&world).await);
    assert_nothing_changes(&world).await;
    world.signed_in("other", "owner@other.test").await;

    world.operator().delete(PATH).await.expect(204);
    world.operator().delete(PATH).await.expect_problem(404, "freeze_not_found");
    world.signed_in("acme", "owner@acme.test").await;
    world.refresh(&host, &app, &tokens.refresh).await.expect(200);
    let events: Vec<Value> = world.events("acme").await.iter().map(|event| event["action"].clone()).collect();
    let at = events.iter().position(|action| action == "organization.frozen").unwrap();
    assert_eq!(events[at - 1], "organization.unfrozen", "{events:?}");
    assert_eq!(events.iter().filter(|action| *action == "organization.frozen").count(), 1);
    let operators = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json().to_string();
    assert!(operators.contains("organization.frozen") && operators.contains("organization.unfrozen"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_of_the_file_and_bears_no_change() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let frozen = freeze(&world).await;
    let (text, key) = (frozen["certificate"].as_str().unwrap(), &frozen["certificate_key"]);
    let says = certificate::verify(text, key).unwrap();
    assert_eq!((says.organization_id.to_string(), says.reason.as_str()), (id.clone(), "case 4711"));
    let jwks = world.visitor().get("/oauth2/jwks").await.expect(200).json();
    assert_eq!(certificate::verify(text, &jwks).as_ref(), Some(&says));
    for at in 0..text.len() - 1 {
        let mut changed = text.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(certificate::verify(&String::from_utf8(changed).unwrap(), key).is_none(), "changed at {at}");
    }
    let fetched = world.operator().get(&format!("{PATH}/file")).await.expect(200);
    let digest = hex::encode(bulkhead::crypto::hash::sha256(&fetched.body));
    assert_eq!((digest, fetched.body.len() as u64), (says.file.sha256.clone(), says.file.bytes));
    // A bit that flips on the disk is noticed.
    let file = crate::organizations::file_of(&world, &id);
    world
        .while_stopped(|_| {
            let mut bytes = fs::read(&file).unwrap();
            assert_eq!(hex::encode(bulkhead::crypto::hash::sha256(&bytes)), says.file.sha256);
            // The "version-valid-for" number of the header, which nothing depends on while nothing is written.
            bytes[95] ^= 1;
            fs::write(&file, bytes).unwrap();
        })
        .await;
    assert!(!is_identical(&world).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_it_frozen_and_the_next_start_completes_what_was_begun() {
    let mut world = World::new().await;
    world.organization("acme").await;
    freeze(&world).await;
    let set = |sql: &'static str| {
        move |data: &std::path::Path| {
            Connection::open(data.join("catalog.sqlite")).unwrap().execute_batch(sql).unwrap();
        }
    };
    // Before the certificate was written down.
    world.while_stopped(set("UPDATE freeze SET state = 'freezing', certificate = NULL")).await;
    let again = world.operator().get(PATH).await.expect(200).json();
    assert!(again["certificate"].is_string(), "{again}");
    assert!(is_identical(&world).await);
    let frozen = |events: &[Value]| events.iter().filter(|event| event["action"] == "organization.frozen").count();
    assert_eq!(frozen(&world.events("acme").await), 1);
    // Before its event was written.
    world.operator().delete(PATH).await.expect(204);
    let row =
        "INSERT INTO freeze (organization_id, state, reason, since) SELECT id, 'freezing', 'r', 1 FROM organization";
    world.while_stopped(set(row)).await;
    assert!(is_identical(&world).await);
    assert_eq!(frozen(&world.events("acme").await), 2);
    // In the middle of a release.
    world.while_stopped(set("UPDATE freeze SET state = 'releasing'")).await;
    assert_eq!(world.operator().get(PATH).await.expect(200).json()["frozen"], false);
    world.member("acme", "ada@acme.test").await;
    // A catalog that knows nothing of it, such as one that came out of an older backup.
    freeze(&world).await;
    world.while_stopped(set("DELETE FROM freeze")).await;
    let refused = world.operator().put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await;
    refused.expect_problem(409, "organization_frozen");
    let refused = world.operator().post("/v1/organizations/acme/members", &json!({"email": "eve@acme.test"})).await;
    refused.expect_problem(409, "organization_frozen");
    assert_eq!(world.operator().get(PATH).await.expect(200).json()["frozen"], true);
    world.operator().delete(PATH).await.expect(204);
    world.member("acme", "eve@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_program_reads_it_from_a_copy_and_leaves_the_file_as_it_is() {
    let mut world = World::new().await;
    world.organization("acme").await;
    world.organization("other").await;
    freeze(&world).await;
    let newer: Vec<&'static str> =
        bulkhead::tenants::MIGRATIONS.iter().copied().chain(["CREATE TABLE newer (id INTEGER) STRICT"]).collect();
    world.set_schema(newer.leak());
    world.while_stopped(|_| ()).await;
    world.operator().get("/v1/organizations/acme").await.expect(200);
    assert_nothing_changes(&world).await;
    world.operator().post("/v1/fleet/migrations", &json!({})).await.expect(202);
    assert!(is_identical(&world).await);
    let aside = world.operator().get("/v1/organizations/acme/quarantine").await.expect(200).json();
    assert_eq!(aside["quarantined"], false);
    world.operator().get("/v1/organizations/acme").await.expect(200);
    // What is written after the release is in the file, and not in the copy.
    world.operator().delete(PATH).await.expect(204);
    world.member("acme", "ada@acme.test").await;
    world.while_stopped(|_| ()).await;
    let members = world.operator().get("/v1/organizations/acme/members").await.expect(200).json().to_string();
    assert!(members.contains("ada@acme.test"), "{members}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_program_leaves_it_as_it_is_whatever_the_catalog_knows() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    freeze(&world).await;
    let newer: Vec<&'static str> =
        bulkhead::tenants::MIGRATIONS.iter().copied().chain(["CREATE TABLE newer (id INTEGER) STRICT"]).collect();
    world.set_schema(newer.leak());
    let file = crate::organizations::file_of(&world, &id);
    // The catalog of before the freeze.
    let before = world
        .while_stopped(|data| {
            let catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
            catalog.execute("DELETE FROM freeze", []).unwrap();
            fs::read(&file).unwrap()
        })
        .await;
    world.operator().post("/v1/fleet/migrations", &json!({})).await.expect(202);
    world.operator().get("/v1/organizations/acme").await.expect(200);
    let refused = world.operator().post("/v1/organizations/acme/members", &json!({"email": "new@acme.test"})).await;
    refused.expect_problem(409, "organization_frozen");
    let after = world.while_stopped(|_| fs::read(&file).unwrap()).await;
    let at: Vec<usize> = (0..before.len().min(after.len())).filter(|&at| before[at] != after[at]).collect();
    assert!(at.is_empty() && before.len() == after.len(), "{} and {} bytes, {at:?}", before.len(), after.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backup_has_all_of_it_and_goes_on() {
    let store = tempfile::tempdir().unwrap();
    let url = format!("file://{}", store.path().display());
    let mut world = World::with(&[("BULKHEAD_BACKUP_URL", &url)]).await;
    world.organization("acme").await;
    let frozen = freeze(&world).await;
    let says = certificate::verify(frozen["certificate"].as_str().unwrap(), &frozen["certificate_key"]).unwrap();
    assert_eq!(says.txid.map(|txid| txid.len()), Some(16));
    assert!(is_identical(&world).await);
    world.while_stopped(|_| ()).await;
    assert!(is_identical(&world).await);
    let refused = world.operator().post("/v1/organizations/acme/restorations", &json!({})).await;
    refused.expect_problem(409, "organization_frozen");
    // What has come since is shipped as before.
    world.operator().delete(PATH).await.expect(204);
    world.member("acme", "ada@acme.test").await;
    assert!(freeze(&world).await["certificate"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_erased_is_not_frozen_and_the_other_way_round() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    operator.put("/v1/organizations/acme/erasure", &json!({})).await.expect(202);
    operator.put(PATH, &json!({"reason": "late"})).await.expect_problem(409, "erasure_scheduled");
    operator.delete("/v1/organizations/acme/erasure").await.expect(200);
    operator.put(PATH, &json!({"reason": " "})).await.expect_problem(422, "validation_failed");
    operator.get(&format!("{PATH}/verification")).await.expect_problem(404, "freeze_not_found");
    operator.get(&format!("{PATH}/file")).await.expect_problem(404, "freeze_not_found");
    freeze(&world).await;
    operator.put("/v1/organizations/acme/erasure", &json!({})).await.expect_problem(409, "organization_frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_be_leaves_it_frozen() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let frozen = freeze(&world).await;
    let held = world.app().state().tenants.hold_still(id.parse().unwrap()).await.unwrap();
    world.operator().delete(PATH).await.expect_problem(503, "organization_unavailable");
    drop(held);
    assert_eq!(world.operator().get(PATH).await.expect(200).json(), frozen);
    assert!(is_identical(&world).await);
    // What the disk does not give says nothing of the file.
    let file = crate::organizations::file_of(&world, &id);
    let in_the_way = file.with_file_name("db.sqlite-wal");
    world
        .while_stopped(|_| {
            let _ = fs::remove_file(&in_the_way);
            fs::create_dir(&in_the_way).unwrap();
        })
        .await;
    let refused = world.operator().delete(PATH).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    world.while_stopped(|_| fs::remove_dir(&in_the_way).unwrap()).await;
    assert_eq!(world.operator().get(PATH).await.expect(200).json(), frozen);
    // A file that a newer program has left is no damaged one.
    let set = |version: i64| {
        let file = file.clone();
        move |_: &std::path::Path| {
            Connection::open(&file).unwrap().pragma_update(None, "user_version", version).unwrap();
        }
    };
    world.while_stopped(set(99)).await;
    world.operator().delete(PATH).await.expect_problem(503, "organization_unavailable");
    assert_eq!(world.operator().get(PATH).await.expect(200).json(), frozen);
    world.operator().post("/v1/organizations/acme/members", &json!({"email": "eve@acme.test"})).await.expect(503);
    let known = i64::try_from(bulkhead::tenants::MIGRATIONS.len()).unwrap();
    world.while_stopped(set(known)).await;
    world.operator().delete(PATH).await.expect(204);
    world.member("acme", "ada@acme.test").await;
}

#[test]
fn the_command_line_freezes_fetches_and_verifies_offline_and_a_rebuilt_catalog_still_knows() {
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let server = deployment.serve();
    Operator::new(&server, &key).organization("acme");
    let frozen = deployment.json(&["org", "freeze", "acme", "--reason", "case 4711"]);
    let here = deployment.directory.path();
    let (certificate, jwk, file) = (here.join("freeze.json"), here.join("jwk.json"), here.join("frozen.sqlite"));
    fs::write(&certificate, frozen.to_string()).unwrap();
    fs::write(&jwk, frozen["certificate_key"].to_string()).unwrap();
    let fetched = deployment.run(&["org", "freeze", "acme", "--fetch", file.to_str().unwrap()]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert!(deployment.run(&["org", "freeze", "acme", "--verify"]).status.success());
    let verify = |file: &std::path::Path| {
        let [certificate, file, jwk] = [&certificate, file, &jwk].map(|path: &std::path::Path| path.to_str().unwrap());
        deployment.run(&["org", "verify-freeze", certificate, file, "--public-key", jwk])
    };
    // No server, no data directory: nothing but the three files.
    server.stop();
    assert!(verify(&file).status.success(), "{:?}", verify(&file));
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let changed = here.join("changed.sqlite");
    fs::write(&changed, bytes).unwrap();
    assert_eq!(verify(&changed).status.code(), Some(1));
    fs::write(&jwk, json!({"keys": []}).to_string()).unwrap();
    assert_eq!(verify(&file).status.code(), Some(1));

    // The catalog is lost: the file says by itself that it is frozen.
    fs::remove_file(deployment.data_dir().join("catalog.sqlite")).unwrap();
    let rebuilt = deployment.run(&["catalog", "rebuild"]);
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let refused = operator.post("/v1/organizations/acme/members", &json!({"email": "new@acme.test"})).unwrap();
    assert_eq!((refused.status, refused.json()["code"].as_str()), (409, Some("organization_frozen")));
    let found = operator.get(PATH).unwrap().json();
    assert_eq!(found["state"], "frozen", "{found}");
    server.stop();
}
