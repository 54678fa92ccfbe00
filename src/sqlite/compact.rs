//! Giving back the pages that deleted rows have left, and keeping a file from growing beyond a bound.

use std::path::Path;
use std::sync::atomic::Ordering;

use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode};

use super::cipher;
use super::database::{Backup, Database, checkpoint};
use super::handle::Kind;
use super::open::{Mode, open};
use crate::base::{Error, Result, codes};

/// What a compaction has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Above this, the copy that SQLite makes is not kept in memory.
const IN_MEMORY: u64 = 64 << 20;
/// A bound that none of our files reaches (sqlite.org/limits.html, section 13).
const NO_BOUND: u64 = 4_294_967_294;

impl<K: Kind> Database<K> {
    /// Writes the file anew without the pages that are free. Readers go on; writers wait, and it is refused where
    /// the disk has no room for the file twice more: once for the copy, once for the WAL through which it comes back.
    pub async fn compact(&self) -> Result<Compacted> {
        let _turn = self.turn_to_write().await?;
        tokio::task::block_in_place(|| {
            // The writer's own connection is idle, and stays where it is.
            self.with_writer(|_| {
                let connection = open(self.path(), Mode::Write)?;
                let bytes_before = size(&connection)?;
                require_room(self.path(), bytes_before.saturating_mul(2))?;
                // What is sorted on the way would stand in a temporary file as it is.
                if bytes_before > IN_MEMORY && cipher::salt_of(&connection).is_none() {
                    connection.pragma_update(None, "temp_store", "FILE")?;
                }
                // VACUUM attaches the copy that it makes; no other connection may attach anything.
                connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
                connection.execute_batch("VACUUM")?;
                self.commits.fetch_add(1, Ordering::SeqCst);
                self.dirty.store(true, Ordering::Relaxed);
                match &self.backup {
                    // What a backup has yet to read is folded by whoever reads it.
                    Backup::None => checkpoint(&connection),
                    Backup::Foreign => {}
                    Backup::Later => drop(self.may_fold_unread().then(|| checkpoint(&connection))),
                    Backup::Wal(written) => written(),
                }
                Ok(Compacted { bytes_before, bytes_after: size(&connection)? })
            })
        })
    }

    /// Keeps the file from growing beyond so many bytes from the next write on; `None` for no bound. What is there
    /// already stays.
    pub fn bound(&self, bytes: Option<u64>) {
        self.most_bytes.store(bytes.unwrap_or(0), Ordering::SeqCst);
    }

    /// For the holder of the writer: the bound in force for the next transaction, or none.
    pub(super) fn set_bound(&self, connection: &Connection, is_bounded: bool) -> Result<()> {
        let wanted = if is_bounded { self.most_bytes.load(Ordering::SeqCst) } else { 0 };
        if self.bound_set.swap(wanted, Ordering::SeqCst) != wanted {
            let page = u64::from(cipher::page_size(connection)?).max(512);
            let pages = if wanted == 0 { NO_BOUND } else { (wanted / page).max(1) };
            let text = format!("PRAGMA max_page_count = {pages}");
            connection.query_row(&text, [], |_| Ok(()))?;
        }
        Ok(())
    }

    /// What a write has failed with: a file that is full is not a disk that is.
    pub(super) fn name_the_bound(&self, connection: &Connection, error: Error) -> Error {
        let bound = self.bound_set.load(Ordering::SeqCst);
        if bound == 0 || !is_full(&error) {
            return error;
        }
        // A whole page more would be beyond it.
        match size(connection) {
            Ok(bytes) if bytes + (64 << 10) >= bound => Error::new(&codes::QUOTA_BYTES_EXCEEDED)
                .detail(format!("The data of this organization takes up {bytes} bytes, and {bound} is the most."))
                .source(error),
            _ => error,
        }
    }
}

fn is_full(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<rusqlite::Error>());
    source.and_then(rusqlite::Error::sqlite_error_code) == Some(ErrorCode::DiskFull)
}

/// The bytes of the file as the connection sees it.
pub(super) fn size(connection: &Connection) -> Result<u64> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    Ok(u64::try_from(pages).unwrap_or(0).saturating_mul(cipher::page_size(connection)?.into()))
}

/// Refuses what the file system of `path` has no room for.
pub fn require_room(path: &Path, bytes: u64) -> Result<()> {
    let free = free_room(path.parent().unwrap_or(path))?;
    if free >= bytes {
        return Ok(());
    }
    Err(Error::new(&codes::STORAGE_FULL).detail(format!("This needs {bytes} bytes on the disk, and {free} are free.")))
}

/// Bytes that the file system of a directory has left for us.
pub fn free_room(directory: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(directory)
        .map_err(|error| Error::internal("the free room cannot be told").source(error))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
