//! Organizations' files that come under a key of their own, under another one, or under none again.

use serde_json::{Value, json};

use crate::process::Deployment;
use crate::world::World;

const PATH: &str = "/v1/organizations/acme/encryption";
const ROTATIONS: &str = "/v1/organizations/acme/file_key_rotations";

/// Waits until nothing is on its way any more.
async fn settled(world: &World) -> Value {
    world.awaited(PATH, |found| found["state"].is_null() || !found["failure"].is_null()).await
}

#[cfg(not(feature = "sqlcipher"))]
mod without {
    use rusqlite::Connection;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_refused_and_nothing_is_made() {
        let world = World::new().await;
        world.organization("acme").await;
        let operator = world.operator();
        for encryption in ["file", "columns"] {
            for dry_run in [true, false] {
                let body = json!({"encryption": encryption, "dry_run": dry_run});
                operator.put(PATH, &body).await.expect_problem(409, "file_encryption_unavailable");
            }
        }
        operator.post(ROTATIONS, &json!({})).await.expect_problem(409, "file_encryption_unavailable");
        let found = settled(&world).await;
        assert_eq!((&found["encryption"], &found["file_key_version"]), (&json!("columns"), &Value::Null), "{found}");
        assert_eq!(found["files_from_before"], json!([]));
        let keyring = Connection::open(world.data_dir().join("keyring.sqlite")).unwrap();
        let keys: i64 =
            keyring.query_row("SELECT count(*) FROM data_key WHERE name GLOB '*/file'", [], |row| row.get(0)).unwrap();
        assert_eq!(keys, 0);
        operator.put(PATH, &json!({"encryption": "all"})).await.expect(422);
        operator.put(PATH, &json!({})).await.expect(422);
        operator.put("/v1/organizations/nobody/encryption", &json!({"encryption": "file"})).await.expect(404);
    }

    #[test]
    fn the_command_line_says_so() {
        let deployment = Deployment::new();
        let key = deployment.operator_key();
        let server = deployment.serve();
        crate::process::Operator::new(&server, &key).organization("acme");
        for command in ["encrypt", "decrypt", "rotate-file-key"] {
            let refused = deployment.run(&["org", command, "acme"]);
            assert_eq!(refused.status.code(), Some(1), "{refused:?}");
            assert!(String::from_utf8_lossy(&refused.stderr).contains("built without"), "{refused:?}");
        }
        server.stop();
    }
}

#[cfg(feature = "sqlcipher")]
mod with {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use bulkhead::base::OrganizationId;
    use bulkhead::features::audit::By;
    use bulkhead::features::encryption::{self, Aim, Step};
    use bulkhead::features::provisioning::Encryption;
    use rusqlite::Connection;
    use tempfile::TempDir;

    use super::*;
    use crate::organizations::file_of;
    use crate::process::{Operator, Person, host_of, owner_of, patience};

    const FILE: Aim = Aim::Be(Encryption::File);

    fn holds(bytes: &[u8], wanted: &str) -> bool {
        bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
    }

