//! The connection that most reads of a file are done on, opened as cheaply as the file allows.
//!
//! Most files are small, and are opened to be read and closed again. Such a one, with nothing in its WAL, is read into
//! memory whole: without a WAL, shared memory, locks and a descriptor, which are most of what opening takes. That is
//! what is read only while it is the file's newest state. Our own writer ends it before it begins, and whatever anybody
//! else does is seen: before each read there must be nothing in the WAL, and the file must be the same.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::handle::Kind;
use super::open::{HEADER_BYTES, Header, Mode, check_stamp, open, open_copy};
use super::still::wal_of;
use crate::base::{Result, Timestamp};

/// How long a file must have been left alone. Two changes within one tick of the file system's clock look like one.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// The largest file that is held in memory: what its connections would take otherwise, about.
const MOST: u64 = 512 << 10;

/// A connection for reading.
pub(super) struct Reader {
    connection: Connection,
    /// What is true of a file that is held in memory.
    held: Option<Held>,
    /// It was looked at just now.
    is_fresh: bool,
}

#[derive(Clone, Copy)]
struct Held {
    /// What the file looked like when it was read.
    looks: Looks,
    header: Header,
}

impl Reader {
    /// One that sees every commit.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { connection: open(path, Mode::Read)?, held: None, is_fresh: true })
    }

    /// One of the file as it is, if it is small, and nothing waits in its WAL. Ciphertext is authenticated page by page,
    /// and opened as ever.
    ///
    /// Nobody else in this process may have the file open: POSIX drops a process's locks on a file when it closes any
    /// descriptor of it (fcntl(2)), and this closes one that SQLite knows nothing of.
    pub fn open_copy(path: &Path, now: Timestamp) -> Result<Self> {
        match Self::read(path, now)? {
            Some(reader) => Ok(reader),
            None => Self::open(path),
        }
    }

    /// Whatever is wrong with the file is for SQLite to say.
    fn read(path: &Path, now: Timestamp) -> Result<Option<Self>> {
        let wal = wal_of(path);
        let Some(looks) = Looks::of(path, &wal).filter(|looks| looks.bytes <= MOST && looks.since(now) >= LEFT_ALONE)
        else {
            return Ok(None);
        };
        let mut first = [0; HEADER_BYTES];
        let Ok(mut file) = File::open(path) else { return Ok(None) };
        if file.read_exact(&mut first).is_err() {
            return Ok(None);
        }
        let Some(header) = Header::of(&mut first) else { return Ok(None) };
        let Some(connection) = open_copy(first.chain(file), looks.bytes)? else { return Ok(None) };
        let held = Held { looks, header };
        Ok((Looks::of(path, &wal) == Some(looks)).then_some(Self { connection, held: Some(held), is_fresh: true }))
    }

    /// Whether it reads the newest state of the file.
    fn is_newest(&mut self, path: &Path, wal: &Path) -> bool {
        let is_fresh = std::mem::take(&mut self.is_fresh);
        self.held.is_none_or(|held| is_fresh || Looks::of(path, wal) == Some(held.looks))
    }

    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Refuses a file that is not of kind `K`, then tells its schema version.
    pub fn version<K: Kind>(&self) -> Result<i32> {
        self.held.map_or_else(|| check_stamp::<K>(&self.connection), |held| held.header.check_stamp::<K>())
    }

    /// Whether all that is read is of one state, also without a transaction.
    pub const fn is_copy(&self) -> bool {
        self.held.is_some()
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
        // The WAL first: what is folded between the two looks has changed the file. Looking at a file opens nothing, so
        // it takes no lock from anybody.
        match std::fs::metadata(wal) {
            Ok(found) if found.len() > 0 => return None,
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return None,
            Ok(_) | Err(_) => {}
        }
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
            place.is_out = true;
            place.reader.take()
        };
        let out = Out(self);
        if let Some(mut reader) = kept
            && reader.is_newest(&self.path, &self.wal)
        {
            return Ok(Some((out, reader)));
        }
        // Somebody has written to it.
        Ok(Some((out, Reader::open(&self.path)?)))
    }

    /// Before the first write: from now on nobody begins to read what was there before.
    pub fn end_copy(&self) {
        let ended = {
            let mut place = self.place();
            place.is_written = true;
            if place.reader.as_ref().is_some_and(Reader::is_copy) { place.reader.take() } else { None }
        };
        drop(ended);
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Out<'_> {
    /// Gives the reader back. One that is still inside a transaction is no good any more.
    pub fn give_back(self, reader: Reader) {
        if reader.connection.is_autocommit() {
            let mut place = self.0.place();
            if !(place.is_written && reader.is_copy()) {
                place.reader = Some(reader);
            }
        }
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.place().is_out = false;
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
        Database::open_to_read(opening, true).unwrap().map(Arc::new)
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
    async fn whoever_reads_while_others_write_and_fold_goes_on_with_what_there_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = left_alone(&path);
        let (other, bytes) = (Arc::clone(&database), std::fs::read(&path).unwrap());
        let seen = database.scan(|db| {
            let before = count(db)?;
            let seen = tokio::runtime::Handle::current().block_on(async {
                other.write(|db| db.execute("INSERT INTO thing DEFAULT VALUES", [])).await?;
                other.fold().await?;
                // It does not wait for this one, and sees what is there now.
                other.read(count).await
            })?;
            assert_ne!(std::fs::read(&path).unwrap(), bytes);
            Ok((before, count(db)?, seen))
        });
        assert_eq!(seen.await.unwrap(), (0, 0, 1));
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
    async fn a_read_during_which_somebody_else_writes_is_of_the_state_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let database = left_alone(&path);
        let read = database.read(|db| {
            let before = count(db)?;
            drop(insert_from_outside(&path));
            Ok((before, count(db)?))
        });
        assert_eq!(read.await.unwrap(), (0, 0));
        assert_eq!(database.read(count).await.unwrap(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_large_or_somebody_else_has_open_is_opened_as_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        let clock = Clock::manual(Clock::system().now().plus(length::days(1)));
        let (migrations, backup) = (MIGRATIONS, Backup::None);
        let opening = Opening { path: &path, migrations, readers: 2, clock, backup };
        let database = Database::<CatalogDb>::open_to_read(opening, false).unwrap().unwrap();
        assert_eq!((database.read(count).await.unwrap(), is_there(&path)), (0, [true; 2]));
        drop(database);
        let outside = insert_from_outside(&path);
        outside.execute_batch("CREATE TABLE hay (it BLOB)").unwrap();
        outside.execute("INSERT INTO hay VALUES (zeroblob(?))", [MOST.cast_signed()]).unwrap();
        drop(outside);
        assert_eq!((left_alone(&path).read(count).await.unwrap(), is_there(&path)), (1, [true; 2]));
    }

    /// A page that is damaged is met by whoever reads it, and by a check, which looks at the file itself.
    #[tokio::test(flavor = "multi_thread")]
    async fn damage_is_met_in_a_copy_and_a_check_looks_at_the_file() {
        use std::os::unix::fs::FileExt;
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory);
        drop(insert_from_outside(&path));
        let database = left_alone(&path);
        assert_eq!(database.read(count).await.unwrap(), 1);
        let damaged = File::options().write(true).open(&path).unwrap();
        damaged.write_all_at(&[0xff; 4096], 4096).unwrap();
        assert_ne!(database.examine(false).await.unwrap().damage, [""; 0]);
        drop(database);
        let read = left_alone(&path).read(count).await;
        assert!(read.is_err_and(|error| super::super::is_damage(&error)));
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
