//! Erasing an organization: what is gone, what stays, and who can call it off.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bulkhead::base::OrganizationId;
use bulkhead::base::time::length;
use bulkhead::catalog::{NewEntry, organizations};
use bulkhead::features::erasure::certificate;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::organizations::file_of;
use crate::process::patience;
use crate::world::{PASSWORD, World};

/// Waits until an organization is erased; the erasure.
pub async fn erased(world: &World, id: &str) -> Value {
    world.awaited(&format!("/v1/erasures/{id}"), |erasure| erasure["state"] == "erased").await
}

pub async fn erase_now(world: &World, name: &str) -> Value {
    let asked = world.operator().put(&format!("/v1/organizations/{name}/erasure"), &json!({"immediately": true})).await;
    let id = asked.expect(202).json()["organization_id"].as_str().unwrap().to_owned();
    erased(world, &id).await
}

/// What the certificate of an erasure says, checked with a library that we did not write.
pub async fn certified(world: &World, erasure: &Value) -> Value {
    let text = erasure["certificate"].as_str().unwrap();
    let jwks = world.stranger().get("/oauth2/jwks").await.expect(200).json();
    assert!(jwks["keys"].as_array().unwrap().contains(&erasure["certificate_key"]), "{erasure}");
    verified(text, &jwks).unwrap()
}

fn verified(text: &str, jwks: &Value) -> Result<Value, jsonwebtoken::errors::Error> {
    let head = jsonwebtoken::decode_header(text)?;
    let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(jwks.clone()).unwrap();
    let key = jwks.find(&head.kid.unwrap_or_default()).ok_or(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat)?;
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    Ok(jsonwebtoken::decode(text, &jsonwebtoken::DecodingKey::from_jwk(key)?, &validation)?.claims)
}

/// A file with what its WAL holds.
pub fn bytes_of(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let wal = path.with_file_name(format!("{}-wal", path.file_name().unwrap().to_str().unwrap()));
    bytes.extend(fs::read(wal).unwrap_or_default());
    bytes
}

pub fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

pub fn wrapped_key(data: &Path, id: &str) -> Option<Vec<u8>> {
    let keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
    keyring.query_row("SELECT wrapped FROM data_key WHERE name = ?", [id], |row| row.get(0)).ok()
}

