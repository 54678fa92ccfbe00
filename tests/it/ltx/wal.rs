//! The WAL reader against SQLite itself: whatever SQLite makes of a cut or damaged WAL, the scan makes of it too.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use bulkhead::ltx::wal::{self, Facts, Outcome, Position, Scan, Scanner};
use bulkhead::ltx::{Decoder, Error, Txid, apply};
use rusqlite::{Connection, MAIN_DB};

const PAGE: usize = 512;
const FRAME: usize = PAGE + 24;

/// A database, and a WAL with several transactions on top of it.
struct Fixture {
    base: Vec<u8>,
    wal: Vec<u8>,
    /// Length of the WAL after each transaction.
    ends: Vec<usize>,
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA page_size=512; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;").unwrap();
    connection
}

fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wal = dir.path().join("db-wal");
    let mut connection = open(&path);
    connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let base = connection.serialize(MAIN_DB).unwrap().to_vec();
    let mut ends = Vec::new();
    for statement in [
        "INSERT INTO t(b) VALUES (randomblob(3000))",
        "INSERT INTO t(b) SELECT randomblob(100) FROM generate_series",
        "DELETE FROM t WHERE a = 1",
        "BEGIN; CREATE TABLE u(x); INSERT INTO u VALUES (zeroblob(2000)); COMMIT",
        "UPDATE t SET b = randomblob(10)",
        "VACUUM",
    ] {
        let statement = statement.replace("generate_series", "(VALUES (1),(2),(3),(4),(5),(6),(7))");
        connection.execute_batch(&format!("{statement};")).unwrap();
        ends.push(usize::try_from(fs::metadata(&wal).unwrap().len()).unwrap());
    }
    let wal = fs::read(wal).unwrap();
    Fixture { base, wal, ends }
}

/// What SQLite reads from a database with this WAL.
fn sqlite(base: &[u8], wal: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("db"), base).unwrap();
    fs::write(dir.path().join("db-wal"), wal).unwrap();
    let mut connection = Connection::open(dir.path().join("db")).unwrap();
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    connection.serialize(MAIN_DB).unwrap().to_vec()
}

/// The base with everything that the scan finds laid onto it.
fn ours(base: &[u8], wal: &[u8]) -> Vec<u8> {
    let mut image = Cursor::new(base.to_vec());
    if let Outcome::Committed(scan) = Scanner::new(Cursor::new(wal), None).scan().unwrap() {
        lay(&scan, wal, &mut image, 2);
    }
    image.into_inner()
}

fn lay(scan: &Scan, wal: &[u8], image: &mut Cursor<Vec<u8>>, txid: u64) {
    let prev_commit = u32::try_from(image.get_ref().len() / scan.page_size as usize).unwrap();
    let facts = Facts { txid: Txid(txid), timestamp_ms: 0, node_id: 0, prev_commit };
    let fill = |_| Ok(vec![0; scan.page_size as usize]);
    let (file, _) = wal::encode(scan, &mut Cursor::new(wal), facts, fill, Vec::new()).unwrap();
    apply(Decoder::new(&file[..]).unwrap(), image).unwrap();
}

#[test]
fn a_cut_wal_is_what_sqlite_makes_of_it() {
    let Fixture { base, wal, ends } = fixture();
    assert_eq!((wal.len() - 32) % FRAME, 0);
    for frame in (32..=wal.len()).step_by(FRAME) {
        for len in [frame.saturating_sub(1), frame, frame + 1, frame + 24, frame + 24 + PAGE / 2] {
            let cut = &wal[..len.min(wal.len())];
            assert_eq!(ours(&base, cut), sqlite(&base, cut), "cut to {len}");
            match Scanner::new(Cursor::new(cut), None).scan().unwrap() {
                Outcome::Committed(scan) => {
                    let committed = ends.iter().filter(|end| **end <= cut.len());
                    assert_eq!(scan.transactions, committed.clone().count() as u64);
                    assert_eq!(scan.end.offset, *committed.max().unwrap() as u64);
                }
                outcome => {
                    assert_eq!(outcome, Outcome::Nothing);
                    assert!(cut.len() < ends[0]);
                }
            }
        }
    }
    for len in 0..=32 {
        assert_eq!(Scanner::new(Cursor::new(&wal[..len]), None).scan().unwrap(), Outcome::Nothing);
    }
}

