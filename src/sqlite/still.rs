//! A file between two transactions: what a backup reads.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::aside::{damage_in, forgeries_in};
use super::cipher;
use super::database::Database;
use super::handle::Kind;
use super::snapshot;
use crate::base::{Error, Result, codes};

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

    /// Whether nothing is in the WAL that is not in the file, nor anything from before.
    #[must_use]
    pub fn is_folded(&self) -> bool {
        unfolded(self.path).is_ok_and(|bytes| bytes == 0)
    }

    /// The mark that says that a WAL was folded before anybody had read it, if there is one.
    #[must_use]
    pub fn unread(&self) -> Option<PathBuf> {
        let mark = unread_mark(self.path);
        mark.exists().then_some(mark)
    }

    /// The size of a page, and how many there are.
    pub fn shape(&self) -> Result<(u32, u32)> {
        let count = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        Ok((cipher::page_size(self.connection)?, count))
    }

    /// Whether the pages in the file and in its WAL are ciphertext.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        cipher::salt_of(self.connection).is_some()
    }

    /// A page as it stands in the file: what has been folded, and nothing of the WAL.
    pub fn stored_page(&self, pgno: u32, page: &mut [u8]) -> Result<()> {
        cipher::read_page(self.connection, pgno, page)
    }

    /// Refuses a file that is damaged: no copy of it is one to go back to.
    pub fn require_whole(&self) -> Result<()> {
        let mut damage = damage_in(self.connection)?;
        // Of ciphertext the file itself is copied, whatever a connection remembers of it. Where the WAL has more, it
        // may hold the very page that a crash has torn in the file.
        if damage.is_empty() && self.is_ciphertext() && self.is_folded() {
            damage = forgeries_in(self.connection)?;
        }
        match damage.first() {
            Some(found) => {
                Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("the file is damaged: {found}")))
            }
            None => Ok(()),
        }
    }

    /// Every page as it is now, with what is in the WAL. Of ciphertext, they come deciphered.
    pub fn each_page(&self, visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        snapshot::each_page(self.connection, visit)
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
    beside(path, "-wal")
}

/// What stands beside a file under its name and a suffix.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes the WAL and its index, of a file that nobody has open: another one in its place would take them for its
/// own.
pub fn remove_wal(path: &Path) -> std::io::Result<()> {
    let remove = |suffix| match std::fs::remove_file(beside(path, suffix)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Both, also where one cannot be.
    let outcomes = ["-wal", "-shm"].map(remove);
    outcomes.into_iter().collect()
}

/// Beside a file whose WAL was folded unread: what was shipped of it so far is no beginning for what comes.
pub(super) fn unread_mark(path: &Path) -> PathBuf {
    beside(path, "-unread")
}

/// Sets that mark, so that it is found after a crash.
pub fn mark_unread(path: &Path) -> Result<()> {
    let mark = unread_mark(path);
    if mark.exists() {
        return Ok(());
    }
    let failed = |error| Error::internal(format!("cannot write {}", mark.display())).source(error);
    std::fs::write(&mark, []).map_err(failed)?;
    path.parent().map_or(Ok(()), super::sync_directory)
}

/// Whether there is something in a file that nobody has open that a backup has not read.
pub fn has_unread(path: &Path) -> Result<bool> {
    Ok(unfolded(path)? > 0 || unread_mark(path).exists())
}

/// How large the WAL beside a file is that nobody has open.
pub fn unfolded(path: &Path) -> Result<u64> {
    match std::fs::metadata(wal_of(path)) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::internal(format!("cannot look at the WAL of {}", path.display())).source(error)),
    }
}