/// Everything below a directory.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_from_before_can_be_read_afterwards() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    // So that the key is neither the first nor the last on its page.
    for slug in ["before", "beside", "behind"] {
        world.organization(slug).await;
    }
    world.signed_in("acme", "owner@acme.test").await;
    let directory = file_of(&world, &id).parent().unwrap().to_owned();
    let (kept, data) = (tempfile::tempdir().unwrap(), world.data_dir());
    let key = world
        .while_stopped(|data| {
            copy(&directory, kept.path());
            wrapped_key(data, &id).unwrap()
        })
        .await;
    assert!(holds(&bytes_of(&data.join("keyring.sqlite")), &key));
    world.browser("acme").get("/oauth2/jwks").await.expect(200);

    let erasure = erase_now(&world, "acme").await;
    assert!(!directory.exists());
    // While the server runs, and with the WAL.
    let keyring = bytes_of(&data.join("keyring.sqlite"));
    for part in [&key[..], &key[..16], &key[key.len() - 16..]] {
        assert!(!holds(&keyring, part), "the wrapped key is still in the keyring");
    }
    let says = certified(&world, &erasure).await;
    assert_eq!(says["organization_id"], id.as_str());
    let digest = hex::encode(bulkhead::crypto::hash::sha256(&key));
    assert_eq!(says["destroyed"]["data_key"]["sha256"], digest.as_str());

    // Somebody puts the file back from a copy, and the catalog's rows too.
    world
        .while_stopped(|data| {
            copy(kept.path(), &directory);
            let catalog = Connection::open(data.join("catalog.sqlite")).unwrap();
            let sql = "INSERT INTO organization (id, slug, state, schema_version, created_at, updated_at)
                       VALUES (?, 'acme', 'active', 1, 1, 1)";
            catalog.execute(sql, [&id]).unwrap();
        })
        .await;
    for path in ["/oauth2/jwks", "/sign-in"] {
        let answer = world.browser("acme").get(path).await;
        assert_eq!((answer.status, answer.mentions("acme.test")), (503, false), "{answer:?}");
    }
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert!(check["problems"].to_string().contains("data key is not in the keyring"), "{check}");
    world.signed_in("before", "owner@before.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_says_what_was_destroyed_and_bears_no_change() {
    let world = World::new().await;
    let owner = json!({"email": "owner@acme.test", "password": PASSWORD});
    let body = json!({"name": "Acme", "slug": "acme-old", "external_id": "crm-1", "owner": owner});
    let operator = world.operator();
    let id = operator.post("/v1/organizations", &body).await.expect(201).id();
    operator.patch(&format!("/v1/organizations/{id}"), &json!({"slug": "acme"})).await.expect(200);
    operator.put(&format!("/v1/organizations/{id}/hosts/login.acme.test"), &json!({})).await.expect(204);
    let preview = operator.get(&format!("/v1/organizations/{id}/erasure/preview")).await.expect(200).json();
    assert_eq!((&preview["members"], &preview["has_replica"]), (&json!(1), &json!(false)), "{preview}");
    assert!(preview["files"].as_array().unwrap().iter().any(|file| file["name"] == "db.sqlite"), "{preview}");
    operator.get(&format!("/v1/organizations/{id}/erasure")).await.expect_problem(404, "erasure_not_found");

    let erasure = erase_now(&world, "acme").await;
    let says = certified(&world, &erasure).await;
    let whom = &operator.get("/v1/api_keys").await.expect(200).json()["data"][0]["id"];
    assert_eq!((&says["format"], &says["version"]), (&json!("bulkhead.erasure-certificate"), &json!(1)));
    assert_eq!((&says["slug"], &says["requested_by"], &says["names_kept_back"]), (&json!("acme"), whom, &json!(3)));
    assert_eq!(says["erased_at"], erasure["erased_at"]);
    assert_eq!(says["destroyed"]["replica"], Value::Null);
    assert_eq!(
        says["destroyed"]["catalog_rows"],
        json!({"organization": 1, "host": 1, "founder": 0, "quarantine": 0, "retired_name": 1})
    );
    let file = says["destroyed"]["files"].as_array().unwrap().iter().find(|file| file["name"] == "db.sqlite").unwrap();
    assert!(file["bytes"].as_u64().unwrap() > 50_000 && file["sha256"].as_str().unwrap().len() == 64, "{file}");
    assert!(says["audit_head"]["sequence"].as_i64().unwrap() >= 4, "{says}");
    assert!(says["may_remain"].as_array().unwrap().len() >= 5, "{says}");

    let (text, jwks) = (erasure["certificate"].as_str().unwrap(), &erasure["certificate_key"]);
    assert_eq!(certificate::verify(text, jwks), Some(says));
    let set = json!({ "keys": [jwks] });
    for at in 0..text.len() - 1 {
        let mut changed = text.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(certificate::verify(&changed, jwks).is_none() && verified(&changed, &set).is_err(), "changed at {at}");
    }
    // A token of the same key is no certificate.
    assert!(certificate::verify(text, &json!({"keys": []})).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_id_nor_names_are_used_again() {
    let world = World::new().await;
    let operator = world.operator();
    let body = json!({"name": "Acme", "slug": "acme-old", "external_id": "crm-1"});
    let id = operator.post("/v1/organizations", &body).await.expect(201).id();
    operator.patch(&format!("/v1/organizations/{id}"), &json!({"slug": "acme"})).await.expect(200);
    erase_now(&world, "acme").await;
    for (body, code) in [
        (json!({"name": "Acme", "slug": "acme"}), "slug_taken"),
        (json!({"name": "Acme", "slug": "acme-old"}), "slug_taken"),
        (json!({"name": "Acme", "slug": "crm-1"}), "slug_taken"),
        (json!({"name": "Acme", "slug": "new", "external_id": "crm-1"}), "external_id_taken"),
    ] {
        operator.post("/v1/organizations", &body).await.expect_problem(409, code);
    }
    let other = world.organization("other").await;
    let renamed = operator.patch(&format!("/v1/organizations/{other}"), &json!({"slug": "acme"})).await;
    renamed.expect_problem(409, "slug_taken");
    // A slug that is made from the name goes around them.
    let made = operator.post("/v1/organizations", &json!({"name": "Acme"})).await.expect(201).json();
    assert_eq!(made["slug"], "acme-2");
    let again = NewEntry {
        id: id.parse::<OrganizationId>().unwrap(),
        slug: bulkhead::base::Slug::parse("brand-new").unwrap(),
        external_id: None,
        schema_version: 1,
        founder: None,
    };
    let refused = world.app().state().catalog.write(|db| organizations::claim(db, &again)).await.unwrap_err();
    assert_eq!(refused.code().name, "organization_erased");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_waits_nobody_gets_in_and_it_can_be_called_off() {
    let world = World::new().await;
    world.organization("acme").await;
    let (operator, at) = (world.operator(), "/v1/organizations/acme");
    let mut browser = world.signed_in("acme", "owner@acme.test").await;
    let key = world.organization_key("acme", &["*"]).await;
    operator.delete(&format!("{at}/erasure")).await.expect_problem(404, "erasure_not_found");

    let asked =
        operator.put(&format!("{at}/erasure"), &json!({"reason": "Ada Lovelace left us"})).await.expect(202).json();
    assert_eq!((&asked["state"], &asked["certificate"]), (&json!("scheduled"), &Value::Null), "{asked}");
    let days = |erasure: &Value| {
        let at = |name: &str| chrono::DateTime::parse_from_rfc3339(erasure[name].as_str().unwrap()).unwrap();
        (at("due_at") - at("requested_at")).num_days()
    };
    assert_eq!(days(&asked), 7);
    browser.get("/account").await.expect(403);
    world.browser("acme").get("/sign-in").await.expect(403);
    world.api(&key).get(&format!("{at}/members")).await.expect_problem(403, "organization_suspended");
    operator.get(&format!("{at}/members")).await.expect(200);
    operator.delete(&format!("{at}/suspension")).await.expect_problem(409, "erasure_scheduled");

    // The same again is the same, another day is another day; both count from the first request.
    world.clock.advance(length::hours(5));
    let events = world.events("acme").await.len();
    let again = operator.put(&format!("{at}/erasure"), &json!({"reason": "again"})).await.expect(202).json();
    assert_eq!((&again["due_at"], world.events("acme").await.len()), (&asked["due_at"], events));
    let later = operator.put(&format!("{at}/erasure"), &json!({"after_days": 30})).await.expect(202).json();
    assert_eq!((days(&later), &later["requested_at"]), (30, &asked["requested_at"]));
    assert_eq!(operator.get(&format!("{at}/erasure")).await.expect(200).json(), later);

    let cancelled = operator.delete(&format!("{at}/erasure")).await.expect(200).json();
    assert_eq!(cancelled["state"], "cancelled");
    assert_eq!(world.stranger().at("acme.localhost:8080").get("/v1/session").await.status, 401);
    let mut back = world.signed_in("acme", "owner@acme.test").await;
    world.api(&key).get(&format!("{at}/members")).await.expect(200);
    // What is over is over: nobody is signed out by it a second time.
    operator.delete(&format!("{at}/erasure")).await.expect_problem(409, "erasure_not_scheduled");
    back.get("/account").await.expect(200);
    world.clock.advance(length::days(100));
    let log = operator.get("/v1/audit_events?limit=100").await.expect(200).text();
    for action in ["organization.erasure_scheduled", "organization.erasure_cancelled"] {
        assert!(log.contains(action), "{action}");
    }
    assert!(!log.contains("Lovelace"), "the reason is in the operators' log");

    // One that was suspended before is left as it was.
    operator.put(&format!("{at}/suspension"), &json!({"reason": "unpaid"})).await.expect(204);
    operator.put(&format!("{at}/erasure"), &json!({"after_days": 1})).await.expect(202);
    operator.put(&format!("{at}/erasure"), &json!({"after_days": 2})).await.expect(202);
    operator.delete(&format!("{at}/erasure")).await.expect(200);
    assert_eq!(operator.get(at).await.expect(200).json()["state"], "suspended");
    operator.delete(&format!("{at}/suspension")).await.expect(204);
    for body in [
        json!({"after_days": 91}),
        json!({"after_days": -1}),
        json!({"after_days": 3, "immediately": true}),
        json!({"reason": "x".repeat(501)}),
        json!({"days": 3}),
    ] {
        operator.put(&format!("{at}/erasure"), &body).await.expect_problem(422, "validation_failed");
    }
    assert_eq!(operator.get(at).await.expect(200).json()["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_happens_by_itself_when_it_is_due() {
    let mut world = World::new().await;
    let mut ids = Vec::new();
    for slug in ["one", "two", "three"] {
        ids.push(world.organization(slug).await);
        let body = json!({"after_days": if slug == "three" { 60 } else { 3 }});
        world.operator().put(&format!("/v1/organizations/{slug}/erasure"), &body).await.expect(202);
    }
    world.clock.advance(length::days(4));
    // Whoever is told of another one looks at the time; so does whoever starts.
    world.operator().put("/v1/organizations/three/erasure", &json!({"after_days": 61})).await.expect(202);
    erased(&world, &ids[0]).await;
    world.while_stopped(|_| ()).await;
    erased(&world, &ids[1]).await;
    let list = world.operator().get("/v1/erasures?limit=2").await.expect(200).json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "{list}");
    assert!(list["list_metadata"]["after"].is_string(), "{list}");
    let third = world.operator().get("/v1/organizations/three/erasure").await.expect(200).json();
    assert_eq!(third["state"], "scheduled", "{third}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_whoever_is_at_work_and_needs_no_file_in_order() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let state = world.app().state();
    let route = state.directory.by_name("acme").await.unwrap();
    let at_work = state.tenants.open(&route).await.unwrap();
    world.operator().put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
    world.awaited(&format!("/v1/erasures/{id}"), |erasure| erasure["state"] == "erasing").await;
    world.operator().get("/v1/organizations/acme").await.expect(404);
    let deadline = patience();
    while state.tenants.open(&route).await.is_ok() {
        assert!(Instant::now() < deadline, "somebody new was given the file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What is under way ends well.
    at_work.quick_check().await.unwrap();
    drop(at_work);
    erased(&world, &id).await;

    // A file that is torn is erased as well.
    let torn = world.organization("torn").await;
    let file = file_of(&world, &torn);
    world
        .while_stopped(|_| {
            let bytes = fs::read(&file).unwrap();
            fs::write(&file, &bytes[..bytes.len() / 3]).unwrap();
        })
        .await;
    world.operator().get("/v1/organizations/torn/members").await.expect(503);
    world.operator().get("/v1/organizations/torn/erasure/preview").await.expect(200);
    world.operator().put("/v1/organizations/torn/erasure", &json!({})).await.expect(202);
    world.operator().delete("/v1/organizations/torn/erasure").await.expect(200);
    let erasure = erase_now(&world, "torn").await;
    assert!(!file.exists());
    let says = certified(&world, &erasure).await;
    assert_eq!(
        says["destroyed"]["files"].as_array().unwrap().iter().filter(|file| file["name"] == "db.sqlite").count(),
        1
    );
}
