//! A store that is slow, or late: whoever waits for a confirmation waits for no merge, and what the store carries out
//! after everybody has given up on it is not taken for another server's doing.

use std::path::PathBuf;
use std::time::Duration;

use bulkhead::backup::{Backups, Databases, Dirty, Ownership, Schedule, Source, Target};
use bulkhead::base::OrganizationId;
use bulkhead::replica::{Location, Replica, Settings, Store};
use rusqlite::Connection;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::process::scribble_over;
use crate::replica::support::Site;
use crate::unsteady::{Mood, Unsteady};
use crate::wire::PATIENCE;
use crate::world::{World, until};

const URL: &str = "s3://backups/fleet";

/// A backup with its own times, of a world that has none, behind a store that does what it is told.
struct Room {
    world: World,
    between: Unsteady,
    backups: Backups,
    organization: Source,
    /// The same store, without anything in between.
    direct: Replica,
    _site: Site,
}

impl Room {
    async fn new(timeout: Duration, schedule: Schedule) -> Self {
        let site = Site::moto();
        let endpoint = site.settings.endpoint.clone().unwrap();
        let between = Unsteady::before(endpoint.rsplit(':').next().unwrap().parse().unwrap());
        let world = World::new().await;
        let id: OrganizationId = world.organization("acme").await.parse().unwrap();
        let location: Location = URL.parse().unwrap();
        let endpoint = Some(format!("http://127.0.0.1:{}", between.port));
        let store = Store::connect(&location, &Settings { endpoint, timeout, ..site.settings.clone() }).unwrap();
        let state = world.app().state();
        let databases = Databases {
            tenants: state.tenants.clone(),
            directory: state.directory.clone(),
            catalog: state.catalog.clone(),
            keyring: state.keys.ring().clone(),
        };
        let dirty = Dirty::new(schedule.debounce);
        let ownership = Ownership::new(URL, &world.data_dir(), "a test");
        let backups =
            Backups::new((store, ownership), dirty, databases, schedule, world.clock.clone(), &world.data_dir());
        let organization = Source::Organization(id);
        let direct = Store::connect(&location, &site.settings).unwrap().replica(&organization.path()).unwrap();
        Self { world, between, backups, organization, direct, _site: site }
    }

    async fn rename(&self, name: &str) {
        self.world.clock.advance(Duration::from_millis(1));
        self.world.operator().patch("/v1/organizations/acme", &json!({ "name": name })).await.expect(200);
    }

    /// From here on a log that is folded before it was shipped is marked, as where a server has a backup.
    fn mark_what_is_folded(&self) {
        let state = self.world.app().state();
        state.tenants.report_writes(|_, _| ());
        state.tenants.let_go(self.id());
    }

    /// Somebody has the file for himself, as whoever moves or looks through it does: its log is folded, shipped or not.
    async fn fold(&self) {
        let (tenants, wal) = (&self.world.app().state().tenants, self.file().with_file_name("db.sqlite-wal"));
        until("it is folded", async || {
            let held = tenants.hold_still(self.id()).await;
            held.is_ok() && std::fs::metadata(&wal).map_or(0, |found| found.len()) == 0
        })
        .await;
    }

    fn id(&self) -> OrganizationId {
        let Source::Organization(id) = self.organization else { panic!("it is one of an organization") };
        id
    }

    fn file(&self) -> PathBuf {
        self.world.data_dir().join(self.organization.path())
    }

    /// Ships, as whoever asks for a copy of just now does, and waits for it beside.
    fn shipping(&self) -> JoinHandle<bulkhead::base::Result<()>> {
        let (backups, source) = (self.backups.clone(), self.organization);
        tokio::spawn(async move { backups.ship_now(source).await })
    }

    async fn confirm(&self) {
        self.backups.confirm(&[self.organization]).await.unwrap();
    }

    /// The name of the organization, as it would be had back.
    async fn at_the_store(&self) -> String {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("db.sqlite");
        bulkhead::replica::restore(&self.direct, Target::Latest, &out).await.unwrap();
        Connection::open(out).unwrap().query_row("SELECT name FROM organization", [], |row| row.get(0)).unwrap()
    }
}

