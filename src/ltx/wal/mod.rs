//! A SQLite WAL, read as bytes.
//!
//! Owns the WAL's own format (sqlite.org/fileformat2.html section 4) as far as a reader needs it: [`Header`], and
//! [`Scanner`], which finds what was committed since a [`Position`]; and [`encode`], which makes an L0 of that.
//!
//! Leaves alone: the `-shm` file, checkpoints, locks. Committed frames are never rewritten but by a restart of the WAL,
//! so a capture needs no lock for the scan itself; the caller keeps the WAL from being restarted (the writer's mutex,
//! or a read transaction) from the scan until [`encode`] has returned. If it did not, `encode` notices.

mod encode;
mod scan;

pub use encode::{Facts, encode};
pub use scan::{Outcome, Position, Scan, Scanner};

use super::header::{u32_at, valid_page_size};
use super::{Error, Result};

/// In front of each page in the WAL.
const FRAME_HEADER_LEN: usize = 24;
/// The only version of the format there is.
const VERSION: u32 = 3_007_000;
/// The lowest bit says that checksums are computed over big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The first 32 bytes of a WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Of the words that checksums are computed over; everything stored is big-endian.
    pub big_endian: bool,
    pub page_size: u32,
    /// Counts checkpoints.
    pub sequence: u32,
    /// Changed by every restart of the WAL.
    pub salts: [u32; 2],
    /// Of this header; the seed of the first frame's.
    pub checksum: [u32; 2],
}

impl Header {
    pub const LEN: usize = 32;

    /// Checks what SQLite's `walIndexRecover` checks.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self> {
        let magic = u32_at(bytes, 0);
        if magic & !1 != MAGIC {
            return Err(Error::Wal("wrong magic"));
        }
        if u32_at(bytes, 4) != VERSION {
            return Err(Error::Wal("unknown version"));
        }
        let header = Self {
            big_endian: magic & 1 == 1,
            page_size: u32_at(bytes, 8),
            sequence: u32_at(bytes, 12),
            salts: [u32_at(bytes, 16), u32_at(bytes, 20)],
            checksum: [u32_at(bytes, 24), u32_at(bytes, 28)],
        };
        if !valid_page_size(header.page_size) {
            return Err(Error::PageSize(header.page_size));
        }
        if checksum(header.big_endian, [0, 0], &bytes[..24]) != header.checksum {
            return Err(Error::Wal("wrong header checksum"));
        }
        Ok(header)
    }
}

/// The cumulative checksum of the WAL (fileformat2.html 4.2); `bytes` is a multiple of 8 long.
fn checksum(big_endian: bool, seed: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let word = |bytes: &[u8; 4]| if big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) };
    let (words, _) = bytes.as_chunks::<4>();
    let (pairs, _) = words.as_chunks::<2>();
    pairs.iter().fold(seed, |[s0, s1], [first, second]| {
        let s0 = s0.wrapping_add(word(first)).wrapping_add(s1);
        let s1 = s1.wrapping_add(word(second)).wrapping_add(s0);
        [s0, s1]
    })
}
