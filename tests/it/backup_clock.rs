//! Going back to a time, where the clock that dated the copies was wrong for a while.

use std::time::Duration;

use bulkhead::backup::{Source, Target};
use bulkhead::base::{Clock, OrganizationId, Timestamp};
use serde_json::json;

use crate::world::World;

const ACME: &str = "/v1/organizations/acme";

/// A change that has arrived at the store, a minute after the one before.
async fn rename(world: &World, id: OrganizationId, name: &str) {
    world.clock.advance(Duration::from_secs(60));
    world.operator().patch(ACME, &json!({ "name": name })).await.expect(200);
    let state = world.app().state();
    state.backups.as_ref().unwrap().ship_now(Source::Organization(id)).await.unwrap();
}

async fn name_at(world: &World, id: OrganizationId, at: Timestamp) -> String {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out.sqlite");
    let target = Target::Time(at.to_utc());
    let state = world.app().state();
    state.backups.as_ref().unwrap().restore(Source::Organization(id), target, &out).await.unwrap();
    let restored = rusqlite::Connection::open(out).unwrap();
    restored.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_was_ahead_hides_nothing_and_what_cannot_be_told_is_refused() {
    let replica = tempfile::tempdir().unwrap();
    let url = format!("file://{}", replica.path().display());
    let mut world = World::with(&[("BULKHEAD_BACKUP_URL", &url)]).await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    rename(&world, id, "First").await;
    rename(&world, id, "Second").await;
    let right = world.clock.now();
    let history = async |world: &World| world.operator().get(&format!("{ACME}/backup")).await.expect(200).json();
    assert_eq!(history(&world).await["clock_set_back"], json!([]));
    world.clock.advance(Duration::from_secs(2 * 3600));
    rename(&world, id, "Two hours ahead").await;
    let ahead = history(&world).await["newest"]["txid"].as_str().unwrap().to_owned();
    // The clock is set right, and the machine starts again.
    world.clock = Clock::manual(right);
    world.while_stopped(|_| ()).await;
    rename(&world, id, "Right again").await;
    let after = world.clock.now().plus(Duration::from_secs(30));
    let newest = history(&world).await["newest"]["txid"].as_str().unwrap().to_owned();
    rename(&world, id, "Later").await;
    // What is dated in the future cannot have been made then, but before what follows it.
    assert_eq!(name_at(&world, id, after).await, "Right again");
    assert_eq!(name_at(&world, id, right).await, "First");
    let found = history(&world).await;
    let [setback] = found["clock_set_back"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!(setback["before"]["txid"], ahead, "{found}");
    // What came with the restart may have been shipped on its own.
    let first = setback["after"]["txid"].as_str().unwrap();
    assert!(first > &*ahead && first <= &*newest, "{found}");

    // Three hours later it may have been made then: either clock may have been the wrong one.
    world.clock.advance(Duration::from_secs(3 * 3600));
    let back = format!("{ACME}/restorations");
    let asked = json!({ "at": after, "dry_run": true });
    let refused = world.operator().post(&back, &asked).await.expect_problem(409, "backup_time_unclear").json();
    let told = refused["detail"].as_str().unwrap();
    assert!(told.contains(&ahead) && told.contains(first), "{told}");
    let asked = json!({ "txid": newest, "dry_run": true });
    assert_eq!(world.operator().post(&back, &asked).await.expect(200).json()["txid"], newest);
    // Before all that, and after it, nothing is in doubt.
    assert_eq!(name_at(&world, id, right).await, "First");
    assert_eq!(name_at(&world, id, world.clock.now()).await, "Later");
}
