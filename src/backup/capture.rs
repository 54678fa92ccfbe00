//! From a database between two transactions to a file of level 0.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::state::{At, Reached};
use crate::base::{Error, Result, Timestamp};
use crate::ltx::{self, Encoder, Header, Txid, wal};
use crate::replica::{Body, Scratch};
use crate::sqlite::{Still, Unread};

/// Above this a WAL is folded once it was captured.
const FOLD_FROM: u64 = 1 << 20;

/// A file to be shipped, and where the replica is when it has arrived.
pub(super) struct Captured {
    pub body: Body,
    pub header: Header,
    pub then: Reached,
    /// To be removed when the file has arrived.
    pub mark: Option<Unread>,
}

/// When, and where what is large goes: a database is never held in memory as a whole.
#[derive(Clone, Copy)]
pub(super) struct Way<'a> {
    pub now: Timestamp,
    pub scratch: &'a Path,
}

/// What was committed since `reached`, as the next file of level 0. Nothing if there was nothing.
pub(super) fn capture(still: &mut Still<'_>, reached: Reached, way: Way<'_>) -> Result<Option<Captured>> {
    let mark = still.unread();
    let reached = if mark.is_some() { Reached { at: At::Whole, ..reached } } else { reached };
    let Some(mut log) = open(still)? else {
        // No WAL: nothing was written since it was folded, which is done when all of it was shipped.
        let is_known = !matches!(reached.at, At::Whole);
        return if is_known { Ok(None) } else { Ok(Some(Captured { mark, ..whole(still, reached, way)? })) };
    };
    let captured = match scan(&mut log, reached)? {
        Found::Nothing => return Ok(None),
        Found::Unknown => whole(still, reached, way)?,
        Found::Committed(scan) => increment(still, &mut log, &scan, reached, way)?,
    };
    Ok(Some(Captured { mark, ..captured }))
}

/// Whether the WAL is so large that it is to be folded once it was captured: known while it is captured, so that
/// writers are not held up a second time only to see that it is small.
pub(super) fn is_large(still: &Still<'_>) -> bool {
    std::fs::metadata(still.wal()).is_ok_and(|metadata| metadata.len() > FOLD_FROM)
}

/// Folds the WAL if all of it has arrived at the store, and never before: what is folded cannot be captured again.
/// Tells where the next file begins then.
pub(super) fn fold(still: &mut Still<'_>, reached: Reached) -> Result<Option<At>> {
    let (At::Position { position, .. }, None) = (reached.at, still.unread()) else { return Ok(None) };
    let Some(mut log) = open(still)? else { return Ok(None) };
    if !matches!(scan(&mut log, reached)?, Found::Nothing) {
        return Ok(None);
    }
    drop(log);
    still.fold()?;
    Ok(Some(At::Position { position, folded: true }))
}

/// The whole database as a snapshot up to a transaction that was shipped: nothing was committed since.
pub(super) fn snapshot(still: &mut Still<'_>, reached: Reached, way: Way<'_>) -> Result<(Body, Header)> {
    let header = Header { min: Txid::FIRST, max: reached.txid, ..header_of(still, reached.txid, way.now)? };
    Ok((encode(still, header, way)?, header))
}

enum Found {
    Nothing,
    /// What was committed cannot be told from the WAL.
    Unknown,
    Committed(wal::Scan),
}

fn scan(log: &mut BufReader<File>, reached: Reached) -> Result<Found> {
    let from = match reached.at {
        At::Whole => return Ok(Found::Unknown),
        At::Beginning { .. } => None,
        At::Position { position, .. } => Some(position),
    };
    let mut scanner = wal::Scanner::new(&mut *log, from);
    let outcome = scanner.scan().map_err(unreadable)?;
    Ok(match (outcome, reached.at) {
        (wal::Outcome::Committed(scan), At::Beginning { salts }) if scan.end.salts != salts => Found::Unknown,
        (wal::Outcome::Committed(scan), _) => Found::Committed(scan),
        (wal::Outcome::Nothing, _) => Found::Nothing,
        (wal::Outcome::Restarted | wal::Outcome::Short, At::Position { folded: true, .. }) => {
            match wal::Scanner::new(log, None).scan().map_err(unreadable)? {
                wal::Outcome::Committed(scan) => Found::Committed(scan),
                _ => Found::Nothing,
            }
        }
        (wal::Outcome::Restarted | wal::Outcome::Short, _) => Found::Unknown,
    })
}

