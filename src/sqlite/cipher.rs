//! Files that are ciphertext as a whole, in builds that have SQLCipher (`--features sqlcipher`).
//!
//! Every page of such a file and of its WAL is encrypted by AES-256 and authenticated by HMAC-SHA512
//! (zetetic.net/sqlcipher/design), so that whatever copies pages, as a backup does, copies ciphertext. The first 16
//! bytes of the file are a salt instead of SQLite's name. It is no secret, and here it names the key: as long as
//! somebody holds a key ([`unlock`]), the file and every copy of it can be opened by their paths alone.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use rusqlite::types::Value;
use zeroize::Zeroizing;

use super::database::Database;
use super::handle::Kind;
use crate::base::{Error, Result};

#[cfg(feature = "sqlcipher")]
pub(super) use with::{export_under, give, prepare, read_page, salt_of};
#[cfg(not(feature = "sqlcipher"))]
pub(super) use without::{export_under, give, prepare, read_page, salt_of};

/// Whether this build can make and open such files.
pub const CAN_ENCRYPT: bool = cfg!(feature = "sqlcipher");

/// What a file begins with.
pub(super) type Salt = [u8; 16];

/// The keys that are held now. A file that somebody has open holds its own.
static HELD: Mutex<BTreeMap<Salt, Held>> = Mutex::new(BTreeMap::new());

struct Held {
    #[cfg_attr(not(feature = "sqlcipher"), expect(dead_code, reason = "no connection takes it"))]
    key: Zeroizing<[u8; 32]>,
    holders: usize,
}

/// The key of one file and of all its copies. No passphrase is stretched: both halves are random already.
pub struct FileKey {
    key: Zeroizing<[u8; 32]>,
    salt: Salt,
}

impl FileKey {
    #[must_use]
    pub fn new(key: Zeroizing<[u8; 32]>, salt: [u8; 16]) -> Self {
        Self { key, salt }
    }

    /// What a file begins with that is under it.
    #[must_use]
    pub const fn salt(&self) -> [u8; 16] {
        self.salt
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileKey[secret]")
    }
}

/// While this exists, files with the key can be opened.
#[derive(Debug)]
pub struct Unlocked {
    salt: Salt,
}

impl Unlocked {
    /// What a file begins with that is under the key.
    #[must_use]
    pub const fn salt(&self) -> [u8; 16] {
        self.salt
    }
}

/// Holds a key.
#[must_use]
pub fn unlock(key: FileKey) -> Unlocked {
    let FileKey { key, salt } = key;
    held().entry(salt).or_insert(Held { key, holders: 0 }).holders += 1;
    Unlocked { salt }
}

impl Drop for Unlocked {
    fn drop(&mut self) {
        let mut held = held();
        let is_last = held.get_mut(&self.salt).is_some_and(|held| {
            held.holders -= 1;
            held.holders == 0
        });
        if is_last {
            held.remove(&self.salt);
        }
    }
}

impl<K: Kind> Database<K> {
    /// Whether the file is ciphertext, for whoever has just opened it and shares it with nobody yet.
    pub fn is_ciphertext(&self) -> Result<bool> {
        self.with_reader(|connection| Ok(salt_of(connection).is_some()))
    }
}

/// The size of a page in bytes. SQLCipher tells it as text.
pub(super) fn page_size(connection: &Connection) -> Result<u32> {
    let told: Value = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
    let size = match &told {
        Value::Integer(size) => u32::try_from(*size).ok(),
        Value::Text(size) => size.parse().ok(),
        _ => None,
    };
    size.ok_or_else(|| Error::internal("the size of a page is no number"))
}

fn held() -> MutexGuard<'static, BTreeMap<Salt, Held>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(feature = "sqlcipher")]
mod with {
    use std::ffi::{CStr, c_void};
    use std::path::Path;
    use std::sync::Once;

    use rusqlite::limits::Limit;
    use rusqlite::{Connection, ffi};
    use zeroize::Zeroizing;

    use super::{Salt, held};
    use crate::base::{Error, Result};
    use crate::sqlite::open::MAGIC;

    static QUIET: Once = Once::new();

    /// For a connection that has read nothing yet: gives it the key that its file names. Where that one is not held,
    /// SQLite finds that the file is no database.
    pub(in super::super) fn prepare(connection: &Connection) -> Result<()> {
        salt_of(connection).map_or(Ok(()), |salt| give(connection, salt))
    }

