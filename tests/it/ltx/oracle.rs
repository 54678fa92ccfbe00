//! Files of ours restored by the real litestream, and files of its own read by us.

use std::fs::{self, File};
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::patience;
use crate::tools::{has, litestream};
use bulkhead::ltx::wal::{self, Facts, Outcome, Position, Scanner};
use bulkhead::ltx::{Decoder, Encoder, FileName, Header, Txid, apply, compact};
use rusqlite::{Connection, MAIN_DB};

fn run(command: &mut Command) -> String {
    let output = command.output().expect("litestream");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {text}");
    text
}

fn url(replica: &Path) -> String {
    format!("file://{}", replica.display())
}

/// Restored by litestream, at a transaction or at the end.
fn restore(replica: &Path, txid: Option<u64>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("restored");
    let mut command = litestream();
    command.arg("restore").arg("-o").arg(&out);
    if let Some(txid) = txid {
        command.arg("-txid").arg(Txid(txid).to_string());
    }
    run(command.arg(url(replica)));
    fs::read(out).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

/// A database whose WAL is captured into a replica of one level.
struct Subject {
    dir: tempfile::TempDir,
    connection: Connection,
    random: Random,
    page_size: usize,
    position: Option<Position>,
    /// The database at each transaction, the first at 0.
    images: Vec<Vec<u8>>,
    tables: u64,
    filled: usize,
    restarts: usize,
}

impl Subject {
    fn new(page_size: usize, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join("db")).unwrap();
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.below(1);
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
                 PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=10;
                 CREATE TABLE t(a INTEGER PRIMARY KEY, b, c TEXT); CREATE INDEX i ON t(c);",
                seed % 3
            ))
            .unwrap();
        fs::create_dir_all(dir.path().join("rep/ltx/0")).unwrap();
        let (images, tables, filled, restarts) = (Vec::new(), 0, 0, 0);
        Self { dir, connection, random, page_size, position: None, images, tables, filled, restarts }
    }

    fn replica(&self) -> PathBuf {
        self.dir.path().join("rep")
    }

    fn level(&self, level: u32) -> PathBuf {
        let path = self.replica().join(format!("ltx/{level}"));
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn step(&mut self) {
        let (n, table) = (self.random.below(40) + 1, self.tables);
        let rows = format!("WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM s WHERE i<{n}) SELECT");
        let size = self.random.below(120_000);
        let sql = match self.random.below(12) {
            0 | 1 => format!("INSERT INTO t(b,c) {rows} randomblob(abs(random())%300), hex(randomblob(20)) FROM s"),
            2 => format!("DELETE FROM t WHERE a % {n} < 3"),
            3 => format!("INSERT INTO t(b) VALUES (randomblob({size}))"),
            4 => format!("INSERT INTO t(b) VALUES (zeroblob({size}))"),
            5 => format!("UPDATE t SET b = randomblob(50), c = upper(c) WHERE a % 5 = {}", n % 5),
            6 => {
                self.tables += 1;
                format!(
                    "CREATE TABLE u{table}(x PRIMARY KEY, y) WITHOUT ROWID; ALTER TABLE t ADD COLUMN d{table} DEFAULT 7"
                )
            }
            7 if table > 0 => {
                self.tables -= 1;
                format!("DROP TABLE u{}; ALTER TABLE t DROP COLUMN d{0}", table - 1)
            }
            8 => "VACUUM".to_owned(),
            // Added and freed in one transaction.
            9 => format!(
                "BEGIN; CREATE TABLE gone(x); INSERT INTO gone VALUES (zeroblob({size})); DROP TABLE gone; COMMIT"
            ),
            // Spilled into the WAL by the small cache, then rolled back: frames without a commit.
            10 => format!("BEGIN; INSERT INTO t(b) VALUES (randomblob({size})), (randomblob({size})); ROLLBACK"),
            _ => format!("PRAGMA incremental_vacuum({n})"),
        };
        self.connection.execute_batch(&format!("{sql};")).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Writes the next L0, if there is something for one.
    fn capture(&mut self) {
        let wal = self.dir.path().join("db-wal");
        let mut scanner = Scanner::new(File::open(&wal).unwrap(), self.position);
        let scan = match scanner.scan().unwrap() {
            Outcome::Committed(scan) => scan,
            Outcome::Nothing => return,
            // Our own checkpoint, made right behind a capture.
            Outcome::Restarted | Outcome::Short => {
                self.restarts += 1;
                self.position = None;
                return self.capture();
            }
        };
        self.position = Some(scan.end);
        let image = self.connection.serialize(MAIN_DB).unwrap().to_vec();
        let txid = Txid(self.images.len() as u64 + 1);
        // Now and then an L0 of the whole database, as after a WAL that was lost.
        let known = if self.random.below(6) == 0 { 0 } else { self.images.last().map_or(0, Vec::len) };
        let prev_commit = u32::try_from(known / self.page_size).unwrap();
        let timestamp_ms = 1_700_000_000_000 + i64::try_from(txid.0).unwrap() * 1000;
        let path = self.level(0).join(FileName { min: txid, max: txid }.to_string());
        if txid == Txid::FIRST && self.page_size.is_multiple_of(1024) {
            let header = Header {
                page_size: scan.page_size,
                commit: scan.commit,
                min: txid,
                max: txid,
                timestamp_ms,
                wal_offset: scan.start.offset,
                wal_size: scan.end.offset - scan.start.offset,
                wal_salts: scan.end.salts,
                node_id: 0,
            };
            let mut encoder = Encoder::new(File::create(path).unwrap(), header).unwrap();
            encoder.image(&image[..]).unwrap();
            encoder.finish().unwrap();
        } else {
            let facts = Facts { txid, timestamp_ms, node_id: 0, prev_commit };
            let fill = |pgno| {
                self.filled += 1;
                Ok(image[(pgno as usize - 1) * self.page_size..][..self.page_size].to_vec())
            };
            wal::encode(&scan, &mut scanner.into_inner(), facts, fill, File::create(path).unwrap()).unwrap();
        }
        assert_eq!(image.len(), scan.commit as usize * self.page_size);
        self.images.push(image);
    }

    fn work(&mut self, captures: usize) {
        while self.images.len() < captures {
            for _ in 0..=self.random.below(3) {
                self.step();
            }
            self.capture();
            let checkpoint = match self.random.below(6) {
                0 => "PRAGMA wal_checkpoint(TRUNCATE)",
                1 => "PRAGMA wal_checkpoint(PASSIVE)",
                _ => continue,
            };
            self.connection.query_row(checkpoint, [], |_| Ok(())).unwrap();
        }
    }

    /// Merges a run of L0 files into one of another level; the files themselves go if `instead`.
    fn merge(&self, min: u64, max: u64, level: u32, instead: bool) {
        let parts: Vec<PathBuf> =
            (min..=max).map(|n| self.level(0).join(FileName { min: Txid(n), max: Txid(n) }.to_string())).collect();
        let out = self.level(level).join(FileName { min: Txid(min), max: Txid(max) }.to_string());
        let inputs = parts.iter().map(|part| File::open(part).unwrap()).collect();
        compact(inputs, File::create(out).unwrap()).unwrap();
        if instead {
            for part in parts {
                fs::remove_file(part).unwrap();
            }
        }
    }
}

#[test]
fn litestream_restores_what_we_captured() {
    if !has("litestream") {
        return;
    }
    let (mut filled, mut restarts) = (0, 0);
    for (seed, page_size) in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 512, 4096].into_iter().enumerate() {
        let mut subject = Subject::new(page_size, seed as u64);
        subject.work(18);
        let last = subject.images.len();

        let mut image = Cursor::new(Vec::new());
        for (at, expected) in subject.images.iter().enumerate() {
            let name = FileName { min: Txid(at as u64 + 1), max: Txid(at as u64 + 1) }.to_string();
            let file = File::open(subject.level(0).join(name)).unwrap();
            apply(Decoder::new(file).unwrap(), &mut image).unwrap();
            assert!(image.get_ref() == expected, "page size {page_size}: our own restore at {}", at + 1);
        }

        let check = |subject: &mut Subject, what: &str| {
            assert!(restore(&subject.replica(), None) == subject.images[last - 1], "{page_size}, {what}: latest");
            for txid in [subject.random.below(last as u64) + 1, subject.random.below(last as u64) + 1] {
                let restored = restore(&subject.replica(), Some(txid));
                assert!(restored == subject.images[usize::try_from(txid).unwrap() - 1], "{page_size}, {what}: {txid}");
            }
        };
        check(&mut subject, "L0");
        // With levels and a snapshot beside, and the first two of three ranges only in them.
        subject.merge(1, 12, 9, false);
        subject.merge(13, 16, 1, false);
        check(&mut subject, "levels beside L0");
        assert!(restore(&subject.replica(), Some(12)) == subject.images[11]);
        subject.merge(1, 7, 2, true);
        subject.merge(8, 14, 1, true);
        for txid in [None, Some(7), Some(12), Some(14), Some(16), Some(17)] {
            let at = txid.map_or(last, |txid| usize::try_from(txid).unwrap());
            assert!(restore(&subject.replica(), txid) == subject.images[at - 1], "{page_size}, merged: {txid:?}");
        }

        let listed = run(litestream().args(["ltx", "-level", "all"]).arg(url(&subject.replica())));
        for level in [0, 1, 2, 9] {
            for entry in fs::read_dir(subject.level(level)).unwrap() {
                let name: FileName = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
                let line = |line: &str| line.contains(&name.min.to_string()) && line.contains(&name.max.to_string());
                assert!(listed.lines().any(line), "{name} of level {level} in {listed}");
            }
        }
        filled += subject.filled;
        restarts += subject.restarts;
    }
    assert!(filled > 0, "no page came from elsewhere than the WAL");
    assert!(restarts > 0, "no WAL was restarted");
}

