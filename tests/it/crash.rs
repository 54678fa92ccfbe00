//! `kill -9` in the middle of everything, again and again: what was acknowledged is there, what was not
//! is whole or absent, and the next start is clean.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::process::{
    Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, mailed_code, owner_of, patience, session_check,
};

/// More with `BULKHEAD_CRASH_ROUNDS`.
const ROUNDS: u32 = 8;
/// As many more, each twice as long as the one before, where the machine is so slow that nothing was acknowledged.
const MORE_ROUNDS: u32 = 7;

/// What clients were told.
#[derive(Default)]
struct Ledger {
    /// (id, slug)
    organizations: Vec<(String, String)>,
    /// (organization, member)
    members: Vec<(String, String)>,
    /// (host, cookie) of sessions that were begun, and of sessions that were ended.
    sessions: Vec<(String, String)>,
    ended: Vec<(String, String)>,
    /// Slugs that were asked for without an answer.
    unanswered: Vec<String>,
}

impl Ledger {
    fn counts(&self) -> [usize; 4] {
        [self.organizations.len(), self.members.len(), self.sessions.len(), self.ended.len()]
    }

    fn has_everything(&self) -> bool {
        !self.counts().contains(&0)
    }
}

/// One life of the server.
struct Round<'a> {
    number: u32,
    deployment: &'a Deployment,
    server: &'a Server,
    key: &'a str,
    /// Organizations that exist from the start: (id, slug).
    seeds: &'a [(String, String)],
    ledger: &'a Mutex<Ledger>,
    killed: &'a AtomicBool,
}

