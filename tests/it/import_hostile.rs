//! Hostile archives and databases: refused, and nothing of them stays.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::export::{Parts, append, archive_of, compressed, omit};
use crate::import::{assert_clean, import};
use crate::process::{Deployment, patience, until};
use crate::world::World;

/// What the SQL does to the database of a good archive, and what it is refused with.
const HOSTILE: &[(&str, &str, &str)] = &[
    (
        "an extra trigger",
        "CREATE TRIGGER evil AFTER INSERT ON member BEGIN UPDATE member SET roles = '[\"owner\"]'; END",
        "import_schema_mismatch",
    ),
    ("an extra view", "CREATE VIEW evil AS SELECT * FROM member", "import_schema_mismatch"),
    (
        "a view in place of a table",
        "DROP TABLE used_relay; CREATE VIEW used_relay AS SELECT 1",
        "import_schema_mismatch",
    ),
    ("a changed view", "DROP VIEW v_members; CREATE VIEW v_members AS SELECT 1 AS id", "import_schema_mismatch"),
    ("a virtual table", "CREATE VIRTUAL TABLE evil USING fts5(text)", "import_schema_mismatch"),
    ("an extra table", "CREATE TABLE evil (id INTEGER)", "import_schema_mismatch"),
    ("an extra column", "ALTER TABLE member ADD COLUMN evil TEXT", "import_schema_mismatch"),
    (
        "a changed index",
        "DROP INDEX session_by_member; CREATE INDEX session_by_member ON session (member_id, abs(created_at))",
        "import_schema_mismatch",
    ),
    ("a missing index", "DROP INDEX session_by_member", "import_schema_mismatch"),
    (
        "a default that is an expression",
        "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, 'DEFAULT 0', 'DEFAULT (1)') \
         WHERE name = 'member'",
        "import_schema_mismatch",
    ),
    ("another kind of file", "PRAGMA application_id=0x42486331", "import_stamp_mismatch"),
    ("no stamp", "PRAGMA application_id=0", "import_stamp_mismatch"),
    ("another organization", "UPDATE organization SET id = 'org_01kaj4vbg0e3n9v7m2t8x5q6wz'", "import_stamp_mismatch"),
    ("a version of tomorrow", "PRAGMA user_version=999", "import_format_unknown"),
    ("a version below the first", "PRAGMA user_version=0", "import_format_unknown"),
    ("a negative version", "PRAGMA user_version=-1", "import_format_unknown"),
    ("an earlier version than it is", "PRAGMA user_version=1", "import_schema_mismatch"),
    ("a WAL", "PRAGMA journal_mode=WAL", "import_database_damaged"),
    ("other pages", "PRAGMA page_size=8192; VACUUM", "import_database_damaged"),
    ("another encoding of text", "", "import_database_damaged"),
    (
        "a reference to nothing",
        "PRAGMA foreign_keys=OFF; INSERT INTO session VALUES \
         ('session_01kaj4vbg0e3n9v7m2t8x5q6wz', 'mem_x', x'00', '', 0, NULL, NULL, 0, 0, 0, 0, NULL, NULL)",
        "import_database_damaged",
    ),
    ("more rows than it says", "INSERT INTO used_relay VALUES (x'00', 0)", "import_count_mismatch"),
    ("an event less", "DELETE FROM audit_event WHERE sequence = 2", "import_count_mismatch"),
    ("a changed event", "UPDATE audit_event SET outcome = 'failure' WHERE sequence = 1", "import_audit_broken"),
    (
        "a changed payload",
        "UPDATE audit_event SET payload = replace(payload, 'owner', 'other') WHERE sequence > 1",
        "import_audit_broken",
    ),
    ("a role that there is not", "UPDATE member SET roles = '[\"god\"]'", "import_value_invalid"),
    ("no role", "UPDATE member SET roles = '[]'", "import_value_invalid"),
    ("roles that are no JSON", "UPDATE member SET roles = '[[[['", "import_value_invalid"),
    ("an id that is none", "UPDATE member SET id = '../../etc'", "import_value_invalid"),
    ("an address that is none", "UPDATE member SET email = 'a\nb'", "import_value_invalid"),
    ("a name that turns the text", "UPDATE organization SET name = 'a' || char(0x202e) || 'b'", "import_value_invalid"),
    ("a slug that leads out", "UPDATE organization SET slug = '../x'", "import_value_invalid"),
    ("a slug that is kept back", "UPDATE organization SET slug = 'www'", "import_value_invalid"),
    ("a colour that is CSS", "UPDATE organization SET accent = 'red;}*{'", "import_value_invalid"),
    ("a policy that there is not", "UPDATE organization SET policy = '{\"god_mode\": true}'", "import_value_invalid"),
    ("a policy out of bounds", "UPDATE organization SET policy = '{\"lockout_attempts\": 0}'", "import_value_invalid"),
    ("a time out of this world", "UPDATE member SET created_at = 9223372036854775807", "import_value_invalid"),
    ("a time before all time", "UPDATE organization SET created_at = -1", "import_value_invalid"),
    (
        "metadata deeper than a stack",
        "UPDATE organization SET metadata = replace(hex(zeroblob(50000)), '00', '[')",
        "import_value_invalid",
    ),
    ("text in another encoding", "UPDATE member SET title = CAST(x'C3A4FF' AS TEXT)", "import_value_invalid"),
    ("a name in another encoding", "UPDATE organization SET name = CAST(x'FC' AS TEXT)", "import_value_invalid"),
    (
        "an event in another encoding",
        "UPDATE audit_event SET payload = CAST(x'7BFF7D' AS TEXT) WHERE sequence = 2",
        "import_value_invalid",
    ),
    ("an event with an id that is none", "UPDATE audit_event SET id = 'x' WHERE sequence = 1", "import_value_invalid"),
    ("a huge value", "UPDATE member SET title = hex(zeroblob(600000))", "import_value_invalid"),
];

