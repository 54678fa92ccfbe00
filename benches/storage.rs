//! What organizations cost as files: made, opened, and kept open.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::json;

use crate::fleet::let_files_rest;
use crate::meter::{Line, Rounds, cpu_each, kib, median, memory_of, times};
use crate::process::{Deployment, Operator, Person, host_of, owner_of, session_check};
use crate::raw::{Bare, open_by_hand};
use crate::requests::deployment;
use crate::wire::{Client, Request};

/// Creating an organization, against what cannot be left out: the template's bytes, synced, renamed, and one
/// durable transaction in them.
pub fn creation() -> Vec<Line> {
    const COUNT: usize = 40;
    let deployment = deployment();
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let first = empty_organization(&mut operator, "first");
    let template = fs::read(deployment.file(&first)).unwrap();
    let beside = deployment.directory.path().join("baseline");
    fs::create_dir(&beside).unwrap();
    let (mut made, mut copied) = (0, 0);
    let rounds = Rounds::run(
        9,
        || {
            median(times(COUNT, |_| {
                made += 1;
                empty_organization(&mut operator, &format!("made-{made}"));
            }))
        },
        || {
            median(times(COUNT, |_| {
                copied += 1;
                copy_durably(&beside, copied, &template);
            }))
        },
    );
    let size = fs::metadata(deployment.file(&first)).unwrap().len();
    let member = json!({ "email": "first@written.test" });
    assert_eq!(operator.post(&format!("/v1/organizations/{first}/members"), &member).unwrap().status, 201);
    let shared = fs::metadata(deployment.place(&first).join("db.sqlite-shm")).map_or(0, |found| found.len());
    vec![
        rounds.line("creating an organization through the API", "template, fsync, rename, one transaction", 2.0),
        Line::plain(
            "size of an empty organization's file",
            kib(size),
            &format!("aim: 256 KiB; and {} of WAL index once it was written", kib(shared)),
        ),
    ]
}

fn empty_organization(operator: &mut Operator, slug: &str) -> String {
    let made = operator.post("/v1/organizations", &json!({ "name": "Made", "slug": slug })).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["id"].as_str().unwrap().to_owned()
}

fn copy_durably(directory: &Path, number: u32, template: &[u8]) {
    let place = directory.join(number.to_string());
    let temporary = directory.join(format!("{number}.new"));
    fs::create_dir(&temporary).unwrap();
    let file = temporary.join("db.sqlite");
    fs::write(&file, template).unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    File::open(&temporary).unwrap().sync_all().unwrap();
    fs::rename(&temporary, &place).unwrap();
    File::open(directory).unwrap().sync_all().unwrap();
    let connection = Connection::open(place.join("db.sqlite")).unwrap();
    connection.execute_batch("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0").unwrap();
    connection.execute("UPDATE organization SET name = 'Baseline'", []).unwrap();
}

