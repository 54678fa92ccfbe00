//! Continuous backup and going back, through a running server, with the real litestream as the judge.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, Operator, Person, Server, host_of, owner_of, patience};
use crate::tools::{has, litestream};

/// A deployment that ships to a folder beside it, a moment after each commit.
pub fn deployment() -> (Deployment, PathBuf) {
    let deployment = Deployment::new();
    let replica = deployment.directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    (deployment.with("BACKUP_URL", url).with("BACKUP_DELAY_MILLISECONDS", 20), replica)
}

/// Where the copy of an organization lies.
pub fn copy_of(deployment: &Deployment, replica: &Path, organization: &str) -> PathBuf {
    let inside = deployment.file(organization);
    replica.join(inside.strip_prefix(deployment.data_dir()).unwrap())
}

/// Until everything that was committed is shipped.
pub fn shipped(operator: &mut Operator) {
    let deadline = patience();
    loop {
        let state = operator.get("/v1/backup").unwrap();
        assert_eq!(state.status, 200, "{}", state.text());
        let state = state.json();
        if state["waiting"] == 0 && state["catalog"]["behind_since"].is_null() {
            return;
        }
        assert!(Instant::now() < deadline, "not shipped: {state}");
        sleep(Duration::from_millis(20));
    }
}

/// What the stock `litestream restore` makes of a copy.
pub fn restored(copy: &Path, more: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("restored.sqlite");
    let output =
        litestream().arg("restore").args(more).arg("-o").arg(&out).arg(format!("file://{}", copy.display())).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read(out).unwrap()
}

/// A database that nobody has open, with its WAL folded in.
pub fn folded(file: &Path) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let from = PathBuf::from(format!("{}{suffix}", file.display()));
        if from.exists() {
            fs::copy(&from, directory.path().join(format!("copy{suffix}"))).unwrap();
        }
    }
    let copy = directory.path().join("copy");
    let connection = Connection::open(&copy).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    fs::read(copy).unwrap()
}

pub fn member(operator: &mut Operator, organization: &str, body: &Value) -> String {
    let made = operator.post(&format!("/v1/organizations/{organization}/members"), body).unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["id"].as_str().unwrap().to_owned()
}

pub fn same(one: &[u8], other: &[u8], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}: other sizes");
    let first = one.iter().zip(other).position(|(one, other)| one != other);
    assert_eq!(first, None, "{what}: they differ");
}

#[test]
fn litestream_restores_what_was_shipped() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    let (server, mut operator, _) = deployment.started();
    let ids = ["acme", "globex"].map(|slug| operator.organization(slug));
    for round in 0..5 {
        for (id, slug) in ids.iter().zip(["acme", "globex"]) {
            member(&mut operator, id, &json!({ "email": format!("m{round}@{slug}.example") }));
            Person::at(&server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap();
        }
        shipped(&mut operator);
    }
    server.stop();
    for id in &ids {
        let copy = copy_of(&deployment, &replica, id);
        same(&restored(&copy, &[]), &folded(&deployment.file(id)), "an organization");
    }
    for name in ["catalog.sqlite", "keyring.sqlite"] {
        same(&restored(&replica.join(name), &[]), &folded(&deployment.data_dir().join(name)), name);
    }
}

#[test]
fn an_evicted_a_killed_and_a_started_server_ship_on() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    // More organizations than may be open: WALs are closed and opened again in between.
    let deployment = deployment.with("FILES_MAX_OPEN", 8);
    let key = deployment.operator_key();
    let mut server = deployment.serve();
    let slugs: Vec<String> = (0..12).map(|n| format!("org-{n}")).collect();
    let ids: Vec<String> = slugs.iter().map(|slug| Operator::new(&server, &key).organization(slug)).collect();
    for round in 0..6 {
        let mut operator = Operator::new(&server, &key);
        for id in &ids {
            member(&mut operator, id, &json!({ "email": format!("m{round}@example.com") }));
        }
        if round % 2 == 0 {
            // Wherever it is: some are shipped, some are not.
            server.kill();
        } else {
            shipped(&mut operator);
            server.stop();
        }
        server = deployment.serve();
    }
    // What the killed ones left is found without a further write.
    let deadline = patience();
    let complete = |id: &str| {
        let copy = copy_of(&deployment, &replica, id);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("copy.sqlite");
        fs::write(&file, restored(&copy, &[])).unwrap();
        let connection = Connection::open(file).unwrap();
        let members: i64 = connection.query_row("SELECT count(*) FROM member", [], |row| row.get(0)).unwrap();
        members == 7
    };
    while !ids.iter().all(|id| complete(id)) {
        assert!(Instant::now() < deadline, "something that was acknowledged was not shipped");
        sleep(Duration::from_millis(200));
    }
    server.stop();
    for id in &ids {
        same(&restored(&copy_of(&deployment, &replica, id), &[]), &folded(&deployment.file(id)), id);
    }
}

