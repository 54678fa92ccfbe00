//! Copies that are not of the database whose place they have, and how a store's failures are told apart.

use std::fs;
use std::path::{Path, PathBuf};

use bulkhead::backup::Source;
use bulkhead::base::OrganizationId;
use bulkhead::replica::{Location, Settings, Store};
use serde_json::{Value, json};

use crate::backup::{copy_of, deployment, shipped};
use crate::process::Deployment;
use crate::replica::support;
use crate::world::World;

/// The server goes on behind whatever it finds.
const FIRST: &str = "0000000000000001";

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn put_in_place_of(copy: &Path, other: &Path) {
    fs::remove_dir_all(copy).unwrap();
    copy_directory(other, copy);
}

/// Some other program's database.
async fn put_something_in_place_of(copy: &Path, replica: &Path, path: &str) {
    fs::remove_dir_all(copy).unwrap();
    let mut source = support::Source::new(4096, chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap());
    source.write();
    let store = Store::connect(&Location::Folder(replica.to_owned()), &Settings::default()).unwrap();
    source.ship(&store.replica(path).unwrap(), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_organizations_is_never_taken_for_its_past() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")];
    let mut world = World::with(&settings).await;
    let (acme, globex) = (world.organization("acme").await, world.organization("globex").await);
    let path = |id: &str| Source::Organization(id.parse::<OrganizationId>().unwrap()).path();
    let backups = world.app().state().backups.clone().unwrap();
    for id in [&acme, &globex] {
        backups.ship_now(Source::Organization(id.parse().unwrap())).await.unwrap();
    }
    drop(backups);
    let copy: PathBuf = replica.join(path(&acme));

    let refused = async |world: &World, why: &str| {
        let at = "/v1/organizations/acme";
        let answers = [
            world.operator().post(&format!("{at}/restorations"), &json!({"txid": FIRST, "dry_run": true})).await,
            world.operator().post(&format!("{at}/restorations"), &json!({"txid": FIRST})).await,
            world.operator().get(&format!("{at}/differences?from={FIRST}")).await,
            world.operator().post(&format!("{at}/copies"), &json!({"slug": "beside", "txid": FIRST})).await,
            world.operator().get(&format!("{at}/backup/snapshot?txid={FIRST}")).await,
        ];
        for answer in answers {
            let answer = answer.expect_problem(409, "backup_damaged");
            let detail = answer.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(why), "{detail}");
            assert!(!answer.mentions("restoring") && !answer.mentions("db.sqlite"), "a path is told: {answer:?}");
        }
        // And nothing came of any of them.
        world.operator().get("/v1/organizations/beside").await.expect(404);
        assert_eq!(world.operator().get(at).await.expect(200).json()["name"], "acme");
    };
    world.while_stopped(|_| put_in_place_of(&copy, &replica.join(path(&globex)))).await;
    refused(&world, &globex).await;
    let place = path(&acme);
    let something = || {
        let put = put_something_in_place_of(&copy, &replica, &place);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(put));
    };
    world.while_stopped(|_| something()).await;
    refused(&world, "not a Bulkhead").await;

    // Nor is it put in the place of a file that is lost.
    let file = world.data_dir().join(path(&acme));
    world.while_stopped(|_| fs::write(&file, vec![7; 8192]).unwrap()).await;
    for body in [json!({"txid": FIRST}), json!({"txid": FIRST, "dry_run": true})] {
        world.operator().post("/v1/organizations/acme/recovery", &body).await.expect_problem(409, "backup_damaged");
        assert_eq!(fs::read(&file).unwrap(), vec![7; 8192]);
    }
}

/// The code that a fetch ends with.
fn fetch(deployment: &Deployment, what: &str, to: &Path) -> String {
    let ran = deployment.run(&["--json", "backup", "fetch", what, "--to", to.to_str().unwrap()]);
    let answer: Value = serde_json::from_slice(&ran.stderr).unwrap_or_else(|_| panic!("{ran:?}"));
    answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_says_whether_the_store_or_the_copy_is_of_no_use() {
    let (deployment, replica) = deployment();
    let (acme, globex) = tokio::task::block_in_place(|| {
        let (server, mut operator, _) = deployment.started();
        let ids = (operator.organization("acme"), operator.organization("globex"));
        shipped(&mut operator);
        server.stop();
        ids
    });
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("fetched.sqlite");
    let copy = copy_of(&deployment, &replica, &acme);
    let nothing_left = || assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "something was left behind");

    put_in_place_of(&copy, &copy_of(&deployment, &replica, &globex));
    assert_eq!(fetch(&deployment, &acme, &to), "backup_damaged");
    nothing_left();
    let path = Source::Organization(acme.parse().unwrap()).path();
    put_something_in_place_of(&copy, &replica, &path).await;
    assert_eq!(fetch(&deployment, &acme, &to), "backup_damaged");
    nothing_left();
    for file in support::files_below(&copy.join("ltx/0")) {
        fs::write(file, "torn").unwrap();
    }
    assert_eq!(fetch(&deployment, &acme, &to), "backup_damaged");
    fs::remove_dir_all(&copy).unwrap();
    assert_eq!(fetch(&deployment, &acme, &to), "backup_not_found");
    put_in_place_of(&replica.join("catalog.sqlite"), &replica.join("keyring.sqlite"));
    assert_eq!(fetch(&deployment, "catalog", &to), "backup_damaged");
    nothing_left();
    // What is there is no fault of the store's.
    let fetched = deployment.run(&["backup", "fetch", &globex, "--to", to.to_str().unwrap()]);
    assert!(fetched.status.success(), "{fetched:?}");
    assert_eq!(fetch(&deployment, &globex, &to), "backup_target_exists");
    // Nor that it cannot be looked at here.
    let here = folder.path().join("here.sqlite");
    fs::create_dir(folder.path().join("here.sqlite.tmp-wal")).unwrap();
    assert_eq!(fetch(&deployment, &globex, &here), "storage_failed");
    fs::remove_dir(folder.path().join("here.sqlite.tmp-wal")).unwrap();
    assert!(!here.exists());

    // Neither is a store that is not there: one refuses, and one does not answer.
    let other = folder.path().join("other.sqlite");
    fs::write(folder.path().join("file"), "no folder").unwrap();
    let refuses = deployment.with("BACKUP_URL", format!("file://{}/file", folder.path().display()));
    assert_eq!(fetch(&refuses, &globex, &other), "backup_refused");
    let silent = refuses
        .with("BACKUP_URL", "s3://backups/fleet")
        .with("BACKUP_ENDPOINT", format!("http://127.0.0.1:{}", crate::process::free_port()))
        .with("BACKUP_ACCESS_KEY_ID", "id")
        .with("BACKUP_SECRET_ACCESS_KEY", "secret")
        .with("BACKUP_FORCE_PATH_STYLE", true)
        .with("BACKUP_ALLOW_HTTP", true)
        .with("BACKUP_TIMEOUT_SECONDS", 2);
    assert_eq!(fetch(&silent, &globex, &other), "backup_unavailable");
}
