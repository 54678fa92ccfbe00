//! One open file: a writer, a few readers, and the gates in front of them.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use r2d2::{ManageConnection, Pool};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use scheduled_thread_pool::ScheduledThreadPool;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::first::{First, Reader};
use super::handle::{Kind, Read, Write};
use super::meter::Meter;
use super::open::{Mode, migrate, open};
use super::still::{mark_unread, wal_of};
use crate::base::{Clock, Error, Result, codes};

/// How long a request waits for its turn at a file before it is told to come back.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a read waits for the connections that are open before one more is opened: parsing the schema
/// for it takes longer than most reads do, and its memory is kept.
const SHARE: Duration = Duration::from_millis(2);
/// The WAL is folded back into the file when it has grown to this.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// r2d2 would start three threads for every pool; all pools of the process share these two.
static HELPERS: LazyLock<Arc<ScheduledThreadPool>> =
    LazyLock::new(|| Arc::new(ScheduledThreadPool::builder().num_threads(2).thread_name_pattern("sqlite-{}").build()));

/// How to open a file.
pub struct Opening<'a> {
    pub path: &'a Path,
    pub migrations: &'a [&'static str],
    /// Read-only connections at the most.
    pub readers: u32,
    pub clock: Clock,
    pub backup: Backup,
}

/// What a backup of the file asks of the one who writes it.
#[derive(Clone, Default)]
pub enum Backup {
    /// Nothing reads the WAL: it is folded whenever that is convenient.
    #[default]
    None,
    /// Nothing reads the WAL now, but a backup did and will again: a file that is folded meanwhile is marked.
    Later,
    /// Another program looks after the file, reads its WAL and folds it: it is never folded here.
    Foreign,
    /// The WAL is folded in [`Database::still`] by whoever has read it; this is called after each commit.
    Wal(Arc<dyn Fn() + Send + Sync>),
}

