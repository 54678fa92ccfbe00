//! `Idempotency-Key`: sent twice, done once.

use bulkhead::base::time::length;
use serde_json::json;

use crate::world::World;

const MEMBERS: &str = "/v1/organizations/acme/members";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_sent_again_is_answered_again_and_not_done_again() {
    let world = World::new().await;
    world.organization("acme").await;
    let operator = world.operator().with_header("idempotency-key", "first");
    let ada = json!({"email": "ada@acme.test"});
    let first = operator.post(MEMBERS, &ada).await.expect(201);
    let second = operator.post(MEMBERS, &ada).await.expect(201);
    assert_eq!((first.text(), second.header("idempotent-replayed")), (second.text(), Some("true")));
    assert_eq!(first.header("idempotent-replayed"), None);
    operator.post(MEMBERS, &json!({"email": "bob@acme.test"})).await.expect_problem(422, "idempotency_key_reused");
    operator.post("/v1/organizations/acme/api_keys", &ada).await.expect_problem(422, "idempotency_key_reused");
    // A refusal is an outcome, too.
    let taken = world.operator().with_header("idempotency-key", "second");
    let refused = taken.post(MEMBERS, &ada).await.expect_problem(409, "email_taken");
    assert_eq!(taken.post(MEMBERS, &ada).await.expect_problem(409, "email_taken").text(), refused.text());
    // A day later the key is free.
    world.clock.advance(length::hours(24));
    operator.post(MEMBERS, &json!({"email": "bob@acme.test"})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_shown_once_is_shown_again_to_the_same_request() {
    let world = World::new().await;
    let operator = world.operator().with_header("idempotency-key", "an-application");
    let body = json!({"name": "App", "type": "confidential", "redirect_uris": ["https://app.example.com/cb"]});
    let first = operator.post("/v1/applications", &body).await.expect(201);
    assert_eq!(operator.post("/v1/applications", &body).await.expect(201).text(), first.text());
    let listed = world.operator().get("/v1/applications").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_callers_and_its_organizations_own() {
    let world = World::new().await;
    let ada = json!({"email": "ada@acme.test"});
    let mut ids = Vec::new();
    for slug in ["acme", "globex"] {
        world.organization(slug).await;
        let operator = world.operator().with_header("idempotency-key", "same");
        ids.push(operator.post(&format!("/v1/organizations/{slug}/members"), &ada).await.expect(201).id());
    }
    assert_ne!(ids[0], ids[1]);
    let key = world.organization_key("acme", &["members:write"]).await;
    let other = world.api(&key).with_header("idempotency-key", "same");
    other.post(MEMBERS, &ada).await.expect_problem(409, "email_taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_at_the_same_moment_one_is_done() {
    let world = World::new().await;
    world.organization("acme").await;
    let call = || {
        let call = world.operator().call("POST", MEMBERS).header("idempotency-key", "race");
        tokio::spawn(
            world.call_later(call.json(&json!({"email": "ada@acme.test", "password": "violet-harbour-anvil-27"}))),
        )
    };
    let running: Vec<_> = (0..8).map(|_| call()).collect();
    let mut created = Vec::new();
    for answer in running {
        let answer = answer.await.unwrap();
        match answer.status {
            201 => created.push(answer.id()),
            409 => drop(answer.expect_problem(409, "idempotency_key_in_use")),
            _ => panic!("{answer:?}"),
        }
    }
    created.dedup();
    assert_eq!(created.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_key_is_refused_and_what_passes_is_not_kept() {
    let world = World::new().await;
    world.organization("acme").await;
    for bad in ["", "a b", &"k".repeat(256)] {
        let operator = world.operator().with_header("idempotency-key", bad);
        operator.post(MEMBERS, &json!({"email": "ada@acme.test"})).await.expect_problem(400, "malformed_request");
    }
    let stranger = world.stranger().with_header("idempotency-key", "stranger");
    stranger.post(MEMBERS, &json!({"email": "ada@acme.test"})).await.expect_problem(401, "unauthenticated");
    let narrow = world.organization_key("acme", &["members:read"]).await;
    let narrow = world.api(&narrow).with_header("idempotency-key", "narrow");
    for _ in 0..2 {
        let refused = narrow.post(MEMBERS, &json!({"email": "ada@acme.test"})).await.expect_problem(403, "forbidden");
        assert_eq!(refused.header("idempotent-replayed"), None);
    }
}
