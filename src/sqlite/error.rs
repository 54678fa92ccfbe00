//! What SQLite says, in the words of the house.

use rusqlite::{ErrorCode, ffi};

use crate::base::{Error, codes};
use std::time::Duration;

/// When to try again where the disk takes nothing: somebody has to make room.
const COME_BACK: Duration = Duration::from_secs(10);

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
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => Self::new(&codes::ORGANIZATION_UNAVAILABLE),
            Some(ErrorCode::DiskFull) => Self::new(&codes::STORAGE_FULL).retry_after(COME_BACK),
            Some(ErrorCode::SystemIoFailure) => match error.sqlite_error().map(|error| error.extended_code) {
                // A disk that reads and does not write: what was asked is undone, and what is there can be read.
                Some(
                    ffi::SQLITE_IOERR_WRITE
                    | ffi::SQLITE_IOERR_FSYNC
                    | ffi::SQLITE_IOERR_DIR_FSYNC
                    | ffi::SQLITE_IOERR_TRUNCATE
                    | ffi::SQLITE_IOERR_SHMSIZE
                    | ffi::SQLITE_IOERR_SHMMAP
                    | ffi::SQLITE_IOERR_SHMOPEN,
                ) => Self::new(&codes::STORAGE_FAILED).retry_after(COME_BACK),
                _ => Self::new(&codes::ORGANIZATION_UNAVAILABLE),
            },
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
    matches!(code_of(error), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

/// Whether what is in the file is the reason: its pages, its tables, or that it is no file of ours. Neither another time
/// nor more memory would change that; a disk that gives a page wrongly looks the same.
#[must_use]
pub fn is_of_file(error: &Error) -> bool {
    use ErrorCode::{DatabaseCorrupt, NotADatabase, TooBig, Unknown};
    match std::error::Error::source(error).map(|source| source.downcast_ref::<rusqlite::Error>()) {
        // `Unknown` is a table that is not there; no code, a row or a value. What claims to be larger than anything that is
        // ever written is met by who compares indexes.
        Some(Some(said)) => {
            matches!(said.sqlite_error_code(), None | Some(DatabaseCorrupt | NotADatabase | TooBig | Unknown))
        }
        Some(None) => false,
        None => error.is(&codes::ORGANIZATION_UNAVAILABLE),
    }
}

/// Whether the disk, its rights or its locks are the reason, and nothing that is in the file.
#[must_use]
pub fn is_of_disk(error: &Error) -> bool {
    matches!(
        code_of(error),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
        )
    )
}

fn code_of(error: &Error) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?.downcast_ref::<rusqlite::Error>()?;
    source.sqlite_error_code()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_file_is_told_from_what_is_around_it() {
        let said = |code| is_of_file(&Error::from(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)));
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_TOOBIG, ffi::SQLITE_ERROR] {
            assert!(said(code), "{code}");
        }
        for code in [
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_BUSY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_PERM,
            ffi::SQLITE_READONLY,
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_IOERR_CORRUPTFS,
            ffi::SQLITE_INTERRUPT,
        ] {
            assert!(!said(code), "{code}");
        }
        assert!(is_of_file(&Error::from(rusqlite::Error::QueryReturnedNoRows)));
        assert!(is_of_file(&Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("it is not one of ours")));
        let of_disk = Error::new(&codes::ORGANIZATION_UNAVAILABLE).source(std::io::Error::other("gone"));
        assert!(!is_of_file(&of_disk) && !is_of_file(&Error::internal("SQLCipher takes no key")));
    }
}
