//! Long commands: what they say on the way, on a terminal and in a pipe, and what Ctrl-C leaves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::backup::{deployment, shipped};
use crate::process::{Deployment, patience};

/// A deployment whose backup has so many organizations; the server is stopped.
fn fleet(count: usize) -> Deployment {
    let (deployment, _) = deployment();
    let (server, mut operator, _) = deployment.started();
    for n in 0..count {
        let made = operator.post("/v1/organizations", &json!({ "name": format!("Org {n}") })).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
    shipped(&mut operator);
    server.stop();
    deployment
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let (mut found, mut waiting) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(current) = waiting.pop() {
        for entry in fs::read_dir(current).into_iter().flatten().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => waiting.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

fn organizations(directory: &Path) -> Vec<PathBuf> {
    files(&directory.join("orgs")).into_iter().filter(|path| path.ends_with("db.sqlite")).collect()
}

fn interrupt(pid: u32) {
    Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap();
}

fn fetch(deployment: &Deployment, to: &Path) -> Output {
    deployment.run(&["backup", "fetch", "--whole", "--to", to.to_str().unwrap()])
}

#[test]
fn a_pipe_gets_plain_lines_a_terminal_one_that_changes_and_a_program_a_document() {
    let deployment = fleet(12);
    let folder = tempfile::tempdir().unwrap();
    let ran = fetch(&deployment, &folder.path().join("piped"));
    assert!(ran.status.success(), "{ran:?}");
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("fetched: 12 of 12"), "{said}");
    assert!(!said.contains('\r') && !said.contains('\u{1b}'), "{said:?}");
    // And no line for each organization, on either side.
    assert!(said.lines().count() < 6, "{said}");
    let answer = String::from_utf8(ran.stdout).unwrap();
    assert!(answer.contains("keyring") && answer.contains("And 12 organizations, below "), "{answer}");
    assert!(!answer.contains("org_") && answer.lines().count() == 5, "{answer}");

    let to = folder.path().join("json");
    let ran = deployment.run(&["--json", "backup", "fetch", "--whole", "--to", to.to_str().unwrap()]);
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(document["data"].as_array().unwrap().len(), 14, "{document}");

    // util-linux's: the command in it has a terminal of its own.
    let to = folder.path().join("shown");
    let command = deployment.command(&["backup", "fetch", "--whole", "--to", to.to_str().unwrap()]);
    let line = std::iter::once(command.get_program()).chain(command.get_args());
    let line = line.map(|part| format!("'{}'", part.to_str().unwrap())).collect::<Vec<_>>().join(" ");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        script.current_dir(directory);
    }
    let Ok(ran) = script.output() else {
        println!("left out: there is no script(1) here to make a terminal with");
        return;
    };
    let shown = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success(), "{shown}");
    assert!(shown.contains("\r\u{1b}[Kfetched: ") && shown.contains(" of 12"), "{shown:?}");
    // The line is gone before the answer is there.
    let answer = shown.find("Fetched:").unwrap();
    assert!(shown[..answer].ends_with("\r\u{1b}[K"), "{shown:?}");
}

#[test]
fn an_interrupted_fetch_leaves_nothing_half_written_and_goes_on() {
    let count = 150;
    let deployment = fleet(count);
    let folder = tempfile::tempdir().unwrap();
    // It may be over before the signal is there.
    let interrupted = (0..10).find_map(|n| {
        let to = folder.path().join(n.to_string());
        let mut command = deployment.command(&["backup", "fetch", "--whole", "--to", to.to_str().unwrap()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = patience();
        while organizations(&to).len() < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        interrupt(child.id());
        let ran = child.wait_with_output().unwrap();
        (ran.status.code() != Some(0)).then_some((to, ran))
    });
    let (to, ran) = interrupted.unwrap();
    assert_eq!(ran.status.code(), Some(130), "{ran:?}");
    assert!(String::from_utf8(ran.stderr).unwrap().contains("Interrupted"));
    let there = organizations(&to);
    assert!(there.len() < count);
    for file in &there {
        let connection = Connection::open(file).unwrap();
        let whole: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
    }
    assert!(files(&to).iter().all(|path| path.extension().is_none_or(|ends| ends != "tmp")), "{:?}", files(&to));

    // Nobody takes the half for a whole, neither another fetch nor a server.
    let other =
        deployment.run(&["backup", "fetch", "--whole", "--at", "2020-01-01T00:00:00Z", "--to", to.to_str().unwrap()]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    let mut serve = deployment.command(&["serve"]);
    let served = serve.env("BULKHEAD_SERVER_DATA_DIR", &to).output().unwrap();
    assert_eq!(served.status.code(), Some(1), "{served:?}");
    assert!(String::from_utf8(served.stderr).unwrap().contains("was interrupted"));

    let ran = fetch(&deployment, &to);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(organizations(&to).len(), count);
    assert!(!to.join("fetch.unfinished").exists());
    // What is whole is not begun anew.
    let again = fetch(&deployment, &to);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}

#[test]
fn an_interrupted_check_goes_on_and_can_be_followed_again() {
    let deployment = fleet(60);
    let server = deployment.serve();
    for _ in 0..3 {
        let mut command = deployment.command(&["fleet", "check", "--full"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60));
        interrupt(child.id());
        let ran = child.wait_with_output().unwrap();
        // Killed before it listened, interrupted, or already done.
        assert!([None, Some(130), Some(0)].contains(&ran.status.code()), "{ran:?}");
        let ran = deployment.run(&["fleet", "check", "--full"]);
        assert!(ran.status.success(), "{ran:?}");
        assert!(String::from_utf8(ran.stdout).unwrap().contains("60 organizations checked"));
    }
    server.stop();
}

#[test]
fn an_upload_and_a_rebuild_say_how_far_they_are() {
    let deployment = Deployment::new();
    let made = deployment.run(&["org", "create", "--name", "Acme", "--slug", "acme"]);
    assert!(made.status.success(), "{made:?}");
    let archive = deployment.directory.path().join("acme.tar.zst");
    let archive = archive.to_str().unwrap();
    let made = deployment.run(&["org", "export", "acme", "--to", archive]);
    assert!(made.status.success(), "{made:?}");
    let says = |args: &[&str], what: &str| {
        let ran = deployment.run(args);
        assert!(ran.status.success(), "{ran:?}");
        assert!(String::from_utf8(ran.stderr).unwrap().contains(what), "{args:?}");
        let ran = deployment.run(&[&["--json"], args].concat());
        assert!(ran.status.success(), "{ran:?}");
        assert!(!String::from_utf8(ran.stderr).unwrap().contains(what), "{args:?}");
    };
    let import = ["org", "import", archive, "--new-id", "--slug", "copy", "--dry-run"];
    says(&import, "sent: ");
    says(&["catalog", "rebuild", "--dry-run"], "read: 1");
    // The same by way of a server.
    let server = deployment.serve();
    says(&import, "sent: ");
    server.stop();
}