#[test]
fn nothing_acknowledged_is_lost() {
    let rounds = std::env::var("BULKHEAD_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(ROUNDS);
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let mut chance = Chance(u64::try_from(seed & u128::from(u64::MAX)).unwrap() | 1);
    let ledger = Mutex::new(Ledger::default());
    let mut seeds: Vec<(String, String)> = Vec::new();

    let (mut number, mut longest) = (0, 700);
    while number < rounds || !ledger.lock().unwrap().has_everything() && number < rounds + MORE_ROUNDS {
        if number >= rounds {
            longest *= 2;
        }
        let mut server = deployment.serve();
        println!("round {number}: ready after {:?}", server.ready_after);
        if seeds.is_empty() {
            let mut operator = Operator::new(&server, &key);
            seeds = ["seed-one", "seed-two"].map(|slug| (operator.organization(slug), slug.to_owned())).into();
        }
        check_start(&deployment, &server, &key, &ledger);
        let killed = AtomicBool::new(false);
        let round = &Round {
            number,
            deployment: &deployment,
            server: &server,
            key: &key,
            seeds: &seeds,
            ledger: &ledger,
            killed: &killed,
        };
        let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
        let until = Duration::from_millis(60 + chance.below(longest));
        thread::scope(|scope| {
            for worker in 0..2 {
                scope.spawn(move || round.repeat(|n| round.create_organization(worker, n)));
                scope.spawn(move || round.repeat(|n| round.sign_in_and_out(worker, n)));
                scope.spawn(move || round.repeat(|n| round.add_member(worker, n)));
            }
            scope.spawn(move || round.repeat(|n| round.sign_up(n)));
            thread::sleep(until);
            killed.store(true, Ordering::SeqCst);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        server.kill();
        number += 1;
    }

    let server = deployment.serve();
    check_start(&deployment, &server, &key, &ledger);
    let told = ledger.into_inner().unwrap();
    let counts = told.counts();
    let log = server.log();
    let interrupted = log.lines().filter(|line| line.contains("a crash had interrupted")).count();
    println!("organizations, members, sessions, sign-outs acknowledged: {counts:?}");
    println!("{number} kills, {interrupted} creations completed or removed at a start");
    assert!(told.has_everything(), "a worker did nothing: {counts:?}");
    server.stop();
    check_files(&deployment);
}

impl Round<'_> {
    /// Works until the connection breaks, which only the kill may do.
    fn repeat(&self, mut work: impl FnMut(u32) -> io::Result<()>) {
        for n in 0.. {
            if let Err(error) = work(n) {
                let deadline = patience();
                while !self.killed.load(Ordering::SeqCst) {
                    assert!(Instant::now() < deadline, "the server hung up by itself: {error}\n{}", self.server.log());
                    thread::sleep(Duration::from_millis(5));
                }
                return;
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn create_organization(&self, worker: u32, n: u32) -> io::Result<()> {
        let slug = format!("made-{}-{worker}-{n}", self.number);
        let owner = json!({ "email": owner_of(&slug), "password": PASSWORD });
        let body = json!({ "name": "Made", "slug": slug, "owner": owner });
        let answer = Operator::new(self.server, self.key).post("/v1/organizations", &body);
        if answer.is_err() {
            self.ledger().unanswered.push(slug.clone());
        }
        let answer = answer?;
        assert_eq!(answer.status, 201, "{}", answer.text());
        self.ledger().organizations.push((answer.json()["id"].as_str().unwrap().to_owned(), slug));
        Ok(())
    }

    fn add_member(&self, worker: u32, n: u32) -> io::Result<()> {
        let (organization, _) = &self.seeds[n as usize % self.seeds.len()];
        let body = json!({ "email": format!("m{}-{worker}-{n}@example.test", self.number) });
        let path = format!("/v1/organizations/{organization}/members");
        let answer = Operator::new(self.server, self.key).post(&path, &body)?;
        assert_eq!(answer.status, 201, "{}", answer.text());
        self.ledger().members.push((organization.clone(), answer.json()["id"].as_str().unwrap().to_owned()));
        Ok(())
    }

    /// Every third session is ended again; one whose end was not acknowledged may be either way.
    fn sign_in_and_out(&self, worker: u32, n: u32) -> io::Result<()> {
        let (_, slug) = &self.seeds[(worker + n) as usize % self.seeds.len()];
        let host = host_of(slug);
        let mut person = Person::at(self.server, &host);
        let session = person.sign_in(&owner_of(slug))?;
        if n % 3 != 2 {
            self.ledger().sessions.push((host, session));
            return Ok(());
        }
        let request = person.form("/sign-out", &[]).cookie(&session);
        let answer = person.client.send(&request)?;
        assert_eq!(answer.status, 303, "{}", answer.text());
        self.ledger().ended.push((host, session));
        Ok(())
    }

    fn sign_up(&self, n: u32) -> io::Result<()> {
        let slug = format!("signed-up-{}-{n}", self.number);
        let email = owner_of(&slug);
        let mut person = Person::at(self.server, HOST);
        let sent = person.submit("/sign-up", &[("email", &email)])?;
        assert_eq!(sent.status, 303, "{}", sent.text());
        let code = mailed_code(&self.deployment.data_dir(), &email).expect("no code was mailed");
        let proven = person.submit("/sign-up/code", &[("code", &code)])?;
        assert_eq!(proven.status, 303, "{}", proven.text());
        let fields = [("name", "Signed up"), ("slug", &slug), ("full_name", "Ada"), ("password", PASSWORD)];
        let made = person.submit("/sign-up/organization", &fields);
        if made.is_err() {
            self.ledger().unanswered.push(slug.clone());
        }
        let made = made?;
        assert_eq!(made.status, 303, "{}", made.text());
        let next = made.header("location").unwrap();
        let path = &next[next.find("/relay").expect("not led to the new organization")..];
        let (_, token) = path.split_once("token=").expect("no hand-over");
        // From here on the organization is acknowledged, whatever becomes of the arrival.
        let host = host_of(&slug);
        let arrived = Person::at(self.server, &host).submit(path, &[("token", token)]);
        self.ledger().organizations.push((slug.clone(), slug));
        let arrived = arrived?;
        let session = arrived.cookies().find(|cookie| cookie.starts_with("bh_session_")).map(str::to_owned);
        assert!(session.is_some(), "not signed in: {}", arrived.text());
        self.ledger().sessions.extend(session.map(|session| (host, session)));
        Ok(())
    }
}

/// Everything that anybody was told, against what the server knows now.
fn check_start(deployment: &Deployment, server: &Server, key: &str, ledger: &Mutex<Ledger>) {
    let building = fs::read_dir(deployment.data_dir().join("orgs/.building")).unwrap();
    let left: Vec<_> = building.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "left over: {left:?}");
    let mut operator = Operator::new(server, key);
    let mut told = ledger.lock().unwrap();
    for (organization, slug) in &told.organizations {
        let found = operator.get(&format!("/v1/organizations/{organization}")).unwrap();
        assert_eq!((found.status, found.json()["slug"].as_str()), (200, Some(slug.as_str())), "{}", found.text());
    }
    for (organization, member) in &told.members {
        let found = operator.get(&format!("/v1/organizations/{organization}/members/{member}")).unwrap();
        assert_eq!(found.status, 200, "{member}: {}", found.text());
    }
    let mut client = server.client();
    for (list, wanted) in [(&told.sessions, 200), (&told.ended, 401)] {
        for (host, cookie) in list {
            let answer = client.send(&session_check(host, cookie)).unwrap();
            assert_eq!(answer.status, wanted, "{host} {cookie}: {}", answer.text());
        }
    }
    // An owner who was acknowledged can sign in, not only the sessions of before.
    if let Some((_, slug)) = told.organizations.last() {
        Person::at(server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap();
    }
    // What was never answered exists as a whole, or its name is free.
    for slug in std::mem::take(&mut told.unanswered) {
        let found = operator.get(&format!("/v1/organizations/{slug}")).unwrap();
        match found.status {
            200 => drop(Person::at(server, &host_of(&slug)).sign_in(&owner_of(&slug)).unwrap()),
            404 => drop(operator.organization(&slug)),
            other => panic!("{slug}: {other} {}", found.text()),
        }
    }
    drop(told);
    assert_eq!(Operator::problems(deployment), [], "catalog check");
    check_audit_logs(&mut operator);
    let log = server.log();
    let loud: Vec<&str> = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    assert!(loud.is_empty(), "{loud:#?}");
}

fn check_audit_logs(operator: &mut Operator) {
    let mut paths = vec!["/v1/audit_events/verification".to_owned()];
    let mut page = "/v1/organizations?limit=100".to_owned();
    loop {
        let list = operator.get(&page).unwrap().json();
        let ids = list["data"].as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap());
        paths.extend(ids.map(|id| format!("/v1/organizations/{id}/audit_events/verification")));
        let Some(after) = list["list_metadata"]["after"].as_str() else { break };
        page = format!("/v1/organizations?limit=100&after={after}");
    }
    for path in paths {
        let found = operator.get(&path).unwrap();
        assert_eq!((found.status, found.json()["intact"].as_bool()), (200, Some(true)), "{path}: {}", found.text());
    }
}

/// The directory as a stranger finds it after a stop in good order.
fn check_files(deployment: &Deployment) {
    let catalog = rusqlite::Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
    let count = |sql: &str| catalog.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(count("SELECT count(*) FROM organization WHERE state = 'creating'"), 0);
    // One directory for each row, and a key for each: nothing was left behind, nothing is missing.
    let mut statement = catalog.prepare("SELECT id FROM organization").unwrap();
    let ids: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for id in &ids {
        assert!(deployment.file(id).exists(), "{id} has no file");
    }
    let shards = fs::read_dir(deployment.data_dir().join("orgs")).unwrap().map(|entry| entry.unwrap().path());
    let shards = shards.filter(|path| !path.ends_with(".building"));
    let below = shards.flat_map(|shard| fs::read_dir(shard).unwrap()).map(|entry| entry.unwrap().path());
    let places = below.flat_map(|shard| fs::read_dir(shard).unwrap()).count();
    assert_eq!(places, ids.len(), "directories without a row in the catalog");
    let keyring = rusqlite::Connection::open(deployment.data_dir().join("keyring.sqlite")).unwrap();
    let keys: i64 = keyring.query_row("SELECT count(*) FROM data_key", [], |row| row.get(0)).unwrap();
    // And the deployment's own.
    assert_eq!(usize::try_from(keys).unwrap(), ids.len() + 1, "keys without an organization");
}

/// xorshift: the moment of the kill needs no better.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
