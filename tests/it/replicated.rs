//! `replication = "object"`: what is acknowledged is at the store, and what is not there is not acknowledged.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bulkhead::replica::{Location, Settings, Store, Target};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, HOST, Operator, Person, host_of, mailed_code, owner_of, patience, until};
use crate::unsteady::{Mood, Unsteady};
use crate::wire::Request;

/// Ships to a folder beside it; what nobody waits for leaves after a minute only.
fn deployment() -> (Deployment, PathBuf) {
    let deployment = Deployment::new();
    let replica = deployment.directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    (
        deployment
            .with("BACKUP_URL", url)
            .with("BACKUP_DELAY_MILLISECONDS", 60_000)
            .with("BACKUP_CONFIRM_SECONDS", 250),
        replica,
    )
}

fn replicate(operator: &mut Operator, organization: &str, mode: &str) -> crate::wire::Answer {
    let path = format!("/v1/organizations/{organization}");
    operator.call("PATCH", &path, &json!({ "replication": mode })).unwrap()
}

fn require(answer: &crate::wire::Answer, status: u16) {
    assert_eq!(answer.status, status, "{}", answer.text());
}

/// What would be left if the machine were lost now.
fn at_the_store(deployment: &Deployment, replica: &Path, organization: &str) -> (tempfile::TempDir, Connection) {
    let inside = deployment.file(organization);
    let path = inside.strip_prefix(deployment.data_dir()).unwrap().to_str().unwrap().to_owned();
    let store = Store::connect(&Location::Folder(replica.to_owned()), &Settings::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("db.sqlite");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bulkhead::replica::restore(&store.replica(&path).unwrap(), Target::Latest, &out)).unwrap();
    let connection = Connection::open(out).unwrap();
    (directory, connection)
}

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Where the folder should be there is a file, as if a mount had gone away.
fn lose(replica: &Path) {
    fs::rename(replica, replica.with_extension("away")).unwrap();
    fs::write(replica, "in the way").unwrap();
}

fn find(replica: &Path) {
    fs::remove_file(replica).unwrap();
    fs::rename(replica.with_extension("away"), replica).unwrap();
}

