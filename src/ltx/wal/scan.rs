//! Finding what was committed.

use std::collections::BTreeMap;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};

use super::super::error::truncated;
use super::super::header::u32_at;
use super::{Error, FRAME_HEADER_LEN, Header, Result, checksum};

/// Where the next scan goes on: right behind a commit frame, or behind the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// In bytes, at least 32.
    pub offset: u64,
    /// Of the WAL that the offset is in.
    pub salts: [u32; 2],
    /// Cumulative, of everything before.
    pub checksum: [u32; 2],
}

/// Everything that was committed between two positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub page_size: u32,
    /// Page number -> offset in the WAL of its newest copy (the page, not its frame header). None is past `commit`.
    pub pages: BTreeMap<u32, u64>,
    /// Size of the database in pages after the last commit.
    pub commit: u32,
    /// How many transactions of SQLite these are.
    pub transactions: u64,
    pub start: Position,
    pub end: Position,
}

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Something was committed. The scanner goes on behind it.
    Committed(Scan),
    /// Nothing was committed since the position, or the WAL is empty.
    Nothing,
    /// It is not the WAL that the position was taken from: it was restarted, or lost committed frames in a crash and
    /// went on with others. If all of the old one had been captured, scan from the beginning; else a snapshot is due.
    Restarted,
    /// It ends before the position: cut by a checkpoint and not written to since, or a crash took frames.
    Short,
}

/// Reads a WAL from a position on.
pub struct Scanner<R> {
    wal: R,
    from: Option<Position>,
}

impl<R: Read + Seek> Scanner<R> {
    /// From the beginning with None.
    pub fn new(wal: R, from: Option<Position>) -> Self {
        Self { wal, from }
    }

    /// Goes up to the last commit frame of the valid ones. What follows is a transaction in progress, one rolled back,
    /// or frames of the time before the last restart. Memory: some bytes a frame, no page is kept.
    pub fn scan(&mut self) -> Result<Outcome> {
        let length = self.wal.seek(SeekFrom::End(0))?;
        if length < Header::LEN as u64 {
            return Ok(if self.from.is_some() { Outcome::Short } else { Outcome::Nothing });
        }
        let mut bytes = [0; Header::LEN];
        self.wal.seek(SeekFrom::Start(0))?;
        self.wal.read_exact(&mut bytes).map_err(truncated("the WAL header"))?;
        let header = Header::parse(&bytes)?;
        let beginning = Position { offset: Header::LEN as u64, salts: header.salts, checksum: header.checksum };
        let start = match self.from {
            None => beginning,
            Some(position) => match self.resume(position, beginning, &header, length)? {
                Some(outcome) => return Ok(outcome),
                None => position,
            },
        };
        let found = self.walk(&header, start)?;
        if let Outcome::Committed(scan) = &found {
            self.from = Some(scan.end);
        }
        Ok(found)
    }

    pub fn into_inner(self) -> R {
        self.wal
    }

    /// Whether this is still the WAL that the position was taken from; says what it is if not.
    fn resume(
        &mut self,
        position: Position,
        beginning: Position,
        header: &Header,
        length: u64,
    ) -> Result<Option<Outcome>> {
        let frame = frame_len(header) as u64;
        if position.salts != header.salts {
            return Ok(Some(Outcome::Restarted));
        }
        match position.offset.checked_sub(beginning.offset) {
            Some(0) => return Ok((position != beginning).then_some(Outcome::Restarted)),
            Some(frames) if frames % frame == 0 => {}
            _ => return Err(Error::Wal("the position is not between two frames")),
        }
        if position.offset > length {
            return Ok(Some(Outcome::Short));
        }
        // The salts survive a crash; the checksum of the last frame tells whether it is still the one captured.
        let mut last = [0; FRAME_HEADER_LEN];
        self.wal.seek(SeekFrom::Start(position.offset - frame))?;
        self.wal.read_exact(&mut last).map_err(truncated("a WAL frame"))?;
        let same = [u32_at(&last, 16), u32_at(&last, 20)] == position.checksum;
        Ok((!same).then_some(Outcome::Restarted))
    }

    fn walk(&mut self, header: &Header, start: Position) -> Result<Outcome> {
        self.wal.seek(SeekFrom::Start(start.offset))?;
        let mut wal = BufReader::with_capacity(64 << 10, &mut self.wal);
        let mut frame = vec![0; frame_len(header)];
        let mut pages = BTreeMap::new();
        let mut pending = Vec::new();
        let mut commit = 0;
        let mut transactions = 0;
        let (mut at, mut end) = (start, start);
        while read_whole(&mut wal, &mut frame)? {
            let pgno = u32_at(&frame, 0);
            let size_after = u32_at(&frame, 4);
            let salts = [u32_at(&frame, 8), u32_at(&frame, 12)];
            let sum = checksum(header.big_endian, at.checksum, &frame[..8]);
            let sum = checksum(header.big_endian, sum, &frame[FRAME_HEADER_LEN..]);
            if pgno == 0 || salts != header.salts || sum != [u32_at(&frame, 16), u32_at(&frame, 20)] {
                break;
            }
            pending.push((pgno, at.offset + FRAME_HEADER_LEN as u64));
            at = Position { offset: at.offset + frame.len() as u64, checksum: sum, ..at };
            if size_after != 0 {
                pages.extend(pending.drain(..));
                (commit, end) = (size_after, at);
                transactions += 1;
            }
        }
        if transactions == 0 {
            return Ok(Outcome::Nothing);
        }
        // Only by the final size: a page cut off and grown back without being written is read from its old frame by
        // SQLite as well.
        pages.retain(|pgno, _| *pgno <= commit);
        Ok(Outcome::Committed(Scan { page_size: header.page_size, pages, commit, transactions, start, end }))
    }
}

fn frame_len(header: &Header) -> usize {
    FRAME_HEADER_LEN + header.page_size as usize
}

/// False at the end of the file, also in the middle of a frame.
fn read_whole(r: &mut impl Read, buffer: &mut [u8]) -> Result<bool> {
    match r.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}
