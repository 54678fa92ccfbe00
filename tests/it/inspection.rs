//! Earlier moments beside the live organization: as one of its own, and as a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::backup::{deployment, member, shipped};
use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, session_check};
use crate::wire::{Answer, Request};
use crate::world::World;

/// An organization with people and keys, some of which are gone since a moment of which the transaction is known.
struct Scene {
    deployment: Deployment,
    server: Server,
    operator: Operator,
    id: String,
    txid: String,
    anna: String,
    erna: String,
    old_secret: String,
    session: String,
}

fn scene() -> Scene {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    let renamed = json!({ "external_id": "customer-7", "metadata": { "plan": "gold" } });
    assert_eq!(operator.call("PATCH", &base, &renamed).unwrap().status, 200);
    assert_eq!(operator.call("PUT", &format!("{base}/hosts/login.acme.test"), &json!({})).unwrap().status, 204);
    let [anna, erna] = ["anna", "erna"].map(|name| {
        let body = json!({ "email": format!("{name}@people.example"), "name": name, "password": PASSWORD });
        member(&mut operator, &id, &body)
    });
    let session = Person::at(&server, &host_of("acme")).sign_in("anna@people.example").unwrap();
    let asked = json!({ "name": "old", "scopes": ["members:read"] });
    let made = operator.post(&format!("{base}/api_keys"), &asked).unwrap().json();
    let old_secret = made["secret"].as_str().unwrap().to_owned();
    shipped(&mut operator);
    let txid = operator.get(&format!("{base}/backup")).unwrap().json()["newest"]["txid"].as_str().unwrap().to_owned();
    // Since then:
    assert_eq!(operator.call("PATCH", &base, &json!({ "name": "Another name" })).unwrap().status, 200);
    assert_eq!(operator.call("PUT", &format!("{base}/members/{erna}/erasure"), &json!({})).unwrap().status, 200);
    Scene { deployment, server, operator, id, txid, anna, erna, old_secret, session }
}

fn copies(id: &str) -> String {
    format!("/v1/organizations/{id}/copies")
}

/// Every event of a log with this name.
fn events(operator: &mut Operator, path: &str, action: &str) -> Vec<Value> {
    let listed = operator.get(&format!("{path}?limit=100")).unwrap().json();
    listed["data"].as_array().unwrap().iter().filter(|event| event["action"] == action).cloned().collect()
}

