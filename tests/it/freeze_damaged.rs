//! A legal hold and damage: what is damaged is not frozen, what is frozen comes back as it was frozen, and a release
//! that was interrupted is told once.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, scribble_over};
use crate::world::World;

const PATH: &str = "/v1/organizations/acme/freeze";
const RECOVERY: &str = "/v1/organizations/acme/recovery";

type Damage = fn(&Path);
/// The third one leaves its log as it is.
const DAMAGES: [Damage; 4] = [
    |file| fs::write(file, vec![0xa5; 20_000]).unwrap(),
    |file| scribble_over(file, "audit_event"),
    |file| scribble_over(file, "api_key"),
    |file| fs::remove_file(file).unwrap(),
];

/// A deployment with a backup, and the one organization in it.
struct Scene {
    world: World,
    file: std::path::PathBuf,
    _store: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let url = format!("file://{}", store.path().display());
        let mut world = World::with(&[("BULKHEAD_BACKUP_URL", &url)]).await;
        let id = world.organization("acme").await;
        let file = crate::organizations::file_of(&world, &id);
        // The backup has all of it.
        world.while_stopped(|_| ()).await;
        Self { world, file, _store: store }
    }

    async fn freeze(&self) -> Value {
        self.world.operator().put(PATH, &json!({"reason": "case 4711"})).await.expect(200).json()
    }

    async fn newest(&self) -> Value {
        let found = self.world.operator().get("/v1/organizations/acme/backup").await.expect(200).json();
        found["newest"]["txid"].clone()
    }

    async fn damage(&mut self, damage: Damage) {
        let file = self.file.clone();
        self.world.while_stopped(|_| damage(&file)).await;
    }

    /// Whether it is frozen, and how far that has come.
    async fn state(&self) -> (bool, Value) {
        let found = self.world.operator().get(PATH).await.expect(200).json();
        (found["frozen"] == true, found["state"].clone())
    }

    async fn assert_identical(&self, frozen: &Value) {
        let found = self.world.operator().get(&format!("{PATH}/verification")).await.expect(200).json();
        assert_eq!(found["identical"], true, "{found}");
        assert_eq!(&self.world.operator().get(PATH).await.expect(200).json(), frozen);
    }

    async fn assert_takes_no_writes(&self) {
        assert_takes_no_writes(&self.world).await;
    }
}

async fn assert_takes_no_writes(world: &World) {
    let refused = world.operator().post("/v1/organizations/acme/members", &json!({"email": "m@acme.test"})).await;
    refused.expect_problem(409, "organization_frozen");
}

/// The newest events of the operators' log, newest first.
async fn operators_log(world: &World) -> Vec<Value> {
    world.operator().get("/v1/audit_events?limit=100").await.expect(200).json()["data"].as_array().unwrap().clone()
}

fn count(events: &[Value], action: &str) -> usize {
    events.iter().filter(|event| event["action"] == action).count()
}

