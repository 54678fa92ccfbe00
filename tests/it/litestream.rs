//! A deployment that leaves its files to a stock litestream beside it, by the configuration that we print.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use rusqlite::Connection;
use serde_json::json;

use crate::backup::{copy_of, folded, member, restored, same};
use crate::process::{Deployment, Operator, Person, host_of, owner_of, session_check, until};
use crate::tools::{has, litestream};

fn deployment() -> (Deployment, PathBuf) {
    let deployment = Deployment::new();
    let replica = deployment.directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    let deployment = deployment.with("BACKUP_URL", url).with("BACKUP_MODE", "litestream");
    (deployment.with("BACKUP_DELAY_MILLISECONDS", 100), replica)
}

/// A `litestream replicate` on what `bulkhead litestream config` prints.
struct Beside(Child);

impl Beside {
    fn start(deployment: &Deployment) -> Self {
        let printed = deployment.run(&["litestream", "config"]);
        assert!(printed.status.success(), "{printed:?}");
        assert!(printed.stderr.is_empty(), "{printed:?}");
        let folder = deployment.directory.path();
        let config = folder.join("litestream.yml");
        fs::write(&config, printed.stdout).unwrap();
        let log = fs::File::options().create(true).append(true).open(folder.join("litestream.log")).unwrap();
        let mut command = litestream();
        command.arg("replicate").arg("-config").arg(config).stdout(Stdio::from(log.try_clone().unwrap())).stderr(log);
        Self(command.spawn().unwrap())
    }

