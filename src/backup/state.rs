//! How far the backup of one database has come.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Timestamp;
use crate::ltx::{FileName, Txid, wal};

/// What a worker knows of the replica of one database. Unknown until it has asked the store; whatever a failure
/// left uncertain is unknown again.
#[derive(Debug, Default)]
pub(super) struct State {
    pub reached: Option<Reached>,
    /// The file was replaced: its WAL says nothing of what was shipped.
    pub is_replaced: bool,
    /// When each level is due, from its first file on.
    pub levels: [Option<Instant>; 3],
    pub snapshot: Option<Instant>,
    /// Files of the replica that are not what they should be, and were made up for.
    pub damaged: HashSet<(u8, FileName)>,
    /// One of them breaks the chain: nothing that follows can be restored before there is a snapshot.
    pub is_torn: bool,
    /// Somebody else writes to this replica: nothing is shipped any more.
    pub stopped: Option<String>,
    /// How often in a row the store did not take something.
    pub failures: u32,
    /// Held while a snapshot is on its way, for which nobody who ships waits; whoever removes the replica does.
    pub on_its_way: Arc<tokio::sync::Mutex<()>>,
}

/// The newest file of level 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// 0: nothing was ever shipped.
    pub txid: Txid,
    /// Size of the database in pages.
    pub commit: u32,
    pub at: At,
}

/// Where in the WAL the next file begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    /// Nothing that is there was shipped, or it is not known what: the next file is a whole one.
    Whole,
    /// Everything before the WAL's beginning was, and maybe some of the WAL.
    Beginning { salts: [u32; 2] },
    /// Everything before this was. `folded`: the WAL was told to begin anew since.
    Position { position: wal::Position, folded: bool },
}

impl State {
    /// Another file has taken the place of the one that was shipped.
    pub fn start_over(&mut self) {
        *self = Self { is_replaced: true, on_its_way: Arc::clone(&self.on_its_way), ..Self::default() };
    }

    /// When there is something to do again.
    pub fn next(&self) -> Option<Duration> {
        let due = self.levels.iter().flatten().chain(&self.snapshot).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }
}

/// What can be told of the backup of one database.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The newest transaction of the replica.
    pub txid: Option<Txid>,
    pub shipped_at: Option<Timestamp>,
    /// Since when something waits that was not shipped.
    pub behind_since: Option<Timestamp>,
    pub last_error: Option<String>,
    pub last_error_at: Option<Timestamp>,
    /// Why nothing is shipped any more.
    pub stopped: Option<String>,
    /// The last file of the replica that was found damaged, and when. What it held is lost as far as no other has it;
    /// a whole one was shipped in its place.
    pub damaged: Option<(String, Timestamp)>,
}
