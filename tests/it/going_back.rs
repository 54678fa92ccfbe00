//! Going back through a running server: a restore in place, and a file that is replaced.

use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::backup::{deployment, member, shipped};
use crate::process::{
    Deployment, Operator, PASSWORD, Person, Server, host_of, owner_of, patience, scribble_over, session_check,
};

#[test]
fn a_restore_brings_back_what_was_and_not_what_was_taken_away() {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let other = operator.organization("globex");
    let base = format!("/v1/organizations/{id}");
    let [anna, bert, carl, dora, erna] = ["anna", "bert", "carl", "dora", "erna"].map(|name| {
        let body =
            json!({ "email": format!("{name}@example.com"), "name": name, "roles": ["admin"], "password": PASSWORD });
        member(&mut operator, &id, &body)
    });
    let made =
        operator.post(&format!("{base}/api_keys"), &json!({ "name": "old", "scopes": ["members:read"] })).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let old_key = made.json()["id"].as_str().unwrap().to_owned();
    let ours = Person::at(&server, &host_of("acme")).sign_in("anna@example.com").unwrap();
    let theirs = Person::at(&server, &host_of("globex")).sign_in(&owner_of("globex")).unwrap();
    let check = |slug: &str, cookie: &str| server.client().send(&session_check(&host_of(slug), cookie)).unwrap().status;
    assert_eq!((check("acme", &ours), check("globex", &theirs)), (200, 200));
    shipped(&mut operator);
    let point = operator.get(&format!("{base}/backup")).unwrap().json()["newest"].clone();
    let txid = point["txid"].as_str().unwrap().to_owned();

    // Afterwards: things are added, changed, spoilt and taken away.
    let call = |operator: &mut Operator, method: &'static str, path: &str, body: Value| {
        let answer = operator.call(method, path, &body).unwrap();
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
    };
    call(&mut operator, "PATCH", &base, json!({ "name": "Spoilt", "accent": "#000000" }));
    call(&mut operator, "PATCH", &format!("{base}/members/{anna}"), json!({ "name": "Spoilt too" }));
    call(&mut operator, "PUT", &format!("{base}/members/{bert}/deactivation"), json!({}));
    call(&mut operator, "DELETE", &format!("{base}/members/{carl}"), json!({}));
    call(&mut operator, "PATCH", &format!("{base}/members/{dora}"), json!({ "roles": ["member"] }));
    call(&mut operator, "DELETE", &format!("{base}/api_keys/{old_key}"), json!({}));
    call(&mut operator, "PUT", &format!("{base}/members/{erna}/erasure"), json!({}));
    let eve =
        member(&mut operator, &id, &json!({ "email": "eve@example.com", "roles": ["owner"], "password": PASSWORD }));
    let made =
        operator.post(&format!("{base}/api_keys"), &json!({ "name": "new", "scopes": ["members:read"] })).unwrap();
    let new_secret = made.json()["secret"].as_str().unwrap().to_owned();
    // An address changes hands.
    let carla = member(&mut operator, &id, &json!({ "email": "carl@example.com", "name": "carla" }));
    let events = operator.get(&format!("{base}/audit_events/verification")).unwrap().json()["events"].as_i64().unwrap();

    let differences = operator.get(&format!("{base}/differences?from={txid}")).unwrap().json();
    let said = |change: &str, id: &str| {
        let found = differences["differences"].as_array().unwrap().iter();
        found.filter(|one| one["change"] == change && one["id"] == id).count() == 1
    };
    assert!(said("changed", &anna) && said("removed", &carl) && said("added", &eve) && said("revoked", &old_key));
    assert!(!differences.to_string().contains("\"erna"), "an erased member is told of: {differences}");

    let path = format!("{base}/restorations");
    let rehearsed = operator.post(&path, &json!({ "txid": txid, "dry_run": true })).unwrap().json();
    assert_eq!(operator.get(&base).unwrap().json()["name"], "Spoilt", "a rehearsal changed something");
    let done = operator.post(&path, &json!({ "txid": txid })).unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    let done = done.json();
    assert_eq!(done["changes"], rehearsed["changes"]);
    let withheld = |id: &str| {
        let found = done["withheld"].as_array().unwrap().iter().find(|one| one["id"] == id);
        found.map(|one| one["reason"].as_str().unwrap().to_owned())
    };
    assert_eq!(withheld(&bert).as_deref(), Some("deactivated_since"));
    assert_eq!(withheld(&carl).as_deref(), Some("deleted_since"));
    assert_eq!(withheld(&dora).as_deref(), Some("roles_reduced_since"));
    assert_eq!(withheld(&old_key).as_deref(), Some("revoked_since"));

    let get = |operator: &mut Operator, id: &str| operator.get(&format!("{base}/members/{id}")).unwrap();
    assert_eq!(operator.get(&base).unwrap().json()["name"], "Company acme");
    assert_eq!(get(&mut operator, &anna).json()["name"], "anna");
    assert_eq!(get(&mut operator, &bert).json()["status"], "inactive");
    let carl = get(&mut operator, &carl).json();
    assert_eq!(
        (&carl["status"], &carl["has_password"], &carl["email"]),
        (&json!("inactive"), &json!(false), &json!("carl@example.com"))
    );
    assert_eq!(get(&mut operator, &dora).json()["roles"], json!(["member"]));
    for gone in [&eve, &carla, &erna] {
        assert_eq!(get(&mut operator, gone).status, 404);
    }
    // Nobody is signed in any more, here; next door everybody is.
    assert_eq!((check("acme", &ours), check("globex", &theirs)), (401, 200));
    let refused = Operator::new(&server, &new_secret).get(&format!("{base}/members")).unwrap();
    assert_eq!(refused.status, 401, "a key of after that point still works");
    let verified = operator.get(&format!("{base}/audit_events/verification")).unwrap().json();
    assert_eq!(verified["intact"], true, "{verified}");
    assert!(verified["events"].as_i64().unwrap() > events, "the log went back");
    let newest = operator.get(&format!("{base}/audit_events?limit=1")).unwrap().json()["data"][0].clone();
    assert_eq!(newest["action"], "organization.restored");
    assert_eq!(newest["metadata"]["txid"], txid.as_str());

    // And back again, as far as what ended allows.
    let previous = done["previous_txid"].as_str().unwrap();
    let undone = operator.post(&path, &json!({ "txid": previous })).unwrap();
    assert_eq!(undone.status, 200, "{}", undone.text());
    assert_eq!(operator.get(&base).unwrap().json()["name"], "Spoilt");
    assert_eq!(operator.get(&format!("/v1/organizations/{other}")).unwrap().json()["name"], "Company globex");
    server.stop();
}

