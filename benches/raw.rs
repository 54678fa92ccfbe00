//! What the same takes without a server: SQLite used by hand, as little as one can do and still have the answer,
//! safely.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bulkhead::tenants::MIGRATIONS;
use lru::LruCache;
use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, params};
use tokio::sync::oneshot;

/// Opens the file, looks up, closes it.
pub fn open_by_hand(path: &Path) {
    look_up(&open(path));
}

fn open(path: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).unwrap();
    connection
        .execute_batch(
            "PRAGMA trusted_schema=OFF; PRAGMA foreign_keys=ON; PRAGMA cell_size_check=ON; PRAGMA cache_size=-256; \
             PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; PRAGMA busy_timeout=5000",
        )
        .unwrap();
    connection
}

fn look_up(connection: &Connection) {
    let sql = "SELECT s.id, s.expires_at, m.id, m.email FROM session s JOIN member m ON m.id = s.member_id
               WHERE s.token_hash <> ? LIMIT 1";
    let mut statement = connection.prepare_cached(sql).unwrap();
    let found: String = statement.query_row(params![[0_u8; 32]], |row| row.get(3)).unwrap();
    std::hint::black_box(found);
}

/// A plain LRU of open connections.
pub struct Lru {
    files: Vec<PathBuf>,
    open: Mutex<LruCache<usize, Arc<Mutex<Connection>>>>,
}

impl Lru {
    pub fn new(files: Vec<PathBuf>, capacity: usize) -> Self {
        Self { files, open: Mutex::new(LruCache::new(NonZeroUsize::new(capacity).unwrap())) }
    }

    pub fn look_up(&self, n: usize) {
        let known = self.open.lock().unwrap().get(&n).map(Arc::clone);
        let connection = known.unwrap_or_else(|| {
            let opened = Arc::new(Mutex::new(open(&self.files[n])));
            let gone = self.open.lock().unwrap().push(n, Arc::clone(&opened));
            // Closed while nobody waits for the lock.
            drop(gone);
            opened
        });
        look_up(&connection.lock().unwrap());
    }
}

/// A server that does nothing but this on `GET /{n}`, so that it is seen what the way there and back costs.
pub struct Bare {
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bare {
    pub fn serve(work: impl Fn(usize) + Clone + Send + Sync + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let handler = move |axum::extract::Path(n): axum::extract::Path<usize>| async move {
            tokio::task::block_in_place(|| work(n));
            "found"
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let router = axum::Router::new().route("/{n}", axum::routing::get(handler));
                let serving = axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router);
                tokio::select! {
                    ended = serving.into_future() => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { port, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const FOR_WRITING: &str = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; \
    PRAGMA cell_size_check=ON; PRAGMA cache_size=-256; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; \
    PRAGMA secure_delete=ON; PRAGMA busy_timeout=5000";

/// One connection that writes, with the settings that the server writes with.
pub struct Writer(Connection);

impl Writer {
    pub fn open(path: &Path) -> Self {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(FOR_WRITING).unwrap();
        // The server folds at 4 MiB.
        connection.execute_batch("PRAGMA wal_autocheckpoint=1024").unwrap();
        Self(connection)
    }

    /// A member changes and the audit log says so, in one durable transaction: what the server's request writes.
    pub fn write(&self, title: &str) {
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            self.0.prepare_cached(sql).unwrap().execute(values).unwrap();
        };
        run("BEGIN IMMEDIATE", &[]);
        run("UPDATE member SET title = ?, updated_at = updated_at + 1", &[&title]);
        run(
            "INSERT INTO audit_event (id, occurred_at, action, outcome, payload, payload_salt, payload_digest,
                                      prev_hash, hash)
             SELECT 'event_' || hex(randomblob(13)), occurred_at, action, outcome, payload, payload_salt,
                    payload_digest, hash, randomblob(32) FROM audit_event ORDER BY sequence DESC LIMIT 1",
            &[],
        );
        run("COMMIT", &[]);
    }
}

/// Brings one file to the newest schema, and leaves one file.
pub fn migrate(path: &Path) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(FOR_WRITING).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint=0").unwrap();
    let version: usize = connection.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0)).unwrap() as usize;
    for (step, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        connection.execute_batch(sql).unwrap();
        connection.pragma_update(None, "user_version", step as i64 + 1).unwrap();
        connection.execute_batch("COMMIT").unwrap();
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
}

/// The backup API alone: a copy of the file as it is at one moment, in a durable file.
pub fn back_up(from: &Path, to: &Path) {
    let _ = fs::remove_file(to);
    let source = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let mut target = Connection::open(to).unwrap();
    Backup::new(&source, &mut target).unwrap().run_to_completion(1024, Duration::ZERO, None).unwrap();
}
