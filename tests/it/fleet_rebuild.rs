//! `catalog rebuild`: the catalog made again from the organizations' files.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::process::{Deployment, HOST, Operator, Person, host_of, owner_of, scribble_over};
use crate::wire::Request;

/// A deployment with everything that a catalog knows.
struct Scene {
    deployment: Deployment,
    key: String,
    /// `acme` with a host, an external id and a former slug; `globex`, suspended; `initech`.
    ids: [String; 3],
}

impl Scene {
    fn new() -> Self {
        let deployment = Deployment::new();
        let (server, mut operator, key) = deployment.started();
        let ids = ["acme-before", "globex", "initech"].map(|slug| operator.organization(slug));
        let mut send = |method: &'static str, path: &str, body: Value, status: u16| {
            let sent = operator.client.send(&Request::new(method, HOST, path).bearer(&key).json(&body)).unwrap();
            assert_eq!(sent.status, status, "{path}: {}", sent.text());
        };
        let acme = format!("/v1/organizations/{}", ids[0]);
        send("PATCH", &acme, json!({"slug": "acme", "external_id": "crm-7"}), 200);
        send("PUT", &format!("{acme}/hosts/login.acme.test"), json!({}), 204);
        send("PUT", "/v1/organizations/globex/suspension", json!({"reason": "unpaid"}), 204);
        send("PUT", "/v1/organizations/initech/quarantine", json!({"reason": "looks odd"}), 200);
        let app = json!({"name": "Timesheets", "type": "public", "redirect_uris": ["https://app.example.com/cb"]});
        send("POST", "/v1/applications", app, 201);
        server.stop();
        Self { deployment, key, ids }
    }

    fn catalog(&self) -> PathBuf {
        self.deployment.data_dir().join("catalog.sqlite")
    }

    fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.catalog(), sql)
    }
}

