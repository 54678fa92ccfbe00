//! Everything that an organization has, in one file: what is in it, what is not, who may have it, and that it shows
//! when anything was changed.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use bulkhead::base::time::length;
use bulkhead::crypto::{Algorithm, SigningKey, hash, signing};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::world::{Answer, Api, PASSWORD, World, text_between};

/// Has an export made and fetches it.
pub async fn archive_of(world: &World, slug: &str, secrets: &Value) -> Vec<u8> {
    let operator = world.operator();
    let made = ready(&operator, slug, secrets).await;
    let path = format!("/v1/organizations/{slug}/exports/{}", made["id"].as_str().unwrap());
    let content = operator.get(&format!("{path}/content")).await.expect(200);
    assert_eq!(hex::encode(hash::sha256(&content.body)), made["sha256"]);
    operator.delete(&path).await.expect(204);
    content.body.to_vec()
}

/// An export that is ready.
pub async fn ready(api: &Api<'_>, slug: &str, secrets: &Value) -> Value {
    let mut made = api.post(&format!("/v1/organizations/{slug}/exports"), secrets).await.expect(202).json();
    while made["state"] == "building" {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let path = format!("/v1/organizations/{slug}/exports/{}", made["id"].as_str().unwrap());
        made = api.get(&path).await.expect(200).json();
    }
    assert_eq!(made["state"], "ready", "{made}");
    made
}

pub fn omit() -> Value {
    json!({"secrets": "omit"})
}

/// An archive taken apart, to be put together differently.
pub struct Parts {
    pub members: BTreeMap<String, Vec<u8>>,
    pub manifest: Value,
}

impl Parts {
    pub fn of(archive: &[u8]) -> Self {
        let mut tar = tar::Archive::new(zstd::stream::read::Decoder::new(archive).unwrap());
        let mut members = BTreeMap::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            members.insert(name, content);
        }
        let manifest = serde_json::from_slice(&members["manifest.json"]).unwrap();
        Self { members, manifest }
    }

    /// Changes the database with any SQL there is.
    pub fn database(&mut self, work: impl FnOnce(&rusqlite::Connection)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db.sqlite");
        fs::write(&path, &self.members["organization.sqlite"]).unwrap();
        let connection = rusqlite::Connection::open(&path).unwrap();
        work(&connection);
        // The manifest says what the file says.
        let called = connection.query_row("SELECT slug, name FROM organization", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        });
        if let Ok((slug, name)) = called {
            self.manifest["organization"]["slug"] = slug.into();
            self.manifest["organization"]["name"] = name.into();
        }
        drop(connection);
        self.members.insert("organization.sqlite".into(), fs::read(&path).unwrap());
    }

    /// Digests and a signature that fit, by a key that is in the manifest: what anybody can do.
    pub fn signed(mut self) -> Self {
        for (name, content) in &self.members {
            if !name.starts_with("manifest.") {
                self.manifest["files"][name] =
                    json!({"size": content.len(), "sha256": hex::encode(hash::sha256(content))});
            }
        }
        let new = signing::generate(Algorithm::ES256).unwrap();
        let key = SigningKey::load("sig_forged", Algorithm::ES256, &new.pkcs8, &new.public_jwk).unwrap();
        self.manifest["signing_key"] = key.jwk();
        let text = serde_json::to_vec(&self.manifest).unwrap();
        let claims = json!({
            "format": "bulkhead-export/1", "organization_id": self.manifest["organization"]["id"],
            "manifest_sha256": hex::encode(hash::sha256(&text)),
        });
        self.members.insert("manifest.jws".into(), key.sign("bulkhead-export+jwt", &claims).unwrap().into_bytes());
        self.members.insert("manifest.json".into(), text);
        self
    }

    pub fn packed(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in &self.members {
            append(&mut tar, name, tar::EntryType::Regular, content);
        }
        compressed(&tar.into_inner().unwrap())
    }
}

pub fn append(tar: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, content: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_entry_type(kind);
    // As it is, without the library's own care about names.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    if kind == tar::EntryType::Symlink {
        header.set_link_name_literal("/etc/passwd").unwrap();
    }
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

