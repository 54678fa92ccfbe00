//! Imports where there is no room: the disk's fault is told as the disk's, and leaves nothing.

use std::fs;

use serde_json::{Value, json};

use crate::export::{Parts, archive_of, omit};
use crate::fleet_room::Mount;
use crate::process::{Deployment, Operator};
use crate::world::World;

/// Large enough that its steps need different amounts of room.
async fn large_archive() -> Vec<u8> {
    let world = World::new().await;
    world.organization("acme").await;
    let mut parts = Parts::of(&archive_of(&world, "acme", &omit()).await);
    let mut members = 0;
    parts.database(|db| {
        db.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 11999)
             INSERT OR IGNORE INTO member (id, email, email_key, name, status, roles, created_at, updated_at)
             SELECT substr(m.id, 1, 25) || substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + i / 1024 % 32, 1)
                        || substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + i / 32 % 32, 1)
                        || substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + i % 32, 1) || substr(m.id, 29),
                    'm' || i || '@acme.test', 'm' || i || '@acme.test', hex(randomblob(40)), 'active', '[\"member\"]', 0, 0
             FROM n, (SELECT id FROM member LIMIT 1) m",
        )
        .unwrap();
        members = db.query_row("SELECT count(*) FROM member", [], |row| row.get::<_, u32>(0)).unwrap();
    });
    parts.manifest["counts"]["member"] = json!(members);
    parts.signed().packed()
}

#[test]
fn a_full_disk_is_no_fault_of_the_archive_and_leaves_nothing() {
    let deployment = Deployment::new();
    let Some(_mount) = Mount::new(&deployment.data_dir(), 40 << 20) else { return };
    let archive = tokio::runtime::Runtime::new().unwrap().block_on(large_archive());
    let file = deployment.directory.path().join("acme.tar.zst");
    fs::write(&file, &archive).unwrap();
    let path = file.to_str().unwrap();
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    operator.organization("there");

    let mut refusals = 0;
    // More and more room, until it is enough.
    for room in (0..24).map(|n: u64| (64 << 10) + n * (768 << 10)) {
        let free = bulkhead::sqlite::free_room(&deployment.data_dir()).unwrap();
        let ballast = deployment.data_dir().join("ballast");
        fs::write(&ballast, vec![7; usize::try_from(free.saturating_sub(room)).unwrap()]).unwrap();
        let ran = deployment.run(&["--json", "org", "import", path, "--new-id", "--slug", "copy"]);
        fs::remove_file(&ballast).unwrap();
        let left: Vec<_> = ["imports", "orgs/.building"]
            .iter()
            .flat_map(|folder| fs::read_dir(deployment.data_dir().join(folder)).into_iter().flatten())
            .collect();
        assert!(left.is_empty(), "{room}: {left:?}");
        assert!(Operator::problems(&deployment).is_empty(), "{room}");
        if ran.status.success() {
            break;
        }
        refusals += 1;
        let told: Value = serde_json::from_slice(&ran.stderr).unwrap();
        let code = told["error"]["code"].as_str().unwrap();
        assert!(code == "storage_full" || code == "storage_failed", "{room}: {told}");
    }
    assert!((4..24).contains(&refusals), "{refusals}");
    let mut operator = Operator::new(&server, &key);
    assert_eq!(operator.get("/v1/organizations/copy").unwrap().json()["state"], "active");
    server.stop();
}
