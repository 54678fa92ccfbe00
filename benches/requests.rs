//! What requests cost on an organization whose file is open.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Block, Params, Version};

use crate::meter::{Line, Rounds, cpu_each, quantile};
use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, session_check as check};
use crate::wire::{Client, Request};

/// The settings that people start with, except that one address may ask as often as it likes, and that a
/// connection is kept while the other side of a round is measured.
pub fn deployment() -> Deployment {
    let deployment = Deployment::new().with("PASSWORD_MEMORY_KIB", 19_456).with("PASSWORD_ITERATIONS", 2);
    deployment.with("SERVER_HEADER_TIMEOUT_SECONDS", 30)
}

/// A server with one organization, and the session check of somebody signed in to it.
fn with_session(deployment: &Deployment) -> (Server, Vec<u8>) {
    let key = deployment.operator_key();
    let server = deployment.serve();
    Operator::new(&server, &key).organization("acme");
    let host = host_of("acme");
    let session = Person::at(&server, &host).sign_in(&owner_of("acme")).unwrap();
    let bytes = check(&host, &session).bytes(server.port);
    (server, bytes)
}

fn must(client: &mut Client, bytes: &[u8], status: u16) {
    let answer = client.send_bytes(bytes).unwrap();
    assert_eq!(answer.status, status, "{}", answer.text());
}

/// The session check through the whole stack, against an address that answers a constant.
pub fn session_check() -> Vec<Line> {
    // /proc counts in 10 ms: some half a second for each side of a round.
    const COUNT: u32 = 15_000;
    let deployment = deployment();
    let (server, checking) = with_session(&deployment);
    let constant = Request::get(HOST, "/healthz").bytes(server.port);
    let (mut ours, mut theirs) = (server.client(), server.client());
    let pid = server.pid();
    for _ in 0..2000 {
        must(&mut ours, &checking, 200);
        must(&mut theirs, &constant, 200);
    }
    let rounds = Rounds::run(
        9,
        || cpu_each(pid, COUNT, || must(&mut ours, &checking, 200)),
        || cpu_each(pid, 2 * COUNT, || must(&mut theirs, &constant, 200)),
    );
    // More tokens than are remembered, in a fixed order: every one is looked up in the file.
    let host = host_of("acme");
    let others: Vec<Vec<u8>> = (0..40)
        .map(|_| check(&host, &Person::at(&server, &host).sign_in(&owner_of("acme")).unwrap()).bytes(server.port))
        .collect();
    let mut n = 0;
    let looked_up = Rounds::run(
        9,
        || {
            cpu_each(pid, COUNT, || {
                must(&mut ours, &others[n % others.len()], 200);
                n += 1;
            })
        },
        || cpu_each(pid, 2 * COUNT, || must(&mut theirs, &constant, 200)),
    );
    vec![
        rounds.line("session check, CPU a request", "`GET /healthz`", 2.0),
        looked_up.line("session check of a token that was not asked for lately, CPU", "`GET /healthz`", 2.0),
    ]
}

/// A sign-in, against the bare hash with memory that is kept, as a library is used at its best.
pub fn sign_in() -> Vec<Line> {
    const COUNT: u32 = 40;
    let deployment = deployment();
    let (server, _) = with_session(&deployment);
    let request = sign_in_request(&server);
    let mut client = server.client();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 2, 1, Some(32)).unwrap());
    let mut memory = vec![Block::new(); argon2.params().block_count()];
    let mut hash = || {
        let mut out = [0; 32];
        let password = PASSWORD.as_bytes();
        argon2.hash_password_into_with_memory(password, b"sixteen bytes of", &mut out, &mut memory).unwrap();
        std::hint::black_box(out);
    };
    hash();
    must(&mut client, &request, 303);
    let pid = server.pid();
    let rounds = Rounds::run(
        7,
        || cpu_each(pid, COUNT, || must(&mut client, &request, 303)),
        || cpu_each(std::process::id(), COUNT, &mut hash),
    );
    vec![rounds.line("password sign-in, CPU", "bare argon2id, 19 MiB, 2 passes", 1.1)]
}

/// The slowest of a hundred session checks, while as many sign-ins run as there is room for.
pub fn latency_under_sign_ins() -> Vec<Line> {
    const COUNT: usize = 2000;
    let deployment = deployment();
    let (server, checking) = with_session(&deployment);
    let request = sign_in_request(&server);
    let mut client = server.client();
    // One after a millisecond's pause: a client that asks back to back would keep a core to itself.
    let mut p99 = || {
        let taken = (0..COUNT).map(|_| {
            thread::sleep(Duration::from_millis(1));
            let started = Instant::now();
            must(&mut client, &checking, 200);
            started.elapsed()
        });
        quantile(taken.collect(), 0.99)
    };
    p99();
    let done = AtomicU32::new(0);
    let rounds = {
        let mut all = Rounds::default();
        for _ in 0..7 {
            let idle = p99();
            let stop = AtomicBool::new(false);
            let busy = thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let mut client = server.client();
                        while !stop.load(Ordering::Relaxed) {
                            must(&mut client, &request, 303);
                            done.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                thread::sleep(Duration::from_millis(200));
                let busy = p99();
                stop.store(true, Ordering::Relaxed);
                busy
            });
            eprintln!("  {busy:?} against {idle:?}, {} sign-ins", done.load(Ordering::Relaxed));
            all.measured.push(busy);
            all.baseline.push(idle);
        }
        all
    };
    vec![rounds.line("session check, p99 while sign-ins take every core", "idle", 5.0)]
}

/// The form as a browser sends it, again and again.
fn sign_in_request(server: &Server) -> Vec<u8> {
    let mut person = Person::at(server, &host_of("acme"));
    person.sign_in(&owner_of("acme")).unwrap();
    let fields = [("email", owner_of("acme")), ("password", PASSWORD.to_owned())];
    let fields = fields.each_ref().map(|(name, value)| (*name, value.as_str()));
    person.form("/sign-in", &fields).bytes(server.port)
}
