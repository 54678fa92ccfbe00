//! The backup of organizations that cannot be looked at: set aside, it rests, says why, and goes on when they are
//! released; while one is being made, it waits for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead::backup::{Source, Target};
use bulkhead::base::OrganizationId;
use serde_json::{Value, json};

use crate::organizations::file_of;
use crate::process::Deployment;
use crate::transfer::{Carried, STEPS, Side};
use crate::wire::PATIENCE;
use crate::world::{World, until};

async fn backup_of(world: &World, slug: &str) -> Value {
    world.operator().get(&format!("/v1/organizations/{slug}/backup")).await.expect(200).json()
}

async fn waiting(world: &World) -> Value {
    world.operator().get("/v1/backup").await.expect(200).json()["waiting"].clone()
}

async fn rename(world: &World, slug: &str, name: &str) {
    world.operator().patch(&format!("/v1/organizations/{slug}"), &json!({ "name": name })).await.expect(200);
}

async fn shipped(world: &World, id: &str) {
    let backups = world.app().state().backups.clone().unwrap();
    backups.ship_now(Source::Organization(id.parse().unwrap())).await.unwrap();
}

/// The name that the newest copy has.
async fn name_at_the_store(world: &World, id: &str, directory: &Path) -> String {
    let out = directory.join("restored.sqlite");
    let _ = fs::remove_file(&out);
    let backups = world.app().state().backups.clone().unwrap();
    let id: OrganizationId = id.parse().unwrap();
    backups.restore(Source::Organization(id), Target::Latest, &out).await.unwrap();
    let restored = rusqlite::Connection::open(out).unwrap();
    restored.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_aside_waits_without_trying_says_why_and_is_shipped_when_it_is_released() {
    let directory = tempfile::tempdir().unwrap();
    let (replica, away) = (directory.path().join("replica"), directory.path().join("away"));
    let url = format!("file://{}", replica.display());
    let mut world = World::with(&[("BULKHEAD_BACKUP_URL", &url), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")]).await;
    let id = world.organization("acme").await;
    let globex = world.organization("globex").await;
    rename(&world, "acme", "Before").await;
    shipped(&world, &id).await;
    // The store is away for a while, so what is written waits.
    fs::rename(&replica, &away).unwrap();
    fs::write(&replica, "no folder").unwrap();
    rename(&world, "acme", "Not shipped").await;
    until("that it cannot be shipped is told", async || {
        backup_of(&world, "acme").await["progress"]["last_error"].is_string()
    })
    .await;
    let aside = json!({"reason": "looks odd"});
    world.operator().put("/v1/organizations/acme/quarantine", &aside).await.expect(200);
    fs::remove_file(&replica).unwrap();
    fs::rename(&away, &replica).unwrap();

    let resting = async |world: &World| {
        until("it rests", async || {
            backup_of(world, "acme").await["progress"]["stopped"].is_string() && waiting(world).await == 0
        })
        .await;
        let found = backup_of(world, "acme").await;
        let progress = &found["progress"];
        assert!(progress["stopped"].as_str().unwrap().contains("set aside"), "{found}");
        // It waits, and nothing fails: nobody tries.
        assert!(progress["behind_since"].is_string() && progress["last_error"].is_null(), "{found}");
        assert_eq!((&found["store_reachable"], &found["replication"]), (&json!(true), &Value::Null), "{found}");
        assert!(found["newest"]["txid"].is_string(), "{found}");
    };
    resting(&world).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "Before");
    // The others are not held up.
    rename(&world, "globex", "Goes on").await;
    shipped(&world, &globex).await;
    // A start finds it in its write-ahead log, and leaves it there as well.
    world.while_stopped(|_| ()).await;
    resting(&world).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "Before");
    // What a stranger may not see of an organization, nobody sees because it is set aside.
    world.stranger().get("/v1/organizations/acme/backup").await.expect(401);
    let key = world.organization_key("globex", &["*"]).await;
    assert_ne!(world.api(&key).get("/v1/organizations/acme/backup").await.status, 200);

    world.operator().delete("/v1/organizations/acme/quarantine").await.expect(204);
    until("it is shipped", async || {
        let found = backup_of(&world, "acme").await;
        let progress = &found["progress"];
        progress["stopped"].is_null() && progress["behind_since"].is_null() && progress["shipped_at"].is_string()
    })
    .await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "Not shipped");
    assert_eq!(backup_of(&world, "acme").await["replication"], "local");
}

