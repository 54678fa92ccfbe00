//! A copy of a file that is in use, and files that nobody else knows.

use std::fs::OpenOptions;
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::cipher;
use super::database::Database;
use super::handle::{Kind, Write};
use super::open::{Mode, check_stamp, open, open_as};
use crate::base::{Error, Result, Timestamp, codes};

/// Pages that are copied in one step.
const BATCH: i32 = 256;
/// Between two tries while another connection has the source locked for a moment.
const PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSES: u32 = 1000;

impl<K: Kind> Database<K> {
    /// Copies the file as it is at one moment to `to`, which must not exist. Nobody waits for it: it reads with a
    /// connection of its own, while others read and write.
    pub async fn snapshot_to(&self, to: &Path) -> Result<()> {
        tokio::task::block_in_place(|| copy(self.path(), to))
    }
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    create_private(to)?;
    let source = open(from, Mode::Read)?;
    // One state for all steps. Without it SQLite would begin anew at each commit of somebody else
    // (sqlite.org/c3ref/backup_finish.html, "Concurrent Usage of Database Handles"), and might never end.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    // Ciphertext stays ciphertext, under the same key.
    let mut target = open_as(to, Mode::Build, cipher::salt_of(&source))?;
    target.pragma_update(None, "journal_mode", "MEMORY")?;
    let backup = Backup::new(&source, &mut target)?;
    let mut pauses = 0;
    loop {
        match backup.step(BATCH)? {
            StepResult::Done => break,
            StepResult::More => pauses = 0,
            // Busy, locked, and whatever else may pass.
            _ if pauses < MOST_PAUSES => {
                pauses += 1;
                std::thread::sleep(PAUSE);
            }
            _ => return Err(Error::new(&codes::ORGANIZATION_BUSY).because("a copy of the file was kept waiting")),
        }
    }
    drop(backup);
    drop(target);
    source.execute_batch("COMMIT")?;
    Ok(())
}

/// A copy that nobody else knows of, to be changed before it is handed out.
pub struct Private<K: Kind> {
    connection: Connection,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Private<K> {
    /// Opens a copy, and checks its stamp. Blocking, as all of this is.
    pub fn open(path: &Path) -> Result<Self> {
        let connection = open(path, Mode::Build)?;
        check_stamp::<K>(&connection)?;
        // The copy is thrown away, and nothing of it but its rows is handed out: what is deleted in it need not be
        // overwritten, and what is changed need not be folded back at the end. Indexes on digests are changed all over.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA secure_delete=OFF; PRAGMA cache_size=-16384")?;
        Ok(Self { connection, kind: PhantomData })
    }

    /// One transaction, as of `now`.
    pub fn write<T>(&self, now: Timestamp, work: impl FnOnce(&Write<'_, K>) -> Result<T>) -> Result<T> {
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let value = work(&Write::new(&transaction, now))?;
        transaction.commit()?;
        Ok(value)
    }

    /// Writes what is in it now, and nothing that was in it before, to one new file that any SQLite can open
    /// without writing: no WAL, no free pages, no remains between the rows, and never ciphertext. It is not synced:
    /// whoever keeps it, or what they make of it, sees to that.
    pub fn finish(self, to: &Path) -> Result<()> {
        create_private(to)?;
        if cipher::salt_of(&self.connection).is_some() {
            return cipher::export_plain(&self.connection, to);
        }
        self.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        self.connection.execute("VACUUM INTO ?", [to.as_os_str().to_string_lossy()])?;
        Ok(())
    }
}

fn create_private(path: &Path) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| failed("cannot make", path, error))
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("{what} {}", path.display())).source(error)
}
