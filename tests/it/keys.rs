//! Rotating keys: nothing that was issued or sealed before stops working, and what is old goes in its time.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use bulkhead::app::App;
use bulkhead::base::time::length;
use bulkhead::config::Config;
use bulkhead::features::keys;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::export::archive_of;
use crate::import::import;
use crate::organizations::file_of;
use crate::world::{PASSWORD, World, host_of};

const OLD: &str = "5f0ac2f1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d";
const NEW: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f905f0ac2f1b2c3d4e5f60718293a4b5c6d";

async fn rotate_master(world: &World, body: Value) -> Value {
    world.operator().post("/v1/keys/master_rotations", &body).await.expect(202);
    world.awaited("/v1/keys", |state| state["master_rotation"]["state"] == "done").await
}

/// (name, version, wrapped, master key)
pub fn rows(data: &Path) -> Vec<(String, u32, Vec<u8>, String)> {
    let keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
    let mut statement =
        keyring.prepare("SELECT name, version, wrapped, master_key_id FROM data_key ORDER BY name, version").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Every sealed value of an organization's file.
pub fn sealed(file: &Path) -> Vec<Vec<u8>> {
    let database = Connection::open(file).unwrap();
    let mut all = Vec::new();
    for sql in [
        "SELECT private_key FROM signing_key",
        "SELECT payload FROM outbox",
        "SELECT body FROM idempotency WHERE body IS NOT NULL",
    ] {
        let mut statement = database.prepare(sql).unwrap();
        all.extend(statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap));
    }
    all
}

/// What members, apps and programs hold, taken before, works after.
struct Issued {
    session: (String, String),
    tokens: crate::world::Tokens,
    app: crate::world::Registered,
    jwks: Value,
    member: Value,
    key: String,
}

async fn issue(world: &World) -> Issued {
    let app = world.application().await;
    let mut browser = world.signed_in("acme", "owner@acme.test").await;
    let tokens = app.tokens(world, &mut browser).await;
    let body = json!({"email": "ada@acme.test", "password": PASSWORD});
    let key = world.organization_key("acme", &["*"]).await;
    let keyed = world.api(&key).with_header("idempotency-key", "before");
    let member = keyed.post("/v1/organizations/acme/members", &body).await.expect(201).json();
    let jwks = world.browser("acme").get("/oauth2/jwks").await.expect(200).json();
    Issued { session: browser.cookie("bh_session_").unwrap(), tokens, app, jwks, member, key }
}