#[test]
fn an_acknowledged_write_outlives_the_machine() {
    let (deployment, replica) = deployment();
    let (mut server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let set = replicate(&mut operator, &id, "object");
    require(&set, 200);
    assert_eq!(set.json()["replication"], "object");
    let backup = operator.get(&format!("/v1/organizations/{id}/backup")).unwrap().json();
    assert_eq!(backup["replication"], "object");
    let members = format!("/v1/organizations/{id}/members");
    let mut made = Vec::new();
    for n in 0..20 {
        // Different kinds, each acknowledged.
        match n % 4 {
            0 | 1 => {
                let answer = operator.post(&members, &json!({ "email": format!("m{n}@example.com") })).unwrap();
                require(&answer, 201);
                made.push(answer.json()["id"].as_str().unwrap().to_owned());
            }
            2 => {
                let path = format!("{members}/{}", made.last().unwrap());
                require(&operator.call("PATCH", &path, &json!({ "name": format!("Name {n}") })).unwrap(), 200);
            }
            _ => drop(Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap()),
        }
        let (_directory, store) = at_the_store(&deployment, &replica, &id);
        assert_eq!(count(&store, "SELECT count(*) FROM member"), 1 + i64::try_from(made.len()).unwrap(), "write {n}");
        let names = format!("SELECT count(*) FROM member WHERE name = 'Name {n}'");
        assert_eq!(count(&store, &names), i64::from(n % 4 == 2), "write {n}");
        assert_eq!(count(&store, "SELECT count(*) FROM session"), (n + 1) / 4, "write {n}");
    }
    // Right after an acknowledgement, and the disk is gone as well.
    server.kill();
    let data = deployment.data_dir();
    let master = fs::read(data.join("master.key")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    deployment.json(&["backup", "adopt"]);
    let fetched = deployment.json(&["backup", "fetch", "--whole", "--to", data.to_str().unwrap()]);
    assert_eq!(fetched["data"].as_array().unwrap().len(), 3, "{fetched}");
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(data.join("master.key"));
    file.unwrap().write_all(&master).unwrap();
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    for member in &made {
        require(&operator.get(&format!("{members}/{member}")).unwrap(), 200);
    }
    Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
    // A restart finds the setting in the file.
    assert_eq!(operator.get(&format!("/v1/organizations/{id}")).unwrap().json()["replication"], "object");
    require(&operator.post(&members, &json!({ "email": "after@example.com" })).unwrap(), 201);
    let (_directory, store) = at_the_store(&deployment, &replica, &id);
    assert_eq!(count(&store, "SELECT count(*) FROM member WHERE email = 'after@example.com'"), 1);
    server.stop();
}

#[test]
fn a_store_that_is_down_is_told_and_trying_again_is_safe() {
    let (deployment, replica) = deployment();
    let deployment = deployment.with("BACKUP_CONFIRM_SECONDS", 2);
    let (server, mut operator, key) = deployment.started();
    let (id, other) = (operator.organization("acme"), operator.organization("globex"));
    until("it is at the store", || replicate(&mut operator, &id, "object").status == 200);
    lose(&replica);
    let members = format!("/v1/organizations/{id}/members");
    let body = json!({ "email": "kept@example.com" });
    let keyed = || Request::new("POST", HOST, &*members).bearer(&key).header("idempotency-key", "once").json(&body);
    let refused = server.client().send(&keyed()).unwrap();
    require(&refused, 503);
    assert_eq!(refused.code(), "write_not_replicated");
    assert!(refused.header("retry-after").is_some());
    // It is there, as the answer says; nobody who looks waits.
    let listed = operator.get(&members).unwrap();
    require(&listed, 200);
    assert!(listed.text().contains("kept@example.com"));
    // A page says so as well, and gives nobody a session.
    let mut person = Person::at(&server, &host_of("acme"));
    let page =
        person.submit("/sign-in", &[("email", &owner_of("acme")), ("password", crate::process::PASSWORD)]).unwrap();
    require(&page, 503);
    assert!(!page.cookies().any(|cookie| cookie.starts_with("bh_session_")));
    // Others do not wait: it would be told.
    for n in 0..5 {
        let path = format!("/v1/organizations/{other}/members");
        require(&operator.post(&path, &json!({ "email": format!("m{n}@example.com") })).unwrap(), 201);
    }
    let state = operator.get("/v1/backup").unwrap().json();
    assert_eq!(state["confirming"], 0, "{state}");
    find(&replica);
    let deadline = patience();
    loop {
        let again = server.client().send(&keyed()).unwrap();
        if again.status == 201 {
            assert_eq!(again.header("idempotent-replayed"), Some("true"));
            break;
        }
        assert_eq!(again.code(), "write_not_replicated", "{}", again.text());
        assert!(Instant::now() < deadline, "it did not recover");
    }
    let (_directory, store) = at_the_store(&deployment, &replica, &id);
    assert_eq!(count(&store, "SELECT count(*) FROM member WHERE email = 'kept@example.com'"), 1);
    // Whoever has had enough of waiting is not kept waiting for that.
    lose(&replica);
    require(&replicate(&mut operator, &id, "local"), 200);
    require(&operator.post(&members, &json!({ "email": "local@example.com" })).unwrap(), 201);
    find(&replica);
    server.stop();
}

#[test]
fn an_answer_that_is_given_again_waits_for_all_that_the_first_one_told_of() {
    let (deployment, replica) = deployment();
    let deployment = deployment.with("BACKUP_REPLICATION", "object");
    let (server, mut operator, key) = deployment.started();
    let first = operator.organization("first");
    server.stop();
    let deployment = deployment.with("BACKUP_CONFIRM_SECONDS", 2);
    let mut server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    lose(&replica);
    // Kept in the catalog, and about a file, a key and the catalog.
    let owner = json!({ "email": owner_of("acme"), "password": crate::process::PASSWORD });
    let body = json!({ "name": "Acme", "slug": "acme", "owner": owner });
    let keyed =
        || Request::new("POST", HOST, "/v1/organizations").bearer(&key).header("idempotency-key", "once").json(&body);
    for n in 0..2 {
        let refused = server.client().send(&keyed()).unwrap();
        require(&refused, 503);
        assert_eq!(refused.code(), "write_not_replicated", "try {n}");
    }
    // Nobody waits for what operators have said need not be there.
    for organization in [first.as_str(), "acme"] {
        require(&replicate(&mut operator, organization, "local"), 200);
    }
    let again = server.client().send(&keyed()).unwrap();
    require(&again, 201);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    let id = again.json()["id"].as_str().unwrap().to_owned();
    find(&replica);
    let deadline = patience();
    while replicate(&mut operator, &id, "object").status != 200 {
        assert!(Instant::now() < deadline, "it did not recover");
    }
    lose(&replica);
    require(&server.client().send(&keyed()).unwrap(), 503);
    find(&replica);
    loop {
        let again = server.client().send(&keyed()).unwrap();
        if again.status == 201 {
            break;
        }
        assert_eq!(again.code(), "write_not_replicated", "{}", again.text());
        assert!(Instant::now() < deadline, "it did not recover");
    }
    server.kill();
    let (_directory, store) = at_the_store(&deployment, &replica, &id);
    assert_eq!(count(&store, "SELECT count(*) FROM member"), 1);
    let fetched = deployment.directory.path().join("fetched");
    deployment.json(&["backup", "fetch", "--whole", "--to", fetched.to_str().unwrap()]);
    let catalog = Connection::open(fetched.join("catalog.sqlite")).unwrap();
    assert_eq!(count(&catalog, "SELECT count(*) FROM organization WHERE slug = 'acme'"), 1);
    let keyring = Connection::open(fetched.join("keyring.sqlite")).unwrap();
    assert_eq!(count(&keyring, &format!("SELECT count(*) FROM data_key WHERE name = '{id}'")), 1);
}

#[test]
fn what_waits_for_a_store_needs_one() {
    let plain = Deployment::new();
    let key = plain.operator_key();
    let server = plain.serve();
    let mut operator = Operator::new(&server, &key);
    let id = operator.organization("acme");
    let refused = replicate(&mut operator, &id, "object");
    assert_eq!((refused.status, refused.code().as_str()), (409, "backup_not_configured"));
    assert!(matches!(replicate(&mut operator, &id, "elsewhere").status, 400 | 422));
    assert_eq!(operator.get(&format!("/v1/organizations/{id}")).unwrap().json()["replication"], Value::Null);
    server.stop();
    let plain = plain.with("BACKUP_REPLICATION", "object");
    let refused = plain.run(&["config", "check"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).contains("backup.replication"));

    // One that was set up once, and is there no more.
    let (deployment, replica) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let told = deployment.json(&["org", "replication", "acme", "object"]);
    assert_eq!(told["replication"], "object");
    server.stop();
    let deployment = deployment.with("BACKUP_URL", "");
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let members = format!("/v1/organizations/{id}/members");
    let refused = operator.post(&members, &json!({ "email": "lost@example.com" })).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "backup_unavailable"), "{}", refused.text());
    assert!(!operator.get(&members).unwrap().text().contains("lost@example.com"));
    require(&replicate(&mut operator, &id, "local"), 200);
    require(&operator.post(&members, &json!({ "email": "kept@example.com" })).unwrap(), 201);
    server.stop();
    // And is set up again: what was written in between is found, and nothing else is shipped anew.
    let deployment = deployment.with("BACKUP_URL", format!("file://{}", replica.display()));
    let server = deployment.serve();
    let deadline = patience();
    // What nobody waits for leaves after its delay.
    let mut operator = Operator::new(&server, &key);
    require(&replicate(&mut operator, &id, "object"), 200);
    loop {
        let (_directory, store) = at_the_store(&deployment, &replica, &id);
        if count(&store, "SELECT count(*) FROM member WHERE email = 'kept@example.com'") == 1 {
            break;
        }
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(200));
    }
    server.stop();
}