    /// The salt of a connection's file; nothing if it is plain or empty.
    pub(in super::super) fn salt_of(connection: &Connection) -> Option<Salt> {
        let mut head = [0; 16];
        read_at(connection, 0, &mut head).ok()?;
        (&head != MAGIC).then_some(head)
    }

    /// Gives a connection the key with this salt, before anything else is done with it.
    pub(in super::super) fn give(connection: &Connection, salt: Salt) -> Result<()> {
        give_to(connection, c"main", salt)
    }

    fn give_to(connection: &Connection, schema: &CStr, salt: Salt) -> Result<()> {
        let text = match held().get(&salt) {
            Some(held) => literal(&held.key, &salt),
            None => return Ok(()),
        };
        let length = i32::try_from(text.len()).unwrap_or(0);
        #[allow(unsafe_code, reason = "the key as a value: in a PRAGMA it would be the text of a statement")]
        let code = unsafe { ffi::sqlite3_key_v2(connection.handle(), schema.as_ptr(), text.as_ptr().cast(), length) };
        if code != ffi::SQLITE_OK {
            return Err(Error::internal(format!("SQLCipher takes no key ({code})")));
        }
        // It would write to standard error, in lines of its own form, what its error codes say as well. For all.
        QUIET.call_once(|| drop(connection.query_row("PRAGMA cipher_log_level = NONE", [], |_| Ok(()))));
        Ok(())
    }

    /// What SQLCipher takes for a key with its salt instead of for a passphrase: deriving one would cost a third of
    /// a second a connection.
    fn literal(key: &[u8; 32], salt: &Salt) -> Zeroizing<Vec<u8>> {
        let mut text = Zeroizing::new(vec![b'\''; 2 + 64 + 32 + 1]);
        text[0] = b'x';
        // The room is exactly that of the digits.
        let _ = hex::encode_to_slice(key, &mut text[2..66]);
        let _ = hex::encode_to_slice(salt, &mut text[66..98]);
        text
    }

    /// A page as it stands in the file, without what the WAL has of it.
    pub(in super::super) fn read_page(connection: &Connection, pgno: u32, page: &mut [u8]) -> Result<()> {
        let offset = u64::from(pgno.saturating_sub(1)).saturating_mul(page.len() as u64);
        let failed = |code| Error::internal(format!("page {pgno} cannot be read ({code})"));
        read_at(connection, i64::try_from(offset).unwrap_or(i64::MAX), page).map_err(failed)
    }

    /// Reads by SQLite's own descriptor: closing another one would drop the locks of all connections to the file
    /// (sqlite.org/howtocorrupt.html section 2.2).
    #[allow(unsafe_code, reason = "there is no safe way to the descriptor; the file lives as long as its connection")]
    fn read_at(connection: &Connection, offset: i64, into: &mut [u8]) -> Result<(), i32> {
        let length = i32::try_from(into.len()).unwrap_or(0);
        unsafe {
            let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
            let place = (&raw mut file).cast::<c_void>();
            let main = c"main".as_ptr();
            let code = ffi::sqlite3_file_control(connection.handle(), main, ffi::SQLITE_FCNTL_FILE_POINTER, place);
            if code != ffi::SQLITE_OK || file.is_null() || (*file).pMethods.is_null() {
                return Err(code);
            }
            let read = (*(*file).pMethods).xRead.ok_or(ffi::SQLITE_MISUSE)?;
            match read(file, into.as_mut_ptr().cast(), length, offset) {
                ffi::SQLITE_OK => Ok(()),
                code => Err(code),
            }
        }
    }

    /// Writes a file's rows as they are at one moment to another one, which is there and empty: under the key with this
    /// salt, or plain.
    pub(in super::super) fn export_under(connection: &Connection, to: &Path, salt: Option<Salt>) -> Result<()> {
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 1)?;
        connection.execute("ATTACH ? AS other KEY ''", [to.as_os_str().to_string_lossy()])?;
        if let Some(salt) = salt {
            give_to(connection, c"other", salt)?;
        }
        // It is nobody's yet: whoever keeps it syncs it.
        connection.pragma_update(Some("other"), "journal_mode", "MEMORY")?;
        connection.pragma_update(Some("other"), "synchronous", "OFF")?;
        connection.execute_batch("BEGIN")?;
        connection.query_row("SELECT sqlcipher_export('other')", [], |_| Ok(()))?;
        for stamp in ["application_id", "user_version"] {
            let value: i32 = connection.query_row(&format!("PRAGMA main.{stamp}"), [], |row| row.get(0))?;
            connection.pragma_update(Some("other"), stamp, value)?;
        }
        connection.execute_batch("COMMIT")?;
        connection.execute("DETACH other", [])?;
        connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
        Ok(())
    }
}

