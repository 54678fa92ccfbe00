//! A folder on a mount that hangs: whoever looks into it waits for good, and nobody else does.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::process::{Deployment, Operator, Person, Server, host_of, owner_of, until};

/// Nobody ever writes into it, so whoever reads it waits, as on a mount of which the server is gone. This is what is
/// asked before anything is shipped.
fn hang(replica: &Path) -> std::path::PathBuf {
    let next = replica.join("owner/0000000000000002.json");
    assert!(Command::new("mkfifo").arg(&next).status().unwrap().success());
    next
}

fn deployment() -> (Deployment, std::path::PathBuf) {
    let (deployment, replica) = crate::backup::deployment();
    let deployment = deployment
        .with("BACKUP_TIMEOUT_SECONDS", 1)
        .with("BACKUP_CONFIRM_SECONDS", 2)
        .with("SERVER_SHUTDOWN_GRACE_SECONDS", 2);
    (deployment, replica)
}

/// Threads that wait for the folder.
fn threads(server: &Server) -> usize {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "backup-folder").count()
}

#[test]
fn a_start_does_not_wait_for_a_mount_that_hangs_and_all_is_shipped_when_it_answers() {
    let (deployment, replica) = deployment();
    let (server, mut operator, key) = deployment.started();
    let (acme, globex) = (operator.organization("acme"), operator.organization("globex"));
    until("it waits for the store", || {
        let path = format!("/v1/organizations/{globex}");
        operator.call("PATCH", &path, &json!({"replication": "object"})).unwrap().status == 200
    });
    server.stop();

    let pipe = hang(&replica);
    let server = deployment.serve();
    assert!(server.log().contains("will be asked later"), "{}", server.log());
    let mut operator = Operator::new(&server, &key);
    // Everybody is served, and what needs the store is refused, with the reason.
    Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
    let members = |id: &str| format!("/v1/organizations/{id}/members");
    for n in 0..20 {
        let body = json!({"email": format!("m{n}@acme.test")});
        let made = operator.post(&members(&acme), &body).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let body = json!({"email": "waits@globex.test"});
    let refused = operator.post(&members(&globex), &body).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "write_not_replicated"), "{}", refused.text());
    until("the reason is told", || {
        let told = operator.get(&format!("/v1/organizations/{acme}/backup")).unwrap();
        told.text().contains("does not answer")
    });
    // It is tried again and again, and no thread of each try is kept.
    until("it is tried again", || server.log().matches("could not be backed up").count() >= 2);
    assert!(threads(&server) < 40, "{} threads", threads(&server));
    // A stop does not wait for it either.
    server.stop();

    // It hangs once more while all goes on, and what was asked of the dead mount never comes back: another one is there
    // in its place.
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let body = json!({"email": "late@globex.test"});
    let refused = operator.post(&members(&globex), &body).unwrap();
    assert_eq!(refused.code(), "write_not_replicated", "{}", refused.text());
    fs::remove_file(pipe).unwrap();
    until("a write is confirmed again", || {
        let body = json!({"name": "Owner"});
        let answer = operator.call("PATCH", &format!("/v1/organizations/{globex}"), &body).unwrap();
        answer.status == 200
    });
    until("everything is shipped", || {
        let told = operator.get("/v1/backup").unwrap().json();
        told["waiting"] == 0 && {
            let restored = deployment.directory.path().join("restored.sqlite");
            let _ = fs::remove_file(&restored);
            let to = restored.to_str().unwrap();
            deployment.run(&["backup", "fetch", &acme, "--to", to]).status.success() && {
                let copy = rusqlite::Connection::open(&restored).unwrap();
                let count = "SELECT count(*) FROM member WHERE email LIKE 'm%@acme.test'";
                copy.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() == 20
            }
        }
    });
    server.stop();
}

#[test]
fn a_mount_that_begins_to_hang_holds_up_only_what_asks_for_it() {
    let (deployment, replica) = deployment();
    let (server, mut operator, _) = deployment.started();
    let acme = operator.organization("acme");
    until("it is shipped", || operator.get("/v1/backup").unwrap().json()["waiting"] == 0);
    let _pipe = hang(&replica);
    for n in 0..10 {
        let body = json!({"email": format!("m{n}@acme.test")});
        let made = operator.post(&format!("/v1/organizations/{acme}/members"), &body).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
    // Before anything is removed it is asked whether the location is ours still: the request waits for that and no more.
    let path = format!("/v1/organizations/{acme}/erasure");
    let erased = operator.call("PUT", &path, &json!({"confirm": "acme", "now": true})).unwrap();
    assert!(erased.status < 500 || erased.status == 503, "{}", erased.text());
    server.stop();
}

#[test]
fn an_erased_member_is_waited_for_once() {
    let (deployment, replica) = deployment();
    let deployment = deployment
        .with("BACKUP_TIMEOUT_SECONDS", 60)
        .with("BACKUP_CONFIRM_SECONDS", 250)
        .with("BACKUP_REPLICATION", "object");
    let (server, mut operator, key) = deployment.started();
    let acme = operator.organization("acme");
    let members = format!("/v1/organizations/{acme}/members");
    let made = operator.post(&members, &json!({"email": "ada@acme.test"})).unwrap().json();
    server.stop();
    // Nothing that was known of the store is believed any more after a start. Twice as long as is waited for it would be
    // longer than a request may take.
    let _pipe = hang(&replica);
    let deployment = deployment
        .with("BACKUP_CONFIRM_SECONDS", 20)
        .with("SERVER_REQUEST_TIMEOUT_SECONDS", 35)
        .with("SERVER_HEADER_TIMEOUT_SECONDS", 10);
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let path = format!("{members}/{}/erasure", made["id"].as_str().unwrap());
    let refused = operator.call("PUT", &path, &json!({})).unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (503, "write_not_replicated"), "{}", refused.text());
    server.stop();
}
