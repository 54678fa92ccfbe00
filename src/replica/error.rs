//! What can go wrong with a replica, sorted by what the caller should do about it.

use super::PlanError;
use super::errands::NotBegun;
use crate::ltx;
use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer, or one that says "later". Try again. Whether a `put` took effect is unknown.
    #[error("the replica store cannot be reached ({what}): {source}")]
    Unreachable { what: String, source: Cause },
    /// A file of that name is there. It was left as it is.
    #[error("{object} is already in the replica store")]
    AlreadyExists { object: String },
    #[error("{object} is not in the replica store")]
    NotFound { object: String },
    /// The store answered, and the answer is no: credentials, permissions, a bucket that does not exist,
    /// a wrong region. Trying again does not help.
    #[error("the replica store refuses ({what}): {source}")]
    Refused { what: String, source: Cause },
    /// What is stored is not what it should be.
    #[error("{object} is damaged: {source}")]
    Damaged { object: String, source: Cause },
    /// Somebody else writes here; we do not any more.
    #[error("{0}")]
    Superseded(String),
    /// The location or the settings cannot be used.
    #[error("{0}")]
    Configuration(String),
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A restore would have to overwrite something.
    #[error("{} exists; a restore never overwrites", path.display())]
    Occupied { path: PathBuf },
    /// The database itself could not be read.
    #[error("the database cannot be read: {source}")]
    Database { source: Cause },
    /// A file of this machine, outside of the replica, could not be used.
    #[error("{}: {source}", path.display())]
    Local { path: PathBuf, source: io::Error },
}

impl Error {
    /// Whether the same call may succeed later without anything being changed by a person.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether nothing of it was begun, so that nothing of it can arrive later.
    #[must_use]
    pub fn is_not_begun(&self) -> bool {
        let Self::Unreachable { source, .. } = self else { return false };
        let inner = source.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<NotBegun>)
    }

    pub(super) fn damaged(object: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self::Damaged { object: object.into(), source: source.into() }
    }

    pub(super) fn local(path: &Path, source: io::Error) -> Self {
        Self::Local { path: path.to_path_buf(), source }
    }

    /// For what reads one object and writes one local file through the LTX code. A failing disk and a
    /// damaged object come out of it as one type; only the second is the object's fault.
    pub(super) fn of_object(object: &str, local: &Path, error: ltx::Error) -> Self {
        match error {
            // A file that ends too early is damage, whatever noticed it.
            ltx::Error::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => Self::local(local, error),
            error => Self::damaged(object, error),
        }
    }

    /// For a file of a folder that was open already and cannot be read: the folder answers, and what it has is damaged,
    /// unless it was taken away meanwhile, with its server or by another one.
    pub(super) fn of_reading(path: &Path, error: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let object = path.display().to_string();
        match error.kind() {
            Kind::StaleNetworkFileHandle => Self::NotFound { object },
            Kind::TimedOut
            | Kind::NotConnected
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::WouldBlock => Self::of_folder(path, error),
            _ if error.raw_os_error() == Some(rustix::io::Errno::HOSTDOWN.raw_os_error()) => {
                Self::of_folder(path, error)
            }
            _ => Self::damaged(object, error),
        }
    }

    /// For a folder, by what the operating system said.
    pub(super) fn of_folder(path: &Path, error: io::Error) -> Self {
        let object = path.display().to_string();
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound { object },
            io::ErrorKind::AlreadyExists => Self::AlreadyExists { object },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
                Self::Refused { what: object, source: error.into() }
            }
            // A full disk, a mount that hangs or went away: it may come back.
            _ => Self::Unreachable { what: object, source: error.into() },
        }
    }
}
