//! What can be wrong with a file, so that a caller can tell damage from a full disk.

use super::Txid;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The reader or writer underneath failed; says nothing about the file.
    #[error("input or output failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("the file ends inside {0}")]
    Truncated(&'static str),
    #[error("not an LTX file: wrong magic")]
    Magic,
    /// A header that this version must not interpret, or that says what cannot be.
    #[error("header refused: {0}")]
    Header(&'static str),
    #[error("header flags {0:#010x} are not known")]
    Flags(u32),
    #[error("page size {0} is not a power of two from 512 to 65536")]
    PageSize(u32),
    #[error("page {pgno} has unknown flags {flags:#06x}")]
    PageFlags { pgno: u32, flags: u16 },
    #[error("page {pgno} follows page {previous}: not ascending")]
    PageOrder { previous: u32, pgno: u32 },
    #[error("page {pgno} is past the database's end at {commit} pages")]
    PagePastCommit { pgno: u32, commit: u32 },
    #[error("page {0} is SQLite's lock page, which is never stored")]
    LockPage(u32),
    /// A snapshot, or an increment that grows the database, lacks a page that it must hold.
    #[error("page {0} is missing")]
    PageMissing(u32),
    #[error("page {pgno} has {got} bytes, not {expected}")]
    PageLength { pgno: u32, expected: usize, got: usize },
    #[error("page {0} cannot be decompressed")]
    Compression(u32),
    #[error("the page index disagrees with the pages")]
    Index,
    #[error("file checksum is {stored:016x}, computed {computed:016x}")]
    Checksum { stored: u64, computed: u64 },
    #[error("post-apply checksum {0:016x} does not go with the header's flags")]
    PostApplyChecksum(u64),
    #[error("bytes follow the trailer")]
    TrailingBytes,
    #[error("{0:?} is not a transaction id of 16 hex digits")]
    Txid(String),
    #[error("{0:?} is not the name of an LTX file")]
    FileName(String),
    #[error("no file to compact")]
    NothingToCompact,
    #[error("files do not join: {min}-{max} after {previous_max}")]
    NotContiguous { previous_max: Txid, min: Txid, max: Txid },
    #[error("page size {got} where {expected} was expected")]
    PageSizeChanged { expected: u32, got: u32 },
    /// The file that an increment is to be applied to is not a database of that page size.
    #[error("image refused: {0}")]
    Image(&'static str),
    #[error("WAL refused: {0}")]
    Wal(&'static str),
    /// The WAL was restarted or cut between the scan and the encoding: scan again.
    #[error("the WAL changed under the capture")]
    WalChanged,
}

/// A file that ends early is a fault of the file, not of the disk.
pub(super) fn truncated(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::Truncated(what),
        _ => Error::Io(error),
    }
}