pub fn compressed(tar: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(tar, 3).unwrap()
}

/// The program on its own: no server, no data directory, no settings.
fn verify(folder: &TempDir, archive: &[u8], key: Option<&Value>) -> Output {
    let path = folder.path().join("archive.tar.zst");
    fs::write(&path, archive).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    command.env_clear().current_dir(folder.path()).args(["--json", "org", "verify-export"]).arg(&path);
    if let Some(key) = key {
        fs::write(folder.path().join("key.json"), key.to_string()).unwrap();
        command.args(["--public-key", "key.json"]);
    }
    command.output().unwrap()
}

fn code_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    document["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_holds_everything_but_what_opens_something() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", "ada@acme.test").await;
    let key = world.organization_key("acme", &["members:read"]).await;
    let mut ada = world.signed_in("acme", "ada@acme.test").await;
    let token = ada.session().unwrap();
    let app = world.application().await;
    let tokens = app.tokens(&world, &mut ada).await;
    world.browser("acme").post("/recovery", &[]).await;

    let archive = archive_of(&world, "acme", &omit()).await;
    let parts = Parts::of(&archive);
    let names: Vec<&str> = parts.members.keys().map(String::as_str).collect();
    assert_eq!(names, ["README.txt", "manifest.json", "manifest.jws", "organization.sqlite"]);
    assert_eq!(parts.manifest["format"], "bulkhead-export/1");
    assert_eq!(parts.manifest["secrets"], "omitted");
    assert_eq!(parts.manifest["counts"]["member"], 2);
    assert_eq!(parts.manifest["counts"]["refresh_token"], 0);
    assert_eq!(parts.manifest["counts"]["outbox"], 0);

    // Nothing that opens anything, in the clear or as its hash, anywhere in the file.
    let database = &parts.members["organization.sqlite"];
    for secret in [&key, &token, &tokens.refresh, &tokens.access] {
        let digest = hash::sha256(secret.as_bytes());
        assert!(!contains(database, secret.as_bytes()) && !contains(database, &digest));
    }
    assert!(!contains(database, b"$argon2"), "a password hash");
    // Neither the file as a whole nor its private parts: not the sealed key that the live file has.
    let live = fs::read(live_file(&world)).unwrap();
    assert!(!live.is_empty());
    assert!(database.len() <= live.len() + (1 << 20));

    // What any tool reads.
    let mut read = parts;
    read.database(|db| {
        let emails: Vec<String> = column(db, "SELECT email FROM v_members ORDER BY email");
        assert_eq!(emails, ["ada@acme.test", "owner@acme.test"]);
        let has_password: i64 = db.query_row("SELECT sum(has_password) FROM v_members", [], |row| row.get(0)).unwrap();
        assert_eq!(has_password, 2);
        assert!(column(db, "SELECT action FROM v_audit").contains(&"organization.exported".to_owned()));
        assert_eq!(column(db, "SELECT email FROM v_sessions"), ["ada@acme.test"]);
        assert_eq!(column(db, "SELECT application_id FROM v_grants"), [app.id.as_str()]);
        assert_eq!(column(db, "SELECT name FROM v_api_keys"), ["a program"]);
        assert_eq!(column(db, "SELECT slug FROM v_organization"), ["acme"]);
        let times = column(db, "SELECT created_at FROM v_members");
        assert!(times.iter().all(|time| time.ends_with('Z') && time.contains('T')), "{times:?}");
        let journal: String = db.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap();
        assert_eq!(journal, "delete", "a file that must be written to be read");
    });
}

