//! The same rows in a file under another key, or under none.
//!
//! `PRAGMA rekey` would write every page anew inside the file, through its WAL: until that is folded, the file begins
//! with the salt of the key before and is under the new one, so a crash in that time leaves a file that names the wrong
//! key (the test below has one). So another file is made beside it, which takes the place of the first in one step.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rusqlite::Connection;

use super::aside::Aside;
use super::cipher::{self, Unlocked};
use super::handle::Kind;
use super::open::{MAGIC, Mode, check_stamp, open};
use super::snapshot::{copy_under, create_private};
use super::still::remove_wal;
use crate::base::{Error, Result, Timestamp, codes};

/// Writes what is in a file at this moment to `to`, where nothing is: under the key that is held, or plain. Others may
/// read and write the file meanwhile. What was written is read again, page by page, before this returns.
pub fn recast<K: Kind>(from: &Path, to: &Path, under: Option<&Unlocked>, now: Timestamp) -> Result<()> {
    create_private(to)?;
    let source = open(from, Mode::Write)?;
    check_stamp::<K>(&source)?;
    match (cipher::salt_of(&source), under) {
        // Both have their pages cut the same way.
        (Some(_), Some(key)) => copy_under(&source, to, Some(key.salt()))?,
        (None, None) => copy_under(&source, to, None)?,
        (_, under) => cipher::export_under(&source, to, under.map(Unlocked::salt))?,
    }
    let (version, shape) = (check_stamp::<K>(&source)?, shape(&source)?);
    drop(source);
    let target = open(to, Mode::Build)?;
    target.pragma_update(None, "journal_mode", "WAL")?;
    drop(target);
    let failed =
        |error| Error::new(&codes::STORAGE_FAILED).because(format!("cannot sync {}", to.display())).source(error);
    File::open(to).and_then(|file| file.sync_all()).map_err(failed)?;

    let (damage, is_same) = {
        let written = Aside::<K>::open(to, now)?;
        let is_same = written.version()? == version && written.with(self::shape)? == shape;
        (written.examine(false)?.damage, is_same)
    };
    // Reading it has made them.
    remove_wal(to).map_err(failed)?;
    if !damage.is_empty() || !is_same || salt_in(to)? != under.map(Unlocked::salt) {
        let what = damage.first().map_or("another schema or key", String::as_str);
        return Err(Error::new(&codes::STORAGE_FAILED).because(format!("{} reads differently: {what}", to.display())));
    }
    Ok(())
}

/// What a file begins with that is ciphertext; nothing for a plain one. Not for a file that somebody has open.
pub fn salt_in(path: &Path) -> Result<Option<[u8; 16]>> {
    let mut head = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    let failed = |error| {
        Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("cannot read {}", path.display())).source(error)
    };
    read.map_err(failed)?;
    Ok((&head != MAGIC).then_some(head))
}

/// Everything that the schema consists of, in order.
fn shape(connection: &Connection) -> Result<Vec<(String, String, Option<String>)>> {
    let mut statement = connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY type, name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

#[cfg(feature = "sqlcipher")]
#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use zeroize::Zeroizing;

    use super::super::{CatalogDb, FileKey, beside, build, build_encrypted, bytes_of_new, unlock};
    use super::*;

    const MIGRATIONS: &[&str] =
        &["CREATE TABLE thing (word TEXT NOT NULL) STRICT; CREATE INDEX things ON thing (word);
         CREATE VIEW words AS SELECT word FROM thing;
         CREATE TRIGGER kept BEFORE DELETE ON thing BEGIN SELECT raise(ABORT, 'kept'); END"];
    const NOW: Timestamp = Timestamp::from_millis(0);

    fn held(byte: u8) -> Unlocked {
        unlock(FileKey::new(Zeroizing::new([byte; 32]), [byte; 16]))
    }

    fn words(path: &Path) -> Result<i64> {
        Aside::<CatalogDb>::open(path, NOW)?.read(|db| db.number("SELECT count(*) FROM words", []))
    }

    fn holds(path: &Path, wanted: &str) -> bool {
        std::fs::read(path).unwrap().windows(wanted.len()).any(|window| window == wanted.as_bytes())
    }

    #[test]
    fn the_rows_are_the_same_under_another_key_and_under_none() {
        let directory = tempfile::tempdir().unwrap();
        let [plain, one, two, back] = ["plain", "one", "two", "back"].map(|name| directory.path().join(name));
        let template = bytes_of_new::<CatalogDb>(directory.path(), MIGRATIONS).unwrap();
        build::<CatalogDb, _>(&plain, &template, NOW, |db| {
            (0..500).try_for_each(|_| db.execute("INSERT INTO thing VALUES ('needle')", []).map(drop))
        })
        .unwrap();
        // A hole among the numbers of the rows: they are kept as they are.
        let connection = open(&plain, Mode::Write).unwrap();
        connection.execute_batch("DROP TRIGGER kept; DELETE FROM thing WHERE rowid < 100").unwrap();
        drop(connection);

        let (first, second) = (held(0xc1), held(0xc2));
        recast::<CatalogDb>(&plain, &one, Some(&first), NOW).unwrap();
        recast::<CatalogDb>(&one, &two, Some(&second), NOW).unwrap();
        recast::<CatalogDb>(&two, &back, None, NOW).unwrap();
        for (path, salt) in [(&one, Some([0xc1; 16])), (&two, Some([0xc2; 16])), (&back, None)] {
            assert_eq!(salt_in(path).unwrap(), salt);
            // Those that were read from have theirs.
            assert!(path != &back || !beside(path, "-wal").exists() && !beside(path, "-shm").exists());
            assert_eq!(words(path).unwrap(), 401);
            assert_eq!(holds(path, "needle"), salt.is_none());
            let aside = Aside::<CatalogDb>::open(path, NOW).unwrap();
            assert_eq!(aside.version().unwrap(), 1);
            let first: i64 = aside.read(|db| db.number("SELECT min(rowid) FROM thing", [])).unwrap();
            assert_eq!(first, 100);
            let mode = aside.with(|db| Ok(db.query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))?));
            assert_eq!(mode.unwrap(), "wal");
        }
        drop(first);
        assert!(words(&one).is_err(), "without its key");
        assert_eq!(words(&two).unwrap(), 401, "it needs its own key alone");
        // Nothing is overwritten.
        assert!(recast::<CatalogDb>(&back, &two, None, NOW).is_err());
    }

    /// Why a key is not replaced inside the file: see the top of this one.
    #[test]
    fn a_crash_after_a_rekey_inside_the_file_leaves_one_that_names_the_wrong_key() {
        let directory = tempfile::tempdir().unwrap();
        let [file, crashed] = ["file", "crashed"].map(|name| directory.path().join(name));
        let (_first, _second) = (held(0xd1), held(0xd2));
        build_encrypted::<CatalogDb, _>(&file, MIGRATIONS, &held(0xd1), NOW, |db| {
            db.execute("INSERT INTO thing VALUES ('needle')", []).map(drop)
        })
        .unwrap();
        let connection = open(&file, Mode::Write).unwrap();
        let key = format!("x'{}{}'", "d2".repeat(32), "d2".repeat(16));
        connection.pragma_update(None, "rekey", key).unwrap();
        for suffix in ["", "-wal"] {
            let (from, to): (PathBuf, PathBuf) = (beside(&file, suffix), beside(&crashed, suffix));
            std::fs::copy(from, to).unwrap();
        }
        assert_eq!(salt_in(&crashed).unwrap(), Some([0xd1; 16]), "the file begins as it did");
        assert!(words(&crashed).is_err());
    }
}
