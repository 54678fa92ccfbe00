//! LTX v3, the file format of Litestream 0.5: what is shipped to a replica and read back from it.
//!
//! Owns: names of files and transactions ([`Txid`], [`FileName`]), the format itself ([`Header`], [`Encoder`],
//! [`Decoder`]), merging a run of files into one ([`compact`]), laying a file onto a database image ([`apply`]), and
//! reading a SQLite WAL so as to make such a file of it ([`wal`]).
//!
//! Leaves alone: where files lie, who may write them, when, retention and clocks (`replica`), and SQLite itself: a
//! WAL is bytes here, and keeping it from being restarted during a capture is the caller's business.
//!
//! Format: superfly/ltx, README "format version 3" and its code (litestream's own docs/LTX_FORMAT.md is stale). What
//! it leaves to chance is refused here: an incomplete snapshot, a page that unpacks to less than a page, an index that
//! disagrees with the frames, bytes behind the trailer. Nothing that is read from a file sizes an allocation before it
//! is bounded by the page size or by what was already read.

mod apply;
mod checksum;
mod compact;
mod decode;
mod encode;
mod error;
mod frame;
mod header;
mod name;
pub mod wal;

pub use apply::{Image, apply};
pub use compact::compact;
pub use decode::{Decoder, Trailer};
pub use encode::Encoder;
pub use error::{Error, Result};
pub use header::Header;
pub use name::{FileName, Txid};