fn increment(
    still: &mut Still<'_>,
    log: &mut BufReader<File>,
    scan: &wal::Scan,
    reached: Reached,
    way: Way<'_>,
) -> Result<Captured> {
    let txid = reached.txid.next();
    let facts = wal::Facts { txid, timestamp_ms: way.now.millis(), node_id: 0, prev_commit: reached.commit };
    // A page that only the file holds would mean that frames were lost: then nothing but the whole is safe.
    let lost = |_| Err(ltx::Error::WalChanged);
    match wal::encode(scan, log, facts, lost, Scratch::new(way.scratch)) {
        Ok((scratch, header)) => {
            let at = At::Position { position: scan.end, folded: false };
            let body = scratch.finish().map_err(full)?;
            Ok(Captured { body, header, then: Reached { txid, commit: scan.commit, at }, mark: None })
        }
        Err(ltx::Error::WalChanged) => whole(still, reached, way),
        Err(error) => Err(unreadable(error)),
    }
}

/// Every page of the database as one file of level 0.
fn whole(still: &mut Still<'_>, reached: Reached, way: Way<'_>) -> Result<Captured> {
    let txid = reached.txid.next();
    // Where the WAL ends belongs to the file, so that the next one, of whichever program, goes on behind it.
    let end = match open(still)? {
        Some(log) => match wal::Scanner::new(log, None).scan().map_err(unreadable)? {
            wal::Outcome::Committed(scan) => Some(scan.end),
            _ => None,
        },
        None => None,
    };
    let mut header = header_of(still, txid, way.now)?;
    if let Some(end) = end {
        header.wal_size = end.offset.saturating_sub(wal::Header::LEN as u64);
        header.wal_salts = end.salts;
    }
    let at = match end {
        Some(position) => At::Position { position, folded: false },
        // An empty WAL: whatever it will hold is new.
        None => At::Position {
            position: wal::Position { offset: wal::Header::LEN as u64, salts: [0, 0], checksum: [0, 0] },
            folded: true,
        },
    };
    let then = Reached { txid, commit: header.commit, at };
    Ok(Captured { body: encode(still, header, way)?, header, then, mark: None })
}

fn header_of(still: &Still<'_>, txid: Txid, now: Timestamp) -> Result<Header> {
    let (page_size, commit) = still.shape()?;
    Ok(Header {
        page_size,
        commit,
        min: txid,
        max: txid,
        timestamp_ms: now.millis(),
        // Litestream takes a file without a place in the WAL for one of another age (STORAGE 3.4).
        wal_offset: wal::Header::LEN as u64,
        wal_size: 0,
        wal_salts: [1, 1],
        node_id: 0,
    })
}

/// Page by page into the scratch. Never of a damaged file: what was shipped before can be had back, and could not if
/// this were the newest beginning.
fn encode(still: &Still<'_>, header: Header, way: Way<'_>) -> Result<Body> {
    still.require_whole()?;
    let mut encoder = Encoder::new(Scratch::new(way.scratch), header).map_err(unreadable)?;
    if still.is_ciphertext() {
        each_page_as_it_stands(still, header, |pgno, page| encoder.page_of_image(pgno, page).map_err(unreadable))?;
    } else {
        still.each_page(|pgno, page| encoder.page_of_image(pgno, page).map_err(unreadable))?;
    }
    encoder.finish().map_err(unreadable)?.0.finish().map_err(full)
}

/// Every page of a database that is ciphertext, as ciphertext: the newest copy in the WAL, or else the file's.
fn each_page_as_it_stands(
    still: &Still<'_>,
    header: Header,
    mut visit: impl FnMut(u32, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut log = open(still)?;
    let newest = match &mut log {
        Some(log) => match wal::Scanner::new(log, None).scan().map_err(unreadable)? {
            wal::Outcome::Committed(scan) => scan.pages,
            _ => BTreeMap::new(),
        },
        None => BTreeMap::new(),
    };
    let mut page = vec![0; header.page_size as usize];
    for pgno in 1..=header.commit {
        match (newest.get(&pgno), &log) {
            (Some(&offset), Some(log)) => {
                let read = log.get_ref().read_exact_at(&mut page, offset);
                read.map_err(|error| Error::internal("a WAL cannot be read").source(error))?;
            }
            _ => still.stored_page(pgno, &mut page)?,
        }
        visit(pgno, &page)?;
    }
    Ok(())
}

fn open(still: &Still<'_>) -> Result<Option<BufReader<File>>> {
    let path = still.wal();
    match File::open(&path) {
        Ok(file) => {
            let found = file.metadata().map_err(|error| Error::internal("a WAL cannot be read").source(error))?;
            Ok((found.len() > 0).then(|| BufReader::new(file)))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::internal("a WAL cannot be opened").source(error)),
    }
}

fn unreadable(error: ltx::Error) -> Error {
    Error::internal("a database could not be captured for its backup").source(error)
}

fn full(error: std::io::Error) -> Error {
    Error::internal("a copy for the backup could not be put together").source(error)
}
