//! What an operator types, mistypes and is asked: the command line where the acts are dangerous or the store is away.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::process::Deployment;

fn with_acme() -> Deployment {
    let deployment = Deployment::new();
    deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme", "--owner-email", "ada@acme.test"]);
    deployment
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// The error of a command with `--json`, and its exit code; there must be nothing on standard output.
fn refused(deployment: &Deployment, args: &[&str]) -> (i32, Value) {
    let ran = deployment.run(&[&["--json"], args].concat());
    assert!(ran.stdout.is_empty(), "{args:?}: {ran:?}");
    let mut document: Value = serde_json::from_slice(&ran.stderr).unwrap_or_else(|_| panic!("{args:?}: {ran:?}"));
    (ran.status.code().unwrap(), document["error"].take())
}

fn actions(deployment: &Deployment, log: &[&str]) -> Vec<String> {
    let events = deployment.json(log);
    let events = events["data"].as_array().unwrap().iter();
    events.map(|event| event["action"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn wrong_use_is_a_document_for_whoever_asked_for_one() {
    let deployment = Deployment::new();
    for (args, part) in [
        (&["org"][..], "a command is missing"),
        (&["org", "show"][..], "<ORG>"),
        (&["nonsense"][..], "nonsense"),
        (&["org", "diff", "acme", "--from", "yesterday"][..], "2026-11-22T09:30:00Z"),
        (&["org", "restore", "acme", "--at", "yesterday"][..], "2026-11-22T09:30:00Z"),
        (&["org", "restore", "acme", "--txid", "7"][..], "16 hexadecimal digits"),
        (&["org", "recover", "acme", "--at", "2026-11-22"][..], "2026-11-22T09:30:00Z"),
        (&["org", "quota", "acme", "--default", "--max-members", "3"][..], "--max-members"),
        (&["org", "limit", "acme", "--default", "--request-burst", "3"][..], "--request-burst"),
        (&["litestream", "config", "--replica", "nonsense"][..], "--replica"),
    ] {
        let (code, error) = refused(&deployment, args);
        assert_eq!((code, &error["code"]), (2, &json!("usage")), "{args:?}: {error}");
        assert!(error["detail"].as_str().unwrap().contains(part), "{args:?}: {error}");
        let plain = deployment.run(args);
        assert_eq!(plain.status.code(), Some(2), "{plain:?}");
        assert!(!String::from_utf8(plain.stderr).unwrap().starts_with('{'), "{args:?}");
    }
    assert!(refused(&deployment, &["org", "show"]).1["advice"].as_str().unwrap().contains("bulkhead org show"));
    // What stands behind `--` is no option.
    let ran = deployment.run(&["org", "show", "--", "--json", "more"]);
    assert!(ran.status.code() == Some(2) && ran.stderr.starts_with(b"error: "), "{ran:?}");
    assert!(!deployment.data_dir().exists());
}

#[test]
fn an_address_is_refused_where_it_would_be_of_no_effect() {
    let deployment = Deployment::new();
    for command in [
        &["backup", "adopt"][..],
        &["backup", "adopt", "--dry-run"],
        &["backup", "fetch", "catalog", "--to", "catalog.sqlite"],
        &["litestream", "config"],
        &["catalog", "rebuild"],
    ] {
        let (code, error) =
            refused(&deployment, &[&["--url", "http://localhost:1", "--api-key", "k"], command].concat());
        assert_eq!((code, &error["code"]), (2, &json!("usage")), "{command:?}: {error}");
        assert!(error["detail"].as_str().unwrap().contains("--url"), "{command:?}: {error}");
    }
}

#[test]
fn what_needs_the_directory_for_itself_says_who_has_it() {
    let store = tempfile::tempdir().unwrap();
    let deployment = with_acme().with("BACKUP_URL", format!("file://{}", store.path().display()));
    let server = deployment.serve();
    // Its own store is its own; one of somebody else's it would take over.
    let other = tempfile::tempdir().unwrap();
    let deployment = deployment.with("BACKUP_URL", format!("file://{}", other.path().display()));
    for command in [&["catalog", "rebuild"][..], &["catalog", "rebuild", "--dry-run"], &["backup", "adopt"]] {
        let (code, error) = refused(&deployment, command);
        assert_eq!((code, &error["code"]), (1, &json!("data_directory_in_use")), "{command:?}: {error}");
        assert!(error["advice"].as_str().unwrap().starts_with("Stop"), "{error}");
    }
    assert!(std::fs::read_dir(other.path()).unwrap().next().is_none(), "it was taken over");
    server.stop();
    assert!(deployment.run(&["catalog", "rebuild"]).status.success());
}

#[test]
fn quotas_and_limits_are_shown_before_they_are_taken_away() {
    let deployment = with_acme();
    let set = deployment.json(&["org", "quota", "acme", "--max-members", "5"]);
    assert_eq!(set["quotas"], json!({ "max_bytes": null, "max_members": 5 }));
    let set = deployment.json(&["org", "limit", "acme", "--requests-per-second", "7"]);
    assert_eq!(set["limits"]["requests_per_second"], 7);
    let before = actions(&deployment, &["org", "audit", "list", "acme"]);

    assert_eq!(deployment.json(&["org", "quota", "acme"])["quotas"]["max_members"], 5);
    assert_eq!(deployment.json(&["org", "limit", "acme"])["limits"]["requests_per_second"], 7);
    let shown = said(&deployment.run(&["org", "quota", "acme"]));
    assert!(shown.starts_with("Set for acme") && shown.contains("max members:  5"), "{shown}");
    assert_eq!(actions(&deployment, &["org", "audit", "list", "acme"]), before);

    assert_eq!(deployment.json(&["org", "quota", "acme", "--default"])["quotas"]["max_members"], Value::Null);
    assert_eq!(deployment.json(&["org", "limit", "acme", "--default"])["limits"]["requests_per_second"], Value::Null);
    assert_eq!(actions(&deployment, &["org", "audit", "list", "acme"]).len(), before.len() + 2);
}

#[test]
fn the_operators_log_and_the_erasures_are_there_to_be_read() {
    let deployment = with_acme();
    deployment.json(&["member", "create", "acme", "--email", "bert@acme.test"]);
    let deleted = deployment.run(&["member", "delete", "acme", "bert@acme.test"]);
    assert!(deleted.status.success(), "{deleted:?}");
    let members = deployment.json(&["member", "list", "acme"]);
    assert_eq!(members["data"].as_array().unwrap().len(), 1, "{members}");

    assert_eq!(deployment.json(&["org", "erasures"])["data"], json!([]));
    let asked = deployment.json(&["org", "erase", "acme", "--after-days", "3"]);
    let listed = deployment.json(&["org", "erasures"]);
    assert_eq!(listed["data"][0]["organization_id"], asked["organization_id"], "{listed}");
    assert_eq!(listed["data"][0]["state"], "scheduled", "{listed}");
    // Its name leads nowhere once it is done, so it is named by its id here.
    let (_, error) = refused(&deployment, &["org", "certificate", "acme"]);
    assert!(error["advice"].as_str().unwrap().contains("bulkhead org erasures"), "{error}");

    let log = actions(&deployment, &["audit", "list"]);
    for action in ["organization.created", "member.deleted", "organization.erasure_scheduled"] {
        assert!(log.iter().any(|one| one == action), "{action}: {log:?}");
    }
    assert_eq!(actions(&deployment, &["audit", "list", "--limit", "1"]), log[..1]);
    let verified = deployment.json(&["audit", "verify"]);
    assert_eq!((&verified["intact"], &verified["events"]), (&json!(true), &json!(log.len())), "{verified}");
    assert!(said(&deployment.run(&["audit", "verify"])).contains("The operators' log is whole"));
}

#[test]
fn a_file_that_is_not_there_is_no_bad_export() {
    let deployment = Deployment::new();
    for name in ["missing.tar.zst", "."] {
        let (code, error) = refused(&deployment, &["org", "verify-export", name]);
        assert_eq!((code, &error["code"]), (1, &json!("unreadable_file")), "{error}");
    }
    std::fs::write(deployment.directory.path().join("other"), "text").unwrap();
    assert_eq!(refused(&deployment, &["org", "verify-export", "other"]).1["code"], "import_not_an_archive");
}

#[test]
fn a_moment_that_is_still_to_come_is_refused_and_nothing_is_done_in_its_name() {
    let store = tempfile::tempdir().unwrap();
    let deployment = Deployment::new().with("BACKUP_URL", format!("file://{}", store.path().display()));
    deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme", "--owner-email", "ada@acme.test"]);
    let later = "2999-01-01T00:00:00Z";
    for command in [
        &["org", "restore", "acme", "--at", later][..],
        &["org", "restore", "acme", "--at", later, "--dry-run"],
        &["org", "restore", "acme", "--at", later, "--as", "acme-then"],
        &["org", "restore", "acme", "--at", later, "--output", "then.sqlite"],
        &["org", "diff", "acme", "--from", later],
        &["org", "diff", "acme", "--from", "0000000000000001", "--to", later],
    ] {
        let (code, error) = refused(&deployment, command);
        assert_eq!((code, &error["errors"][0]["code"]), (1, &json!("in_the_future")), "{command:?}: {error}");
    }
    let log = actions(&deployment, &["org", "audit", "list", "acme"]);
    assert!(!log.iter().any(|action| action.contains("restored") || action.contains("copied")), "{log:?}");
    assert!(!deployment.directory.path().join("then.sqlite").exists());
    assert!(deployment.run(&["org", "restore", "acme"]).status.success());
}

#[test]
fn a_rehearsed_recovery_puts_nothing_in_place() {
    let store = tempfile::tempdir().unwrap();
    let deployment = Deployment::new().with("BACKUP_URL", format!("file://{}", store.path().display()));
    let made = deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme"]);
    let file = deployment.file(made["id"].as_str().unwrap());
    // It ships what is not there yet.
    deployment.json(&["org", "diff", "acme", "--from", "0000000000000001"]);
    let (_, error) = refused(&deployment, &["org", "recover", "acme", "--dry-run"]);
    assert_eq!(error["code"], "organization_readable");
    let noise = vec![0xa5; 20_000];
    std::fs::write(&file, &noise).unwrap();

    let rehearsed = deployment.json(&["org", "recover", "acme", "--dry-run"]);
    assert_eq!((&rehearsed["dry_run"], &rehearsed["kept"]), (&json!(true), &Value::Null), "{rehearsed}");
    assert!(said(&deployment.run(&["org", "recover", "acme", "--dry-run"])).contains("Nothing was done."));
    assert_eq!(std::fs::read(&file).unwrap(), noise);
    assert!(!actions(&deployment, &["audit", "list"]).iter().any(|action| action == "organization.recovered"));

    let done = deployment.json(&["org", "recover", "acme"]);
    assert_eq!((&done["dry_run"], &done["txid"]), (&json!(false), &rehearsed["txid"]), "{done}");
    assert!(deployment.run(&["org", "show", "acme"]).status.success());
}

#[test]
fn what_is_known_of_a_backup_is_told_while_its_store_is_away() {
    let deployment = with_acme()
        .with("BACKUP_URL", "s3://bucket/prefix")
        .with("BACKUP_ENDPOINT", "http://127.0.0.1:1")
        .with("BACKUP_ALLOW_HTTP", true)
        .with("BACKUP_REGION", "none")
        .with("BACKUP_ACCESS_KEY_ID", "a")
        .with("BACKUP_SECRET_ACCESS_KEY", "b");
    // bucket.127.0.0.1 is no address.
    let (code, error) = refused(&deployment, &["org", "list"]);
    assert_eq!((code, &error["errors"][0]["field"]), (1, &json!("backup.force_path_style")), "{error}");
    let deployment = deployment.with("BACKUP_FORCE_PATH_STYLE", true);
    let server = deployment.serve();
    let ran = deployment.run(&["--json", "org", "history", "acme"]);
    let found: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!((ran.status.code(), &found["store_reachable"]), (Some(1), &json!(false)), "{found}");
    assert_eq!((&found["oldest"], &found["replication"]), (&Value::Null, &json!("local")), "{found}");
    let shown = said(&deployment.run(&["org", "history", "acme"]));
    assert!(shown.starts_with("The store cannot be reached"), "{shown}");
    // What needs the store is refused, with where to look.
    let (code, error) = refused(&deployment, &["org", "diff", "acme", "--from", "0000000000000001"]);
    assert_eq!((code, &error["code"]), (1, &json!("backup_unavailable")), "{error}");
    assert!(error["advice"].as_str().unwrap().contains("bulkhead backup status"), "{error}");
    assert!(said(&deployment.run(&["backup", "status"])).contains("waiting:"));
    server.stop();
}

#[test]
fn what_has_moved_away_is_no_problem_of_the_catalog() {
    let (here, there) = (with_acme(), Deployment::new());
    let key = there.directory.path().join("key");
    std::fs::write(&key, there.operator_key()).unwrap();
    let (source, target) = (here.serve(), there.serve());
    let pushed = here.run(&["org", "push", "acme", "--to", &there.url(), "--to-key-file", key.to_str().unwrap()]);
    assert!(pushed.status.success(), "{pushed:?}");
    let checked = here.run(&["catalog", "check"]);
    assert!(checked.status.success(), "{checked:?}");
    let (_, error) = refused(&here, &["org", "show", "acme"]);
    assert!(error["advice"].as_str().unwrap().contains("bulkhead org erase"), "{error}");
    source.stop();
    target.stop();
}

/// A command with a terminal of its own, into which something is typed; `None` where there is no script(1) to make one.
fn at_a_terminal(deployment: &Deployment, args: &[&str], typed: &str) -> Option<(i32, String)> {
    let command = deployment.command(args);
    let line = std::iter::once(command.get_program()).chain(command.get_args());
    let line = line.map(|part| format!("'{}'", part.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script.current_dir(deployment.directory.path());
    let Ok(mut child) = script.spawn() else {
        println!("left out: there is no script(1) here to make a terminal with");
        return None;
    };
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let ran = child.wait_with_output().unwrap();
    Some((ran.status.code().unwrap(), String::from_utf8_lossy(&ran.stdout).into_owned()))
}

#[test]
fn what_cannot_be_undone_is_asked_before_it_is_done() {
    let deployment = with_acme();
    deployment.json(&["member", "create", "acme", "--email", "bert@acme.test"]);
    let is_there = || deployment.run(&["org", "show", "acme"]).status.success();
    let Some((code, shown)) = at_a_terminal(&deployment, &["org", "erase", "acme", "--now"], "yes\n") else { return };
    assert!(code == 1 && shown.contains("Type acme to go on") && shown.contains("(not_confirmed)"), "{code} {shown}");
    assert!(is_there());
    for args in [
        &["org", "erase", "acme", "--after-days", "0"][..],
        &["org", "restore", "acme"],
        &["member", "erase", "acme", "bert@acme.test"],
        &["fleet", "rollback", "acme"],
        &["keys", "rotate-master", "--retire-now"],
        &["catalog", "rebuild"],
    ] {
        let (code, shown) = at_a_terminal(&deployment, args, "\n").unwrap();
        assert!(code == 1 && shown.contains("(not_confirmed)"), "{args:?}: {code} {shown}");
    }
    assert!(is_there());
    let state = deployment.json(&["org", "show", "acme"])["state"].clone();
    assert_eq!(state, "active");
    let log = actions(&deployment, &["audit", "list"]);
    assert_eq!(log, ["member.created", "organization.created"], "{log:?}");

    // What does nothing yet, or says that it was thought of, is not asked.
    let (code, shown) = at_a_terminal(&deployment, &["org", "erase", "acme", "--dry-run"], "").unwrap();
    assert!(code == 0 && !shown.contains("to go on"), "{code} {shown}");
    let (code, shown) = at_a_terminal(&deployment, &["--yes", "keys", "rotate-master", "--retire-now"], "").unwrap();
    assert!(code == 0 && !shown.contains("to go on") && shown.contains("No key before is left"), "{code} {shown}");
    let (code, shown) = at_a_terminal(&deployment, &["org", "erase", "acme", "--now"], "acme\n").unwrap();
    assert!(code == 0 && shown.contains("Erased acme"), "{code} {shown}");
    assert!(!is_there());
}
