//! How a transfer ends that does not go as it should: one of the two can always be brought to serve the organization,
//! and never both.

use std::fs;
use std::thread;
use std::time::Instant;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use bulkhead::base::OrganizationId;
use bulkhead::catalog::transfers::{self, Direction};
use bulkhead::crypto::envelope;

use crate::fleet_room::{Mount, fill};
use crate::process::{Deployment, Operator, patience};
use crate::transfer::{Carried, STEPS, Side};
use crate::wire::Answer;
use crate::world::World;

pub fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status, answer.code())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

impl Carried {
    /// The target gives it up; what it says then.
    pub fn give_up(&self) -> String {
        let given_up = self.target.done("DELETE", &self.arrival("?give_up=true"), &json!({}));
        assert_eq!(given_up["state"], "cancelled", "{given_up}");
        given_up["waiver"].as_str().unwrap().to_owned()
    }

    pub fn take_back(&self, waiver: &str) -> Answer {
        self.source.call("PUT", &self.departure("/return"), &json!({ "waiver": waiver }))
    }

    fn activate(&self) -> Answer {
        self.target.call("PUT", &self.arrival("/activation"), &json!({"proof": self.departure["proof"]}))
    }
}

#[test]
fn what_has_left_and_is_given_up_comes_back() {
    let mut carried = Carried::new();
    carried.steps(5);
    assert_eq!(carried.writers(), (false, false));
    // Nobody there knows whether it has left: nothing is thrown away in passing.
    for _ in 0..2 {
        let refused = carried.target.call("DELETE", &carried.arrival(""), &json!({}));
        assert_eq!(refusal(&refused), is(409, "transfer_unsettled"));
        let found = carried.target.get(&carried.arrival("")).json();
        assert_eq!((&found["state"], &found["waiver"]), (&json!("arrived"), &Value::Null), "{found}");
        carried.target.crash();
    }
    for waiver in ["", "nonsense", carried.arrival["waiver_sha256"].as_str().unwrap()] {
        assert_eq!(refusal(&carried.take_back(waiver)), is(422, "transfer_waiver_invalid"), "{waiver}");
    }
    let waiver = carried.give_up();
    assert_eq!(carried.give_up(), waiver);
    assert!(!carried.target.deployment.place(&carried.id).exists(), "something of it is still there");
    for _ in 0..2 {
        // The proof is good, and of no use any more: nor is the same arrival, begun anew.
        assert_eq!(refusal(&carried.activate()), is(409, "transfer_state"));
        let again = carried.target.call("PUT", &carried.arrival(""), &carried.announced());
        assert_eq!(refusal(&again), is(409, "transfer_state"));
        assert_eq!(carried.target.upload(&carried.content(), b"").status, 409);
        assert_eq!(carried.writers(), (false, false));
        carried.target.crash();
        carried.source.crash();
    }
    let returned = carried.take_back(&waiver);
    assert_eq!(returned.status, 204, "{}", returned.text());
    for _ in 0..2 {
        assert_eq!(carried.writers(), (true, false));
        assert_eq!(refusal(&carried.take_back(&waiver)), is(404, "transfer_not_found"));
        assert_eq!(refusal(&carried.activate()), is(409, "transfer_state"));
        let body = json!({"archive_sha256": carried.arrival["archive_sha256"], "audit": carried.arrival["audit"]});
        let completed = carried.source.call("PUT", &carried.departure("/completion"), &body);
        assert_eq!(refusal(&completed), is(404, "transfer_not_found"));
        carried.target.crash();
        carried.source.crash();
    }
    let organization = format!("/v1/organizations/{}", carried.id);
    let log = carried.source.get(&format!("{organization}/audit_events/verification")).json();
    assert_eq!(log["intact"], true, "{log}");
    let events = carried.source.get(&format!("{organization}/audit_events?limit=100")).text();
    assert!(events.contains("organization.departed") && events.contains("organization.returned"), "{events}");
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());

    // Another transfer, to the end; the waiver is of the one before.
    for step in 0..STEPS {
        carried.step(step);
        assert_eq!(carried.take_back(&waiver).status, 422, "after step {step}");
        carried.writers();
    }
    assert_eq!(carried.writers(), (false, true));
    let refused = carried.target.call("DELETE", &carried.arrival("?give_up=true"), &json!({}));
    assert_eq!(refusal(&refused), is(409, "transfer_state"));
}

/// The source ends while it takes it back: what the start finds says whether it may.
#[test]
fn a_return_that_is_interrupted_is_completed_if_it_was_waived_and_not_otherwise() {
    let mut carried = Carried::new();
    carried.steps(5);
    let waiver = carried.give_up();
    for (shown, expected) in [("not the waiver", (false, false)), (waiver.as_str(), (true, false))] {
        carried.source.while_stopped(|deployment| {
            let catalog = Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
            let set = "UPDATE transfer SET state = 'cancelling', proof = ?";
            assert_eq!(catalog.execute(set, [shown]).unwrap(), 1);
        });
        assert_eq!(carried.writers(), expected, "{shown}");
    }
}