#[test]
fn a_damaged_wal_ends_before_the_damage() {
    let Fixture { base, wal, ends } = fixture();
    for at in (32..wal.len()).step_by(97) {
        let mut damaged = wal.clone();
        damaged[at] ^= 0x40;
        assert_eq!(ours(&base, &damaged), sqlite(&base, &damaged), "byte {at}");
        let intact = ends.iter().filter(|end| **end <= at).count() as u64;
        match Scanner::new(Cursor::new(&damaged), None).scan().unwrap() {
            Outcome::Committed(scan) => assert_eq!(scan.transactions, intact),
            outcome => assert_eq!((outcome, intact), (Outcome::Nothing, 0)),
        }
    }
    for at in 0..32 {
        let mut damaged = wal.clone();
        damaged[at] ^= 0x40;
        assert!(Scanner::new(Cursor::new(&damaged), None).scan().is_err(), "header byte {at}");
    }
}

/// Gives a WAL the checksums that belong to it.
fn seal(wal: &mut [u8], big_endian: bool) {
    let word = |bytes: &[u8]| {
        let bytes = bytes.try_into().unwrap();
        if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    };
    let sum = |seed: [u32; 2], bytes: &[u8]| {
        bytes.chunks(8).fold(seed, |[a, b], pair| {
            let a = a.wrapping_add(word(&pair[..4])).wrapping_add(b);
            [a, b.wrapping_add(word(&pair[4..])).wrapping_add(a)]
        })
    };
    let store = |at: &mut [u8], sum: [u32; 2]| {
        at[..4].copy_from_slice(&sum[0].to_be_bytes());
        at[4..8].copy_from_slice(&sum[1].to_be_bytes());
    };
    wal[3] = 0x82 | u8::from(big_endian);
    let mut seed = sum([0, 0], &wal[..24]);
    store(&mut wal[24..32], seed);
    for frame in wal[32..].chunks_mut(FRAME) {
        seed = sum(sum(seed, &frame[..8]), &frame[24..]);
        store(&mut frame[16..24], seed);
    }
}

#[test]
fn a_wal_of_the_other_endianness_is_read() {
    let Fixture { base, wal, .. } = fixture();
    let mut same = wal.clone();
    seal(&mut same, wal[3] == 0x83);
    assert!(same == wal, "the test computes checksums as SQLite does");
    let mut other = wal.clone();
    seal(&mut other, wal[3] == 0x82);
    assert_eq!(ours(&base, &other), sqlite(&base, &other));
    assert_eq!(ours(&base, &other), ours(&base, &wal));
}

#[test]
fn a_page_that_was_grown_but_not_logged_is_asked_for() {
    let Fixture { base, wal, ends } = fixture();
    let mut wal = wal[..ends[1]].to_vec();
    let before = u32::try_from(base.len() / PAGE).unwrap();
    let Outcome::Committed(whole) = Scanner::new(Cursor::new(&wal), None).scan().unwrap() else { panic!() };
    // Take out each frame of a page past the old end that commits nothing.
    let absent = before + 2;
    let frames: Vec<Vec<u8>> = wal[32..].chunks(FRAME).map(<[u8]>::to_vec).collect();
    wal.truncate(32);
    for frame in frames {
        if frame[..4] != absent.to_be_bytes() || frame[4..8] != [0; 4] {
            wal.extend_from_slice(&frame);
        }
    }
    let big_endian = wal[3] == 0x83;
    seal(&mut wal, big_endian);
    let Outcome::Committed(scan) = Scanner::new(Cursor::new(&wal), None).scan().unwrap() else { panic!() };
    assert_eq!(scan.commit, whole.commit);
    assert!(whole.pages.contains_key(&absent) && !scan.pages.contains_key(&absent));
    assert_eq!(ours(&base, &wal), sqlite(&base, &wal));

    let mut asked = Vec::new();
    let facts = Facts { txid: Txid(2), timestamp_ms: 0, node_id: 0, prev_commit: before };
    let fill = |pgno| {
        asked.push(pgno);
        Ok(vec![0; PAGE])
    };
    wal::encode(&scan, &mut Cursor::new(&wal), facts, fill, Vec::new()).unwrap();
    assert_eq!(asked, [absent]);
    let refuse = |_| Err(Error::PageMissing(absent));
    assert!(wal::encode(&scan, &mut Cursor::new(&wal), facts, refuse, Vec::new()).is_err());
}