#[tokio::test(flavor = "multi_thread")]
async fn hostile_databases_are_refused_and_leave_nothing() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    let archive = archive_of(&here, "acme", &omit()).await;
    // What is forged is taken where nothing is wrong with it: so each refusal below has its own reason.
    let untouched = Parts::of(&archive).signed().packed();
    import(&there, &untouched, "?dry_run=true", None).await.expect(200);
    for &(what, sql, code) in HOSTILE {
        let mut parts = Parts::of(&archive);
        parts.database(|db| {
            db.execute_batch(sql).unwrap_or_else(|error| panic!("{what}: {error}"));
        });
        if what == "another encoding of text" {
            parts.members.get_mut("organization.sqlite").unwrap()[59] = 2;
        }
        let answer = import(&there, &parts.signed().packed(), "?slug=evil", None).await;
        // Where the slug itself is what is wrong, it must not be replaced.
        let answer = if what.contains("slug") {
            let mut parts = Parts::of(&archive);
            parts.database(|db| db.execute_batch(sql).unwrap());
            drop(answer);
            import(&there, &parts.signed().packed(), "?new_id=true&slug=evil&dry_run=true", None).await
        } else {
            answer
        };
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{what}: {answer:?}");
    }
    assert_clean(&there, &[]).await;
    // The service is as good as before.
    import(&there, &archive, "", None).await.expect(201);
    assert_clean(&there, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_is_told_with_its_place() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    here.member("acme", "ada@acme.test").await;
    let archive = archive_of(&here, "acme", &omit()).await;
    for (sql, place) in [
        (
            "UPDATE member SET title = CAST(x'FF' AS TEXT) WHERE id = (SELECT max(id) FROM member)",
            "member.title (row 2)",
        ),
        ("UPDATE organization SET slug = CAST(x'FF' AS TEXT)", "organization.slug (row 1)"),
        ("UPDATE audit_event SET payload = CAST(x'FF' AS TEXT) WHERE sequence = 2", "audit_event.payload (row 2)"),
    ] {
        let mut parts = Parts::of(&archive);
        parts.database(|db| db.execute_batch(sql).unwrap());
        let answer = import(&there, &parts.signed().packed(), "?dry_run=true", None).await;
        let detail = answer.expect_problem(422, "import_value_invalid").json()["detail"].to_string();
        assert!(detail.contains(place) && detail.contains("UTF-8"), "{place}: {detail}");
    }
    assert_clean(&there, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_pages_are_refused() {
    let (here, there) = (World::new().await, World::new().await);
    here.organization("acme").await;
    let archive = archive_of(&here, "acme", &omit()).await;
    let pages = Parts::of(&archive).members["organization.sqlite"].len() / 4096;
    for page in 1..pages {
        let mut parts = Parts::of(&archive);
        let database = parts.members.get_mut("organization.sqlite").unwrap();
        // The type of the page and where its cells are.
        database[page * 4096..page * 4096 + 64].fill(0xff);
        let answer = import(&there, &parts.signed().packed(), "", None).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "import_database_damaged"), "{page}: {answer:?}");
    }
    for length in [0, 50, 99, 100, 4095, 4096, 4097, 8192] {
        let mut parts = Parts::of(&archive);
        parts.members.get_mut("organization.sqlite").unwrap().truncate(length);
        let answer = import(&there, &parts.signed().packed(), "", None).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, "import_database_damaged"), "{length}: {answer:?}");
    }
    // Any byte at all: a refusal or a good import, and never a fault.
    let mut parts = Parts::of(&archive);
    let length = parts.members["organization.sqlite"].len();
    for at in (0..length).step_by(length / 40) {
        let database = parts.members.get_mut("organization.sqlite").unwrap();
        database[at] ^= 0x55;
        let answer = import(&there, &Parts { ..clone_of(&parts) }.signed().packed(), "?dry_run=true", None).await;
        assert!([200, 422].contains(&answer.status), "byte {at}: {answer:?}");
        parts.members.get_mut("organization.sqlite").unwrap()[at] ^= 0x55;
    }
    assert_clean(&there, &[]).await;
}

