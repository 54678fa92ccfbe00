//! One process owns a data directory: an advisory lock that the kernel gives back when the process ends,
//! however it ends.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::base::{Error, Result};

/// Held as long as the directory is ours.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "the lock lives as long as the open file")] File);

impl Lock {
    /// Takes the directory, or says that somebody else has it.
    pub fn take(directory: &Path) -> Result<Self> {
        let path = directory.join("lock");
        let file =
            open(&path).map_err(|error| Error::internal(format!("cannot open {}", path.display())).source(error))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let directory = directory.display().to_string();
            Error::new(&crate::base::codes::OVERLOADED)
                .detail(format!("The data directory {directory} is in use by another Bulkhead process."))
        })?;
        Ok(Self(file))
    }

    /// Whether another process holds the directory now.
    #[must_use]
    pub fn is_taken(directory: &Path) -> bool {
        let path = directory.join("lock");
        let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return false };
        flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!Lock::is_taken(directory.path()));
        let lock = Lock::take(directory.path()).unwrap();
        assert!(Lock::is_taken(directory.path()));
        assert!(Lock::take(directory.path()).is_err());
        drop(lock);
        assert!(Lock::take(directory.path()).is_ok());
    }
}
