//! Organizations that are written to, and one that is flooded.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::fleet::{Fleet, Template, slug};
use crate::meter::{Line, Rounds, middle, per_second, quantile, rounds_of};
use crate::process::{PASSWORD, Person, Server, host_of};
use crate::raw::Writer;
use crate::wire::Client;

/// The slowest of a hundred session checks of one organization, while another one gets more than the machine can
/// do. Every bound is the one that people start with, but that one address and one key may ask as often as they like.
pub fn flood(bench: &mut Bench) -> Vec<Line> {
    const QUIET: usize = 0;
    const NOISY: usize = 1;
    let count = bench.amount(2000, 100);
    let mut fleet = Fleet::make(2, &Template::newest());
    for (setting, value) in [
        ("PASSWORD_MEMORY_KIB", 19_456),
        ("PASSWORD_ITERATIONS", 2),
        ("SERVER_HEADER_TIMEOUT_SECONDS", 30),
        ("LIMITS_REQUESTS_PER_SECOND", 2000),
        ("LIMITS_CONCURRENT_REQUESTS", 256),
        ("LIMITS_QUEUED_HASHES", 128),
        ("LIMITS_WRITTEN_BYTES_PER_MINUTE", 536_870_912),
    ] {
        fleet.set(setting, value);
    }
    let server = fleet.deployment().serve();
    let (checking, signing_in) = (fleet.check(QUIET), sign_in_request(&server, NOISY));
    let mut client = server.client();
    // One after a millisecond's pause: a client that asks back to back would keep a core to itself.
    let mut p99 = || {
        let taken = (0..count).map(|_| {
            thread::sleep(Duration::from_millis(1));
            let started = Instant::now();
            let answer = client.send_bytes(&checking).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            started.elapsed()
        });
        quantile(taken.collect(), 0.99)
    };
    p99();
    let (done, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut all = Rounds::default();
    for _ in 0..rounds_of(7) {
        let idle = p99();
        let stop = AtomicBool::new(false);
        let busy = thread::scope(|scope| {
            for number in 0..16 {
                let (fleet, server, stop, done, refused) = (&fleet, &server, &stop, &done, &refused);
                let signing_in = &signing_in;
                scope.spawn(move || {
                    // They would be elsewhere: what they compute themselves is to keep nobody waiting. Linux gives each
                    // thread a priority of its own.
                    let _ = rustix::process::nice(10);
                    let (mut client, mut n) = (server.client(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        let writing = fleet.write(NOISY, &format!("{number} {n}"));
                        let request = if number % 2 == 0 { signing_in } else { &writing };
                        match client.send_bytes(request).map(|answer| answer.status) {
                            Ok(200 | 303) => done.fetch_add(1, Ordering::Relaxed),
                            Ok(429 | 503) => {
                                // As long as the way there and back takes from anywhere else.
                                thread::sleep(Duration::from_millis(5));
                                refused.fetch_add(1, Ordering::Relaxed)
                            }
                            answer => panic!("{answer:?}"),
                        };
                    }
                });
            }
            thread::sleep(Duration::from_millis(200));
            let busy = p99();
            stop.store(true, Ordering::Relaxed);
            busy
        });
        let (done, refused) = (done.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
        eprintln!("  {busy:?} against {idle:?}; {done} done and {refused} refused so far");
        all.measured.push(busy);
        all.baseline.push(idle);
    }
    server.stop();
    vec![all.line("session check, p99 while another organization is flooded with sign-ins and writes", "idle", 2.0)]
}

/// The form as a browser sends it, again and again.
fn sign_in_request(server: &Server, n: usize) -> Vec<u8> {
    let mut person = Person::at(server, &host_of(&slug(n)));
    // The owner's address has the name of the copy in it.
    let email = crate::process::owner_of(&slug(n));
    person.sign_in(&email).unwrap();
    person.form("/sign-in", &[("email", &email), ("password", PASSWORD)]).bytes(server.port)
}

/// Members that change, each in a transaction that is on the disk before it is acknowledged.
pub fn durable_writes(bench: &mut Bench) -> Vec<Line> {
    const MOST: usize = 64;
    let seconds = Duration::from_millis(bench.amount(3000, 300) as u64);
    let fleet = Fleet::make(MOST, &Template::newest());
    let beside = fleet.deployment().directory.path().join("by-hand");
    let files: Vec<PathBuf> = fleet
        .files()
        .into_iter()
        .enumerate()
        .map(|(n, file)| {
            let place = beside.join(n.to_string());
            fs::create_dir_all(&place).unwrap();
            fs::copy(file, place.join("db.sqlite")).unwrap();
            place.join("db.sqlite")
        })
        .collect();
    let server = fleet.deployment().serve();
    let ours = |clients: usize, organizations: usize| {
        during(clients, seconds, |number| {
            let (fleet, mut client, mut n) = (&fleet, Client::new(server.port), 0);
            move || {
                n += 1;
                let answer = client.send_bytes(&fleet.write(number % organizations, &format!("{number} {n}"))).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        })
    };
    let by_hand = |organizations: usize| {
        during(organizations, seconds, |number| {
            let (writer, mut n) = (Writer::open(&files[number]), 0);
            move || {
                n += 1;
                writer.write(&format!("{number} {n}"));
            }
        })
    };
    ours(MOST, MOST);
    let lines = [
        ("one organization, one client", 1, 1),
        ("one organization, 8 clients", 8, 1),
        ("64 organizations at once", 64, 64),
    ];
    let lines = lines.map(|(what, clients, organizations)| {
        let (mut measured, mut baseline) = (Vec::new(), Vec::new());
        for _ in 0..rounds_of(5) {
            measured.push(ours(clients, organizations));
            baseline.push(by_hand(organizations));
        }
        let ratio = middle(measured.iter().zip(&baseline).map(|(ours, raw)| ours / raw).collect());
        let (measured, baseline) = (middle(measured), middle(baseline));
        eprintln!("  {what}: {measured:.0} against {baseline:.0}");
        Line::compared(
            &format!("durable writes, {what}"),
            per_second(measured),
            format!("{} in SQLite alone, `synchronous=FULL`", per_second(baseline)),
            ratio,
        )
    });
    server.stop();
    lines.into()
}

/// How often a second something is done by a number of threads.
fn during<W: FnMut()>(threads: usize, length: Duration, work: impl Fn(usize) -> W + Sync) -> f64 {
    let (count, started) = (AtomicU32::new(0), Instant::now());
    thread::scope(|scope| {
        for number in 0..threads {
            let (count, work) = (&count, &work);
            scope.spawn(move || {
                let mut work = work(number);
                while started.elapsed() < length {
                    work();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    f64::from(count.load(Ordering::Relaxed)) / started.elapsed().as_secs_f64()
}
