//! A copy of a file that is in use, and files that nobody else knows.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::cipher::{self, Salt};
use super::compact::size;
use super::database::Database;
use super::handle::{Kind, Write};
use super::open::{Mode, check_stamp, open, open_as, open_in_memory, open_named_in_memory};
use crate::base::{Error, Result, Timestamp, codes};

/// Pages that are copied in one step.
const BATCH: i32 = 256;
/// Between two tries while another connection has the source locked for a moment.
const PAUSE: Duration = Duration::from_millis(5);
const MOST_PAUSES: u32 = 1000;

/// The largest copy that is held in memory instead of a file, where it is changed and read at half the cost.
const IN_MEMORY: u64 = 16 << 20;
/// What is read of a file at once.
const PIECE: usize = 256 << 10;

impl<K: Kind> Database<K> {
    /// A copy of the file as it is at one moment, to be changed before it is handed out; `None` if it is larger than
    /// `most` bytes. Nobody waits for it: it reads with a connection of its own, while others read and write. A large
    /// one lies at `scratch`, which must not exist.
    pub async fn private_copy(&self, scratch: &Path, most: u64) -> Result<Option<Private<K>>> {
        tokio::task::block_in_place(|| Private::of(self.path(), scratch, most))
    }
}

pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    create_private(to)?;
    let source = open(from, Mode::Read)?;
    // Ciphertext stays ciphertext, under the same key.
    copy_under(&source, to, cipher::salt_of(&source))
}

/// Copies what a connection sees at one moment into an empty file: as ciphertext under the key with this salt, or
/// plain, as the source is.
pub(super) fn copy_under(source: &Connection, to: &Path, salt: Option<Salt>) -> Result<()> {
    pin(source)?;
    copy_pinned(source, to, salt)?;
    source.execute_batch("COMMIT")?;
    Ok(())
}

/// One state for all that follows, whatever others write meanwhile. Without it SQLite would begin anew at each commit
/// of somebody else (sqlite.org/c3ref/backup_finish.html, "Concurrent Usage of Database Handles"), and might never end.
fn pin(source: &Connection) -> Result<()> {
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(())
}

fn copy_pinned(source: &Connection, to: &Path, salt: Option<Salt>) -> Result<()> {
    let mut target = open_as(to, Mode::Build, salt)?;
    target.pragma_update(None, "journal_mode", "MEMORY")?;
    copy_pages(source, &mut target)
}

fn copy_pages(source: &Connection, target: &mut Connection) -> Result<()> {
    let backup = Backup::new(source, target)?;
    let mut pauses = 0;
    loop {
        match backup.step(BATCH)? {
            StepResult::Done => return Ok(()),
            StepResult::More => pauses = 0,
            // Busy, locked, and whatever else may pass.
            _ if pauses < MOST_PAUSES => {
                pauses += 1;
                std::thread::sleep(PAUSE);
            }
            _ => return Err(Error::new(&codes::ORGANIZATION_BUSY).because("a copy of the file was kept waiting")),
        }
    }
}