#[test]
fn litestream_takes_over_and_gives_back() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    for n in 0..3 {
        member(&mut operator, &id, &json!({ "email": format!("ours{n}@example.com") }));
        shipped(&mut operator);
    }
    server.stop();
    let (file, copy) = (deployment.file(&id), copy_of(&deployment, &replica, &id));
    let mut litestream =
        litestream().arg("replicate").arg(&file).arg(format!("file://{}", copy.display())).spawn().unwrap();
    let connection = Connection::open(&file).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute("UPDATE organization SET name = 'Theirs'", []).unwrap();
    let name_of = |bytes: &[u8]| -> String {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("db"), bytes).unwrap();
        let connection = Connection::open(directory.path().join("db")).unwrap();
        connection.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
    };
    let deadline = patience();
    while name_of(&restored(&copy, &[])) != "Theirs" {
        assert!(Instant::now() < deadline, "litestream did not go on with our replica");
        sleep(Duration::from_millis(300));
    }
    drop(connection);
    // As an operator ends it, so that it ships what it has.
    std::process::Command::new("kill").arg(litestream.id().to_string()).status().unwrap();
    litestream.wait().unwrap();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let renamed = operator.call("PATCH", &format!("/v1/organizations/{id}"), &json!({ "name": "Ours again" })).unwrap();
    assert_eq!(renamed.status, 200, "{}", renamed.text());
    shipped(&mut operator);
    server.stop();
    let latest = restored(&copy, &[]);
    assert_eq!(name_of(&latest), "Ours again");
    same(&latest, &folded(&file), "after both had written");
}

#[test]
fn a_bucket_does_as_well() {
    if !has("litestream") {
        return;
    }
    let site = crate::replica::support::Site::moto();
    let endpoint = site.settings.endpoint.clone().unwrap();
    let deployment = Deployment::new()
        .with("BACKUP_URL", "s3://backups/fleet")
        .with("BACKUP_ENDPOINT", &endpoint)
        .with("BACKUP_ACCESS_KEY_ID", "id")
        .with("BACKUP_SECRET_ACCESS_KEY", "secret")
        .with("BACKUP_FORCE_PATH_STYLE", true)
        .with("BACKUP_ALLOW_HTTP", true)
        .with("BACKUP_DELAY_MILLISECONDS", 20);
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    for n in 0..3 {
        member(&mut operator, &id, &json!({ "email": format!("m{n}@example.com") }));
        shipped(&mut operator);
    }
    server.stop();
    let file = deployment.file(&id);
    let path = file.strip_prefix(deployment.data_dir()).unwrap();
    let out = site.out("restored.sqlite");
    let config = site.directory.path().join("litestream.yml");
    let text = format!(
        "dbs:\n  - path: {}\n    replica:\n      type: s3\n      bucket: backups\n      path: fleet/{}\n      \
         endpoint: {endpoint}\n      region: us-east-1\n      force-path-style: true\n      access-key-id: id\n      \
         secret-access-key: secret\n",
        file.display(),
        path.display(),
    );
    fs::write(&config, text).unwrap();
    let output =
        litestream().arg("restore").arg("-config").arg(&config).arg("-o").arg(&out).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    same(&fs::read(out).unwrap(), &folded(&file), "the organization");
}

