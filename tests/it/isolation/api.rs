//! The walk over every operation of the API.

use bulkhead::base::{Credential, CredentialKind};
use serde_json::json;

use super::table::{For, OPERATIONS, Operation};
use super::{MARK, Scene, Side, assert_unmarked, body_of};
use crate::world::{Answer, Api, World};

/// The path of an operation at an organization by this name, with what `of` has in it.
fn path_at(operation: &Operation, name: &str, of: &Side) -> String {
    let path = operation.path.replace("{org}", name);
    of.fill(&path, of)
        .replace("{application}", "app_00000000000000000000000009")
        .replace("{organization}", "org_00000000000000000000000009")
        .replace("{check}", "job_00000000000000000000000009")
        .replace("{migration}", "job_00000000000000000000000009")
        .replace("{transfer}", "transfer_00000000000000000000000009")
}

async fn call(api: &Api<'_>, operation: &Operation, path: &str, of: &Side) -> Answer {
    let body = body_of(&of.fill(operation.body, of));
    api.send(operation.method, path, body.as_ref()).await
}

/// A scope that is of no use for the operation.
fn beside(scope: &str) -> &'static str {
    if scope == "audit:read" { "keys:read" } else { "audit:read" }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_in_without_a_credential_that_is_good() {
    let Scene { world, acme, .. } = &Scene::new().await;
    let nowhere = Side::nowhere(acme);
    let of_nobody = Credential::mint(CredentialKind::ApiKey, None, [7; 32]).expose().to_owned();
    let of_acme = format!("{}{}", &acme.key[..acme.key.len() - 1], if acme.key.ends_with('0') { "1" } else { "0" });
    for operation in OPERATIONS {
        for key in [None, Some(&of_nobody), Some(&of_acme), Some(&acme.session_token), Some(&"nonsense".to_owned())] {
            let api = key.map_or_else(|| world.stranger(), |key| world.api(key));
            let answer = call(&api, operation, &path_at(operation, acme.slug, acme), acme).await;
            let answer = answer.expect_problem(401, "unauthenticated");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{answer:?}");
            // Whether an organization exists is not for strangers.
            let elsewhere = call(&api, operation, &path_at(operation, nowhere.slug, acme), acme).await;
            assert_eq!(answer.essence(), elsewhere.essence(), "{answer:?} {elsewhere:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_scope_is_refused() {
    let Scene { world, acme, .. } = &Scene::new().await;
    for operation in OPERATIONS {
        let scope = beside(operation.scope);
        let made =
            world.operator().post("/v1/api_keys", &json!({"name": "narrow", "scopes": [scope]})).await.expect(201);
        let of_operator = made.json()["secret"].as_str().unwrap().to_owned();
        for key in [of_operator, world.organization_key(acme.slug, &[scope]).await] {
            let answer = call(&world.api(&key), operation, &path_at(operation, acme.slug, acme), acme).await;
            answer.expect_problem(403, "forbidden");
        }
        if operation.callers == For::Operators {
            let answer = call(&world.api(&acme.key), operation, &path_at(operation, acme.slug, acme), acme).await;
            answer.expect_problem(403, "forbidden");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_no_other_organization_and_does_not_tell_whether_it_exists() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let (before, nowhere) = (state_of(world, other).await, Side::nowhere(acme));
    let acmes = world.api(&acme.key);
    for operation in OPERATIONS.iter().filter(|operation| operation.is_of_an_organization()) {
        let unknown = call(&acmes, operation, &path_at(operation, nowhere.slug, other), other).await;
        assert!([400, 401, 403, 404].contains(&unknown.status), "{unknown:?}");
        for name in [&other.id, other.slug, &format!("ext-{MARK}"), &nowhere.id, "%2e%2e", "acm%65x"] {
            let refused = call(&acmes, operation, &path_at(operation, name, other), other).await;
            assert_eq!(refused.essence(), unknown.essence(), "{refused:?} {unknown:?}");
        }
        // The same by a key that has been revoked, or never was.
        let stale = call(&world.api(&nowhere.key), operation, &path_at(operation, acme.slug, acme), acme).await;
        assert!([400, 401].contains(&stale.status), "{stale:?}");
    }
    assert_eq!(state_of(world, other).await, before, "something of the other organization was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_ids_are_as_unknown_as_any() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let (before, nowhere) = (state_of(world, other).await, Side::nowhere(acme));
    let acmes = world.api(&acme.key);
    let operator = world.operator();
    for operation in
        OPERATIONS.iter().filter(|operation| operation.is_of_an_organization() && operation.names_an_object())
    {
        for api in [&acmes, &operator] {
            let unknown = call(api, operation, &path_at(operation, acme.slug, &nowhere), &nowhere).await.expect(404);
            let others = call(api, operation, &path_at(operation, acme.slug, other), other).await;
            assert_eq!(others.essence(), unknown.essence(), "{others:?} {unknown:?}");
            assert_unmarked(&others);
        }
    }
    let path = |host: &str| format!("/v1/organizations/acme/hosts/{host}");
    let (others, unknown) =
        (operator.delete(&path(&other.custom_host)).await, operator.delete(&path(&nowhere.custom_host)).await);
    assert_eq!((others.status, others.essence()), (404, unknown.essence()), "{others:?}");
    operator.put(&path(&other.custom_host), &json!({})).await.expect_problem(409, "host_taken");
    assert_eq!(state_of(world, other).await, before, "something of the other organization was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_and_no_filter_shows_anything_of_another_organization() {
    let Scene { world, acme, other, .. } = &Scene::new().await;
    let acmes = world.api(&acme.key);
    for operation in OPERATIONS.iter().filter(|one| one.is_of_an_organization() && one.method == "GET") {
        if operation.callers == For::Both {
            let answer = call(&acmes, operation, &path_at(operation, acme.slug, acme), acme).await.expect(200);
            assert!(answer.mentions("acme") || answer.mentions("audit_verification") || answer.mentions("public_jwk"));
            assert_unmarked(&answer);
        }
    }
    let of_other = acmes.get(&format!("/v1/organizations/acme/sessions?member={}", other.member)).await.expect(200);
    assert_eq!(of_other.json()["data"], json!([]));
    for (list, cursor) in [("members", &other.member), ("sessions", &other.session), ("api_keys", &other.key_id)] {
        for side in ["before", "after"] {
            assert_unmarked(&acmes.get(&format!("/v1/organizations/acme/{list}?{side}={cursor}")).await.expect(200));
        }
    }
    assert_ne!(acme.signing_key, other.signing_key);
    let keys = acmes.get("/v1/organizations/acme/signing_keys").await.expect(200);
    assert!(keys.mentions(&acme.signing_key) && !keys.mentions(&other.signing_key));
    // What every operator may see, no organization's key may.
    assert!(world.operator().get("/v1/organizations?limit=100").await.expect(200).mentions(MARK));
    acmes.get("/v1/organizations?limit=100").await.expect_problem(403, "forbidden");
}

/// The walk would prove nothing if these requests were refused for other reasons.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_right_key_every_operation_works() {
    let copies = tempfile::tempdir().unwrap();
    let url = format!("file://{}", copies.path().display());
    let world = World::with(&[("BULKHEAD_BACKUP_URL", &url), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")]).await;
    let operator = world.operator();
    let slugs = (0..OPERATIONS.len()).map(|n| &*format!("initech-{n}").leak());
    for (operation, slug) in OPERATIONS.iter().zip(slugs) {
        let own = Side::new(&world, slug).await;
        let application = world.application().await.id;
        if operation.path == "/v1/organizations/{org}/hosts/{host}" && operation.method == "PUT" {
            operator.delete(&own.fill(operation.path, &own)).await.expect(204);
        }
        let mut path = own.fill(operation.path, &own).replace("{application}", &application);
        if operation.path == "/v1/api_keys/{key}" {
            let made = operator.post("/v1/api_keys", &json!({"name": "spare", "scopes": ["*"]})).await;
            path = format!("/v1/api_keys/{}", made.expect(201).id());
        }
        if operation.path.ends_with("/erasure") && own_erasure(operation) || operation.path.starts_with("/v1/erasures/")
        {
            let asked = operator.put(&format!("/v1/organizations/{slug}/erasure"), &json!({})).await;
            path = path.replace("{organization}", asked.expect(202).json()["organization_id"].as_str().unwrap());
        }
        if is_of_moving(&operator, operation, slug).await {
            continue;
        }
        if operation.path.ends_with("/recovery") {
            // Its file is fine.
            operator.post(&path, &json!({})).await.expect_problem(409, "organization_readable");
            continue;
        }
        if operation.path.ends_with("/differences") {
            path += "?from=0000000000000001";
        }
        if let Some(walks) = ["/v1/fleet/checks", "/v1/fleet/migrations"]
            .iter()
            .find(|walks| operation.path.strip_prefix(**walks).is_some_and(|rest| !rest.is_empty()))
        {
            // That of the operation before may still be running.
            let mut made = operator.post(walks, &json!({})).await;
            while made.status == 409 {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                made = operator.post(walks, &json!({})).await;
            }
            path = format!("{walks}/{}", made.expect(202).id());
        }
        if operation.path.ends_with("/migration_rollback") {
            // Nothing was kept: `tests/it/fleet_migrate.rs` has one that was.
            operator.post(&path, &json!({})).await.expect_problem(409, "no_snapshot");
            continue;
        }
        if operation.path == "/v1/imports" {
            let archive = crate::export::archive_of(&world, slug, &crate::export::omit()).await;
            let mut call = operator.call("POST", &format!("/v1/imports?new_id=true&slug={slug}-copy"));
            call.body = archive;
            world.call(call.header("content-type", "application/octet-stream")).await.expect(201);
            continue;
        }
        let body = body_of(&own.fill(operation.body, &own));
        let key = world.api(&own.key);
        let api = if operation.callers == For::Both { &key } else { &operator };
        let answer = api.send(operation.method, &path, body.as_ref()).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
    }
}

/// Sets the scene for what freezes and moves. Whether that was all there is to see here: `tests/it/transfer.rs` and
/// `tests/it/placement.rs` take the steps that need a second deployment or a volume.
async fn is_of_moving(operator: &Api<'_>, operation: &Operation, slug: &str) -> bool {
    let path = operation.path.replace("{org}", slug).replace("{transfer}", "transfer_00000000000000000000000009");
    let body = body_of(operation.body);
    let below = operation.path.strip_prefix("/v1/organizations/{org}/").unwrap_or(operation.path);
    let refused = match (operation.method, below) {
        ("DELETE", "freeze") | ("GET", "freeze/verification" | "freeze/file") => {
            let freeze = format!("/v1/organizations/{slug}/freeze");
            operator.put(&freeze, &json!({"reason": "case 4711"})).await.expect(200);
            return false;
        }
        ("PUT", "placement") => (409, "already_there"),
        // `tests/it/encryption_change.rs` has a build that can.
        ("PUT", "encryption") | ("POST", "file_key_rotations") if !cfg!(feature = "sqlcipher") => {
            (409, "file_encryption_unavailable")
        }
        ("POST", "file_key_rotations") => (409, "file_not_encrypted"),
        ("GET" | "DELETE", "departure") | (_, "departure/archive" | "departure/completion" | "departure/return") => {
            let to = json!({"to": "https://id.example.com"});
            operator.put(&format!("/v1/organizations/{slug}/departure"), &to).await.expect(200);
            match (operation.method, below) {
                (_, "departure") => return false,
                ("PUT", "departure/archive") => (422, "validation_failed"),
                ("PUT", "departure/return") => (422, "transfer_waiver_invalid"),
                _ => (409, "transfer_state"),
            }
        }
        ("PUT", "/v1/arrivals/{transfer}") | ("POST", "/v1/arrivals/{transfer}/content") => (422, "validation_failed"),
        (_, "/v1/departures/{transfer}" | "/v1/arrivals/{transfer}" | "/v1/arrivals/{transfer}/activation") => {
            (404, "transfer_not_found")
        }
        _ => return false,
    };
    let answer = operator.send(operation.method, &path, body.as_ref()).await;
    assert_eq!(answer.status, refused.0, "{answer:?}");
    assert_eq!(answer.code(), refused.1, "{answer:?}");
    true
}

/// What is about an erasure that there must be.
fn own_erasure(operation: &Operation) -> bool {
    operation.method != "PUT" && !operation.path.contains("{member}")
}

/// Everything that an operator can see of an organization, and that a walk must not change.
async fn state_of(world: &World, side: &Side) -> Vec<String> {
    let mut state = Vec::new();
    for list in ["", "/members", "/sessions", "/signing_keys", "/audit_events/verification"] {
        let answer = world.operator().get(&format!("/v1/organizations/{}{list}", side.id)).await;
        state.push(answer.expect(200).text());
    }
    state
}