/// Starts anew with a backup, and waits until everything else is there.
async fn begin_copies(world: &mut World, replica: &Path) {
    world.set("BULKHEAD_BACKUP_URL", &format!("file://{}", replica.display()));
    world.set("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10");
    world.while_stopped(|_| ()).await;
    let standing = world.data_dir().join("backup.json");
    until("the store has everything else", async || {
        fs::read(&standing).is_ok_and(|bytes| {
            serde_json::from_slice::<Value>(&bytes).is_ok_and(|standing| standing["complete"] == true)
        })
    })
    .await;
}

/// Where the store is new, one that is set aside keeps nobody from knowing that the others are there, and is shipped
/// as a whole when it is released.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_is_complete_without_what_is_set_aside() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    world.operator().put("/v1/organizations/acme/quarantine", &json!({"reason": "looks odd"})).await.expect(200);
    begin_copies(&mut world, &replica).await;
    assert!(backup_of(&world, "acme").await["oldest"].is_null());
    // Not even a start between makes anybody forget it.
    world.while_stopped(|_| ()).await;
    world.operator().delete("/v1/organizations/acme/quarantine").await.expect(204);
    until("it is there", async || backup_of(&world, "acme").await["newest"]["txid"].is_string()).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "acme");
}

/// Released while the store is away: whoever stops then still knows that nothing of it is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_released_while_the_store_is_away_is_shipped_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let (replica, away) = (directory.path().join("replica"), directory.path().join("away"));
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    world.operator().put("/v1/organizations/acme/quarantine", &json!({"reason": "looks odd"})).await.expect(200);
    // Those that were made lately are looked at by every start.
    world.clock.advance(Duration::from_secs(3 * 24 * 3600));
    begin_copies(&mut world, &replica).await;
    fs::rename(&replica, &away).unwrap();
    fs::write(&replica, "no folder").unwrap();
    world.operator().delete("/v1/organizations/acme/quarantine").await.expect(204);
    let told = backup_of(&world, "acme").await;
    assert!(told["progress"]["stopped"].is_null(), "it is still said to be set aside: {told}");
    world
        .while_stopped(|_| {
            fs::remove_file(&replica).unwrap();
            fs::rename(&away, &replica).unwrap();
        })
        .await;
    until("it is there", async || backup_of(&world, "acme").await["newest"]["txid"].is_string()).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "acme");
}

