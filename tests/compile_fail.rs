//! Isolation is a property of the types: what must not compile, and why it does not.
//!
//! Each file in `compile_fail/` tries to get around one link of the chain from a name to an organization's
//! data; beside it stands what the compiler says. After a change of the wording alone:
//! `TRYBUILD=overwrite cargo test --test compile_fail`.
//!
//! The wording is one compiler's. No toolchain file pins it: rustup would have to download that compiler
//! wherever there is another, and Bulkhead builds with any that is new enough.
#![allow(clippy::disallowed_methods, clippy::expect_used, clippy::print_stderr)]

use std::panic::{self, AssertUnwindSafe};
use std::process::Command;

/// The compiler that the `.stderr` files quote.
const QUOTED: &str = "1.95";

#[test]
fn what_must_not_compile() {
    let (here, compare) = (version(), || trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs"));
    if here.starts_with(&format!("{QUOTED}.")) {
        return compare();
    }
    eprintln!("tests/compile_fail/*.stderr quote rustc {QUOTED}, and this is rustc {here}.");
    assert!(
        panic::catch_unwind(AssertUnwindSafe(compare)).is_ok(),
        "the answers of rustc {here} are not those of rustc {QUOTED}, which tests/compile_fail/*.stderr quote. A case \
         that \"succeeded\" above is a hole in the types, whatever the compiler. If there is none and only the words \
         differ, run this test with rustc {QUOTED}, or take over the new words with \
         `TRYBUILD=overwrite cargo test --test compile_fail` and set QUOTED to this version"
    );
}

/// Such as "1.95.0". Cargo and what it starts agree on the compiler by these two.
fn version() -> String {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(compiler).arg("--version").output().expect("rustc does not run");
    String::from_utf8_lossy(&told.stdout).split(' ').nth(1).unwrap_or_default().to_owned()
}
