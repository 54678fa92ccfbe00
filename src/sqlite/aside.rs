//! A look at a file from the side: nothing is migrated, nothing is kept open, nothing is written.

use std::marker::PhantomData;
use std::path::Path;

use rusqlite::Connection;

use super::database::Database;
use super::handle::{Kind, Read};
use super::is_damage;
use super::open::{Mode, check_stamp, open};
use crate::base::{Result, Timestamp};

/// What a check of the file itself has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// What SQLite says of the pages; empty if all is well.
    pub damage: Vec<String>,
    /// References that lead nowhere, as `table -> table`.
    pub dangling: Vec<String>,
}

/// The most lines of each kind: whoever reads them needs to know what is wrong, not where everywhere.
const MOST: usize = 20;

/// A look at every page.
const QUICK: &str = "PRAGMA quick_check(20)";
/// And at every index, whether it fits its table.
const FULL: &str = "PRAGMA integrity_check(20)";

/// A connection for one look at a file that nobody has open, or that others have.
pub struct Aside<K: Kind> {
    connection: Connection,
    now: Timestamp,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Aside<K> {
    /// Opens an existing file for reading. Blocking, as all that follows.
    pub fn open(path: &Path, now: Timestamp) -> Result<Self> {
        Ok(Self { connection: open(path, Mode::Read)?, now, kind: PhantomData })
    }

    /// The schema version of a file of this kind; refuses one of another kind.
    pub fn version(&self) -> Result<i32> {
        check_stamp::<K>(&self.connection)
    }

    pub fn read<T>(&self, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        work(&Read::new(&self.connection, self.now))
    }

    /// The connection itself, for the other parts of this room.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        work(&self.connection)
    }

    /// What is wrong with the pages alone, in the words of SQLite; `full` compares every index with its table as well.
    pub fn damage(&self, full: bool) -> Result<Vec<String>> {
        damage_met_by(&self.connection, if full { FULL } else { QUICK })
    }

    /// Looks at every page; `full` compares every index with its table as well.
    pub fn examine(&self, full: bool) -> Result<Examination> {
        examine(&self.connection, full)
    }
}

impl<K: Kind> Database<K> {
    /// The same for a file that is open; never for a copy of it in memory.
    pub async fn examine(&self, full: bool) -> Result<Examination> {
        let _turn = self.turn_to_read().await?;
        tokio::task::block_in_place(|| {
            self.on_reader(|connection, is_copy| match is_copy {
                true => examine(&open(self.path(), Mode::Read)?, full),
                false => examine(connection, full),
            })
        })
    }
}

fn examine(connection: &Connection, full: bool) -> Result<Examination> {
    let mut damage = damage_met_by(connection, if full { FULL } else { QUICK })?;
    let describe = |row: &rusqlite::Row<'_>| {
        Ok(format!("{} -> {}", row.get::<_, String>("table")?, row.get::<_, String>("parent")?))
    };
    // On damaged pages a missing parent means nothing.
    let dangling = if damage.is_empty() {
        lines(connection, "PRAGMA foreign_key_check", describe).or_else(|error| {
            damage.extend(damage_met(error)?);
            Ok::<_, crate::base::Error>(Vec::new())
        })?
    } else {
        Vec::new()
    };
    Ok(Examination { damage, dangling })
}

/// What is wrong with the pages, in the words of SQLite.
pub(super) fn damage_in(connection: &Connection) -> Result<Vec<String>> {
    damage_met_by(connection, QUICK)
}

/// The pages in a file of ciphertext that nobody has encrypted as they stand there, whatever is in the WAL.
pub(super) fn forgeries_in(connection: &Connection) -> Result<Vec<String>> {
    damage_met_by(connection, "PRAGMA cipher_integrity_check")
}

fn damage_met_by(connection: &Connection, pragma: &'static str) -> Result<Vec<String>> {
    let mut damage = lines(connection, pragma, |row| row.get(0)).or_else(damage_met)?;
    if damage == ["ok"] {
        damage.clear();
    }
    Ok(damage)
}

/// A page that cannot even be walked ends the check with an error: that is its finding.
fn damage_met(error: crate::base::Error) -> Result<Vec<String>> {
    if is_damage(&error) { Ok(vec![error.cause().unwrap_or_else(|| error.to_string())]) } else { Err(error) }
}

fn lines(
    connection: &Connection,
    pragma: &'static str,
    describe: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<String>,
) -> Result<Vec<String>> {
    let mut statement = connection.prepare(pragma)?;
    let rows = statement.query_map([], describe)?.take(MOST);
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
