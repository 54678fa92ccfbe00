//! Imports where there is no room: the disk's fault is told as the disk's, and leaves nothing.

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::export::{Parts, archive_of, omit};
use crate::fleet_room::Mount;
use crate::process::{Deployment, HOST, Operator};
use crate::wire::{Request, connect, read_answer};
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
    let (server, mut operator, key) = deployment.started();
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

/// What says that it is too large need not come to be refused.
#[test]
fn an_upload_that_is_announced_as_too_large_is_refused_at_once() {
    let deployment = Deployment::new().with("IMPORTS_MAX_BYTES_MIB", 1);
    let (server, mut operator, key) = deployment.started();
    let arrival = "/v1/arrivals/transfer_01kaj4vbg0e3n9v7m2t8x5q6wz";
    let announced = json!({"organization_id": "org_01kaj4vbg0e3n9v7m2t8x5q6wz", "slug": "acme",
                           "from": "https://there.example.test", "key": {"kid": "k"}});
    let prepared = operator.call("PUT", arrival, &announced).unwrap();
    assert_eq!(prepared.status, 200, "{}", prepared.text());
    let content = format!("{arrival}/content?sha256={}", "0".repeat(64));
    for path in ["/v1/imports", &content] {
        let head = |length: u64, more: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nhost: {HOST}:{}\r\nauthorization: Bearer {key}\r\n\
                 content-type: application/octet-stream\r\ncontent-length: {length}\r\n{more}\r\n",
                server.port
            )
        };
        // Of neither a byte comes: the one waits for the answer, the other to be told that it may begin.
        for more in ["", "expect: 100-continue\r\n"] {
            let mut stream = connect(server.port).unwrap();
            stream.get_mut().write_all(head(10 << 30, more).as_bytes()).unwrap();
            let answer = read_answer(&mut stream).unwrap();
            assert_eq!((answer.status, answer.code().as_str()), (413, "import_too_large"), "{path} {more:?}");
        }
        // Whoever sends all of it first gets to read the answer, and the connection is as good as before.
        let mut stream = connect(server.port).unwrap();
        let mut whole = head(3 << 20, "").into_bytes();
        whole.resize(whole.len() + (3 << 20), 7);
        whole.extend(Request::get(HOST, "/v1/status").bearer(&key).bytes(server.port));
        stream.get_mut().write_all(&whole).unwrap();
        let answer = read_answer(&mut stream).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (413, "import_too_large"), "{path}");
        assert_eq!(read_answer(&mut stream).unwrap().status, 200, "{path}");
    }
    // The command line says how large a file is as well.
    let file = deployment.directory.path().join("large.tar.zst");
    fs::write(&file, vec![7; 3 << 20]).unwrap();
    let (url, import) = (deployment.url(), ["--json", "org", "import", file.to_str().unwrap()]);
    let elsewhere = ["--url", url.as_str(), "--api-key", key.as_str()];
    for more in [Vec::new(), elsewhere.to_vec()] {
        let ran = deployment.run(&[more.as_slice(), &import].concat());
        let told: Value = serde_json::from_slice(&ran.stderr).unwrap_or_else(|_| panic!("{ran:?}"));
        assert_eq!(told["error"]["code"], "import_too_large", "{more:?}: {told}");
    }
    let left = fs::read_dir(deployment.data_dir().join("imports")).into_iter().flatten().count();
    assert_eq!(left, 0);
    server.stop();
}