/// An open file of kind `K`.
pub struct Database<K: Kind> {
    path: PathBuf,
    clock: Clock,
    /// Opened for the first write.
    writer: Mutex<Option<Connection>>,
    write_gate: Semaphore,
    /// The one that most files never need a second of.
    pub(super) reader: First,
    /// Further ones, for files where that one is busy for long.
    more_readers: OnceLock<Pool<Connections>>,
    most_readers: u32,
    /// A permit for each connection that is open or may be opened next.
    read_gate: Semaphore,
    /// Connections that may still be added.
    spare_readers: AtomicUsize,
    pub(super) commits: Arc<AtomicU64>,
    pub(super) dirty: AtomicBool,
    pub(super) backup: Backup,
    /// What the file may grow to, 0 for no bound; and what the writer's connection was told.
    pub(super) most_bytes: AtomicU64,
    pub(super) bound_set: AtomicU64,
    /// Whoever counts what is written.
    pub(super) meter: OnceLock<Arc<dyn Meter>>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Database<K> {
    /// Opens an existing file, checks its stamp and migrates it if it is older. Blocking.
    ///
    /// The first connection is opened here and not by the pool, so that a missing or damaged file
    /// fails at once with its own reason.
    pub fn open(opening: Opening<'_>) -> Result<Self> {
        let first = Reader::open(opening.path)?;
        if is_newest::<K>(&first, &opening)? {
            return Ok(Self::on(opening, first, None));
        }
        // What it has read of the schema is no good any more.
        drop(first);
        let writer = open(opening.path, Mode::Write)?;
        migrate::<K>(&writer, opening.migrations)?;
        let first = Reader::open(opening.path)?;
        Ok(Self::on(opening, first, Some(writer)))
    }

    /// The same for a file that is more likely to be read and closed again than to be written; nothing, and nothing
    /// done, where its schema is another one than the newest. `is_alone`: nobody else in this process has it open.
    /// Blocking.
    pub fn open_to_read(opening: Opening<'_>, is_alone: bool) -> Result<Option<Self>> {
        let first = match opening.backup {
            Backup::None | Backup::Later | Backup::Wal(_) if is_alone => {
                Reader::open_copy(opening.path, opening.clock.now())?
            }
            // Another program folds the WAL, whenever it likes to; or else.
            _ => Reader::open(opening.path)?,
        };
        Ok(if is_newest::<K>(&first, &opening)? { Some(Self::on(opening, first, None)) } else { None })
    }

    fn on(opening: Opening<'_>, first: Reader, writer: Option<Connection>) -> Self {
        Self {
            path: opening.path.to_owned(),
            clock: opening.clock,
            writer: Mutex::new(writer),
            write_gate: Semaphore::new(1),
            reader: First::new(opening.path, first),
            more_readers: OnceLock::new(),
            most_readers: opening.readers.max(1),
            read_gate: Semaphore::new(1),
            spare_readers: AtomicUsize::new((opening.readers as usize).saturating_sub(1)),
            commits: Arc::default(),
            dirty: AtomicBool::new(false),
            backup: opening.backup,
            most_bytes: AtomicU64::new(0),
            bound_set: AtomicU64::new(0),
            meter: OnceLock::new(),
            kind: PhantomData,
        }
    }

    /// Short reads: runs where it is called, because a hop to another thread costs ten look-ups.
    pub async fn read<T>(&self, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        let _turn = self.turn_to_read().await?;
        self.read_now(work)
    }

    /// One statement, for whoever has just opened the file and shares it with nobody yet. Blocking.
    pub fn first_read<T>(&self, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        self.with_reader(|connection| work(&Read::new(connection, self.clock.now())))
    }

    /// Reads without a bound, such as a whole audit log: other requests go on meanwhile.
    pub async fn scan<T>(&self, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        let _turn = self.turn_to_read().await?;
        tokio::task::block_in_place(|| self.read_now(work))
    }

    /// One transaction: committed and on disk when this returns `Ok`, undone on `Err`.
    ///
    /// The closure runs to its end even if the client has gone, so what it does must be idempotent
    /// or single-use.
    pub async fn write<T>(&self, work: impl FnOnce(&Write<'_, K>) -> Result<T>) -> Result<T> {
        self.write_within(true, work).await
    }

    /// The same where the file is as large as it may be: for what ends, revokes or deletes something.
    pub async fn write_beyond<T>(&self, work: impl FnOnce(&Write<'_, K>) -> Result<T>) -> Result<T> {
        self.write_within(false, work).await
    }

    async fn write_within<T>(&self, is_bounded: bool, work: impl FnOnce(&Write<'_, K>) -> Result<T>) -> Result<T> {
        // Before the wait, and after it: whoever was before may have used up what there was.
        self.admit(is_bounded)?;
        let _turn = self.turn_to_write().await?;
        self.admit(is_bounded)?;
        tokio::task::block_in_place(|| {
            self.with_writer(|connection| {
                self.set_bound(connection, is_bounded)?;
                let transaction = Transaction::new_unchecked(&*connection, TransactionBehavior::Immediate)?;
                let value = match work(&Write::new(&transaction, self.clock.now())) {
                    Ok(value) => value,
                    Err(error) => {
                        drop(transaction);
                        self.count_written(connection);
                        return Err(self.name_the_bound(connection, error));
                    }
                };
                let committed = transaction.commit();
                // Even where it failed: whatever it left, nobody shall take what was read before for new.
                self.commits.fetch_add(1, Ordering::SeqCst);
                self.count_written(connection);
                committed?;
                self.dirty.store(true, Ordering::Relaxed);
                let most = match &self.backup {
                    Backup::None | Backup::Later => CHECKPOINT_BYTES,
                    Backup::Foreign => u64::MAX,
                    Backup::Wal(written) => {
                        written();
                        16 * CHECKPOINT_BYTES
                    }
                };
                if self.wal_bytes() > most && self.may_fold_unread() {
                    checkpoint(connection);
                }
                Ok(value)
            })
        })
    }

    /// Folds the WAL into the file, if something was written. Blocking; for eviction and shutdown.
    pub fn settle(&self) {
        let is_read = matches!(self.backup, Backup::Wal(_) | Backup::Foreign);
        if !is_read && self.dirty.load(Ordering::Relaxed) && self.may_fold_unread() {
            self.dirty.store(false, Ordering::Relaxed);
            let folded = self.with_writer(|connection| {
                checkpoint(connection);
                Ok(())
            });
            if let Err(error) = folded {
                tracing::warn!(?error, "a file was not folded; it will be after the next write");
            }
        }
    }

    /// Folds the WAL into the file and cuts it off, unless a reader is in it, for whom no writer waits here. Tells
    /// whether nothing is in it any more. One that somebody else folds is left alone.
    pub async fn fold_if_free(&self) -> Result<bool> {
        if matches!(self.backup, Backup::Wal(_) | Backup::Foreign) {
            return Ok(false);
        }
        let _turn = self.turn_to_write().await?;
        tokio::task::block_in_place(|| {
            if self.wal_bytes() > 0 && self.may_fold_unread() {
                self.with_writer(|connection| {
                    connection.busy_timeout(Duration::ZERO)?;
                    checkpoint(connection);
                    Ok(connection.busy_timeout(super::open::PATIENCE)?)
                })?;
            }
            Ok(self.wal_bytes() == 0)
        })
    }

    /// Folds the WAL into the file and cuts it off, so that what was deleted is in neither.
    pub async fn fold(&self) -> Result<()> {
        let _turn = self.turn_to_write().await?;
        tokio::task::block_in_place(|| self.fold_now())
    }

    /// The same, for whoever shares the file with nobody. Blocking. What a backup has not read yet is marked as
    /// such: it starts over.
    pub fn fold_now(&self) -> Result<()> {
        if matches!(self.backup, Backup::Foreign) {
            // Its keeper folds it within a minute or so, and would lose its place by our doing it.
            return Ok(());
        }
        if !self.may_fold_unread() {
            return Err(Error::internal("the mark of an unread WAL could not be written"));
        }
        self.with_writer(|connection| {
            checkpoint(connection);
            Ok(())
        })?;
        // A reader that is still in it keeps it from being cut off.
        if self.wal_bytes() == 0 {
            Ok(())
        } else {
            Err(Error::new(&codes::ORGANIZATION_BUSY).because("a WAL is in use"))
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Connections that are open now, readers and writer.
    #[must_use]
    pub fn connections(&self) -> u32 {
        let more = self.more_readers.get().map_or(0, |pool| pool.state().connections);
        // A writer that is at work is open.
        let writer = self.writer.try_lock().map_or(true, |writer| writer.is_some());
        1 + more + u32::from(writer)
    }

    /// Counts the commits. What was read after this number was seen is still so while the number is the same:
    /// every change of the file is made here.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// The same for whoever looks at it when the file is closed.
    #[must_use]
    pub fn commit_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.commits)
    }

    #[must_use]
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    fn read_now<T>(&self, work: impl FnOnce(&Read<'_, K>) -> Result<T>) -> Result<T> {
        self.on_reader(|connection, is_copy| {
            // One transaction for all reads of the closure: they see one state, and the WAL's locks are
            // taken once instead of at every statement. A copy in memory has one state, and no locks.
            let _snapshot = if is_copy { None } else { Some(Snapshot::begin(connection)?) };
            work(&Read::new(connection, self.clock.now()))
        })
    }

    /// For a holder of a permit of the gate.
    pub(super) fn with_reader<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.on_reader(|connection, _| work(connection))
    }

    pub(super) fn on_reader<T>(&self, work: impl FnOnce(&Connection, bool) -> Result<T>) -> Result<T> {
        let Some((out, first)) = self.reader.take()? else {
            let pool = self.more_readers.get_or_init(|| pool(&self.path, self.most_readers));
            return work(&*pool.get()?, false);
        };
        let read = work(first.connection(), first.is_copy());
        out.give_back(first);
        read
    }

    /// For the holder of the permit of the gate, or while nobody else is there.
    pub(super) fn with_writer<T>(&self, work: impl FnOnce(&mut Connection) -> Result<T>) -> Result<T> {
        let mut place = locked(&self.writer);
        let mut connection = match place.take().filter(Connection::is_autocommit) {
            Some(connection) => connection,
            None => {
                self.bound_set.store(0, Ordering::SeqCst);
                self.reader.end_copy();
                open(&self.path, Mode::Write)?
            }
        };
        let result = work(&mut connection);
        *place = Some(connection);
        result
    }

    pub(super) async fn turn_to_write(&self) -> Result<SemaphorePermit<'_>> {
        turn(&self.write_gate).await
    }

    pub(super) async fn turn_to_read(&self) -> Result<SemaphorePermit<'_>> {
        if let Ok(permit) = self.read_gate.try_acquire() {
            return Ok(permit);
        }
        if self.spare_readers.load(Ordering::Relaxed) > 0 {
            if let Ok(Ok(permit)) = tokio::time::timeout(SHARE, self.read_gate.acquire()).await {
                return Ok(permit);
            }
            let taken =
                self.spare_readers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |spare| spare.checked_sub(1));
            if taken.is_ok() {
                self.read_gate.add_permits(1);
            }
        }
        turn(&self.read_gate).await
    }

    /// The backup is far behind: better that it starts over than that the disk fills up. It must learn of that,
    /// also after a crash.
    pub(super) fn may_fold_unread(&self) -> bool {
        matches!(self.backup, Backup::None) || mark_unread(&self.path).is_ok()
    }

    fn wal_bytes(&self) -> u64 {
        // The WAL carries no locks: looking at its size is harmless, unlike at the file itself.
        std::fs::metadata(wal_of(&self.path)).map_or(0, |metadata| metadata.len())
    }
}

impl<K: Kind> Drop for Database<K> {
    fn drop(&mut self) {
        self.settle();
    }
}

fn is_newest<K: Kind>(reader: &Reader, opening: &Opening<'_>) -> Result<bool> {
    let version = reader.version::<K>()?;
    Ok(usize::try_from(version).is_ok_and(|version| version == opening.migrations.len()))
}

/// A deferred transaction for reading. Its statements are kept prepared, unlike those of rusqlite's own.
struct Snapshot<'c>(&'c Connection);

