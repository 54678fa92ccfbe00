//! The command line, from outside: the program as people run it, on a directory of its own.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{free_port, patience};
use crate::wire::PATIENCE;

const PASSWORD: &str = "violet-harbour-anvil-27";

/// A data directory, and the settings that go with it.
struct Deployment {
    directory: tempfile::TempDir,
    port: u16,
}

/// A running `bulkhead serve`; told to stop when dropped.
struct Server(Option<Child>);

/// How a command ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Deployment {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), port: free_port() }
    }

    fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn origin(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command
            .args(args)
            // No settings but these, and no file beside the directory.
            .env_clear()
            .current_dir(self.directory.path())
            .env("BULKHEAD_SERVER_DATA_DIR", self.data_dir())
            .env("BULKHEAD_SERVER_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("BULKHEAD_SERVER_METRICS_LISTEN", "")
            .env("BULKHEAD_SERVER_PUBLIC_URL", self.origin())
            .env("BULKHEAD_SERVER_REQUEST_TIMEOUT_SECONDS", PATIENCE.as_secs().to_string())
            .env("BULKHEAD_PASSWORD_MEMORY_KIB", "7168")
            .env("BULKHEAD_PASSWORD_ITERATIONS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        finish(self.command(args))
    }

    fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        ran(child.wait_with_output().unwrap())
    }

    /// The one document that a command prints, which must succeed.
    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], args].concat());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}: {ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    /// What a command prints for people, which must succeed.
    fn text(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
        ran.out
    }

    /// The error of a command with `--json`, which must be refused.
    fn refusal(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}: {ran:?}");
        let mut document: Value = serde_json::from_str(&ran.err).unwrap_or_else(|_| panic!("{args:?}: {ran:?}"));
        document["error"].take()
    }

    fn serve(&self) -> Server {
        let mut child = self.command(&["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = patience();
        while self.run(&["healthcheck"]).code != 0 {
            assert!(child.try_wait().unwrap().is_none(), "the server stopped: {:?}", self.run(&["doctor"]));
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Server(Some(child))
    }
}

impl Server {
    /// As a supervisor stops it.
    fn stop(&mut self) -> Option<i32> {
        let mut child = self.0.take()?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn finish(mut command: Command) -> Ran {
    ran(command.output().unwrap())
}

fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn strings<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    list["data"].as_array().unwrap().iter().map(|object| object[key].as_str().unwrap()).collect()
}

/// Everything that an operator does, on a directory that has no organization `slug` yet.
fn administer(deployment: &Deployment, slug: &str) {
    let name = format!("Company {slug}");
    let owner = format!("ada@{slug}.test");
    let created = deployment.run_with_input(
        &[
            "org",
            "create",
            "--name",
            &name,
            "--slug",
            slug,
            "--external-id",
            &format!("crm-{slug}"),
            "--accent",
            "#b4432f",
            "--owner-name",
            "Ada",
            "--owner-email",
            &owner,
            "--owner-password-stdin",
        ],
        PASSWORD,
    );
    assert_eq!(created.code, 0, "{created:?}");
    assert!(created.out.starts_with(&format!("Made the organization {slug}.")), "{created:?}");
    assert!(!created.out.contains(PASSWORD), "{created:?}");

    let shown = deployment.json(&["org", "show", slug]);
    assert_eq!((shown["object"].as_str(), shown["name"].as_str()), (Some("organization"), Some(name.as_str())));
    let id = shown["id"].as_str().unwrap().to_owned();
    for other_name in [id.as_str(), &format!("crm-{slug}")] {
        assert_eq!(deployment.json(&["org", "show", other_name])["id"], shown["id"]);
    }
    assert!(strings(&deployment.json(&["org", "list"]), "slug").contains(&slug));
    let listed = deployment.text(&["org", "list"]);
    assert!(listed.starts_with("SLUG") && listed.contains(&id), "{listed}");

    let ran = deployment.run_with_input(
        &["member", "create", slug, "--email", "grace@x.test", "--role", "admin", "--password-stdin", "--json"],
        &format!("{PASSWORD}-2\n"),
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    let grace: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&grace["status"], &grace["roles"]), (&"active".into(), &serde_json::json!(["admin"])));
    let pending = deployment.text(&["member", "create", slug, "--email", "alan@x.test", "--name", "Alan Turing"]);
    assert!(pending.contains("Alan Turing") && pending.contains("pending"), "{pending}");
    let members = deployment.json(&["member", "list", slug]);
    assert_eq!(members["object"], "list");
    assert_eq!(strings(&members, "email"), ["alan@x.test", "grace@x.test", owner.as_str()]);
    let first = deployment.json(&["member", "list", slug, "--limit", "1"]);
    assert_eq!((strings(&first, "email"), first["list_metadata"]["after"].is_string()), (vec!["alan@x.test"], true));

    deployment.text(&["member", "deactivate", slug, "Grace@x.test"]);
    let status = |member: &str| {
        let members = deployment.json(&["member", "list", slug]);
        let mut members = members["data"].as_array().unwrap().iter();
        members.find(|found| found["id"] == member).unwrap()["status"].as_str().unwrap().to_owned()
    };
    let grace = grace["id"].as_str().unwrap();
    assert_eq!(status(grace), "inactive");
    deployment.text(&["member", "reactivate", slug, grace]);
    assert_eq!(status(grace), "active");

    deployment.text(&["org", "suspend", slug, "--reason", "unpaid"]);
    assert_eq!(deployment.json(&["org", "show", slug])["state"], "suspended");
    deployment.text(&["org", "resume", slug]);
    assert_eq!(deployment.json(&["org", "show", slug])["state"], "active");

    let verified = deployment.json(&["org", "audit", "verify", slug]);
    assert_eq!((&verified["object"], &verified["intact"]), (&"audit_verification".into(), &true.into()));
    assert!(deployment.text(&["org", "audit", "verify", slug]).contains("is whole"));
    let events = deployment.json(&["org", "audit", "list", slug]);
    assert_eq!(events["data"].as_array().unwrap().len() as u64, verified["events"].as_u64().unwrap());
    assert!(deployment.text(&["org", "audit", "list", slug, "--limit", "2"]).lines().count() == 3);

    let app = deployment.text(&["app", "create", "--name", "Demo", "--redirect-uri", "http://localhost:3000/callback"]);
    assert!(app.contains("shown this once"), "{app}");
    let app = deployment.json(&["app", "create", "--name", "Phone", "--public", "--redirect-uri", "https://a.test/"]);
    assert_eq!((&app["type"], &app["client_secret"]), (&"public".into(), &Value::Null));
    assert!(deployment.text(&["app", "list"]).contains("http://localhost:3000/callback"));

    let key = deployment.json(&["key", "create", "--name", "ci", "--scope", "members:read", "--org", slug]);
    assert!(key["secret"].as_str().unwrap().starts_with("bh_sk_"), "{key}");
    let key = key["id"].as_str().unwrap();
    assert_eq!(strings(&deployment.json(&["key", "list", "--org", slug]), "id"), [key]);
    deployment.text(&["key", "revoke", key, "--org", slug]);
    assert_eq!(deployment.refusal(&["key", "revoke", key])["code"], "api_key_not_found");

    let checked = deployment.json(&["catalog", "check"]);
    assert_eq!((&checked["object"], &checked["ok"]), (&"catalog_check".into(), &true.into()));
    assert!(deployment.text(&["catalog", "check"]).contains("agrees"));
}

#[test]
fn a_stopped_deployment_and_a_running_one_are_administered_alike() {
    let deployment = Deployment::new();
    administer(&deployment, "acme");
    let mut server = deployment.serve();
    // What was made without a server is there with one, and the other way round.
    assert_eq!(strings(&deployment.json(&["org", "list"]), "slug"), ["acme"]);
    administer(&deployment, "north-wind");
    assert_eq!(server.stop(), Some(0));
    assert_eq!(strings(&deployment.json(&["org", "list"]), "slug"), ["north-wind", "acme"]);
}

#[test]
fn one_process_owns_a_directory() {
    let deployment = Deployment::new();
    let _server = deployment.serve();
    let second = finish({
        let mut command = deployment.command(&["serve"]);
        command.env("BULKHEAD_SERVER_LISTEN", "127.0.0.1:0");
        command
    });
    assert_eq!(second.code, 1, "{second:?}");
    assert!(
        second.err.contains("data_directory_in_use") && second.err.contains("BULKHEAD_SERVER_DATA_DIR"),
        "{second:?}"
    );
    assert_eq!(deployment.text(&["healthcheck"]), "healthy\n");
}

#[test]
fn a_deployment_elsewhere_is_administered_with_a_key() {
    let deployment = Deployment::new();
    let _server = deployment.serve();
    let key = deployment.json(&["key", "create", "--name", "far", "--scope", "organizations:read,organizations:write"]);
    let far = |key: &str, args: &[&str]| {
        let mut command = deployment.command(args);
        command.env("BULKHEAD_URL", deployment.origin()).env("BULKHEAD_API_KEY", key);
        // Nothing of this machine is used.
        command.env("BULKHEAD_SERVER_DATA_DIR", "/nonexistent");
        finish(command)
    };
    let secret = key["secret"].as_str().unwrap();
    let made = far(secret, &["org", "create", "--name", "Acme", "--slug", "acme"]);
    assert_eq!(made.code, 0, "{made:?}");
    let shown = far(secret, &["org", "show", "acme", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap()["name"], "Acme");
    let refused = far(secret, &["member", "list", "acme"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("(forbidden)") && refused.err.contains("members:read"), "{refused:?}");
    let unknown = far("bh_sk_nonsense", &["org", "list"]);
    assert!(unknown.code == 1 && unknown.err.contains("(unauthenticated)"), "{unknown:?}");
    assert!(!unknown.err.contains("nonsense"), "{unknown:?}");

    let keyless = deployment.run(&["org", "list", "--url", &deployment.origin()]);
    assert!(keyless.code == 2 && keyless.err.contains("BULKHEAD_API_KEY"), "{keyless:?}");
}

#[test]
fn refusals_say_what_and_what_to_do() {
    let deployment = Deployment::new();
    let nothing = deployment.refusal(&["org", "list"]);
    assert_eq!(nothing["code"], "no_deployment");
    assert!(!deployment.data_dir().exists());

    deployment.json(&["org", "create", "--name", "Acme", "--slug", "acme"]);
    let unknown = deployment.run(&["org", "show", "acme-2"]);
    assert_eq!((unknown.code, unknown.out.as_str()), (1, ""));
    assert!(
        unknown.err.starts_with("error: There is no such organization. (organization_not_found)\n")
            && unknown.err.contains("bulkhead org list"),
        "{unknown:?}"
    );
    let unknown = deployment.refusal(&["member", "list", "org_00000000000000000000000000"]);
    assert_eq!((&unknown["code"], &unknown["status"]), (&"organization_not_found".into(), &404.into()));
    assert!(unknown["advice"].is_string() && unknown["request_id"].is_string(), "{unknown}");

    let taken = deployment.refusal(&["org", "create", "--name", "Other", "--slug", "acme"]);
    assert_eq!(taken["code"], "slug_taken");
    let invalid = deployment.run(&["org", "create", "--name", "Other", "--slug", "Not A Slug"]);
    assert!(invalid.code == 1 && invalid.err.contains("  slug: "), "{invalid:?}");
    let weak =
        deployment.run_with_input(&["member", "create", "acme", "--email", "a@x.test", "--password-stdin"], "12345678");
    assert!(weak.code == 1 && weak.err.contains("password"), "{weak:?}");
    let nobody = deployment.refusal(&["member", "deactivate", "acme", "nobody@x.test"]);
    assert_eq!(nobody["code"], "member_not_found");
}

#[test]
fn wrong_use_is_told_from_refusal() {
    let deployment = Deployment::new();
    for args in [
        &["org"][..],
        &["org", "create"],
        &["nonsense"],
        &["org", "show", ".."],
        &["org", "list", "--url", "http://id.example.com"],
        &["member", "create", "acme", "--email", "a@x.test", "--password", PASSWORD],
        // Standard input is empty.
        &["member", "create", "acme", "--email", "a@x.test", "--password-stdin"],
    ] {
        let ran = deployment.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(!ran.err.is_empty());
    }
    assert!(!deployment.data_dir().exists());
    for args in [&["--help"][..], &["org", "create", "--help"], &["--version"]] {
        let ran = deployment.run(args);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
        assert!(ran.out.contains("bulkhead"), "{ran:?}");
    }
}

#[test]
fn every_problem_of_the_configuration_is_told_at_once() {
    let deployment = Deployment::new();
    let file = deployment.directory.path().join("wrong.toml");
    std::fs::write(&file, "[server]\nlisten = \"nowhere\"\nlissten = 1\n[mail]\nsmtp_password = \"hush-hush\"\n")
        .unwrap();
    let with_file = |args: &[&str]| {
        let mut command = deployment.command(args);
        command
            .env_remove("BULKHEAD_SERVER_LISTEN")
            .env("BULKHEAD_CONFIG", &file)
            .env("BULKHEAD_PASSWORD_ITERATIONS", "99");
        finish(command)
    };
    for args in [&["config", "check"][..], &["serve"], &["org", "list"], &["config", "show"]] {
        let ran = with_file(args);
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{args:?}: {ran:?}");
        for part in ["server.listen must be", "server.lissten", "password.iterations is 99", "invalid_configuration"] {
            assert!(ran.err.contains(part), "{args:?} lacks {part}: {ran:?}");
        }
        assert!(!ran.err.contains("hush-hush"), "{ran:?}");
    }
    let checked = with_file(&["config", "check", "--json"]);
    let document: Value = serde_json::from_str(&checked.out).unwrap();
    assert_eq!((checked.code, &document["ok"]), (1, &false.into()));
    assert_eq!(document["problems"].as_array().unwrap().len(), 3);
    assert!(!deployment.data_dir().exists());

    // `bulkhead.toml` is found where the command is run, and the environment is laid over it.
    std::fs::write(
        deployment.directory.path().join("bulkhead.toml"),
        "[mail]\ntransport = \"smtp\"\nsmtp_host = \"mail.test\"\nsmtp_username = \"u\"\n\
         smtp_password = \"hush-hush\"\n",
    )
    .unwrap();
    let shown = deployment.text(&["config", "show"]);
    assert!(shown.contains("smtp_password = \"[set]\"") && !shown.contains("hush-hush"), "{shown}");
    assert_eq!(deployment.json(&["config", "show"])["password"]["memory_kib"], 7168);
    assert!(deployment.text(&["config", "check"]).contains("bulkhead.toml"));
    let missing = deployment.run(&["config", "check", "--config", "other.toml"]);
    assert!(missing.code == 1 && missing.err.contains("other.toml"), "{missing:?}");
}

#[test]
fn the_doctor_finds_what_is_wrong() {
    let deployment = Deployment::new();
    assert_eq!(deployment.json(&["doctor"])["ok"], true);
    assert!(!deployment.data_dir().exists(), "looking is not making");
    assert_eq!(deployment.run(&["healthcheck"]).code, 1);

    deployment.json(&["org", "create", "--name", "Acme"]);
    let state = |check: &str, report: &Value| {
        let mut checks = report["checks"].as_array().unwrap().iter();
        checks.find(|found| found["check"] == check).unwrap()["state"].as_str().unwrap().to_owned()
    };
    let report = deployment.json(&["doctor"]);
    for check in ["data directory", "master key", "data", "public_url"] {
        assert_eq!(state(check, &report), "ok", "{report:#}");
    }

    let key = deployment.data_dir().join("master.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = deployment.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, state("master key", &report).as_str()), (1, "fail"));
    assert!(deployment.run(&["doctor"]).out.contains("chmod 600"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let deployment = Deployment::new();
    let mut child = deployment.command(&["config", "show"]).spawn().unwrap();
    drop(child.stdout.take());
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
}
