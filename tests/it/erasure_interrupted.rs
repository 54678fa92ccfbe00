//! Erasures that are interrupted: by a stop after each step, by a kill at any moment; and at the command line.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use bulkhead::base::time::length;
use bulkhead::features::erasure::{Step, next, progress, require, round};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::erasure::{certified, erased};
use crate::organizations::file_of;
use crate::process::{Deployment, HOST, Operator, Person, host_of, owner_of, patience};
use crate::wire::Request;
use crate::world::World;

/// After each step, a stop; and the next start goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_interrupts_it_the_next_start_completes_it_once() {
    const STEPS: [Step; 6] =
        [Step::Close, Step::Examine, Step::DestroyKey, Step::RemoveFiles, Step::RemoveReplica, Step::Certify];
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for count in 0..=STEPS.len() {
        let slug = format!("stopped-{count}");
        ids.push(world.organization(&slug).await);
        world.operator().put(&format!("/v1/organizations/{slug}/erasure"), &json!({"after_days": 1})).await.expect(202);
    }
    // Each request wakes the round of the deployment, which goes on with what has begun: it shall be asleep again.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for (count, id) in ids.iter().enumerate() {
        for step in &STEPS[..count] {
            let taken = next(world.app().state(), id.parse().unwrap()).await.unwrap();
            if taken != Some(*step) {
                // It was not, on a slow machine. What has to be in the end is the same.
                break;
            }
        }
    }
    let neighbour = world.organization("neighbour").await;
    world.clock.advance(length::days(2));
    world.while_stopped(|_| ()).await;
    for id in &ids {
        let erasure = erased(&world, id).await;
        let says = certified(&world, &erasure).await;
        assert!(says["destroyed"]["data_key"].is_object(), "{says}");
        assert!(
            says["destroyed"]["files"].as_array().unwrap().iter().any(|file| file["name"] == "db.sqlite"),
            "{says}"
        );
        assert!(says["audit_head"]["sequence"].as_i64().unwrap() > 2, "{says}");
        assert!(!file_of(&world, id).parent().unwrap().exists());
        assert_eq!(next(world.app().state(), id.parse().unwrap()).await.unwrap(), None);
    }
    let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json();
    let of = |id: &str, action: &str| {
        let events = log["data"].as_array().unwrap().iter();
        events.filter(|event| event["action"] == action && event["targets"][0]["id"] == id).count()
    };
    for id in &ids {
        assert_eq!((of(id, "organization.erasure_begun"), of(id, "organization.erased")), (1, 1), "{id}");
    }
    world.operator().get(&format!("/v1/organizations/{neighbour}")).await.expect(200);
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert_eq!(check["ok"], true, "{check}");
}

/// `kill -9` at any moment: in the end everything is erased, each with one certificate.
#[test]
fn a_kill_at_any_moment_leaves_nothing_half_erased() {
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let mut all: Vec<(String, String)> = Vec::new();
    let mut server = deployment.serve();
    Operator::new(&server, &key).organization("neighbour");
    for round in 0..6_u64 {
        let mut operator = Operator::new(&server, &key);
        for n in 0..3 {
            let slug = format!("gone-{round}-{n}");
            all.push((operator.organization(&slug), slug));
        }
        for (_, slug) in &all[all.len() - 3..] {
            let path = format!("/v1/organizations/{slug}/erasure");
            let asked = operator.call("PUT", &path, &json!({"immediately": true})).unwrap();
            assert_eq!(asked.status, 202, "{}", asked.text());
        }
        std::thread::sleep(Duration::from_millis(round * 7 + u64::from(std::process::id() % 5)));
        server.kill();
        server = deployment.serve();
    }
    let mut operator = Operator::new(&server, &key);
    let deadline = patience();
    let mut certificates = HashSet::new();
    for (id, slug) in &all {
        let erasure = loop {
            let erasure = operator.get(&format!("/v1/erasures/{id}")).unwrap().json();
            if erasure["state"] == "erased" {
                break erasure;
            }
            assert!(Instant::now() < deadline, "{erasure}\n{}", server.log());
            std::thread::sleep(Duration::from_millis(10));
        };
        certificates.insert(erasure["certificate"].as_str().unwrap().to_owned());
        assert!(!deployment.place(id).exists());
        assert_eq!(operator.get(&format!("/v1/organizations/{slug}")).unwrap().status, 404);
    }
    assert_eq!(certificates.len(), all.len());
    let session = Person::at(&server, &host_of("neighbour")).sign_in(&owner_of("neighbour")).unwrap();
    let checked = server.client().send(&Request::get(&host_of("neighbour"), "/v1/session").cookie(&session)).unwrap();
    assert_eq!(checked.status, 200);
    assert_eq!(operator.get("/v1/audit_events/verification").unwrap().json()["intact"], true);
    server.stop();
    let keyring = Connection::open(deployment.data_dir().join("keyring.sqlite")).unwrap();
    let keys: i64 = keyring.query_row("SELECT count(*) FROM data_key", [], |row| row.get(0)).unwrap();
    assert_eq!(keys, 2, "the deployment's and the neighbour's");
    let catalog = Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
    let count = |sql: &str| catalog.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let events = "SELECT count(*) FROM audit_event WHERE action = 'organization.erased'";
    assert_eq!(usize::try_from(count(events)).unwrap(), all.len());
    assert_eq!(Operator::problems(&deployment), []);
}

