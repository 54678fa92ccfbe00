//! Copies of what is not written to any more: old ones go on time, the newest state stays.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bulkhead::backup::{Source, Target, Txid};
use bulkhead::base::OrganizationId;
use serde_json::json;

use crate::process::{Deployment, Operator, patience};
use crate::world::{World, until};

fn files(copy: &Path) -> BTreeMap<u8, Vec<String>> {
    let mut found = BTreeMap::new();
    for level in 0..=9 {
        let entries = fs::read_dir(copy.join("ltx").join(level.to_string())).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.retain(|name| Path::new(name).extension().is_some_and(|ends| ends == "ltx"));
        names.sort();
        if !names.is_empty() {
            found.insert(level, names);
        }
    }
    found
}

async fn shipped(world: &World) {
    until("it is shipped", async || {
        let state = world.local_operator("GET", "/v1/backup", None).await.expect(200).json();
        state["waiting"] == 0 && state["catalog"]["behind_since"].is_null()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// One organization, of which a snapshot is made every day and kept for two.
async fn kept_for_two_days(replica: &Path) -> (World, OrganizationId) {
    let url = format!("file://{}", replica.display());
    let world = World::with(&[
        ("BULKHEAD_BACKUP_URL", &url),
        ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10"),
        ("BULKHEAD_BACKUP_SNAPSHOT_HOURS", "24"),
        ("BULKHEAD_BACKUP_RETENTION_HOURS", "48"),
    ])
    .await;
    let id = world.organization("acme").await.parse().unwrap();
    (world, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_at_rest_loses_its_old_copies_and_not_its_state() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let (mut world, id) = kept_for_two_days(&replica).await;
    let copy: PathBuf = replica.join(Source::Organization(id).path());
    let rename = async |world: &World, name: &str| {
        let done = world.operator().patch("/v1/organizations/acme", &json!({ "name": name })).await;
        done.expect(200);
        shipped(world).await;
    };
    let hours = |n: u64| Duration::from_secs(n * 3600);
    for n in 0..3 {
        rename(&world, &format!("First {n}")).await;
        world.clock.advance(hours(1));
    }
    let snapshots = |copy: &Path| files(copy).remove(&9).unwrap_or_default();
    world.clock.advance(hours(28));
    until("the newest state becomes a snapshot", async || {
        let (newest, last) = (files(&copy).remove(&0).unwrap(), snapshots(&copy));
        last.last().is_some_and(|last| last[16..] == newest.last().unwrap()[16..])
    })
    .await;
    // What was merged has gone already, but for the newest.
    until("level 0 is short", async || files(&copy)[&0].len() == 1).await;
    let first = snapshots(&copy).pop().unwrap();
    rename(&world, "Second").await;
    // Not even a restart forgets what is due.
    world.while_stopped(|_| ()).await;
    world.clock.advance(hours(28));
    until("another snapshot", async || snapshots(&copy).last().is_some_and(|last| *last > first)).await;
    // The older one is the beginning of the window for as long as the newer one is younger than that.
    assert!(snapshots(&copy).contains(&first));
    world.clock.advance(hours(49));
    until("the old one expires", async || !snapshots(&copy).contains(&first)).await;
    // What was shipped once more after the restart has a snapshot of its own.
    world.clock.advance(hours(49));
    until("one snapshot is left", async || snapshots(&copy).len() == 1 && files(&copy)[&0].len() == 1).await;
    let last = files(&copy);
    // Ever after, nothing more: the newest state stays.
    world.clock.advance(hours(24 * 300));
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(files(&copy), last);
    let out = directory.path().join("restored.sqlite");
    let backups = world.app().state().backups.clone().unwrap();
    backups.restore(Source::Organization(id), Target::Latest, &out).await.unwrap();
    let restored = rusqlite::Connection::open(out).unwrap();
    let name: String = restored.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "Second");
}

/// A snapshot from a clock that was a year ahead for a while: when it is right again, others follow, and it goes with
/// what is behind it as if it had been made in its turn.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_clock_that_was_far_ahead_has_left_heals() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let (mut world, id) = kept_for_two_days(&replica).await;
    let copy: PathBuf = replica.join(Source::Organization(id).path());
    let rename = async |world: &World, name: &str| {
        world.operator().patch("/v1/organizations/acme", &json!({ "name": name })).await.expect(200);
        shipped(world).await;
    };
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let snapshots = |copy: &Path| files(copy).remove(&9).unwrap_or_default();
    let newest = |copy: &Path| files(copy).remove(&0).unwrap().pop().unwrap()[16..].to_owned();
    let is_covered = |copy: &Path| snapshots(copy).last().is_some_and(|last| last[16..] == newest(copy));
    rename(&world, "First").await;
    world.clock.advance(hours(28));
    until("the first snapshot", async || is_covered(&copy)).await;
    let right = world.clock.now();
    world.clock.advance(hours(24 * 365));
    rename(&world, "A year ahead").await;
    world.clock.advance(hours(28));
    until("one of the future", async || is_covered(&copy) && snapshots(&copy).len() == 2).await;
    let of_the_future = snapshots(&copy);
    // The clock is set right, and the machine starts again.
    world.clock = bulkhead::base::Clock::manual(right);
    world.while_stopped(|_| ()).await;
    rename(&world, "Right again").await;
    world.clock.advance(hours(28));
    until("one of the right time", async || is_covered(&copy) && snapshots(&copy).len() == 3).await;
    // It is as old as that one; the two before it are the window until then.
    world.clock.advance(hours(49));
    until("what was behind it expires", async || {
        let left = snapshots(&copy);
        left.len() == 1 && !of_the_future.contains(&left[0]) && files(&copy)[&0].len() == 1
    })
    .await;
}

/// What was provisioned and is not used lies in the store as what was shipped and as a snapshot, and not once a level.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_is_not_written_once_a_level() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")];
    let world = World::with(&settings).await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    shipped(&world).await;
    let source = Source::Organization(id);
    let copy = replica.join(source.path());
    let backups = world.app().state().backups.clone().unwrap();
    backups.destroy(source).await.unwrap();
    backups.ship_now(source).await.unwrap();
    let counts = |copy: &Path| files(copy).iter().map(|(level, files)| (*level, files.len())).collect::<Vec<_>>();
    assert_eq!(counts(&copy), [(0, 1)]);
    let day = Duration::from_secs(28 * 3600);
    world.clock.advance(day);
    let journal = world.data_dir().join("backup-due.log");
    until("it is looked at, and never again", async || {
        let text = fs::read_to_string(&journal).unwrap();
        text.lines().rfind(|line| line.ends_with(&id.to_string())) == Some(&format!("0 {id}"))
    })
    .await;
    assert_eq!(counts(&copy), [(0, 1), (9, 1)]);
    // Used later, it can still be had back as it was all that time.
    world.operator().patch("/v1/organizations/acme", &json!({ "name": "Second" })).await.expect(200);
    shipped(&world).await;
    world.clock.advance(day);
    until("another snapshot", async || files(&copy)[&9].len() == 2).await;
    for (number, (target, wanted)) in
        [(Target::Latest, "Second"), (Target::Txid(Txid(1)), "acme")].into_iter().enumerate()
    {
        let out = directory.path().join(format!("restored-{number}.sqlite"));
        backups.restore(source, target, &out).await.unwrap();
        let restored = rusqlite::Connection::open(out).unwrap();
        let name: String = restored.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap();
        assert_eq!(name.to_lowercase(), wanted.to_lowercase());
    }
}

#[test]
fn a_start_without_a_backup_forgets_nothing() {
    let deployment = Deployment::new();
    let replica = deployment.directory.path().join("replica");
    let url = format!("file://{}", replica.display());
    // The command that makes it ships nothing: the server is to be the first.
    let key = deployment.operator_key();
    let deployment = deployment.with("BACKUP_URL", &url).with("BACKUP_DELAY_MILLISECONDS", 20);
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let (id, other) = (operator.organization("acme"), operator.organization("globex"));
    let deadline = patience();
    while !server.log().contains("the store of the backup has everything") {
        assert!(Instant::now() < deadline, "{}", server.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    server.stop();
    let copy_of = |id: &str| replica.join(deployment.file(id).strip_prefix(deployment.data_dir()).unwrap());
    let before = files(&copy_of(&other));
    // A command of somebody who left the settings out, and a server without them.
    let bare = |args: &[&str]| {
        let mut command = deployment.command(args);
        command.env("BULKHEAD_BACKUP_URL", "").output().unwrap()
    };
    assert!(bare(&["org", "list"]).status.success());
    let suspended = bare(&["org", "suspend", "acme", "--reason", "while nobody ships"]);
    assert!(suspended.status.success(), "{suspended:?}");
    let made = bare(&["org", "create", "--name", "Made meanwhile", "--slug", "initech"]);
    assert!(made.status.success(), "{made:?}");
    let log = server_log(&deployment);
    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let initech = operator.get("/v1/organizations/initech").unwrap().json()["id"].as_str().unwrap().to_owned();
    let state_of = |id: &str| {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("db.sqlite");
        let fetched = deployment.run(&["backup", "fetch", id, "--to", out.to_str().unwrap()]);
        fetched.status.success().then(|| {
            let connection = rusqlite::Connection::open(&out).unwrap();
            connection.query_row("SELECT state FROM organization", [], |row| row.get::<_, String>(0)).unwrap()
        })
    };
    let deadline = patience();
    while state_of(&id).as_deref() != Some("suspended") || state_of(&initech).as_deref() != Some("active") {
        assert!(Instant::now() < deadline, "what was written in between is not at the store");
        std::thread::sleep(Duration::from_millis(200));
    }
    let said = server.log()[log.len()..].to_owned();
    assert!(!said.contains("everything is shipped once"), "{said}");
    assert_eq!(files(&copy_of(&other)).get(&0), before.get(&0), "what was not written to was shipped again");
    server.stop();
}

fn server_log(deployment: &Deployment) -> String {
    fs::read_to_string(deployment.directory.path().join("server.log")).unwrap_or_default()
}

/// A database was written anew: what is older goes, and nothing that was shipped since.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_from_before_a_database_was_written_anew_goes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let replica = directory.path().join("replica");
    let (world, id) = kept_for_two_days(&replica).await;
    let source = Source::Organization(id);
    let backups = world.app().state().backups.clone().unwrap();
    let rename = async |name: &str| {
        world.operator().patch("/v1/organizations/acme", &json!({ "name": name })).await.expect(200);
        backups.ship_now(source).await.unwrap();
        backups.progress(source).unwrap().txid.unwrap()
    };
    let name_of = |file: &Path| -> String {
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
    };
    let out = directory.path().join("restored.sqlite");
    let name_at = async |txid: Txid| {
        let _ = fs::remove_file(&out);
        let restored = backups.restore(source, Target::Txid(txid), &out).await;
        restored.map(|_| name_of(&out)).map_err(|error| error.code().name)
    };
    let before = [rename("Before 0").await, rename("Before 1").await];
    backups.start_over(source).await;
    let mut since = Vec::new();
    for n in 0..5 {
        since.push(rename(&format!("Since {n}")).await);
    }
    let place = directory.path().join("place.sqlite");
    let forget = async |word: &'static str| {
        let forgotten = backups.forget_before_own(source, &place, |file| Ok(name_of(file).starts_with(word))).await;
        assert!(!place.exists());
        forgotten.unwrap().map(|gone| gone.count)
    };
    // Where nothing is as it should be, or everything, nothing goes.
    assert_eq!((forget("Never").await, forget("").await), (None, Some(0)));
    assert_eq!(name_at(before[0]).await.as_deref(), Ok("Before 0"));

    let gone = forget("Since").await;
    assert!(gone >= Some(2), "{gone:?}");
    for txid in before {
        assert_eq!(name_at(txid).await, Err("backup_not_found"));
    }
    for (n, txid) in since.iter().enumerate() {
        assert_eq!(name_at(*txid).await, Ok(format!("Since {n}")));
    }
    assert_eq!(forget("Since").await, Some(0));
    // And it is shipped on.
    let last = rename("Last").await;
    assert_eq!(name_at(last).await.as_deref(), Ok("Last"));
    assert_eq!(name_at(since[0]).await.as_deref(), Ok("Since 0"));
}