#[test]
fn an_operator_who_loses_patience_gets_it_back_by_the_command_line() {
    let mut carried = Carried::new();
    carried.steps(5);
    let (url, file) = (carried.target.deployment.url(), carried.target.key_file.display().to_string());
    let push = |carried: &Carried, more: &[&str]| {
        let args = [&["org", "push", "acme", "--to", &url, "--to-key-file", &file], more].concat();
        carried.source.deployment.run(&args)
    };
    let cancelled = push(&carried, &["--cancel"]);
    assert!(cancelled.status.success(), "{cancelled:?}");
    assert!(String::from_utf8_lossy(&cancelled.stdout).contains("is here again"), "{cancelled:?}");
    assert_eq!(carried.writers(), (true, false));
    assert!(push(&carried, &[]).status.success());
    assert_eq!(carried.writers(), (false, true));
    // It is served there: nothing is called off, and nothing is different.
    let refused = push(&carried, &["--cancel"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(carried.writers(), (false, true));
}

/// Thrown away while it is being taken in. Whoever is first, nothing of it stays behind.
#[test]
fn an_arrival_that_is_thrown_away_while_it_comes_in_leaves_nothing() {
    let mut carried = Carried::new();
    for round in 0..6 {
        carried.steps(3);
        let archive = carried.archive();
        let catalog = carried.target.deployment.data_dir().join("catalog.sqlite");
        let is_coming_in = || {
            let Ok(catalog) = Connection::open_with_flags(&catalog, OpenFlags::SQLITE_OPEN_READ_ONLY) else {
                return false;
            };
            let count = "SELECT count(*) FROM organization WHERE state = 'creating'";
            catalog.query_row(count, [], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
        };
        let uploaded = thread::scope(|scope| {
            let upload = scope.spawn(|| carried.target.upload(&carried.content(), &archive));
            let deadline = patience();
            while !is_coming_in() && !upload.is_finished() {
                assert!(Instant::now() < deadline, "it does not come in");
            }
            carried.give_up();
            upload.join().unwrap()
        });
        assert!([200, 404, 409].contains(&uploaded.status), "round {round}: {}", uploaded.text());
        assert!(!carried.target.deployment.place(&carried.id).exists(), "round {round}: a directory is left");
        let checked = carried.target.deployment.json(&["fleet", "check"]);
        assert_eq!(checked["findings"], json!([]), "round {round}: {checked:#}");
        assert_eq!(carried.source.call("DELETE", &carried.departure(""), &json!({})).status, 204);
        assert_eq!(carried.writers(), (true, false));
    }
    // And killed instead: the next start clears it up, and it is sent again.
    carried.steps(3);
    let archive = carried.archive();
    let content = carried.content();
    let (port, key) = (carried.target.server.port, carried.target.key.clone());
    let sent = archive.clone();
    let upload = thread::spawn(move || {
        let request = crate::wire::Request::new("POST", crate::process::HOST, &content).bearer(&key);
        crate::wire::Client::new(port).send(&request.body("application/octet-stream", &sent))
    });
    let place = carried.target.deployment.place(&carried.id);
    let deadline = patience();
    while !place.exists() && !upload.is_finished() {
        assert!(Instant::now() < deadline, "it does not come in");
    }
    carried.target.crash();
    drop(upload.join().unwrap());
    let state = carried.target.get(&carried.arrival("")).json()["state"].clone();
    assert_eq!(place.exists(), state == "arrived", "{state}");
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
    (3..STEPS).for_each(|step| carried.step(step));
    assert_eq!(carried.writers(), (false, true));
}

/// The catalog says that it has left a moment before the file does. The proof waits for the file.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_the_proof_before_the_file_says_that_it_has_left() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    let organization: OrganizationId = id.parse().unwrap();
    let (operator, path) = (world.operator(), "/v1/organizations/acme/departure");
    let to = json!({"to": "https://id.example.com"});
    let departure = operator.put(path, &to).await.expect(200).json();
    let transfer = departure["id"].as_str().unwrap().to_owned();
    let (_, recipient) = envelope::generate();
    let body = json!({"recipient": recipient, "waiver_sha256": "0".repeat(64)});
    operator.put(&format!("{path}/archive"), &body).await.expect(200);
    let state = world.app().state().clone();
    let open = state.catalog.read(|db| transfers::open_of(db, organization, Direction::Departure)).await.unwrap();
    let (end, sha256) = open.map(|open| (open.log_end.unwrap(), open.archive_sha256.unwrap())).unwrap();
    let arrived = json!({"archive_sha256": sha256, "audit": {"sequence": end.sequence, "hash": end.hash}});
    // Somebody else has the file: its last word has to wait.
    let held = state.tenants.hold_still(organization).await.unwrap();
    operator.put(&format!("{path}/completion"), &arrived).await.expect(503);
    let by_id = format!("/v1/departures/{transfer}");
    for found in [operator.get(path).await, operator.put(path, &to).await, operator.get(&by_id).await] {
        let found = found.expect(200).json();
        assert_eq!((&found["state"], &found["proof"]), (&json!("gone"), &Value::Null), "{found}");
    }
    drop(held);
    assert_eq!(operator.get(path).await.expect(200).json()["proof"], Value::Null);
    let proof = operator.put(&format!("{path}/completion"), &arrived).await.expect(200).json()["proof"].clone();
    assert!(proof.is_string(), "{proof}");
    assert_eq!(operator.get(path).await.expect(200).json()["proof"], proof);
    assert_eq!(operator.put(path, &to).await.expect(200).json()["proof"], proof);
}

/// Whoever erases what has left before it is served elsewhere has not lost it: its proof is still to be had.
#[test]
fn what_is_erased_where_it_has_left_is_served_where_it_has_arrived() {
    let mut carried = Carried::new();
    carried.steps(5);
    let erasure = format!("/v1/organizations/{}/erasure", carried.id);
    assert_eq!(carried.source.call("PUT", &erasure, &json!({"immediately": true})).status, 202);
    let by_id = format!("/v1/departures/{}", carried.departure["id"].as_str().unwrap());
    let erased = format!("/v1/erasures/{}", carried.id);
    crate::process::until("it is erased", || carried.source.get(&erased).json()["state"] == "erased");
    carried.source.crash();
    assert_eq!(carried.source.get(&carried.departure("")).status, 404);
    carried.departure["proof"] = Value::Null;
    let found = carried.source.get(&by_id).json();
    carried.departure["proof"] = found["proof"].clone();
    assert_eq!(carried.activate().status, 200, "{found}");
    assert_eq!(carried.writers(), (false, true));
}

#[test]
fn a_target_that_cannot_take_it_in_leaves_it_where_it_is() {
    // Whatever is sent is refused there.
    let target = Side::of(Deployment::new().with("IMPORTS_CHECK_PROGRAM", "/bin/false"));
    let mut carried = Carried::between(Side::new(), target);
    let (url, file) = (carried.target.deployment.url(), carried.target.key_file.display().to_string());
    let push = |carried: &Carried| {
        carried.source.deployment.run(&["--json", "org", "push", "acme", "--to", &url, "--to-key-file", &file])
    };
    let refused = push(&carried);
    assert!(!refused.status.success(), "{refused:?}");
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(said.contains("import_check_failed") && said.contains("takes writes again"), "{said}");
    assert_eq!(carried.writers(), (true, false));
    assert_eq!(carried.source.get(&carried.departure("")).status, 404);
    assert!(!carried.target.deployment.place(&carried.id).exists());
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
}

#[test]
fn a_target_without_room_says_so_and_it_stays_where_it_is() {
    let deployment = Deployment::new();
    let Some(mount) = Mount::new(&deployment.data_dir(), 48 << 20) else { return };
    let mut carried = Carried::between(Side::new(), Side::of(deployment));
    let room = carried.target.deployment.data_dir();
    let (url, file) = (carried.target.deployment.url(), carried.target.key_file.display().to_string());
    let push = |carried: &Carried| {
        carried.source.deployment.run(&["--json", "org", "push", "acme", "--to", &url, "--to-key-file", &file])
    };
    // Before anything has happened.
    let ballast = fill(&room);
    let refused = push(&carried);
    let said = format!("{}{}", String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(!refused.status.success() && said.contains("storage_full"), "{said}");
    assert_eq!(carried.writers(), (true, false));
    assert_eq!(carried.source.get(&carried.departure("")).status, 404);
    fs::remove_file(ballast).unwrap();

    // While it is on the way.
    carried.steps(3);
    let archive = carried.archive();
    let ballast = fill(&room);
    let refused = carried.target.upload(&carried.content(), &archive);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(["storage_full", "storage_failed"].contains(&refused.code().as_str()), "{}", refused.text());
    assert_eq!(carried.target.get(&carried.arrival("")).json()["state"], "prepared");
    assert!(!carried.target.deployment.place(&carried.id).exists());
    fs::remove_file(ballast).unwrap();
    carried.target.crash();
    assert_eq!(Operator::problems(&carried.target.deployment), Vec::new());
    // There is room again, and it goes on.
    assert!(push(&carried).status.success());
    assert_eq!(carried.writers(), (false, true));
    // Before the directory that it is in.
    drop(mount);
}