fn count(file: &Path, table: &str) -> i64 {
    let connection = Connection::open(file).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

#[test]
fn a_past_state_stands_beside_the_live_one_and_opens_nothing() {
    let Scene { deployment, server, mut operator, id, txid, anna, erna, old_secret, session } = scene();
    let client = || server.client();
    let asked = json!({ "slug": "acme-yesterday", "txid": txid });

    // A rehearsal says the same and makes nothing.
    let rehearsal = json!({ "slug": "acme-yesterday", "txid": txid, "dry_run": true });
    let rehearsed = operator.post(&copies(&id), &rehearsal).unwrap();
    assert_eq!(rehearsed.status, 200, "{}", rehearsed.text());
    let rehearsed = rehearsed.json();
    assert!(rehearsed["organization_id"].is_null());
    assert_eq!(operator.get("/v1/organizations/acme-yesterday").unwrap().status, 404);

    let keyed = || {
        let request = Request::new("POST", HOST, copies(&id)).bearer(&operator.key).json(&asked);
        request.header("Idempotency-Key", "once")
    };
    let made = client().send(&keyed()).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let again = client().send(&keyed()).unwrap();
    assert_eq!((again.status, again.header("idempotent-replayed")), (201, Some("true")));
    let made = made.json();
    assert_eq!(again.json(), made);
    for same in ["members", "audit_events", "txid", "as_of", "erased_members", "restored_from"] {
        assert_eq!(made[same], rehearsed[same], "{same}");
    }
    assert_eq!(
        (&made["restored_from"], &made["txid"], &made["members"], &made["erased_members"]),
        (&json!(id), &json!(txid), &json!(2), &json!(1))
    );
    let copy = made["organization_id"].as_str().unwrap().to_owned();
    assert_ne!(copy, id);

    // It says what it is, and none of the names of the live one lead to it.
    let base = format!("/v1/organizations/{copy}");
    let found = operator.get(&base).unwrap().json();
    assert_eq!(found["state"], "suspended");
    let name = found["name"].as_str().unwrap();
    assert!(name.starts_with("Company acme (as of 20"), "{name}");
    let metadata = json!({
        "plan": "gold", "restored_from": id, "restored_txid": txid, "restored_as_of": made["as_of"],
    });
    assert_eq!(found["metadata"], metadata);
    assert_eq!((&found["external_id"], &found["hosts"]), (&json!(null), &json!([])));
    assert_eq!(operator.get("/v1/organizations/customer-7").unwrap().json()["id"], json!(id));

    // Its people are those of then, without whoever was erased since.
    let listed = operator.get(&format!("{base}/members")).unwrap();
    assert!(listed.text().contains(&anna) && !listed.text().contains(&erna) && !listed.text().contains("erna@"));
    let log = operator.get(&format!("{base}/audit_events?limit=100")).unwrap().text();
    assert!(!log.contains("erna@") && log.contains("organization.made_of_backup"), "{log}");
    let verified = operator.get(&format!("{base}/audit_events/verification")).unwrap().json();
    assert_eq!(verified["intact"], true, "{verified}");
    // Both logs of the live one have it, once.
    let noted = events(&mut operator, &format!("/v1/organizations/{id}/audit_events"), "organization.copied");
    assert_eq!(noted.len(), 1, "{noted:?}");
    assert_eq!((&noted[0]["metadata"]["copy"], &noted[0]["metadata"]["txid"]), (&json!(copy), &json!(txid)));
    assert_eq!(events(&mut operator, "/v1/audit_events", "organization.copied").len(), 1);

    // Nothing of then opens it: not while it is suspended, and not when it is resumed.
    let old_key = |server: &Server| {
        let path = format!("{base}/members");
        server.client().send(&Request::get(HOST, path).bearer(&old_secret)).unwrap()
    };
    let signed_in = |slug: &str| client().send(&session_check(&host_of(slug), &session)).unwrap().status;
    assert!([401, 403].contains(&signed_in("acme-yesterday")));
    assert_eq!(old_key(&server).status, 400);
    assert_eq!(operator.call("DELETE", &format!("{base}/suspension"), &json!({})).unwrap().status, 204);
    assert_eq!((signed_in("acme-yesterday"), signed_in("acme")), (401, 200));
    assert_eq!(old_key(&server).status, 400);
    let mut person = Person::at(&server, &host_of("acme-yesterday"));
    for email in ["anna@people.example", &owner_of("acme")] {
        let refused = person.submit("/sign-in", &[("email", email), ("password", PASSWORD)]).unwrap();
        assert_ne!(refused.status, 303, "{email} got in with a password of then");
    }
    let file = deployment.file(&copy);
    for table in ["outbox", "oauth_grant", "refresh_token", "api_key", "email_challenge", "used_relay"] {
        assert_eq!(count(&file, table), 0, "{table}");
    }
    let mailed = fs::read_dir(deployment.data_dir().join("mailbox")).map_or(0, Iterator::count);
    assert_eq!(mailed, 0, "something was mailed");

    // The live one is what it was, and its own key works on it.
    let live = operator.get(&format!("/v1/organizations/{id}")).unwrap().json();
    assert_eq!((&live["name"], &live["state"]), (&json!("Another name"), &json!("active")));
    let own =
        client().send(&Request::get(HOST, format!("/v1/organizations/{id}/members")).bearer(&old_secret)).unwrap();
    assert_eq!(own.status, 200);
    // Nothing lies about, and catalog and files agree.
    assert_eq!(leftovers(&deployment), Vec::<PathBuf>::new());
    assert_eq!(Operator::problems(&deployment), []);
    server.stop();
}

/// What is left where past states are put together.
fn leftovers(deployment: &Deployment) -> Vec<PathBuf> {
    let workshop = deployment.data_dir().join("restoring");
    fs::read_dir(workshop).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{}", answer.text());
}

#[test]
fn what_cannot_be_had_back_is_told_with_what_can() {
    let Scene { deployment: _deployment, server, mut operator, id, txid, .. } = scene();
    let path = copies(&id);
    for (point, slug) in
        [(json!({ "txid": "00000000ffffffff" }), "a-1"), (json!({ "at": "2001-01-01T00:00:00Z" }), "a-2")]
    {
        let mut body = point.clone();
        body["slug"] = slug.into();
        let answer = operator.post(&path, &body).unwrap();
        refused(&answer, 404, "backup_not_found");
        assert!(answer.text().contains("It reaches from"), "{}", answer.text());
        // In place as well.
        let answer = operator.post(&format!("/v1/organizations/{id}/restorations"), &point).unwrap();
        refused(&answer, 404, "backup_not_found");
        assert!(answer.text().contains("It reaches from"), "{}", answer.text());
        assert_eq!(operator.get(&format!("/v1/organizations/{slug}")).unwrap().status, 404);
    }
    operator.organization("taken");
    for (body, status, code) in [
        (json!({ "slug": "taken", "txid": txid }), 409, "slug_taken"),
        (json!({ "slug": "acme", "txid": txid }), 409, "slug_taken"),
        (json!({ "slug": "No slug", "txid": txid }), 422, "validation_failed"),
        (json!({ "txid": txid }), 422, "validation_failed"),
        (json!({ "slug": "both", "txid": txid, "at": "2026-01-01T00:00:00Z" }), 422, "validation_failed"),
        (json!({ "slug": "odd", "txid": "xyz" }), 422, "validation_failed"),
    ] {
        refused(&operator.post(&path, &body).unwrap(), status, code);
    }
    // A key that may administer organizations need not be good for taking their data away.
    let asked = json!({ "name": "narrow", "scopes": ["organizations:read", "organizations:write"] });
    let narrow = operator.post("/v1/api_keys", &asked).unwrap().json()["secret"].as_str().unwrap().to_owned();
    let answer = Operator::new(&server, &narrow).get(&format!("/v1/organizations/{id}/backup/snapshot")).unwrap();
    refused(&answer, 403, "forbidden");
    server.stop();
}

#[test]
fn a_past_state_as_a_file_opens_nothing_and_overwrites_nothing() {
    let Scene { deployment, server, mut operator, id, txid, anna, .. } = scene();
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let restore = |more: &[&str]| {
        let first: &[&str] = &["org", "restore", "acme", "--txid", txid.as_str()];
        deployment.run(&[first, more].concat())
    };
    let file = out("then.sqlite");
    let said = file.to_str().unwrap();

    let rehearsed = restore(&["--output", said, "--dry-run"]);
    assert!(rehearsed.status.success(), "{rehearsed:?}");
    let text = String::from_utf8(rehearsed.stdout).unwrap();
    assert!(text.contains("Would write") && text.contains(&txid) && text.contains("2 members"), "{text}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a rehearsal wrote something");

    let ran = restore(&["--output", said]);
    assert!(ran.status.success(), "{ran:?}");
    let bytes = fs::read(&file).unwrap();
    // The event of the erasure names an id, and nothing else does.
    for absent in [b"erna@people.example".as_slice(), b"$argon2"] {
        assert!(!bytes.windows(absent.len()).any(|window| window == absent), "{}", String::from_utf8_lossy(absent));
    }
    let connection = Connection::open(&file).unwrap();
    let names: Vec<String> = {
        let mut read = connection.prepare("SELECT id FROM v_members WHERE name IS NOT NULL").unwrap();
        read.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(names, [anna]);
    let name: String = connection.query_row("SELECT name FROM v_organization", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "Company acme");
    for (open, least) in [
        ("SELECT count(*) FROM signing_key WHERE length(private_key) > 0", 0),
        ("SELECT count(*) FROM session WHERE length(token_hash) = 32", 0),
        ("SELECT count(*) FROM api_key WHERE length(secret_hash) = 32", 0),
        ("SELECT count(*) FROM outbox", 0),
    ] {
        let found: i64 = connection.query_row(open, [], |row| row.get(0)).unwrap();
        assert_eq!(found, least, "{open}");
    }
    let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    drop(connection);

    // What is there stays, whatever it is.
    let refused = restore(&["--output", said]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes);
    let missing = out("no/such/folder.sqlite");
    assert_eq!(restore(&["--output", missing.to_str().unwrap()]).status.code(), Some(1));
    assert_eq!(restore(&["--output", said, "--as", "both"]).status.code(), Some(2));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left");

    let path = format!("/v1/organizations/{id}/audit_events");
    assert_eq!(events(&mut operator, &path, "organization.snapshot_downloaded").len(), 1);
    server.stop();
    assert_eq!(leftovers(&deployment), Vec::<PathBuf>::new());
    // The same of a stopped deployment, and as JSON.
    let second = out("second.sqlite");
    let said = second.to_str().unwrap();
    let told = deployment.json(&["org", "restore", "acme", "--txid", &txid, "--output", said]);
    assert_eq!((&told["txid"], told["bytes"].as_u64()), (&json!(txid), Some(fs::metadata(&second).unwrap().len())));
    let told = deployment.json(&["org", "restore", "acme", "--txid", &txid, "--as", "acme-then"]);
    assert_eq!((&told["state"], &told["restored_from"]), (&json!("suspended"), &json!(id)));
}

#[test]
fn a_crash_in_the_middle_leaves_a_whole_copy_or_none() {
    let Scene { deployment, server, operator, id, txid, .. } = scene();
    let (mut server, key) = (server, operator.key.clone());
    for round in 0..6_u64 {
        let slug = format!("then-{round}");
        let asked = json!({ "slug": slug, "txid": txid });
        let mut client = Operator::new(&server, &key);
        let path = copies(&id);
        std::thread::scope(|scope| {
            let call = scope.spawn(move || client.post(&path, &asked).map(|answer| answer.status));
            // Wherever it is then.
            std::thread::sleep(Duration::from_millis(3 << round));
            server.kill();
            let _ = call.join().unwrap();
        });
        server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        assert_eq!(leftovers(&deployment), Vec::<PathBuf>::new());
        let found = operator.get(&format!("/v1/organizations/{slug}")).unwrap();
        if found.status == 404 {
            let again = operator.post(&copies(&id), &json!({ "slug": slug, "txid": txid })).unwrap();
            assert_eq!(again.status, 201, "{}", again.text());
            continue;
        }
        let found = found.json();
        assert_eq!(found["state"], "suspended", "{found}");
        let verified = operator.get(&format!("/v1/organizations/{slug}/audit_events/verification")).unwrap().json();
        assert_eq!(verified["intact"], true, "{verified}");
    }
    assert_eq!(Operator::problems(&deployment), []);
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_are_put_together_at_once() {
    let copies = tempfile::tempdir().unwrap();
    let url = format!("file://{}", copies.path().display());
    let world = World::with(&[("BULKHEAD_BACKUP_URL", &url), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")]).await;
    world.organization("acme").await;
    let operator = world.operator();
    let held = [(); 2].map(|()| world.app().state().inspections.place().unwrap());
    let path = "/v1/organizations/acme/copies";
    let answer = operator.post(path, &json!({"slug": "then"})).await.expect_problem(503, "overloaded");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    operator.get("/v1/organizations/acme/backup/snapshot").await.expect_problem(503, "overloaded");
    operator.get("/v1/organizations/then").await.expect(404);
    drop(held);
    operator.post(path, &json!({"slug": "then"})).await.expect(201);
    let file = operator.get("/v1/organizations/acme/backup/snapshot").await.expect(200);
    assert_eq!(file.header("content-type"), Some("application/vnd.sqlite3"));
    assert!(
        file.header("bulkhead-transaction").is_some_and(|txid| txid.len() == 16),
        "{:?}",
        file.header("bulkhead-as-of")
    );
    // A copy of a copy is one like any other, as soon as it was shipped.
    operator.post("/v1/organizations/then/copies", &json!({"slug": "then-again"})).await.expect(201);
}

#[test]
fn a_disk_without_room_is_told_and_nothing_is_left() {
    let (deployment, _) = deployment();
    let Some(_mount) = crate::fleet_room::Mount::new(&deployment.data_dir(), 24 << 20) else { return };
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let metadata: serde_json::Map<String, Value> =
        (0..50).map(|n| (format!("key{n}"), "x".repeat(490).into())).collect();
    let body = json!({ "metadata": metadata });
    assert_eq!(operator.call("PATCH", &format!("/v1/organizations/{id}"), &body).unwrap().status, 200);
    shipped(&mut operator);
    let free = || {
        let found = rustix::fs::statvfs(deployment.data_dir()).unwrap();
        found.f_bavail * found.f_frsize
    };
    // All but a little of it.
    fs::write(deployment.data_dir().join("ballast"), vec![1; usize::try_from(free() - (300 << 10)).unwrap()]).unwrap();
    let before = free();
    let answer = operator.post(&copies(&id), &json!({ "slug": "then" })).unwrap();
    refused(&answer, 503, "storage_full");
    let answer = operator.get(&format!("/v1/organizations/{id}/backup/snapshot")).unwrap();
    refused(&answer, 503, "storage_full");
    assert!(leftovers(&deployment).is_empty() && free() + (64 << 10) >= before);
    assert_eq!(operator.get("/v1/organizations/then").unwrap().status, 404);
    fs::remove_file(deployment.data_dir().join("ballast")).unwrap();
    assert_eq!(operator.post(&copies(&id), &json!({ "slug": "then" })).unwrap().status, 201);
    server.stop();
}