    /// As an operator ends it, so that it ships what it has.
    fn stop(mut self) {
        std::process::Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        self.0.wait().unwrap();
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many members the newest copy has, if there is one that can be restored.
fn copied_members(copy: &std::path::Path) -> Option<i64> {
    if !copy.join("ltx").exists() {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("restored.sqlite");
    let ran = litestream().arg("restore").arg("-o").arg(&out).arg(format!("file://{}", copy.display())).output();
    if !ran.unwrap().status.success() {
        return None;
    }
    let connection = Connection::open(out).unwrap();
    Some(connection.query_row("SELECT count(*) FROM member", [], |row| row.get(0)).unwrap())
}

#[test]
fn a_stock_litestream_looks_after_what_the_server_leaves_to_it() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    // More organizations than may be open, so that files are closed and opened again in between.
    let deployment = deployment.with("FILES_MAX_OPEN", 8);
    let key = deployment.operator_key();
    let mut server = deployment.serve();
    let mut beside = Some(Beside::start(&deployment));
    let slugs: Vec<String> = (0..10).map(|n| format!("org-{n}")).collect();
    let ids: Vec<String> = slugs.iter().map(|slug| Operator::new(&server, &key).organization(slug)).collect();
    for round in 0..4_u32 {
        let mut operator = Operator::new(&server, &key);
        for (id, slug) in ids.iter().zip(&slugs) {
            member(&mut operator, id, &json!({ "email": format!("m{round}@example.com") }));
            let cookie = Person::at(&server, &host_of(slug)).sign_in(&owner_of(slug)).unwrap();
            let checked = server.client().send(&session_check(&host_of(slug), &cookie)).unwrap();
            assert_eq!(checked.status, 200, "{}", checked.text());
        }
        match round {
            0 => server.kill(),
            1 => beside.take().unwrap().kill(),
            2 => beside.take().unwrap().stop(),
            _ => {}
        }
        if round == 0 {
            server = deployment.serve();
        }
        beside.get_or_insert_with(|| Beside::start(&deployment));
    }
    for id in &ids {
        let copy = copy_of(&deployment, &replica, id);
        until("a copy does not get everything", || copied_members(&copy) == Some(5));
    }
    for name in ["catalog.sqlite", "keyring.sqlite"] {
        until("no copy of what all share", || replica.join(name).join("ltx").exists());
    }
    server.stop();
    // What the server leaves behind is whole without another fold: only litestream folds.
    beside.take().unwrap().stop();
    for id in &ids {
        same(&restored(&copy_of(&deployment, &replica, id), &[]), &folded(&deployment.file(id)), id);
    }
    // Checks, exports and a catalog made again do not mind the tables that litestream leaves in each database.
    let checked = deployment.json(&["fleet", "check", "--full"]);
    assert_eq!(checked["findings"], json!([]), "{checked}");
    let archive = deployment.directory.path().join("org-0.zst");
    let said = archive.to_str().unwrap();
    let exported = deployment.run(&["org", "export", "org-0", "--to", said]);
    assert!(exported.status.success(), "{exported:?}");
    let verified = deployment.json(&["org", "verify-export", said]);
    assert_eq!(verified["intact"], true, "{verified}");
    let imported = deployment.json(&["org", "import", said, "--new-id", "--slug", "org-again"]);
    assert_eq!(imported["slug"], "org-again", "{imported}");
    let rebuilt = deployment.json(&["catalog", "rebuild"]);
    assert_eq!((&rebuilt["conflicts"], &rebuilt["left_out"]), (&json!([]), &json!([])), "{rebuilt}");
}

#[test]
fn what_litestream_has_shipped_can_be_had_back_and_is_erased_with_the_organization() {
    if !has("litestream") {
        return;
    }
    let (deployment, replica) = deployment();
    let (server, mut operator, _) = deployment.started();
    let [id, other] = ["acme", "globex"].map(|slug| operator.organization(slug));
    // Afterwards: of directories inside one another that are made while it watches, it may miss the inner ones.
    let beside = Beside::start(&deployment);
    let base = format!("/v1/organizations/{id}");
    let (copy, others) = (copy_of(&deployment, &replica, &id), copy_of(&deployment, &replica, &other));
    until("the first state was not shipped", || copied_members(&copy) == Some(1));
    let newest = || deployment.json(&["org", "history", "acme"])["newest"]["txid"].clone();
    let then = newest();
    let added = member(&mut operator, &id, &json!({ "email": "later@example.com" }));
    until("the second state was not shipped", || copied_members(&copy) == Some(2));
    assert_ne!(newest(), then);

    // Looking beside and going back work on what litestream has shipped.
    let txid = then.as_str().unwrap();
    let told = deployment.json(&["org", "restore", "acme", "--txid", txid, "--as", "acme-then"]);
    assert_eq!((&told["members"], &told["txid"]), (&json!(1), &then), "{told}");
    let told = deployment.json(&["org", "restore", "acme", "--txid", txid]);
    assert_eq!(told["txid"], then, "{told}");
    assert_eq!(operator.get(&format!("{base}/members/{added}")).unwrap().status, 404);
    until("the restore was not shipped", || copied_members(&copy) == Some(1));

    // What would put another file into the place of the one that litestream has open is refused.
    for path in ["recovery", "migration_rollback"] {
        let answer = operator.post(&format!("{base}/{path}"), &json!({})).unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (409, "backup_is_litestreams"), "{}", answer.text());
    }
    let state = operator.get("/v1/backup").unwrap().json();
    assert_eq!(state["mode"], "litestream", "{state}");
    let compacted = operator.post(&format!("{base}/compaction"), &json!({})).unwrap();
    assert_eq!(compacted.status, 200, "{}", compacted.text());

    // An erasure takes the replica with it, and litestream does not bring it back.
    let place = deployment.place(&id);
    let erased = deployment.json(&["org", "erase", "acme", "--now"]);
    assert_eq!(erased["state"], "erased", "{erased}");
    assert!(!place.exists() && !copy.exists(), "something is left of it");
    member(&mut operator, &other, &json!({ "email": "after@example.com" }));
    until("the other organization is not looked after any more", || copied_members(&others) == Some(2));
    assert!(!place.exists() && !copy.exists(), "it came back");
    server.stop();
    beside.stop();
    assert!(!place.exists() && !copy.exists(), "it came back at the end");
}

#[test]
fn the_configuration_names_everything_and_no_secret() {
    let deployment = Deployment::new()
        .with("BACKUP_URL", "s3://backups/fleet")
        .with("BACKUP_ENDPOINT", "https://store.example.com")
        .with("BACKUP_ACCESS_KEY_ID", "the-id")
        .with("BACKUP_SECRET_ACCESS_KEY", "the-secret")
        .with("BACKUP_FORCE_PATH_STYLE", true)
        .with("BACKUP_RETENTION_HOURS", 99);
    let printed = deployment.run(&["litestream", "config"]);
    let text = String::from_utf8(printed.stdout).unwrap();
    for said in [
        "catalog.sqlite",
        "keyring.sqlite",
        "recursive: true",
        "watch: true",
        "retention: 99h",
        "retention: 24h",
        "\"s3://backups/fleet/orgs\"",
        "endpoint: \"https://store.example.com\"",
        "force-path-style: true",
    ] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
    assert!(!text.contains("the-id") && !text.contains("the-secret"), "{text}");
    // A server that ships by itself would be in its way.
    assert!(String::from_utf8(printed.stderr).unwrap().contains("backup.mode"));
    let elsewhere = deployment.json(&["litestream", "config", "--replica", "file:///mnt/copies/"]);
    assert!(elsewhere["yaml"].as_str().unwrap().contains("\"file:///mnt/copies/catalog.sqlite\""), "{elsewhere}");
    assert_eq!(Deployment::new().run(&["litestream", "config"]).status.code(), Some(1));
    let without = Deployment::new().with("BACKUP_MODE", "litestream").run(&["config", "check"]);
    assert_eq!(without.status.code(), Some(1), "{without:?}");
    let confirmed = Deployment::new()
        .with("BACKUP_MODE", "litestream")
        .with("BACKUP_URL", "file:///tmp/x")
        .with("BACKUP_REPLICATION", "object");
    assert_eq!(confirmed.run(&["config", "check"]).status.code(), Some(1));
}
