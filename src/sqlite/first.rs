//! The connection that most reads of a file are done on, opened as cheaply as the file allows.
//!
//! Most files are opened to be read and closed again. One with nothing in its WAL is opened as a file that stays as it
//! is (`immutable`, sqlite.org/uri.html): without a WAL, shared memory and locks, which are a third of what opening
//! takes. That is so only while it is true. Our own writer ends it before it begins, and folds nothing into the file
//! while somebody reads it so. Whatever anybody else does is seen: before each read there must be nothing in the WAL
//! and the file must be the same, and a read during which it became another one does not count.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::cipher;
use super::open::{Mode, open};
use super::still::wal_of;
use crate::base::{Error, Result, Timestamp, codes};

/// How long a file must have been left alone. Two changes within one tick of the file system's clock look like one.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// A connection for reading.
pub(super) struct Reader {
    connection: Connection,
    /// What the file looked like, if it is taken for one that stays so.
    still: Option<Looks>,
}

impl Reader {
    /// One that sees every commit.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { connection: open(path, Mode::Read)?, still: None })
    }

    /// One of the file as it is, if nothing waits in its WAL. Ciphertext is authenticated page by page, and opened as
    /// ever.
    pub fn open_still(path: &Path, now: Timestamp) -> Result<Self> {
        let looks = Looks::of(path, &wal_of(path)).filter(|looks| looks.since(now) >= LEFT_ALONE);
        let Some(looks) = looks else { return Self::open(path) };
        let connection = open(path, Mode::Still)?;
        if cipher::salt_of(&connection).is_some() {
            drop(connection);
            return Self::open(path);
        }
        Ok(Self { connection, still: Some(looks) })
    }

    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether all that is read is of one state, also without a transaction.
    pub const fn is_still(&self) -> bool {
        self.still.is_some()
    }
}

/// What a file looks like without being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Looks {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds. Unlike the time of the contents, nobody can set this one.
    changed: (i64, i64),
}

impl Looks {
    /// Nothing where something waits in the WAL, or where that cannot be told.
    fn of(path: &Path, wal: &Path) -> Option<Self> {
        // The WAL first: what is folded between the two looks has changed the file.
        match std::fs::metadata(wal) {
            Ok(found) if found.len() > 0 => None,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => None,
            Ok(_) | Err(_) => Self::of_file(path),
        }
    }

    /// Looking at a file opens nothing, so it takes no lock from anybody.
    fn of_file(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), bytes: found.len(), changed })
    }

    /// How long it has been so; a clock that was set back makes nothing older.
    fn since(&self, now: Timestamp) -> Duration {
        let changed = self.changed.0.saturating_mul(1000).saturating_add(self.changed.1 / 1_000_000);
        now.since(Timestamp::from_millis(changed))
    }
}

/// The first reader of an open file.
pub(super) struct First {
    path: PathBuf,
    wal: PathBuf,
    place: Mutex<Place>,
}

#[derive(Default)]
struct Place {
    /// Nothing while it is out; opened anew where it was thrown away.
    reader: Option<Reader>,
    is_out: bool,
    /// Somebody reads the file itself: nothing may be folded into it.
    is_still_out: bool,
    /// The file takes writes from now on.
    is_written: bool,
}

/// While this exists, the reader is out.
pub(super) struct Out<'a>(&'a First);

impl First {
    pub fn new(path: &Path, reader: Reader) -> Self {
        let place = Mutex::new(Place { reader: Some(reader), ..Place::default() });
        Self { path: path.to_owned(), wal: wal_of(path), place }
    }

    /// The reader, for one use; nothing while somebody else has it.
    pub fn take(&self) -> Result<Option<(Out<'_>, Reader)>> {
        let kept = {
            let mut place = self.place();
            if place.is_out {
                return Ok(None);
            }
            let kept = place.reader.take();
            place.is_out = true;
            place.is_still_out = kept.as_ref().is_some_and(Reader::is_still);
            kept
        };
        let out = Out(self);
        if let Some(reader) = kept {
            if reader.still.is_none_or(|looks| Looks::of(&self.path, &self.wal) == Some(looks)) {
                return Ok(Some((out, reader)));
            }
            // Somebody has written to it.
            drop(reader);
        }
        let reader = Reader::open(&self.path)?;
        self.place().is_still_out = false;
        Ok(Some((out, reader)))
    }

    /// Before the first write: from now on nobody begins to read the file without its WAL.
    pub fn end_still(&self) {
        let ended = {
            let mut place = self.place();
            place.is_written = true;
            if place.reader.as_ref().is_some_and(Reader::is_still) { place.reader.take() } else { None }
        };
        drop(ended);
    }

