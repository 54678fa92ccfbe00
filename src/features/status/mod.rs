//! The state of the deployment, for operators: what runs here, and how much of it.
//!
//! It owns nothing and asks the rooms below.

pub mod http;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version of the SQLite library in it.
#[must_use]
pub fn sqlite_version() -> &'static str {
    crate::sqlite::version()
}