fn set(sql: &'static str) -> impl FnOnce(&Path) {
    move |data| Connection::open(data.join("catalog.sqlite")).unwrap().execute_batch(sql).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_not_frozen_and_nothing_is_left_of_the_try() {
    for damage in DAMAGES {
        let mut scene = Scene::new().await;
        scene.damage(damage).await;
        let operator = scene.world.operator();
        operator.put(PATH, &json!({"reason": "r"})).await.expect_problem(409, "freeze_file_damaged");
        assert_eq!(scene.state().await, (false, Value::Null));
        assert_eq!(count(&operators_log(&scene.world).await, "organization.frozen"), 0);
        let recovered = operator.post(RECOVERY, &json!({})).await.expect(200).json();
        assert_eq!(recovered["frozen"], false, "{recovered}");
        let frozen = scene.freeze().await;
        scene.assert_identical(&frozen).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_that_finds_its_file_damaged_later_is_undone() {
    const BEGUN: &str =
        "INSERT INTO freeze (organization_id, state, reason, since) SELECT id, 'freezing', 'r', 1 FROM organization";
    const NOT_CERTIFIED: &str = "UPDATE freeze SET state = 'freezing', certificate = NULL";
    for (n, damage) in DAMAGES.into_iter().enumerate() {
        for (is_in_its_log, sql) in [(false, BEGUN), (true, NOT_CERTIFIED)] {
            let mut scene = Scene::new().await;
            if is_in_its_log {
                scene.freeze().await;
            }
            let file = scene.file.clone();
            scene
                .world
                .while_stopped(|data| {
                    set(sql)(data);
                    damage(&file);
                })
                .await;
            assert_eq!(scene.state().await, (false, Value::Null));
            let told = operators_log(&scene.world).await.remove(0);
            let said = (&told["action"], &told["metadata"]["file"]);
            assert_eq!(said, (&json!("organization.unfrozen"), &json!("damaged")), "{told}");
            let operator = scene.world.operator();
            operator.put(PATH, &json!({"reason": "r"})).await.expect_problem(409, "freeze_file_damaged");
            let recovered = operator.post(RECOVERY, &json!({})).await.expect(200).json();
            // Which event it was that nobody can read any more is not known: what the backup has of it counts.
            if recovered["frozen"] == true {
                assert!(is_in_its_log && n != 2, "{n}");
                operator.delete(PATH).await.expect(204);
            }
            scene.world.member("acme", "ada@acme.test").await;
        }
    }
}

/// Somebody has to be able to replace it, also where its frozen state is not wanted back.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_released_all_the_same_and_can_be_replaced() {
    for (n, damage) in DAMAGES.into_iter().enumerate() {
        let mut scene = Scene::new().await;
        let before = scene.newest().await;
        scene.freeze().await;
        scene.damage(damage).await;
        let operator = scene.world.operator();
        let released = operator.delete(PATH).await;
        // Where the log is whole, it says so itself.
        if n == 2 {
            released.expect(204);
        } else {
            assert_eq!(released.expect(200).json()["file_damaged"], true);
        }
        assert_eq!(scene.state().await, (false, Value::Null), "{n}");
        operator.delete(PATH).await.expect_problem(404, "freeze_not_found");
        let told = operators_log(&scene.world).await.remove(0);
        let said = if n == 2 { Value::Null } else { json!("damaged") };
        assert_eq!((&told["action"], &told["metadata"]["file"]), (&json!("organization.unfrozen"), &said), "{told}");

        // Any point, and the frozen state is one among others.
        let asked = if n == 0 { json!({"txid": before}) } else { json!({}) };
        let recovered = operator.post(RECOVERY, &asked).await.expect(200).json();
        assert_eq!(recovered["frozen"], false, "{recovered}");
        scene.world.member("acme", "ada@acme.test").await;
        scene.world.while_stopped(|_| ()).await;
        scene.world.member("acme", "eve@acme.test").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_file_that_calls_itself_frozen_again_can_be_replaced() {
    let mut scene = Scene::new().await;
    scene.freeze().await;
    // It can be read, and nothing can be added to its log.
    scene.damage(|file| scribble_over(file, "sqlite_autoindex_audit_event_1")).await;
    let released = scene.world.operator().delete(PATH).await.expect(200).json();
    assert_eq!(released["file_damaged"], true);
    scene.world.while_stopped(|_| ()).await;
    scene.world.operator().get("/v1/organizations/acme/members").await.expect(200);
    scene.assert_takes_no_writes().await;
    let recovered = scene.world.operator().post(RECOVERY, &json!({})).await.expect(200).json();
    assert_eq!(recovered["frozen"], false, "{recovered}");
    scene.world.member("acme", "ada@acme.test").await;
    scene.world.while_stopped(|_| ()).await;
    scene.world.member("acme", "eve@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_frozen_comes_back_as_it_was_frozen_and_at_no_other_point() {
    for damage in DAMAGES {
        let mut scene = Scene::new().await;
        let before = scene.newest().await;
        scene.world.member("acme", "ada@acme.test").await;
        let frozen = scene.freeze().await;
        let earlier = json!({"txid": before});
        for body in [json!({}), earlier.clone(), json!({"dry_run": true})] {
            let refused = scene.world.operator().post(RECOVERY, &body).await;
            refused.expect_problem(409, "organization_frozen");
        }
        scene.assert_identical(&frozen).await;

        scene.damage(damage).await;
        let operator = scene.world.operator();
        for dry_run in [true, false] {
            let body = json!({"txid": before, "dry_run": dry_run});
            operator.post(RECOVERY, &body).await.expect_problem(409, "freeze_not_in_backup");
        }
        let rehearsed = operator.post(RECOVERY, &json!({"dry_run": true})).await.expect(200).json();
        assert_eq!(rehearsed["frozen"], true, "{rehearsed}");
        let recovered = operator.post(RECOVERY, &json!({})).await.expect(200).json();
        assert_eq!(recovered["frozen"], true, "{recovered}");
        assert_eq!(recovered["txid"], rehearsed["txid"]);
        scene.assert_identical(&frozen).await;
        scene.assert_takes_no_writes().await;
        let told = operators_log(&scene.world).await.remove(0);
        let said = (&told["action"], &told["metadata"]["frozen"]);
        assert_eq!(said, (&json!("organization.recovered"), &json!(true)), "{told}");
        scene.world.while_stopped(|_| ()).await;
        scene.assert_identical(&frozen).await;
        scene.world.operator().delete(PATH).await.expect(204);
        scene.world.member("acme", "eve@acme.test").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_a_catalog_of_before_does_not_know_of_stands() {
    for damage in DAMAGES {
        let mut scene = Scene::new().await;
        let before = scene.newest().await;
        scene.freeze().await;
        let frozen = fs::read(&scene.file).unwrap();
        let file = scene.file.clone();
        scene
            .world
            .while_stopped(|data| {
                set("DELETE FROM freeze; DELETE FROM audit_event WHERE action = 'organization.frozen'")(data);
                damage(&file);
            })
            .await;
        let operator = scene.world.operator();
        operator.post(RECOVERY, &json!({"txid": before})).await.expect_problem(409, "freeze_not_in_backup");
        let recovered = operator.post(RECOVERY, &json!({})).await.expect(200).json();
        assert_eq!(recovered["frozen"], true, "{recovered}");
        scene.assert_takes_no_writes().await;
        let now = scene.world.while_stopped(|_| fs::read(&file).unwrap()).await;
        assert!(now == frozen, "{} and {} bytes", now.len(), frozen.len());
        scene.assert_takes_no_writes().await;
        assert!(scene.state().await.0);
        scene.world.operator().delete(PATH).await.expect(204);
        scene.world.member("acme", "eve@acme.test").await;
    }
}

/// Somebody may want another point, or that state may be damaged in the backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_only_the_backup_knows_of_can_be_released() {
    for is_missing in [true, false] {
        let mut scene = Scene::new().await;
        let (before, file) = (scene.newest().await, scene.file.clone());
        let older = fs::read(&file).unwrap();
        scene.freeze().await;
        scene
            .world
            .while_stopped(|data| {
                set("DELETE FROM freeze")(data);
                if is_missing {
                    fs::remove_file(&file).unwrap();
                } else {
                    // One of before can be read, and its log says nothing of a freeze.
                    fs::write(&file, older).unwrap();
                    scribble_over(&file, "api_key");
                }
            })
            .await;
        let operator = scene.world.operator();
        operator.post(RECOVERY, &json!({"txid": before})).await.expect_problem(409, "freeze_not_in_backup");
        let released = operator.delete(PATH).await;
        if is_missing {
            assert_eq!(released.expect(200).json()["file_damaged"], true);
        } else {
            released.expect(204);
        }
        operator.delete(PATH).await.expect_problem(404, "freeze_not_found");
        assert_eq!(count(&operators_log(&scene.world).await, "organization.unfrozen"), 1);
        let recovered = operator.post(RECOVERY, &json!({"txid": before})).await.expect(200).json();
        assert_eq!(recovered["frozen"], false, "{recovered}");
        scene.world.member("acme", "ada@acme.test").await;
        operator.delete(PATH).await.expect_problem(404, "freeze_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_told_once_wherever_it_was_interrupted() {
    const REFUSING: &str = "CREATE TRIGGER refusing BEFORE INSERT ON audit_event
        WHEN NEW.action = 'organization.unfrozen' BEGIN SELECT RAISE(ABORT, 'not now'); END";
    async fn assert_told(world: &World, times: usize) {
        let found = world.operator().get(PATH).await.expect(200).json();
        assert_eq!((&found["frozen"], &found["state"]), (&json!(false), &Value::Null), "{found}");
        assert_eq!(count(&world.events("acme").await, "organization.unfrozen"), times, "in its own log");
        assert_eq!(count(&operators_log(world).await, "organization.unfrozen"), times, "in the operators'");
    }
    let mut world = World::new().await;
    world.organization("acme").await;
    let freeze = json!({"reason": "case 4711"});
    // Before its own log was told.
    world.operator().put(PATH, &freeze).await.expect(200);
    world.while_stopped(set("UPDATE freeze SET state = 'releasing'")).await;
    assert_told(&world, 1).await;
    // After that, and before the operators' log was.
    world.operator().put(PATH, &freeze).await.expect(200);
    world.while_stopped(set(REFUSING)).await;
    let refused = world.operator().delete(PATH).await;
    assert!(refused.status >= 500, "{refused:?}");
    assert_takes_no_writes(&world).await;
    world.while_stopped(set("DROP TRIGGER refusing")).await;
    assert_told(&world, 2).await;
    // The same where only its own log says that it is frozen.
    world.operator().put(PATH, &freeze).await.expect(200);
    world
        .while_stopped(|data| {
            set("DELETE FROM freeze")(data);
            set(REFUSING)(data);
        })
        .await;
    let refused = world.operator().delete(PATH).await;
    assert!(refused.status >= 500, "{refused:?}");
    world.while_stopped(set("DROP TRIGGER refusing")).await;
    assert_told(&world, 3).await;
    // And by the same again, without a start in between.
    world.operator().put(PATH, &freeze).await.expect(200);
    world.while_stopped(set(REFUSING)).await;
    let refused = world.operator().delete(PATH).await;
    assert!(refused.status >= 500, "{refused:?}");
    set("DROP TRIGGER refusing")(&world.data_dir());
    world.operator().delete(PATH).await.expect(204);
    assert_told(&world, 4).await;
    world.member("acme", "ada@acme.test").await;
}

#[test]
fn the_command_line_says_what_stays_frozen_and_what_to_do() {
    let store = tempfile::tempdir().unwrap();
    let deployment = Deployment::new().with("BACKUP_URL", format!("file://{}", store.path().display()));
    let made = deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme"]);
    let file = deployment.file(made["id"].as_str().unwrap());
    deployment.json(&["org", "freeze", "acme", "--reason", "case 4711"]);
    fs::write(&file, vec![0xa5; 20_000]).unwrap();
    let ran = |args: &[&str]| {
        let ran = deployment.run(args);
        let text = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (ran.status.success(), text)
    };
    let first = "0000000000000001";
    let (is_good, text) = ran(&["org", "recover", "acme", "--txid", first]);
    assert!(!is_good && text.contains("bulkhead org unfreeze ORG"), "{text}");
    let (is_good, text) = ran(&["org", "recover", "acme", "--dry-run"]);
    assert!(is_good && text.contains("would stay frozen") && text.contains("Nothing was done"), "{text}");
    let (is_good, text) = ran(&["org", "recover", "acme"]);
    assert!(is_good && text.contains("acme is still frozen") && text.contains("is kept in"), "{text}");
    assert!(deployment.run(&["org", "freeze", "acme", "--verify"]).status.success());
    let (is_good, text) = ran(&["org", "unfreeze", "acme"]);
    assert!(is_good && text.contains("Released acme"), "{text}");
    fs::write(&file, vec![0xa5; 20_000]).unwrap();
    let (is_good, text) = ran(&["org", "freeze", "acme", "--reason", "case 4711"]);
    assert!(!is_good && text.contains("bulkhead org recover ORG"), "{text}");
}