#[test]
fn whoever_was_invited_then_and_has_lost_access_since_is_not_invited_again() {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    let ida = member(&mut operator, &id, &json!({ "email": "ida@example.com" }));
    let at = format!("{base}/members/{ida}");
    assert_eq!(operator.get(&at).unwrap().json()["status"], "pending");
    shipped(&mut operator);
    let txid = operator.get(&format!("{base}/backup")).unwrap().json()["newest"]["txid"].clone();
    // She comes in, and is shown out.
    for (what, body) in [("password", json!({ "password": PASSWORD })), ("deactivation", json!({}))] {
        let answer = operator.call("PUT", &format!("{at}/{what}"), &body).unwrap();
        assert!(answer.status < 300, "{what}: {}", answer.text());
    }

    let path = format!("{base}/restorations");
    let done = operator.post(&path, &json!({ "txid": txid })).unwrap().json();
    let withheld = done["withheld"].as_array().unwrap();
    assert!(withheld.iter().any(|one| one["id"] == *ida && one["reason"] == "deactivated_since"), "{done}");
    // A pending member sets a password with a code to the mailbox, which was taken away as well.
    assert_eq!(operator.get(&at).unwrap().json()["status"], "inactive");
    let done = operator.post(&path, &json!({ "txid": txid, "reinstate": true })).unwrap().json();
    assert!(done["reinstated"].as_array().unwrap().iter().any(|one| one["id"] == *ida), "{done}");
    assert_eq!(operator.get(&at).unwrap().json()["status"], "pending");
    server.stop();
}

#[test]
fn a_file_that_is_replaced_by_an_earlier_one_has_nobody_who_was_erased_since() {
    let (deployment, _) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    let [erna, fred] = ["erna", "fred"]
        .map(|name| member(&mut operator, &id, &json!({ "email": format!("{name}@example.com"), "name": name })));
    shipped(&mut operator);
    let txid = operator.get(&format!("{base}/backup")).unwrap().json()["newest"]["txid"].clone();
    assert_eq!(operator.call("PUT", &format!("{base}/members/{erna}/erasure"), &json!({})).unwrap().status, 200);
    assert_eq!(operator.call("DELETE", &format!("{base}/members/{fred}"), &json!({})).unwrap().status, 204);
    shipped(&mut operator);
    server.stop();
    fs::write(deployment.file(&id), vec![0xa5; 20_000]).unwrap();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let done = operator.post(&format!("{base}/recovery"), &json!({ "txid": txid })).unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    let mut members = operator.get(&format!("{base}/members")).unwrap();
    let deadline = patience();
    while members.status == 503 {
        assert!(Instant::now() < deadline, "it did not come back");
        sleep(Duration::from_millis(100));
        members = operator.get(&format!("{base}/members")).unwrap();
    }
    let log = operator.get(&format!("{base}/audit_events?limit=100")).unwrap().text();
    assert!(members.text().contains("fred@") && !members.text().contains("erna@"), "{}", members.text());
    assert!(log.contains("member.erased") && !log.contains("\"erna"), "{log}");
    let verified = operator.get(&format!("{base}/audit_events/verification")).unwrap().json();
    assert_eq!(verified["intact"], true, "{verified}");
    server.stop();
}

