//! Bringing all organizations to the newest schema, while others are served.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::Bench;
use crate::fleet::{Fleet, Template};
use crate::meter::{Line, Rounds, middle, per_second, quantile};
use crate::process::{Operator, Server};
use crate::raw;
use crate::wire::Client;

/// Files that the server migrates at the same moment.
const WORKERS: usize = 2;
/// How often the two take turns.
const ROUNDS: usize = 8;
/// Before it is looked again how far a migration is.
const PAUSE: Duration = Duration::from_millis(5);
/// Organizations that are asked for meanwhile.
const LIVE: usize = 10;

pub fn migration(bench: &mut Bench) -> Vec<Line> {
    let count = bench.amount(8000, 200);
    let older = Template::newest().older();
    let fleet = Fleet::make(count, &older);
    let by_hand = copies(&fleet, count / 2);
    let server = fleet.deployment().serve();
    let mut client = server.client();
    // They are opened, and so they are migrated, before anything is measured.
    let live: Vec<Vec<u8>> = (0..LIVE).map(|n| fleet.check(count - 1 - n)).collect();
    for request in &live {
        check(&mut client, request);
    }
    // Half of them with nobody there, against the same by hand; in turns, because the disk has moods.
    let part = by_hand.len().div_ceil(ROUNDS);
    let (mut ours, mut raw, mut last) = (Vec::new(), Vec::new(), String::new());
    for (round, files) in by_hand.chunks(part).enumerate() {
        raw.push(migrate_by_hand(files));
        let left = count - LIVE - round * part;
        let began = Instant::now();
        let share = 100.0 * files.len() as f64 / left as f64;
        let (migrated, path) = sweep(&server, &fleet.operator_key, Some(share), || {});
        last = path;
        ours.push(migrated as f64 / began.elapsed().as_secs_f64());
        eprintln!("  {:.0} against {:.0}", ours[round], raw[round]);
    }
    let ratio = middle(ours.iter().zip(&raw).map(|(ours, raw)| ours / raw).collect());
    let (ours, raw) = (middle(ours), middle(raw));
    // The other half while somebody asks, in turns with nobody migrating. The server has closed a connection that was
    // silent for so long.
    let mut client = server.client();
    let mut take = |times: &mut Vec<Duration>, n: usize| {
        thread::sleep(Duration::from_millis(1));
        let started = Instant::now();
        check(&mut client, &live[n % LIVE]);
        times.push(started.elapsed());
    };
    let mut rounds = Rounds::default();
    for round in 0..ROUNDS {
        let mut operator = Operator::new(&server, &fleet.operator_key);
        let (mut idle, mut busy) = (Vec::new(), Vec::new());
        // With the same questions in between: what follows a pause is slower, whatever else is done.
        for n in 0..bench.amount(100, 3) {
            operator.get(&last).unwrap();
            (0..20).for_each(|_| take(&mut idle, n));
            thread::sleep(PAUSE);
        }
        let mut n = 0;
        let share = 100.0 / (ROUNDS - round) as f64;
        let asking = || {
            (0..20).for_each(|_| take(&mut busy, n));
            n += 1;
        };
        let (migrated, _) = sweep(&server, &fleet.operator_key, Some(share).filter(|share| *share < 100.0), asking);
        assert!(!busy.is_empty());
        eprintln!("  {} requests while {migrated} were migrated", busy.len());
        rounds.measured.push(quantile(busy, 0.99));
        rounds.baseline.push(quantile(idle, 0.99));
    }
    server.stop();
    vec![
        Line::at_least(
            &format!("migrating {count} organizations, {WORKERS} at a time"),
            per_second(ours),
            format!("{} by hand, {WORKERS} threads", per_second(raw)),
            ratio,
            0.7,
        ),
        rounds.line("session check, p99 during the migration", "with no migration", 2.0),
    ]
}

/// Files of the same kind that no server knows.
fn copies(fleet: &Fleet, count: usize) -> Vec<PathBuf> {
    let beside = fleet.deployment().directory.path().join("by-hand");
    let copy = |(n, file): (usize, PathBuf)| {
        let place = beside.join(n.to_string());
        fs::create_dir_all(&place).unwrap();
        let copy = place.join("db.sqlite");
        fs::copy(file, &copy).unwrap();
        copy
    };
    let copies = fleet.files().into_iter().take(count).enumerate().map(copy).collect();
    rustix::fs::sync();
    copies
}

fn migrate_by_hand(files: &[PathBuf]) -> f64 {
    let started = Instant::now();
    thread::scope(|scope| {
        for part in files.chunks(files.len().div_ceil(WORKERS)) {
            scope.spawn(|| part.iter().for_each(|file| raw::migrate(file)));
        }
    });
    files.len() as f64 / started.elapsed().as_secs_f64()
}

/// Migrates a share of those that are left, doing something else meanwhile; how many there were, and where that is told.
fn sweep(server: &Server, key: &str, share: Option<f64>, mut meanwhile: impl FnMut()) -> (u64, String) {
    let mut operator = Operator::new(server, key);
    let begun = operator.post("/v1/fleet/migrations", &json!({ "canary_percent": share })).unwrap();
    assert_eq!(begun.status, 202, "{}", begun.text());
    let path = format!("/v1/fleet/migrations/{}", begun.json()["id"].as_str().unwrap());
    let started = Instant::now();
    loop {
        let found = operator.get(&path).unwrap().json();
        if found["state"] != "running" {
            assert_eq!(found["state"], "done", "{found}\n{}", server.log());
            assert_eq!(found["findings_count"], 0, "{found}");
            return (found["migrated"].as_u64().unwrap(), path);
        }
        assert!(started.elapsed() < Duration::from_secs(180), "the migration does not end: {found}");
        meanwhile();
        thread::sleep(PAUSE);
    }
}

fn check(client: &mut Client, request: &[u8]) {
    let answer = client.send_bytes(request).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}