#[cfg(not(feature = "sqlcipher"))]
#[allow(clippy::unnecessary_wraps, reason = "as in builds that can")]
mod without {
    use std::path::Path;

    use rusqlite::Connection;

    use super::Salt;
    use crate::base::{Error, Result};

    pub(in super::super) const fn prepare(_: &Connection) -> Result<()> {
        Ok(())
    }

    pub(in super::super) const fn salt_of(_: &Connection) -> Option<Salt> {
        None
    }

    pub(in super::super) fn give(_: &Connection, _: Salt) -> Result<()> {
        Err(cannot())
    }

    pub(in super::super) fn read_page(_: &Connection, _: u32, _: &mut [u8]) -> Result<()> {
        Err(cannot())
    }

    pub(in super::super) fn export_under(_: &Connection, _: &Path, _: Option<Salt>) -> Result<()> {
        Err(cannot())
    }

    fn cannot() -> Error {
        Error::internal("this build cannot encrypt files")
    }
}

#[cfg(feature = "sqlcipher")]
#[cfg(test)]
mod tests {
    use super::super::{Aside, CatalogDb, Private, build_encrypted, copy_file};
    use super::*;
    use crate::base::Timestamp;

    const MIGRATIONS: &[&str] =
        &["CREATE TABLE thing (word TEXT NOT NULL) STRICT", "CREATE INDEX things ON thing (word)"];
    const NOW: Timestamp = Timestamp::from_millis(0);

    fn key(byte: u8) -> FileKey {
        FileKey::new(Zeroizing::new([byte; 32]), [byte; 16])
    }

    fn words(path: &std::path::Path) -> Result<i64> {
        Aside::<CatalogDb>::open(path, NOW)?
            .read(|db| db.number("SELECT count(*) FROM thing WHERE word = 'needle'", []))
    }

    #[test]
    fn a_file_and_its_copies_open_while_their_key_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let [file, copy, plain] = ["file", "copy", "plain"].map(|name| directory.path().join(name));
        let held = unlock(key(0xa1));
        build_encrypted::<CatalogDb, _>(&file, MIGRATIONS, &held, NOW, |db| {
            db.execute("INSERT INTO thing VALUES ('needle')", [])
        })
        .unwrap();
        copy_file(&file, &copy).unwrap();
        for path in [&file, &copy] {
            let bytes = std::fs::read(path).unwrap();
            assert_eq!(bytes[..16], [0xa1; 16]);
            assert!(!bytes.windows(6).any(|window| window == b"needle"));
            assert_eq!(words(path).unwrap(), 1);
        }
        Private::<CatalogDb>::open(&copy).unwrap().finish(&plain).unwrap();

        let again = unlock(key(0xa1));
        drop(held);
        assert_eq!(words(&file).unwrap(), 1, "somebody else holds it still");
        drop(again);
        for path in [&file, &copy] {
            assert!(super::super::is_damage(&words(path).unwrap_err()), "it opened without its key");
        }
        let _other = unlock(key(0xa2));
        assert!(words(&file).is_err());
        // Stamped, of the same schema, and in need of no key.
        assert_eq!(words(&plain).unwrap(), 1);
        let found = Aside::<CatalogDb>::open(&plain, NOW).unwrap();
        assert_eq!(found.version().unwrap(), 2);
        assert!(found.examine(true).unwrap().damage.is_empty());
        let bytes = std::fs::read(&plain).unwrap();
        assert_eq!((&bytes[..16], &bytes[18..21]), (b"SQLite format 3\0".as_slice(), [1, 1, 0].as_slice()));
    }

    #[test]
    fn a_key_of_the_wrong_bytes_opens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        let held = unlock(key(0xb1));
        build_encrypted::<CatalogDb, _>(&file, MIGRATIONS, &held, NOW, |_| Ok(())).unwrap();
        drop(held);
        let _wrong = unlock(FileKey::new(Zeroizing::new([0xb2; 32]), [0xb1; 16]));
        assert!(super::super::is_damage(&words(&file).unwrap_err()));
    }
}