    fn files_below(directory: &Path) -> Vec<PathBuf> {
        let (mut found, mut waiting) = (Vec::new(), vec![directory.to_owned()]);
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { waiting.push(path) } else { found.push(path) }
            }
        }
        found
    }

    /// Whether an address, a hash or the schema stands in any file below a directory as it is.
    fn is_plain(directory: &Path) -> bool {
        files_below(directory).iter().any(|file| {
            let bytes = fs::read(file).unwrap();
            ["@acme.test", "$argon2id$", "CREATE TABLE"].iter().any(|plain| holds(&bytes, plain))
        })
    }

    /// Versions of the key of its file, with whether each was replaced.
    fn versions(world: &World) -> Vec<(u32, bool)> {
        let keyring = Connection::open(world.data_dir().join("keyring.sqlite")).unwrap();
        let sql = "SELECT version, replaced_at IS NOT NULL FROM data_key WHERE name GLOB '*/file' ORDER BY version";
        let mut statement = keyring.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    async fn changed(world: &World, to: &str, delete_copies: bool) -> Value {
        let body = json!({"encryption": to, "delete_copies": delete_copies});
        world.operator().put(PATH, &body).await.expect(202);
        let found = settled(world).await;
        assert_eq!((&found["encryption"], &found["failure"]), (&json!(to), &Value::Null), "{found}");
        found
    }

    async fn is_whole(world: &World, members: usize) {
        let found = world.operator().get("/v1/organizations/acme/members?limit=100").await.expect(200).json();
        assert_eq!(found["data"].as_array().unwrap().len(), members);
        let chain = world.operator().get("/v1/organizations/acme/audit_events/verification").await.expect(200).json();
        assert_eq!(chain["intact"], true, "{chain}");
        let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
        assert_eq!(check["ok"], true, "{check}");
    }

    async fn actions(world: &World) -> Vec<String> {
        world.events("acme").await.iter().map(|event| event["action"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_is_encrypted_given_another_key_and_decrypted_while_it_is_used() {
        let mut world = World::new().await;
        let id = world.organization("acme").await;
        world.organization("beside").await;
        let session = world.signed_in("acme", "owner@acme.test").await.session().unwrap();
        let directory = file_of(&world, &id).parent().unwrap().to_owned();
        let operator = world.operator();
        let wanted = json!({"encryption": "file", "dry_run": true});
        let dry = operator.put(PATH, &wanted).await.expect(200).json();
        assert_eq!((&dry["encryption"], &dry["changing_to"]), (&json!("columns"), &json!("file")), "{dry}");
        assert!(dry["bytes"].as_u64().unwrap() > 50_000 && dry["state"].is_null(), "{dry}");
        assert!(versions(&world).is_empty() && is_plain(&directory));
        operator.post(ROTATIONS, &json!({})).await.expect_problem(409, "file_not_encrypted");
        let same = operator.put(PATH, &json!({"encryption": "columns"})).await.expect(200).json();
        assert!(same["state"].is_null(), "{same}");

        // Whoever writes meanwhile is refused for a moment at the most, and nothing of theirs is lost.
        let mut members = 1;
        for step in ["file", "rotate", "columns"] {
            let writes = async {
                let mut written = 0;
                while written < 8 {
                    let body = json!({"email": format!("{step}-{written}@acme.test")});
                    let answer = world.operator().post("/v1/organizations/acme/members", &body).await;
                    match answer.status {
                        201 => written += 1,
                        503 => tokio::time::sleep(Duration::from_millis(50)).await,
                        _ => panic!("{answer:?}"),
                    }
                }
            };
            let change = async {
                match step {
                    "rotate" => drop(world.operator().post(ROTATIONS, &json!({})).await.expect(202)),
                    to => drop(world.operator().put(PATH, &json!({"encryption": to})).await.expect(202)),
                }
                settled(&world).await
            };
            let (found, ()) = tokio::join!(change, writes);
            members += 8;
            assert_eq!(found["failure"], Value::Null, "{found}");
            let is_file = step != "columns";
            assert_eq!(found["encryption"], if is_file { "file" } else { "columns" });
            assert_eq!(is_plain(&directory), !is_file, "after {step}");
            is_whole(&world, members).await;
            let check = json!({"session_token": session});
            world.operator().post("/v1/organizations/acme/sessions/authenticate", &check).await.expect(200);
            let shown = world.operator().get("/v1/organizations/acme").await.expect(200).json();
            assert_eq!(shown["encryption"], found["encryption"]);
        }
        assert_eq!(versions(&world), [(1, true), (2, true)], "kept for copies");
        let actions = actions(&world).await;
        for action in ["organization.encrypted", "file_key.rotated", "organization.decrypted"] {
            assert_eq!(actions.iter().filter(|found| *found == action).count(), 1, "{action}");
        }
        let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json().to_string();
        assert!(log.contains("organization.encryption_started") && log.contains("organization.decrypted"));

        // A plain one again, which takes a key again.
        changed(&world, "file", false).await;
        assert_eq!(versions(&world), [(1, true), (2, true), (3, false)]);
        world.while_stopped(|_| assert!(!is_plain(&directory), "closed")).await;
        is_whole(&world, members).await;
        world.signed_in("beside", "owner@beside.test").await;
        // Another one's file under its key's name is still refused where there has to be ciphertext.
        let file = file_of(&world, &id);
        let plain = file_of(&world, &world.operator().get("/v1/organizations/beside").await.expect(200).id());
        world.while_stopped(|_| fs::copy(plain, file).unwrap()).await;
        world.operator().get("/v1/organizations/acme").await.expect_problem(503, "organization_unavailable");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crash_in_any_step_is_undone_or_completed() {
        let mut world = World::new().await;
        let id = world.organization("acme").await;
        let organization: OrganizationId = id.parse().unwrap();
        let workshop = world.data_dir().join("orgs/.building");
        for steps in 0..=2 {
            let state = world.app().state().clone();
            encryption::begin(&state, organization, FILE, false, &By::system()).await.unwrap();
            let again = world.operator().put(PATH, &json!({"encryption": "file"})).await;
            again.expect_problem(409, "file_change_running");
            for step in [Step::Write, Step::Switch].into_iter().take(steps) {
                assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(step));
            }
            let found = world.operator().get(PATH).await.expect(200).json();
            assert_eq!((&found["state"], &found["changing_to"]), (&json!("rewriting"), &json!("file")), "{found}");
            // Between any two of them it can be read and written.
            if steps != 1 {
                world.member("acme", &format!("m{steps}@acme.test")).await;
            }
            drop(state);
            world.while_stopped(|_| ()).await;
            let found = settled(&world).await;
            assert_eq!(found["encryption"], if steps < 2 { "columns" } else { "file" }, "{found}");
            assert_eq!(versions(&world).len(), usize::from(steps == 2));
            assert!(files_below(&workshop).is_empty(), "{:?}", files_below(&workshop));
            is_whole(&world, if steps < 2 { 2 } else { 3 }).await;
        }
        let directory = file_of(&world, &id).parent().unwrap().to_owned();
        assert!(!is_plain(&directory));
        assert_eq!(actions(&world).await.iter().filter(|action| *action == "organization.encrypted").count(), 1);

        // The same on the way back.
        for steps in [1, 2] {
            let state = world.app().state().clone();
            let aim = Aim::Be(Encryption::Columns);
            encryption::begin(&state, organization, aim, false, &By::system()).await.unwrap();
            for step in [Step::Write, Step::Switch].into_iter().take(steps) {
                assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(step));
            }
            drop(state);
            world.while_stopped(|_| ()).await;
            let found = settled(&world).await;
            assert_eq!(found["encryption"], if steps == 1 { "file" } else { "columns" }, "{found}");
            assert_eq!(is_plain(&directory), steps == 2);
            is_whole(&world, 3).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_written_meanwhile_is_never_lost_and_in_the_end_writers_wait() {
        let world = World::new().await;
        let id = world.organization("acme").await;
        let organization: OrganizationId = id.parse().unwrap();
        let state = world.app().state().clone();
        encryption::begin(&state, organization, FILE, false, &By::system()).await.unwrap();
        for n in 0..3 {
            assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(Step::Write));
            world.member("acme", &format!("between-{n}@acme.test")).await;
            assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(Step::Again));
        }
        assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(Step::Write));
        let refused = world.operator().post("/v1/organizations/acme/members", &json!({"email": "x@acme.test"})).await;
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        refused.expect_problem(503, "organization_busy");
        is_whole(&world, 4).await;
        assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(Step::Switch));
        world.member("acme", "after@acme.test").await;
        assert_eq!(encryption::next(&state, organization).await.unwrap(), Some(Step::Settle));
        assert_eq!(encryption::next(&state, organization).await.unwrap(), None);
        is_whole(&world, 5).await;
        assert!(!is_plain(file_of(&world, &id).parent().unwrap()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_held_for_another_reason_is_left_alone() {
        let world = World::new().await;
        let id = world.organization("acme").await;
        let operator = world.operator();
        let wanted = json!({"encryption": "file"});
        operator.put("/v1/organizations/acme/freeze", &json!({"reason": "case 4711"})).await.expect(200);
        operator.put(PATH, &wanted).await.expect_problem(409, "organization_frozen");
        operator.delete("/v1/organizations/acme/freeze").await.expect(204);
        operator.put("/v1/organizations/acme/erasure", &json!({})).await.expect(202);
        operator.put(PATH, &wanted).await.expect_problem(409, "erasure_scheduled");
        operator.delete("/v1/organizations/acme/erasure").await;

        // Frozen between two steps: the file is not touched any more, and what was certified is there.
        let (state, organization): (_, OrganizationId) = (world.app().state().clone(), id.parse().unwrap());
        encryption::begin(&state, organization, FILE, false, &By::system()).await.unwrap();
        operator.put("/v1/organizations/acme/freeze", &json!({"reason": "case 4711"})).await.expect(200);
        encryption::carry_out(&state, organization).await;
        let found = settled(&world).await;
        assert_eq!((&found["encryption"], &found["failure"]), (&json!("columns"), &json!("organization_frozen")));
        assert!(found["state"].is_null() && versions(&world).is_empty(), "{found}");
        let same = operator.get("/v1/organizations/acme/freeze/verification").await.expect(200).json();
        assert_eq!(same["identical"], true, "{same}");
        operator.delete("/v1/organizations/acme/freeze").await.expect(204);

        // Erased: no key is left behind, whichever came first.
        changed(&world, "file", false).await;
        world.operator().post(ROTATIONS, &json!({})).await.expect(202);
        settled(&world).await;
        assert_eq!(versions(&world).len(), 2);
        operator.put("/v1/organizations/acme/erasure", &json!({"immediately": true})).await.expect(202);
        crate::erasure::erased(&world, &id).await;
        assert!(versions(&world).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn copies_beside_it_come_under_the_key_as_well_and_broken_ones_are_named() {
        let mut world = World::new().await;
        let id = world.organization("acme").await;
        let file = file_of(&world, &id);
        let directory = file.parent().unwrap().to_owned();
        world
            .while_stopped(|_| {
                fs::copy(&file, directory.join("before-0005.sqlite")).unwrap();
                fs::create_dir(directory.join("broken-1")).unwrap();
                fs::copy(&file, directory.join("broken-1/db.sqlite")).unwrap();
            })
            .await;
        assert_eq!(settled(&world).await["files_from_before"], json!([]));
        let found = changed(&world, "file", false).await;
        assert_eq!(found["files_from_before"], json!(["broken-1/db.sqlite"]), "{found}");
        assert!(!holds(&fs::read(directory.join("before-0005.sqlite")).unwrap(), "owner@acme.test"));
        assert!(is_plain(&directory), "what is broken stays as it is");
        let found = changed(&world, "file", true).await;
        assert_eq!(found["files_from_before"], json!([]), "{found}");
        assert!(!is_plain(&directory) && !directory.join("broken-1").exists());
        world.operator().post("/v1/organizations/acme/migration_rollback", &json!({})).await.expect(200);
        // It is set aside until an operator says that it may be opened.
        world.operator().delete("/v1/organizations/acme/quarantine").await;
        world.signed_in("acme", "owner@acme.test").await;
    }

    async fn backed_up() -> (World, TempDir) {
        let copies = tempfile::tempdir().unwrap();
        let url = format!("file://{}", copies.path().display());
        let settings = [("BULKHEAD_BACKUP_URL", url.as_str()), ("BULKHEAD_BACKUP_DELAY_MILLISECONDS", "10")];
        (World::with(&settings).await, copies)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_backup_goes_on_as_ciphertext_and_what_is_older_stays_until_it_is_deleted() {
        let (mut world, copies) = backed_up().await;
        let id = world.organization("acme").await;
        world.member("acme", "early@acme.test").await;
        let operator = world.operator();
        let replica = copies.path().join(file_of(&world, &id).strip_prefix(world.data_dir()).unwrap());
        // Asking for differences ships what waits.
        let differs = |from: &str| format!("/v1/organizations/acme/differences?from={from}");
        operator.get(&differs("0000000000000001")).await.expect(200);
        let history = operator.get("/v1/organizations/acme/backup").await.expect(200).json();
        let before = history["newest"]["txid"].as_str().unwrap().to_owned();
        assert!(is_plain(&replica));
        let found = changed(&world, "file", false).await;
        assert!(found["copies_from_before_until"].is_string(), "{found}");
        world.member("acme", "late@acme.test").await;
        // From then and from now, side by side.
        let told = world.operator().get(&differs(&before)).await.expect(200).text();
        assert!(told.contains("late@acme.test"), "{told}");
        let history = world.operator().get("/v1/organizations/acme/backup").await.expect(200).json();
        let after = history["newest"]["txid"].as_str().unwrap().to_owned();
        let restored = json!({"txid": before, "dry_run": true});
        world.operator().post("/v1/organizations/acme/restorations", &restored).await.expect(200);

        // Lost, and brought back as it was before it was encrypted: not as a plain file.
        let file = file_of(&world, &id);
        let remove = |file: &Path| {
            for suffix in ["", "-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", file.display()));
            }
        };
        world.while_stopped(|_| remove(&file)).await;
        world.operator().post("/v1/organizations/acme/recovery", &json!({"txid": before})).await.expect(200);
        assert!(!is_plain(file.parent().unwrap()));
        let mut browser = world.browser("acme");
        let deadline = patience();
        while browser.get("/sign-in").await.status != 200 && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        world.signed_in("acme", "early@acme.test").await;

        // Deleted: what is there is ciphertext, all of it, and everything since can be had back.
        let found = changed(&world, "file", true).await;
        assert_eq!(found["copies_from_before_until"], Value::Null, "{found}");
        assert!(!files_below(&replica).is_empty() && !is_plain(&replica));
        for gone in ["0000000000000001", &before] {
            world.operator().get(&differs(gone)).await.expect_problem(404, "backup_not_found");
        }
        let told = world.operator().get(&differs(&after)).await.expect(200).text();
        assert!(told.contains("late@acme.test"), "what was shipped since is gone as well: {told}");
        world.while_stopped(|_| remove(&file)).await;
        world.operator().post("/v1/organizations/acme/recovery", &json!({})).await.expect(200);
        let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json().to_string();
        assert!(log.contains("organization.history_deleted"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_key_is_kept_as_long_as_copies_need_it_and_no_longer() {
        let (world, _copies) = backed_up().await;
        let id = world.organization("acme").await;
        changed(&world, "file", false).await;
        let salt = |world: &World| fs::read(file_of(world, &id)).unwrap()[..16].to_vec();
        let first = salt(&world);
        world.operator().post(ROTATIONS, &json!({})).await.expect(202);
        let found = settled(&world).await;
        assert_eq!((&found["file_key_version"], &found["failure"]), (&json!(2), &Value::Null), "{found}");
        assert_ne!(salt(&world), first);
        let state = world.app().state().clone();
        encryption::round(&state).await;
        assert_eq!(versions(&world), [(1, true), (2, false)]);
        // Under the key before, and needed for that.
        let told = world.operator().get("/v1/organizations/acme/differences?from=0000000000000001").await;
        told.expect(200);
        world.clock.advance(state.keys.times().data_keys + Duration::from_secs(1));
        encryption::round(&state).await;
        assert_eq!(versions(&world), [(2, false)]);
        assert_eq!(actions(&world).await[0], "file_key.destroyed");

        // At once, where the copies go as well.
        world.operator().post(ROTATIONS, &json!({"delete_copies": true})).await.expect(202);
        let found = settled(&world).await;
        assert_eq!((&found["file_key_version"], &found["failure"]), (&json!(3), &Value::Null), "{found}");
        assert_eq!(versions(&world), [(3, false)]);
        assert_eq!(found["copies_from_before_until"], Value::Null, "{found}");
        world.signed_in("acme", "owner@acme.test").await;
    }

    /// No key of before is in the keyring any more, which could say that copies under it are to be deleted.
    #[tokio::test(flavor = "multi_thread")]
    async fn copies_that_nobody_can_read_any_more_go_when_that_is_asked_for() {
        let (mut world, copies) = backed_up().await;
        let id = world.organization("acme").await;
        changed(&world, "file", false).await;
        let file = file_of(&world, &id);
        let aside = file.parent().unwrap().join("broken-1");
        world
            .while_stopped(|_| {
                fs::create_dir(&aside).unwrap();
                fs::copy(&file, aside.join("db.sqlite")).unwrap();
            })
            .await;
        let found = changed(&world, "columns", false).await;
        assert_eq!(found["files_from_before"], json!(["broken-1/db.sqlite"]), "{found}");
        let state = world.app().state().clone();
        world.clock.advance(state.keys.times().data_keys + Duration::from_secs(1));
        encryption::round(&state).await;
        assert!(versions(&world).is_empty());
        let found = world.operator().get(PATH).await.expect(200).json();
        assert_eq!(found["files_from_before"], json!(["broken-1/db.sqlite"]), "{found}");

        let then = world.clock.now().to_string();
        let found = changed(&world, "columns", true).await;
        assert_eq!(found["files_from_before"], json!([]), "{found}");
        assert!(!aside.exists());
        let log = world.operator().get("/v1/audit_events?limit=100").await.expect(200).json().to_string();
        assert_eq!(log.matches("organization.history_deleted").count(), 1, "{log}");
        assert!(!files_below(copies.path()).is_empty(), "the backup does not go on");
        // Plain it was at the beginning as well, which is no reason to keep anything.
        let backup = world.operator().get("/v1/organizations/acme/backup").await.expect(200).json();
        assert!(backup["oldest"]["at"].as_str().unwrap() >= then.as_str(), "{then}: {backup}");
        world.signed_in("acme", "owner@acme.test").await;
        // Then there is nothing to be done, and nothing is.
        let body = json!({"encryption": "columns", "delete_copies": true});
        let again = world.operator().put(PATH, &body).await.expect(200).json();
        assert_eq!((&again["state"], &again["files_from_before"]), (&Value::Null, &json!([])), "{again}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn while_the_store_does_not_answer_nothing_is_begun_and_nothing_is_settled() {
        let (world, copies) = backed_up().await;
        let id = world.organization("acme").await;
        let organization: OrganizationId = id.parse().unwrap();
        let state = world.app().state().clone();
        let away = copies.path().with_extension("away");
        fs::rename(copies.path(), &away).unwrap();
        fs::write(copies.path(), "in the way").unwrap();
        let refused = world.operator().put(PATH, &json!({"encryption": "file"})).await;
        refused.expect_problem(503, "backup_refused");
        assert!(versions(&world).is_empty());
        let back = || {
            fs::remove_file(copies.path()).unwrap();
            fs::rename(&away, copies.path()).unwrap();
        };
        back();

        encryption::begin(&state, organization, FILE, false, &By::system()).await.unwrap();
        encryption::next(&state, organization).await.unwrap();
        encryption::next(&state, organization).await.unwrap();
        fs::rename(copies.path(), &away).unwrap();
        fs::write(copies.path(), "in the way").unwrap();
        encryption::carry_out(&state, organization).await;
        let found = world.operator().get(PATH).await.expect(200).json();
        assert_eq!((&found["state"], &found["failure"]), (&json!("rewriting"), &json!("backup_refused")), "{found}");
        // It is in use meanwhile.
        world.member("acme", "meanwhile@acme.test").await;
        back();
        encryption::round(&state).await;
        let found = settled(&world).await;
        assert_eq!((&found["encryption"], &found["failure"]), (&json!("file"), &Value::Null), "{found}");
        is_whole(&world, 2).await;
    }

    #[test]
    fn killed_at_any_moment_it_comes_back_as_one_or_the_other() {
        let deployment = Deployment::new();
        let key = deployment.operator_key();
        let mut server = deployment.serve();
        let id = Operator::new(&server, &key).organization("acme");
        let mut members = 1;
        for (n, wait) in [0, 5, 15, 30, 60, 100, 200, 400].into_iter().enumerate() {
            let mut operator = Operator::new(&server, &key);
            let body = json!({"email": format!("m{n}@acme.test")});
            assert_eq!(operator.post("/v1/organizations/acme/members", &body).unwrap().status, 201);
            members += 1;
            let is_file = operator.get(PATH).unwrap().json()["encryption"] == "file";
            let asked = match n % 3 {
                2 if is_file => operator.post(ROTATIONS, &json!({})),
                _ => operator.call("PUT", PATH, &json!({"encryption": if is_file { "columns" } else { "file" }})),
            };
            assert_eq!(asked.unwrap().status, 202);
            std::thread::sleep(Duration::from_millis(wait));
            server.kill();
            server = deployment.serve();
            let mut operator = Operator::new(&server, &key);
            let deadline = patience();
            let found = loop {
                let found = operator.get(PATH).unwrap().json();
                if found["state"].is_null() {
                    break found;
                }
                assert!(std::time::Instant::now() < deadline, "{found}");
                std::thread::sleep(Duration::from_millis(50));
            };
            let listed = operator.get("/v1/organizations/acme/members?limit=100").unwrap().json();
            assert_eq!(listed["data"].as_array().map(Vec::len), Some(members), "{listed} {}", server.log());
            let directory = deployment.file(&id).parent().unwrap().to_owned();
            assert_eq!(is_plain(&directory), found["encryption"] == "columns", "{found}");
        }
        Person::at(&server, &host_of("acme")).sign_in(&owner_of("acme")).unwrap();
        server.stop();
    }

    #[test]
    fn the_command_line_encrypts_rotates_and_decrypts() {
        let deployment = Deployment::new();
        let key = deployment.operator_key();
        let server = deployment.serve();
        let id = Operator::new(&server, &key).organization("acme");
        let told = |args: &[&str]| {
            let ran = deployment.run(args);
            assert!(ran.status.success(), "{ran:?}");
            String::from_utf8(ran.stdout).unwrap()
        };
        assert!(told(&["org", "encrypt", "acme", "--dry-run"]).contains("Nothing was changed"));
        assert!(told(&["org", "encrypt", "acme"]).contains("acme is encrypted as a whole."));
        assert!(told(&["org", "encrypt", "acme"]).contains("already"));
        let rotated = deployment.json(&["org", "rotate-file-key", "acme", "--delete-copies"]);
        assert_eq!((&rotated["file_key_version"], &rotated["state"]), (&json!(2), &Value::Null), "{rotated}");
        assert!(!is_plain(deployment.file(&id).parent().unwrap()));
        assert!(told(&["org", "decrypt", "acme"]).contains("acme is a plain file."));
        let refused = deployment.run(&["org", "rotate-file-key", "acme"]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        server.stop();
        // The same on the directory of a stopped one.
        assert!(told(&["org", "encrypt", "acme"]).contains("acme is encrypted as a whole."));
        assert!(!is_plain(deployment.file(&id).parent().unwrap()));
    }
}
