//! A file that came from outside: looked at without a chance of changing it or of running what is in it.

use std::fs::File;
use std::io::Read as _;
use std::marker::PhantomData;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use super::handle::{Kind, Read};
use super::open::{HEADER_BYTES, Header, configure_library};
use crate::base::{Result, Timestamp};

/// What our files have, and what therefore an honest copy of one has.
const PAGE_SIZE: u32 = 4096;
/// Far more than any schema of ours has.
const MOST_OBJECTS: usize = 1000;

/// Why a file is not what it should be.
#[derive(Debug)]
pub enum Flaw {
    /// It is no SQLite database, or one of another make.
    Shape(String),
    /// It is a database, but not of this kind.
    Stamp(String),
    /// It has a schema version that this program does not know.
    Version(i64),
    /// Its schema is not exactly that of its version.
    Schema(String),
    /// Its content contradicts itself.
    Damage(String),
}

/// A file of kind `K` whose schema is exactly ours.
pub struct Untrusted<K: Kind> {
    connection: Connection,
    version: usize,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Untrusted<K> {
    /// Looks at the header with our own eyes, then lets SQLite open the file as one that nobody changes, compares
    /// the schema with what `migrations` make of an empty file, and checks pages and references. Blocking.
    pub fn open(path: &Path, migrations: &[&'static str]) -> Result<Self, Flaw> {
        let version = check_header::<K>(path, migrations.len())?;
        let connection = open_immutable(path).map_err(|error| Flaw::Shape(error.to_string()))?;
        let found = schema_of(&connection).map_err(|error| Flaw::Damage(error.to_string()))?;
        let known = known_schema(&migrations[..version]).map_err(|error| Flaw::Schema(error.to_string()))?;
        compare(&found, &known)?;
        check_content(&connection)?;
        Ok(Self { connection, version, kind: PhantomData })
    }

    /// The number of the last migration that made it.
    #[must_use]
    pub const fn version(&self) -> usize {
        self.version
    }

    /// Reads rows. What is in them is still to be judged.
    pub fn read<T>(&self, now: Timestamp, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        work(&Read::new(&self.connection, now))
    }
}

/// sqlite.org/fileformat2.html section 1.3.
fn check_header<K: Kind>(path: &Path, newest: usize) -> Result<usize, Flaw> {
    let unreadable = |error: std::io::Error| Flaw::Shape(error.to_string());
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut header = [0_u8; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| Flaw::Shape("it is too short".into()))?;
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let mut seen = header;
    let Some(Header { application_id, version }) = Header::of(&mut seen) else {
        return Err(Flaw::Shape("it does not begin as a SQLite database".into()));
    };
    let page_size = u32::from(u16::from_be_bytes([header[16], header[17]]));
    if page_size != PAGE_SIZE {
        return Err(Flaw::Shape(format!("its pages have {page_size} bytes instead of {PAGE_SIZE}")));
    }
    // A file that asks for a WAL, for reserved space or for another text encoding is none of ours.
    if header[18..21] != [1, 1, 0] || word(56) != 1 {
        return Err(Flaw::Shape("it was not written by an export".into()));
    }
    if length != u64::from(word(28)) * u64::from(PAGE_SIZE) {
        return Err(Flaw::Damage(format!("it should have {} pages and has {length} bytes", word(28))));
    }
    if application_id != K::APPLICATION_ID {
        return Err(Flaw::Stamp(format!("it is not a Bulkhead {} (application_id {application_id:#x})", K::NAME)));
    }
    let known = usize::try_from(version).ok().filter(|version| (1..=newest).contains(version));
    known.ok_or(Flaw::Version(version.into()))
}

fn open_immutable(path: &Path) -> Result<Connection> {
    configure_library()?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("file:{}?immutable=1&mode=ro", escaped(path)), flags)?;
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        connection.set_db_config(option, value)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LENGTH, 16 << 20),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 64 << 10),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 64),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.execute_batch(
        "PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA query_only=ON",
    )?;
    Ok(connection)
}

/// RFC 3986: what would end the path or begin an escape.
fn escaped(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.replace('%', "%25").replace('?', "%3f").replace('#', "%23")
}

/// Type, name, table and text of everything in a schema, in order.
type Objects = Vec<(String, String, String, Option<String>)>;

fn schema_of(connection: &Connection) -> rusqlite::Result<Objects> {
    // But for the two tables that a stock litestream leaves in each database, as exactly it makes them.
    let mut statement = connection.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema
         WHERE NOT (type = 'table' AND tbl_name = name AND (
             name = '_litestream_seq' AND sql IS 'CREATE TABLE _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER)'
             OR name = '_litestream_lock' AND sql IS 'CREATE TABLE _litestream_lock (id INTEGER)'))
         ORDER BY type, name, tbl_name, sql",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.take(MOST_OBJECTS).collect()
}

fn known_schema(migrations: &[&'static str]) -> rusqlite::Result<Objects> {
    let connection = Connection::open_in_memory()?;
    for sql in migrations {
        connection.execute_batch(sql)?;
    }
    schema_of(&connection)
}

fn compare(found: &Objects, known: &Objects) -> Result<(), Flaw> {
    if let Some((kind, name, ..)) = found.iter().find(|object| !known.contains(object)) {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(Flaw::Schema(format!("the {kind} {shown:?} is not the one of its version")));
    }
    if let Some((kind, name, ..)) = known.iter().find(|object| !found.contains(object)) {
        return Err(Flaw::Schema(format!("the {kind} {name:?} is missing")));
    }
    // Twice the same would be two of them where one is known.
    if found.len() == known.len() { Ok(()) } else { Err(Flaw::Schema("something is in it twice".into())) }
}

fn check_content(connection: &Connection) -> Result<(), Flaw> {
    let damage = |error: rusqlite::Error| Flaw::Damage(error.to_string());
    // All of `quick_check`, and that every row is in every index.
    let mut full = connection.prepare("PRAGMA integrity_check(1)").map_err(damage)?;
    let line: String = full.query_row([], |row| row.get(0)).map_err(damage)?;
    if line != "ok" {
        return Err(Flaw::Damage(line));
    }
    let mut references = connection.prepare("PRAGMA foreign_key_check").map_err(damage)?;
    match references.exists([]).map_err(damage)? {
        true => Err(Flaw::Damage("a row refers to one that is not there".into())),
        false => Ok(()),
    }
}
