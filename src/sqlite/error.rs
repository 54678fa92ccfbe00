//! What SQLite says, in the words of the house.

use rusqlite::ErrorCode;

use crate::base::{Error, codes};
use std::time::Duration;

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        let wrapped = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self::new(&codes::ORGANIZATION_BUSY).retry_after(Duration::from_secs(1))
            }
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => Self::new(&codes::ORGANIZATION_UNAVAILABLE),
            _ => Self::internal("database"),
        };
        wrapped.source(error)
    }
}

impl From<r2d2::Error> for Error {
    fn from(error: r2d2::Error) -> Self {
        Self::new(&codes::ORGANIZATION_UNAVAILABLE).because("no connection to the file").source(error)
    }
}

/// Whether the error says that the file itself is damaged, so that the organization must be set aside.
#[must_use]
pub fn is_damage(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<rusqlite::Error>());
    matches!(
        source.and_then(rusqlite::Error::sqlite_error_code),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}