    /// Whether somebody reads the file itself, so that nothing may be folded into it. Once [`First::end_still`] was
    /// called it becomes no more true.
    pub fn is_still_out(&self) -> bool {
        self.place().is_still_out
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out<'_> {
    /// Gives the reader back with what was read. One that is still inside a transaction is no good any more.
    pub fn give_back<T>(self, reader: Reader, read: Result<T>) -> Result<T> {
        if reader.still.is_some_and(|looks| Looks::of_file(&self.0.path) != Some(looks)) {
            return Err(Error::new(&codes::ORGANIZATION_BUSY)
                .because("somebody else changed the file while it was read")
                .retry_after(Duration::from_secs(1)));
        }
        if reader.connection.is_autocommit() {
            let mut place = self.0.place();
            if !(place.is_written && reader.is_still()) {
                place.reader = Some(reader);
            }
        }
        read
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        let mut place = self.0.place();
        (place.is_out, place.is_still_out) = (false, false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Backup, CatalogDb, Database, Opening, Read, beside, bytes_of_new, place_file};
    use super::*;
    use crate::base::Clock;
    use crate::base::time::length;

    const MIGRATIONS: &[&str] = &["CREATE TABLE thing (id INTEGER PRIMARY KEY) STRICT"];

    /// A file in a directory whose name means something in a URI.
    fn file(directory: &tempfile::TempDir) -> PathBuf {
        let place = directory.path().join("a b?c=d&e#f%41");
        std::fs::create_dir(&place).unwrap();
        let path = place.join("things.sqlite");
        place_file(&path, &bytes_of_new::<CatalogDb>(directory.path(), MIGRATIONS).unwrap()).unwrap();
        path
    }

    fn opened(path: &Path, clock: Clock, migrations: &[&'static str]) -> Option<Arc<Database<CatalogDb>>> {
        let opening = Opening { path, migrations, readers: 2, clock, backup: Backup::None };
        Database::open_to_read(opening).unwrap().map(Arc::new)
    }

    /// Nobody has touched the file for a day.
    fn left_alone(path: &Path) -> Arc<Database<CatalogDb>> {
        opened(path, Clock::manual(Clock::system().now().plus(length::days(1))), MIGRATIONS).unwrap()
    }

    fn count(db: &Read<'_, CatalogDb>) -> Result<i64> {
        db.number("SELECT count(*) FROM thing", [])
    }

    /// Another program, which folds what it has written when it ends.
    fn insert_from_outside(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        connection.execute("INSERT INTO thing DEFAULT VALUES", []).unwrap();
        connection
    }

    fn is_there(path: &Path) -> [bool; 2] {
        ["-wal", "-shm"].map(|suffix| beside(path, suffix).exists())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_only_read_has_no_wal_and_one_that_is_written_shows_it_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = left_alone(&path);
        assert_eq!((database.read(count).await.unwrap(), is_there(&path)), (0, [false; 2]));
        for n in 1..3 {
            database.write(|db| db.execute("INSERT INTO thing DEFAULT VALUES", [])).await.unwrap();
            assert_eq!((database.read(count).await.unwrap(), is_there(&path)), (n, [true; 2]));
        }
        drop(database);
        // Folded when it was closed, and looked at as it is now.
        let database = left_alone(&path);
        assert_eq!(database.read(count).await.unwrap(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_folded_into_a_file_while_somebody_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = left_alone(&path);
        let (other, bytes) = (Arc::clone(&database), std::fs::read(&path).unwrap());
        let seen = database.scan(|db| {
            let before = count(db)?;
            let seen = tokio::runtime::Handle::current().block_on(async {
                other.write(|db| db.execute("INSERT INTO thing DEFAULT VALUES", [])).await?;
                let folded = other.fold().await;
                assert!(folded.is_err_and(|error| error.is(&codes::ORGANIZATION_BUSY)));
                other
                    .still(|still| {
                        still.fold()?;
                        Ok(())
                    })
                    .await?;
                other.compact().await?;
                // Neither waits for this one.
                other.read(count).await
            })?;
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            Ok((before, count(db)?, seen))
        });
        assert_eq!(seen.await.unwrap(), (0, 0, 1));
        database.fold().await.unwrap();
        assert_ne!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(database.read(count).await.unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_somebody_else_writes_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        for is_folded in [false, true] {
            let database = left_alone(&path);
            let before = database.read(count).await.unwrap();
            let outside = insert_from_outside(&path);
            let outside = if is_folded { None } else { Some(outside) };
            assert_eq!(database.read(count).await.unwrap(), before + 1, "{is_folded}");
            drop(outside);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_read_during_which_somebody_else_changed_the_file_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = left_alone(&path);
        let read = database.read(|db| {
            drop(insert_from_outside(&path));
            count(db)
        });
        assert!(read.await.is_err_and(|error| error.is(&codes::ORGANIZATION_BUSY)));
        assert_eq!(database.read(count).await.unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_changed_just_now_or_waits_in_the_wal_is_opened_as_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = opened(&path, Clock::system(), MIGRATIONS).unwrap();
        assert_eq!((database.read(count).await.unwrap(), is_there(&path)), (0, [true; 2]));
        drop(database);
        let outside = insert_from_outside(&path);
        assert_eq!(left_alone(&path).read(count).await.unwrap(), 1);
        drop(outside);
    }

    #[test]
    fn an_older_file_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let bytes = std::fs::read(&path).unwrap();
        let clock = Clock::manual(Clock::system().now().plus(length::days(1)));
        assert!(opened(&path, clock, &[MIGRATIONS[0], "CREATE TABLE other (id INTEGER PRIMARY KEY)"]).is_none());
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}
