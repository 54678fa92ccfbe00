//! Copies of a file that was damaged: what they hide is found, and what they cannot give is named.

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead::backup::Source;
use bulkhead::base::OrganizationId;
use bulkhead::ltx::{Encoder, FileName, Header, Txid};
use bulkhead::replica::{Location, Replica, SNAPSHOT_LEVEL, Settings, Store, Target, restore};
use serde_json::{Value, json};

use crate::backup::{deployment, member, shipped};
use crate::process::{Deployment, Operator, scribble_over, until};

const PAGE: usize = 4096;

/// The copy of one organization at the store, without the server.
struct Copy {
    replica: Replica,
    runtime: tokio::runtime::Runtime,
}

impl Copy {
    fn of(folder: &Path, organization: &str) -> Self {
        let id: OrganizationId = organization.parse().unwrap();
        let store = Store::connect(&Location::Folder(folder.to_owned()), &Settings::default()).unwrap();
        let replica = store.replica(&Source::Organization(id).path()).unwrap();
        Self { replica, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    /// Puts the newest state there once more as one file, with a page of this table overwritten: as a snapshot of the
    /// same transaction, or as the transaction after it.
    fn put_damaged(&self, table: &str, is_snapshot: bool) -> Txid {
        self.runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("db.sqlite");
            let newest = restore(&self.replica, Target::Latest, &file).await.unwrap();
            scribble_over(&file, table);
            let (min, max, level) = match is_snapshot {
                true => (Txid(1), newest.txid, SNAPSHOT_LEVEL),
                false => (newest.txid.next(), newest.txid.next(), 0),
            };
            let bytes = fs::read(&file).unwrap();
            let header = Header {
                page_size: u32::try_from(PAGE).unwrap(),
                commit: u32::try_from(bytes.len() / PAGE).unwrap(),
                min,
                max,
                timestamp_ms: newest.timestamp.timestamp_millis() + i64::from(!is_snapshot),
                wal_offset: if is_snapshot { 0 } else { 32 },
                wal_size: 0,
                wal_salts: if is_snapshot { [0, 0] } else { [7, 9] },
                node_id: 0,
            };
            let mut encoder = Encoder::new(Vec::new(), header).unwrap();
            for (page, at) in bytes.chunks(PAGE).zip(1..) {
                encoder.page(at, page).unwrap();
            }
            let at = bulkhead::replica::moment(&header);
            self.replica.put(level, FileName { min, max }, encoder.finish().unwrap().0, at).await.unwrap();
            max
        })
    }
}

fn newest(operator: &mut Operator, id: &str) -> Value {
    operator.get(&format!("/v1/organizations/{id}/backup")).unwrap().json()["newest"].clone()
}

fn lose(deployment: &Deployment, id: &str) {
    fs::write(deployment.file(id), vec![0xa5; 20_000]).unwrap();
}

/// What a command says that is refused, as a program reads it and as people do.
fn refused(deployment: &Deployment, args: &[&str]) -> (Value, String) {
    let ran = deployment.run(&[&["--json"], args].concat());
    assert!(!ran.status.success(), "{args:?}: {ran:?}");
    let told: Value = serde_json::from_slice(&ran.stderr).unwrap_or_else(|_| panic!("{ran:?}"));
    let ran = deployment.run(args);
    assert!(!ran.status.success(), "{args:?}: {ran:?}");
    (told["error"].clone(), String::from_utf8(ran.stderr).unwrap())
}

/// What was committed was shipped before: the snapshot alone is of a damaged file.
#[test]
fn a_damaged_snapshot_hides_nothing_that_other_files_lead_to() {
    for is_newest in [true, false] {
        let (deployment, folder) = deployment();
        let (server, mut operator, key) = deployment.started();
        let id = operator.organization("acme");
        let base = format!("/v1/organizations/{id}");
        let [erna, _] = ["erna", "fred"]
            .map(|name| member(&mut operator, &id, &json!({ "email": format!("{name}@example.com"), "name": name })));
        shipped(&mut operator);
        let before = newest(&mut operator, &id)["txid"].clone();
        assert_eq!(operator.call("PUT", &format!("{base}/members/{erna}/erasure"), &json!({})).unwrap().status, 200);
        shipped(&mut operator);
        let last = newest(&mut operator, &id)["txid"].clone();
        server.stop();
        let snapshot = Copy::of(&folder, &id).put_damaged("audit_event", true);
        assert_eq!(last, snapshot.to_string());
        lose(&deployment, &id);

        let server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        let path = format!("{base}/recovery");
        let rehearsed = operator.post(&path, &json!({ "dry_run": true })).unwrap();
        assert_eq!((rehearsed.status, &rehearsed.json()["txid"]), (200, &last), "{}", rehearsed.text());
        let wanted = if is_newest { json!({}) } else { json!({ "txid": before }) };
        let done = operator.post(&path, &wanted).unwrap();
        let expected = if is_newest { &last } else { &before };
        assert_eq!((done.status, &done.json()["txid"]), (200, expected), "{}", done.text());
        until("it is back", || operator.get(&format!("{base}/members")).unwrap().status == 200);
        // Who was erased since is read in the newest state, whichever is put in place.
        let members = operator.get(&format!("{base}/members")).unwrap();
        assert!(members.text().contains("fred@") && !members.text().contains("erna@"), "{}", members.text());
        let verified = operator.get(&format!("{base}/audit_events/verification")).unwrap().json();
        assert_eq!(verified["intact"], true, "{verified}");
        server.stop();
    }
}

