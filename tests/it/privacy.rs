//! After everything that a deployment is used for: the catalog knows nobody, and no file holds a secret.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::world::{PASSWORD, Tokens, World, host_of};

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_knows_nobody_and_no_file_holds_a_secret() {
    let mut world = World::new().await;
    let (personal, secrets) = live(&world).await;
    let files = world.while_stopped(|data| {
        let mut files = Vec::new();
        collect(data, &mut files);
        files.into_iter().map(|path| (std::fs::read(&path).unwrap().to_ascii_lowercase(), path)).collect::<Vec<_>>()
    });
    let files = files.await;
    let is_of = |path: &Path, name: &str| path.file_name().unwrap().to_str().unwrap().starts_with(name);
    for (bytes, path) in &files {
        if is_of(path, "catalog.sqlite") || is_of(path, "keyring.sqlite") {
            for text in &personal {
                assert!(!holds(bytes, text), "{text:?} is in {}", path.display());
            }
        }
        for secret in &secrets {
            assert!(!holds(bytes, secret), "the secret {secret:?} is in {}", path.display());
        }
    }
    // The search would find something: what is personal is in the organization's own file.
    assert!(files.iter().any(|(_, path)| is_of(path, "catalog.sqlite")));
    for text in ["ada@acme.test", "Duchess", "Peculiar-Agent"] {
        assert!(files.iter().any(|(bytes, path)| is_of(path, "db.sqlite") && holds(bytes, text)), "{text}");
    }
}

/// Uses the deployment in every way; returns what is personal, and what is secret.
async fn live(world: &World) -> (Vec<&'static str>, Vec<String>) {
    let operator = world.operator();
    let keyed = |key: &str| operator.clone().with_header("idempotency-key", key);
    let owner = json!({"email": "owner@acme.test", "name": "Olive Tamarind", "password": PASSWORD});
    let body = json!({"name": "Acme Verbena", "slug": "acme", "owner": owner});
    keyed("1").post("/v1/organizations", &body).await.expect(201);
    let body = json!({
        "email": "ada@acme.test", "name": "Ada Quincemeal", "username": "adaquince", "phone": "+44 5550 1234",
        "title": "Countess of Code", "password": PASSWORD,
    });
    let member = keyed("2").post("/v1/organizations/acme/members", &body).await.expect(201).id();
    operator.patch(&format!("/v1/organizations/acme/members/{member}"), &json!({"title": "Duchess"})).await.expect(200);
    operator.patch("/v1/organizations/acme", &json!({"name": "Acme Rosemary", "slug": "acme"})).await.expect(200);
    let body = json!({"name": "App", "type": "confidential", "redirect_uris": ["https://app.example.com/cb"]});
    let registered = keyed("3").post("/v1/applications", &body).await.expect(201).json();
    let key = world.organization_key("acme", &["*"]).await;
    world.api(&key).get("/v1/organizations/acme/members").await.expect(200);

    let app = world.application().await;
    let mut browser = world.browser("acme");
    "Peculiar-Agent/7".clone_into(&mut browser.user_agent);
    browser.sign_in("ada@acme.test", "wrong-guess-of-ada-9").await.expect(401);
    browser.sign_in("ada@acme.test", PASSWORD).await.expect(303);
    let code = app.code(&mut browser).await;
    let tokens = Tokens::of(&world.redeem(&host_of("acme"), &app, &code).await.expect(200));
    let mut lost = world.browser("acme");
    let page = lost.get("/recovery").await;
    lost.submit_form(&page, &[("email", "ada@acme.test")]).await.expect(303);
    world.mailbox_code("ada@acme.test").await;
    let mut founder = world.visitor();
    let relay = crate::sign_up::found(world, &mut founder, "zoe@initech.test", "initech").await;
    let page = founder.follow(&relay).await.expect(200);
    founder.submit_form(&page, &[]).await.expect(303);
    let (session, founder_session) = (browser.session().unwrap(), founder.session().unwrap());
    let reason = json!({"reason": "Ada Quincemeal did not pay"});
    operator.put("/v1/organizations/acme/suspension", &reason).await.expect(204);
    operator.delete("/v1/organizations/acme/suspension").await.expect(204);

    let personal = vec![
        "owner@acme.test",
        "Olive Tamarind",
        "Verbena",
        "Rosemary",
        "ada@acme.test",
        "Ada Quincemeal",
        "adaquince",
        "+44 5550 1234",
        "Countess",
        "Duchess",
        "zoe@initech.test",
        "Zoe Quill",
        "Peculiar-Agent",
        "203.0.113.7",
    ];
    let secrets = vec![
        PASSWORD.to_owned(),
        "wrong-guess-of-ada-9".to_owned(),
        key,
        world.operator_key().to_owned(),
        app.secret.clone(),
        registered["client_secret"].as_str().unwrap().to_owned(),
        session,
        founder_session,
        code,
        tokens.access,
        tokens.refresh,
        "PRIVATE KEY".to_owned(),
    ];
    (personal, secrets)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, files) } else { files.push(path) }
    }
}

/// Without regard to case; `bytes` are in lower case.
fn holds(bytes: &[u8], text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