/// A copy that nobody else knows of, to be changed before it is handed out.
pub struct Private<K: Kind> {
    connection: Connection,
    is_in_memory: bool,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Private<K> {
    /// Opens a copy, and checks its stamp. Blocking, as all of this is.
    pub fn open(path: &Path) -> Result<Self> {
        Self::prepared(open(path, Mode::Build)?, false)
    }

    fn of(path: &Path, scratch: &Path, most: u64) -> Result<Option<Self>> {
        let source = open(path, Mode::Read)?;
        pin(&source)?;
        let (bytes, salt) = (size(&source)?, cipher::salt_of(&source));
        if bytes > most {
            return Ok(None);
        }
        if bytes > IN_MEMORY || salt.is_some() {
            create_private(scratch)?;
            copy_pinned(&source, scratch, salt)?;
            return Self::open(scratch).map(Some);
        }
        let mut target = open_in_memory()?;
        copy_pages(&source, &mut target)?;
        Self::prepared(target, true).map(Some)
    }

    fn prepared(connection: Connection, is_in_memory: bool) -> Result<Self> {
        check_stamp::<K>(&connection)?;
        // The copy is thrown away, and nothing of it but its rows is handed out: what is deleted in it need not be
        // overwritten, and what is changed need not be folded back at the end.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // Indexes on digests are changed all over. What is in memory is its own cache, and one that is made of it is
        // written from its beginning to its end.
        let cache = if is_in_memory { -1024 } else { -16384 };
        connection.execute_batch(&format!("PRAGMA secure_delete=OFF; PRAGMA cache_size={cache}"))?;
        Ok(Self { connection, is_in_memory, kind: PhantomData })
    }

    /// One transaction, as of `now`.
    pub fn write<T>(&self, now: Timestamp, work: impl FnOnce(&Write<'_, K>) -> Result<T>) -> Result<T> {
        let transaction = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        let value = work(&Write::new(&transaction, now))?;
        transaction.commit()?;
        Ok(value)
    }

    /// What is in it now, and nothing that was in it before, as a database that any SQLite can open without writing:
    /// no WAL, no free pages, no remains between the rows, and never ciphertext. What is in memory stays there; a file
    /// becomes a new one at `scratch`, which must not exist.
    pub fn content(self, scratch: &Path) -> Result<Content> {
        if !self.is_in_memory {
            self.finish(scratch)?;
            return Ok(Content(Held::File(scratch.to_owned())));
        }
        let (name, content) = open_named_in_memory()?;
        self.compact_into(&name)?;
        Ok(Content(Held::Memory(content)))
    }

    /// Writes the same to a new file. It is not synced: whoever keeps it, or what they make of it, sees to that.
    pub fn finish(self, to: &Path) -> Result<()> {
        create_private(to)?;
        if cipher::salt_of(&self.connection).is_some() {
            return cipher::export_under(&self.connection, to, None);
        }
        self.compact_into(&to.as_os_str().to_string_lossy())
    }

    fn compact_into(&self, target: &str) -> Result<()> {
        self.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        self.connection.execute("VACUUM INTO ?", [target])?;
        Ok(())
    }
}

/// A whole database, to be read.
pub struct Content(Held);

enum Held {
    Memory(Connection),
    File(PathBuf),
}

impl Content {
    /// In bytes.
    pub fn size(&self) -> Result<u64> {
        match &self.0 {
            Held::Memory(connection) => size(connection),
            Held::File(path) => {
                std::fs::metadata(path).map(|found| found.len()).map_err(|error| failed("cannot read", path, error))
            }
        }
    }

    /// From its first byte to its last.
    pub fn each_piece(&self, mut visit: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let path = match &self.0 {
            Held::Memory(connection) => return each_page(connection, |_, page| visit(page)),
            Held::File(path) => path,
        };
        let unreadable = |error| failed("cannot read", path, error);
        let mut file = BufReader::with_capacity(PIECE, File::open(path).map_err(unreadable)?);
        loop {
            let piece = file.fill_buf().map_err(unreadable)?;
            let count = piece.len();
            if count == 0 {
                return Ok(());
            }
            visit(piece)?;
            file.consume(count);
        }
    }
}

/// Every page that a connection sees, one after the other: the database may be larger than the memory.
pub(super) fn each_page(connection: &Connection, mut visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
    let mut statement = connection.prepare("SELECT pgno, data FROM sqlite_dbpage('main') ORDER BY pgno")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let page = row.get_ref(1)?.as_blob().map_err(|error| Error::internal("a page is no blob").source(error))?;
        visit(row.get(0)?, page)?;
    }
    Ok(())
}

pub(super) fn create_private(path: &Path) -> Result<()> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| failed("cannot make", path, error))
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("{what} {}", path.display())).source(error)
}

#[cfg(test)]
mod tests {
    use super::super::{Aside, CatalogDb, build, bytes_of_new};
    use super::*;

    const MIGRATIONS: &[&str] = &["CREATE TABLE thing (word TEXT NOT NULL, weight BLOB) STRICT"];
    const NOW: Timestamp = Timestamp::from_millis(0);

    fn words(path: &Path) -> i64 {
        let file = Aside::<CatalogDb>::open(path, NOW).unwrap();
        file.read(|db| db.number("SELECT count(*) FROM thing", [])).unwrap()
    }

    #[test]
    fn a_copy_lies_in_memory_or_when_large_in_a_file_and_leaves_no_remains_either_way() {
        let directory = tempfile::tempdir().unwrap();
        let template = bytes_of_new::<CatalogDb>(directory.path(), MIGRATIONS).unwrap();
        for (name, weight, is_large) in [("small", 1000, false), ("large", IN_MEMORY, true)] {
            let [file, scratch, beside, out] =
                ["", "-copy", "-beside", "-out"].map(|end| directory.path().join(format!("{name}{end}")));
            build::<CatalogDb, _>(&file, &template, NOW, |db| {
                db.execute("INSERT INTO thing VALUES ('needle', NULL)", [])?;
                let half = [(weight / 2).cast_signed()];
                (0..2).try_for_each(|_| db.execute("INSERT INTO thing VALUES ('hay', zeroblob(?))", half).map(drop))
            })
            .unwrap();

            let size = std::fs::metadata(&file).unwrap().len();
            assert!(Private::<CatalogDb>::of(&file, &scratch, size - 1).unwrap().is_none(), "it is larger than that");
            assert!(!scratch.exists());
            let copy = Private::<CatalogDb>::of(&file, &scratch, size).unwrap().unwrap();
            assert_eq!(scratch.exists(), is_large);
            copy.write(NOW, |db| db.execute("DELETE FROM thing WHERE word = 'needle'", [])).unwrap();
            let content = copy.content(&beside).unwrap();
            assert_eq!(beside.exists(), is_large);
            let mut bytes = Vec::new();
            content
                .each_piece(|piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })
                .unwrap();
            assert_eq!(content.size().unwrap(), bytes.len() as u64);
            std::fs::write(&out, &bytes).unwrap();

            assert_eq!((words(&file), words(&out)), (3, 2));
            assert!(!bytes.windows(6).any(|window| window == b"needle"));
            // Not in WAL mode: it can be read where nothing can be written.
            assert_eq!((&bytes[..16], &bytes[18..21]), (b"SQLite format 3\0".as_slice(), [1, 1, 0].as_slice()));
        }
    }
}
