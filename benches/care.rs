//! What is done with one organization as a whole: restoring, exporting, erasing it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead::base::{MemberId, Timestamp};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::Bench;
use crate::meter::{Line, Rounds, cpu_of, median, quantile, show};
use crate::process::{Deployment, Operator, Server};
use crate::raw;
use crate::tools::litestream;

/// What an organization of this size has: members to a tenth, and the audit log.
const BYTES: u64 = 10_000_000;

/// A deployment whose organizations are large, and that copies to a folder.
struct Large {
    deployment: Deployment,
    key: String,
    ids: Vec<String>,
    replica: PathBuf,
}

impl Large {
    fn make(count: usize, bytes: u64) -> Self {
        let deployment = Deployment::new();
        let replica = deployment.directory.path().join("replica");
        let url = format!("file://{}", replica.display());
        let deployment = deployment.with("BACKUP_URL", url);
        let key = deployment.operator_key();
        let server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        let ids: Vec<String> = (0..count).map(|n| operator.organization(&slug(n))).collect();
        server.stop();
        // Its writes were not reported to the backup: the copy is begun anew.
        let _ = fs::remove_file(deployment.data_dir().join("backup.json"));
        let _ = fs::remove_dir_all(&replica);
        for id in &ids {
            fill(&deployment.file(id), bytes);
        }
        Self { deployment, key, ids, replica }
    }