fn column(db: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(sql).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn live_file(world: &World) -> std::path::PathBuf {
    fn find(folder: &Path) -> Option<std::path::PathBuf> {
        fs::read_dir(folder).ok()?.filter_map(Result::ok).find_map(|entry| {
            let path = entry.path();
            if path.is_dir() { find(&path) } else { path.ends_with("db.sqlite").then_some(path) }
        })
    }
    find(&world.data_dir().join("orgs")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_verified_with_nothing_but_the_file_and_the_key() {
    let world = World::new().await;
    world.organization("acme").await;
    world.organization("globex").await;
    let archive = archive_of(&world, "acme", &omit()).await;
    let jwks = |slug: &'static str| {
        let world = &world;
        async move { world.browser(slug).get("/oauth2/jwks").await.expect(200).json() }
    };
    let (own, others) = (jwks("acme").await, jwks("globex").await);
    let folder = tempfile::tempdir().unwrap();

    let good = verify(&folder, &archive, Some(&own));
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    let found: Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!((&found["intact"], &found["organization"]["slug"]), (&json!(true), &json!("acme")));
    let log = world.operator().get("/v1/organizations/acme/audit_events/verification").await.expect(200).json();
    assert!(found["audit"]["sequence"].as_i64().unwrap() <= log["events"].as_i64().unwrap());
    assert_eq!(verify(&folder, &archive, None).status.code(), Some(0));
    let one = own["keys"].as_array().unwrap().iter().find(|key| key["alg"] == "ES256").unwrap();
    assert_eq!(verify(&folder, &archive, Some(one)).status.code(), Some(0));
    assert_eq!(code_of(&verify(&folder, &archive, Some(&others))), "import_signature_invalid");

    // Every kind of byte that could be another.
    let parts = || Parts::of(&archive);
    let flipped = |name: &str, at: usize| {
        let mut parts = parts();
        parts.members.get_mut(name).unwrap()[at] ^= 1;
        parts.packed()
    };
    let size = |name: &str| parts().members[name].len();
    assert_eq!(code_of(&verify(&folder, &flipped("README.txt", 3), Some(&own))), "import_digest_mismatch");
    for at in [20, 200, 4096, size("organization.sqlite") / 2, size("organization.sqlite") - 1] {
        let code = code_of(&verify(&folder, &flipped("organization.sqlite", at), Some(&own)));
        assert_eq!(code, "import_digest_mismatch", "byte {at} of the database");
    }
    for at in 0..8 {
        let at = size("manifest.json") * (2 * at + 1) / 16;
        let code = code_of(&verify(&folder, &flipped("manifest.json", at), Some(&own)));
        let known = ["import_signature_invalid", "import_manifest_invalid", "import_format_unknown"];
        assert!(known.contains(&code.as_str()), "byte {at} of the manifest: {code}");
    }
    for at in 0..8 {
        let at = size("manifest.jws") * (2 * at + 1) / 16;
        let code = code_of(&verify(&folder, &flipped("manifest.jws", at), Some(&own)));
        assert_eq!(code, "import_signature_invalid", "byte {at} of the signature");
    }
    // Of the file itself, compressed as it is.
    for at in (0..archive.len()).step_by(archive.len() / 12) {
        let mut changed = archive.clone();
        changed[at] ^= 4;
        assert_ne!(verify(&folder, &changed, Some(&own)).status.code(), Some(0), "byte {at} of the archive");
        assert_ne!(verify(&folder, &archive[..at], Some(&own)).status.code(), Some(0), "cut off at {at}");
    }
    let longer = [archive.as_slice(), b"x"].concat();
    assert_eq!(code_of(&verify(&folder, &longer, Some(&own))), "import_not_an_archive");

    // A forger can sign with a key of their own, and that is what shows.
    let mut forged = parts();
    forged.database(|db| {
        db.execute("UPDATE member SET roles = '[\"owner\"]'", []).unwrap();
    });
    assert_eq!(code_of(&verify(&folder, &forged.signed().packed(), Some(&own))), "import_signature_invalid");
    // The chain of the audit log is walked even where everything else fits.
    let mut forged = parts();
    forged.database(|db| {
        db.execute("UPDATE audit_event SET action = 'nothing.happened' WHERE sequence = 2", []).unwrap();
    });
    assert_eq!(code_of(&verify(&folder, &forged.signed().packed(), None)), "import_audit_broken");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "something was left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_go_on_while_an_export_is_made() {
    let world = World::new().await;
    world.organization("acme").await;
    for n in 0..20 {
        let body = json!({"email": format!("m{n}@acme.test"), "name": "x".repeat(100)});
        world.operator().post("/v1/organizations/acme/members", &body).await.expect(201);
    }
    let writers = async {
        for n in 20..120 {
            let body = json!({"email": format!("m{n}@acme.test")});
            world.operator().post("/v1/organizations/acme/members", &body).await.expect(201);
        }
    };
    let exports = async {
        let mut archives = Vec::new();
        for _ in 0..5 {
            archives.push(archive_of(&world, "acme", &omit()).await);
        }
        archives
    };
    let ((), archives) = tokio::join!(writers, exports);
    let folder = tempfile::tempdir().unwrap();
    for archive in archives {
        // One moment each: the members that are there are those that the log knows of.
        assert_eq!(verify(&folder, &archive, None).status.code(), Some(0));
        let mut parts = Parts::of(&archive);
        parts.database(|db| {
            let count = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
            let created = count("SELECT count(*) FROM v_audit WHERE action = 'member.created'");
            assert_eq!(count("SELECT count(*) FROM v_members"), created);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_has_an_export_made_or_fetches_it() {
    let world = World::new().await;
    world.organization("acme").await;
    world.organization("globex").await;
    let acme = world.organization_key("acme", &["exports:read", "exports:write"]).await;
    let reads = world.organization_key("acme", &["exports:read"]).await;
    let globex = world.organization_key("globex", &["*"]).await;
    let made = ready(&world.api(&acme), "acme", &omit()).await;
    let path = format!("/v1/organizations/acme/exports/{}", made["id"].as_str().unwrap());

    world.api(&reads).get(&format!("{path}/content")).await.expect(200);
    world.api(&reads).post("/v1/organizations/acme/exports", &omit()).await.expect_problem(403, "forbidden");
    world.stranger().get(&format!("{path}/content")).await.expect_problem(401, "unauthenticated");
    for address in [&path, &format!("{path}/content")] {
        world.api(&globex).get(address).await.expect_problem(400, "organization_conflict");
        let elsewhere = address.replace("/acme/", "/globex/");
        world.api(&globex).get(&elsewhere).await.expect_problem(404, "export_not_found");
        world.operator().get(&elsewhere).await.expect_problem(404, "export_not_found");
    }
    // The secrets are the operators' to hand out.
    let sealed = json!({"secrets": "passphrase", "passphrase": "violet harbour anvil"});
    world.api(&acme).post("/v1/organizations/acme/exports", &sealed).await.expect_problem(403, "forbidden");
    let made = ready(&world.operator(), "acme", &sealed).await;
    let content = format!("/v1/organizations/acme/exports/{}/content", made["id"].as_str().unwrap());
    world.api(&reads).get(&content).await.expect_problem(403, "forbidden");
    world.operator().get(&content).await.expect(200);
    for wrong in [
        json!({"secrets": "passphrase"}),
        json!({"secrets": "passphrase", "passphrase": "short"}),
        json!({"secrets": "omit", "passphrase": "violet harbour anvil"}),
        json!({"secrets": "age", "recipient": "age1nonsense"}),
        json!({"secrets": "age"}),
        json!({"secrets": "all"}),
    ] {
        world.operator().post("/v1/organizations/acme/exports", &wrong).await.expect_problem(422, "validation_failed");
    }
    let actions: Vec<Value> = world.events("acme").await.iter().map(|event| event["action"].clone()).collect();
    assert_eq!(actions.iter().filter(|action| **action == "organization.exported").count(), 2);
    assert_eq!(actions.iter().filter(|action| **action == "organization.export_downloaded").count(), 2);
    // On the disk nobody else can read it.
    use std::os::unix::fs::PermissionsExt;
    let folder = world.data_dir().join("exports");
    for entry in fs::read_dir(fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o077, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exports_expire_and_are_bounded() {
    let mut world = World::with(&[("BULKHEAD_EXPORTS_MAX_PER_ORGANIZATION", "2")]).await;
    world.organization("acme").await;
    let operator = world.operator();
    let first = ready(&operator, "acme", &omit()).await;
    world.clock.advance(length::hours(23));
    let second = ready(&operator, "acme", &omit()).await;
    let refused = operator.post("/v1/organizations/acme/exports", &omit()).await;
    refused.expect_problem(409, "export_limit_reached");
    let path = |export: &Value| format!("/v1/organizations/acme/exports/{}", export["id"].as_str().unwrap());
    let listed = operator.get("/v1/organizations/acme/exports").await.expect(200).json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert_eq!(listed["data"][0]["id"], second["id"], "newest first");

    world.clock.advance(length::hours(1));
    operator.get(&path(&first)).await.expect_problem(404, "export_not_found");
    operator.get(&format!("{}/content", path(&first))).await.expect_problem(404, "export_not_found");
    operator.get(&format!("{}/content", path(&second))).await.expect(200);
    let third = ready(&operator, "acme", &omit()).await;
    let (second, third) = (path(&second), path(&third));
    // The files are gone as well, at the next start at the latest, and with them what a crash left half done.
    let folder = fs::read_dir(world.data_dir().join("exports")).unwrap().next().unwrap().unwrap().path();
    let half = folder.join("exp_01kaj4vbg0e3n9v7m2t8x5q6wz.work");
    world
        .while_stopped(|_| {
            fs::create_dir(&half).unwrap();
            fs::write(half.join("copy.sqlite"), "half").unwrap();
            fs::write(folder.join("exp_01kaj4vbg0e3n9v7m2t8x5q6wz.zst"), "half").unwrap();
        })
        .await;
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "two archives and their notes");
    let operator = world.operator();
    operator.get(&format!("{second}/content")).await.expect(200);
    operator.delete(&third).await.expect(204);
    operator.get(&third).await.expect_problem(404, "export_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_exports_on_the_account_page_with_the_password() {
    let world = World::new().await;
    world.organization("acme").await;
    world.member("acme", "ada@acme.test").await;
    let mut ada = world.signed_in("acme", "ada@acme.test").await;
    assert!(!ada.get("/account").await.expect(200).mentions("/account/export"));
    ada.get("/account/export").await.expect(403);

    let mut owner = world.signed_in("acme", "owner@acme.test").await;
    assert!(owner.get("/account").await.expect(200).mentions("/account/export"));
    let page = owner.get("/account/export").await.expect(200);
    let refused = owner.submit_form_to(&page, "/account/export", &[("password", "not-the-password-77")]).await;
    assert!(refused.expect(422).mentions("This is not your password."));
    owner.submit_form_to(&page, "/account/export", &[]).await.expect(422);
    assert!(world.operator().get("/v1/organizations/acme/exports").await.json()["data"].as_array().unwrap().is_empty());

    let done = owner.submit_form_to(&page, "/account/export", &[("password", PASSWORD)]).await;
    let done = done.expect_redirect("/account/export?done=begun");
    let mut page = owner.follow(&done).await.expect(200);
    while !page.mentions("/content") {
        tokio::time::sleep(Duration::from_millis(20)).await;
        page = owner.get("/account/export").await.expect(200);
    }
    let text = page.text();
    let id = text_between(&text, "/account/export/", "/content").unwrap().to_owned();
    let form = format!("/account/export/{id}/content");
    owner.submit_form_to(&page, &form, &[("password", "not-the-password-77")]).await.expect(422);
    let download: Answer = owner.submit_form_to(&page, &form, &[("password", PASSWORD)]).await.expect(200);
    assert!(
        download.header("content-disposition").unwrap().starts_with("attachment; filename=\"bulkhead-export-acme-")
    );
    assert_eq!(Parts::of(&download.body).manifest["organization"]["slug"], "acme");
    // A session of somebody else, and of nobody.
    let csrf = ada.csrf().await;
    ada.post(&form, &[("csrf", &csrf), ("password", PASSWORD)]).await.expect(403);
    let mut nobody = world.browser("acme");
    let csrf = nobody.csrf().await;
    nobody.post(&form, &[("csrf", &csrf), ("password", PASSWORD)]).await.expect_redirect("/sign-in");
    let events = world.events("acme").await;
    let by_owner = |action: &str| events.iter().any(|e| e["action"] == action && e["actor"]["type"] == "member");
    assert!(by_owner("organization.exported") && by_owner("organization.export_downloaded"));
    assert!(events.iter().any(|e| e["action"] == "member.password_confirmed" && e["outcome"] == "failure"));
}

/// The program itself, on a directory of its own: by the control socket of a running server, and without one.
#[test]
fn the_command_line_exports_verifies_and_imports() {
    use crate::process::{Deployment, Operator};

    let (here, there) = (Deployment::new(), Deployment::new());
    let key = here.operator_key();
    let server = here.serve();
    let id = Operator::new(&server, &key).organization("acme");
    let file = here.directory.path().join("acme.tar.zst");
    let to = file.to_str().unwrap();
    let with_input = |deployment: &Deployment, args: &[&str], input: &str| {
        use std::io::Write;
        use std::process::Stdio;
        let mut command = deployment.command(&[&["--json"], args].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let plan = here.json(&["org", "export", "acme", "--to", to, "--dry-run"]);
    assert_eq!((&plan["dry_run"], &plan["organization_id"]), (&json!(true), &json!(id)));
    assert!(!file.exists());
    let phrase = "violet harbour anvil 27\n";
    let made = with_input(&here, &["org", "export", "acme", "--to", to, "--passphrase-stdin"], phrase);
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let document: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(document["sha256"], hex::encode(hash::sha256(&fs::read(&file).unwrap())));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0);
    // Nothing stays behind on the server, and nothing is overwritten.
    let left = fs::read_dir(here.data_dir().join("exports").join(&id)).map_or(0, Iterator::count);
    assert_eq!(left, 0);
    let before = fs::read(&file).unwrap();
    let again = here.run(&["--json", "org", "export", "acme", "--to", to]);
    assert_eq!(code_of(&again), "target_exists");
    assert_eq!(fs::read(&file).unwrap(), before);
    let nobody = here.directory.path().join("nobody.tar.zst");
    let unknown = here.run(&["--json", "org", "export", "nobody", "--to", nobody.to_str().unwrap()]);
    assert_eq!(code_of(&unknown), "organization_not_found");
    assert_eq!(here.run(&["org", "verify-export", to]).status.code(), Some(0));
    server.stop();

    // Into a deployment that is not running: the same API, in the command's own process.
    let dry = with_input(&there, &["org", "import", to, "--dry-run", "--passphrase-stdin"], phrase);
    assert_eq!(code_of(&dry), "no_deployment");
    there.operator_key();
    let dry = with_input(&there, &["org", "import", to, "--dry-run", "--passphrase-stdin"], phrase);
    assert_eq!(dry.status.code(), Some(0), "{dry:?}");
    let listed = there.json(&["org", "list"]);
    assert!(listed["data"].as_array().unwrap().is_empty(), "{listed}");
    let done = with_input(&there, &["org", "import", to, "--passphrase-stdin"], phrase);
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let twice = with_input(&there, &["org", "import", to, "--passphrase-stdin"], phrase);
    assert_eq!(code_of(&twice), "organization_exists");
    // And out again, without a server.
    let second = there.directory.path().join("again.tar.zst");
    let out = there.run(&["org", "export", "acme", "--to", second.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    let server = there.serve();
    let mut person = crate::process::Person::at(&server, &crate::process::host_of("acme"));
    person.sign_in("owner@acme.test").unwrap();
    // Into a running one, over its socket.
    let copy = there.json(&["org", "import", second.to_str().unwrap(), "--new-id", "--slug", "acme-2"]);
    assert_eq!(copy["slug"], "acme-2", "{copy}");
    assert!(Operator::problems(&there).is_empty());
    server.stop();
}