/// It is written down that the store has everything.
async fn is_complete(world: &World) {
    let standing = world.data_dir().join("backup.json");
    until("the store has everything", async || {
        let text = std::fs::read_to_string(&standing).unwrap_or_default();
        serde_json::from_str::<serde_json::Value>(&text).is_ok_and(|known| known["complete"] == true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_merge_that_takes_long_keeps_nobody_waiting() {
    let hour = Duration::from_secs(3600);
    let schedule = Schedule {
        debounce: Duration::from_millis(1),
        levels: [Duration::from_millis(50), hour, hour],
        confirmation: PATIENCE,
        ..Schedule::default()
    };
    // Whoever merges waits for twice as long as whoever writes.
    let room = Room::new(Duration::from_secs(120), schedule).await;
    tokio::spawn(room.backups.clone().run());
    room.rename("First").await;
    room.confirm().await;
    room.between.turn(Mood::HoldingReads);
    room.rename("Second").await;
    room.confirm().await;
    until("what was shipped is merged", async || room.between.held() > 0).await;
    for n in 0..3 {
        room.rename(&format!("Meanwhile {n}")).await;
        room.confirm().await;
        assert_eq!(room.at_the_store().await, format!("Meanwhile {n}"));
    }
    assert!(room.direct.list(1).await.unwrap().is_empty(), "the merge did not wait");
    room.between.turn(Mood::Fine);
    until("the merge arrives", async || !room.direct.list(1).await.unwrap().is_empty()).await;
    room.rename("Last").await;
    room.confirm().await;
    assert_eq!(room.at_the_store().await, "Last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_store_carries_out_late_is_known_as_our_own() {
    let schedule = Schedule { confirmation: PATIENCE, ..Schedule::default() };
    let room = Room::new(Duration::from_secs(3), schedule).await;
    room.rename("First").await;
    room.confirm().await;
    room.between.turn(Mood::HoldingWrites);
    room.rename("Late").await;
    let backups = room.backups.clone();
    let organization = room.organization;
    let waiting = tokio::spawn(async move { backups.confirm(&[organization]).await });
    until("it is sent", async || room.between.held() >= 1).await;
    let sent = room.between.held();
    // Before the second try, which has this as well and so sends other bytes under the same name.
    room.rename("Later").await;
    until("it is sent again", async || room.between.held() > sent).await;
    let before = room.direct.position().await.unwrap().unwrap();
    room.between.release_one();
    until("the store has the first one", async || room.direct.position().await.unwrap() > Some(before)).await;
    room.between.turn(Mood::Fine);
    waiting.await.unwrap().unwrap();
    room.confirm().await;
    assert_eq!(room.backups.progress(room.organization).unwrap().stopped, None);
    assert_eq!(room.at_the_store().await, "Later");
    // It goes on from there.
    room.rename("Last").await;
    room.confirm().await;
    assert_eq!(room.at_the_store().await, "Last");
}

/// A client that hangs up takes with it whoever answers it, and not what is on its way to the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_arrives_after_whoever_sent_it_has_gone_is_known_as_our_own() {
    let schedule = Schedule { confirmation: PATIENCE, ..Schedule::default() };
    let room = Room::new(PATIENCE, schedule).await;
    room.rename("First").await;
    room.confirm().await;
    for is_late in [false, true] {
        let sent = room.between.held();
        room.between.turn(Mood::HoldingWrites);
        room.rename("Sent").await;
        let gone = room.shipping();
        until("it is sent", async || room.between.held() > sent).await;
        gone.abort();
        assert!(gone.await.unwrap_err().is_cancelled());
        // The next file has this as well, and so other bytes under the same name.
        room.rename("Later").await;
        let before = room.direct.position().await.unwrap().unwrap();
        let arrives = async || {
            room.between.release_one();
            until("it arrives", async || room.direct.position().await.unwrap() > Some(before)).await;
        };
        let next = if is_late {
            let next = room.shipping();
            until("the next one is sent", async || room.between.held() > sent + 1).await;
            arrives().await;
            next
        } else {
            arrives().await;
            room.shipping()
        };
        room.between.turn(Mood::Fine);
        // Told that it has to be tried again, at the most.
        let _ = next.await.unwrap();
        assert_eq!(room.backups.progress(room.organization).unwrap().stopped, None, "late: {is_late}");
        room.confirm().await;
        assert_eq!(room.at_the_store().await, "Later");
        // Those that went through unheld count for nothing.
        while room.between.released() < room.between.held() {
            room.between.release_one();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_folded_unread_while_a_copy_is_on_its_way_is_in_the_next_one() {
    let room = Room::new(PATIENCE, Schedule { confirmation: PATIENCE, ..Schedule::default() }).await;
    room.mark_what_is_folded();
    room.rename("First").await;
    room.confirm().await;
    let mark = room.file().with_file_name("db.sqlite-unread");
    room.rename("Second").await;
    room.fold().await;
    assert!(mark.exists());
    room.between.turn(Mood::HoldingWrites);
    let sent = room.shipping();
    until("it is sent", async || room.between.held() > 0).await;
    // Nothing of this is in what was sent, and then it is in no log either.
    room.rename("Third").await;
    room.fold().await;
    room.between.turn(Mood::Fine);
    sent.await.unwrap().unwrap();
    assert_eq!(room.at_the_store().await, "Second");
    assert!(mark.exists(), "nobody would know that there is more");
    room.shipping().await.unwrap().unwrap();
    assert_eq!(room.at_the_store().await, "Third");
    assert!(!mark.exists());
}

/// The file that takes the place of a broken one has no log that a start would find it by.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_recovery_has_put_in_place_is_marked_until_the_store_has_it() {
    let site = Site::moto();
    let endpoint = site.settings.endpoint.clone().unwrap();
    let between = Unsteady::before(endpoint.rsplit(':').next().unwrap().parse().unwrap());
    let patience = PATIENCE.as_secs().to_string();
    let settings = [
        ("BULKHEAD_BACKUP_URL", URL.to_owned()),
        ("BULKHEAD_BACKUP_ENDPOINT", format!("http://127.0.0.1:{}", between.port)),
        ("BULKHEAD_BACKUP_ACCESS_KEY_ID", "id".to_owned()),
        ("BULKHEAD_BACKUP_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("BULKHEAD_BACKUP_FORCE_PATH_STYLE", "true".to_owned()),
        ("BULKHEAD_BACKUP_ALLOW_HTTP", "true".to_owned()),
        ("BULKHEAD_BACKUP_TIMEOUT_SECONDS", patience),
        ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10".to_owned()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut world = World::with(&settings).await;
    let id: OrganizationId = world.organization("acme").await.parse().unwrap();
    let shipped = |status: &serde_json::Value| status["waiting"] == 0;
    world.awaited("/v1/backup", shipped).await;
    is_complete(&world).await;
    let file = world.data_dir().join(Source::Organization(id).path());
    let mark = file.with_file_name("db.sqlite-unread");
    let lose = |_: &_| {
        std::fs::write(&file, vec![0xa5; 20_000]).unwrap();
        bulkhead::sqlite::remove_wal(&file).unwrap();
    };
    world.while_stopped(lose).await;
    assert!(!mark.exists());
    between.turn(Mood::HoldingWrites);
    world.operator().post("/v1/organizations/acme/recovery", &json!({})).await.expect(200);
    assert!(mark.exists(), "a process that ends here leaves nobody to ship it");
    between.turn(Mood::Fine);
    world.awaited("/v1/backup", shipped).await;
    assert!(!mark.exists());
    let out = tempfile::tempdir().unwrap();
    let replica = Store::connect(&URL.parse().unwrap(), &site.settings).unwrap();
    let replica = replica.replica(&Source::Organization(id).path()).unwrap();
    let copy = out.path().join("db.sqlite");
    bulkhead::replica::restore(&replica, Target::Latest, &copy).await.unwrap();
    let told = "SELECT count(*) FROM audit_event WHERE action = 'organization.recovered'";
    let told: i64 = Connection::open(copy).unwrap().query_row(told, [], |row| row.get(0)).unwrap();
    assert_eq!(told, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_new_store_is_not_waited_for_by_what_was_erased_before_it_had_a_copy() {
    let schedule = Schedule { debounce: Duration::from_millis(1), ..Schedule::default() };
    let room = Room::new(Duration::from_secs(30), schedule).await;
    room.backups.look_for_leftovers();
    until("everything is found", async || room.backups.waiting() >= 3).await;
    room.backups.destroy(room.organization).await.unwrap();
    tokio::spawn(room.backups.clone().run());
    is_complete(&room.world).await;
    assert!(room.direct.list_all().await.unwrap().is_empty());
}

/// Whatever happens to the file itself, what was shipped of it before can still be had.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_damaged_file_no_snapshot_is_made() {
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3600);
    let schedule = Schedule {
        debounce: Duration::from_millis(1),
        levels: [second, hour, hour],
        snapshots: second,
        confirmation: PATIENCE,
        ..Schedule::default()
    };
    let room = Room::new(Duration::from_secs(60), schedule).await;
    tokio::spawn(room.backups.clone().run());
    let snapshots = async || room.direct.list(bulkhead::replica::SNAPSHOT_LEVEL).await.unwrap().len();
    room.rename("First").await;
    room.confirm().await;
    until("it rests, and has a snapshot", async || snapshots().await == 1).await;
    room.world.app().state().tenants.let_go(room.id());
    scribble_over(&room.file(), "refresh_token");
    room.world.clock.advance(2 * second);
    room.rename("Second").await;
    room.confirm().await;
    until("a snapshot is refused", async || {
        let failed = room.backups.progress(room.organization).and_then(|progress| progress.last_error);
        failed.is_some_and(|why| why.contains("the file is damaged"))
    })
    .await;
    // What is committed goes on being shipped.
    room.rename("Third").await;
    room.confirm().await;
    assert_eq!((room.at_the_store().await.as_str(), snapshots().await), ("Third", 1));
    let told = room.backups.progress(room.organization).unwrap();
    assert!(told.last_error.is_some_and(|why| why.contains("the file is damaged")), "it is not told any more");
    assert!(told.behind_since.is_none());
}
