//! Organizations' files on their way from one volume to another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bulkhead::base::OrganizationId;
use bulkhead::features::audit::By;
use bulkhead::features::placement::{self, Step};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::organizations::file_of;
use crate::process::{Deployment, Operator};
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
    loop {
        let found = world.operator().get(PATH).await.expect(200).json();
        if found["state"].is_null() {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
    loop {
        let found = world.operator().get(&format!("/v1/fleet/checks/{walk}")).await.expect(200).json();
        if found["state"] != "running" {
            assert_eq!((&found["state"], &found["findings"]), (&json!("done"), &json!([])), "{found}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
    for _ in 0..1000 {
        let found = world.operator().get(&format!("/v1/erasures/{id}")).await.expect(200).json();
        if found["state"] == "erased" {
            assert_eq!(files_on(volume.path()), Vec::<PathBuf>::new());
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was not erased");
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
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    assert_eq!(operator.get("/v1/organizations/acme").unwrap().status, 200);
    assert_eq!(operator.get(PATH).unwrap().json()["volume"], "fast");
    server.stop();
}
