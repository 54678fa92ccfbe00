//! The backup of organizations that cannot be looked at: set aside, it rests, says why, and goes on when they are
//! released; while one is being made, it waits for it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead::backup::{Source, Target};
use bulkhead::base::OrganizationId;
use serde_json::{Value, json};

use crate::process::patience;
use crate::wire::PATIENCE;
use crate::world::World;

async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let deadline = patience();
    while !done().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

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

/// Where the store is new, one that is set aside keeps nobody from knowing that the others are there, and is shipped
/// as a whole when it is released.
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
    // Somebody has looked for it before it was there.
    is("creating");
    state.directory.forget(organization);
    assert!(state.directory.by_id(organization).await.is_err());
    is("active");
    shipped(&world, &id).await;
    assert_ne!(waiting(&world).await, 0, "nobody will ship it");
    state.directory.appeared();
    until("it is shipped", async || waiting(&world).await == 0).await;
    assert!(backup_of(&world, "acme").await["progress"]["txid"].is_string());
}
