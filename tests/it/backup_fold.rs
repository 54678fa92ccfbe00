//! Write-ahead logs that are folded because somebody waits for that, while somebody else reads in them.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use crate::organizations::file_of;
use crate::world::World;

/// More than may ship in the same moment because somebody waits for it.
const CROWD: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_log_to_be_folded_keeps_nobody_elses_write_from_being_acknowledged() {
    let copies = tempfile::tempdir().unwrap();
    let url = format!("file://{}", copies.path().join("replica").display());
    let settings = [
        ("BULKHEAD_BACKUP_URL", url.as_str()),
        ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "20"),
        ("BULKHEAD_BACKUP_CONFIRM_SECONDS", "250"),
    ];
    let world = World::with(&settings).await;
    let id = world.organization("acme").await;
    world.organization("globex").await;
    let globex = "/v1/organizations/globex";
    world.operator().patch(globex, &json!({"replication": "object"})).await.expect(200);
    let at = "/v1/organizations/acme/members";
    let ada = world.operator().post(at, &json!({"email": "ada@acme.test"})).await.expect(201).id();
    let erasure = format!("{at}/{ada}/erasure");
    world.operator().put(&erasure, &json!({})).await.expect(200);

    let reader = Connection::open(file_of(&world, &id)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT count(*) FROM member", [], |row| row.get::<_, i64>(0)).unwrap();
    // Something behind what is read, which cannot be folded.
    world.operator().post(at, &json!({"email": "later@acme.test"})).await.expect(201);
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| tokio::spawn(world.call_later(world.operator().call("PUT", &erasure).json(&json!({})))))
        .collect();
    // Time to come as far as they can.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for n in 0..5 {
        world.operator().patch(globex, &json!({ "name": format!("Goes on {n}") })).await.expect(200);
    }
    assert!(crowd.iter().all(|one| !one.is_finished()), "nobody waited, or the others waited for them");
    reader.execute_batch("COMMIT").unwrap();
    for one in crowd {
        let erased = one.await.unwrap().expect(200).json();
        assert_eq!(erased["overwritten"], true, "{erased}");
    }
}
