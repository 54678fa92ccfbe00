//! One connection: flags, pragmas, limits, stamps, migrations; and files made from nothing.

use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, ffi};

use super::cipher::{self, Salt, Unlocked};
use super::handle::{Kind, Write};
use super::keep::keep_before;
use crate::base::{Error, Result, Timestamp, codes};

/// SQLite before 3.51.3 has a race in resetting the WAL that can lose commits.
const OLDEST: i32 = 3_051_003;
/// How long a statement waits for another connection's lock.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How a connection may use its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    /// What was read out of a file, in memory.
    Copy,
    Write,
    /// A private file that nobody else knows yet: no fsync, no shared memory.
    Build,
}

/// The version of the linked SQLite, such as "3.54.1".
#[must_use]
pub fn version() -> &'static str {
    rusqlite::version()
}

/// Opens an existing file; never creates one. One that is ciphertext names its key, which somebody has to hold.
pub(super) fn open(path: &Path, mode: Mode) -> Result<Connection> {
    open_as(path, mode, None)
}

/// The same, for an empty file that is to be ciphertext under the key with this salt.
pub(super) fn open_as(path: &Path, mode: Mode, salt: Option<Salt>) -> Result<Connection> {
    configure_library()?;
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX
        | match mode {
            Mode::Read | Mode::Copy => OpenFlags::SQLITE_OPEN_READ_ONLY,
            Mode::Write | Mode::Build => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
    let connection = Connection::open_with_flags(path, flags)?;
    match salt {
        Some(salt) => cipher::give(&connection, salt)?,
        None => cipher::prepare(&connection)?,
    }
    tune(&connection, mode)?;
    Ok(connection)
}

/// A database that is nowhere but in memory, as a file that nobody else knows.
pub(super) fn open_in_memory() -> Result<Connection> {
    configure_library()?;
    let connection = Connection::open_in_memory()?;
    tune(&connection, Mode::Build)?;
    Ok(connection)
}

/// A database in memory that another connection can write to as long as this one is open, and the name it does so by.
/// Nobody else knows that name, nor could in another process.
pub(super) fn open_named_in_memory() -> Result<(String, Connection)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    configure_library()?;
    let name = format!("file:/copy-{}?vfs=memdb", NEXT.fetch_add(1, Ordering::Relaxed));
    let connection = Connection::open(&name)?;
    Ok((name, connection))
}

/// A database that is read into memory and stays as it is there; nothing where it ends early.
pub(super) fn open_copy(bytes: impl std::io::Read, count: u64) -> Result<Option<Connection>> {
    configure_library()?;
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
    let mut connection = Connection::open_in_memory_with_flags(flags)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if connection.deserialize_read_exact(rusqlite::MAIN_DB, bytes, count, true).is_err() {
        return Ok(None);
    }
    tune(&connection, Mode::Copy)?;
    Ok(Some(connection))
}

fn tune(connection: &Connection, mode: Mode) -> Result<()> {
    connection.busy_timeout(PATIENCE)?;
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        // Checkpoints are ours: a close must not rewrite what a replicator has not read yet.
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, mode != Mode::Build),
    ] {
        connection.set_db_config(option, value)?;
    }
    for (limit, value) in [
        // No statement can ever span two files.
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LENGTH, 16 << 20),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 64),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    // One batch: each pragma costs a prepare. `synchronous` is FULL because what is stored here
    // (credentials, revocations, audit) must survive a power cut once it was acknowledged.
    connection.execute_batch(match mode {
        Mode::Build => {
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=OFF; PRAGMA temp_store=MEMORY; PRAGMA secure_delete=ON"
        }
        Mode::Read => "PRAGMA cell_size_check=ON; PRAGMA cache_size=-256; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY",
        // Its pages are used where they are: none is copied into a cache.
        Mode::Copy => "PRAGMA cell_size_check=ON; PRAGMA mmap_size=16777216",
        Mode::Write => {
            "PRAGMA synchronous=FULL; PRAGMA fullfsync=ON; PRAGMA checkpoint_fullfsync=ON; PRAGMA cell_size_check=ON; \
             PRAGMA cache_size=-256; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA wal_autocheckpoint=0; \
             PRAGMA journal_size_limit=4194304; PRAGMA secure_delete=ON"
        }
    })?;
    Ok(())
}

/// How long the header of a database is (sqlite.org/fileformat2.html section 1.3).
pub(super) const HEADER_BYTES: usize = 100;
/// What it begins with, where it is no ciphertext.
pub(super) const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What the header of a database says of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub application_id: i32,
    pub version: i32,
}

impl Header {
    /// Nothing where it is none, such as that of ciphertext. What says that the database has a WAL is taken out of it:
    /// a copy in memory has none, and would be refused for it.
    pub fn of(bytes: &mut [u8; HEADER_BYTES]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(i32::from_be_bytes);
        let header = Self { application_id: number(68)?, version: number(60)? };
        if !bytes.starts_with(MAGIC) {
            return None;
        }
        bytes.get_mut(18..20)?.fill(1);
        Some(header)
    }

    pub fn check_stamp<K: Kind>(self) -> Result<i32> {
        if self.application_id != K::APPLICATION_ID {
            let application_id = self.application_id;
            return Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE)
                .because(format!("the file is not a Bulkhead {} (application_id {application_id:#x})", K::NAME)));
        }
        Ok(self.version)
    }
}