fn rows(path: &Path, sql: &str) -> Vec<String> {
    let catalog = Connection::open(path).unwrap();
    let mut statement = catalog.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

const ROUTING: &str = "SELECT id || slug || coalesce(external_id, '') || state || schema_version || created_at || \
                       updated_at FROM organization UNION ALL SELECT host || organization_id FROM host UNION ALL \
                       SELECT name || organization_id FROM retired_name ORDER BY 1";
const REST: &str = "SELECT id || name FROM application UNION ALL SELECT id || suffix FROM api_key UNION ALL \
                    SELECT organization_id || reason FROM quarantine UNION ALL SELECT id FROM signing_key ORDER BY 1";

#[test]
fn a_rebuilt_catalog_says_what_the_old_one_did() {
    let scene = Scene::new();
    // The times of the catalog's rows are its own: those of the files are taken over.
    let times = "UPDATE organization SET updated_at = 0, created_at = 0";
    let (routing, rest) = {
        let copy = scene.deployment.directory.path().join("copy.sqlite");
        fs::copy(scene.catalog(), &copy).unwrap();
        Connection::open(&copy).unwrap().execute_batch(times).unwrap();
        (rows(&copy, ROUTING), scene.rows(REST))
    };
    let before = fs::read(scene.catalog()).unwrap();

    let planned = scene.deployment.json(&["catalog", "rebuild", "--dry-run"]);
    assert_eq!((planned["organizations"].as_i64(), planned["dry_run"].as_bool()), (Some(3), Some(true)), "{planned}");
    assert_eq!((&planned["conflicts"], &planned["left_out"]), (&json!([]), &json!([])), "{planned}");
    assert_eq!(fs::read(scene.catalog()).unwrap(), before, "a dry run has changed the catalog");
    assert!(!scene.deployment.data_dir().join("catalog.rebuilt").exists());

    let made = scene.deployment.json(&["catalog", "rebuild"]);
    assert_eq!(made["organizations"], 3, "{made}");
    let kept = PathBuf::from(made["kept"].as_str().unwrap());
    assert_eq!(fs::read(scene.deployment.directory.path().join(kept)).unwrap(), before, "the old one was not kept");
    assert_eq!(scene.rows(REST), rest);
    let copy = scene.deployment.directory.path().join("rebuilt.sqlite");
    fs::copy(scene.catalog(), &copy).unwrap();
    Connection::open(&copy).unwrap().execute_batch(times).unwrap();
    assert_eq!(rows(&copy, ROUTING), routing);
    works(&scene);
}

/// Everybody is found as before, by every name.
fn works(scene: &Scene) {
    let server = scene.deployment.serve();
    let mut operator = Operator::new(&server, &scene.key);
    for name in ["acme", "crm-7", &scene.ids[0]] {
        let found = operator.get(&format!("/v1/organizations/{name}")).unwrap();
        assert_eq!((found.status, found.json()["slug"].as_str()), (200, Some("acme")), "{name}: {}", found.text());
    }
    Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme-before")).unwrap();
    let page = server.client().send(&Request::get("login.acme.test", "/sign-in")).unwrap();
    assert_eq!(page.status, 200, "{}", page.text());
    // A name that was given up is nobody else's, also now.
    let taken = operator.post("/v1/organizations", &json!({"name": "New", "slug": "acme-before"})).unwrap();
    assert_eq!((taken.status, taken.code().as_str()), (409, "slug_taken"), "{}", taken.text());
    let suspended = server.client().send(&Request::get(&host_of("globex"), "/sign-in")).unwrap();
    assert_eq!(suspended.status, 403, "{}", suspended.text());
    let log = operator.get("/v1/audit_events/verification").unwrap().json();
    assert_eq!(log["intact"], true, "{log}");
    server.stop();
}

#[test]
fn without_any_catalog_all_organizations_come_back() {
    let scene = Scene::new();
    fs::remove_file(scene.catalog()).unwrap();
    let made = scene.deployment.json(&["catalog", "rebuild"]);
    assert_eq!((made["organizations"].as_i64(), made["kept"].as_str()), (Some(3), None), "{made}");
    assert!(made["old_unreadable"].is_string(), "{made}");
    // The operators' keys went with the catalog.
    let key = scene.deployment.operator_key();
    works(&Scene { key, ..scene });
}

#[test]
fn what_can_be_read_of_a_torn_catalog_is_kept() {
    let scene = Scene::new();
    let keys = scene.rows("SELECT id FROM api_key");
    // The pages of one table, overwritten.
    scribble_over(&scene.catalog(), "organization");
    let made = scene.deployment.json(&["catalog", "rebuild"]);
    assert_eq!(made["organizations"], 3, "{made}");
    assert!(made["old_unreadable"].as_str().is_some_and(|why| why.contains("organizations")), "{made}");
    assert_eq!(scene.rows("SELECT id FROM api_key"), keys);
    works(&scene);
}

#[test]
fn conflicts_are_named_and_nobody_is_lost() {
    let scene = Scene::new();
    let file = |at: usize| scene.deployment.file(&scene.ids[at]);
    // Two files want the same names; the catalog is gone, so the older organization has them.
    Connection::open(file(2))
        .unwrap()
        .execute_batch(
            "UPDATE organization SET slug = 'globex', hosts = '[\"login.acme.test\"]', external_id = 'crm-7'",
        )
        .unwrap();
    let stray = scene.deployment.data_dir().join("orgs/00/00/0192aaaa-0000-7000-8000-00000000ffff");
    fs::create_dir_all(&stray).unwrap();
    fs::copy(file(1), stray.join("db.sqlite")).unwrap();
    // A file that cannot be read has the row of the old catalog.
    let bytes = fs::read(file(0)).unwrap();
    fs::write(file(0), &bytes[..5000]).unwrap();
    let ran = scene.deployment.run(&["--json", "catalog", "rebuild"]);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let made: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((made["organizations"].as_i64(), made["from_the_old_catalog"].as_i64()), (Some(3), Some(1)), "{made:#}");
    let conflicts = made["conflicts"].to_string();
    for name in ["entered as globex-2", "external id crm-7", "host login.acme.test", &scene.ids[2]] {
        assert!(conflicts.contains(name), "{name}: {made:#}");
    }
    assert_eq!(made["left_out"].as_array().unwrap().len(), 2, "{made:#}");
    let slugs = scene.rows("SELECT slug FROM organization ORDER BY slug");
    assert_eq!(slugs, ["acme", "globex", "globex-2"]);

    // The file comes back, and so does the organization.
    fs::write(file(0), bytes).unwrap();
    let server = scene.deployment.serve();
    let mut operator = Operator::new(&server, &scene.key);
    assert_eq!(operator.get("/v1/organizations/acme").unwrap().status, 200);
    let busy = scene.deployment.run(&["catalog", "rebuild"]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(String::from_utf8(busy.stderr).unwrap().contains("data_directory_in_use"), "a server owns the directory");
}