#[test]
fn a_broken_file_is_replaced_and_a_sound_one_is_not() {
    let (deployment, _) = deployment();
    let (server, mut operator, key) = deployment.started();
    let (id, other) = (operator.organization("acme"), operator.organization("globex"));
    member(&mut operator, &id, &json!({ "email": "last@example.com" }));
    shipped(&mut operator);
    let path = format!("/v1/organizations/{id}/recovery");
    let refused = operator.post(&path, &json!({})).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (409, "organization_readable"));
    server.stop();
    fs::write(deployment.file(&id), vec![0xa5; 20_000]).unwrap();
    fs::remove_file(deployment.file(&other)).unwrap();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    for (id, slug) in [(&id, "acme"), (&other, "globex")] {
        let members = format!("/v1/organizations/{id}/members");
        assert_eq!(operator.get(&members).unwrap().status, 503);
        let done = operator.post(&format!("/v1/organizations/{id}/recovery"), &json!({})).unwrap();
        assert_eq!(done.status, 200, "{}", done.text());
        let kept = done.json()["kept"].as_str().map(PathBuf::from);
        if slug == "acme" {
            assert_eq!(fs::read(kept.unwrap().join("db.sqlite")).unwrap(), vec![0xa5; 20_000]);
        } else {
            // At most what stood beside it.
            assert!(kept.is_none_or(|kept| !kept.join("db.sqlite").exists()));
        }
        // What was wrong with it is remembered for a moment.
        let deadline = patience();
        while operator.get(&members).unwrap().status == 503 {
            assert!(Instant::now() < deadline, "it did not come back");
            sleep(Duration::from_millis(100));
        }
        assert_eq!(operator.get(&members).unwrap().status, 200);
        Person::at(&server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap();
        let verified = operator.get(&format!("/v1/organizations/{id}/audit_events/verification")).unwrap().json();
        assert_eq!(verified["intact"], true, "{verified}");
    }
    // And it is shipped on, from the file that is there now.
    member(&mut operator, &id, &json!({ "email": "next@example.com" }));
    shipped(&mut operator);
    let differences = operator.get(&format!("/v1/organizations/{id}/differences?from=0000000000000001")).unwrap();
    assert!(differences.text().contains("next@example.com"), "{}", differences.text());
    server.stop();
}

/// A script that went wrong, a directory that sent nobody: the operator wants the people back, not a list of them.
#[test]
fn a_restore_that_reinstates_gives_members_back_what_was_taken() {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    let [bert, carl, dora, erna, fred] = ["bert", "carl", "dora", "erna", "fred"].map(|name| {
        let email = format!("{name}@example.com");
        member(&mut operator, &id, &json!({ "email": email, "roles": ["admin"], "password": PASSWORD }))
    });
    let made =
        operator.post(&format!("{base}/api_keys"), &json!({ "name": "old", "scopes": ["members:read"] })).unwrap();
    let old_key = made.json()["id"].as_str().unwrap().to_owned();
    let session = Person::at(&server, &host_of("acme")).sign_in("carl@example.com").unwrap();
    shipped(&mut operator);
    let point = operator.get(&format!("{base}/backup")).unwrap().json()["newest"].clone();
    let txid = point["txid"].as_str().unwrap().to_owned();
    let new_password = "another-violet-harbour-61";
    for (method, path, body) in [
        ("PUT", format!("{base}/members/{bert}/deactivation"), json!({})),
        ("DELETE", format!("{base}/members/{carl}"), json!({})),
        ("PATCH", format!("{base}/members/{dora}"), json!({ "roles": ["member"] })),
        ("PUT", format!("{base}/members/{erna}/erasure"), json!({})),
        ("PUT", format!("{base}/members/{fred}/password"), json!({ "password": new_password })),
        ("DELETE", format!("{base}/api_keys/{old_key}"), json!({})),
    ] {
        let answer = operator.call(method, &path, &body).unwrap();
        assert!(answer.status < 300, "{method} {path}: {}", answer.text());
    }
    let path = format!("{base}/restorations");
    let rehearsed = operator.post(&path, &json!({ "txid": txid, "reinstate": true, "dry_run": true })).unwrap().json();
    assert_eq!(operator.get(&format!("{base}/members/{carl}")).unwrap().status, 404, "a rehearsal changed something");

    // Once without, which brings carl back without access, and then with it.
    assert_eq!(operator.post(&path, &json!({ "txid": txid })).unwrap().status, 200);
    for email in ["bert@example.com", "carl@example.com"] {
        assert!(!comes_in(&server, email), "{email} came in");
    }
    let done = operator.post(&path, &json!({ "txid": txid, "reinstate": true })).unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    let listed = |answer: &Value, list: &str| {
        let mut found: Vec<String> = answer[list].as_array().unwrap().iter().map(|one| one["id"].to_string()).collect();
        found.sort();
        found
    };
    assert_eq!(listed(&done.json(), "reinstated"), listed(&rehearsed, "reinstated"));
    assert_eq!(listed(&done.json(), "reinstated").len(), 3, "{}", done.text());
    let withheld = listed(&done.json(), "withheld");
    assert!(withheld.iter().any(|one| one.contains(&fred)) && withheld.iter().any(|one| one.contains(&old_key)));

    for email in ["bert@example.com", "carl@example.com"] {
        assert!(comes_in(&server, email), "{email} was not let in");
    }
    let member_now = |operator: &mut Operator, id: &str| operator.get(&format!("{base}/members/{id}")).unwrap();
    assert_eq!(member_now(&mut operator, &dora).json()["roles"], json!(["admin"]));
    // What is not a mistake's to give back: an erased person, a newer password, sessions, keys.
    assert_eq!(member_now(&mut operator, &erna).status, 404);
    assert!(!comes_in(&server, "fred@example.com"), "the old password is back");
    let check = server.client().send(&session_check(&host_of("acme"), &session)).unwrap().status;
    assert_eq!(check, 401, "an old session is back");
    let keys = operator.get(&format!("{base}/api_keys")).unwrap().json();
    let key = keys["data"].as_array().unwrap().iter().find(|key| key["id"] == old_key.as_str()).unwrap().clone();
    assert!(!key["revoked_at"].is_null(), "{key}");
    let events = operator.get(&format!("{base}/audit_events?limit=50")).unwrap().text();
    assert_eq!(events.matches("\"member.reinstated\"").count(), 3, "{events}");
    let verified = operator.get(&format!("{base}/audit_events/verification")).unwrap().json();
    assert_eq!(verified["intact"], true, "{verified}");
    server.stop();
}

