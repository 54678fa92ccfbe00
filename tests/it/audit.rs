//! The audit log: what is in it, and that nobody can change it unnoticed.

use bulkhead::base::time::length;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::world::{Answer, PASSWORD, Registered, Tokens, World, host_of};

const AGENT: &str = "ada-browser/1.0";

fn actions(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["action"].as_str().unwrap()).collect()
}

/// The one event that a request left in a log.
#[track_caller]
fn event_of<'a>(events: &'a [Value], answer: &Answer, action: &str) -> &'a Value {
    let id = answer.header("x-request-id").unwrap();
    let found = events.iter().find(|event| event["request_id"] == id && event["action"] == action);
    found.unwrap_or_else(|| panic!("no {action} of {id} in {:?}", actions(events)))
}

async fn operators_log(world: &World) -> Vec<Value> {
    world.operator().get("/v1/audit_events?limit=100").await.expect(200).json()["data"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_of_an_operator_is_in_both_logs() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator();
    let member = world.member("acme", "ada@acme.test").await;
    let spare = world.member("acme", "spare@acme.test").await;
    let browser = world.signed_in("acme", "ada@acme.test").await;
    let found = operator
        .post("/v1/organizations/acme/sessions/authenticate", &json!({"session_token": browser.session().unwrap()}))
        .await;
    let (session, at) = (found.expect(200).id(), "/v1/organizations/acme");
    let key = operator.post(&format!("{at}/api_keys"), &json!({"name": "k", "scopes": ["*"]})).await.expect(201).id();
    let a_member = format!("{at}/members/{member}");
    let acts = [
        ("POST", format!("{at}/members"), json!({"email": "new@acme.test"}), "member.created"),
        ("PATCH", a_member.clone(), json!({"title": "Countess"}), "member.updated"),
        ("PUT", format!("{a_member}/password"), json!({"password": "grove-cinder-meadow-51"}), "member.password_set"),
        ("PUT", format!("{a_member}/deactivation"), json!({}), "member.deactivated"),
        ("DELETE", format!("{a_member}/deactivation"), json!({}), "member.reactivated"),
        ("DELETE", format!("{at}/members/{spare}"), json!({}), "member.deleted"),
        ("POST", format!("{at}/api_keys"), json!({"name": "n", "scopes": ["*"]}), "api_key.created"),
        ("DELETE", format!("{at}/api_keys/{key}"), json!({}), "api_key.revoked"),
        ("POST", format!("{at}/signing_keys/rotation"), json!({"algorithm": "ES256"}), "signing_key.created"),
        ("PATCH", at.to_owned(), json!({"name": "Acme 2"}), "organization.updated"),
        ("PUT", format!("{at}/hosts/login.acme.test"), json!({}), "organization.host_added"),
        ("DELETE", format!("{at}/hosts/login.acme.test"), json!({}), "organization.host_removed"),
        ("PUT", format!("{at}/suspension"), json!({"reason": "unpaid"}), "organization.suspended"),
        ("DELETE", format!("{at}/suspension"), json!({}), "organization.resumed"),
    ];
    for (method, path, body, action) in acts {
        let answer = operator.send(method, &path, Some(&body)).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
        let (own, operators) = (world.events("acme").await, operators_log(&world).await);
        let event = event_of(&own, &answer, action);
        assert_eq!(
            (&event["actor"]["type"], &event["actor"]["name"]),
            (&json!("operator"), &json!("operator")),
            "{event}"
        );
        assert_eq!(
            (&event["outcome"], &event["context"]["ip_address"]),
            (&json!("success"), &json!("203.0.113.7")),
            "{event}"
        );
        let said = &event["metadata"];
        let event = event_of(&operators, &answer, action);
        assert_eq!(event["actor"], own[0]["actor"], "{event}");
        assert_eq!(event["context"]["ip_address"], Value::Null, "{event}");
        // What the act was, where that names nobody.
        let told = match action {
            "organization.updated" => Some("fields"),
            "api_key.created" => Some("scopes"),
            "signing_key.created" => Some("algorithm"),
            _ => None,
        };
        assert!(told.is_none_or(|key| !said[key].is_null()), "{action} does not say what it was: {said}");
        for key in ["fields", "scopes", "algorithm"].iter().filter(|_| !action.starts_with("member.")) {
            assert_eq!(event["metadata"][key], said[key], "{event}");
        }
    }
    // Revoking what is over already is no act.
    operator.delete(&format!("{at}/sessions/{session}")).await.expect(204);
    let before = world.events("acme").await.len();
    operator.delete(&format!("{at}/api_keys/{key}")).await.expect(204);
    assert_eq!(world.events("acme").await.len(), before);
    let log = format!("{:?}", operators_log(&world).await);
    for personal in ["@acme.test", "Countess", "203.0.113.7", "unpaid", "Acme 2"] {
        assert!(!log.contains(personal), "{personal} is in the operators' log");
    }
}

/// Whoever has the data directory needs no key, and is named all the same.
#[tokio::test(flavor = "multi_thread")]
async fn the_local_operator_is_named_in_both_logs() {
    let world = World::new().await;
    world.organization("acme").await;
    for (method, path, body) in [
        ("PATCH", "/v1/organizations/acme", json!({"name": "Acme 2"})),
        ("PUT", "/v1/organizations/acme/suspension", json!({"reason": "unpaid"})),
        ("POST", "/v1/organizations/acme/compaction", json!({})),
    ] {
        let answer = world.local_operator(method, path, Some(body)).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
        let (own, operators) = (world.events("acme").await, operators_log(&world).await);
        let id = answer.header("x-request-id").unwrap();
        let of = |events: &[Value]| events.iter().find(|event| event["request_id"] == id).cloned();
        let (Some(own), Some(noted)) = (of(&own), of(&operators)) else { panic!("{path}: not in both logs") };
        assert_eq!(own["actor"], json!({"type": "operator", "id": null, "name": "local operator"}), "{own}");
        assert_eq!((&noted["actor"], &noted["action"]), (&own["actor"], &own["action"]), "{noted}");
        if method != "PUT" {
            assert_eq!(noted["metadata"], own["metadata"], "{noted}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_acts_of_people_and_of_keys_are_in_their_organizations_log_alone() {
    let world = World::new().await;
    world.organization("acme").await;
    let member = world.member("acme", "ada@acme.test").await;
    let app = world.application().await;
    let before = operators_log(&world).await.len();
    let mut browser = world.browser("acme");
    browser.user_agent = AGENT.to_owned();
    browser.sign_in("ada@acme.test", "wrong-password-1").await.expect(401);
    let failed = world.events("acme").await;
    assert_eq!(
        (failed[0]["action"].as_str(), &failed[0]["outcome"]),
        (Some("authentication.password_failed"), &json!("failure"))
    );
    assert_eq!(failed[0]["context"]["user_agent"], AGENT);
    let signed_in = browser.sign_in("ada@acme.test", PASSWORD).await.expect(303);
    let events = world.events("acme").await;
    for action in ["authentication.password_succeeded", "session.created"] {
        let event = event_of(&events, &signed_in, action);
        assert_eq!((&event["actor"]["type"], &event["actor"]["id"]), (&json!("member"), &json!(member)), "{event}");
    }
    let tokens = app.tokens(&world, &mut browser).await;
    world.refresh(&host_of("acme"), &app, &tokens.refresh).await.expect(200);
    world.refresh(&host_of("acme"), &app, &tokens.refresh).await.expect(400);
    let page = browser.get("/account").await;
    let signed_out = browser.submit_form_to(&page, "/sign-out", &[]).await;
    let key = world.organization_key("acme", &["members:write"]).await;
    let by_key = world
        .api(&key)
        .patch(&format!("/v1/organizations/acme/members/{member}"), &json!({"name": "Ada"}))
        .await
        .expect(200);
    let events = world.events("acme").await;
    for action in ["application.authorized", "grant.redeemed", "grant.refreshed", "grant.revoked", "session.revoked"] {
        assert!(actions(&events).contains(&action), "{action} {:?}", actions(&events));
    }
    let event = event_of(&events, &signed_out, "session.revoked");
    assert_eq!(event["metadata"]["reason"], "signed_out");
    assert_eq!(event_of(&events, &by_key, "member.updated")["actor"]["type"], "api_key");
    // The operator has made one key in between, and nothing else is of interest to operators.
    assert_eq!(operators_log(&world).await.len(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_applications_are_refused_is_in_the_organizations_log() {
    let world = World::new().await;
    for slug in ["acme", "globex"] {
        world.organization(slug).await;
        world.member(slug, &format!("ada@{slug}.test")).await;
    }
    let (app, other, host) = (world.application().await, world.application().await, host_of("acme"));
    let mut browser = world.signed_in("acme", "ada@acme.test").await;
    let mut elsewhere = world.signed_in("globex", "ada@globex.test").await;
    let foreign = app.code(&mut elsewhere).await;
    let impostor = Registered { id: app.id.clone(), secret: "bh_cs_wrong".to_owned() };
    let nobody = Registered { id: format!("{}x", app.id), secret: app.secret.clone() };

    let check = async |refused: Answer, action: &str, reason: &str| {
        let events = world.events("acme").await;
        let event = event_of(&events, &refused, action);
        let told = (&event["outcome"], event["metadata"]["reason"].as_str().unwrap_or(""));
        assert_eq!(told, (&json!("failure"), reason), "{event}");
        event.clone()
    };
    let code = app.code(&mut browser).await;
    let refused = world.redeem(&host, &impostor, &code).await.expect(401);
    let event = check(refused, "application.authentication_failed", "").await;
    assert_eq!((&event["actor"]["type"], &event["targets"][0]["id"]), (&json!("anonymous"), &json!(app.id)), "{event}");
    for path in ["/oauth2/introspect", "/oauth2/revoke"] {
        let refused = world.as_application(&host, path, &impostor, &[("token", "x")]).await.expect(401);
        check(refused, "application.authentication_failed", "").await;
    }
    let refused = world.redeem(&host, &other, &code).await.expect(400);
    let event = check(refused, "grant.redeemed", "other_application").await;
    assert_eq!((&event["actor"]["type"], &event["actor"]["id"]), (&json!("application"), &json!(other.id)), "{event}");
    check(world.redeem(&host, &app, &foreign).await.expect(400), "grant.redeemed", "unknown").await;
    check(world.redeem(&host, &app, "rubbish").await.expect(400), "grant.redeemed", "unknown").await;
    let tokens = Tokens::of(&world.redeem(&host, &app, &code).await.expect(200));
    let again = world.redeem(&host, &app, &code).await.expect(400);
    assert_eq!(event_of(&world.events("acme").await, &again, "grant.revoked")["metadata"]["reason"], "code_reused");
    check(again, "grant.redeemed", "reused").await;
    check(world.refresh(&host, &app, &tokens.refresh).await.expect(400), "grant.refreshed", "ended").await;
    check(world.refresh(&host, &app, "rubbish").await.expect(400), "grant.refreshed", "unknown").await;
    let late = app.code(&mut browser).await;
    world.clock.advance(length::minutes(1));
    check(world.redeem(&host, &app, &late).await.expect(400), "grant.redeemed", "expired").await;

    // A name that nobody has could be anything, and the other organization hears of none of it.
    let before = [world.events("acme").await.len(), world.events("globex").await.len()];
    world.redeem(&host, &nobody, &late).await.expect(401);
    assert_eq!([world.events("acme").await.len(), world.events("globex").await.len()], before);
    let theirs = world.events("globex").await;
    assert!(theirs.iter().all(|event| event["outcome"] == "success"), "{theirs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_refusals_does_not_fill_the_log() {
    let world = World::new().await;
    world.organization("acme").await;
    let app = world.application().await;
    let impostor = Registered { id: app.id, secret: "bh_cs_wrong".to_owned() };
    let failures = async || {
        let events = world.events("acme").await;
        events
            .iter()
            .filter(|event| event["action"] == "application.authentication_failed")
            .cloned()
            .collect::<Vec<_>>()
    };
    for _ in 0..50 {
        world.refresh(&host_of("acme"), &impostor, "rubbish").await.expect(401);
    }
    assert_eq!(failures().await.len(), 30);
    world.clock.advance(length::minutes(1));
    world.refresh(&host_of("acme"), &impostor, "rubbish").await.expect(401);
    let failures = failures().await;
    assert_eq!((failures.len(), &failures[0]["metadata"]["not_recorded"]), (31, &json!(20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_a_chain_that_tells_of_every_change() {
    let world = World::new().await;
    world.organization("untouched").await;
    let changes: &[(&str, &str, Option<i64>, &str)] = &[
        ("row", "UPDATE audit_event SET action = 'member.deleted' WHERE sequence = 2", Some(2), "hash does not match"),
        ("outcome", "UPDATE audit_event SET outcome = 'failure' WHERE sequence = 2", Some(2), "hash does not match"),
        (
            "time",
            "UPDATE audit_event SET occurred_at = occurred_at + 1 WHERE sequence = 3",
            Some(3),
            "hash does not match",
        ),
        ("removed", "DELETE FROM audit_event WHERE sequence = 2", Some(3), "missing before"),
        (
            "renumbered",
            "DELETE FROM audit_event WHERE sequence = 2; UPDATE audit_event SET sequence = sequence - 1 WHERE sequence > 2",
            Some(2),
            "does not follow",
        ),
        ("first", "DELETE FROM audit_event WHERE sequence = 1", Some(2), "missing before"),
        (
            "payload",
            "UPDATE audit_event SET payload = replace(payload, 'operator', 'somebody') WHERE sequence = 3",
            Some(3),
            "payload was changed",
        ),
        (
            "salt",
            "UPDATE audit_event SET payload_salt = zeroblob(16) WHERE sequence = 3",
            Some(3),
            "payload was changed",
        ),
        (
            "digest",
            "UPDATE audit_event SET payload_digest = zeroblob(32) WHERE sequence = 3",
            Some(3),
            "hash does not match",
        ),
        (
            "unsalted",
            "UPDATE audit_event SET payload = replace(payload, 'operator', 'somebody'), payload_salt = NULL
             WHERE sequence = 3",
            Some(3),
            "payload was changed",
        ),
        // Only an erasure that is in the log itself takes content out.
        (
            "blank",
            "UPDATE audit_event SET payload = NULL, payload_salt = NULL WHERE sequence = 3",
            Some(3),
            "no erasure says so",
        ),
    ];
    let mut files = Vec::new();
    for (slug, ..) in changes {
        let id = world.organization(&format!("org-{slug}")).await;
        for n in 0..3 {
            world.member(&format!("org-{slug}"), &format!("m{n}@acme.test")).await;
        }
        files.push(crate::organizations::file_of(&world, &id));
    }
    let heads = |world: World| async {
        let mut heads = Vec::new();
        for (slug, ..) in changes {
            heads.push(verification(&world, &format!("org-{slug}")).await);
        }
        (world, heads)
    };
    let (mut world, before) = heads(world).await;
    for found in &before {
        assert_eq!((&found["intact"], &found["broken_at"]), (&json!(true), &Value::Null), "{found}");
        assert!(found["events"].as_i64().unwrap() >= 5);
    }
    world
        .while_stopped(|_| {
            for ((_, sql, ..), file) in changes.iter().zip(&files) {
                Connection::open(file).unwrap().execute_batch(sql).unwrap();
            }
        })
        .await;
    let (world, after) = heads(world).await;
    for ((slug, _, broken_at, reason), found) in changes.iter().zip(&after) {
        assert_eq!(found["broken_at"].as_i64(), *broken_at, "{slug} {found}");
        assert_eq!(found["intact"].as_bool(), Some(broken_at.is_none()), "{slug} {found}");
        assert!(found["reason"].as_str().unwrap_or("").contains(reason), "{slug} {found}");
    }
    assert_eq!(before.last().unwrap()["head"], after.last().unwrap()["head"], "the chain holds digests only");
    let blank = world.events("org-blank").await.into_iter().find(|event| event["sequence"] == 3).unwrap();
    assert_eq!((&blank["actor"], &blank["context"]), (&Value::Null, &Value::Null), "{blank}");
    assert_eq!(verification(&world, "untouched").await["intact"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_log_is_a_chain_as_well_and_a_cut_off_end_is_told_by_a_remembered_head() {
    let mut world = World::new().await;
    world.organization("acme").await;
    world.organization("globex").await;
    let verify = "/v1/audit_events/verification";
    let before = world.operator().get(verify).await.expect(200).json();
    assert_eq!(before["intact"], true, "{before}");
    let edit = |sql: &'static str| {
        move |data: &std::path::Path| Connection::open(data.join("catalog.sqlite")).unwrap().execute_batch(sql).unwrap()
    };
    world.while_stopped(edit("DELETE FROM audit_event WHERE sequence = (SELECT max(sequence) FROM audit_event)")).await;
    let cut = world.operator().get(verify).await.expect(200).json();
    assert_eq!(cut["intact"], true);
    assert_ne!(cut["head"], before["head"]);
    world.while_stopped(edit("UPDATE audit_event SET action = 'x.y' WHERE sequence = 2")).await;
    let changed = world.operator().get(verify).await.expect(200).json();
    assert_eq!((&changed["intact"], &changed["broken_at"]), (&json!(false), &json!(2)), "{changed}");
}

pub async fn verification(world: &World, slug: &str) -> Value {
    let path = format!("/v1/organizations/{slug}/audit_events/verification");
    world.operator().get(&path).await.expect(200).json()
}
