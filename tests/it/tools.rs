//! Programs that we did not write, where `scripts/setup --test` puts them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program of `.venv`, or else of the PATH.
pub fn tool(name: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin").join(name);
    if here.exists() { here } else { name.into() }
}

/// The real one.
pub fn litestream() -> Command {
    let mut command = Command::new(tool("litestream"));
    // It breaks litestream's start of its S3 client.
    command.env_remove("AWS_CA_BUNDLE");
    command
}

/// Whether the program can be started here. There are wheels of it for Linux on x86-64 only.
pub fn has(name: &str) -> bool {
    let there = Command::new(tool(name)).arg("version").output().is_ok();
    let expected = cfg!(all(target_os = "linux", target_arch = "x86_64"));
    assert!(there || !expected, "{name} is missing: scripts/setup --test installs it");
    if !there {
        println!("left out: there is no {name} for this platform");
    }
    there
}
