//! Organizations whose whole file is ciphertext, in builds that can (`--features sqlcipher`), and what the others say
//! of them.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::organizations::file_of;
use crate::world::{PASSWORD, World};

fn wanted(slug: &str) -> Value {
    json!({
        "name": format!("Company {slug}"), "slug": slug, "encryption": "file",
        "owner": {"email": format!("owner@{slug}.test"), "password": PASSWORD},
    })
}

fn file_keys(data: &Path) -> i64 {
    let keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
    keyring.query_row("SELECT count(*) FROM data_key WHERE name GLOB '*/file'", [], |row| row.get(0)).unwrap()
}

#[cfg(not(feature = "sqlcipher"))]
mod without {
    use super::*;
    use crate::transfer::Carried;

    /// One more key in the ring.
    fn say_that_it_is_ciphertext(data: &Path, id: &str) {
        let keyring = Connection::open(data.join("keyring.sqlite")).unwrap();
        let sql = "INSERT INTO data_key (name, version, wrapped, master_key_id, created_at)
                   SELECT name || '/file', 1, wrapped, master_key_id, created_at FROM data_key WHERE name = ?";
        assert_eq!(keyring.execute(sql, [id]).unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_refused_and_nothing_is_made() {
        let world = World::new().await;
        let operator = world.operator();
        operator.post("/v1/organizations", &wanted("acme")).await.expect_problem(409, "file_encryption_unavailable");
        let list = operator.get("/v1/organizations").await.expect(200).json();
        assert_eq!(list["data"], json!([]));
        assert_eq!(file_keys(&world.data_dir()), 0);
        let mut call = operator.call("POST", "/v1/imports?encryption=file");
        call.body = b"whatever".to_vec();
        let call = call.header("content-type", "application/octet-stream");
        world.call(call).await.expect_problem(409, "file_encryption_unavailable");
        operator.post("/v1/organizations", &json!({"name": "Acme", "encryption": "all"})).await.expect(422);
        let plain = operator.post("/v1/organizations", &json!({"name": "Acme", "encryption": "columns"})).await;
        assert_eq!(plain.expect(201).json()["encryption"], "columns");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_that_another_build_made_is_unavailable_by_its_name_and_no_other() {
        let mut world = World::new().await;
        let id = world.organization("acme").await;
        world.organization("beside").await;
        let file = file_of(&world, &id);
        world
            .while_stopped(|data| {
                // As it looks to a build without the key: random bytes, and one more key in the ring.
                let noise: Vec<u8> =
                    (0..40_960_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
                fs::write(&file, noise).unwrap();
                for suffix in ["-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{suffix}", file.display()));
                }
                say_that_it_is_ciphertext(data, &id);
            })
            .await;
        let operator = world.operator();
        for _ in 0..2 {
            operator.get("/v1/organizations/acme").await.expect_problem(503, "organization_encrypted");
        }
        world.browser("acme").get("/sign-in").await.expect(503);
        world.signed_in("beside", "owner@beside.test").await;
        let to = json!({"to": "https://there.example.test"});
        let sent = operator.put("/v1/organizations/acme/departure", &to).await;
        sent.expect_problem(503, "organization_encrypted");
        operator.get("/v1/organizations/acme/departure").await.expect_problem(404, "transfer_not_found");
        let begun = operator.post("/v1/fleet/checks", &json!({"quarantine": true})).await.expect(202).id();
        let found = world.walked("checks", &begun).await;
        assert!(found["findings"].to_string().contains("encrypted as a whole"), "{found:#}");
        // It can be erased all the same.
        operator.put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
        crate::erasure::erased(&world, &id).await;
        assert_eq!(file_keys(&world.data_dir()), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_does_not_leave_for_where_it_would_be_a_plain_file() {
        let (mut here, there) = (World::new().await, World::new().await);
        let id = here.organization("acme").await;
        // The keyring says that it is to be ciphertext, which this build cannot tell from a plain file.
        here.while_stopped(|data| say_that_it_is_ciphertext(data, &id)).await;
        let (source, target) = (here.operator(), there.operator());
        let leaving = "/v1/organizations/acme/departure";
        let to = json!({"to": "https://there.example.test"});
        let departure = source.put(leaving, &to).await.expect(200).json();
        assert_eq!(departure["encryption"], "file");
        let arrival = format!("/v1/arrivals/{}", departure["id"].as_str().unwrap());
        // One that cannot make such a file says so before anything is sent.
        let mut body = announced(&departure);
        target.put(&arrival, &body).await.expect_problem(409, "file_encryption_unavailable");
        target.get(&arrival).await.expect_problem(404, "transfer_not_found");
        // One that is not told, or does not know what it is told.
        body.as_object_mut().unwrap().remove("encryption");
        let agreed = target.put(&arrival, &body).await.expect(200).json();
        assert_eq!(agreed["encryption"], "columns");
        // Told after all.
        target.put(&arrival, &announced(&departure)).await.expect_problem(409, "file_encryption_unavailable");
        assert_eq!(target.get(&arrival).await.expect(200).json()["encryption"], "columns");
        let mut body = json!({"recipient": agreed["recipient"], "waiver_sha256": agreed["waiver_sha256"]});
        for said in [Value::Null, agreed["encryption"].clone()] {
            if said.is_string() {
                body["encryption"] = said;
            }
            let refused = source.put(&format!("{leaving}/archive"), &body).await;
            refused.expect_problem(409, "encrypted_not_transferred");
            assert_eq!(source.get(leaving).await.expect(200).json()["state"], "prepared");
            source.patch("/v1/organizations/acme", &json!({"metadata": {"still": "here"}})).await.expect(200);
        }
        body["encryption"] = json!("file");
        let left = source.put(&format!("{leaving}/archive"), &body).await.expect(200).json();
        assert_eq!(left["state"], "leaving");
        source.delete(leaving).await.expect(204);
    }

    /// Not what it was said to become.
    #[test]
    fn what_has_arrived_says_what_its_file_is() {
        let mut carried = Carried::new();
        carried.steps(4);
        assert_eq!(carried.target.get(&carried.arrival("")).json()["encryption"], "columns");
        let id = carried.id.clone();
        carried.target.while_stopped(|deployment| say_that_it_is_ciphertext(&deployment.data_dir(), &id));
        assert_eq!(carried.target.get(&carried.arrival("")).json()["encryption"], "file");
    }
}

/// What the other side is told of a departure, as the command line does it.
fn announced(departure: &Value) -> Value {
    let of = |key: &str| departure[key].clone();
    json!({
        "organization_id": of("organization_id"), "slug": of("slug"), "from": of("from"), "key": of("key"),
        "encryption": of("encryption"),
    })
}

#[cfg(feature = "sqlcipher")]
mod with {
    use std::path::PathBuf;
    use std::time::{Duration, Instant};

    use bulkhead::ltx::wal;

    use super::*;
    use crate::backup::shipped;
    use crate::erasure::erased;
    use crate::erasure_copies::files_below;
    use crate::export::archive_of;
    use crate::process::{Deployment, Operator, Person, host_of, owner_of, patience};
    use crate::tools::{has, litestream};

    fn holds(bytes: &[u8], wanted: &[u8]) -> bool {
        bytes.windows(wanted.len()).any(|window| window == wanted)
    }

    /// Every file below a directory, one after the other.
    fn everything_in(directory: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            bytes.extend(fs::read(entry.path()).unwrap());
        }
        bytes
    }

    /// What must be in no ciphertext: an address, a name, a hash of a password, the schema.
    fn assert_sealed(bytes: &[u8], slug: &str, what: &str) {
        assert!(bytes.len() > 4096, "{what}: nothing to look at");
        let person = format!("owner@{slug}.test");
        for plain in [person.as_str(), "Company ", "$argon2id$", "CREATE TABLE", "SQLite format 3"] {
            assert!(!holds(bytes, plain.as_bytes()), "{plain:?} is in {what}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_of_it_is_plain_and_everything_works() {
        let mut world = World::new().await;
        let made = world.operator().post("/v1/organizations", &wanted("acme")).await.expect(201).json();
        let id = made["id"].as_str().unwrap().to_owned();
        let plain = world.organization("plain").await;
        assert_eq!(made["encryption"], "file");
        let [directory, beside] = [&id, &plain].map(|id| file_of(&world, id).parent().unwrap().to_owned());
        let ada = world.member("acme", "ada@acme.test").await;
        world.signed_in("acme", "ada@acme.test").await;
        // While it is open, and with its WAL.
        assert_sealed(&everything_in(&directory), "acme", "the directory");
        assert!(holds(&everything_in(&beside), b"owner@plain.test"), "the others are as ever");

        let operator = world.operator();
        let list = operator.get("/v1/organizations/acme").await.expect(200).json();
        assert_eq!(list["encryption"], "file");
        assert_eq!(operator.get("/v1/organizations/plain").await.expect(200).json()["encryption"], "columns");
        for n in 0..30 {
            operator
                .post("/v1/organizations/acme/members", &json!({"email": format!("m{n}@acme.test")}))
                .await
                .expect(201);
        }
        operator.post("/v1/organizations/acme/compaction", &json!({})).await.expect(200);
        // Where the bytes are bounded, pages are counted.
        let quotas = json!({"quotas": {"max_bytes": 10_000_000}});
        operator.patch("/v1/organizations/acme", &quotas).await.expect(200);
        let more = json!({"metadata": {"plan": "gold"}});
        operator.patch("/v1/organizations/acme", &more).await.expect(200);
        let check = operator.get("/v1/catalog/check").await.expect(200).json();
        assert_eq!(check["ok"], true, "{check}");

        let log = world
            .while_stopped(|data| {
                assert_sealed(&everything_in(&directory), "acme", "the closed file");
                let connection = Connection::open(directory.join("db.sqlite")).unwrap();
                let read = connection.query_row("SELECT count(*) FROM member", [], |row| row.get::<_, i64>(0));
                assert!(read.is_err(), "it was read without a key");
                assert_eq!(file_keys(data), 1);
                fs::read(data.join("catalog.sqlite")).unwrap()
            })
            .await;
        assert!(!holds(&log, b"owner@acme.test"));
        world.signed_in("acme", "ada@acme.test").await;
        let member = world.operator().get(&format!("/v1/organizations/acme/members/{ada}")).await.expect(200).json();
        assert_eq!(member["email"], "ada@acme.test");
        let created = world.events("acme").await.into_iter().find(|event| event["action"] == "organization.created");
        assert_eq!(created.unwrap()["metadata"]["encryption"], "file");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_export_is_plain_and_comes_back_as_either() {
        let mut world = World::new().await;
        let made = world.operator().post("/v1/organizations", &wanted("acme")).await.expect(201).id();
        world.member("acme", "ada@acme.test").await;
        let sealed = json!({"secrets": "passphrase", "passphrase": "violet harbour anvil 27"});
        let archive = archive_of(&world, "acme", &sealed).await;
        let mut parts = crate::export::Parts::of(&archive);
        parts.database(|connection| {
            let members: i64 = connection.query_row("SELECT count(*) FROM member", [], |row| row.get(0)).unwrap();
            assert_eq!(members, 2);
        });
        for (slug, encryption) in [("one", "file"), ("two", "columns")] {
            let path = format!("/v1/imports?new_id=true&slug={slug}&encryption={encryption}");
            let mut call = world.operator().call("POST", &path);
            call.body.clone_from(&archive);
            use base64::Engine as _;
            let key = base64::engine::general_purpose::STANDARD.encode("violet harbour anvil 27");
            let call = call.header("content-type", "application/octet-stream").header("bulkhead-secrets-key", &key);
            let id = world.call(call).await.expect(201).json()["organization_id"].as_str().unwrap().to_owned();
            world.signed_in(slug, "owner@acme.test").await;
            let shown = world.operator().get(&format!("/v1/organizations/{slug}")).await.expect(200).json();
            assert_eq!(shown["encryption"], encryption);
            let bytes = everything_in(file_of(&world, &id).parent().unwrap());
            assert_eq!(holds(&bytes, b"owner@acme.test"), encryption == "columns");
        }

        // The same rows as a plain file are no substitute.
        let file = file_of(&world, &made);
        world
            .while_stopped(|_| {
                fs::write(&file, &parts.members["organization.sqlite"]).unwrap();
                for suffix in ["-wal", "-shm"] {
                    let _ = fs::remove_file(format!("{}{suffix}", file.display()));
                }
            })
            .await;
        world.operator().get("/v1/organizations/acme").await.expect_problem(503, "organization_unavailable");
        world.signed_in("one", "owner@acme.test").await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_moves_to_another_deployment_and_is_ciphertext_there_too() {
        let (here, there) = (World::new().await, World::new().await);
        let (source, target) = (here.operator(), there.operator());
        let id = source.post("/v1/organizations", &wanted("acme")).await.expect(201).id();
        let leaving = "/v1/organizations/acme/departure";
        let to = json!({"to": "https://there.example.test"});
        let departure = source.put(leaving, &to).await.expect(200).json();
        let arrival = format!("/v1/arrivals/{}", departure["id"].as_str().unwrap());
        // Not told at first, by a command line from before.
        let mut untold = announced(&departure);
        untold.as_object_mut().unwrap().remove("encryption");
        assert_eq!(target.put(&arrival, &untold).await.expect(200).json()["encryption"], "columns");
        let agreed = target.put(&arrival, &announced(&departure)).await.expect(200).json();
        assert_eq!((&departure["encryption"], &agreed["encryption"]), (&json!("file"), &json!("file")));
        let mut body = json!({"recipient": agreed["recipient"], "waiver_sha256": agreed["waiver_sha256"]});
        let refused = source.put(&format!("{leaving}/archive"), &body).await;
        refused.expect_problem(409, "encrypted_not_transferred");
        body["encryption"] = agreed["encryption"].clone();
        let departure = source.put(&format!("{leaving}/archive"), &body).await.expect(200).json();
        let archive = source.get(&format!("{leaving}/archive")).await.expect(200).body.to_vec();
        let content = format!("{arrival}/content?sha256={}", departure["archive_sha256"].as_str().unwrap());
        let mut call = target.call("POST", &content).header("content-type", "application/octet-stream");
        call.body = archive;
        let arrived = there.call(call).await.expect(200).json();
        let [exports, imports] = [here.data_dir().join("exports"), there.data_dir().join("imports")];
        assert_eq!(files_below(&exports).len(), 1, "the archive");
        let body = json!({"archive_sha256": arrived["archive_sha256"], "audit": arrived["audit"]});
        let gone = source.put(&format!("{leaving}/completion"), &body).await.expect(200).json();
        let proof = json!({"proof": gone["proof"]});
        target.put(&format!("{arrival}/activation"), &proof).await.expect(200);

        there.signed_in("acme", "owner@acme.test").await;
        assert_eq!(target.get("/v1/organizations/acme").await.expect(200).json()["encryption"], "file");
        for world in [&here, &there] {
            assert_sealed(&everything_in(file_of(world, &id).parent().unwrap()), "acme", "one of the two files");
            assert_eq!(file_keys(&world.data_dir()), 1, "each has a key of its own");
        }
        // Nothing that was plain on the way is left.
        for folder in [exports, imports] {
            assert_eq!(files_below(&folder), Vec::<PathBuf>::new());
        }
    }

    /// A database file with the committed frames of its WAL laid over it.
    fn pages_of(file: &Path) -> Vec<u8> {
        let mut image = fs::read(file).unwrap();
        let log = fs::read(format!("{}-wal", file.display())).unwrap_or_default();
        if let Ok(wal::Outcome::Committed(scan)) = wal::Scanner::new(std::io::Cursor::new(&log), None).scan() {
            let size = scan.page_size as usize;
            image.resize(scan.commit as usize * size, 0);
            for (pgno, offset) in scan.pages {
                let (at, from) = ((pgno as usize - 1) * size, usize::try_from(offset).unwrap());
                image[at..at + size].copy_from_slice(&log[from..from + size]);
            }
        }
        image
    }

    fn restored(replica: &Path) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().join("restored.sqlite");
        let url = format!("file://{}", replica.display());
        let output = litestream().arg("restore").arg("-o").arg(&out).arg(url).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(out).unwrap()
    }

    /// A deployment with an encrypted organization that is shipped to a folder; the organization, its file and its
    /// replica.
    fn replicated(deployment: Deployment) -> (Deployment, String, String, PathBuf, PathBuf) {
        let replica = deployment.directory.path().join("replica");
        let url = format!("file://{}", replica.display());
        let deployment = deployment.with("BACKUP_URL", url).with("BACKUP_DELAY_MILLISECONDS", 20);
        let (server, mut operator, key) = deployment.started();
        let made = operator.post("/v1/organizations", &wanted("acme")).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["id"].as_str().unwrap().to_owned();
        for n in 0..5 {
            let body = json!({"email": format!("m{n}@acme.test"), "password": PASSWORD});
            assert_eq!(operator.post("/v1/organizations/acme/members", &body).unwrap().status, 201);
            shipped(&mut operator);
        }
        server.stop();
        let file = deployment.file(&id);
        let copy = replica.join(file.strip_prefix(deployment.data_dir()).unwrap());
        (deployment, key, id, file, copy)
    }

    #[test]
    fn what_is_shipped_is_ciphertext_and_can_be_had_back() {
        if !has("litestream") {
            return;
        }
        let (deployment, key, _, file, copy) = replicated(Deployment::new());
        let stock = restored(&copy);
        assert_sealed(&stock, "acme", "what litestream restores");
        assert_eq!(stock.len(), pages_of(&file).len());
        assert!(stock == pages_of(&file), "litestream restores other pages");

        // In the file's place, it is the file.
        fs::write(&file, &stock).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", file.display()));
        }
        let server = deployment.serve();
        Person::at(&server, &host_of("acme")).sign_in("m4@acme.test").unwrap();
        let mut operator = Operator::new(&server, &key);
        shipped(&mut operator);
        let state = operator.get("/v1/organizations/acme/backup").unwrap();
        assert_eq!(state.status, 200, "{}", state.text());
        // Going back needs the key for a copy out of the backup.
        let named = operator.call("PATCH", "/v1/organizations/acme", &json!({"name": "Renamed"})).unwrap();
        assert_eq!(named.status, 200, "{}", named.text());
        shipped(&mut operator);
        let path = "/v1/organizations/acme/differences?from=0000000000000001";
        let differences = operator.get(path).unwrap();
        assert!(differences.text().contains("m4@acme.test"), "{}", differences.text());
        // What is made of its past is no less sealed, and has a key of its own.
        let copied = operator.post("/v1/organizations/acme/copies", &json!({"slug": "then"})).unwrap();
        assert_eq!(copied.status, 201, "{}", copied.text());
        let then = copied.json()["organization_id"].as_str().unwrap().to_owned();
        assert_eq!(operator.get("/v1/organizations/then").unwrap().json()["encryption"], "file");
        server.stop();
        assert_eq!(file_keys(&deployment.data_dir()), 2);
        let pages = pages_of(&deployment.file(&then));
        assert_sealed(&pages, "acme", "the copy");
        assert_ne!(pages[..16], stock[..16], "two files under one key");

        // The file is lost, and comes back out of the backup.
        fs::remove_file(&file).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", file.display()));
        }
        let server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        assert_eq!(operator.get("/v1/organizations/acme").unwrap().status, 503);
        let back = operator.post("/v1/organizations/acme/recovery", &json!({})).unwrap();
        assert_eq!(back.status, 200, "{} {}", back.text(), server.log());
        // What was wrong with it is remembered for a moment.
        let deadline = patience();
        while operator.get("/v1/organizations/acme").unwrap().status == 503 {
            assert!(Instant::now() < deadline, "it did not come back");
            std::thread::sleep(Duration::from_millis(100));
        }
        let shown = operator.get("/v1/organizations/acme").unwrap().json();
        assert_eq!((&shown["name"], &shown["encryption"]), (&json!("Renamed"), &json!("file")), "{shown}");
        Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
        shipped(&mut operator);
        server.stop();
        assert_sealed(&pages_of(&file), "acme", "the recovered file");
        assert!(restored(&copy) == pages_of(&file), "what is shipped after it is something else");
    }

    #[test]
    fn after_its_key_no_copy_can_be_read() {
        if !has("litestream") {
            return;
        }
        let (deployment, key, id, file, copy) = replicated(Deployment::new());
        let (stock, own) = (restored(&copy), pages_of(&file));
        let ring = Connection::open(deployment.data_dir().join("keyring.sqlite")).unwrap();
        let sql = "SELECT wrapped FROM data_key WHERE name = ?";
        let wrapped: Vec<u8> = ring.query_row(sql, [format!("{id}/file")], |row| row.get(0)).unwrap();
        drop(ring);
        let server = deployment.serve();
        let mut operator = Operator::new(&server, &key);
        let asked = operator.call("PUT", "/v1/organizations/acme/erasure", &json!({"immediately": true})).unwrap();
        assert_eq!(asked.status, 202, "{}", asked.text());
        let deadline = patience();
        loop {
            let erasure = operator.get(&format!("/v1/erasures/{id}")).unwrap().json();
            if erasure["state"] == "erased" {
                break;
            }
            assert!(Instant::now() < deadline, "it is not erased: {erasure}");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.stop();
        let mut rings = restored(&deployment.directory.path().join("replica/keyring.sqlite"));
        for suffix in ["", "-wal"] {
            rings.extend(fs::read(deployment.data_dir().join(format!("keyring.sqlite{suffix}"))).unwrap_or_default());
        }
        assert!(!holds(&rings, &wrapped), "the wrapped key is still there");

        // Somebody who kept a copy, and puts it and its row back.
        for kept in [stock, own] {
            assert_sealed(&kept, "acme", "a kept copy");
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &kept).unwrap();
            let catalog = Connection::open(deployment.data_dir().join("catalog.sqlite")).unwrap();
            let sql = "INSERT OR IGNORE INTO organization (id, slug, state, schema_version, created_at, updated_at)
                       VALUES (?, 'acme', 'active', 1, 1, 1)";
            catalog.execute(sql, [&id]).unwrap();
            drop(catalog);
            let server = deployment.serve();
            let answer = Operator::new(&server, &key).get("/v1/organizations/acme").unwrap();
            assert_eq!(answer.status, 503, "{}", answer.text());
            server.stop();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_changed_byte_is_noticed_and_only_there() {
        let mut world = World::new().await;
        let made = world.operator().post("/v1/organizations", &wanted("acme")).await.expect(201).id();
        world.operator().post("/v1/organizations", &wanted("beside")).await.expect(201);
        let file = file_of(&world, &made);
        world
            .while_stopped(|_| {
                let mut bytes = fs::read(&file).unwrap();
                bytes[1000] ^= 1;
                fs::write(&file, bytes).unwrap();
            })
            .await;
        world.operator().get("/v1/organizations/acme").await.expect_problem(503, "organization_unavailable");
        world.signed_in("beside", "owner@beside.test").await;
        // Its key is destroyed with it, and one that never came into place leaves none.
        world.operator().put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
        erased(&world, &made).await;
        assert_eq!(file_keys(&world.data_dir()), 1);
        let taken = world.operator().post("/v1/organizations", &wanted("beside")).await;
        taken.expect_problem(409, "slug_taken");
        assert_eq!(file_keys(&world.data_dir()), 1);
    }
}
