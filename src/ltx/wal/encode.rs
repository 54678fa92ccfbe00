//! From a scan to an L0.

use std::io::{Read, Seek, SeekFrom, Write};

use super::super::error::truncated;
use super::super::frame::page_after;
use super::super::header::u32_at;
use super::super::{Encoder, Header as LtxHeader, Txid};
use super::{Error, FRAME_HEADER_LEN, Header, Result, Scan};

/// What the WAL does not know about an L0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub txid: Txid,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    pub node_id: u64,
    /// Size in pages of the database at the transaction before. 0 makes the file hold every page, and it is taken for 0
    /// at the first transaction.
    pub prev_commit: u32,
}

/// Writes what a scan found as a file of one transaction.
///
/// `fill` gives the pages of `prev_commit + 1 ..= commit` that the WAL does not hold, as a reader at the end of the scan
/// sees them, in ascending order and each once: a restore needs every page past the old end. With the true
/// `prev_commit` SQLite was never seen to leave one out; litestream came to lack some when a checkpoint ran under its
/// capture (#1323). Then frames of other pages may be lost as well, and a file of the whole database is the safe answer.
pub fn encode<R: Read + Seek, W: Write>(
    scan: &Scan,
    wal: &mut R,
    facts: Facts,
    mut fill: impl FnMut(u32) -> Result<Vec<u8>>,
    out: W,
) -> Result<(W, LtxHeader)> {
    let header = LtxHeader {
        page_size: scan.page_size,
        commit: scan.commit,
        min: facts.txid,
        max: facts.txid,
        timestamp_ms: facts.timestamp_ms,
        wal_offset: scan.start.offset,
        wal_size: scan.end.offset.saturating_sub(scan.start.offset),
        wal_salts: scan.end.salts,
        node_id: facts.node_id,
    };
    let prev_commit = if header.is_snapshot() { 0 } else { facts.prev_commit };
    let mut encoder = Encoder::new(out, header)?;
    let mut frame = vec![0; FRAME_HEADER_LEN + scan.page_size as usize];
    let mut missing = page_after(prev_commit, scan.page_size);
    for (&pgno, &offset) in &scan.pages {
        while missing < pgno {
            encoder.page(missing, &fill(missing)?)?;
            missing = page_after(missing, scan.page_size);
        }
        if pgno == missing {
            missing = page_after(missing, scan.page_size);
        }
        read_frame(scan, wal, pgno, offset, &mut frame)?;
        encoder.page(pgno, &frame[FRAME_HEADER_LEN..])?;
    }
    while missing <= scan.commit {
        encoder.page(missing, &fill(missing)?)?;
        missing = page_after(missing, scan.page_size);
    }
    unchanged(scan, wal)?;
    let (out, _) = encoder.finish()?;
    Ok((out, header))
}

fn read_frame(scan: &Scan, wal: &mut (impl Read + Seek), pgno: u32, offset: u64, frame: &mut [u8]) -> Result<()> {
    let start = offset.checked_sub(FRAME_HEADER_LEN as u64).ok_or(Error::Wal("the scan points before a frame"))?;
    wal.seek(SeekFrom::Start(start))?;
    wal.read_exact(frame).map_err(truncated("a WAL frame")).map_err(changed)?;
    let same = u32_at(frame, 0) == pgno && [u32_at(frame, 8), u32_at(frame, 12)] == scan.end.salts;
    if same { Ok(()) } else { Err(Error::WalChanged) }
}

/// A restart writes the header before any frame, so that the old salts in it now say that all that was read before is
/// what was scanned.
fn unchanged(scan: &Scan, wal: &mut (impl Read + Seek)) -> Result<()> {
    let mut bytes = [0; Header::LEN];
    wal.seek(SeekFrom::Start(0))?;
    wal.read_exact(&mut bytes).map_err(truncated("the WAL header")).map_err(changed)?;
    if Header::parse(&bytes).is_ok_and(|header| header.salts == scan.end.salts) {
        Ok(())
    } else {
        Err(Error::WalChanged)
    }
}

fn changed(error: Error) -> Error {
    match error {
        Error::Truncated(_) => Error::WalChanged,
        error => error,
    }
}
