//! A file between two transactions: what a backup reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, MAIN_DB};

use super::database::Database;
use super::handle::Kind;
use crate::base::{Error, Result};

/// The file as it is after one transaction and before the next: nothing is written and nothing is folded while
/// this exists.
pub struct Still<'c> {
    connection: &'c mut Connection,
    path: &'c Path,
}

impl<K: Kind> Database<K> {
    /// Holds writers up while `work` runs; readers go on.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        let _turn = self.turn_to_write().await?;
        tokio::task::block_in_place(|| {
            self.with_writer(|connection| work(&mut Still { connection, path: self.path() }))
        })
    }
}

impl Still<'_> {
    /// Where the WAL is. It may be missing or empty. It carries no locks, so opening it is harmless, unlike
    /// the file itself.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        wal_of(self.path)
    }

    /// The mark that says that a WAL was folded before anybody had read it, if there is one.
    #[must_use]
    pub fn unread(&self) -> Option<PathBuf> {
        let mark = unread_mark(self.path);
        mark.exists().then_some(mark)
    }

    /// The whole database, with what is in the WAL.
    pub fn image(&mut self) -> Result<Vec<u8>> {
        Ok(self.connection.serialize(MAIN_DB)?.to_vec())
    }

    /// Folds the WAL into the file, for whoever has read all of it. The next write begins a new WAL, also where
    /// a reader kept this one from being emptied.
    pub fn fold(&mut self) -> Result<()> {
        // Whoever waits for readers here keeps all writers waiting.
        self.connection.busy_timeout(Duration::ZERO)?;
        super::database::checkpoint(self.connection);
        self.connection.busy_timeout(super::open::PATIENCE)?;
        Ok(())
    }
}

/// The WAL of a file.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    let mut wal = path.to_owned().into_os_string();
    wal.push("-wal");
    wal.into()
}

/// Beside a file whose WAL was folded unread: what was shipped of it so far is no beginning for what comes.
pub(super) fn unread_mark(path: &Path) -> PathBuf {
    let mut mark = path.to_owned().into_os_string();
    mark.push("-unread");
    mark.into()
}

/// How large the WAL beside a file is that nobody has open.
pub fn unfolded(path: &Path) -> Result<u64> {
    match std::fs::metadata(wal_of(path)) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::internal(format!("cannot look at the WAL of {}", path.display())).source(error)),
    }
}