impl Issued {
    async fn all_work(&self, world: &World) {
        let host = host_of("acme");
        assert!(world.is_live(&host, &self.app, &self.tokens.access).await, "the access token is gone");
        world.userinfo(&host, &self.tokens.access).await.expect(200);
        let mut browser = world.browser("acme");
        browser.set_cookie(&self.session.0, &self.session.1);
        browser.get("/v1/session").await.expect(200);
        let body = json!({"email": "ada@acme.test", "password": PASSWORD});
        let keyed = world.api(&self.key).with_header("idempotency-key", "before");
        let again = keyed.post("/v1/organizations/acme/members", &body).await.expect(201).json();
        assert_eq!(again, self.member);
        assert_eq!(world.browser("acme").get("/oauth2/jwks").await.expect(200).json(), self.jwks);
        world.signed_in("acme", "ada@acme.test").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_master_key_is_rotated_under_everything_that_was_issued() {
    let mut world = World::new().await;
    let data = world.data_dir();
    for slug in ["acme", "beside", "behind"] {
        world.organization(slug).await;
    }
    let issued = issue(&world).await;
    // A recovery that is half done: its cookie was sealed before.
    let mut halfway = world.browser("acme");
    let page = halfway.get("/recovery").await.expect(200);
    let sent = halfway.submit_form(&page, &[("email", "ada@acme.test")]).await.expect_redirect("/recovery/code");
    let page = halfway.follow(&sent).await.expect(200);
    let code = world.mailbox_code("ada@acme.test").await;

    let (path, before) = (data.join("master.key"), rows(&data));
    let old = fs::read_to_string(&path).unwrap();
    let plan = world.operator().post("/v1/keys/master_rotations", &json!({"dry_run": true})).await.expect(202).json();
    assert_eq!((&plan["state"], &plan["total"], &plan["id"]), (&json!("planned"), &json!(4), &Value::Null), "{plan}");
    assert_eq!((fs::read_to_string(&path).unwrap(), rows(&data)), (old.clone(), before.clone()));

    let state = rotate_master(&world, json!({})).await;
    let rotation = &state["master_rotation"];
    assert_eq!((&rotation["done"], &rotation["total"]), (&json!(4), &json!(4)), "{state}");
    let masters = state["master_keys"].as_array().unwrap();
    assert_eq!((masters.len(), &masters[0]["data_keys"], &masters[0]["current"]), (1, &json!(4), &json!(true)));
    // The new key alone is in the file, and wraps all there is.
    let new = fs::read_to_string(&path).unwrap();
    assert!(new.lines().count() == 1 && new != old, "{}", new.lines().count());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for ((name, _, was, by), (same, _, is, now)) in before.iter().zip(rows(&data)) {
        assert!(*name == same && *was != is && *by != now && now == masters[0]["id"], "{name}");
    }
    issued.all_work(&world).await;
    halfway.submit_form(&page, &[("code", &code)]).await.expect_redirect("/recovery/password");

    let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json();
    let actions: Vec<&str> = log["data"].as_array().unwrap().iter().filter_map(|e| e["action"].as_str()).collect();
    for action in ["master_key.rotation_started", "master_key.rotated", "master_key.retired"] {
        assert_eq!(actions.iter().filter(|known| **known == action).count(), 1, "{action}: {actions:?}");
    }
    // With the new file alone, also after a restart; with the old one not.
    let copy = tempfile::tempdir().unwrap();
    let (kept, ring) = (copy.path().join("kept.key"), copy.path().join("keyring.sqlite"));
    world
        .while_stopped(|data| {
            fs::copy(data.join("keyring.sqlite"), &ring).unwrap();
            // What the key before wrapped is in no page any more.
            let bytes = fs::read(&ring).unwrap();
            for (name, _, was, _) in &before {
                assert!(!bytes.windows(was.len()).any(|window| window == was), "{name}");
            }
            fs::write(&kept, &old).unwrap();
            fs::set_permissions(&kept, fs::Permissions::from_mode(0o600)).unwrap();
        })
        .await;
    issued.all_work(&world).await;
    let settings = [
        ("BULKHEAD_SERVER_DATA_DIR", copy.path().display().to_string()),
        ("BULKHEAD_KEYS_MASTER_KEY_FILE", kept.display().to_string()),
    ];
    let config = Config::load(None, settings.into_iter().map(|(name, value)| (name.to_owned(), value))).unwrap();
    let refused = App::start(config, world.clock.clone()).await.err().unwrap();
    assert!(format!("{refused:?}").contains("wrapped by another master key"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_environment_the_key_before_is_given_beside_the_new_one() {
    let mut world = World::with(&[("BULKHEAD_KEYS_MASTER_KEY", OLD)]).await;
    world.organization("acme").await;
    let issued = issue(&world).await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!(state["provider"], "env");
    let nothing = world.operator().post("/v1/keys/master_rotations", &json!({})).await;
    nothing.expect_problem(409, "key_rotation_not_needed");

    world.set("BULKHEAD_KEYS_MASTER_KEY", NEW);
    world.set("BULKHEAD_KEYS_PREVIOUS_MASTER_KEY", OLD);
    world.while_stopped(|_| ()).await;
    // Both serve, and what is made now is wrapped by the new one.
    issued.all_work(&world).await;
    world.organization("beside").await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    let counts: Vec<_> = state["master_keys"].as_array().unwrap().iter().map(|key| key["data_keys"].clone()).collect();
    assert_eq!(counts, [json!(1), json!(2)], "{state}");
    let state = rotate_master(&world, json!({})).await;
    assert_eq!(state["master_keys"][0]["data_keys"], 3, "{state}");
    world.set("BULKHEAD_KEYS_PREVIOUS_MASTER_KEY", "");
    world.while_stopped(|_| ()).await;
    issued.all_work(&world).await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!(state["master_keys"].as_array().unwrap().len(), 1, "{state}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_key_is_replaced_under_everything_that_is_sealed() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    world.organization("beside").await;
    let issued = issue(&world).await;
    let file = file_of(&world, &id);
    let before = sealed(&file);
    assert!(before.len() >= 2 && before.iter().all(|value| value[0] == 1), "{}", before.len());
    let at = "/v1/organizations/acme/data_key_rotations";
    let done = world.operator().post(at, &json!({})).await.expect(200).json();
    assert_eq!((&done["from_version"], &done["to_version"]), (&json!(1), &json!(2)), "{done}");
    assert_eq!(done["resealed"], before.len(), "{done}");
    for value in sealed(&file) {
        assert_eq!(value[..5], [2, 0, 0, 0, 2]);
        assert!(!before.contains(&value));
    }
    issued.all_work(&world).await;
    // What comes now is sealed with the new one; of the others nothing has changed.
    let count = |name: &str| rows(&world.data_dir()).into_iter().filter(|row| row.0 == name).count();
    assert_eq!((count(&id), rows(&world.data_dir()).len()), (2, 4));
    let event = world.events("acme").await.into_iter().find(|event| event["action"] == "data_key.rotated").unwrap();
    assert_eq!(
        (&event["metadata"]["to"], &event["metadata"]["resealed"]),
        (&json!(2), &json!(before.len())),
        "{event}"
    );
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!((&state["replaced"]["kept"], &state["replaced"]["unfinished"]), (&json!(1), &json!(0)), "{state}");

    // The key before is kept for as long as backups reach, and not a moment longer.
    let state_of = |world: &World| world.app().state().clone();
    world.clock.advance(length::hours(24 * 8) - Duration::from_secs(1));
    assert!(keys::round(&state_of(&world)).await.is_some());
    assert_eq!(count(&id), 2);
    world.clock.advance(Duration::from_secs(2));
    assert!(keys::round(&state_of(&world)).await.is_some());
    assert_eq!(count(&id), 1);
    let destroyed = world.events("acme").await;
    assert_eq!(destroyed.iter().filter(|event| event["action"] == "data_key.destroyed").count(), 1, "{destroyed:?}");
    world.signed_in("acme", "owner@acme.test").await;
    assert_eq!(world.browser("acme").get("/oauth2/jwks").await.expect(200).json(), issued.jwks);
    let verified = world.operator().get("/v1/organizations/acme/audit_events/verification").await.expect(200).json();
    assert_eq!(verified["intact"], true, "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_waits_is_sealed_anew_as_well() {
    let nowhere = [
        ("BULKHEAD_MAIL_TRANSPORT", "smtp"),
        ("BULKHEAD_MAIL_SMTP_HOST", "127.0.0.1"),
        ("BULKHEAD_MAIL_SMTP_PORT", "1"),
        ("BULKHEAD_MAIL_SMTP_TLS", "none"),
    ];
    let world = World::with(&nowhere).await;
    let id = world.organization("acme").await;
    let mut browser = world.browser("acme");
    let page = browser.get("/recovery").await.expect(200);
    browser.submit_form(&page, &[("email", "owner@acme.test")]).await.expect_redirect("/recovery/code");
    let waiting = || -> Vec<u8> {
        let database = Connection::open(file_of(&world, &id)).unwrap();
        database.query_row("SELECT payload FROM outbox", [], |row| row.get(0)).unwrap()
    };
    let first = waiting();
    // The second time it is opened with the key that it was sealed with the first time.
    for version in 2_u8..=3 {
        world.operator().post("/v1/organizations/acme/data_key_rotations", &json!({})).await.expect(200);
        assert_eq!(waiting()[..5], [2, 0, 0, 0, version]);
    }
    assert_eq!(first[0], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_meets_a_value_that_cannot_be_opened() {
    let world = World::new().await;
    world.organization("acme").await;
    let app = world.application().await;
    let key = world.organization_key("acme", &["*"]).await;
    let rotations = async {
        for version in 2..=9 {
            let call = world.operator().call("POST", "/v1/organizations/acme/data_key_rotations").json(&json!({}));
            let done = tokio::spawn(world.call_later(call)).await.unwrap();
            assert_eq!(done.expect(200).json()["to_version"], version);
            if version == 5 {
                world.operator().post("/v1/keys/master_rotations", &json!({})).await.expect(202);
            }
        }
    };
    let people = async {
        for round in 0..8 {
            let mut browser = world.signed_in("acme", "owner@acme.test").await;
            app.tokens(&world, &mut browser).await;
            let keyed = world.api(&key).with_header("idempotency-key", &format!("round-{round}"));
            let body = json!({"email": format!("m{round}@acme.test")});
            let made = keyed.post("/v1/organizations/acme/members", &body).await.expect(201).json();
            assert_eq!(keyed.post("/v1/organizations/acme/members", &body).await.expect(201).json(), made);
        }
    };
    tokio::join!(rotations, people);
    world.awaited("/v1/keys", |state| state["master_rotation"]["state"] == "done").await;
    world.signed_in("acme", "owner@acme.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_gives_new_keys_to_those_that_are_old_enough() {
    let world = World::new().await;
    let ids: Vec<String> = [world.organization("one").await, world.organization("two").await].into();
    world.clock.advance(length::days(30));
    let young = world.organization("young").await;
    let at = "/v1/keys/data_rotations";
    let plan = world.operator().post(at, &json!({"older_than_days": 30, "dry_run": true})).await.expect(202).json();
    assert_eq!((&plan["total"], &plan["state"]), (&json!(0), &json!("planned")), "{plan}");
    let plan = world.operator().post(at, &json!({"older_than_days": 29, "dry_run": true})).await.expect(202).json();
    assert_eq!(plan["total"], 2, "{plan}");
    // One that is set aside or frozen keeps its key, and the others from nothing.
    let frozen = world.organization("frozen").await;
    let freeze = "/v1/organizations/frozen/freeze";
    world.operator().put(freeze, &json!({"reason": "case 4711"})).await.expect(200);
    let path = format!("/v1/organizations/{}/quarantine", ids[0]);
    let aside = world.operator().put(&path, &json!({"reason": "torn pages"})).await;
    assert!(aside.status < 300, "{aside:?}");
    world.operator().post(at, &json!({"older_than_days": 29})).await.expect(202);
    let state = world.awaited("/v1/keys", |state| state["data_rotation"]["state"] == "done").await;
    let sweep = &state["data_rotation"];
    let counts = ["total", "done", "skipped", "failed"].map(|key| sweep[key].as_i64().unwrap());
    assert_eq!(counts, [2, 1, 1, 0], "{state}");
    assert!(sweep["last_error"].as_str().unwrap().contains("organization_quarantined"), "{state}");
    let newest = |id: &str| rows(&world.data_dir()).iter().filter(|row| row.0 == id).map(|row| row.1).max().unwrap();
    assert_eq!((newest(&ids[0]), newest(&ids[1]), newest(&young)), (1, 2, 1));
    world.operator().delete(&path).await;
    world.operator().post(at, &json!({})).await.expect(202);
    // The one before has ended as well, and had two.
    let is_over = |sweep: &Value| sweep["total"] == 4 && sweep["state"] == "done";
    let state = world.awaited("/v1/keys", |state| is_over(&state["data_rotation"])).await;
    let counts = ["done", "skipped", "failed"].map(|key| state["data_rotation"][key].as_i64().unwrap());
    assert_eq!(counts, [3, 1, 0], "{state}");
    assert!(state["data_rotation"]["last_error"].as_str().unwrap().contains("organization_frozen"), "{state}");
    assert_eq!((newest(&ids[0]), newest(&ids[1]), newest(&young), newest(&frozen)), (2, 3, 2, 1));
    world.operator().delete(freeze).await.expect(204);
    for slug in ["one", "two", "young"] {
        world.signed_in(slug, &format!("owner@{slug}.test")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_from_after_rotations_is_of_use_elsewhere_and_the_log_tells_those_of_both() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    let rotated = async |world: &World| {
        let at = "/v1/organizations/acme/data_key_rotations";
        let done = world.operator().post(at, &json!({})).await.expect(200).json();
        assert_eq!(done["to_version"], 2, "{done}");
        rotate_master(world, json!({})).await;
        world.events("acme").await.iter().filter(|event| event["action"] == "data_key.rotated").count()
    };
    assert_eq!(rotated(&here).await, 1);
    let jwks = here.browser("acme").get("/oauth2/jwks").await.expect(200).json();
    let sealed = json!({"secrets": "passphrase", "passphrase": "violet harbour anvil 27"});
    let archive = archive_of(&here, "acme", &sealed).await;
    import(&there, &archive, "", Some("violet harbour anvil 27")).await.expect(201);
    let same = async |world: &World| {
        let found = world.browser("acme").get("/oauth2/jwks").await.expect(200).json();
        assert_eq!(found["keys"][0], jwks["keys"][0]);
        world.signed_in("acme", "owner@acme.test").await;
    };
    same(&there).await;
    // Here the key is a first one, so its second is another event than the one that came along.
    assert_eq!(rotated(&there).await, 2);
    same(&there).await;
    let archive = archive_of(&there, "acme", &sealed).await;
    let third = World::new().await;
    import(&third, &archive, "", Some("violet harbour anvil 27")).await.expect(201);
    same(&third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_destroys_every_version() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    for _ in 0..2 {
        world.operator().post("/v1/organizations/acme/data_key_rotations", &json!({})).await.expect(200);
    }
    let wrapped: Vec<Vec<u8>> =
        rows(&world.data_dir()).into_iter().filter(|row| row.0 == id).map(|row| row.2).collect();
    assert_eq!(wrapped.len(), 3);
    let asked = world.operator().put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await;
    asked.expect(202);
    crate::erasure::erased(&world, &id).await;
    assert!(rows(&world.data_dir()).iter().all(|row| row.0 != id));
    let data = world.data_dir();
    let bytes =
        [fs::read(data.join("keyring.sqlite")).unwrap(), fs::read(data.join("keyring.sqlite-wal")).unwrap_or_default()];
    for key in &wrapped {
        assert!(!bytes.iter().any(|bytes| bytes.windows(key.len()).any(|window| window == key)));
    }
    // Nor does a rotation bring one back.
    let refused = world.app().state().keys.ring().add_version(id.parse().unwrap()).await.unwrap_err();
    assert_eq!(refused.code().name, "organization_unavailable");
    assert!(rows(&world.data_dir()).iter().all(|row| row.0 != id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_unwrapped_keeps_the_one_before_in_its_file() {
    let world = World::new().await;
    world.organization("acme").await;
    let broken = world.organization("broken").await;
    let data = world.data_dir();
    let keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
    let wrapped: Vec<u8> = rows(&data).into_iter().find(|row| row.0 == broken).unwrap().2;
    keyring.execute("UPDATE data_key SET wrapped = x'00' WHERE name = ?", [&broken]).unwrap();
    world.operator().post("/v1/keys/master_rotations", &json!({})).await.expect(202);
    let state = world.awaited("/v1/keys", |state| !state["master_rotation"]["last_error"].is_null()).await;
    assert_eq!(
        (&state["master_rotation"]["state"], &state["master_rotation"]["done"]),
        (&json!("running"), &json!(2)),
        "{state}"
    );
    assert!(state["master_rotation"]["last_error"].as_str().unwrap().contains(&broken), "{state}");
    assert_eq!(fs::read_to_string(data.join("master.key")).unwrap().lines().count(), 2);
    world.operator().post("/v1/keys/master_rotations", &json!({})).await.expect_problem(409, "key_rotation_running");
    world.signed_in("acme", "owner@acme.test").await;
    // Put right, it goes on by itself.
    keyring.execute("UPDATE data_key SET wrapped = ? WHERE name = ?", rusqlite::params![wrapped, broken]).unwrap();
    world.app().state().keys.call();
    world.awaited("/v1/keys", |state| state["master_rotation"]["state"] == "done").await;
    assert_eq!(fs::read_to_string(data.join("master.key")).unwrap().lines().count(), 1);
    world.signed_in("broken", "owner@broken.test").await;
}

/// Whoever seals a column is on the list of those that are sealed anew.
#[test]
fn every_room_that_seals_is_sealed_anew() {
    fn look(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                look(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap();
                if text.contains("sealer.seal(") || text.contains("sealer().seal(") {
                    let path = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
                    let room: Vec<_> =
                        path.components().take(2).map(|part| part.as_os_str().to_str().unwrap()).collect();
                    found.insert(room.join("/"));
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    look(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    // `crypto` tests itself; `import` seals signing keys into a new file.
    let known = ["crypto/mod.rs", "features/idempotency", "features/import", "features/outbox", "features/signing_key"];
    assert_eq!(
        found.iter().map(String::as_str).collect::<Vec<_>>(),
        known,
        "add what is new to features::keys::reseal"
    );
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/features/keys/mod.rs")).unwrap();
    for room in ["idempotency", "outbox", "signing_key"] {
        assert!(list.contains(&format!("{room}::reseal(db, sealer)")), "{room}");
    }
}
