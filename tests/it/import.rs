//! An archive becomes an organization elsewhere; and what somebody else made of one does not.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::export::{archive_of, omit};
use crate::world::{Answer, PASSWORD, World};

pub const PASSPHRASE: &str = "violet harbour anvil 27";

pub async fn import(world: &World, archive: &[u8], query: &str, key: Option<&str>) -> Answer {
    let mut call = world.operator().call("POST", &format!("/v1/imports{query}"));
    call.body = archive.to_vec();
    call = call.header("content-type", "application/octet-stream");
    if let Some(key) = key {
        call = call.header("bulkhead-secrets-key", &STANDARD.encode(key));
    }
    world.call(call).await
}

pub fn sealed() -> Value {
    json!({"secrets": "passphrase", "passphrase": PASSPHRASE})
}

/// Nothing of an upload is on the disk, and no organization is there but these.
pub async fn assert_clean(world: &World, slugs: &[&str]) {
    let left: Vec<_> = fs::read_dir(world.data_dir().join("imports")).into_iter().flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    let building = fs::read_dir(world.data_dir().join("orgs/.building")).into_iter().flatten().count();
    assert_eq!(building, 0, "a half-made organization");
    let list = world.operator().get("/v1/organizations?limit=100").await.expect(200).json();
    let mut found: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|entry| entry["slug"].as_str().unwrap()).collect();
    found.sort_unstable();
    assert_eq!(found, slugs);
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert_eq!(check["ok"], true, "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_moves_to_another_deployment_with_its_passwords() {
    let (here, there) = (World::new().await, World::new().await);
    let body = json!({
        "name": "Acme", "slug": "acme", "external_id": "crm-7", "metadata": {"plan": "gold"}, "accent": "#0a7c66",
        "policy": {"lockout_attempts": 4}, "owner": {"email": "owner@acme.test", "password": PASSWORD},
    });
    let id = here.operator().post("/v1/organizations", &body).await.expect(201).id();
    let ada = here.member("acme", "ada@acme.test").await;
    let admin = json!({"roles": ["admin"], "title": "Countess"});
    here.operator().patch(&format!("/v1/organizations/acme/members/{ada}"), &admin).await.expect(200);
    let api_key = here.organization_key("acme", &["members:read"]).await;
    let before = here.signed_in("acme", "ada@acme.test").await;
    let jwks = here.browser("acme").get("/oauth2/jwks").await.expect(200).json();
    let archive = archive_of(&here, "acme", &sealed()).await;

    // Without changing anything first.
    let dry = import(&there, &archive, "?dry_run=true", Some(PASSPHRASE)).await.expect(200).json();
    assert_eq!((&dry["dry_run"], &dry["imported"]["passwords"]), (&json!(true), &json!(2)), "{dry}");
    assert_clean(&there, &[]).await;
    for wrong in [Some("another passphrase"), Some("AGE-SECRET-KEY-1NONSENSE")] {
        import(&there, &archive, "", wrong).await.expect_problem(422, "import_secrets_locked");
    }
    assert_clean(&there, &[]).await;

    let done = import(&there, &archive, "", Some(PASSPHRASE)).await.expect(201).json();
    assert_eq!(done["organization_id"], json!(id));
    assert_eq!(done["imported"]["members"], 2);
    assert_eq!(done["imported"]["api_keys"], 1);
    let operator = there.operator();
    let organization = operator.get("/v1/organizations/crm-7").await.expect(200).json();
    for (field, value) in [("name", "Acme"), ("slug", "acme"), ("accent", "#0a7c66"), ("state", "active")] {
        assert_eq!(organization[field], value);
    }
    assert_eq!(organization["metadata"]["plan"], "gold");
    assert_eq!(organization["policy"]["lockout_attempts"], 4);
    let member = operator.get(&format!("/v1/organizations/acme/members/{ada}")).await.expect(200).json();
    assert_eq!((&member["roles"], &member["title"]), (&json!(["admin"]), &json!("Countess")));
    // The old password, the old keys; but nobody is still signed in.
    there.signed_in("acme", "ada@acme.test").await.get("/account").await.expect(200);
    there.api(&api_key).get("/v1/organizations/acme/members").await.expect(200);
    let after = there.browser("acme").get("/oauth2/jwks").await.expect(200).json();
    assert_eq!(after["keys"][0]["kid"], jwks["keys"][0]["kid"]);
    let mut stale = there.browser("acme");
    let (name, value) = before.cookie("bh_session_").unwrap();
    stale.set_cookie(&name, &value);
    stale.get("/account").await.expect_redirect("/sign-in");
    // One chain, from the first day on.
    let chain = operator.get("/v1/organizations/acme/audit_events/verification").await.expect(200).json();
    assert_eq!(chain["intact"], true, "{chain}");
    let events = there.events("acme").await;
    let imported = events.iter().find(|event| event["action"] == "organization.imported").unwrap();
    assert_eq!(imported["metadata"]["archive_head"], done["audit"]);
    assert_eq!(imported["metadata"]["chain_head"]["hash"], imported["prev_hash"]);
    assert!(events.iter().any(|event| event["action"] == "organization.created"));
    assert_clean(&there, &["acme"]).await;

    // Twice is a conflict, here and there.
    import(&there, &archive, "", Some(PASSPHRASE)).await.expect_problem(409, "organization_exists");
    import(&there, &archive, "?slug=acme-2", None).await.expect_problem(409, "organization_exists");
    import(&here, &archive, "?new_id=true", None).await.expect_problem(409, "slug_taken");
    assert_clean(&there, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_beside_the_original_is_another_organization() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    let api_key = world.organization_key("acme", &["members:read"]).await;
    let kid = world.browser("acme").get("/oauth2/jwks").await.json()["keys"][0]["kid"].clone();
    let archive = archive_of(&world, "acme", &sealed()).await;
    let done = import(&world, &archive, "?new_id=true&slug=acme-copy", Some(PASSPHRASE)).await.expect(201).json();
    assert_ne!(done["organization_id"], json!(id));
    assert_eq!(done["from"]["id"], json!(id));
    assert_eq!((&done["imported"]["signing_keys"], &done["imported"]["api_keys"]), (&json!(0), &json!(0)));
    world.signed_in("acme-copy", "owner@acme.test").await.get("/account").await.expect(200);
    // It cannot speak for the original, nor let in who may into that.
    assert_ne!(world.browser("acme-copy").get("/oauth2/jwks").await.json()["keys"][0]["kid"], kid);
    world.api(&api_key).get("/v1/organizations/acme-copy/members").await.expect_problem(400, "organization_conflict");
    world.api(&api_key).get("/v1/organizations/acme/members").await.expect(200);
    assert_clean(&world, &["acme", "acme-copy"]).await;

    // What was left out is left out: the members are there, and set new passwords.
    let plain = archive_of(&world, "acme", &omit()).await;
    let done = import(&world, &plain, "?new_id=true&slug=acme-plain", None).await.expect(201).json();
    assert_eq!((&done["imported"]["members"], &done["imported"]["passwords"]), (&json!(1), &json!(0)));
    let refused = world.browser("acme-plain").sign_in("owner@acme.test", PASSWORD).await;
    assert_ne!(refused.status, 303, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_for_the_holder_of_a_key() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    let identity = age::x25519::Identity::generate();
    let text = {
        use age::secrecy::ExposeSecret;
        identity.to_string().expose_secret().to_owned()
    };
    let recipient = identity.to_public().to_string();
    let archive = archive_of(&here, "acme", &json!({"secrets": "age", "recipient": recipient})).await;
    let file = format!("# created: today\n# public key: {recipient}\n{text}\n");
    import(&there, &archive, "", Some(PASSPHRASE)).await.expect_problem(422, "import_secrets_locked");
    import(&there, &archive, "", Some(&file)).await.expect(201);
    there.signed_in("acme", "owner@acme.test").await.get("/account").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_organization_stays_suspended() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    here.operator().put("/v1/organizations/acme/suspension", &json!({"reason": "unpaid"})).await.expect(204);
    let archive = archive_of(&here, "acme", &sealed()).await;
    import(&there, &archive, "", Some(PASSPHRASE)).await.expect(201);
    assert_eq!(there.operator().get("/v1/organizations/acme").await.json()["state"], "suspended");
    there.browser("acme").get("/sign-in").await.expect(403);
    assert_clean(&there, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_needs_an_operator_and_a_body_of_its_type() {
    let world = World::new().await;
    world.organization("acme").await;
    let own = world.organization_key("acme", &["*"]).await;
    let call = |key: &str, kind: &str| {
        let mut call = world.api(key).call("POST", "/v1/imports").header("content-type", kind);
        call.body = b"x".to_vec();
        call
    };
    let octets = "application/octet-stream";
    world.call(call(&own, octets)).await.expect_problem(403, "forbidden");
    let operator = world.operator_key();
    world.call(call(operator, "application/json")).await.expect_problem(415, "unsupported_media_type");
    world.call(call(operator, octets)).await.expect_problem(422, "import_not_an_archive");
    let odd = call(operator, octets).header("bulkhead-secrets-key", "%%%");
    world.call(odd).await.expect_problem(400, "malformed_request");
    for query in ["?slug=UPPER", "?slug=www", "?new_id=perhaps", "?evil=1"] {
        let answer = import(&world, b"x", query, None).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "validation_failed"), "{query}: {answer:?}");
    }
    assert_clean(&world, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_is_neither_kept_as_an_export_nor_brought_back() {
    let world = World::new().await;
    let id = world.organization("acme").await;
    let archive = archive_of(&world, "acme", &sealed()).await;
    let operator = world.operator();
    crate::export::ready(&operator, "acme", &omit()).await;
    assert!(world.data_dir().join("exports").join(&id).exists());
    operator.put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
    world.awaited(&format!("/v1/erasures/{id}"), |erasure| erasure["certificate"].is_string()).await;
    assert!(!world.data_dir().join("exports").join(&id).exists(), "an archive outlived the organization");
    let refused = import(&world, &archive, "?slug=again", Some(PASSPHRASE)).await;
    refused.expect_problem(409, "organization_erased");
    // As another organization it may come back: that is what an export is for.
    import(&world, &archive, "?slug=again&new_id=true", Some(PASSPHRASE)).await.expect(201);
    assert_clean(&world, &["again"]).await;
}

/// A catalog from before an organization was made does not know it, and its file is all that there is of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_the_catalog_does_not_know_is_not_lost_to_an_import_of_the_same() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let archive = archive_of(&world, "acme", &sealed()).await;
    world.member("acme", "since@acme.test").await;
    let file = crate::organizations::file_of(&world, &id);
    let before = world
        .while_stopped(|data| {
            crate::organizations::forget_in_catalog(data, &id);
            fs::read(&file).unwrap()
        })
        .await;
    for query in ["?slug=again", "?slug=again&dry_run=true", ""] {
        let refused = import(&world, &archive, query, Some(PASSPHRASE)).await;
        let refused = refused.expect_problem(409, "organization_exists");
        assert!(refused.mentions("catalog rebuild"), "{refused:?}");
        assert!(fs::read(&file).unwrap() == before, "the file is another one");
    }
    let organization = id.parse().unwrap();
    assert!(world.app().state().tenants.has_key(organization).await.unwrap(), "and can be read by nobody any more");
}

/// A crash came while one that could not be entered was being taken away again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_one_that_was_taken_away_keeps_nobody_from_bringing_it_in() {
    let mut world = World::new().await;
    let id = world.organization("acme").await;
    let archive = archive_of(&world, "acme", &sealed()).await;
    let directory = crate::organizations::file_of(&world, &id).parent().unwrap().to_owned();
    world
        .while_stopped(|data| {
            let catalog = rusqlite::Connection::open(data.join("catalog.sqlite")).unwrap();
            catalog.execute("UPDATE organization SET state = 'creating'", []).unwrap();
            fs::remove_file(directory.join("db.sqlite")).unwrap();
            fs::write(directory.join("db.sqlite-unread"), "left").unwrap();
        })
        .await;
    assert!(!directory.exists());
    world.operator().get("/v1/organizations/acme").await.expect_problem(404, "organization_not_found");
    import(&world, &archive, "", Some(PASSPHRASE)).await.expect(201);
    world.signed_in("acme", "owner@acme.test").await;
}

/// A pipe does not say beforehand how much will come out of it.
#[test]
fn an_archive_out_of_a_pipe_is_imported() {
    use crate::process::{Deployment, Operator};
    use std::io::Write as _;
    use std::process::Stdio;

    let here = Deployment::new();
    let key = here.operator_key();
    let server = here.serve();
    Operator::new(&server, &key).organization("acme");
    let file = here.directory.path().join("acme.tar.zst");
    let made = here.run(&["org", "export", "acme", "--to", file.to_str().unwrap()]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let archive = fs::read(&file).unwrap();
    let import = |slug: &str| {
        let mut child = here.command(&["--json", "org", "import", "/dev/stdin", "--new-id", "--slug", slug]);
        let child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        // One that has ended already is told of below.
        let _ = child.stdin.take().unwrap().write_all(&archive);
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{slug}: {done:?}");
        assert_eq!(here.json(&["member", "list", slug])["data"].as_array().unwrap().len(), 1);
    };
    import("sent-to-a-server");
    server.stop();
    import("without-one");
}

/// `kill -9` at any moment of an import: afterwards the organization is there whole, or not at all, and nothing of the
/// upload is left.
#[test]
fn a_crash_in_the_middle_leaves_all_or_nothing() {
    use crate::process::{Deployment, Operator, Person, host_of};
    use std::time::Duration;

    let here = Deployment::new();
    here.operator_key();
    let server = here.serve();
    let key = here.operator_key();
    Operator::new(&server, &key).organization("acme");
    let file = here.directory.path().join("acme.tar.zst");
    let to = file.to_str().unwrap();
    let made = here.run(&["org", "export", "acme", "--to", to]);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let imports = here.data_dir().join("imports");
    let mut server = Some(server);
    let mut whole = Vec::new();
    for round in 0..10_u64 {
        let mut running = server.take().unwrap_or_else(|| here.serve());
        let slug = format!("copy-{round}");
        let mut child = here.command(&["--json", "org", "import", to, "--new-id", "--slug", &slug]);
        let mut child = child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // From before it arrives to after it has been answered.
        std::thread::sleep(Duration::from_millis(20 + 35 * round));
        running.kill();
        let acknowledged = child.wait().unwrap().success();
        let running = here.serve();
        let left: Vec<_> = fs::read_dir(&imports).into_iter().flatten().collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
        assert!(Operator::problems(&here).is_empty(), "round {round}");
        let there = here.run(&["--json", "org", "audit", "verify", &slug]).status.success();
        assert!(there || !acknowledged, "round {round}: what was acknowledged is gone");
        if there {
            let members = here.json(&["member", "list", &slug]);
            assert_eq!(members["data"].as_array().unwrap().len(), 1, "{members}");
            let mut person = Person::at(&running, &host_of(&slug));
            assert_eq!(person.get("/sign-in").unwrap().status, 200);
        }
        whole.push(there);
        server = Some(running);
    }
    println!("whole after the crash, by round: {whole:?}");
    server.unwrap().stop();
}