/// Whether the password that everybody began with opens acme's door.
fn comes_in(server: &Server, email: &str) -> bool {
    let fields = [("email", email), ("password", PASSWORD)];
    Person::at(server, &host_of("acme")).submit("/sign-in", &fields).unwrap().status == 303
}

/// A file that still opens: pages are torn that nobody reads at an opening.
#[test]
fn a_file_that_opens_and_is_damaged_inside_is_replaced() {
    let (deployment, _) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    for n in 0..40 {
        member(&mut operator, &id, &json!({ "email": format!("m{n}@example.com") }));
    }
    shipped(&mut operator);
    server.stop();
    let file = deployment.file(&id);
    // An opening, and a look at the organization, need none of it.
    scribble_over(&file, "audit_event");
    // It opens, and says what it is called.
    let opened = Connection::open(&file).unwrap();
    opened.query_row("SELECT name FROM organization", [], |row| row.get::<_, String>(0)).unwrap();
    drop(opened);

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let done = operator.post(&format!("/v1/organizations/{id}/recovery"), &json!({})).unwrap();
    assert_eq!(done.status, 200, "{}", done.text());
    let list = operator.get(&format!("/v1/organizations/{id}/audit_events/verification")).unwrap().json();
    assert_eq!(list["intact"], true, "{list}");
    let again = operator.post(&format!("/v1/organizations/{id}/recovery"), &json!({})).unwrap();
    assert_eq!((again.status, again.code().as_str()), (409, "organization_readable"));
    server.stop();
}

#[test]
fn restores_that_cannot_be_are_refused() {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    shipped(&mut operator);
    let path = format!("/v1/organizations/{id}/restorations");
    for (body, status, code) in [
        (json!({ "txid": "00000000000000ff" }), 404, "backup_not_found"),
        (json!({ "txid": "0000000000000000" }), 422, "validation_failed"),
        (json!({ "txid": "latest" }), 422, "validation_failed"),
        (json!({ "at": "2001-01-01T00:00:00Z" }), 404, "backup_not_found"),
        (json!({ "at": "2001-01-01T00:00:00Z", "txid": "0000000000000001" }), 422, "validation_failed"),
    ] {
        let answer = operator.post(&path, &body).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}: {}", answer.text());
    }
    let answer = operator.get(&format!("/v1/organizations/{id}/differences?from=yesterday")).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (422, "validation_failed"));
    server.stop();

    let plain = Deployment::new();
    let key = plain.operator_key();
    let server = plain.serve();
    let mut operator = Operator::new(&server, &key);
    let id = operator.organization("acme");
    for path in ["/v1/backup".to_owned(), format!("/v1/organizations/{id}/backup")] {
        let answer = operator.get(&path).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (409, "backup_not_configured"), "{path}");
    }
    server.stop();
}
