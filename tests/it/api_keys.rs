//! Keys end when they are told to, and give away no more than they have.

use bulkhead::base::Timestamp;
use bulkhead::base::time::length;
use serde_json::json;

use crate::world::World;

const KEYS: &str = "/v1/organizations/acme/api_keys";
const MEMBERS: &str = "/v1/organizations/acme/members";

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_no_key_from_that_moment() {
    let world = World::new().await;
    world.organization("acme").await;
    for keys in [KEYS, "/v1/api_keys"] {
        let made = world.operator().post(keys, &json!({"name": "a program", "scopes": ["*"]})).await.expect(201);
        let key = made.json()["secret"].as_str().unwrap().to_owned();
        world.api(&key).get(MEMBERS).await.expect(200);
        world.operator().delete(&format!("{keys}/{}", made.id())).await.expect(204);
        world.api(&key).get(MEMBERS).await.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_ends_on_time() {
    let world = World::new().await;
    world.organization("acme").await;
    let expires_at: Timestamp = world.clock.now().plus(length::hours(1));
    for keys in [KEYS, "/v1/api_keys"] {
        let past = json!({"name": "late", "scopes": ["*"], "expires_at": world.clock.now()});
        world.operator().post(keys, &past).await.expect_problem(422, "validation_failed");
    }
    let mut made = Vec::new();
    for keys in [KEYS, "/v1/api_keys"] {
        let body = json!({"name": "a program", "scopes": ["*"], "expires_at": expires_at});
        let answer = world.operator().post(keys, &body).await.expect(201);
        made.push(answer.json()["secret"].as_str().unwrap().to_owned());
    }
    world.clock.advance(length::seconds(3599));
    for key in &made {
        world.api(key).get(MEMBERS).await.expect(200);
    }
    world.clock.advance(length::seconds(1));
    for key in &made {
        world.api(key).get(MEMBERS).await.expect_problem(401, "unauthenticated");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_no_key_that_may_do_more() {
    let world = World::new().await;
    world.organization("acme").await;
    let key = world.organization_key("acme", &["keys:write", "members:read"]).await;
    let narrow = world.api(&key);
    let more = json!({"name": "more", "scopes": ["members:write"]});
    narrow.post(KEYS, &more).await.expect_problem(422, "validation_failed");
    let all = narrow.post(KEYS, &json!({"name": "all", "scopes": ["*"]})).await.expect(201);
    assert_eq!(all.json()["scopes"], json!(["members:read", "keys:write"]));
    let applications = json!({"name": "apps", "scopes": ["applications:read"]});
    world.operator().post(KEYS, &applications).await.expect_problem(422, "validation_failed");
    // The secret is shown once, and its end tells keys apart.
    let listed = world.operator().get(KEYS).await.expect(200);
    assert!(!listed.text().contains("bh_sk_") && listed.text().contains(&key[key.len() - 11..key.len() - 7]));
}