#[test]
fn a_store_that_is_down_slows_nothing_and_loses_nothing() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    // Where the folder should be made there is a file.
    fs::write(&replica, "in the way").unwrap();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    for n in 0..20 {
        member(&mut operator, &id, &json!({ "email": format!("m{n}@example.com") }));
    }
    let deadline = patience();
    loop {
        let state = operator.get("/v1/backup").unwrap().json();
        if state["catalog"]["last_error"].is_string() {
            assert!(state["catalog"]["behind_since"].is_string(), "{state}");
            break;
        }
        assert!(Instant::now() < deadline, "{state}");
        sleep(Duration::from_millis(50));
    }
    fs::remove_file(&replica).unwrap();
    let deadline = patience();
    while operator.get("/v1/backup").unwrap().json()["waiting"] != 0 {
        assert!(Instant::now() < deadline, "it did not recover");
        sleep(Duration::from_millis(200));
    }
    server.stop();
    same(&restored(&copy_of(&deployment, &replica, &id), &[]), &folded(&deployment.file(&id)), "the organization");
}

#[test]
fn what_was_not_shipped_is_never_folded_away() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    let (mut server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    shipped(&mut operator);
    // The store goes away, and far more is written than a WAL is left to grow to.
    let elsewhere = deployment.directory.path().join("elsewhere");
    fs::rename(&replica, &elsewhere).unwrap();
    fs::write(&replica, "in the way").unwrap();
    let metadata: serde_json::Map<String, Value> =
        (0..50).map(|n| (format!("key{n}"), "x".repeat(490).into())).collect();
    for n in 0..80 {
        let body = json!({ "name": format!("Name {n}"), "metadata": metadata });
        assert_eq!(operator.call("PATCH", &format!("/v1/organizations/{id}"), &body).unwrap().status, 200);
    }
    sleep(Duration::from_millis(300));
    server.kill();
    fs::remove_file(&replica).unwrap();
    fs::rename(&elsewhere, &replica).unwrap();
    // Nothing is written any more: what the process before acknowledged must be found.
    let server = deployment.serve();
    let deadline = patience();
    loop {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("copy.sqlite");
        fs::write(&file, restored(&copy_of(&deployment, &replica, &id), &[])).unwrap();
        let connection = Connection::open(file).unwrap();
        let name: String = connection.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap();
        if name == "Name 79" {
            break;
        }
        assert!(Instant::now() < deadline, "the copy ends at {name}");
        sleep(Duration::from_millis(200));
    }
    server.stop();
}

#[test]
fn a_lost_machine_comes_back_from_the_store_alone() {
    let (deployment, replica) = deployment();
    let key = deployment.operator_key();
    let server: Server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    for slug in ["acme", "globex"] {
        operator.organization(slug);
    }
    shipped(&mut operator);
    server.stop();
    // The directory is gone but for the master key, which is kept apart.
    let data = deployment.data_dir();
    let master = fs::read(data.join("master.key")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    let rehearsal = deployment.json(&["backup", "fetch", "--whole", "--to", data.to_str().unwrap(), "--dry-run"]);
    assert_eq!(rehearsal["dry_run"], true);
    assert!(!data.exists() && replica.exists());
    // It writes there from now on, and whoever did before does not.
    let adopted = deployment.json(&["backup", "adopt"]);
    assert_eq!((&adopted["before"]["epoch"], &adopted["after"]["epoch"]), (&json!(1), &json!(2)), "{adopted}");
    let fetched = deployment.json(&["backup", "fetch", "--whole", "--to", data.to_str().unwrap()]);
    assert_eq!(fetched["data"].as_array().unwrap().len(), 4, "{fetched}");
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(data.join("master.key"));
    file.unwrap().write_all(&master).unwrap();
    let again = deployment.run(&["backup", "fetch", "--whole", "--to", data.to_str().unwrap()]);
    assert!(!again.status.success(), "a file was overwritten");

    let server = deployment.serve();
    for slug in ["acme", "globex"] {
        Person::at(&server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap();
    }
    assert_eq!(Operator::problems(&deployment), []);
    server.stop();
}
