//! How far the backup of one database has come.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::Timestamp;
use crate::base::time::length;
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
    /// None could be made of the file when one was due, which is told until one can.
    pub has_no_snapshot: bool,
    /// Somebody else writes to this replica: nothing is shipped any more.
    pub stopped: Option<String>,
    /// How often in a row the store did not take something.
    pub failures: u32,
    /// Digests of what was sent as the next file of level 0 without an answer: it may still arrive.
    pub tried: Vec<[u8; 32]>,
}

/// What is due but for shipping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Chores {
    pub levels: [bool; 3],
    pub snapshot: bool,
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
        let tried = std::mem::take(&mut self.tried);
        *self = Self { is_replaced: true, tried, ..Self::default() };
    }

    /// When there is something to do again. A snapshot that is due in hours alone is none of it: when that is due is
    /// written down (`due`), so that nobody need remember this database until then.
    pub fn next(&self) -> Option<Duration> {
        let now = Instant::now();
        let snapshot = self.snapshot.filter(|due| due.saturating_duration_since(now) < SOON);
        let due = self.levels.iter().flatten().chain(&snapshot).min()?;
        Some(due.saturating_duration_since(now))
    }

    /// Whether the store can be asked for all of it.
    pub fn is_idle(&self) -> bool {
        let is_whole = !self.is_torn && !self.is_replaced && !self.has_no_snapshot;
        let is_fine = self.stopped.is_none() && self.failures == 0 && is_whole;
        self.next().is_none() && is_fine && self.damaged.is_empty() && self.tried.is_empty()
    }

    /// What is due now, taken by whoever does it.
    pub fn take_chores(&mut self) -> Option<Chores> {
        let now = Instant::now();
        let is_due = |due: &mut Option<Instant>| due.take_if(|due| *due <= now).is_some();
        let [one, two, three] = &mut self.levels;
        let levels = [is_due(one), is_due(two), is_due(three)];
        let chores = Chores { levels, snapshot: is_due(&mut self.snapshot) };
        (chores != Chores::default()).then_some(chores)
    }

    /// They were not done.
    pub fn put_back(&mut self, chores: Chores, after: Duration) {
        let due = Instant::now() + after;
        for (level, _) in self.levels.iter_mut().zip(chores.levels).filter(|(_, is_due)| *is_due) {
            level.get_or_insert(due);
        }
        if chores.snapshot {
            self.snapshot.get_or_insert(due);
        }
    }
}

/// Later than this, the journal remembers it.
const SOON: Duration = length::hours(1);

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

impl Progress {
    /// Whether nobody is waited for and nothing is wrong.
    pub(super) fn is_settled(&self) -> bool {
        self.behind_since.is_none() && self.last_error.is_none() && self.stopped.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_in_hours_keeps_nothing_in_memory() {
        let now = Instant::now();
        let mut state = State { snapshot: Some(now + length::hours(20)), ..State::default() };
        assert!(state.next().is_none() && state.is_idle());
        // Within the hour it is waited for; and with anything sooner, until that is done.
        state.snapshot = Some(now + length::minutes(30));
        assert!(state.next().is_some_and(|next| next <= length::minutes(30)) && !state.is_idle());
        state = State { snapshot: Some(now + length::hours(20)), ..State::default() };
        state.levels[2] = Some(now + length::minutes(5));
        assert!(state.next().is_some_and(|next| next <= length::minutes(5)) && !state.is_idle());
        for kept in [
            State { is_replaced: true, ..State::default() },
            State { is_torn: true, ..State::default() },
            State { failures: 1, ..State::default() },
            State { has_no_snapshot: true, ..State::default() },
            State { stopped: Some("two servers".to_owned()), ..State::default() },
            State { tried: vec![[7; 32]], ..State::default() },
        ] {
            assert!(!kept.is_idle(), "{kept:?}");
        }
    }

    #[test]
    fn chores_that_were_not_done_are_due_again_and_no_later_than_what_came_since() {
        let now = Instant::now();
        let later = Some(now + length::hours(1));
        let mut state = State { levels: [Some(now), Some(now), later], snapshot: Some(now), ..State::default() };
        let chores = state.take_chores().unwrap();
        assert_eq!(chores, Chores { levels: [true, true, false], snapshot: true });
        assert_eq!((state.levels, state.snapshot, state.take_chores()), ([None, None, later], None, None));
        // More has come in meanwhile.
        let soon = Some(now + length::seconds(5));
        state.levels[0] = soon;
        state.put_back(chores, length::minutes(1));
        assert_eq!((state.levels[0], state.levels[2]), (soon, later));
        assert!(state.levels[1].is_some_and(|due| due >= now + length::minutes(1)) && state.snapshot.is_some());
    }
}
