//! Organizations' files on their way from one volume to another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead::base::OrganizationId;
use bulkhead::catalog::{Erasure, Stage};
use bulkhead::features::audit::By;
use bulkhead::features::erasure;
use bulkhead::features::placement::{self, Step};
use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::organizations::file_of;
use crate::process::{Deployment, Operator, patience};
use crate::world::World;

const PATH: &str = "/v1/organizations/acme/placement";

/// A deployment with a volume by the name `fast`.
async fn world() -> (World, TempDir) {
    let volume = tempfile::tempdir().unwrap();
    let setting = format!("fast={}", volume.path().display());
    (World::with(&[("BULKHEAD_FILES_VOLUMES", &setting)]).await, volume)
}

/// The same place below another root.
fn on_volume(world: &World, id: &str, volume: &Path) -> PathBuf {
    let file = file_of(world, id);
    volume.join(file.strip_prefix(world.data_dir()).unwrap())
}

async fn moved(world: &World, to: &str) -> Value {
    world.operator().put(PATH, &json!({"volume": to})).await.expect(202);
    world.awaited(PATH, |found| found["state"].is_null()).await
}

/// Everything that stands on a volume: no workshop, no copy.
fn files_on(volume: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![volume.to_owned()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found
}

async fn assert_nothing_is_out_of_place(world: &World) {
    let walk = world.operator().post("/v1/fleet/checks", &json!({})).await.expect(202).id();
    let found = world.walked("checks", &walk).await;
    assert_eq!((&found["state"], &found["findings"]), (&json!("done"), &json!([])), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_to_another_volume_and_back_while_it_is_used() {
    let (mut world, volume) = world().await;
    let id = world.organization("acme").await;
    world.organization("other").await;
    let session = world.signed_in("acme", "owner@acme.test").await.session().unwrap();
    let operator = world.operator();
    let plan = operator.put(PATH, &json!({"volume": "fast", "dry_run": true})).await.expect(200).json();
    assert!(plan["bytes"].as_u64().unwrap() > 50_000 && plan["bytes_free"].as_u64().unwrap() > 0, "{plan}");
    assert!(file_of(&world, &id).exists() && !on_volume(&world, &id, volume.path()).exists());

    // Nobody is turned away while it is on its way.
    let writes = async {
        for n in 0..20 {
            world.member("acme", &format!("person-{n}@acme.test")).await;
        }
    };
    let (found, ()) = tokio::join!(moved(&world, volume.path().to_str().unwrap()), writes);
    assert_eq!((&found["volume"], &found["failure"]), (&json!("fast"), &Value::Null), "{found}");
    assert!(on_volume(&world, &id, volume.path()).exists());
    assert!(!file_of(&world, &id).parent().unwrap().exists(), "the old place is not empty");
    let check = json!({"session_token": session});
    for _ in 0..2 {
        world.operator().post("/v1/organizations/acme/sessions/authenticate", &check).await.expect(200);
        let members = world.operator().get("/v1/organizations/acme/members?limit=100").await.expect(200).json();
        assert_eq!(members["data"].as_array().unwrap().len(), 21);
        assert_nothing_is_out_of_place(&world).await;
        world.while_stopped(|_| ()).await;
    }
    let stats = world.operator().get("/v1/fleet/stats").await.expect(200).json();
    assert_eq!((&stats["by_volume"], &stats["without_file"]), (&json!({"fast": 1, "local": 1}), &json!(0)), "{stats}");
    let operators = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json().to_string();
    assert!(operators.contains("organization.relocated"));

    assert_eq!(moved(&world, "local").await["volume"], "local");
    assert!(file_of(&world, &id).exists());
    assert_eq!(files_on(volume.path()), Vec::<PathBuf>::new());
    world.signed_in("acme", "owner@acme.test").await;
    assert_nothing_is_out_of_place(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_one_place_and_it_counts() {
    let (mut world, volume) = world().await;
    let id = world.organization("acme").await;
    let organization: OrganizationId = id.parse().unwrap();
    // The copy is there, and nothing else: undone.
    let state = world.app().state().clone();
    placement::begin(&state, organization, "fast", &By::system()).await.unwrap();
    world.operator().put(PATH, &json!({"volume": "fast"})).await.expect_problem(409, "relocation_running");
    for path in ["erasure", "freeze"] {
        let path = format!("/v1/organizations/acme/{path}");
        let refused = world.operator().put(&path, &json!({"reason": "r"})).await;
        refused.expect_problem(409, "relocation_running");
    }
    assert_eq!(placement::next(&state, organization).await.unwrap(), Some(Step::Copy));
    assert!(!files_on(volume.path()).is_empty());
    world.member("acme", "since@acme.test").await;
    drop(state);
    world.while_stopped(|_| ()).await;
    assert_eq!(files_on(volume.path()), Vec::<PathBuf>::new());
    let found = world.operator().get(PATH).await.expect(200).json();
    assert_eq!((&found["volume"], &found["state"]), (&json!("local"), &Value::Null));

    // It stands at the new place, and the catalog does not say so yet: undone as well.
    let state = world.app().state().clone();
    placement::begin(&state, organization, "fast", &By::system()).await.unwrap();
    drop(state);
    let (old, new) = (file_of(&world, &id), on_volume(&world, &id, volume.path()));
    world
        .while_stopped(|_| {
            fs::create_dir_all(new.parent().unwrap()).unwrap();
            fs::copy(&old, &new).unwrap();
        })
        .await;
    assert_eq!((old.exists(), files_on(volume.path())), (true, Vec::<PathBuf>::new()));

    // The catalog says so, and the old place is not empty yet: completed. What was written in between is there.
    let state = world.app().state().clone();
    placement::begin(&state, organization, "fast", &By::system()).await.unwrap();
    placement::next(&state, organization).await.unwrap();
    world.member("acme", "between@acme.test").await;
    assert_eq!(placement::next(&state, organization).await.unwrap(), Some(Step::Switch));
    world.member("acme", "after@acme.test").await;
    assert!(old.exists());
    drop(state);
    world.while_stopped(|_| ()).await;
    assert!(new.exists() && !old.exists());
    let members = world.operator().get("/v1/organizations/acme/members").await.expect(200).json().to_string();
    for name in ["since@", "between@", "after@"] {
        assert!(members.contains(name), "{members}");
    }
    assert_nothing_is_out_of_place(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_stays_and_a_missing_volume_is_missed_by_its_own_alone() {
    let (mut world, volume) = world().await;
    let id = world.organization("acme").await;
    world.organization("other").await;
    let operator = world.operator();
    for to in ["elsewhere", "/tmp", ""] {
        operator.put(PATH, &json!({"volume": to})).await.expect_problem(409, "volume_unusable");
    }
    operator.put(PATH, &json!({"volume": "local"})).await.expect_problem(409, "already_there");
    let away = volume.path().with_extension("away");
    fs::rename(volume.path(), &away).unwrap();
    operator.put(PATH, &json!({"volume": "fast"})).await.expect_problem(409, "volume_unusable");
    fs::rename(&away, volume.path()).unwrap();
    assert_eq!(moved(&world, "fast").await["volume"], "fast");
    world.operator().put(PATH, &json!({"volume": "fast"})).await.expect_problem(409, "already_there");

    world.while_stopped(|_| fs::rename(volume.path(), &away).unwrap()).await;
    let refused = world.browser("acme").get("/sign-in").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    world.operator().get("/v1/organizations/acme").await.expect_problem(503, "organization_unavailable");
    world.signed_in("other", "owner@other.test").await;
    // Nothing was made where it would be.
    assert!(!volume.path().exists() && !file_of(&world, &id).exists());
    world.while_stopped(|_| fs::rename(&away, volume.path()).unwrap()).await;
    world.signed_in("acme", "owner@acme.test").await;

    // Erased where it is.
    let erased = json!({"immediately": true});
    world.operator().put("/v1/organizations/acme/erasure", &erased).await.expect(202);
    crate::erasure::erased(&world, &id).await;
    assert_eq!(files_on(volume.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_does_not_take_the_key_from_a_file_that_the_catalog_does_not_know() {
    let (mut world, _volume) = world().await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    let archive = crate::export::archive_of(&world, "acme", &crate::import::sealed()).await;
    moved(&world, "fast").await;
    // A catalog from before it: not even where it stands is known.
    world.while_stopped(|data| crate::organizations::forget_in_catalog(data, &id.to_string())).await;
    let refused = crate::import::import(&world, &archive, "", Some(crate::import::PASSPHRASE)).await;
    assert!(refused.expect_problem(409, "organization_exists").mentions("catalog rebuild"));
    assert!(world.app().state().tenants.has_key(id).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_does_not_take_the_files_on_a_missing_volume_for_removed() {
    let (world, volume) = world().await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    assert_eq!(moved(&world, "fast").await["volume"], "fast");
    world.operator().put("/v1/organizations/acme/erasure", &json!({"after_days": 1})).await.expect(202);
    let state = world.app().state().clone();
    // As it is behind the third step.
    let mut begun = erasure::require(&state, id).await.unwrap();
    (begun.stage, begun.findings) = (Stage::Erasing, Some("{}".to_owned()));
    state.tenants.hold(id).await.unwrap().destroy_key().await.unwrap();
    let step = async |begun: &Erasure| erasure::progress(&state, begun).await.unwrap().step;
    assert_eq!(step(&begun).await, Some(erasure::Step::RemoveFiles));
    let away = volume.path().with_extension("away");
    fs::rename(volume.path(), &away).unwrap();
    assert_eq!(step(&begun).await, Some(erasure::Step::RemoveFiles), "they are there still");
    // The copies went after the files, so these are gone.
    begun.replica = Some("null".to_owned());
    assert_eq!(step(&begun).await, Some(erasure::Step::Certify));
    fs::rename(&away, volume.path()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_full_or_read_only_gets_nothing_whenever_that_shows() {
    let (world, volume) = world().await;
    let Some(_mount) = crate::fleet_room::Mount::new(volume.path(), 4 << 20) else { return };
    let id = world.organization("acme").await;
    let organization: OrganizationId = id.parse().unwrap();
    let state = world.app().state().clone();
    let ballast = volume.path().join("ballast");
    let read_only = |flag: &str| {
        let option = format!("remount,{flag}");
        let ran = Command::new("mount").args(["-o", &option]).arg(volume.path()).output().unwrap();
        assert!(ran.status.success(), "{ran:?}");
    };
    let room = |left: u64| {
        let found = rustix::fs::statvfs(volume.path()).unwrap();
        let size = (found.f_bavail * found.f_frsize).saturating_sub(left);
        fs::write(&ballast, vec![1; usize::try_from(size).unwrap()]).unwrap();
    };
    let tell = |rest: &[&Path]| {
        assert!(file_of(&world, &id).exists());
        assert_eq!(files_on(volume.path()), rest);
    };

    // Before anything is done.
    room(40 << 10);
    world.operator().put(PATH, &json!({"volume": "fast"})).await.expect_problem(503, "storage_full");
    tell(&[&ballast]);
    fs::remove_file(&ballast).unwrap();
    read_only("ro");
    world.operator().put(PATH, &json!({"volume": "fast"})).await.expect_problem(409, "volume_unusable");
    read_only("rw");

    // In the middle: before the copy, and between that and the switch.
    for is_copied in [false, true] {
        for is_full in [false, true] {
            placement::begin(&state, organization, "fast", &By::system()).await.unwrap();
            if is_copied {
                assert_eq!(placement::next(&state, organization).await.unwrap(), Some(Step::Copy));
                // More than fits beside it: something to be written anew.
                world.member("acme", &format!("since-{is_full}@acme.test")).await;
                let grown = fs::metadata(file_of(&world, &id)).unwrap().len();
                let text = "x".repeat(490);
                let metadata: serde_json::Map<_, _> = (0..50).map(|n| (format!("k{n}"), text.clone().into())).collect();
                let body = json!({"metadata": metadata, "name": format!("Acme {is_full}")});
                world.operator().patch("/v1/organizations/acme", &body).await.expect(200);
                for n in 0..60 {
                    world.member("acme", &format!("m{n}-{is_full}@acme.test")).await;
                }
                assert!(fs::metadata(file_of(&world, &id)).unwrap().len() >= grown);
            }
            if is_full {
                room(0);
            } else {
                read_only("ro");
            }
            placement::carry_out(&state, organization).await;
            if !is_full {
                read_only("rw");
            }
            let found = world.operator().get(PATH).await.expect(200).json();
            assert_eq!((&found["volume"], found["failure"].is_string()), (&json!("local"), true), "{found}");
            world.signed_in("acme", "owner@acme.test").await;
            if is_full {
                tell(&[&ballast]);
                fs::remove_file(&ballast).unwrap();
            }
        }
    }
    tell(&[]);
    assert_eq!(moved(&world, "fast").await["volume"], "fast");
    world.signed_in("acme", "owner@acme.test").await;
    assert_nothing_is_out_of_place(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_the_same_directory_by_another_name_is_none() {
    let (world, volume) = world().await;
    let id = world.organization("acme").await;
    std::os::unix::fs::symlink(world.data_dir().join("orgs"), volume.path().join("orgs")).unwrap();
    world.operator().put(PATH, &json!({"volume": "fast"})).await.expect_problem(409, "volume_unusable");
    // Nor does a later look at the catalog empty it.
    let (tenants, organization) = (world.app().state().tenants.clone(), id.parse().unwrap());
    assert!(
        tenants.leave(organization, Some("fast")).is_err() && tenants.undo_copy(organization, Some("fast")).is_err()
    );
    assert!(file_of(&world, &id).exists());
    world.signed_in("acme", "owner@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_file_is_moved_bit_for_bit() {
    let (world, _volume) = world().await;
    world.organization("acme").await;
    let freeze = "/v1/organizations/acme/freeze";
    world.operator().put(freeze, &json!({"reason": "case 4711"})).await.expect(200);
    assert_eq!(moved(&world, "fast").await["volume"], "fast");
    let found = world.operator().get(&format!("{freeze}/verification")).await.expect(200).json();
    assert_eq!(found["identical"], true, "{found}");
    let refused = world.operator().post("/v1/organizations/acme/members", &json!({"email": "new@acme.test"})).await;
    refused.expect_problem(409, "organization_frozen");
}

#[test]
fn the_command_line_moves_and_a_rebuilt_catalog_knows_all_volumes() {
    let volume = tempfile::tempdir().unwrap();
    let deployment = Deployment::new().with("FILES_VOLUMES", format!("fast={}", volume.path().display()));
    let key = deployment.operator_key();
    let server = deployment.serve();
    let id = Operator::new(&server, &key).organization("acme");
    let dry = deployment.json(&["org", "move", "acme", "--to", "fast", "--dry-run"]);
    assert_eq!(dry["moving_to"], "fast", "{dry}");
    let ran = deployment.run(&["org", "move", "acme", "--to", volume.path().to_str().unwrap()]);
    assert!(ran.status.success(), "{ran:?}");
    assert!(!deployment.file(&id).exists());
    let refused = deployment.run(&["org", "move", "acme", "--to", "/nowhere"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    server.stop();

    fs::remove_file(deployment.data_dir().join("catalog.sqlite")).unwrap();
    assert!(deployment.run(&["catalog", "rebuild"]).status.success());
    let (server, mut operator, _) = deployment.started();
    assert_eq!(operator.get("/v1/organizations/acme").unwrap().status, 200);
    assert_eq!(operator.get(PATH).unwrap().json()["volume"], "fast");
    server.stop();
}

/// A catalog out of a backup says that the file is on its way still. It has arrived long ago, and is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_catalog_removes_no_file_that_is_the_only_one_or_is_ahead() {
    let (mut world, volume) = world().await;
    let id = world.organization("acme").await;
    let organization: OrganizationId = id.parse().unwrap();
    let state = world.app().state().clone();
    placement::begin(&state, organization, "fast", &By::system()).await.unwrap();
    drop(state);
    let (old, new) = (file_of(&world, &id), on_volume(&world, &id, volume.path()));
    // As if the catalog were from before the switch: the file has gone there since.
    world
        .while_stopped(|_| {
            fs::create_dir_all(new.parent().unwrap()).unwrap();
            fs::rename(&old, &new).unwrap();
        })
        .await;
    assert!(new.exists(), "all there was of it was removed");
    world.operator().get("/v1/organizations/acme/members").await.expect(503);
    // Both are there, and the one that would be removed has gone on.
    world
        .while_stopped(|_| {
            fs::create_dir_all(old.parent().unwrap()).unwrap();
            fs::copy(&new, &old).unwrap();
            let behind = Connection::open(&old).unwrap();
            let last = "DELETE FROM audit_event WHERE sequence = (SELECT max(sequence) FROM audit_event)";
            assert_eq!(behind.execute(last, []).unwrap(), 1);
        })
        .await;
    assert!(new.exists() && old.exists(), "the one that is ahead was removed");
    // The one at its place goes on and is ahead then: the other one was a copy, and goes.
    world
        .while_stopped(|_| {
            fs::copy(&new, &old).unwrap();
        })
        .await;
    assert!(old.exists() && !new.exists());
    world.operator().get("/v1/organizations/acme/members").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_organization_that_was_erased_nothing_is_remembered() {
    let (world, _volume) = world().await;
    let organization: OrganizationId = world.organization("acme").await.parse().unwrap();
    moved(&world, "fast").await;
    let state = world.app().state().clone();
    assert_eq!(state.tenants.placed_on(organization).as_deref(), Some("fast"));
    world.operator().put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
    while erasure::next(&state, organization).await.unwrap().is_some() {}
    // Somebody else may be about to take the last step.
    let deadline = patience();
    while state.tenants.placed_on(organization).is_some() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!((state.tenants.placed_on(organization), state.tenants.why_shut(organization)), (None, None));
}

/// A move was interrupted between the moment at which the new place counts and the one at which the old one is empty,
/// and the catalog is lost: both places have the organization, and the longer log tells which is which.
#[test]
fn of_two_files_the_one_with_the_longer_log_counts_and_the_other_is_set_aside() {
    let volume = tempfile::tempdir().unwrap();
    let deployment = Deployment::new().with("FILES_VOLUMES", format!("fast={}", volume.path().display()));
    let (server, mut operator, key) = deployment.started();
    let (id, untouched) = (operator.organization("acme"), operator.organization("other"));
    let add = |operator: &mut Operator, name: &str| {
        let body = json!({"email": format!("{name}@acme.test")});
        operator.post(&format!("/v1/organizations/{id}/members"), &body).unwrap().status
    };
    assert_eq!(add(&mut operator, "before"), 201);
    server.stop();
    let at_home = deployment.place(&id);
    let there = volume.path().join(at_home.strip_prefix(deployment.data_dir()).unwrap());
    let catalog = deployment.data_dir().join("catalog.sqlite");
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to).unwrap();
        fs::copy(from.join("db.sqlite"), to.join("db.sqlite")).unwrap();
    };
    let goes_on = |name: &str| {
        let server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        let status = add(&mut operator, name);
        server.stop();
        status
    };
    let members = || {
        let server = deployment.serve();
        let list = Operator::new(&server, &key).get(&format!("/v1/organizations/{id}/members")).unwrap().text();
        server.stop();
        list
    };
    let aside = |root: &Path| match fs::read_dir(root.join("set-aside")) {
        Ok(found) => found.map(|entry| entry.unwrap().path()).collect::<Vec<_>>(),
        Err(_) => Vec::new(),
    };

    // The old place is one event behind, and the old catalog still has it: the longer one wins all the same.
    copy(&at_home, &there);
    Connection::open(&catalog)
        .unwrap()
        .execute_batch(&format!("UPDATE organization SET placement = 'fast' WHERE id = '{id}'"))
        .unwrap();
    assert_eq!(goes_on("since"), 201);
    Connection::open(&catalog)
        .unwrap()
        .execute_batch(&format!(
            "UPDATE organization SET placement = 'local' WHERE id = '{id}';
             INSERT INTO relocation VALUES ('{id}', 'fast', 'local', 'switched', 0)"
        ))
        .unwrap();
    let planned = deployment.json(&["catalog", "rebuild", "--dry-run"]);
    assert_eq!(planned["set_aside"].as_array().map(Vec::len), Some(1), "{planned:#}");
    assert!(at_home.exists() && there.exists() && aside(&deployment.data_dir()).is_empty());
    let ran = deployment.run(&["--json", "catalog", "rebuild"]);
    assert_eq!(ran.status.code(), Some(1), "somebody has to look: {ran:?}");
    let made: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let found = &made["set_aside"][0];
    assert_eq!(found["organization_id"], id.as_str(), "{made:#}");
    assert!(found["why"].as_str().unwrap().contains("but for the last"), "{made:#}");
    assert!(!at_home.exists() && there.exists());
    let kept = aside(&deployment.data_dir());
    assert!(kept.len() == 1 && kept[0].join("db.sqlite").exists(), "{kept:?}");
    let list = members();
    assert!(list.contains("since@acme.test") && list.contains("before@acme.test"), "{list}");
    // The start has not gone on with a move that was decided otherwise.
    assert!(there.exists());

    // Without any catalog: as the file at home goes on, and the one on the volume is old.
    copy(&there, &at_home);
    Connection::open(&catalog)
        .unwrap()
        .execute_batch(&format!("UPDATE organization SET placement = 'local' WHERE id = '{id}'"))
        .unwrap();
    assert_eq!(goes_on("later"), 201);
    // A log that is longer and not whole counts for nothing.
    let longer = Connection::open(there.join("db.sqlite")).unwrap();
    longer
        .execute_batch(
            "INSERT INTO audit_event (sequence, id, occurred_at, action, outcome, payload, payload_salt,
                                      payload_digest, prev_hash, hash)
               SELECT sequence + 100, 'event_' || hex(randomblob(12)), occurred_at, action, outcome, payload,
                      payload_salt, payload_digest, prev_hash, randomblob(32)
               FROM audit_event",
        )
        .unwrap();
    drop(longer);
    fs::remove_file(&catalog).unwrap();
    let made = deployment.json(&["catalog", "rebuild"]);
    let why = made["set_aside"][0]["why"].as_str().unwrap();
    assert!(why.contains("not whole"), "{made:#}");
    assert!(at_home.exists() && !there.exists() && aside(volume.path()).len() == 1, "{made:#}");
    assert_eq!(made["organizations"], 2, "{made:#}");
    let (server, mut operator, _) = deployment.started();
    let list = operator.get(&format!("/v1/organizations/{id}/members")).unwrap().text();
    assert!(list.contains("later@acme.test"), "{list}");
    assert_eq!(operator.get(&format!("/v1/organizations/{untouched}")).unwrap().status, 200);
    let checked = deployment.json(&["fleet", "check"]);
    assert_eq!(checked["findings"], json!([]), "what is set aside is nobody's: {checked:#}");
    server.stop();
}