impl<'c> Snapshot<'c> {
    fn begin(connection: &'c Connection) -> Result<Self> {
        connection.prepare_cached("BEGIN")?.execute([])?;
        Ok(Self(connection))
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        // Where this fails, the pool sees a connection inside a transaction and throws it away.
        let _ = self.0.prepare_cached("COMMIT").and_then(|mut end| end.execute([]));
    }
}

async fn turn(gate: &Semaphore) -> Result<SemaphorePermit<'_>> {
    match gate.try_acquire() {
        Ok(permit) => Ok(permit),
        Err(_) => match tokio::time::timeout(PATIENCE, gate.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(&codes::ORGANIZATION_BUSY).retry_after(Duration::from_secs(1))),
        },
    }
}

pub(super) fn checkpoint(connection: &Connection) {
    // Busy is no fault: a reader is still in the WAL, and the next checkpoint will get it.
    if let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::warn!(%error, "checkpoint failed; it will be tried again");
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(path: &Path, size: u32) -> Pool<Connections> {
    Pool::builder()
        .max_size(size)
        .min_idle(Some(0))
        .test_on_check_out(false)
        // Without these there is no timer for an idle pool; eviction closes what is not used.
        .idle_timeout(None)
        .max_lifetime(None)
        .connection_timeout(Duration::from_secs(3))
        .thread_pool(Arc::clone(&HELPERS))
        .build_unchecked(Connections(path.to_owned()))
}

/// Makes the connections of a pool.
struct Connections(PathBuf);

impl ManageConnection for Connections {
    type Connection = Connection;
    type Error = Error;

    fn connect(&self) -> Result<Connection> {
        open(&self.0, Mode::Read)
    }

    fn is_valid(&self, _: &mut Connection) -> Result<()> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        // A connection must come back outside a transaction.
        !connection.is_autocommit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CatalogDb, bytes_of_new, place_file};
    use super::*;

    const MIGRATIONS: &[&str] = &["CREATE TABLE thing (id INTEGER PRIMARY KEY) STRICT"];

    fn database(directory: &Path, readers: u32) -> Arc<Database<CatalogDb>> {
        let path = directory.join("things.sqlite");
        place_file(&path, &bytes_of_new::<CatalogDb>(directory, MIGRATIONS).unwrap()).unwrap();
        let opening =
            Opening { path: &path, migrations: MIGRATIONS, readers, clock: Clock::system(), backup: Backup::None };
        Arc::new(Database::open(opening).unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_connection_is_added_while_another_is_busy_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path(), 2);
        let count = |db: &Read<'_, CatalogDb>| db.number("SELECT count(*) FROM thing", []);
        for _ in 0..100 {
            let tasks: Vec<_> = (0..4)
                .map(|_| {
                    let database = Arc::clone(&database);
                    tokio::spawn(async move { database.read(count).await.unwrap() })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
        }
        assert!(database.connections() <= 2, "more connections than allowed");

        let (end, ended) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel::<()>();
        let long = {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                let wait = move |_: &Read<'_, CatalogDb>| {
                    let _ = begin.send(());
                    Ok(ended.recv().is_ok())
                };
                database.scan(wait).await.unwrap()
            })
        };
        begun.await.unwrap();
        // Neither a short read nor a write waits for the long one.
        assert_eq!(database.read(count).await.unwrap(), 0);
        database.write(|db| db.execute("INSERT INTO thing DEFAULT VALUES", [])).await.unwrap();
        assert_eq!(database.read(count).await.unwrap(), 1);
        assert_eq!(database.connections(), 3);
        end.send(()).unwrap();
        assert!(long.await.unwrap());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reads_see_one_state_and_leave_no_transaction_behind() {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path(), 1);
        let failed: Result<()> = database.read(|_| Err(Error::internal("on purpose"))).await;
        assert!(failed.is_err());
        let other = Arc::clone(&database);
        let (before, after) = database
            .scan(|db| {
                let before = db.number("SELECT count(*) FROM thing", [])?;
                let write = other.write(|db| db.execute("INSERT INTO thing DEFAULT VALUES", []));
                tokio::runtime::Handle::current().block_on(write)?;
                Ok((before, db.number("SELECT count(*) FROM thing", [])?))
            })
            .await
            .unwrap();
        assert_eq!((before, after), (0, 0));
        assert_eq!(database.read(|db| db.number("SELECT count(*) FROM thing", [])).await.unwrap(), 1);
    }
}
