//! A disk that fails while a backup runs: nothing is lost, nobody waits, it is told, and it recovers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::process::{Deployment, Operator, Server, until};

/// Stands between the program and its C library. Files in a directory say what fails.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(const char *fault, int fd, const char *part) {
    char text[4096], link[64];
    const char *directory = getenv("FAULTS");
    if (!directory) return 0;
    snprintf(text, sizeof text, "%s/%s", directory, fault);
    if (access(text, F_OK) != 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, text, sizeof text - 1);
    if (length <= 0) return 0;
    text[length] = 0;
    return strstr(text, part) != NULL;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    static ssize_t (*next)(int, const void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "write");
    if (fails("full", fd, "/replica/")) {
        // Some of it fits, as on a real disk.
        if (count > 512) return next(fd, bytes, 512);
        errno = ENOSPC;
        return -1;
    }
    return next(fd, bytes, count);
}

ssize_t read(int fd, void *bytes, size_t count) {
    static ssize_t (*next)(int, void *, size_t);
    if (!next) next = dlsym(RTLD_NEXT, "read");
    // SQLite reads with pread: this one is the backup's.
    if (fails("unreadable", fd, "db.sqlite-wal")) { errno = EIO; return -1; }
    if (fails("unreadable-pages", fd, "/data/orgs/")) { errno = EIO; return -1; }
    return next(fd, bytes, count);
}

/* Without its first page nobody would take the file for a database; of any other one SQLite says that it is malformed. */
static int fails_at(int fd, off_t offset) {
    return offset >= 4096 && fails("unreadable-pages", fd, "/data/orgs/");
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset) {
    static ssize_t (*next)(int, void *, size_t, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "pread");
    if (fails_at(fd, offset)) { errno = EIO; return -1; }
    return next(fd, bytes, count, offset);
}

ssize_t pread64(int fd, void *bytes, size_t count, off_t offset) {
    static ssize_t (*next)(int, void *, size_t, off_t);
    if (!next) next = dlsym(RTLD_NEXT, "pread64");
    if (fails_at(fd, offset)) { errno = EIO; return -1; }
    return next(fd, bytes, count, offset);
}
"#;

struct Faults(PathBuf);

impl Faults {
    fn begin(&self, fault: &str) {
        fs::write(self.0.join(fault), "").unwrap();
    }

    fn end(&self, fault: &str) {
        fs::remove_file(self.0.join(fault)).unwrap();
    }
}

/// A library that stands between a program and its C library; nothing where that is another one.
pub fn shim(directory: &Path, code: &str) -> Option<PathBuf> {
    if !cfg!(all(target_os = "linux", target_env = "gnu")) {
        println!("left out: the shim is for Linux and its C library");
        return None;
    }
    let (source, library) = (directory.join("shim.c"), directory.join("shim.so"));
    fs::write(&source, code).unwrap();
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).arg("-ldl").output();
    let compiled = compiled.expect("cc, which scripts/setup installs");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    Some(library)
}

fn deployment() -> Option<(Deployment, PathBuf, Faults)> {
    let deployment = Deployment::new();
    let directory = deployment.directory.path().to_owned();
    let library = shim(&directory, SHIM)?;
    let faults = directory.join("faults");
    fs::create_dir(&faults).unwrap();
    let replica = directory.join("replica");
    let deployment = deployment
        .with("BACKUP_URL", format!("file://{}", replica.display()))
        .with("BACKUP_DELAY_MILLISECONDS", 20)
        .with("BACKUP_CONFIRM_SECONDS", 2)
        .with_variable("LD_PRELOAD", library.display())
        .with_variable("FAULTS", faults.display());
    Some((deployment, replica, Faults(faults)))
}

fn progress(server: &Server, key: &str, organization: &str) -> Value {
    let answer = Operator::new(server, key).get(&format!("/v1/organizations/{organization}/backup")).unwrap();
    if answer.status == 200 { answer.json()["progress"].clone() } else { Value::Null }
}

/// On a connection of its own: one that rests is closed.
fn rename(server: &Server, key: &str, organization: &str, name: &str) -> u16 {
    Operator::new(server, key)
        .call("PATCH", &format!("/v1/organizations/{organization}"), &json!({ "name": name }))
        .unwrap()
        .status
}

/// The name that the newest state at the store has.
fn name_at_the_store(deployment: &Deployment, organization: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("db.sqlite");
    let fetched = deployment.run(&["backup", "fetch", organization, "--to", out.to_str().unwrap()]);
    fetched.status.success().then(|| {
        let connection = rusqlite::Connection::open(&out).unwrap();
        connection.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
    })
}

fn is_clean(replica: &Path) -> bool {
    crate::replica::support::files_below(replica).iter().all(|path| path.extension().is_none_or(|end| end != "tmp"))
}

