//! Isolation is a property of the types: what must not compile, and why it does not.
//!
//! Each file in `compile_fail/` tries to get around one link of the chain from a name to an organization's
//! data. A comment `//~ E0616` says which error the compiler must give on that line
//! (doc.rust-lang.org/error_codes); no other may be left out, and no further one may appear. Codes and lines
//! stay the same when the compiler's words or our own files change.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// An error's line and code.
type Fault = (u64, String);

#[test]
fn what_must_not_compile() {
    let libraries = Libraries::find();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compile_fail");
    let mut cases: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() >= 15, "where are the cases?");
    let mut wrong = Vec::new();
    for case in &cases {
        let (expected, found) = (expected(case), libraries.compile(case));
        if expected.is_empty() || expected != found {
            wrong.push(format!("{}: expected {expected:?}, found {found:?}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_keeps_to_the_rules_compiles() {
    // Else every case above could fail for a reason of its own.
    let libraries = Libraries::find();
    let directory = tempfile::tempdir().unwrap();
    let case = directory.path().join("case.rs");
    let text = "use bulkhead::tenants::Tenant;\n\
                async fn count(tenant: &Tenant) -> bulkhead::base::Result<i64> {\n\
                    tenant.read(|db| db.number(\"SELECT count(*) FROM member\", [])).await\n\
                }\n\
                fn main() {}\n";
    fs::write(&case, text).unwrap();
    assert_eq!(libraries.compile(&case), []);
    fs::write(&case, text.replace("tenant.read(", "tenant.reed(")).unwrap();
    assert_eq!(libraries.compile(&case), [(3, "E0599".to_owned())]);
}

fn expected(case: &Path) -> Vec<Fault> {
    let text = fs::read_to_string(case).unwrap();
    let mut faults = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let codes = text.split_once("//~ ").map_or("", |(_, codes)| codes);
        faults.extend(codes.split_whitespace().map(|code| (line, code.to_owned())));
    }
    faults.sort();
    faults
}

/// What the cases are compiled against: what this very test was.
struct Libraries {
    directory: PathBuf,
    externs: Vec<String>,
}

impl Libraries {
    /// Cargo has built all of it and tells where it is.
    fn find() -> Self {
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--tests", "--locked", "--message-format", "json", "--quiet"]);
        let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let artifacts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let externs: Vec<PathBuf> = ["bulkhead", "rusqlite"]
            .into_iter()
            .map(|name| {
                let library = artifacts.iter().find(|artifact| {
                    artifact["target"]["name"] == name
                        && artifact["target"]["kind"] == serde_json::json!(["lib"])
                        && artifact["profile"]["test"] == false
                });
                let files = library.unwrap_or_else(|| panic!("no {name}"))["filenames"].as_array().unwrap();
                let rlib = files
                    .iter()
                    .filter_map(Value::as_str)
                    .find(|file| Path::new(file).extension().is_some_and(|extension| extension == "rlib"));
                PathBuf::from(rlib.unwrap())
            })
            .collect();
        let directory = externs[1].parent().unwrap().to_owned();
        let names = ["bulkhead", "rusqlite"].iter().zip(&externs);
        Self { directory, externs: names.map(|(name, file)| format!("{name}={}", file.display())).collect() }
    }

    /// The errors of one case.
    fn compile(&self, case: &Path) -> Vec<Fault> {
        let out = tempfile::tempdir().unwrap();
        let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        command.args(["--edition", "2024", "--crate-type", "bin", "--emit", "metadata", "--error-format", "json"]);
        command.arg("-L").arg(format!("dependency={}", self.directory.display()));
        for library in &self.externs {
            command.args(["--extern", library]);
        }
        let output = command.arg("--out-dir").arg(out.path()).arg(case).output().unwrap();
        let mut faults = Vec::new();
        for line in String::from_utf8(output.stderr).unwrap().lines() {
            let message: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
            // "aborting due to ..." has no place.
            let primary = message["spans"].as_array().into_iter().flatten().find(|span| span["is_primary"] == true);
            if let (true, Some(span)) = (message["level"] == "error", primary) {
                let code = message["code"]["code"].as_str().unwrap_or("none").to_owned();
                faults.push((span["line_start"].as_u64().unwrap(), code));
            }
        }
        faults.sort();
        assert_eq!(output.status.success(), faults.is_empty(), "{}", case.display());
        faults
    }
}