/// Refuses a file that is not of kind `K`, then tells its schema version.
pub(super) fn check_stamp<K: Kind>(connection: &Connection) -> Result<i32> {
    let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i32>(0));
    let header = Header { application_id: number("PRAGMA application_id")?, version: number("PRAGMA user_version")? };
    header.check_stamp::<K>()
}

/// Brings the file to the newest schema, one transaction a step; never goes back.
pub(super) fn migrate<K: Kind>(connection: &Connection, migrations: &[&'static str]) -> Result<()> {
    let newest = i32::try_from(migrations.len()).unwrap_or(i32::MAX);
    let version = check_stamp::<K>(connection)?;
    if !(0..=newest).contains(&version) {
        return Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!(
            "the {} has schema version {version}; this program knows those up to {newest}",
            K::NAME
        )));
    }
    let is_new = version == 0;
    for (step, sql) in (version + 1..).zip(&migrations[usize::try_from(version).unwrap_or(0)..]) {
        if !is_new {
            keep_before(connection, step - 1, sql)?;
        }
        let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        // Another connection may have been faster.
        if check_stamp::<K>(&transaction)? < step {
            transaction.execute_batch(sql)?;
            transaction.pragma_update(None, "user_version", step)?;
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The bytes of a new, empty file of kind `K` with the newest schema, in WAL mode.
///
/// Copying these is far faster than running the migrations again for every organization.
pub fn bytes_of_new<K: Kind>(scratch: &Path, migrations: &[&'static str]) -> Result<Vec<u8>> {
    let file = scratch.join("template.sqlite");
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, []).map_err(|error| io("cannot write", &file, error))?;
    {
        lay_out::<K>(&open(&file, Mode::Build)?, migrations)?;
    }
    let bytes = std::fs::read(&file).map_err(|error| io("cannot read", &file, error))?;
    let _ = std::fs::remove_file(&file);
    Ok(bytes)
}

/// Makes an empty file one of kind `K` with the newest schema.
fn lay_out<K: Kind>(connection: &Connection, migrations: &[&'static str]) -> Result<()> {
    connection.pragma_update(None, "journal_mode", "MEMORY")?;
    connection.pragma_update(None, "application_id", K::APPLICATION_ID)?;
    migrate::<K>(connection, migrations)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
    connection.execute_batch("VACUUM")?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    Ok(())
}

/// Writes a new file at `path` from a template, fills it in one transaction, and syncs it.
///
/// The file is private until this returns: the caller then moves it to where it can be found.
pub fn build<K: Kind, T>(
    path: &Path,
    template: &[u8],
    now: Timestamp,
    fill: impl FnOnce(&Write<'_, K>) -> Result<T>,
) -> Result<T> {
    std::fs::write(path, template).map_err(|error| io("cannot write", path, error))?;
    fill_and_sync(path, open(path, Mode::Build)?, now, fill)
}

/// The same as ciphertext from the first byte on. The schema is made anew: a template is under no key.
pub fn build_encrypted<K: Kind, T>(
    path: &Path,
    migrations: &[&'static str],
    key: &Unlocked,
    now: Timestamp,
    fill: impl FnOnce(&Write<'_, K>) -> Result<T>,
) -> Result<T> {
    std::fs::write(path, []).map_err(|error| io("cannot write", path, error))?;
    let connection = open_as(path, Mode::Build, Some(key.salt()))?;
    lay_out::<K>(&connection, migrations)?;
    fill_and_sync(path, connection, now, fill)
}

fn fill_and_sync<K: Kind, T>(
    path: &Path,
    connection: Connection,
    now: Timestamp,
    fill: impl FnOnce(&Write<'_, K>) -> Result<T>,
) -> Result<T> {
    let transaction = Transaction::new_unchecked(&connection, TransactionBehavior::Immediate)?;
    let value = fill(&Write::new(&transaction, now))?;
    transaction.commit()?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    drop(connection);
    let synced = std::fs::File::open(path).and_then(|file| file.sync_all());
    synced.map_err(|error| io("cannot sync", path, error))?;
    Ok(value)
}

fn io(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::of_disk(&codes::ORGANIZATION_UNAVAILABLE, format!("{what} {}", path.display()), error)
}

/// Once, before the first connection: memory for thousands of connections instead of for one.
pub(super) fn configure_library() -> Result<()> {
    static ONCE: Once = Once::new();
    #[allow(unsafe_code, reason = "sqlite3_config has no safe binding; it runs once, before any connection exists")]
    ONCE.call_once(|| unsafe {
        // No page cache reserved up front, a small lookaside: 308 KiB a connection become about 230.
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_PAGECACHE, std::ptr::null_mut::<std::ffi::c_void>(), 0_i32, 0_i32);
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, 512_i32, 32_i32);
        // Nobody asks how much SQLite has allocated, and counting it is one lock for all connections of the process.
        ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0_i32);
    });
    if rusqlite::version_number() < OLDEST {
        return Err(Error::internal(format!("SQLite {} is too old: it can lose commits", rusqlite::version())));
    }
    Ok(())
}

/// Puts a file where it can be found, whole or not at all: temporary name, fsync, rename, fsync of the
/// directory. Blocking.
pub fn place_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::File::open(&temporary)?.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| io("cannot write", path, error))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes renames and removals in a directory survive a power cut.
pub fn sync_directory(directory: &Path) -> Result<()> {
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io("cannot sync", directory, error))
}
