//! Isolation is a property of the types: what must not compile, and why it does not.
//!
//! Each file in `compile_fail/` tries to get around one link of the chain from a name to an organization's
//! data; beside it stands what the compiler says. After a change of the wording alone:
//! `TRYBUILD=overwrite cargo test --test compile_fail`.

#[test]
fn what_must_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
