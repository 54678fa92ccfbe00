//! One file of a replica.

use crate::ltx::FileName;
use chrono::{DateTime, Utc};
use std::fmt;

/// Where whole snapshots lie: `litestream.SnapshotLevel`.
pub const SNAPSHOT_LEVEL: u8 = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// 0 to 9.
    pub level: u8,
    pub name: FileName,
    /// In bytes, as stored.
    pub size: u64,
    /// When its last transaction was committed; see `dated`.
    pub created_at: DateTime<Utc>,
    /// Whether `created_at` is that moment. A bucket's list tells only when the object was stored, which
    /// is later; [`super::Replica::date`] asks for the moment itself.
    pub dated: bool,
}

impl Item {
    /// Whether it is another file than all of these.
    pub(super) fn is_none_of(&self, others: &[Self]) -> bool {
        others.iter().all(|other| (other.level, other.name) != (self.level, self.name))
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "level {} {}", self.level, self.name)
    }
}
