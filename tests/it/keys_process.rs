//! Rotating keys in a process of its own: killed in the middle, with a backup, and from the command line.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::json;

use crate::keys::{rows, sealed};
use crate::process::{Deployment, Operator, patience};

#[test]
fn a_rotation_goes_on_after_kill_9() {
    let deployment = Deployment::new();
    let (mut server, mut operator, key) = deployment.started();
    let slugs: Vec<String> = (0..24).map(|n| format!("org-{n}")).collect();
    for slug in &slugs {
        operator.organization(slug);
    }
    let masters = || -> BTreeSet<String> { rows(&deployment.data_dir()).into_iter().map(|row| row.3).collect() };
    let wait = |operator: &mut Operator, what: &str| {
        let deadline = patience();
        loop {
            let state = operator.get("/v1/keys").unwrap().json();
            if state[what]["state"] == "done" && state["replaced"]["unfinished"] == 0 {
                return state;
            }
            assert!(Instant::now() < deadline, "{what} did not end: {state}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    for round in 0_u64..6 {
        let before = masters();
        let (path, what) = if round % 2 == 0 {
            ("/v1/keys/master_rotations", "master_rotation")
        } else {
            ("/v1/keys/data_rotations", "data_rotation")
        };
        // The answer may be lost with the server.
        assert_eq!(operator.post(path, &json!({})).unwrap().status, 202);
        std::thread::sleep(Duration::from_millis(round * 7));
        server.kill();
        server = deployment.serve();
        operator = Operator::new(&server, &key);
        let state = wait(&mut operator, what);
        if round % 2 == 0 {
            assert!(masters().len() == 1 && masters() != before, "{state}");
            assert_eq!(fs::read_to_string(deployment.data_dir().join("master.key")).unwrap().lines().count(), 1);
        } else {
            assert_eq!((&state["data_rotation"]["failed"], &state["data_rotation"]["total"]), (&json!(0), &json!(24)));
        }
        for slug in slugs.iter().step_by(5) {
            let answer =
                server.client().send(&crate::wire::Request::get(&crate::process::host_of(slug), "/oauth2/jwks"));
            assert_eq!(answer.unwrap().status, 200, "{slug}");
        }
    }
    // Each rotation is told once in each log.
    for slug in slugs.iter().step_by(7) {
        let log = operator.get(&format!("/v1/organizations/{slug}/audit_events?limit=100")).unwrap().json();
        let told: Vec<_> =
            log["data"].as_array().unwrap().iter().filter(|event| event["action"] == "data_key.rotated").collect();
        let versions: BTreeSet<_> = told.iter().map(|event| event["metadata"]["to"].to_string()).collect();
        assert!(told.len() >= 3 && told.len() == versions.len(), "{slug}: {told:?}");
    }
    assert!(Operator::problems(&deployment).is_empty());
    server.stop();
}

#[test]
fn a_backup_from_before_a_rotation_can_be_recovered() {
    let (deployment, _) = crate::backup::deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    let jwks = |server: &crate::process::Server| {
        let request = crate::wire::Request::get(&crate::process::host_of("acme"), "/oauth2/jwks");
        server.client().send(&request).unwrap()
    };
    let public = jwks(&server).json();
    crate::backup::shipped(&mut operator);
    let history = operator.get("/v1/organizations/acme/backup").unwrap().json();
    let before = history["newest"]["txid"].as_str().unwrap_or_else(|| panic!("{history}")).to_owned();
    let rotated = operator.post("/v1/organizations/acme/data_key_rotations", &json!({})).unwrap();
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    crate::backup::shipped(&mut operator);
    server.stop();
    fs::write(deployment.file(&id), b"torn").unwrap();

    let server = deployment.serve();
    assert_eq!(jwks(&server).status, 503);
    let done = deployment.json(&["org", "recover", "acme", "--txid", &before]);
    assert_eq!(done["txid"], before.as_str(), "{done}");
    assert_eq!(jwks(&server).json(), public);
    // It waits for nothing: what came back is sealed with the newest key, so the one before can go in its time.
    server.stop();
    let values = sealed(&deployment.file(&id));
    assert!(!values.is_empty() && values.iter().all(|value| value[..5] == [2, 0, 0, 0, 2]));

    // Once the key before is gone, so is what only it can open: that is said, and nothing is touched.
    let keyring = Connection::open(deployment.data_dir().join("keyring.sqlite")).unwrap();
    assert_eq!(keyring.execute("DELETE FROM data_key WHERE name = ? AND version = 1", [&id]).unwrap(), 1);
    drop(keyring);
    fs::write(deployment.file(&id), b"torn").unwrap();
    let server = deployment.serve();
    let refused = deployment.run(&["--json", "org", "recover", "acme", "--txid", &before]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("data_key_destroyed"), "{refused:?}");
    assert_eq!(fs::read(deployment.file(&id)).unwrap(), b"torn");
    server.stop();
}

#[test]
fn the_master_key_before_is_kept_as_long_as_the_backup_of_the_keyring_needs_it() {
    let (deployment, _) = crate::backup::deployment();
    let (server, mut operator, _) = deployment.started();
    operator.organization("acme");
    let master = || fs::read_to_string(deployment.data_dir().join("master.key")).unwrap();
    let old = master();
    let at = "/v1/keys/master_rotations";
    let until = |operator: &mut Operator, wanted: &str| {
        let deadline = patience();
        loop {
            let rotation = operator.get("/v1/keys").unwrap().json()["master_rotation"].take();
            if rotation["state"] == wanted {
                return rotation;
            }
            assert!(Instant::now() < deadline, "not {wanted}: {rotation}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    assert_eq!(operator.post(at, &json!({})).unwrap().status, 202);
    let waiting = until(&mut operator, "waiting");
    assert!(waiting["retired_at"].is_null() && waiting["retire_at"].is_string(), "{waiting}");
    // The new one first, and the one before still there: what the backup holds of yesterday can be opened.
    assert!(master().lines().count() == 2 && !master().starts_with(old.trim()) && master().contains(old.trim()));
    let again = operator.post(at, &json!({})).unwrap();
    assert_eq!((again.status, again.json()["code"].as_str()), (409, Some("key_rotation_running")));
    // Whoever cannot wait gives up what the backup has of before.
    assert_eq!(operator.post(at, &json!({"retire_now": true})).unwrap().status, 202);
    until(&mut operator, "done");
    assert!(master().lines().count() == 1 && !master().contains(old.trim()));
    let copy = deployment.directory.path().join("fetched.sqlite");
    crate::backup::shipped(&mut operator);
    let fetched = deployment.run(&["backup", "fetch", "keyring", "--to", copy.to_str().unwrap()]);
    assert!(fetched.status.success(), "{fetched:?}");
    let copied = Connection::open(&copy).unwrap();
    let masters: i64 =
        copied.query_row("SELECT count(DISTINCT master_key_id) FROM data_key", [], |row| row.get(0)).unwrap();
    assert_eq!(masters, 1);
    server.stop();
}

#[test]
fn the_command_line_shows_and_rotates() {
    let deployment = Deployment::new();
    let server = deployment.serve();
    let key = deployment.operator_key();
    Operator::new(&server, &key).organization("acme");
    let said = |args: &[&str]| {
        let ran = deployment.run(args);
        assert!(ran.status.success(), "{args:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap()
    };
    let secret = fs::read_to_string(deployment.data_dir().join("master.key")).unwrap();
    let shown = said(&["keys", "status"]);
    assert!(shown.contains("provider:   file") && !shown.contains(secret.trim()), "{shown}");
    assert!(said(&["keys", "rotate-master", "--dry-run"]).contains("2 keys would be wrapped anew"));
    assert_eq!(fs::read_to_string(deployment.data_dir().join("master.key")).unwrap(), secret);
    assert!(said(&["keys", "rotate-master"]).contains("2 keys are wrapped by the master key"));
    assert!(said(&["org", "rotate-key", "acme"]).contains("version 2"));
    assert!(said(&["keys", "rotate-data", "--all", "--dry-run"]).contains("1 organizations"));
    assert!(said(&["keys", "rotate-data", "--all"]).contains("1 of 1 organizations"));
    assert!(said(&["keys", "rotate-data", "--older-than", "5"]).contains("0 of 0 organizations"));
    assert_eq!(deployment.run(&["keys", "rotate-data"]).status.code(), Some(2));
    let shown = said(&["keys", "status"]);
    assert!(shown.contains("2 replaced data keys are kept, each for 192 hours"), "{shown}");
    server.stop();
    // On a stopped deployment as well.
    assert!(said(&["keys", "rotate-master"]).contains("4 keys are wrapped by the master key"));
}
