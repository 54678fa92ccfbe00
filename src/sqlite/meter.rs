//! How much is written to a file.

use std::sync::Arc;

use rusqlite::{Connection, ffi};

use super::database::Database;
use super::handle::Kind;
use crate::base::Result;

/// The header of a page in a WAL (sqlite.org/fileformat.html section 4.1), and a page.
const FRAME_BYTES: u64 = 24 + 4096;

/// Whoever counts what is written to a file, and may refuse it before it begins.
pub trait Meter: Send + Sync {
    /// Refuses a write that has not begun.
    fn may_write(&self) -> Result<()>;
    /// So many bytes went into the WAL.
    fn wrote(&self, bytes: u64);
}

impl<K: Kind> Database<K> {
    /// From now on writes are counted here, and refused where this says so. Only the first call counts.
    pub fn metered(&self, meter: Arc<dyn Meter>) {
        let _ = self.meter.set(meter);
    }

    /// Before a write; what ends, revokes or deletes something is never refused.
    pub(super) fn admit(&self, is_bounded: bool) -> Result<()> {
        match self.meter.get() {
            Some(meter) if is_bounded => meter.may_write(),
            _ => Ok(()),
        }
    }

    /// After a transaction, also one that was undone: what did not fit into memory was written all the same.
    pub(super) fn count_written(&self, connection: &Connection) {
        if let Some(meter) = self.meter.get() {
            let pages = take_pages_written(connection);
            if pages > 0 {
                meter.wrote(pages * FRAME_BYTES);
            }
        }
    }
}

/// Pages that the connection has written since this was asked last. The size of the WAL would not tell: it begins anew
/// once it was folded, and stays as long as it was where a reader kept it from being cut off.
fn take_pages_written(connection: &Connection) -> u64 {
    let (mut pages, mut most) = (0_i32, 0_i32);
    #[allow(unsafe_code, reason = "sqlite3_db_status has no safe binding; the connection is ours and open")]
    // SAFETY: the handle is valid while `connection` is borrowed, and both places are ours.
    let code = unsafe {
        ffi::sqlite3_db_status(connection.handle(), ffi::SQLITE_DBSTATUS_CACHE_WRITE, &raw mut pages, &raw mut most, 1)
    };
    if code == ffi::SQLITE_OK { u64::try_from(pages).unwrap_or(0) } else { 0 }
}
