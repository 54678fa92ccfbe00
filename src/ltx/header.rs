//! The first 100 bytes of a file.

use super::checksum::FLAG;
use super::{Error, FileName, Result, Txid};

const MAGIC: [u8; 4] = *b"LTX1";
/// No rolling checksum of the database is kept. Litestream sets it always, and so do we.
const NO_CHECKSUM: u32 = 2;
/// Go reads these as signed.
const MAX_SIGNED: u64 = i64::MAX.unsigned_abs();

/// What a file holds. Its checks are [`Header::validate`]'s, in reading as in writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// 512 to 65536, a power of two.
    pub page_size: u32,
    /// Size of the database in pages once this file is applied; never 0.
    pub commit: u32,
    pub min: Txid,
    pub max: Txid,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// Where in the WAL the pages were read, 0 if from elsewhere. Litestream wants at least 32 in an L0.
    pub wal_offset: u64,
    pub wal_size: u64,
    pub wal_salts: [u32; 2],
    pub node_id: u64,
}

/// The rolling checksums of files that are not ours; carried, never computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksums {
    Absent,
    Kept { pre_apply: u64 },
}

impl Header {
    pub const LEN: usize = 100;

    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self> {
        Self::parse_with_checksums(bytes).map(|(header, _)| header)
    }

    pub(super) fn parse_with_checksums(bytes: &[u8; Self::LEN]) -> Result<(Self, Checksums)> {
        if bytes[..4] != MAGIC {
            return Err(Error::Magic);
        }
        let flags = u32_at(bytes, 4);
        if flags & !NO_CHECKSUM != 0 {
            return Err(Error::Flags(flags));
        }
        // Whatever a later version puts here changes what the file means.
        if bytes[80..].iter().any(|byte| *byte != 0) {
            return Err(Error::Header("reserved bytes are not zero"));
        }
        let header = Self {
            page_size: u32_at(bytes, 8),
            commit: u32_at(bytes, 12),
            min: Txid(u64_at(bytes, 16)),
            max: Txid(u64_at(bytes, 24)),
            timestamp_ms: u64_at(bytes, 32).cast_signed(),
            wal_offset: u64_at(bytes, 48),
            wal_size: u64_at(bytes, 56),
            wal_salts: [u32_at(bytes, 64), u32_at(bytes, 68)],
            node_id: u64_at(bytes, 72),
        };
        header.validate()?;
        let pre_apply = u64_at(bytes, 40);
        let checksums = if flags & NO_CHECKSUM == 0 { Checksums::Kept { pre_apply } } else { Checksums::Absent };
        match checksums {
            Checksums::Absent if pre_apply != 0 => Err(Error::Header("pre-apply checksum not allowed")),
            Checksums::Kept { .. } if header.is_snapshot() && pre_apply != 0 => {
                Err(Error::Header("pre-apply checksum not allowed in a snapshot"))
            }
            Checksums::Kept { .. } if !header.is_snapshot() && pre_apply & FLAG == 0 => {
                Err(Error::Header("pre-apply checksum required"))
            }
            _ => Ok((header, checksums)),
        }
    }

    /// Always without rolling checksums.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&NO_CHECKSUM.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.commit.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.min.0.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.max.0.to_be_bytes());
        bytes[32..40].copy_from_slice(&self.timestamp_ms.to_be_bytes());
        bytes[48..56].copy_from_slice(&self.wal_offset.to_be_bytes());
        bytes[56..64].copy_from_slice(&self.wal_size.to_be_bytes());
        bytes[64..68].copy_from_slice(&self.wal_salts[0].to_be_bytes());
        bytes[68..72].copy_from_slice(&self.wal_salts[1].to_be_bytes());
        bytes[72..80].copy_from_slice(&self.node_id.to_be_bytes());
        bytes
    }

    /// Whether the file holds every page: it starts at the first transaction.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.min == Txid::FIRST
    }

    #[must_use]
    pub fn file_name(&self) -> FileName {
        FileName { min: self.min, max: self.max }
    }

    /// As ltx.go `Header.Validate`, and a database has at least one page (its encoder refuses 0 in `Close`).
    pub fn validate(&self) -> Result<()> {
        if !valid_page_size(self.page_size) {
            return Err(Error::PageSize(self.page_size));
        }
        if self.commit == 0 {
            return Err(Error::Header("the database has no page"));
        }
        if self.min < Txid::FIRST || self.max < self.min {
            return Err(Error::Header("transaction ids out of order"));
        }
        if self.wal_offset > MAX_SIGNED || self.wal_size > MAX_SIGNED {
            return Err(Error::Header("WAL offset or size out of range"));
        }
        if self.wal_offset == 0 && (self.wal_size != 0 || self.wal_salts != [0, 0]) {
            return Err(Error::Header("WAL offset required with a size or salts"));
        }
        Ok(())
    }
}

pub(super) fn valid_page_size(size: u32) -> bool {
    (512..=65536).contains(&size) && size.is_power_of_two()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            page_size: 4096,
            commit: 3,
            min: Txid(2),
            max: Txid(9),
            timestamp_ms: 1_700_000_000_123,
            wal_offset: 32,
            wal_size: 4120,
            wal_salts: [7, 8],
            node_id: 5,
        }
    }

    #[test]
    fn is_read_as_it_was_written() {
        for page_size in [512, 65536] {
            let header = Header { page_size, timestamp_ms: -1, ..header() };
            assert_eq!(Header::parse(&header.to_bytes()).unwrap(), header);
        }
    }

    #[test]
    fn says_only_what_can_be() {
        for bad in [
            Header { page_size: 256, ..header() },
            Header { page_size: 1000, ..header() },
            Header { page_size: 131_072, ..header() },
            Header { commit: 0, ..header() },
            Header { min: Txid(0), ..header() },
            Header { min: Txid(10), ..header() },
            Header { wal_offset: 0, ..header() },
            Header { wal_offset: 1 << 63, ..header() },
        ] {
            assert!(Header::parse(&bad.to_bytes()).is_err(), "{bad:?}");
        }
        for (at, byte) in [(0, b'M'), (7, 1), (4, 1), (47, 1), (99, 1)] {
            let mut bytes = header().to_bytes();
            bytes[at] = byte;
            assert!(Header::parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn carries_the_checksums_of_others() {
        let mut bytes = header().to_bytes();
        bytes[7] = 0;
        assert!(Header::parse(&bytes).is_err(), "an increment needs one");
        bytes[40] = 0x80;
        let (parsed, checksums) = Header::parse_with_checksums(&bytes).unwrap();
        assert_eq!((parsed, checksums), (header(), Checksums::Kept { pre_apply: FLAG }));
    }
}
