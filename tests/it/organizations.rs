//! Organizations as operators make and run them.

use serde_json::json;

use crate::world::{Call, HOST, PASSWORD, World, host_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_twenty_who_want_a_slug_at_once_one_gets_it() {
    let mut world = World::new().await;
    let body = json!({"name": "Acme", "slug": "acme"});
    let operator = world.operator();
    let running: Vec<_> = (0..20)
        .map(|_| tokio::spawn(world.call_later(operator.call("POST", "/v1/organizations").json(&body))))
        .collect();
    let mut statuses = Vec::new();
    for answer in running {
        let answer = answer.await.unwrap();
        if answer.status == 409 {
            answer.clone().expect_problem(409, "slug_taken");
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 19, "{statuses:?}");
    let listed = operator.get("/v1/organizations").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    let check = operator.get("/v1/catalog/check").await.expect(200).json();
    assert_eq!((check["ok"].as_bool(), check["organizations"].as_u64()), (Some(true), Some(1)), "{check}");
    // No row is left half done, and no file and no key without an organization.
    let left = world.while_stopped(|data| {
        let catalog = rusqlite::Connection::open(data.join("catalog.sqlite")).unwrap();
        let rows: i64 = catalog.query_row("SELECT count(*) FROM organization", [], |row| row.get(0)).unwrap();
        let building = std::fs::read_dir(data.join("orgs/.building")).unwrap().count();
        (rows, building, files_named(&data.join("orgs"), "db.sqlite"))
    });
    assert_eq!(left.await, (1, 0, 1));
}

fn files_named(directory: &std::path::Path, name: &str) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_named(&path, name) } else { usize::from(path.ends_with(name)) }).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_is_found_by_every_name_it_has() {
    let world = World::new().await;
    let operator = world.operator();
    let body = json!({"name": "Acme", "slug": "acme", "external_id": "crm-4711", "metadata": {"plan": "gold"}});
    let id = operator.post("/v1/organizations", &body).await.expect(201).id();
    for name in [id.as_str(), "acme", "crm-4711", "crm%2D4711"] {
        assert_eq!(operator.get(&format!("/v1/organizations/{name}")).await.expect(200).id(), id);
        world.call(Call::new("GET", HOST, &format!("/o/{name}/sign-in").replace("%2D", "-"))).await.expect(200);
    }
    operator.put("/v1/organizations/acme/hosts/login.acme.test", &json!({})).await.expect(204);
    for host in ["login.acme.test", "LOGIN.Acme.Test:443", "login.acme.test.", &host_of("acme"), &host_of("ACME")] {
        world.call(Call::new("GET", host, "/sign-in")).await.expect(200);
    }
    operator.delete("/v1/organizations/acme/hosts/login.acme.test").await.expect(204);
    world.call(Call::new("GET", "login.acme.test", "/sign-in")).await.expect(404);
    // A name is one organization's: a slug is no other's external id.
    for body in [
        json!({"name": "B", "slug": "crm-4711"}),
        json!({"name": "B", "slug": "globex", "external_id": "acme"}),
        json!({"name": "B", "slug": "globex", "external_id": "crm-4711"}),
        json!({"name": "B", "slug": "acme"}),
    ] {
        assert_eq!(operator.post("/v1/organizations", &body).await.status, 409, "{body}");
    }
    world.organization("globex").await;
    for host in [HOST, "acme.localhost", "localhost"] {
        let host = host.split(':').next().unwrap();
        assert!(
            [409, 422]
                .contains(&operator.put(&format!("/v1/organizations/globex/hosts/{host}"), &json!({})).await.status)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_slug_is_a_new_address_and_the_old_one_is_nobodys() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", "ada@acme.test").await;
    world.call(Call::new("GET", &host_of("apex"), "/sign-in")).await.expect(404);
    let renamed = world.operator().patch("/v1/organizations/acme", &json!({"slug": "apex"})).await.expect(200);
    assert_eq!(renamed.json()["issuer"], format!("http://{}", host_of("apex")));
    world.call(Call::new("GET", &host_of("acme"), "/sign-in")).await.expect(404);
    world.signed_in("apex", "ada@acme.test").await;
    // Whoever got the old one would be trusted by those who know it.
    for body in [json!({"name": "B", "slug": "acme"}), json!({"name": "B", "slug": "bb", "external_id": "acme"})] {
        assert_eq!(world.operator().post("/v1/organizations", &body).await.status, 409, "{body}");
    }
    assert_ne!(
        world.operator().post("/v1/organizations", &json!({"name": "Acme"})).await.expect(201).json()["slug"],
        "acme"
    );
    world.operator().patch("/v1/organizations/apex", &json!({"slug": "acme"})).await.expect(200);
    world.signed_in("acme", "ada@acme.test").await;
    world.operator().patch("/v1/organizations/acme", &json!({"slug": "apex"})).await.expect(200);
    // An organization's own key renames nothing.
    let key = world.organization_key("apex", &["*"]).await;
    world.api(&key).patch("/v1/organizations/apex", &json!({"slug": "other"})).await.expect_problem(403, "forbidden");
    world.api(&key).patch("/v1/organizations/apex", &json!({"name": "Apex"})).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organization_lets_nobody_in_but_operators() {
    let world = World::new().await;
    world.organization("acme").await;
    world.organization("globex").await;
    world.member("acme", "ada@acme.test").await;
    let (app, key) = (world.application().await, world.organization_key("acme", &["*"]).await);
    let mut browser = world.signed_in("acme", "ada@acme.test").await;
    let tokens = app.tokens(&world, &mut browser).await;
    let sealed = app.sealed(&mut browser).await;
    let operator = world.operator();
    let path = "/v1/organizations/acme/suspension";
    for _ in 0..2 {
        operator.put(path, &json!({"reason": "unpaid"})).await.expect(204);
    }
    assert_eq!(operator.get("/v1/organizations/acme").await.expect(200).json()["state"], "suspended");
    for page in
        ["/", "/sign-in", "/account", "/recovery", &app.authorize(&[]), &format!("/oauth2/continue?request={sealed}")]
    {
        let answer = browser.get(page).await.expect(403);
        assert!(answer.mentions("organization_suspended"), "{answer:?}");
        world.call(Call::new("GET", HOST, &format!("/o/acme{page}"))).await.expect(403);
    }
    browser.post("/sign-in", &[("email", "ada@acme.test"), ("password", PASSWORD)]).await.expect(403);
    browser.get("/v1/session").await.expect(403);
    world.userinfo(&host_of("acme"), &tokens.access).await.expect(403);
    assert!([400, 403].contains(&world.refresh(&host_of("acme"), &app, &tokens.refresh).await.status));
    world.api(&key).get("/v1/organizations/acme/members").await.expect_problem(403, "organization_suspended");
    world.visitor().get(&app.authorize(&[("organization", "acme")])).await.expect(404);
    world.browser("globex").get("/sign-in").await.expect(200);

    for _ in 0..2 {
        operator.delete(path).await.expect(204);
    }
    browser.get("/account").await.expect_redirect("/sign-in");
    world.userinfo(&host_of("acme"), &tokens.access).await.expect(401);
    world.refresh(&host_of("acme"), &app, &tokens.refresh).await.expect(400);
    world.signed_in("acme", "ada@acme.test").await;
    world.api(&key).get("/v1/organizations/acme/members").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_missing_or_damaged_file_makes_that_one_organization_unavailable() {
    let mut world = World::new().await;
    let mut paths = Vec::new();
    for slug in ["copied", "missing", "damaged", "healthy"] {
        let id = world.organization(slug).await;
        paths.push(file_of(&world, &id));
    }
    world
        .while_stopped(|_| {
            std::fs::copy(&paths[3], &paths[0]).unwrap();
            std::fs::remove_file(&paths[1]).unwrap();
            let mut bytes = std::fs::read(&paths[2]).unwrap();
            bytes[..100].fill(0x55);
            std::fs::write(&paths[2], bytes).unwrap();
        })
        .await;
    for slug in ["copied", "missing", "damaged"] {
        let answer = world.operator().get(&format!("/v1/organizations/{slug}/members")).await;
        let answer = answer.expect_problem(503, "organization_unavailable");
        assert!(!answer.mentions("healthy"), "{answer:?}");
        world.browser(slug).get("/sign-in").await.expect(503);
    }
    assert!(!paths[1].exists());
    world.browser("healthy").get("/sign-in").await.expect(200);
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert_eq!((check["ok"].as_bool(), check["problems"].as_array().unwrap().len()), (Some(false), 3), "{check}");
}

/// As if the catalog were from before an organization.
pub fn forget_in_catalog(data: &std::path::Path, id: &str) {
    let catalog = rusqlite::Connection::open(data.join("catalog.sqlite")).unwrap();
    let forget = format!("PRAGMA foreign_keys = ON; DELETE FROM organization WHERE id = '{id}'");
    catalog.execute_batch(&forget).unwrap();
}

/// Where the file of an organization is, as an operator finds it in a listing of the directory.
pub fn file_of(world: &World, id: &str) -> std::path::PathBuf {
    let bits = id.parse::<bulkhead::base::OrganizationId>().unwrap().bits();
    let hex = format!("{bits:032x}");
    let uuid = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    world.data_dir().join("orgs").join(&hex[30..]).join(&hex[28..30]).join(uuid).join("db.sqlite")
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_an_organization_cannot_have_are_told_all_at_once() {
    let world = World::new().await;
    let body = json!({
        "name": " ", "slug": "acme", "accent": "red", "metadata": {"": "x"},
        "policy": {"session_idle_seconds": 1, "lockout_attempts": 1000},
    });
    let refused = world.operator().post("/v1/organizations", &body).await.expect_problem(422, "validation_failed");
    let fields: Vec<_> = refused.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["field"].as_str().unwrap().to_owned())
        .collect();
    for field in ["name", "accent", "metadata", "policy.session_idle_seconds", "policy.lockout_attempts"] {
        assert!(fields.iter().any(|known| known == field), "{field} {fields:?}");
    }
    world.operator().get("/v1/organizations/acme").await.expect(404);
    let weak = json!({"name": "Acme", "slug": "acme", "owner": {"email": "a@acme.test", "password": "password"}});
    world.operator().post("/v1/organizations", &weak).await.expect_problem(422, "password_too_weak");
    // Nothing of it has reserved the name.
    world.organization("acme").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_is_the_last_to_suspend_or_resume_is_so_in_both_places() {
    let mut world = World::new().await;
    world.organization("acme").await;
    let path = "/v1/organizations/acme/suspension";
    for round in 0..40 {
        let operator = world.operator();
        let running: Vec<_> = ["PUT", "DELETE", "PUT", "DELETE"]
            .map(|method| tokio::spawn(world.call_later(operator.call(method, path).json(&json!({})))))
            .into();
        for answer in running {
            answer.await.unwrap().expect(204);
        }
        let check = operator.get("/v1/catalog/check").await.expect(200).json();
        assert_eq!(check["ok"], true, "round {round}: {check}");
    }
    // What an earlier program has left so is set right by the same request.
    world.operator().put(path, &json!({})).await.expect(204);
    world
        .while_stopped(|data| {
            let catalog = rusqlite::Connection::open(data.join("catalog.sqlite")).unwrap();
            catalog.execute_batch("UPDATE organization SET state = 'active'").unwrap();
        })
        .await;
    assert_eq!(world.operator().get("/v1/catalog/check").await.json()["ok"], false);
    world.operator().delete(path).await.expect(204);
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert_eq!(check["ok"], true, "{check}");
    world.signed_in("acme", "owner@acme.test").await;
}