#[test]
fn an_operator_erases_at_the_command_line() {
    let deployment = Deployment::new();
    for (slug, owner) in [("acme", "owner@acme.test"), ("globex", "owner@globex.test")] {
        deployment.json(&["org", "create", "--name", slug, "--slug", slug, "--owner-email", owner]);
    }
    let id = deployment.json(&["org", "show", "acme"])["id"].as_str().unwrap().to_owned();
    let text = |args: &[&str]| {
        let ran = deployment.run(args);
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, out, _) = text(&["org", "erase", "acme", "--dry-run"]);
    assert!(code == Some(0) && out.contains("db.sqlite") && out.contains("Nothing was changed"), "{out}");
    assert_eq!(deployment.json(&["org", "show", "acme"])["state"], "active");
    let (code, out, _) = text(&["org", "erase", "acme", "--after-days", "3", "--reason", "they left"]);
    assert!(code == Some(0) && out.contains("--cancel") && out.contains(&id), "{out}");
    let (code, out, _) = text(&["org", "certificate", &id]);
    assert!(code == Some(1) && out.contains("scheduled"), "{out}");
    assert_eq!(text(&["org", "erase", "acme", "--cancel"]).0, Some(0));
    assert_eq!(deployment.json(&["org", "show", "acme"])["state"], "active");
    for wrong in
        [&["--now", "--after-days", "3"][..], &["--dry-run", "--now"], &["--after-days", "91"], &["--cancel", "--now"]]
    {
        assert_eq!(text(&[&["org", "erase", "acme"], wrong].concat()).0, Some(2), "{wrong:?}");
    }

    // On a stopped deployment, in this one process.
    let (code, out, _) = text(&["org", "erase", "acme", "--now"]);
    assert!(code == Some(0) && out.contains("Erased acme"), "{out}");
    let (code, certificate, _) = text(&["org", "certificate", &id]);
    assert_eq!(code, Some(0));
    let file = |name: &str, text: &str| {
        let path = deployment.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let server = deployment.serve();
    let jwks = server.client().send(&Request::get(HOST, "/oauth2/jwks")).unwrap().text();
    let (good, keys) = (file("certificate", &certificate), file("jwks", &jwks));
    let address = format!("{}/oauth2/jwks", deployment.url());
    for keys in [keys.as_str(), address.as_str()] {
        let (code, out, err) = text(&["org", "certificate", &id, "--verify", &good, "--jwks", keys]);
        assert!(code == Some(0) && out.contains("genuine") && out.contains("may remain"), "{out}{err}");
    }
    server.stop();
    let changed = file("changed", &certificate.replacen('e', "f", 1));
    for (id, certificate) in [(id.as_str(), &changed), ("org_00000000000000000000000009", &good)] {
        let (code, out, _) = text(&["org", "certificate", id, "--verify", certificate, "--jwks", &keys]);
        assert!(code == Some(1) && out.contains("NOT a genuine"), "{out}");
    }
    assert_eq!(text(&["org", "show", "acme"]).0, Some(1));
    assert_eq!(deployment.json(&["org", "show", "globex"])["state"], "active");
}

/// Where the folder should be there is a file, as if a mount had gone away.
#[test]
fn at_the_command_line_it_is_said_what_an_erasure_waits_for() {
    let (deployment, replica) = crate::backup::deployment();
    let (slugs, away) = (["acme", "beside", "third"], replica.with_extension("away"));
    let (mut server, mut operator, _) = deployment.started();
    let ids = slugs.map(|slug| operator.organization(slug));
    crate::backup::shipped(&mut operator);
    fs::rename(&replica, &away).unwrap();
    fs::write(&replica, "in the way").unwrap();

    let ran = deployment.run(&["org", "erase", "acme", "--now", "--yes", "--wait", "20"]);
    let [said, beside] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(ran.status.code(), Some(1), "{said}{beside}");
    // What is waited for, in whole lines: nothing moves in a pipe.
    assert!(beside.contains("erasing: waiting for the store of the backup") && !beside.contains('\r'), "{beside}");
    for part in ["What remains: deleting its copies", "signing the certificate", "backup_refused", &ids[0]] {
        assert!(said.contains(part), "{part} is not said: {said}");
    }
    assert!(!said.contains("What remains: removing its files"), "{said}");
    // A program reads one document and nothing else.
    let ran = deployment.run(&["--json", "org", "erase", "beside", "--now", "--yes", "--wait", "20"]);
    assert_eq!((ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned()), (Some(1), String::new()));
    let found: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&found["state"], &found["next_step"]), (&json!("erasing"), &json!("remove_backup")), "{found}");

    // The store is back: nobody asks for it again, and both come to their end.
    fs::remove_file(&replica).unwrap();
    fs::rename(&away, &replica).unwrap();
    server.kill();
    let server = deployment.serve();
    for id in &ids[..2] {
        let deadline = patience();
        while !deployment.run(&["org", "certificate", id]).status.success() {
            assert!(Instant::now() < deadline, "{}", server.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        let found = deployment.json(&["org", "certificate", id]);
        assert_eq!((&found["next_step"], &found["failure"]), (&Value::Null, &Value::Null), "{found}");
    }
    let ran = deployment.run(&["org", "erase", "third", "--now", "--yes"]);
    assert!(ran.status.success() && String::from_utf8_lossy(&ran.stdout).contains("Erased third"), "{ran:?}");
    server.stop();
}

/// A round goes through all of them twice, once up to the backups and once to the end.
#[tokio::test(flavor = "multi_thread")]
async fn why_an_erasure_waits_is_said_as_long_as_it_is_true() {
    let copies = tempfile::tempdir().unwrap();
    let (replica, away) = (copies.path().join("replica"), copies.path().join("away"));
    let url = format!("file://{}", replica.display());
    let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20")];
    let world = World::with(&settings).await;
    let ids = [world.organization("acme").await, world.organization("beside").await];
    world.operator().get("/v1/organizations/acme/differences?from=0000000000000001").await.expect(200);
    fs::rename(&replica, &away).unwrap();
    fs::write(&replica, "in the way").unwrap();
    for id in &ids {
        let path = format!("/v1/organizations/{id}/erasure");
        world.operator().put(&path, &json!({"immediately": true})).await.expect(202);
    }
    let deadline = patience();
    for id in &ids {
        while world.operator().get(&format!("/v1/erasures/{id}")).await.expect(200).json()["failure"].is_null() {
            assert!(Instant::now() < deadline, "{id} has not failed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let state = world.app().state().clone();
    let rounds = {
        let state = state.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                round(&state).await;
            }
        })
    };
    while !rounds.is_finished() {
        // Between one step of a round and the next.
        let turn = state.erasures.turn().await;
        for id in &ids {
            let erasure = require(&state, id.parse().unwrap()).await.unwrap();
            let found = progress(&state, &erasure).await.unwrap();
            assert!(found.step == Some(Step::RemoveReplica) && found.failure.is_some(), "{id}: {found:?}");
        }
        drop(turn);
        tokio::task::yield_now().await;
    }
    rounds.await.unwrap();
}
