//! What lies on the disk, seen by somebody with the files and without the keys.

use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::json;

use crate::process::{Deployment, HOST, Operator, PASSWORD, Person, host_of, mailed_code, owner_of};
use crate::wire::Request;

/// The DER of `prime256v1` (RFC 5480 section 2.1.1.1): in every unsealed private key of that curve.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

#[test]
fn a_sealed_key_opens_in_its_own_place_only() {
    let deployment = Deployment::new();
    let (server, mut operator, _) = deployment.started();
    let [one, two, moved, well] = ["one", "two", "moved", "well"].map(|slug| operator.organization(slug));
    // Two keys in one file: `moved` gets the private half of its second key in its first row.
    let path = format!("/v1/organizations/{moved}/signing_keys/rotation");
    let rotated = operator.post(&path, &json!({ "algorithm": "ES256", "immediately": false })).unwrap();
    assert!(rotated.status < 300, "{}", rotated.text());
    server.stop();

    let open = |id: &str| Connection::open(deployment.file(id)).unwrap();
    // The whole row of another organization: only whose file it is differs.
    let row: (String, String, Vec<u8>) = open(&two)
        .query_row("SELECT id, public_jwk, private_key FROM signing_key", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    let changed = open(&one)
        .execute("UPDATE signing_key SET id = ?, public_jwk = ?, private_key = ?", params![row.0, row.1, row.2])
        .unwrap();
    assert_eq!(changed, 1);
    let second = "(SELECT private_key FROM signing_key ORDER BY id DESC LIMIT 1)";
    let first = "(SELECT id FROM signing_key ORDER BY id LIMIT 1)";
    let sql = format!("UPDATE signing_key SET private_key = {second} WHERE id = {first}");
    assert_eq!(open(&moved).execute(&sql, []).unwrap(), 1);

    let server = deployment.serve();
    for (slug, id) in [("one", &one), ("moved", &moved)] {
        let answer = server.client().send(&Request::get(&host_of(slug), "/oauth2/jwks")).unwrap();
        assert!(answer.status >= 500, "{slug} signs with a key that is not its own: {}", answer.text());
        let problems = Operator::problems(&deployment);
        let problem = problems.iter().find(|(organization, _)| organization.as_deref() == Some(id));
        let problem = &problem.unwrap_or_else(|| panic!("nothing is said of {slug}: {problems:?}")).1;
        assert!(problem.contains("signing_key.private_key"), "{problem}");
    }
    for slug in ["two", "well"] {
        let answer = server.client().send(&Request::get(&host_of(slug), "/oauth2/jwks")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(!Operator::problems(&deployment).iter().any(|(id, _)| id.as_deref() == Some(&well)));
}

#[test]
fn the_files_hold_no_secret_in_the_clear_and_the_catalog_no_person() {
    let deployment = Deployment::new();
    let (server, mut operator, key) = deployment.started();
    let id = operator.organization("acme");
    let session = Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
    let path = format!("/v1/organizations/{id}/api_keys");
    // With an idempotency key, so that the answer with the secret is kept.
    let body = json!({ "name": "sync", "scopes": ["members:read"] });
    let request = Request::new("POST", HOST, path).bearer(&key).json(&body).header("idempotency-key", "once");
    let made = server.client().send(&request).unwrap().json();
    let own_key = made["secret"].as_str().unwrap().to_owned();
    let request = Request::new("POST", HOST, "/v1/applications").bearer(&key).header("idempotency-key", "twice");
    let body = json!({ "name": "App", "type": "confidential", "redirect_uris": ["https://app.example.test/callback"] });
    let made = server.client().send(&request.json(&body)).unwrap().json();
    let client_secret = made["client_secret"].as_str().unwrap().to_owned();
    // A sign-up on its way, a recovery on its way.
    Person::at(&server, HOST).submit("/sign-up", &[("email", "grace@north-wind.test")]).unwrap();
    let asked = Person::at(&server, &host_of("acme")).submit("/recovery", &[("email", &owner_of("acme"))]).unwrap();
    assert_eq!(asked.status, 303, "{}", asked.text());
    assert!(mailed_code(&deployment.data_dir(), "grace@north-wind.test").is_some());
    server.stop();

    let master = fs::read_to_string(deployment.data_dir().join("master.key")).unwrap();
    let master_bytes = hex::decode(master.trim()).unwrap();
    let token = session.split_once('=').unwrap().1;
    let own = database(&deployment.file(&id));
    let catalog = database(&deployment.data_dir().join("catalog.sqlite"));
    let keyring = database(&deployment.data_dir().join("keyring.sqlite"));
    for (name, bytes) in [("organization", &own), ("catalog", &catalog), ("keyring", &keyring)] {
        let secrets =
            [PASSWORD, token, &key, &own_key, &client_secret, master.trim()].map(|secret| secret.as_bytes().to_vec());
        for secret in secrets.iter().chain([&master_bytes, &P256.to_vec()]) {
            assert!(!holds(bytes, secret), "{} is in the {name}", String::from_utf8_lossy(secret));
        }
        // The secret part alone, as it might stand without its prefix.
        for credential in [token, &key, &own_key] {
            let tail = &credential.as_bytes()[credential.len() - 24..];
            assert!(!holds(bytes, tail), "the end of a credential is in the {name}");
        }
    }
    for person in [owner_of("acme").as_str(), "grace", "north-wind", "Company acme"] {
        for (name, bytes) in [("catalog", &catalog), ("keyring", &keyring)] {
            assert!(!holds(bytes, person.as_bytes()), "{person:?} is in the {name}");
        }
    }
    // What was looked for can be found where it belongs.
    assert!(holds(&own, owner_of("acme").as_bytes()) && holds(&own, b"$argon2id$") && holds(&catalog, b"acme"));
}

/// A file of the database with what its WAL holds, pages freed and all.
fn database(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).unwrap();
    let wal = path.with_file_name(format!("{}-wal", path.file_name().unwrap().to_str().unwrap()));
    bytes.extend(fs::read(wal).unwrap_or_default());
    bytes
}

fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
