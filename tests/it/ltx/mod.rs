//! The LTX format against itself, against SQLite and against the real litestream.

mod oracle;
mod properties;
mod wal;