#[test]
fn a_scan_goes_on_where_the_last_one_ended() {
    let Fixture { base, wal, ends } = fixture();
    let mut image = Cursor::new(base.clone());
    let mut position: Option<Position> = None;
    for (at, end) in ends.iter().enumerate() {
        // With the beginning of the next transaction, not committed yet.
        let seen = &wal[..(end + FRAME).min(wal.len())];
        let mut scanner = Scanner::new(Cursor::new(seen), position);
        let Outcome::Committed(scan) = scanner.scan().unwrap() else { panic!("transaction {at} was not found") };
        assert_eq!((scan.transactions, scan.end.offset), (1, *end as u64));
        assert_eq!(scanner.scan().unwrap(), Outcome::Nothing, "the scanner went on by itself");
        assert_eq!(position.unwrap_or(scan.start), scan.start);
        position = Some(scan.end);
        lay(&scan, seen, &mut image, at as u64 + 2);
        assert_eq!(image.get_ref(), &sqlite(&base, &wal[..*end]), "transaction {at}");
    }
}

#[test]
fn a_restart_a_cut_and_a_wrong_position_are_told_apart() {
    let Fixture { wal, ends, .. } = fixture();
    let Outcome::Committed(scan) = Scanner::new(Cursor::new(&wal[..ends[2]]), None).scan().unwrap() else { panic!() };
    let end = scan.end;
    let from = |wal: &[u8], position| Scanner::new(Cursor::new(wal), Some(position)).scan();

    assert_eq!(from(&wal[..ends[2]], end).unwrap(), Outcome::Nothing);
    assert!(matches!(from(&wal, end).unwrap(), Outcome::Committed(_)));
    assert_eq!(from(&wal[..ends[2] - 1], end).unwrap(), Outcome::Short);
    assert_eq!(from(&wal[..32], end).unwrap(), Outcome::Short);
    assert_eq!(from(&[], end).unwrap(), Outcome::Short);
    // Other salts, also in a WAL that is shorter by now.
    let other = fixture().wal;
    assert_eq!(from(&other, end).unwrap(), Outcome::Restarted);
    assert_eq!(from(&other[..ends[0]], end).unwrap(), Outcome::Restarted);
    assert_eq!(from(&other, scan.start).unwrap(), Outcome::Restarted);
    // The same salts, but other frames before the position.
    let lost = Position { checksum: [1, 2], ..end };
    assert_eq!(from(&wal, lost).unwrap(), Outcome::Restarted);
    assert!(matches!(from(&wal, Position { offset: end.offset + 1, ..end }), Err(Error::Wal(_))));
    assert!(matches!(from(&wal, Position { offset: 0, ..end }), Err(Error::Wal(_))));

    // Encoding from another WAL than was scanned.
    let facts = Facts { txid: Txid(2), timestamp_ms: 0, node_id: 0, prev_commit: u32::MAX };
    for changed in [&other[..], &other[..32], &[], &wal[..ends[0]]] {
        let encoded = wal::encode(&scan, &mut Cursor::new(changed), facts, |_| Ok(Vec::new()), Vec::new());
        assert!(matches!(encoded, Err(Error::WalChanged)));
    }
    let encoded = wal::encode(&scan, &mut Cursor::new(&wal), facts, |_| Ok(Vec::new()), Vec::new());
    assert!(encoded.is_ok());
}

#[test]
fn a_real_restart_and_truncation_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let wal = || fs::File::open(dir.path().join("db-wal")).unwrap();
    let connection = open(&path);
    connection.execute_batch("CREATE TABLE t(b); INSERT INTO t VALUES (randomblob(9000));").unwrap();
    let Outcome::Committed(scan) = Scanner::new(wal(), None).scan().unwrap() else { panic!() };
    assert_eq!(scan.transactions, 2);
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    assert_eq!(Scanner::new(wal(), Some(scan.end)).scan().unwrap(), Outcome::Nothing);
    connection.execute_batch("INSERT INTO t VALUES (1);").unwrap();
    assert_eq!(Scanner::new(wal(), Some(scan.end)).scan().unwrap(), Outcome::Restarted);
    // Only what was written since, not the old frames behind it.
    let Outcome::Committed(scan) = Scanner::new(wal(), None).scan().unwrap() else { panic!() };
    assert_eq!(scan.transactions, 1);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    assert_eq!(Scanner::new(wal(), Some(scan.end)).scan().unwrap(), Outcome::Short);
    assert_eq!(Scanner::new(wal(), None).scan().unwrap(), Outcome::Nothing);
}