#[test]
fn where_the_newest_is_damaged_the_newest_whole_one_is_named_and_not_taken_unasked() {
    let (deployment, folder) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    for n in 0..3 {
        member(&mut operator, &id, &json!({ "email": format!("m{n}@example.com") }));
        shipped(&mut operator);
    }
    let whole = newest(&mut operator, &id);
    let txid = whole["txid"].as_str().unwrap();
    server.stop();
    let copy = Copy::of(&folder, &id);
    // What is read of a past state is whole in the first of them.
    let damaged = copy.put_damaged("refresh_token", false).to_string();
    copy.put_damaged("audit_event", false);
    lose(&deployment, &id);

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let named = |told: &Value| {
        assert_eq!((&told["code"], &told["whole_point"]), (&json!("backup_damaged"), &whole), "{told}");
        assert!(told["detail"].as_str().unwrap().contains(txid), "{told}");
    };
    for args in [&["org", "recover", "acme", "--dry-run"][..], &["org", "recover", "acme"]] {
        let (told, text) = refused(&deployment, args);
        named(&told);
        assert!(text.contains(&format!("bulkhead org recover acme --txid {txid}\n")), "{text}");
        assert_eq!(fs::read(deployment.file(&id)).unwrap(), vec![0xa5; 20_000], "something was put in place");
    }
    assert!(fs::read_dir(deployment.data_dir().join("restoring")).unwrap().next().is_none(), "a copy was left");
    let taken = deployment.json(&["org", "recover", "acme", "--txid", txid]);
    assert_eq!(taken["txid"], txid, "{taken}");
    until("it is back", || operator.get(&format!("{base}/members")).unwrap().status == 200);
    assert!(operator.get(&format!("{base}/members")).unwrap().text().contains("m2@example.com"));

    // Nobody looks at such a state either, nor goes back to it.
    let file = deployment.directory.path().join("seen.sqlite");
    let file = file.to_str().unwrap();
    for (args, command) in [
        (&["--yes"][..], "restore acme".to_owned()),
        (&["--yes", "--reinstate"], "restore acme --reinstate".to_owned()),
        (&["--as", "seen"], "restore acme --as seen".to_owned()),
        (&["--as", "seen", "--dry-run"], "restore acme --as seen".to_owned()),
        (&["--output", file], format!("restore acme --output {file}")),
    ] {
        let args = [&["org", "restore", "acme", "--txid", &damaged], args].concat();
        let (told, text) = refused(&deployment, &args);
        named(&told);
        assert!(text.contains(&format!("bulkhead org {command} --txid {txid}\n")), "{text}");
    }
    assert!(!PathBuf::from(file).exists());
    assert_eq!(operator.get("/v1/organizations/seen").unwrap().status, 404);
    server.stop();
}

#[test]
fn where_nothing_is_whole_nothing_is_named() {
    let (deployment, folder) = deployment();
    let (server, mut operator, _) = deployment.started();
    let id = operator.organization("acme");
    shipped(&mut operator);
    server.stop();
    let copy = Copy::of(&folder, &id);
    let last = copy.put_damaged("member", true);
    let whole: Vec<_> = copy.runtime.block_on(copy.replica.list_all()).unwrap();
    let whole: Vec<_> = whole.into_iter().filter(|item| item.level != SNAPSHOT_LEVEL).collect();
    copy.runtime.block_on(copy.replica.delete(&whole)).unwrap();
    lose(&deployment, &id);

    let server = deployment.serve();
    let (told, text) = refused(&deployment, &["org", "recover", "acme", "--txid", &last.to_string()]);
    assert_eq!((&told["code"], &told["whole_point"]), (&json!("backup_damaged"), &Value::Null), "{told}");
    assert!(text.contains("None before it was found whole") && text.contains("bulkhead backup fetch"), "{text}");
    server.stop();
}

/// The last state that was shipped of it stays the newest, and can be had back.
#[test]
fn a_damaged_file_is_told_and_what_was_shipped_of_it_is_put_in_its_place() {
    let (deployment, _) = deployment();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let base = format!("/v1/organizations/{id}");
    member(&mut operator, &id, &json!({ "email": "last@example.com" }));
    shipped(&mut operator);
    let last = newest(&mut operator, &id)["txid"].clone();
    server.stop();
    // Nobody but a backup looks there.
    scribble_over(&deployment.file(&id), "api_key");
    // As a server without a backup leaves a file that it has written to: only all of it is of use to a backup.
    fs::write(deployment.place(&id).join("db.sqlite-unread"), []).unwrap();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    assert_eq!(operator.call("PATCH", &base, &json!({ "name": "Renamed" })).unwrap().status, 200);
    until("it is told that nothing is shipped of it", || {
        let told = operator.get(&format!("{base}/backup")).unwrap().json()["progress"].clone();
        told["last_error"].as_str().is_some_and(|why| why.contains("the file is damaged"))
            && told["behind_since"].is_string()
    });
    until("the command says so", || {
        let shown = String::from_utf8(deployment.run(&["org", "history", "acme"]).stdout).unwrap();
        shown.contains("Shipping fails:") && shown.contains("the file is damaged")
    });
    assert_eq!(newest(&mut operator, &id)["txid"], last, "a damaged file was shipped");

    let back = deployment.json(&["org", "recover", "acme"]);
    assert_eq!(back["txid"], last, "{back}");
    until("it is back, and shipped", || {
        let found = operator.get(&base).unwrap();
        let progress = operator.get(&format!("{base}/backup")).unwrap().json()["progress"].clone();
        found.status == 200
            && found.json()["name"] == "Company acme"
            && progress["last_error"].is_null()
            && progress["behind_since"].is_null()
    });
    assert!(operator.get(&format!("{base}/members")).unwrap().text().contains("last@example.com"));
    assert_ne!(newest(&mut operator, &id)["txid"], last);
    let again = operator.post(&format!("{base}/recovery"), &json!({})).unwrap();
    assert_eq!((again.status, again.code().as_str()), (409, "organization_readable"));
    server.stop();
}