/// Between the moment at which a new organization is in the catalog and the one at which it is found there, somebody may
/// want to ship it: what was written to it waits, also where nothing is written to it ever again.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_is_not_found_yet_is_not_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().join("replica").display());
    let world = World::with(&[("BULKHEAD_BACKUP_URL", &url), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")]).await;
    let id = world.organization("acme").await;
    until("everything is shipped", async || waiting(&world).await == 0).await;
    let state = world.app().state();
    let organization: OrganizationId = id.parse().unwrap();
    let is = |what: &str| {
        let catalog = rusqlite::Connection::open(world.data_dir().join("catalog.sqlite")).unwrap();
        catalog.busy_timeout(PATIENCE).unwrap();
        catalog.execute("UPDATE organization SET state = ?1", [what]).unwrap();
    };
    let backups = state.backups.clone().unwrap();
    let source = Source::Organization(organization);
    loop {
        // Somebody has looked for it before it was there. That is remembered for ten seconds.
        let begun = Instant::now();
        is("creating");
        state.directory.forget(organization);
        assert!(state.directory.by_id(organization).await.is_err());
        // Nobody is led to it, so nobody who is told of it is promised to have it back.
        backups.confirm(&[source]).await.unwrap();
        is("active");
        let told = backups.ship_now(source).await;
        let waits = waiting(&world).await;
        if (told.is_ok() || waits == 0) && begun.elapsed() > Duration::from_secs(9) {
            continue;
        }
        told.expect_err("it is said to be at the store");
        assert_ne!(waits, 0, "nobody will ship it");
        break;
    }
    state.directory.appeared();
    until("it is shipped", async || waiting(&world).await == 0).await;
    assert!(backup_of(&world, "acme").await["progress"]["txid"].is_string());
}

/// What cannot be looked at while everything is shipped to a new store is not forgotten by a process that ends before it
/// can be.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_store_could_not_be_given_at_first_is_shipped_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let file = file_of(&world, &id);
    // Those that were made lately are looked at by every start.
    world.clock.advance(Duration::from_secs(3 * 24 * 3600));
    let locked = world
        .while_stopped(|_| {
            let locked = rusqlite::Connection::open(&file).unwrap();
            locked.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; COMMIT").unwrap();
            locked
        })
        .await;
    begin_copies(&mut world, &replica).await;
    let organization: OrganizationId = id.parse().unwrap();
    let copy = replica.join(Source::Organization(organization).path());
    assert!(!copy.exists(), "nobody could read it");
    world.while_stopped(|_| drop(locked)).await;
    until("it is there", async || backup_of(&world, "acme").await["newest"]["txid"].is_string()).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "acme");
}

/// What the data directory knows of the store cannot be read for a while: it is not taken for one that knows nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_the_store_is_not_written_anew_while_it_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    begin_copies(&mut world, &replica).await;
    let standing = world.data_dir().join("backup.json");
    let right = fs::read(&standing).unwrap();
    world
        .while_stopped(|_| {
            fs::remove_file(&standing).unwrap();
            // It leads to itself, and can no more be read than one that the disk does not give.
            std::os::unix::fs::symlink("backup.json", &standing).unwrap();
        })
        .await;
    rename(&world, "acme", "Waits").await;
    until("it is told", async || {
        let told = backup_of(&world, "acme").await;
        told["progress"]["last_error"].as_str().is_some_and(|why| why.contains("backup.json"))
    })
    .await;
    assert!(fs::symlink_metadata(&standing).unwrap().is_symlink(), "it was written anew");
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "acme");
    fs::remove_file(&standing).unwrap();
    fs::write(&standing, &right).unwrap();
    until("it is shipped", async || waiting(&world).await == 0).await;
    assert_eq!(name_at_the_store(&world, &id, directory.path()).await, "Waits");
    let kept: Value = serde_json::from_slice(&fs::read(&standing).unwrap()).unwrap();
    assert_eq!(kept["rights"], serde_json::from_slice::<Value>(&right).unwrap()["rights"]);
}

/// What arrives from another deployment is in no backup before it is served here: whoever sends it is told that it is
/// here all the same, also where everything that is told waits for the store.
#[test]
fn an_arrival_is_taken_where_everything_waits_for_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let target = Deployment::new()
        .with("BACKUP_URL", format!("file://{}", directory.path().join("replica").display()))
        .with("BACKUP_REPLICATION", "object")
        .with("BACKUP_CONFIRM_SECONDS", 250)
        .with("BACKUP_DELAY_MILLISECONDS", 20);
    let mut carried = Carried::between(Side::new(), Side::of(target));
    carried.steps(STEPS - 1);
    let copy = directory.path().join("replica").join(Source::Organization(carried.id.parse().unwrap()).path());
    assert!(!copy.exists());
    carried.step(STEPS - 1);
    // It is served, and so it is there.
    assert!(copy.exists());
    assert_eq!(carried.writers(), (false, true));
}
