//! The care of all organizations' files: checks that find what is wrong and disturb nobody, files that are set
//! aside, numbers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, Operator, host_of, session_check};
use crate::world::{Answer, World};

/// Runs a check to its end.
async fn check(world: &World, options: Value) -> Value {
    let begun = world.operator().post("/v1/fleet/checks", &options).await.expect(202);
    ended(world, &begun.id()).await
}

async fn ended(world: &World, id: &str) -> Value {
    world.walked("checks", id).await
}

/// (organization, code) of each finding, in order.
fn findings(check: &Value) -> Vec<(Option<&str>, &str)> {
    let found = check["findings"].as_array().unwrap().iter();
    let mut found: Vec<_> = found.map(|one| (one["organization_id"].as_str(), one["code"].as_str().unwrap())).collect();
    found.sort_unstable();
    found
}

fn place(data_dir: &Path, organization: &str) -> std::path::PathBuf {
    let id: bulkhead::base::OrganizationId = organization.parse().unwrap();
    let uuid = uuid::Uuid::from_u128(id.bits());
    let bytes = uuid.as_bytes();
    data_dir.join(format!("orgs/{:02x}/{:02x}/{uuid}", bytes[15], bytes[14]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_what_is_wrong_with_each_and_nothing_else() {
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for slug in ["well", "torn", "gone", "swapped", "renamed", "dangling", "unknown", "keyless", "index"] {
        ids.push(world.organization(slug).await);
    }
    let [well, torn, gone, swapped, renamed, dangling, unknown, keyless, index] =
        ids.iter().map(String::as_str).collect::<Vec<_>>().try_into().unwrap();
    let clean = check(&world, json!({"full": true})).await;
    assert_eq!((clean["state"].as_str(), findings(&clean)), (Some("done"), vec![]), "{clean}");
    assert_eq!((clean["total"].as_i64(), clean["checked"].as_i64()), (Some(9), Some(9)));

    world
        .while_stopped(|data| {
            let file = |id: &str| place(data, id).join("db.sqlite");
            let sql = |path: &Path, sql: &str| Connection::open(path).unwrap().execute_batch(sql).unwrap();
            let bytes = fs::read(file(torn)).unwrap();
            fs::write(file(torn), &bytes[..bytes.len() / 2]).unwrap();
            fs::remove_dir_all(place(data, gone)).unwrap();
            fs::copy(file(well), file(swapped)).unwrap();
            sql(&file(renamed), "UPDATE organization SET slug = 'other', hosts = '[\"a.test\"]'");
            sql(
                &file(dangling),
                "PRAGMA foreign_keys = OFF; INSERT INTO session (id, member_id, token_hash, amr, auth_time, created_at,
                   last_seen_at, idle_expires_at, expires_at) VALUES ('s', 'nobody', x'00', '', 0, 0, 0, 0, 0)",
            );
            crate::organizations::forget_in_catalog(data, unknown);
            sql(&data.join("keyring.sqlite"), &format!("DELETE FROM data_key WHERE name = '{keyless}'"));
            // An index that says other than its table: only a full check compares what is in the two.
            let define = |columns: &str| {
                format!(
                    "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX session_by_member ON \
                     session ({columns})' WHERE name = 'session_by_member'"
                )
            };
            sql(&file(index), &define("id, member_id"));
            sql(
                &file(index),
                "INSERT INTO session (id, member_id, token_hash, amr, auth_time, created_at, last_seen_at,
                   idle_expires_at, expires_at) SELECT 's', id, x'00', '', 0, 0, 0, 0, 0 FROM member",
            );
            sql(&file(index), &define("member_id, id"));
            fs::create_dir_all(data.join("orgs/zz/zz/what-is-this")).unwrap();
            let wrong = data.join("orgs/00/00").join(place(data, well).file_name().unwrap());
            fs::create_dir_all(&wrong).unwrap();
            fs::copy(file(well), wrong.join("db.sqlite")).unwrap();
        })
        .await;

    let mut wanted = vec![
        (None, "orphan"),
        (None, "stray"),
        (None, "wrong_place"),
        (Some(dangling), "dangling_reference"),
        (Some(gone), "file_missing"),
        (Some(keyless), "key_missing"),
        (Some(renamed), "disagreement"),
        (Some(swapped), "wrong_place"),
        (Some(torn), "damaged"),
    ];
    wanted.sort_unstable();
    let found = check(&world, json!({})).await;
    assert_eq!(findings(&found), wanted, "{found:#}");
    let all = found["findings"].to_string();
    assert!(all.contains("slug, hosts") && all.contains(unknown) && all.contains(well), "{found:#}");
    for finding in found["findings"].as_array().unwrap() {
        assert!(finding["advice"].as_str().is_some_and(|advice| advice.len() > 10), "{finding}");
    }

    wanted.push((Some(index), "damaged"));
    wanted.sort_unstable();
    let full = check(&world, json!({"full": true, "quarantine": true})).await;
    assert_eq!(findings(&full), wanted, "{full:#}");
    // What cannot be used is set aside; what merely disagrees is not.
    for (id, is_aside) in [(torn, true), (gone, true), (swapped, true), (index, true), (well, false), (renamed, false)]
    {
        let aside = world.operator().get(&format!("/v1/organizations/{id}/quarantine")).await.expect(200).json();
        assert_eq!(aside["quarantined"], is_aside, "{aside}");
        assert_eq!(aside["reason"].is_string(), is_aside, "{aside}");
    }
    world.operator().get(&format!("/v1/organizations/{torn}")).await.expect_problem(503, "organization_quarantined");
    world.operator().get(&format!("/v1/organizations/{well}")).await.expect(200);
    let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json();
    let count = |action: &str| log["data"].as_array().unwrap().iter().filter(|event| event["action"] == action).count();
    assert_eq!((count("organization.quarantined"), count("fleet.check_started")), (4, 3), "{log:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_opens_and_closes_nothing_that_requests_use() {
    let world = World::with(&[("BULKHEAD_FILES_MAX_OPEN", "8")]).await;
    for n in 0..30 {
        world.organization(&format!("org-{n}")).await;
    }
    for n in 0..8 {
        world.operator().get(&format!("/v1/organizations/org-{n}")).await.expect(200);
    }
    let open = async || {
        let mut open = Vec::new();
        for n in 0..30 {
            let id = world.app().state().directory.by_name(&format!("org-{n}")).await.unwrap().organization();
            open.extend(world.app().state().tenants.if_open(id).map(|_| n));
        }
        open
    };
    let before = open().await;
    assert_eq!(before.len(), 8, "{before:?}");
    let found = check(&world, json!({})).await;
    assert_eq!((found["checked"].as_i64(), findings(&found)), (Some(30), vec![]), "{found}");
    assert_eq!(open().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_aside_answers_nobody_until_it_is_released() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    world.organization("other").await;
    let key = world.organization_key("acme", &["*"]).await;
    let browser = world.signed_in("acme", "owner@acme.test").await;
    drop(browser);
    let at = "/v1/organizations/acme/quarantine";
    for wrong in [json!({}), json!({"reason": "  "}), json!({"reason": "x".repeat(501)}), json!({"why": "x"})] {
        assert_eq!(world.operator().put(at, &wrong).await.status, 422);
    }
    let set = world.operator().put(at, &json!({"reason": "torn pages"})).await.expect(200).json();
    assert_eq!((set["quarantined"].as_bool(), set["reason"].as_str()), (Some(true), Some("torn pages")));
    assert_eq!(set["already_quarantined"], false, "{set}");
    // Again changes nothing, the reason least of all, and says that it has not.
    let mut again = world.operator().put(at, &json!({"reason": "another"})).await.expect(200).json();
    assert_eq!(again["already_quarantined"].take(), true);
    let found = world.operator().get(at).await.expect(200).json();
    assert_eq!(again, found);
    assert_eq!((&found["reason"], &found["since"]), (&set["reason"], &set["since"]), "{found}");
    world.operator().put("/v1/organizations/nobody/quarantine", &json!({"reason": "x"})).await.expect(404);

    let refused = async |world: &World| {
        let by_key = world.api(&key).get("/v1/organizations/acme/members").await;
        let by_operator = world.operator().get(&format!("/v1/organizations/{id}")).await;
        for answer in [by_key, by_operator] {
            let answer: Answer = answer.expect_problem(503, "organization_quarantined");
            assert!(!answer.mentions("torn"), "the reason is for operators: {answer:?}");
        }
        assert_eq!(world.browser("acme").get("/sign-in").await.status, 503);
        world.operator().get("/v1/organizations/other").await.expect(200);
    };
    refused(&world).await;
    world.while_stopped(|_| ()).await;
    refused(&world).await;
    let stats = world.operator().get("/v1/fleet/stats").await.expect(200).json();
    assert_eq!(stats["quarantined"][0]["reason"], "torn pages", "{stats}");

    world.operator().delete(at).await.expect(204);
    world.operator().delete(at).await.expect(204);
    world.api(&key).get("/v1/organizations/acme/members").await.expect(200);
    world.signed_in("acme", "owner@acme.test").await;
    let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json();
    let acts: Vec<&str> = log["data"].as_array().unwrap().iter().filter_map(|event| event["action"].as_str()).collect();
    for act in ["organization.quarantined", "organization.released"] {
        assert_eq!(acts.iter().filter(|known| **known == act).count(), 1, "{acts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_count_and_measure() {
    let world = World::new().await;
    for slug in ["one", "two", "three"] {
        world.organization(slug).await;
    }
    world.operator().put("/v1/organizations/two/suspension", &json!({"reason": "unpaid"})).await.expect(204);
    for n in 0..60 {
        let body = json!({"email": format!("member-{n}@three.test"), "title": "x".repeat(100)});
        world.operator().post("/v1/organizations/three/members", &body).await.expect(201);
    }
    let stats = world.operator().get("/v1/fleet/stats?top=2").await.expect(200).json();
    assert_eq!(stats["by_state"], json!({"active": 2, "suspended": 1}), "{stats}");
    let newest = stats["schema_version"].to_string();
    assert_eq!((stats["organizations"].as_i64(), stats["by_schema_version"][&newest].as_i64()), (Some(3), Some(3)));
    let largest = stats["largest"].as_array().unwrap();
    assert_eq!((largest.len(), largest[0]["slug"].as_str()), (2, Some("three")), "{stats}");
    assert!(stats["bytes"].as_u64() > largest[0]["bytes"].as_u64(), "{stats}");
    assert_eq!(stats["without_file"], 0);
    world.operator().get("/v1/fleet/stats?top=1001").await.expect(422);
}

#[test]
fn a_check_goes_on_after_a_kill_and_by_the_command_line() {
    let deployment = Deployment::new();
    let (mut server, mut operator, key) = deployment.started();
    let ids: Vec<String> = (0..150).map(|n| operator.organization(&format!("org-{n:03}"))).collect();
    // Of the last batch, so that the kill comes before it.
    let torn = ids.iter().max().unwrap();
    server.kill();
    let file = fs::File::options().write(true).open(deployment.file(torn)).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();

    let mut server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let begun = operator.post("/v1/fleet/checks", &json!({})).unwrap();
    assert_eq!(begun.status, 202, "{}", begun.text());
    let path = format!("/v1/fleet/checks/{}", begun.json()["id"].as_str().unwrap());
    let second = operator.post("/v1/fleet/checks", &json!({})).unwrap();
    assert_eq!((second.status, second.code().as_str()), (409, "fleet_job_running"), "{}", second.text());
    while operator.get(&path).unwrap().json()["checked"] == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();

    let server = deployment.serve();
    let mut operator = Operator::new(&server, &key);
    let mut found = operator.get(&path).unwrap().json();
    while found["state"] == "running" {
        std::thread::sleep(Duration::from_millis(20));
        found = operator.get(&path).unwrap().json();
    }
    assert_eq!((found["checked"].as_i64(), found["total"].as_i64()), (Some(150), Some(150)), "{found}");
    assert_eq!(findings(&found), [(Some(torn.as_str()), "damaged")], "{found}");

    // The same by hand, with the server and without.
    let ran = deployment.run(&["fleet", "check", "--quarantine"]);
    let text = String::from_utf8(ran.stdout).unwrap();
    assert_eq!(ran.status.code(), Some(1), "{text}");
    assert!(text.contains(torn) && text.contains("150 organizations checked, 1 findings"), "{text}");
    let refused = server.client().send(&session_check(&host_of("org-000"), "")).unwrap();
    assert_eq!(refused.status, 401, "{}", refused.text());
    let shown = deployment.run(&["fleet", "stats"]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("Set aside"), "no quarantine shown");
    server.stop();
    let released = deployment.run(&["fleet", "release", torn]);
    assert!(released.status.success(), "{released:?}");
    let aside = deployment.run(&["fleet", "quarantine", "org-001", "--reason", "looks odd"]);
    assert!(aside.status.success(), "{aside:?}");
    // Whoever does it again learns of the first reason, in words and as a document.
    let again = deployment.run(&["fleet", "quarantine", "org-001", "--reason", "second thought"]);
    let said = String::from_utf8(again.stdout).unwrap();
    assert!(again.status.success() && said.contains("already") && said.contains("looks odd"), "{said}");
    assert!(!said.contains("second thought"), "{said}");
    let again = deployment.json(&["fleet", "quarantine", "org-001", "--reason", "second thought"]);
    assert_eq!((&again["already_quarantined"], &again["reason"]), (&json!(true), &json!("looks odd")), "{again}");
    let shown = deployment.json(&["fleet", "stats"]);
    assert_eq!(shown["quarantined"][0]["reason"], "looks odd", "{shown}");
    let refusal = deployment.run(&["--json", "org", "show", "org-001"]);
    assert!(String::from_utf8(refusal.stderr).unwrap().contains("organization_quarantined"));
}