#[test]
fn mail_tells_of_nothing_that_is_not_at_the_store() {
    let (deployment, replica) = deployment();
    let deployment = deployment.with("BACKUP_CONFIRM_SECONDS", 2);
    let (mut server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    until("it is at the store", || replicate(&mut operator, &id, "object").status == 200);
    let data = deployment.data_dir();
    let mails = || fs::read_dir(data.join("mailbox")).map_or(0, Iterator::count);
    lose(&replica);
    let asked = Person::at(&server, &host_of("acme")).submit("/recovery", &[("email", &owner_of("acme"))]).unwrap();
    require(&asked, 503);
    until("it is tried", || server.log().contains("an outbox could not be emptied"));
    assert_eq!(mails(), 0, "a code is out that nobody may know of");
    // Without a store it could not be crossed off, and would go out again and again.
    server.kill();
    let url = format!("file://{}", replica.display());
    let deployment = deployment.with("BACKUP_URL", "");
    let tried = server.log().matches("an outbox could not be emptied").count();
    let server = deployment.serve();
    require(&Operator::new(&server, &key).get(&format!("/v1/organizations/{id}/members")).unwrap(), 200);
    until("it is tried", || server.log().matches("an outbox could not be emptied").count() > tried);
    assert_eq!(mails(), 0, "it went out, and will go out again");
    server.stop();
    find(&replica);
    let deployment = deployment.with("BACKUP_URL", url);
    let server = deployment.serve();
    require(&Operator::new(&server, &key).get(&format!("/v1/organizations/{id}/members")).unwrap(), 200);
    until("it is delivered", || mails() > 0);
    assert!(mailed_code(&data, &owner_of("acme")).is_some());
    server.stop();
    assert_eq!(mails(), 1);
}

#[test]
fn a_new_organization_follows_the_deployment() {
    let (deployment, replica) = deployment();
    let deployment = deployment.with("BACKUP_REPLICATION", "object");
    let (mut server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    server.kill();
    // Its file, and all that is needed to find and to read it.
    let (_directory, store) = at_the_store(&deployment, &replica, &id);
    assert_eq!(count(&store, "SELECT count(*) FROM member"), 1);
    let fetched = deployment.directory.path().join("fetched");
    let done = deployment.json(&["backup", "fetch", "--whole", "--to", fetched.to_str().unwrap()]);
    assert_eq!(done["data"].as_array().unwrap().len(), 3, "{done}");
    let catalog = Connection::open(fetched.join("catalog.sqlite")).unwrap();
    assert_eq!(count(&catalog, "SELECT count(*) FROM organization WHERE state = 'active'"), 1);
    let keyring = Connection::open(fetched.join("keyring.sqlite")).unwrap();
    assert_eq!(count(&keyring, &format!("SELECT count(*) FROM data_key WHERE name = '{id}'")), 1);
}

#[test]
fn a_slow_store_is_waited_for_together() {
    let site = crate::replica::support::Site::moto();
    let endpoint = site.settings.endpoint.clone().unwrap();
    let port = endpoint.rsplit(':').next().unwrap().parse().unwrap();
    let between = Unsteady::before(port);
    let deployment = Deployment::new()
        .with("BACKUP_URL", "s3://backups/fleet")
        .with("BACKUP_ENDPOINT", format!("http://127.0.0.1:{}", between.port))
        .with("BACKUP_ACCESS_KEY_ID", "id")
        .with("BACKUP_SECRET_ACCESS_KEY", "secret")
        .with("BACKUP_FORCE_PATH_STYLE", true)
        .with("BACKUP_ALLOW_HTTP", true)
        .with("BACKUP_TIMEOUT_SECONDS", 60)
        .with("BACKUP_CONFIRM_SECONDS", 250)
        .with("BACKUP_DELAY_MILLISECONDS", 60_000);
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    require(&replicate(&mut operator, &id, "object"), 200);
    let path = deployment.file(&id).strip_prefix(deployment.data_dir()).unwrap().to_str().unwrap().to_owned();
    let location: Location = "s3://backups/fleet".parse().unwrap();
    let replica = Store::connect(&location, &site.settings).unwrap().replica(&path).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let files = || runtime.block_on(replica.list(0)).unwrap().len();
    let before = files();
    between.turn(Mood::Stalled);
    let members = format!("/v1/organizations/{id}/members");
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..20)
            .map(|n| {
                let (server, key, members) = (&server, &key, &members);
                scope.spawn(move || {
                    let body = json!({ "email": format!("m{n}@example.com") });
                    server
                        .client()
                        .send(&Request::new("POST", HOST, &**members).bearer(key).json(&body))
                        .unwrap()
                        .status
                })
            })
            .collect();
        let deadline = patience();
        while operator.get("/v1/backup").unwrap().json()["confirming"].as_u64().unwrap() < 20 {
            assert!(Instant::now() < deadline, "they do not wait");
            sleep(Duration::from_millis(20));
        }
        assert_eq!(files(), before, "something was shipped by a store that stands still");
        between.turn(Mood::Fine);
        for writer in writers {
            assert_eq!(writer.join().unwrap(), 201);
        }
    });
    let after = files();
    assert!((1..=4).contains(&(after - before)), "{} files for 20 commits", after - before);
    // 500, answers that end in the middle, no answer: it is told, and it recovers.
    for mood in [Mood::Failing, Mood::Partial, Mood::Down] {
        between.turn(mood);
        let writing = std::thread::spawn({
            let (mut client, key, members) = (server.client(), key.clone(), members.clone());
            move || {
                let body = json!({ "email": format!("{mood:?}@example.com") });
                client.send(&Request::new("POST", HOST, &*members).bearer(&key).json(&body)).unwrap().status
            }
        });
        let deadline = patience();
        loop {
            let backup = operator.get("/v1/backup").unwrap().json();
            if backup["confirming"].as_u64().unwrap() > 0 {
                break;
            }
            assert!(Instant::now() < deadline, "{mood:?}: {backup}");
        }
        sleep(Duration::from_millis(500));
        assert!(!writing.is_finished(), "{mood:?}: acknowledged, or given up, too early");
        between.turn(Mood::Fine);
        assert_eq!(writing.join().unwrap(), 201, "{mood:?}");
    }
    server.stop();
}