    /// A server that has shipped everything.
    fn serve(&self) -> Server {
        let server = self.deployment.serve();
        let (mark, started) = (self.deployment.data_dir().join("backup.json"), Instant::now());
        while !has_everything(&mark) {
            assert!(started.elapsed() < Duration::from_secs(120), "the first copy takes too long");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// Whether the store has everything, as the server notes it in its data directory.
pub fn has_everything(mark: &Path) -> bool {
    let noted = fs::read(mark).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    noted.is_some_and(|noted| noted["complete"] == true)
}

fn slug(n: usize) -> String {
    format!("large-{n}")
}

/// Members and events like those that are there, until the file has this size.
fn fill(file: &Path, bytes: u64) {
    let mut connection = Connection::open(file).unwrap();
    connection.pragma_update(None, "synchronous", "OFF").unwrap();
    let transaction = connection.transaction().unwrap();
    let size = || {
        let number = |pragma: &str| transaction.query_row(pragma, [], |row| row.get::<_, i64>(0)).unwrap();
        (number("PRAGMA page_count") * number("PRAGMA page_size")).cast_unsigned()
    };
    let mut members = 0_u64;
    while size() < bytes / 10 {
        let id = MemberId::new(Timestamp::from_millis(1_764_000_000_000 + members.cast_signed()), [7; 10]).to_string();
        transaction
            .prepare_cached(
                "INSERT INTO member (id, email, email_key, name, status, roles, email_verified, password_hash,
                                     password_set_at, created_at, updated_at)
                 SELECT ?1, ?2, ?2, ?3, status, '[\"member\"]', 1, password_hash, password_set_at, created_at,
                        updated_at FROM member WHERE roles LIKE '%owner%' LIMIT 1",
            )
            .unwrap()
            .execute(params![id, format!("member-{members}@example.com"), format!("Member Number {members}")])
            .unwrap();
        members += 1;
    }
    while size() < bytes {
        transaction
            .prepare_cached(
                "INSERT INTO audit_event (id, occurred_at, action, outcome, payload, payload_salt, payload_digest,
                                          prev_hash, hash)
                 SELECT 'event_' || lower(hex(randomblob(13))), occurred_at + 1, action, outcome, payload,
                        randomblob(16), randomblob(32), hash, randomblob(32)
                 FROM audit_event ORDER BY sequence DESC LIMIT 1",
            )
            .unwrap()
            .execute([])
            .unwrap();
    }
    transaction.commit().unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// An organization out of its replica, by our program and by the stock one, each a process of its own; and the past
/// put into the live file, which keeps what was revoked since.
pub fn restore(bench: &mut Bench) -> Vec<Line> {
    let large = Large::make(1, bench.amount(BYTES as usize, 1_000_000) as u64);
    let server = large.serve();
    let id = &large.ids[0];
    let out = large.deployment.directory.path().join("restored.sqlite");
    let inside = large.deployment.file(id);
    let copy = large.replica.join(inside.strip_prefix(large.deployment.data_dir()).unwrap());
    let gone = || {
        for suffix in ["", "-txid"] {
            let _ = fs::remove_file(format!("{}{suffix}", out.display()));
        }
    };
    let fetch = || {
        gone();
        timed(|| {
            let to = out.to_str().unwrap();
            let ran = large.deployment.run(&["backup", "fetch", id, "--to", to]);
            assert!(ran.status.success(), "{ran:?}");
        })
    };
    let in_place = || {
        timed(|| {
            let ran = large.deployment.run(&["org", "restore", &slug(0)]);
            assert!(ran.status.success(), "{ran:?}");
        })
    };
    let has_litestream = litestream().arg("version").output().is_ok();
    let theirs = || {
        gone();
        timed(|| {
            let url = format!("file://{}", copy.display());
            let ran = litestream().arg("restore").arg("-o").arg(&out).arg(url).output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        })
    };
    let size = fs::metadata(&inside).unwrap().len() / 1_000_000;
    let lines = if has_litestream {
        fetch();
        theirs();
        let beside = Rounds::run(7, fetch, theirs);
        in_place();
        let into = Rounds::run(7, in_place, theirs);
        vec![
            beside.line(&format!("restoring {size} MB into a file, `backup fetch`"), "`litestream restore`", 2.0),
            into.line(&format!("restoring {size} MB in place, `org restore`"), "`litestream restore`", 2.0),
        ]
    } else {
        eprintln!("  left out: there is no litestream; scripts/setup --test installs it");
        Vec::new()
    };
    server.stop();
    lines
}

/// From the request for an export until it can be fetched, against a copy by the backup API.
pub fn export(bench: &mut Bench) -> Vec<Line> {
    let large = Large::make(1, bench.amount(BYTES as usize, 1_000_000) as u64);
    let server = large.serve();
    let mut operator = Operator::new(&server, &large.key);
    let file = large.deployment.file(&large.ids[0]);
    let beside = large.deployment.directory.path().join("copy.sqlite");
    let exports = format!("/v1/organizations/{}/exports", large.ids[0]);
    let mut spent = Vec::new();
    let mut export = || {
        let before = cpu_of(server.pid());
        let (taken, made) = {
            let started = Instant::now();
            let made = operator.post(&exports, &json!({ "secrets": "omit" })).unwrap();
            assert_eq!(made.status, 202, "{}", made.text());
            let path = format!("{exports}/{}", made.json()["id"].as_str().unwrap());
            let done = until(&mut operator, &path, |found| found["state"] != "building");
            assert_eq!(done["state"], "ready", "{done}");
            (started.elapsed(), path)
        };
        spent.push(cpu_of(server.pid()).saturating_sub(before));
        assert_eq!(operator.call("DELETE", &made, &json!({})).unwrap().status, 204);
        taken
    };
    export();
    let back_up = || timed(|| raw::back_up(&file, &beside));
    back_up();
    let rounds = Rounds::run(11, &mut export, back_up);
    let size = fs::metadata(&file).unwrap().len() / 1_000_000;
    let what = format!("exporting {size} MB: stripped, compacted, signed, compressed");
    let line = rounds.line(&what, "the backup API alone", 2.0);
    server.stop();
    vec![line, Line::plain(&format!("CPU of an export of {size} MB"), show(median(spent)), "")]
}

/// From the request until the certificate is written: key, file, replica and catalog.
pub fn erase(bench: &mut Bench) -> Vec<Line> {
    let large = Large::make(bench.amount(12, 2), bench.amount(BYTES as usize, 1_000_000) as u64);
    let server = large.serve();
    // What comes half a minute after the first copy, its merge and its snapshot, is part of what is erased.
    thread::sleep(Duration::from_secs(bench.amount(35, 0) as u64));
    crate::meter::calm(server.pid());
    let mut operator = Operator::new(&server, &large.key);
    let mut times = Vec::new();
    let size = fs::metadata(large.deployment.file(&large.ids[0])).unwrap().len() / 1_000_000;
    let before = cpu_of(server.pid());
    for id in &large.ids {
        times.push(timed(|| {
            let path = format!("/v1/organizations/{id}/erasure");
            let asked = operator.call("PUT", &path, &json!({ "immediately": true })).unwrap();
            assert_eq!(asked.status, 202, "{}", asked.text());
            let done = until(&mut operator, &format!("/v1/erasures/{id}"), |found| found["state"] == "erased");
            assert!(done["certificate"].is_string(), "{done}");
        }));
        assert!(!large.deployment.place(id).exists());
    }
    let spent = cpu_of(server.pid()).saturating_sub(before) / u32::try_from(times.len()).unwrap();
    server.stop();
    let (p50, most) = (median(times.clone()), quantile(times, 1.0));
    vec![Line::below(
        &format!("erasing {size} MB with its replica, from the request to the certificate"),
        show(p50),
        &format!("at the most {}; {} CPU", show(most), show(spent)),
        p50.as_secs_f64() * 1000.0,
        100.0,
        "ms",
    )]
}

/// Asks again and again until it is as wanted.
fn until(operator: &mut Operator, path: &str, is_done: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let found = operator.get(path).unwrap().json();
        if is_done(&found) {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{path} does not come to its end: {found}");
        // Who asks more often takes the processor from what is waited for.
        thread::sleep(Duration::from_millis(3));
    }
}

fn timed(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}
