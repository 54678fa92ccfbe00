//! From a database between two transactions to a file of level 0.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use super::state::{At, Reached};
use crate::base::{Error, Result, Timestamp};
use crate::ltx::{self, Encoder, Header, Txid, wal};
use crate::sqlite::Still;

/// Above this a WAL is folded once it was captured.
const FOLD_FROM: u64 = 1 << 20;

/// A file to be shipped, and where the replica is when it has arrived.
pub(super) struct Captured {
    pub bytes: Vec<u8>,
    pub header: Header,
    pub then: Reached,
    /// To be removed when the file has arrived.
    pub mark: Option<PathBuf>,
}

/// What was committed since `reached`, as the next file of level 0. Nothing if there was nothing.
pub(super) fn capture(still: &mut Still<'_>, reached: Reached, now: Timestamp) -> Result<Option<Captured>> {
    let mark = still.unread();
    let reached = if mark.is_some() { Reached { at: At::Whole, ..reached } } else { reached };
    let Some(mut log) = open(still)? else {
        // No WAL: nothing was written since it was folded, which is done when all of it was shipped.
        let is_known = !matches!(reached.at, At::Whole);
        return if is_known { Ok(None) } else { Ok(Some(Captured { mark, ..whole(still, reached, now)? })) };
    };
    let captured = match scan(&mut log, reached)? {
        Found::Nothing => return Ok(None),
        Found::Unknown => whole(still, reached, now)?,
        Found::Committed(scan) => increment(still, &mut log, &scan, reached, now)?,
    };
    Ok(Some(Captured { mark, ..captured }))
}

/// Folds the WAL if all of it has arrived at the store, and never before: what is folded cannot be captured again.
/// Tells where the next file begins then.
///
/// `rests`: also a small one, because the database is about to rest.
pub(super) fn fold(still: &mut Still<'_>, reached: Reached, rests: bool) -> Result<Option<At>> {
    let (At::Position { position, .. }, None) = (reached.at, still.unread()) else { return Ok(None) };
    let Some(mut log) = open(still)? else { return Ok(None) };
    let size = log.get_ref().metadata().map_or(0, |metadata| metadata.len());
    if !(rests || size > FOLD_FROM) || !matches!(scan(&mut log, reached)?, Found::Nothing) {
        return Ok(None);
    }
    drop(log);
    still.fold()?;
    Ok(Some(At::Position { position, folded: true }))
}

/// The whole database as a snapshot up to a transaction that was shipped: nothing was committed since.
pub(super) fn snapshot(still: &mut Still<'_>, reached: Reached, now: Timestamp) -> Result<(Vec<u8>, Header)> {
    let image = still.image()?;
    let header = Header { min: Txid::FIRST, max: reached.txid, ..header_of(&image, reached.txid, now)? };
    Ok((encode(&image, header)?, header))
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
    now: Timestamp,
) -> Result<Captured> {
    let txid = reached.txid.next();
    let facts = wal::Facts { txid, timestamp_ms: now.millis(), node_id: 0, prev_commit: reached.commit };
    // A page that only the file holds would mean that frames were lost: then nothing but the whole is safe.
    let lost = |_| Err(ltx::Error::WalChanged);
    match wal::encode(scan, log, facts, lost, Vec::new()) {
        Ok((bytes, header)) => {
            let at = At::Position { position: scan.end, folded: false };
            Ok(Captured { bytes, header, then: Reached { txid, commit: scan.commit, at }, mark: None })
        }
        Err(ltx::Error::WalChanged) => whole(still, reached, now),
        Err(error) => Err(unreadable(error)),
    }
}

/// Every page of the database as one file of level 0.
fn whole(still: &mut Still<'_>, reached: Reached, now: Timestamp) -> Result<Captured> {
    let txid = reached.txid.next();
    let image = still.image()?;
    // Where the WAL ends belongs to the file, so that the next one, of whichever program, goes on behind it.
    let end = match open(still)? {
        Some(log) => match wal::Scanner::new(log, None).scan().map_err(unreadable)? {
            wal::Outcome::Committed(scan) => Some(scan.end),
            _ => None,
        },
        None => None,
    };
    let mut header = header_of(&image, txid, now)?;
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
    Ok(Captured { bytes: encode(&image, header)?, header, then, mark: None })
}

fn header_of(image: &[u8], txid: Txid, now: Timestamp) -> Result<Header> {
    // fileformat2.html section 1.3: the page size in bytes 16 and 17, where 1 means 65536.
    let field = image.get(16..18).map(|bytes| u32::from(bytes[0]) << 8 | u32::from(bytes[1]));
    let page_size = match field {
        Some(1) => 65_536,
        Some(size) if size >= 512 => size,
        _ => return Err(Error::internal("a database image has no page size")),
    };
    let commit = u32::try_from(image.len() / page_size as usize).unwrap_or(u32::MAX);
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

fn encode(image: &[u8], header: Header) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new(), header).map_err(unreadable)?;
    encoder.image(image).map_err(unreadable)?;
    Ok(encoder.finish().map_err(unreadable)?.0)
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