fn clone_of(parts: &Parts) -> Parts {
    Parts { members: parts.members.clone(), manifest: parts.manifest.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_archives_are_refused_and_leave_nothing() {
    let here = World::new().await;
    let there = World::with(&[
        ("BULKHEAD_IMPORTS_MAX_BYTES_MIB", "4"),
        ("BULKHEAD_IMPORTS_MAX_UNPACKED_MIB", "8"),
        ("BULKHEAD_IMPORTS_MAX_ROWS", "100"),
    ])
    .await;
    here.organization("acme").await;
    let archive = archive_of(&here, "acme", &omit()).await;
    let refused = |what: &'static str, archive: Vec<u8>, status: u16, code: &'static str| {
        let there = &there;
        async move {
            let answer = import(there, &archive, "", None).await;
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {answer:?}");
        }
    };
    // No archive at all.
    refused("nothing", Vec::new(), 422, "import_not_an_archive").await;
    refused("noise", vec![0x5a; 5000], 422, "import_not_an_archive").await;
    refused("an empty tar", compressed(&[0; 1024]), 422, "import_incomplete").await;
    refused("cut off", archive[..archive.len() / 2].to_vec(), 422, "import_not_an_archive").await;
    refused("something behind it", [archive.as_slice(), &archive].concat(), 422, "import_not_an_archive").await;

    // Members that no export has.
    let with = |name: &str, kind: tar::EntryType| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in &Parts::of(&archive).members {
            append(&mut tar, name, tar::EntryType::Regular, content);
        }
        append(&mut tar, name, kind, if kind == tar::EntryType::Regular { b"evil" } else { b"" });
        compressed(&tar.into_inner().unwrap())
    };
    for name in
        ["../../evil", "/tmp/evil", "./README.txt", "notes.txt", "secrets.age/../evil", "organization.sqlite-wal"]
    {
        refused("a path", with(name, tar::EntryType::Regular), 422, "import_unexpected_member").await;
    }
    refused("twice the same", with("organization.sqlite", tar::EntryType::Regular), 422, "import_unexpected_member")
        .await;
    for kind in [
        tar::EntryType::Symlink,
        tar::EntryType::Link,
        tar::EntryType::Directory,
        tar::EntryType::Fifo,
        tar::EntryType::Char,
        tar::EntryType::GNUSparse,
        tar::EntryType::GNULongName,
        tar::EntryType::XHeader,
    ] {
        refused("a member that is no file", with("secrets.age", kind), 422, "import_unexpected_member").await;
    }
    for missing in ["README.txt", "manifest.json", "manifest.jws", "organization.sqlite"] {
        let mut parts = Parts::of(&archive);
        parts.members.remove(missing);
        refused("a missing member", parts.packed(), 422, "import_incomplete").await;
    }

    // More than it seems.
    let zeroes = vec![0; 1 << 20];
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path("organization.sqlite").unwrap();
    header.set_size(1 << 30);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    bomb.write_all(header.as_bytes()).unwrap();
    for _ in 0..1024 {
        bomb.write_all(&zeroes).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    refused("a bomb", bomb, 413, "import_too_large").await;
    let mut behind = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    behind.write_all(&zstd::stream::decode_all(archive.as_slice()).unwrap()).unwrap();
    for _ in 0..512 {
        behind.write_all(&zeroes).unwrap();
    }
    refused("a bomb behind the end", behind.finish().unwrap(), 413, "import_too_large").await;
    refused("a large upload", vec![0; 5 << 20], 413, "import_too_large").await;
    let mut window = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    window.long_distance_matching(true).unwrap();
    window.window_log(30).unwrap();
    window.write_all(&[0; 1024]).unwrap();
    refused("a large window", window.finish().unwrap(), 422, "import_not_an_archive").await;
    let mut rows = Parts::of(&archive);
    rows.database(|db| {
        db.execute_batch(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
             INSERT INTO used_relay SELECT randomblob(32), 0 FROM n",
        )
        .unwrap();
    });
    rows.manifest["counts"]["used_relay"] = json!(1000);
    refused("many rows", rows.signed().packed(), 413, "import_too_large").await;

    // Manifests.
    let manifest = |text: &[u8]| {
        let mut parts = Parts::of(&archive);
        parts.members.insert("manifest.json".into(), text.to_vec());
        parts.packed()
    };
    refused("no JSON", manifest(b"{"), 422, "import_manifest_invalid").await;
    refused("deep JSON", manifest("[".repeat(100_000).as_bytes()), 422, "import_manifest_invalid").await;
    refused("no text", manifest(&[0xff; 10]), 422, "import_manifest_invalid").await;
    refused("another format", manifest(br#"{"format": "bulkhead-export/2"}"#), 422, "import_format_unknown").await;
    refused("half a manifest", manifest(br#"{"format": "bulkhead-export/1"}"#), 422, "import_manifest_invalid").await;
    refused("a long manifest", manifest(" ".repeat(300 << 10).as_bytes()), 413, "import_too_large").await;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut parts = Parts::of(&archive);
        change(&mut parts.manifest);
        parts.signed().packed()
    };
    let counts = changed(&|manifest| manifest["counts"]["member"] = json!(2));
    refused("wrong counts", counts, 422, "import_count_mismatch").await;
    let version = changed(&|manifest| manifest["schema_version"] = json!(1));
    refused("another version", version, 422, "import_stamp_mismatch").await;
    let more = changed(&|manifest| manifest["files"]["notes.txt"] = json!({"size": 1, "sha256": ""}));
    refused("a file that is not there", more, 422, "import_manifest_invalid").await;
    for field in ["slug", "name"] {
        let called = changed(&|manifest| manifest["organization"][field] = json!("other"));
        refused("another name than in the file", called, 422, "import_manifest_invalid").await;
    }
    let secrets = changed(&|manifest| manifest["secrets"] = json!("age"));
    refused("secrets that are not there", secrets, 422, "import_manifest_invalid").await;
    let head = changed(&|manifest| manifest["audit"]["sequence"] = json!(1));
    refused("another end of the log", head, 422, "import_audit_broken").await;
    let mut unsigned = Parts::of(&archive).signed();
    unsigned.members.insert("manifest.jws".into(), b"e30.e30.".to_vec());
    refused("no signature", unsigned.packed(), 422, "import_signature_invalid").await;

    assert_clean(&there, &[]).await;
    import(&there, &archive, "", None).await.expect(201);
    assert_clean(&there, &["acme"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checker_that_overruns_or_lies_is_not_believed() {
    let here = World::new().await;
    here.organization("acme").await;
    let archive = archive_of(&here, "acme", &omit()).await;
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, script: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    let real = env!("CARGO_BIN_EXE_bulkhead");
    for (name, script, code) in [
        ("silent", "exit 0".to_owned(), "import_check_failed"),
        ("sleepy", "exec /bin/sleep 60".to_owned(), "import_check_failed"),
        ("crashing", "kill -9 $$".to_owned(), "import_check_failed"),
        (
            "endless",
            "while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done".to_owned(),
            "import_check_failed",
        ),
        ("other", r#"echo '{"refused": {"code": "internal_error", "detail": ""}}'"#.to_owned(), "import_check_failed"),
        // One that was taken over: good verdicts, and rows that no check would let through.
        (
            "bending",
            format!(r#"{real} "$@" && /bin/sed -i 's/\[\\"owner\\"\]/[\\"god\\"]/' rows.jsonl"#),
            "import_value_invalid",
        ),
        ("dropping", format!(r#"{real} "$@" && /bin/sed -i '$d' rows.jsonl"#), "import_audit_broken"),
        ("doubling", format!(r#"{real} "$@" && /bin/sed -i '1p' rows.jsonl"#), "import_value_invalid"),
        ("cutting", format!(r#"{real} "$@" && printf '{{"table"' >> rows.jsonl"#), "import_check_failed"),
    ] {
        let path = program(name, &script);
        let seconds = if ["sleepy", "endless"].contains(&name) { "3" } else { "300" };
        let settings = [("BULKHEAD_IMPORTS_CHECK_PROGRAM", path.as_str()), ("BULKHEAD_IMPORTS_CHECK_SECONDS", seconds)];
        let there = World::with(&settings).await;
        let answer = import(&there, &archive, "", None).await;
        assert_eq!((answer.status, answer.code().as_str()), (422, code), "{name}: {answer:?}");
        assert_clean(&there, &[]).await;
    }
}

/// What the kernel does with a check that wants more than it was given.
#[test]
fn the_checking_process_binds_its_own_hands() {
    use std::process::{Command, Stdio};
    let archive = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let here = World::new().await;
        here.organization("acme").await;
        archive_of(&here, "acme", &omit()).await
    });
    let ask = |memory: u64, unpacked: u64| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("archive.tar.zst"), &archive).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.arg("import-check").env_clear().current_dir(folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let question = json!({"unpacked": unpacked, "rows": 1000, "seconds": 20, "memory": memory, "key": null});
        child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
        let ended = child.wait_with_output().unwrap();
        (ended.status.success(), String::from_utf8_lossy(&ended.stdout).trim_start().starts_with(r#"{"good""#))
    };
    assert_eq!(ask(1 << 30, 1 << 30), (true, true));
    assert!(!ask(1 << 20, 1 << 30).1, "memory");
    // It writes no more than the bound, which is a third of what the archive unpacks to.
    assert!(!ask(1 << 30, 1 << 12).1, "files");
}

/// Killed without a chance to do anything, the server leaves no process behind that goes on with what nobody waits for.
#[test]
fn the_checking_process_ends_with_the_server() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Stdio;

    let archive = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let here = World::new().await;
        here.organization("acme").await;
        archive_of(&here, "acme", &omit()).await
    });
    let deployment = Deployment::new();
    let at = |name: &str| deployment.directory.path().join(name);
    let (file, pipe, program) = (at("acme.tar.zst"), at("pipe"), at("program"));
    fs::write(&file, &archive).unwrap();
    // A check that hangs where nothing but a signal gets to it: what it reads is a pipe that nobody writes to.
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
    let real = env!("CARGO_BIN_EXE_bulkhead");
    let script = format!("#!/bin/sh\n/bin/ln -sf {} archive.tar.zst && exec {real} \"$@\"\n", pipe.display());
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let deployment = deployment.with("IMPORTS_CHECK_PROGRAM", program.display());
    let imports = deployment.data_dir().join("imports");
    let checkers = || -> Vec<i32> {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // One that has ended and was not waited for is in no folder any more.
        let is_there = |pid: &i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&imports));
        pids.filter(is_there).collect()
    };
    let mut server = deployment.serve();
    let mut import = deployment.command(&["org", "import", file.to_str().unwrap(), "--new-id", "--slug", "copy"]);
    let mut import = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // It has heard what it is to do, and is about to read the archive.
    until("the check hangs", || {
        let mut spools = fs::read_dir(&imports).into_iter().flatten().flatten();
        spools.any(|spool| spool.path().join("unpacked").is_dir())
    });
    assert_eq!(checkers().len(), 1);
    server.kill();
    import.wait().unwrap();
    let deadline = patience();
    while !checkers().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let left = checkers();
    for pid in &left {
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(*pid).unwrap(), rustix::process::Signal::KILL);
    }
    assert!(left.is_empty(), "it goes on without a server");
}
