//! What happens between the two halves of something: between a look at a file and what is said of it, between the
//! catalog and the file, between a file in its place and its row.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bulkhead::base::{ExternalId, HostName, OrganizationId, Slug};
use bulkhead::catalog::{Entry, organizations};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::erasure::erase_now;
use crate::export::archive_of;
use crate::fleet_migrate::{migrate, newer};
use crate::import::{PASSPHRASE, assert_clean, import, sealed};
use crate::organizations::file_of;
use crate::process::patience;
use crate::world::{Answer, World, until};

/// In the place of a file: whoever opens it to read waits until somebody writes to it, and then finds no database.
struct Pipe(PathBuf);

impl Pipe {
    fn at(path: PathBuf) -> Self {
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }

    /// Waits until somebody waits for it, who goes on now; so does whoever comes while what is returned is there.
    async fn met(&self) -> File {
        let deadline = patience();
        loop {
            match File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&self.0) {
                Ok(open) => return open,
                Err(error) => assert!(Instant::now() < deadline, "nobody waits for the pipe: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Pipe {
    /// Nobody waits for ever, also where a test has failed.
    fn drop(&mut self) {
        if fs::metadata(&self.0).is_ok_and(|found| found.file_type().is_fifo()) {
            std::mem::forget(File::options().read(true).write(true).open(&self.0));
        }
    }
}

/// Nobody else writes to the database until this is dropped, or for longer than whoever does waits.
struct Locked(Connection);

impl Locked {
    fn at(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(connection)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        let _ = self.0.execute_batch("COMMIT");
    }
}

fn later(world: &World, method: &str, path: &str, body: &Value) -> JoinHandle<Answer> {
    tokio::spawn(world.call_later(world.operator().call(method, path).json(body)))
}

fn found_of<'w>(walk: &'w Value, id: &str) -> Vec<&'w str> {
    let findings = walk["findings"].as_array().unwrap().iter().filter(|found| found["organization_id"] == id);
    findings.map(|found| found["code"].as_str().unwrap()).collect()
}

async fn is_aside(world: &World, id: &str) -> bool {
    let aside = world.operator().get(&format!("/v1/organizations/{id}/quarantine")).await.expect(200).json();
    aside["quarantined"].as_bool().unwrap()
}

/// Three organizations whose files are closed. The first two are pipes: a walk that has come to one of them has listed
/// all, and does not say what it has found before somebody lets it go on at the other. It looks at two at a time.
async fn walked_slowly(before: impl FnOnce(&Path, &Path)) -> (World, [String; 3], [Pipe; 2]) {
    let mut world = World::new().await;
    let ids = [world.organization("one").await, world.organization("two").await, world.organization("acme").await];
    let [one, two, acme] = [0, 1, 2].map(|n| file_of(&world, &ids[n]));
    let pipes = world
        .while_stopped(|_| {
            before(&one, &acme);
            [Pipe::at(one), Pipe::at(two)]
        })
        .await;
    (world, ids, pipes)
}

fn torn(file: &Path) {
    let bytes = fs::read(file).unwrap();
    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_says_nothing_of_what_is_erased_before_it_has_ended() {
    let (world, [one, _, acme], [first, second]) = walked_slowly(|_, acme| torn(acme)).await;
    let begun = world.operator().post("/v1/fleet/checks", &json!({"quarantine": true})).await.expect(202);
    let _goes_on = first.met().await;
    erase_now(&world, "acme").await;
    drop(second);
    let check = world.walked("checks", &begun.id()).await;
    assert_eq!((check["state"].as_str(), check["checked"].as_i64()), (Some("done"), Some(3)), "{check}");
    assert_eq!(found_of(&check, &acme), [""; 0], "{check}");
    // The others are still looked at, and set aside.
    assert_eq!(found_of(&check, &one), ["damaged"], "{check}");
    assert!(is_aside(&world, &one).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_does_not_set_aside_what_was_put_back_before_it_has_ended() {
    let whole = tempfile::tempdir().unwrap();
    let kept = whole.path().join("db.sqlite");
    let (world, [one, two, _], [broken, second]) =
        walked_slowly(|one, _| assert!(fs::copy(one, &kept).unwrap() > 0)).await;
    let begun = world.operator().post("/v1/fleet/checks", &json!({"quarantine": true})).await.expect(202);
    let _goes_on = broken.met().await;
    // It is found to be no database; and then it is one again.
    let beside = broken.0.with_extension("new");
    fs::copy(&kept, &beside).unwrap();
    fs::rename(&beside, &broken.0).unwrap();
    drop(second);
    let check = world.walked("checks", &begun.id()).await;
    assert_eq!((check["state"].as_str(), check["checked"].as_i64()), (Some("done"), Some(3)), "{check}");
    assert_eq!((found_of(&check, &one), found_of(&check, &two)), (vec![], vec!["damaged"]), "{check}");
    assert!(!is_aside(&world, &one).await);
    world.operator().get("/v1/organizations/one").await.expect(200);
    assert!(is_aside(&world, &two).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_where_one_that_fails_is_erased_meanwhile() {
    let mut world = World::new().await;
    let mut ids = [world.organization("one").await, world.organization("two").await, world.organization("three").await];
    ids.sort();
    world.set_schema(newer());
    let [slow, broken, quick] = [0, 1, 2].map(|n| file_of(&world, &ids[n]));
    world.while_stopped(|_| Connection::open(&broken).unwrap().execute_batch("CREATE TABLE shelf (id)").unwrap()).await;
    // The first one is waited for, and until then nothing is noted.
    let locked = Locked::at(&slow);
    let begun = world.operator().post("/v1/fleet/migrations", &json!({"pause_on_error": false})).await.expect(202);
    let newest = i64::try_from(newer().len()).unwrap();
    until("the last one is migrated", async || {
        let version = |file: &Path| Connection::open(file)?.query_row("PRAGMA user_version", [], |row| row.get(0));
        version(&quick) == Ok(newest)
    })
    .await;
    erase_now(&world, &ids[1]).await;
    drop(locked);
    let ended = world.walked("migrations", &begun.id()).await;
    assert_eq!((ended["state"].as_str(), ended["migrated"].as_i64()), (Some("done"), Some(3)), "{ended}");
    assert_eq!(ended["findings_count"], 0, "{ended}");
    for id in [&ids[0], &ids[2]] {
        assert!(!is_aside(&world, id).await);
    }
}

/// Somebody has the file for themselves, such as while it is moved, for longer than the sweep waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_does_not_set_aside_what_somebody_holds() {
    let mut world = World::new().await;
    let (acme, other) = (world.organization("acme").await, world.organization("other").await);
    world.set_schema(newer());
    world.while_stopped(|_| ()).await;
    let held = world.app().state().tenants.hold(acme.parse().unwrap()).await.unwrap();
    let ended = migrate(&world, json!({"pause_on_error": true})).await;
    assert_eq!((ended["state"].as_str(), ended["migrated"].as_i64()), (Some("done"), Some(2)), "{ended}");
    // It is told, and nobody is refused for it.
    assert_eq!((found_of(&ended, &acme), found_of(&ended, &other)), (vec!["not_migrated"], vec![]), "{ended}");
    assert!(!is_aside(&world, &acme).await);
    let pending = async || world.operator().get("/v1/fleet/migrations").await.expect(200).json()["pending"].clone();
    assert_eq!(pending().await, 1);
    drop(held);
    world.operator().get("/v1/organizations/acme").await.expect(200);
    let again = migrate(&world, json!({})).await;
    assert_eq!((again["migrated"].as_i64(), again["findings_count"].as_i64()), (Some(1), Some(0)), "{again}");
    assert_eq!(pending().await, 0);
}

/// Its file is in place, and the catalog is busy for longer than a write waits.
#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_made_where_the_catalog_is_busy_for_a_while() {
    let world = World::new().await;
    let catalog = world.app().state().catalog.clone();
    let keyring = Locked::at(&world.data_dir().join("keyring.sqlite"));
    let mut making = later(&world, "POST", "/v1/organizations", &json!({"name": "Acme", "slug": "acme"}));
    until("its name is reserved", async || !catalog.read(organizations::half_done).await.unwrap().is_empty()).await;
    let busy = Locked::at(&world.data_dir().join("catalog.sqlite"));
    drop(keyring);
    // More than once as long as a write waits.
    let answered = tokio::time::timeout(Duration::from_secs(7), &mut making).await;
    assert!(answered.is_err(), "{answered:?}");
    drop(busy);
    making.await.unwrap().expect(201);
    world.operator().get("/v1/organizations/acme").await.expect(200);
    assert_clean(&world, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_organization_that_cannot_be_entered_nothing_is_left() {
    let (elsewhere, mut world) = (World::new().await, World::new().await);
    elsewhere.organization("moved").await;
    let archive = archive_of(&elsewhere, "moved", &sealed()).await;
    let catalog = world.data_dir().join("catalog.sqlite");
    let sql = |sql: &str| Connection::open(&catalog).unwrap().execute_batch(sql).unwrap();
    sql("CREATE TRIGGER never BEFORE UPDATE OF state ON organization BEGIN SELECT RAISE(ABORT, 'never'); END");
    let body = json!({"name": "Acme", "slug": "acme", "external_id": "crm-7"});
    let refused = world.operator().post("/v1/organizations", &body).await;
    assert!(refused.status >= 500, "{refused:?}");
    let refused = import(&world, &archive, "", Some(PASSPHRASE)).await;
    assert!(refused.status >= 500, "{refused:?}");
    sql("DROP TRIGGER never");
    let files = || {
        let shards = fs::read_dir(world.data_dir().join("orgs")).unwrap().map(|entry| entry.unwrap().path());
        let shards = shards.filter(|shard| shard.file_name().is_some_and(|name| name != ".building"));
        shards
            .flat_map(|shard| fs::read_dir(shard).unwrap())
            .flat_map(|inner| fs::read_dir(inner.unwrap().path()).unwrap())
            .count()
    };
    assert_eq!(files(), 0, "a file is left");
    let keys = Connection::open(world.data_dir().join("keyring.sqlite")).unwrap();
    let keys =
        || keys.query_row("SELECT count(*) FROM data_key WHERE name LIKE 'org_%'", [], |row| row.get::<_, i64>(0));
    assert_eq!(keys(), Ok(0), "a key is left");
    // Nor does it come to life at the next start; and its names are free.
    world.while_stopped(|_| ()).await;
    assert_clean(&world, &[]).await;
    world.operator().post("/v1/organizations", &body).await.expect(201);
    import(&world, &archive, "", Some(PASSPHRASE)).await.expect(201);
    assert_clean(&world, &["acme", "moved"]).await;
}

/// The file's own list of hosts, and the catalog's.
async fn hosts(world: &World, id: OrganizationId) -> (Vec<String>, Vec<String>) {
    let own = world.operator().get("/v1/organizations/acme").await.expect(200).json();
    let own = own["hosts"].as_array().unwrap().iter().map(|host| host.as_str().unwrap().to_owned()).collect();
    (own, world.app().state().catalog.read(|db| organizations::hosts(db, id)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_added_meanwhile_stays_in_the_file() {
    let world = World::new().await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    let catalog = &world.app().state().catalog;
    let (add, add_b) =
        (|host: &str| format!("/v1/organizations/acme/hosts/{host}"), HostName::parse("b.acme.test").unwrap());
    let locked = Locked::at(&file_of(&world, &id.to_string()));
    let first = later(&world, "PUT", &add("a.acme.test"), &json!({}));
    until("the catalog has the first", async || {
        catalog.read(|db| organizations::hosts(db, id)).await.unwrap() == ["a.acme.test"]
            && logged(&world, "organization.host_added").await == 1
    })
    .await;
    // The second is in the catalog now, and was in the file before the first comes to it.
    catalog.write(|db| organizations::add_host(db, id, &add_b)).await.unwrap();
    drop(locked);
    first.await.unwrap().expect(204);
    let both = vec!["a.acme.test".to_owned(), "b.acme.test".to_owned()];
    assert_eq!(hosts(&world, id).await, (both.clone(), both.clone()));
    // Each act is in the file's log, also where somebody else has brought it there; the same again is none.
    for _ in 0..2 {
        world.operator().put(&add("b.acme.test"), &json!({})).await.expect(204);
    }
    world.operator().put(&add("c.acme.test"), &json!({})).await.expect(204);
    world.operator().delete(&add("a.acme.test")).await.expect(204);
    let events = world.events("acme").await;
    let count = |action: &str| events.iter().filter(|event| event["action"] == action).count();
    assert_eq!((count("organization.host_added"), count("organization.host_removed")), (2, 1), "{events:?}");
    let left = vec!["b.acme.test".to_owned(), "c.acme.test".to_owned()];
    assert_eq!(hosts(&world, id).await, (left.clone(), left));
    assert_clean(&world, &["acme"]).await;
}

/// What the catalog says of it.
async fn entry(world: &World, id: OrganizationId) -> Entry {
    world.app().state().catalog.read(|db| organizations::entry(db, id)).await.unwrap().unwrap()
}

/// How often this is in the operators' log.
async fn logged(world: &World, action: &str) -> usize {
    let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json();
    log["data"].as_array().unwrap().iter().filter(|event| event["action"] == action).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_has_the_name_that_the_catalog_has_whoever_comes_last() {
    let world = World::new().await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    let catalog = &world.app().state().catalog;
    let at = format!("/v1/organizations/{id}");
    let locked = Locked::at(&file_of(&world, &id.to_string()));
    let first = later(&world, "PATCH", &at, &json!({"slug": "first"}));
    until("the catalog has the first name", async || entry(&world, id).await.slug.as_str() == "first").await;
    // Somebody else's, who has come to the file already.
    let (slug, external_id) = (Slug::parse("second").unwrap(), ExternalId::parse("crm-8").unwrap());
    catalog.write(|db| organizations::rename(db, id, &slug, Some(&external_id))).await.unwrap();
    drop(locked);
    let told = first.await.unwrap().expect(200).json();
    let row = world.operator().get(&at).await.expect(200).json();
    assert_eq!((row["slug"].as_str(), row["external_id"].as_str()), (Some("second"), Some("crm-8")), "{row}");
    assert_eq!((entry(&world, id).await.slug.as_str(), &told["slug"]), ("second", &row["slug"]), "{told}");
    assert_clean(&world, &["second"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_change_one_name_each_neither_puts_back_the_others() {
    let world = World::new().await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    let at = format!("/v1/organizations/{id}");
    let locked = Locked::at(&file_of(&world, &id.to_string()));
    let slug = later(&world, "PATCH", &at, &json!({"slug": "apex"}));
    until("the catalog has the slug", async || entry(&world, id).await.slug.as_str() == "apex").await;
    let external_id = later(&world, "PATCH", &at, &json!({"external_id": "crm-9"}));
    until("and the other name", async || entry(&world, id).await.external_id.as_deref() == Some("crm-9")).await;
    drop(locked);
    slug.await.unwrap().expect(200);
    external_id.await.unwrap().expect(200);
    let row = world.operator().get(&at).await.expect(200).json();
    assert_eq!((row["slug"].as_str(), row["external_id"].as_str()), (Some("apex"), Some("crm-9")), "{row}");
    let entry = entry(&world, id).await;
    assert_eq!((entry.slug.as_str(), entry.external_id.as_deref()), ("apex", Some("crm-9")));
    assert_clean(&world, &["apex"]).await;
}
