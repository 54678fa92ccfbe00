//! From the first start to the last request: who owns the directory, what the master key needs, and how the
//! server stops.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use serde_json::json;

use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, Server, host_of, owner_of, session_check, until};
use crate::wire::{PATIENCE, Request, connect, read_answer};

#[test]
fn one_process_owns_a_directory() {
    let deployment = Deployment::new();
    let server = deployment.serve();
    let second = deployment.run(&["serve"]);
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("belongs to a process that is running"), "{said}");
    assert!(said.contains(deployment.data_dir().to_str().unwrap()), "{said}");
    // The first one did not notice; a killed one leaves no lock behind.
    assert_eq!(server.client().send(&Request::get(HOST, "/readyz")).unwrap().status, 200);
    drop(server);
    deployment.serve().stop();
}

#[test]
fn the_master_key_is_made_once_and_guarded() {
    let deployment = Deployment::new();
    deployment.serve().stop();
    let path = deployment.data_dir().join("master.key");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&deployment.data_dir())), (0o600, 0o700));
    let key = fs::read_to_string(&path).unwrap();

    let refused = |why: &str| {
        let ran = deployment.run(&["serve"]);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said:?} does not say {why:?}");
        assert!(!said.contains(key.trim()), "{said}");
    };
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    refused("set its mode to 0600");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();

    fs::write(&path, "not a key\n").unwrap();
    refused("does not hold a key");
    fs::write(&path, format!("{}\n", "7f".repeat(32))).unwrap();
    refused("another master key");

    // It is never made a second time: the keyring depends on the first.
    fs::remove_file(&path).unwrap();
    refused("is missing");
    assert!(!path.exists());

    // From the environment it is as good.
    let by_environment = deployment.with("KEYS_MASTER_KEY", key.trim());
    by_environment.serve().stop();

    // A file that is named is never made, not even on the first start.
    let named = Deployment::new();
    let elsewhere = named.directory.path().join("elsewhere.key");
    let named = named.with("KEYS_MASTER_KEY_FILE", elsewhere.display());
    let ran = named.run(&["serve"]);
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("is missing") && !elsewhere.exists());
}

#[test]
fn stopping_lets_requests_finish_and_folds_the_logs() {
    // A password takes about a second.
    let deployment = Deployment::new()
        .with("PASSWORD_MEMORY_KIB", 131_072)
        .with("PASSWORD_ITERATIONS", 6)
        .with("SERVER_SHUTDOWN_GRACE_SECONDS", PATIENCE.as_secs());
    let key = deployment.operator_key();
    let mut server = deployment.serve();
    let organization = Operator::new(&server, &key).organization("acme");
    let host = host_of("acme");
    let mut person = Person::at(&server, &host);
    person.get("/sign-in").unwrap();
    // An open connection without a request does not keep the server.
    let mut idle = server.client();
    assert_eq!(idle.send(&Request::get(HOST, "/healthz")).unwrap().status, 200);

    // One request is still being sent, another is at work.
    let body = json!({ "email": "late@acme.test" });
    let path = format!("/v1/organizations/{organization}/members");
    let bytes = Request::new("POST", HOST, path).bearer(&key).json(&body).bytes(server.port);
    let mut late = connect(server.port).unwrap();
    late.get_mut().write_all(&bytes[..bytes.len() - 5]).unwrap();
    until("nothing is left of the owner's first password", || !is_hashing(&server));
    let session = thread::scope(|scope| {
        let signing_in = scope.spawn(|| person.sign_in(&owner_of("acme")).unwrap());
        until("the password is being hashed", || is_hashing(&server) || signing_in.is_finished());
        server.terminate();
        until("nobody new is let in", || server.client().send(&Request::get(HOST, "/healthz")).is_err());
        late.get_mut().write_all(&bytes[bytes.len() - 5..]).unwrap();
        let answer = read_answer(&mut late).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        signing_in.join().unwrap()
    });
    assert_eq!(server.wait(), Some(0), "{}", server.log());
    assert!(!deployment.data_dir().join("control.sock").exists());
    let logs = unfolded(&deployment.data_dir());
    assert!(logs.is_empty(), "not folded: {logs:?}");

    let server = deployment.serve();
    assert_eq!(server.client().send(&session_check(&host, &session)).unwrap().status, 200);
    let members = Operator::new(&server, &key).get(&format!("/v1/organizations/{organization}/members")).unwrap();
    assert!(members.text().contains("late@acme.test"));
}

/// Whether one of the threads for it is at work.
fn is_hashing(server: &Server) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let mut states = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    states.any(|state| state.contains("(password-") && state.contains(") R "))
}

/// The WALs below that hold something.
fn unfolded(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(unfolded(&path));
        } else if path.to_string_lossy().ends_with("-wal") && entry.metadata().unwrap().len() > 0 {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn the_password_is_never_in_the_log() {
    let deployment = Deployment::new().with("LOG_LEVEL", "trace");
    let key = deployment.operator_key();
    let server = deployment.serve();
    Operator::new(&server, &key).organization("acme");
    let session = Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
    server.client().send(&session_check(&host_of("acme"), &session)).unwrap();
    let token = session.split_once('=').unwrap().1.to_owned();
    let log = server.log();
    assert!(log.contains("answered"), "nothing was logged");
    for secret in [PASSWORD, &key, &token] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