#[test]
fn a_full_store_and_a_wal_that_cannot_be_read() {
    let Some((deployment, replica, faults)) = deployment() else { return };
    let (server, mut operator, key) = deployment.started();
    let (id, other) = (operator.organization("acme"), operator.organization("globex"));
    until("it is shipped", || operator.get("/v1/backup").unwrap().json()["waiting"] == 0);
    for (fault, said) in [("full", "No space left"), ("unreadable", "could not be captured")] {
        faults.begin(fault);
        for n in 0..10 {
            assert_eq!(rename(&server, &key, &id, &format!("{fault} {n}")), 200, "{fault}");
        }
        until("the fault is told", || {
            let told = progress(&server, &key, &id);
            told["last_error"].as_str().is_some_and(|error| error.contains(said)) && told["behind_since"].is_string()
        });
        // Of what is being written at this moment there is half.
        until("half a file was left", || is_clean(&replica));
        // Whoever waits for the store is told that it has not come.
        let path = format!("/v1/organizations/{other}");
        let mut operator = Operator::new(&server, &key);
        let refused = operator.call("PATCH", &path, &json!({ "replication": "object" })).unwrap();
        assert_eq!((refused.status, refused.code().as_str()), (503, "write_not_replicated"), "{fault}");
        assert_eq!(operator.call("PATCH", &path, &json!({ "replication": "local" })).unwrap().status, 200);
        faults.end(fault);
        until("it recovers", || {
            name_at_the_store(&deployment, &id).as_deref() == Some(&format!("{fault} 9"))
                && progress(&server, &key, &id)["last_error"].is_null()
        });
    }
    server.stop();
}

#[test]
fn a_torn_file_at_the_store_is_made_up_for() {
    let Some((deployment, replica, _)) = deployment() else { return };
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    for n in 0..3 {
        assert_eq!(rename(&server, &key, &id, &format!("Name {n}")), 200);
        until("it is shipped", || name_at_the_store(&deployment, &id).as_deref() == Some(&format!("Name {n}")));
    }
    server.stop();
    let copy = replica.join(deployment.file(&id).strip_prefix(deployment.data_dir()).unwrap());
    let mut files = crate::replica::support::files_below(&copy.join("ltx/0"));
    files.sort();
    let torn = files.last().unwrap().clone();
    let bytes = fs::read(&torn).unwrap();
    fs::write(&torn, &bytes[..bytes.len() - 40]).unwrap();
    // Never a wrong database, and never an older one without a word.
    assert_eq!(name_at_the_store(&deployment, &id), None);

    let server = deployment.serve();
    assert_eq!(rename(&server, &key, &id, "After"), 200);
    until("a whole one follows", || name_at_the_store(&deployment, &id).as_deref() == Some("After"));
    let told = progress(&server, &key, &id);
    assert!(told["damaged"].as_str().is_some_and(|why| why.contains("is damaged")), "{told}");
    let txid = &torn.file_name().unwrap().to_str().unwrap()[..16];
    let mut operator = Operator::new(&server, &key);
    let lost = operator.post(&format!("/v1/organizations/{id}/restorations"), &json!({ "txid": txid })).unwrap();
    assert_eq!((lost.status, lost.code().as_str()), (409, "backup_damaged"), "{}", lost.text());
    let before = format!("{:016x}", u64::from_str_radix(txid, 16).unwrap() - 1);
    let had = operator.post(&format!("/v1/organizations/{id}/restorations"), &json!({ "txid": before })).unwrap();
    assert_eq!(had.status, 200, "{}", had.text());
    server.stop();
}

/// To SQLite a page that the disk does not give is malformed. What waits for a legal hold, and what ends it, must not
/// take it for that.
#[test]
fn a_disk_that_does_not_give_pages_ends_no_legal_hold() {
    let Some((deployment, _, faults)) = deployment() else { return };
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    until("it is shipped", || operator.get("/v1/backup").unwrap().json()["waiting"] == 0);
    let base = format!("/v1/organizations/{id}");
    let path = format!("{base}/freeze");
    let freeze = |server: &Server| {
        Operator::new(server, &key).call("PUT", &path, &json!({ "reason": "case 4711" })).unwrap().json()
    };
    let frozen = freeze(&server);
    assert_eq!(frozen["state"], "frozen", "{frozen}");
    server.stop();
    let before = fs::read(deployment.file(&id)).unwrap();

    let look = |server: &Server| Operator::new(server, &key).get(&path).unwrap().json();
    faults.begin("unreadable-pages");
    let server = deployment.serve();
    assert_eq!(look(&server), frozen);
    let refused = Operator::new(&server, &key).call("DELETE", &path, &json!({})).unwrap();
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(look(&server), frozen);
    // It may never give them again. What the backup has is the same to the bit, and nothing else comes in its place.
    let recover = |body: &Value| Operator::new(&server, &key).post(&format!("{base}/recovery"), body).unwrap();
    let earlier = recover(&json!({ "txid": "0000000000000001" }));
    assert_eq!((earlier.status, earlier.json()["code"].clone()), (409, json!("freeze_not_in_backup")));
    let rehearsed = recover(&json!({ "dry_run": true }));
    assert_eq!((rehearsed.status, rehearsed.json()["frozen"].clone()), (200, json!(true)), "{}", rehearsed.text());
    assert_eq!(look(&server), frozen);
    server.stop();

    // Neither is one undone that a crash has cut off.
    let catalog = rusqlite::Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
    assert_eq!(catalog.execute("UPDATE freeze SET state = 'freezing', certificate = NULL", []).unwrap(), 1);
    drop(catalog);
    let server = deployment.serve();
    assert_eq!(look(&server)["state"], "freezing");
    let refused = freeze(&server);
    assert_eq!(refused["status"], 503, "{refused}");
    assert_eq!(look(&server)["state"], "freezing");
    for (method, path) in [("DELETE", path.clone()), ("POST", format!("{base}/recovery"))] {
        let refused = Operator::new(&server, &key).call(method, &path, &json!({})).unwrap();
        assert!(refused.status >= 400, "{method} {path}: {}", refused.text());
        assert_eq!(look(&server)["state"], "freezing");
    }
    faults.end("unreadable-pages");
    assert_eq!(freeze(&server)["state"], "frozen");
    server.stop();
    assert_eq!(fs::read(deployment.file(&id)).unwrap(), before, "the file is as it was frozen");
}
