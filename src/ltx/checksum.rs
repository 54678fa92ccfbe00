//! The checksum of a file: CRC-64/GO-ISO with the top bit set, so that it is never zero.

use crc::{CRC_64_GO_ISO, Crc, Digest, Table};

/// Sixteen bytes a step: every byte of every page goes through it.
static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_GO_ISO);

/// Set on every checksum that is one.
pub(super) const FLAG: u64 = 1 << 63;

pub(super) struct FileChecksum(Digest<'static, u64, Table<16>>);

impl FileChecksum {
    pub(super) fn new() -> Self {
        Self(CRC.digest())
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> u64 {
        FLAG | self.0.finalize()
    }
}