/// The first request to an organization whose file is closed, against opening the same file by hand, with the
/// same settings, for the same look-up.
pub fn cold_request() -> Vec<Line> {
    const ORGANIZATIONS: usize = 48;
    // More organizations than may be open, in a fixed order: the next one is always closed.
    let deployment = Deployment::new().with("FILES_MAX_OPEN", 8);
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let mut requests = Vec::new();
    let mut ids = Vec::new();
    for slug in (0..ORGANIZATIONS).map(|n| format!("cold-{n}")) {
        ids.push(operator.organization(&slug));
        let host = host_of(&slug);
        let session = Person::at(&server, &host).sign_in(&owner_of(&slug)).unwrap();
        requests.push(session_check(&host, &session));
    }
    // The baseline has files of its own: nobody may open those of a running server.
    server.stop();
    let beside = deployment.directory.path().join("baseline");
    let files: Vec<PathBuf> = ids
        .iter()
        .map(|id| {
            let place = beside.join(id);
            fs::create_dir_all(&place).unwrap();
            fs::copy(deployment.file(id), place.join("db.sqlite")).unwrap();
            place.join("db.sqlite")
        })
        .collect();
    let_files_rest();
    let server = deployment.serve();
    let mut client = server.client();
    let requests: Vec<Vec<u8>> = requests.iter().map(|request| request.bytes(server.port)).collect();
    let mut cold = |n: usize| {
        let answer = client.send_bytes(&requests[n % ORGANIZATIONS]).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    for (n, file) in files.iter().enumerate() {
        cold(n);
        open_by_hand(file);
    }
    let wall = Rounds::run(
        15,
        || median(times(2 * ORGANIZATIONS, &mut cold)),
        || median(times(2 * ORGANIZATIONS, |n| open_by_hand(&files[n % ORGANIZATIONS]))),
    );
    let served = files.clone();
    let bare = Bare::serve(move |n: usize| open_by_hand(&served[n]));
    let mut bare_client = Client::new(bare.port);
    let bare_requests: Vec<Vec<u8>> =
        (0..ORGANIZATIONS).map(|n| Request::get("localhost", format!("/{n}")).bytes(bare.port)).collect();
    let over_http = Rounds::run(
        15,
        || median(times(2 * ORGANIZATIONS, &mut cold)),
        || {
            median(times(2 * ORGANIZATIONS, |n| {
                let answer = bare_client.send_bytes(&bare_requests[n % ORGANIZATIONS]).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }))
        },
    );
    let open = Operator::new(&server, &key).open_files();
    assert!(open <= 8, "{open} files are open: not every request was cold");
    let count = 10 * u32::try_from(ORGANIZATIONS).unwrap();
    let (mut n, mut m) = (0, 0);
    let cpu = Rounds::run(
        7,
        || {
            cpu_each(server.pid(), count, || {
                cold(n);
                n += 1;
            })
        },
        || {
            cpu_each(std::process::id(), count, || {
                open_by_hand(&files[m % ORGANIZATIONS]);
                m += 1;
            })
        },
    );
    vec![
        wall.line("cold first request, time over loopback", "open, pragmas, query, close", 2.0),
        cpu.line("cold first request, CPU", "open, pragmas, query, close", 2.0),
        over_http.line("cold first request, time over loopback", "the same behind bare axum", 2.0),
    ]
}

/// What one more open organization takes, read from only, and written to as well.
pub fn memory() -> Vec<Line> {
    const ORGANIZATIONS: usize = 500;
    // The server's own queues and buffers are in the first ones.
    const WARM: usize = 20;
    let deployment = Deployment::new();
    let key = deployment.operator_key();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let slugs: Vec<String> = (0..ORGANIZATIONS + WARM).map(|n| format!("open-{n}")).collect();
    for slug in &slugs {
        operator.organization(slug);
    }
    server.stop();
    let_files_rest();

    let server = deployment.serve();
    let mut client = server.client();
    let mut read = |slug: &str| {
        let answer = client.send(&session_check(&host_of(slug), "")).unwrap();
        assert_eq!(answer.status, 401, "{}", answer.text());
    };
    let write = |slug: &str| drop(Person::at(&server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap());
    let held = || (memory_of(server.pid()), server.descriptors().len());
    for slug in &slugs[..WARM] {
        read(slug);
        write(slug);
    }
    let before = held();
    slugs[WARM..].iter().for_each(|slug| read(slug));
    let after_reading = held();
    slugs[WARM..].iter().for_each(|slug| write(slug));
    let after_writing = held();
    assert_eq!(Operator::new(&server, &key).open_files(), slugs.len() as u64);
    let each = |after: (u64, usize)| {
        let memory = after.0.saturating_sub(before.0) / ORGANIZATIONS as u64;
        let descriptors = (after.1 as f64 - before.1 as f64).max(0.0) / ORGANIZATIONS as f64;
        format!("{}, {descriptors:.1} descriptors", kib(memory))
    };
    vec![
        Line::plain("an open organization that was read", each(after_reading), "aim: 300 KiB"),
        Line::plain("an open organization that was written as well", each(after_writing), "aim: 300 KiB"),
    ]
}