/// Every file of a replica, by level, in order.
fn files(replica: &Path, level: u32) -> Vec<(FileName, PathBuf)> {
    let Ok(entries) = fs::read_dir(replica.join(format!("ltx/{level}"))) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path))).collect();
    files.sort();
    files
}

type Content = (Header, Vec<(u32, Vec<u8>)>);

fn content(file: impl std::io::Read) -> Content {
    let mut decoder = Decoder::new(file).unwrap();
    let header = *decoder.header();
    let (mut pages, mut page) = (Vec::new(), Vec::new());
    while let Some(pgno) = decoder.next_page(&mut page).unwrap() {
        pages.push((pgno, page.clone()));
    }
    decoder.finish().unwrap();
    (header, pages)
}

#[test]
fn we_read_what_litestream_wrote() {
    if !has("litestream") {
        return;
    }
    for page_size in [512, 4096, 65536] {
        let dir = tempfile::tempdir().unwrap();
        let (db, replica) = (dir.path().join("db"), dir.path().join("rep"));
        let connection = Connection::open(&db).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA busy_timeout=300000;
                 PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a INTEGER PRIMARY KEY, b);"
            ))
            .unwrap();
        let config = dir.path().join("litestream.yml");
        fs::write(
            &config,
            format!(
                "levels:\n  - interval: 1s\n  - interval: 2s\nsnapshot:\n  interval: 2s\n  retention: 1h\n\
                 dbs:\n  - path: {}\n    monitor-interval: 100ms\n    replica:\n      type: file\n      path: {}\n      sync-interval: 100ms\n",
                db.display(),
                replica.display()
            ),
        )
        .unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let mut child = litestream()
            .arg("replicate")
            .arg("-config")
            .arg(&config)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("litestream");
        let (started, deadline) = (Instant::now(), patience());
        let is_enough =
            || files(&replica, 0).len() > 10 && !files(&replica, 1).is_empty() && !files(&replica, 9).is_empty();
        while started.elapsed() < Duration::from_secs(6) || (!is_enough() && Instant::now() < deadline) {
            connection
                .execute_batch(
                    "INSERT INTO t(b) VALUES (randomblob(abs(random())%4000)), (zeroblob(9000));
                     DELETE FROM t WHERE a % 7 = 3;",
                )
                .unwrap();
            std::thread::sleep(Duration::from_millis(60));
        }
        run(Command::new("kill").arg("-TERM").arg(child.id().to_string()));
        child.wait().unwrap();

        let all: Vec<_> = (0..=9).flat_map(|level| files(&replica, level)).collect();
        for (name, path) in &all {
            assert_eq!(content(File::open(path).unwrap()).0.file_name(), *name);
        }
        let raw = files(&replica, 0);
        assert!(raw.len() > 10, "litestream wrote {} files at level 0", raw.len());
        assert!(
            !files(&replica, 1).is_empty() && !files(&replica, 9).is_empty(),
            "levels 1 and 9 were not made: {all:?}"
        );

        // Its merges are ours.
        let mut merges = 0;
        for (name, path) in (1..=9).flat_map(|level| files(&replica, level)) {
            let parts: Vec<_> = raw.iter().filter(|(part, _)| name.min <= part.min && part.max <= name.max).collect();
            if parts.len() as u64 == name.max.0 - name.min.0 + 1 && name.max != Txid(1) {
                let inputs = parts.iter().map(|(_, path)| File::open(path).unwrap()).collect();
                let (merged, _) = compact(inputs, Vec::new()).unwrap();
                let (theirs, ours) = (content(File::open(path).unwrap()), content(&merged[..]));
                assert!(theirs.1 == ours.1, "the pages of {name} differ");
                assert_eq!((theirs.0.commit, theirs.0.file_name()), (ours.0.commit, ours.0.file_name()));
                merges += 1;
            }
        }
        assert!(merges > 2, "{merges} merges to compare");

        let mut image = Cursor::new(Vec::new());
        for (_, path) in &raw {
            apply(Decoder::new(BufReader::new(File::open(path).unwrap())).unwrap(), &mut image).unwrap();
        }
        assert!(image.get_ref() == &restore(&replica, None), "page size {page_size}");
        let restored = dir.path().join("restored");
        fs::write(&restored, image.get_ref()).unwrap();
        let rows = |connection: &Connection| -> (i64, i64) {
            connection
                .query_row("SELECT count(*), sum(length(b)) + sum(a) FROM t", [], |row| Ok((row.get(0)?, row.get(1)?)))
                .unwrap()
        };
        assert_eq!(rows(&Connection::open(&restored).unwrap()), rows(&connection));
    }
}
