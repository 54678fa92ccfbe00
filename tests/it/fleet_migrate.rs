//! Bringing all organizations to a newer schema: a part first, around one that fails, and back.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::audit::verification;
use crate::erasure::{bytes_of, holds};
use crate::world::World;

/// The schema of a program that is one expanding and one destructive step ahead.
pub fn newer() -> &'static [&'static str] {
    let steps = [
        "CREATE TABLE shelf (id INTEGER PRIMARY KEY, title TEXT) STRICT; INSERT INTO shelf VALUES (1, 'kept')",
        "-- destructive: nobody reads it\nDELETE FROM shelf WHERE title = 'kept'; ALTER TABLE shelf ADD COLUMN more TEXT",
    ];
    bulkhead::tenants::MIGRATIONS.iter().copied().chain(steps).collect::<Vec<_>>().leak()
}

pub fn file(world: &World, id: &str) -> PathBuf {
    let id: bulkhead::base::OrganizationId = id.parse().unwrap();
    let uuid = uuid::Uuid::from_u128(id.bits());
    let bytes = uuid.as_bytes();
    world.data_dir().join(format!("orgs/{:02x}/{:02x}/{uuid}/db.sqlite", bytes[15], bytes[14]))
}

fn version(world: &World, id: &str) -> i64 {
    Connection::open(file(world, id)).unwrap().query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

pub async fn migrate(world: &World, options: Value) -> Value {
    let begun = world.operator().post("/v1/fleet/migrations", &options).await.expect(202);
    world.walked("migrations", &begun.id()).await
}

/// Forty organizations of today, in a program of tomorrow; by id.
async fn scene() -> (World, Vec<String>, i64) {
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(world.organization(&format!("org-{n:02}")).await);
    }
    ids.sort();
    world.set_schema(newer());
    let today = i64::try_from(bulkhead::tenants::MIGRATIONS.len()).unwrap();
    (world, ids, today)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_first_then_the_rest_around_one_that_fails() {
    let (mut world, ids, today) = scene().await;
    world.while_stopped(|_| ()).await;
    // Its migration finds a table where it wants to make one.
    Connection::open(file(&world, &ids[20])).unwrap().execute_batch("CREATE TABLE shelf (id)").unwrap();
    let status = world.operator().get("/v1/fleet/migrations").await.expect(200).json();
    assert_eq!(
        (status["pending"].as_i64(), status["schema_version"].as_i64()),
        (Some(40), Some(today + 2)),
        "{status}"
    );

    let tried = migrate(&world, json!({"dry_run": true})).await;
    assert_eq!((tried["migrated"].as_i64(), tried["findings_count"].as_i64()), (Some(40), Some(1)), "{tried}");
    assert_eq!(tried["findings"][0]["organization_id"], json!(ids[20]), "{tried}");
    assert!(ids.iter().all(|id| version(&world, id) == today), "a dry run has migrated");

    let canary = migrate(&world, json!({"canary_percent": 10})).await;
    assert_eq!((canary["state"].as_str(), canary["total"].as_i64()), (Some("done"), Some(4)), "{canary}");
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(version(&world, id), if n < 4 { today + 2 } else { today }, "{n}");
    }
    // Both are served, and whoever is opened is migrated.
    for id in [&ids[0], &ids[39]] {
        world.operator().get(&format!("/v1/organizations/{id}")).await.expect(200);
    }
    assert_eq!(version(&world, &ids[39]), today + 2);

    let paused = migrate(&world, json!({"pause_on_error": true})).await;
    assert_eq!((paused["state"].as_str(), paused["findings_count"].as_i64()), (Some("paused"), Some(1)), "{paused}");
    assert_eq!((version(&world, &ids[20]), version(&world, &ids[21])), (today, today));
    let aside = world.operator().get(&format!("/v1/organizations/{}/quarantine", ids[20])).await.expect(200);
    assert!(aside.mentions("migration to schema version") && aside.mentions("shelf"), "{aside:?}");
    world
        .operator()
        .get(&format!("/v1/organizations/{}", ids[20]))
        .await
        .expect_problem(503, "organization_quarantined");

    let rest = migrate(&world, json!({})).await;
    assert_eq!((rest["state"].as_str(), rest["findings_count"].as_i64()), (Some("done"), Some(0)), "{rest}");
    for id in ids.iter().filter(|id| **id != ids[20]) {
        assert_eq!(version(&world, id), today + 2);
        world.operator().get(&format!("/v1/organizations/{id}")).await.expect(200);
    }
    let stats = world.operator().get("/v1/fleet/stats").await.expect(200).json();
    let by_version = json!({today.to_string(): 1, (today + 2).to_string(): 39});
    assert_eq!(stats["by_schema_version"], by_version, "the catalog is not true: {stats}");

    // The cause gone, and released, it is migrated when it is opened.
    Connection::open(file(&world, &ids[20])).unwrap().execute_batch("DROP TABLE shelf").unwrap();
    world.operator().delete(&format!("/v1/organizations/{}/quarantine", ids[20])).await.expect(204);
    world.operator().get(&format!("/v1/organizations/{}", ids[20])).await.expect(200);
    assert_eq!(version(&world, &ids[20]), today + 2);
    for wrong in [json!({"canary_percent": 0}), json!({"canary_percent": 101}), json!({"all": true})] {
        world.operator().post("/v1/fleet/migrations", &wrong).await.expect(422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_organization_goes_back_to_what_it_was_before_a_destructive_step() {
    let (mut world, ids, today) = scene().await;
    world.while_stopped(|_| ()).await;
    let at = |below: &str| format!("/v1/organizations/{}{below}", ids[3]);
    world.operator().post(&at("/migration_rollback"), &json!({})).await.expect_problem(409, "no_snapshot");
    // One that was set aside before stays so.
    world.operator().put(&at("/quarantine"), &json!({"reason": "looks odd"})).await.expect(200);
    world.operator().post(&at("/migration_rollback"), &json!({})).await.expect_problem(409, "no_snapshot");
    world.operator().get(&at("")).await.expect_problem(503, "organization_quarantined");
    world.operator().delete(&at("/quarantine")).await.expect(204);
    world.operator().get(&at("")).await.expect(200);
    let shelf = || {
        let file = Connection::open(file(&world, &ids[3])).unwrap();
        file.query_row("SELECT count(*) FROM shelf", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    // Opened by a request, and so migrated by it; the copy was kept all the same.
    assert_eq!((version(&world, &ids[3]), shelf()), (today + 2, 0));
    world.operator().post(&at("/members"), &json!({"email": "later@example.test"})).await.expect(201);
    let back = world.operator().post(&at("/migration_rollback"), &json!({})).await.expect(200).json();
    assert_eq!(back["schema_version"], today + 1, "{back}");
    assert_eq!((version(&world, &ids[3]), shelf()), (today + 1, 1));
    world.operator().get(&at("")).await.expect_problem(503, "organization_quarantined");
    let beside = std::fs::read_dir(file(&world, &ids[3]).parent().unwrap()).unwrap();
    let kept = beside.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("rolled-back-"));
    assert_eq!(kept.count(), 1, "what was written since is lost");
    let found = world.operator().get(&format!("/v1/organizations/{}", ids[4])).await;
    found.expect(200);
    world.operator().delete(&at("/quarantine")).await.expect(204);
    world.operator().get(&at("")).await.expect(200);
    assert_eq!(version(&world, &ids[3]), today + 2);
}

/// The copy from before a destructive step is sealed with the data key of its time.
#[tokio::test(flavor = "multi_thread")]
async fn no_organization_goes_back_to_what_its_keys_cannot_open_any_more() {
    let mut world = World::new().await;
    let ids = [world.organization("acme").await, world.organization("beside").await];
    world.set_schema(newer());
    world.while_stopped(|_| ()).await;
    let newest = i64::try_from(newer().len()).unwrap();
    let at = |id: &str, below: &str| format!("/v1/organizations/{id}{below}");
    for id in &ids {
        world.operator().get(&at(id, "")).await.expect(200);
        assert_eq!(version(&world, id), newest);
        world.operator().post(&at(id, "/data_key_rotations"), &json!({})).await.expect(200);
    }
    // As long as the key of then is kept, it can go back, and what is sealed there can be opened.
    world.operator().post(&at(&ids[1], "/migration_rollback"), &json!({})).await.expect(200);
    world.operator().delete(&at(&ids[1], "/quarantine")).await.expect(204);
    assert!(world.browser("beside").get("/oauth2/jwks").await.expect(200).mentions("kid"));
    world.signed_in("beside", "owner@beside.test").await;

    let state = world.app().state().clone();
    world.clock.advance(state.keys.times().data_keys + Duration::from_secs(1));
    assert!(bulkhead::features::keys::round(&state).await.is_some());
    let destroyed = world.events("acme").await;
    assert!(destroyed.iter().any(|event| event["action"] == "data_key.destroyed"), "{destroyed:?}");
    let directory = file(&world, &ids[0]).parent().unwrap().to_owned();
    let listed = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.retain(|name| !name.to_string_lossy().starts_with("db.sqlite-"));
        names.sort();
        names
    };
    let log = || async { world.operator().get("/v1/audit_events?limit=100").await.expect(200).json() };
    let (beside, told) = (listed(), log().await);
    let refused = world.operator().post(&at(&ids[0], "/migration_rollback"), &json!({})).await;
    refused.expect_problem(409, "data_key_destroyed");
    // Nothing was changed: it is served as before, at no moment it was set aside, and the copy is where it was.
    assert_eq!((listed(), log().await), (beside, told));
    assert_eq!(version(&world, &ids[0]), newest);
    let aside = world.operator().get(&at(&ids[0], "/quarantine")).await.expect(200).json();
    assert_eq!(aside["quarantined"], false, "{aside}");
    world.signed_in("acme", "owner@acme.test").await;
}

/// The copy from before a destructive step has whoever was erased since.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_erased_does_not_come_back_with_the_schema_before() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let at = |below: &str| format!("/v1/organizations/acme{below}");
    let body = json!({"email": "ada@acme.test", "name": "Ada Lovelace"});
    let ada = world.operator().post(&at("/members"), &body).await.expect(201).id();
    let kept = world.member("acme", "kept@acme.test").await;
    world.set_schema(newer());
    world.while_stopped(|_| ()).await;
    let newest = i64::try_from(newer().len()).unwrap();
    world.operator().get(&at("")).await.expect(200);
    assert_eq!(version(&world, &id), newest);
    world.operator().put(&at(&format!("/members/{ada}/erasure")), &json!({})).await.expect(200);
    world.operator().delete(&at(&format!("/members/{kept}"))).await.expect(204);

    world.operator().post(&at("/migration_rollback"), &json!({})).await.expect(200);
    assert_eq!(version(&world, &id), newest - 1, "the copy was brought to another schema");
    let bytes = bytes_of(&file(&world, &id));
    assert!(!holds(&bytes, b"Ada Lovelace") && !holds(&bytes, b"ada@acme.test"), "she is back");
    // What was otherwise done since is in the other file alone.
    assert!(holds(&bytes, b"kept@acme.test"));
    world.operator().delete(&at("/quarantine")).await.expect(204);
    world.operator().get(&at(&format!("/members/{kept}"))).await.expect(200);
    world.operator().get(&at(&format!("/members/{ada}"))).await.expect_problem(404, "member_not_found");
    let log = verification(&world, "acme").await;
    assert_eq!(log["intact"], true, "{log}");
    let events = world.events("acme").await;
    assert!(events.iter().any(|event| event["action"] == "member.erased" && event["targets"][0]["id"] == ada));
}

/// Nobody knows who was erased since where the file of now cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn no_organization_goes_back_where_it_is_not_known_who_was_erased() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    world.set_schema(newer());
    world.while_stopped(|_| ()).await;
    world.operator().get("/v1/organizations/acme").await.expect(200);
    let path = file(&world, &id);
    let copies = || {
        let beside = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let names = beside.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("before-")).collect::<Vec<_>>()
    };
    assert_eq!(copies().len(), 1);
    world.while_stopped(|_| std::fs::write(&path, [7; 8192]).unwrap()).await;
    let refused = world.operator().post("/v1/organizations/acme/migration_rollback", &json!({})).await;
    refused.expect_problem(503, "organization_unavailable");
    assert_eq!((copies().len(), std::fs::read(&path).unwrap()), (1, vec![7; 8192]), "something was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_goes_on_after_a_stop() {
    let (mut world, ids, today) = scene().await;
    world.while_stopped(|_| ()).await;
    let begun = world.operator().post("/v1/fleet/migrations", &json!({})).await.expect(202);
    world.while_stopped(|_| ()).await;
    let ended = world.walked("migrations", &begun.id()).await;
    assert_eq!((ended["state"].as_str(), ended["migrated"].as_i64()), (Some("done"), Some(40)), "{ended}");
    assert!(ids.iter().all(|id| version(&world, id) == today + 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_migrated_is_one_file_again_also_where_somebody_reads_it_meanwhile() {
    let (mut world, ids, today) = scene().await;
    world.while_stopped(|_| ()).await;
    let beside = |id: &String| {
        let directory = file(&world, id).parent().unwrap().to_owned();
        let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with("db.sqlite")).collect::<Vec<_>>()
    };
    let reader = Connection::open(file(&world, &ids[7])).unwrap();
    let seen = || reader.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'shelf'", [], |row| row.get(0));
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(seen(), Ok(0));

    let done = migrate(&world, json!({})).await;
    assert_eq!((done["migrated"].as_i64(), done["findings_count"].as_i64()), (Some(40), Some(0)), "{done}");
    for id in ids.iter().filter(|id| **id != ids[7]) {
        assert_eq!(beside(id), ["db.sqlite"], "something of the migration is left");
        // Sqlite.org/fileformat2.html section 1.3: what a WAL does not have to be read for.
        let header = std::fs::read(file(&world, id)).unwrap();
        assert_eq!(i64::from(u32::from_be_bytes(header[60..64].try_into().unwrap())), today + 2);
    }
    // Nobody is thrown out, and nothing of it is lost.
    assert_eq!(seen(), Ok(0));
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(seen(), Ok(1));
    drop(reader);
    world.operator().get(&format!("/v1/organizations/{}", ids[7])).await.expect(200);
    assert_eq!(version(&world, &ids[7]), today + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_makes_way_for_requests_and_not_for_who_watches_it() {
    let (world, ids, _) = scene().await;
    let entered = || world.app().state().tenants.fairness().entered();
    let key = world.organization_key("org-03", &["*"]).await;
    let before = entered();
    world.operator().get("/v1/fleet/migrations").await.expect(200);
    world.operator().get(&format!("/v1/organizations/{}", ids[5])).await.expect(200);
    assert_eq!(entered(), before, "an operator slows the sweep down");
    world.api(&key).get("/v1/organizations/org-03").await.expect(200);
    assert_eq!(entered(), before + 1);
}
