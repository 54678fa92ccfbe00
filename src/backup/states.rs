//! What is known of the databases that have something to do; one entry each.
//!
//! An entry is there while somebody works with it or something of it is due. One of which nothing is left is kept for
//! a while, so that the next look need not ask the store where it is, and only the last [`RESTING`] of them are: what
//! was written to once stays in memory no longer than that.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::Source;
use super::state::{Progress, State};

/// Entries that are kept although nothing of them is due.
const RESTING: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// What is known of one database.
#[derive(Default)]
pub(super) struct Entry {
    /// Held by whoever ships.
    pub state: tokio::sync::Mutex<State>,
    /// Held by whoever merges, expires or stores a snapshot, which may take long: nobody who ships waits for that.
    /// Whoever wants both takes this one first.
    pub tending: tokio::sync::Mutex<()>,
}

#[derive(Default)]
pub(super) struct States(Mutex<Table>);

struct Table {
    /// With how many work with each.
    entries: HashMap<Source, (Arc<Entry>, usize)>,
    progress: HashMap<Source, Progress>,
    /// Those of which nothing was left to do when they were let go, the last one first.
    resting: LruCache<Source, ()>,
}

impl Default for Table {
    fn default() -> Self {
        Self { entries: HashMap::new(), progress: HashMap::new(), resting: LruCache::new(RESTING) }
    }
}

/// An entry that somebody works with.
pub(super) struct Taken<'a> {
    states: &'a States,
    source: Source,
    entry: Arc<Entry>,
}

impl States {
    /// The one entry of a database.
    pub fn take(&self, source: Source) -> Taken<'_> {
        let mut table = self.table();
        let (entry, users) = table.entries.entry(source).or_default();
        *users += 1;
        Taken { states: self, source, entry: Arc::clone(entry) }
    }

    pub fn progress(&self, source: Source) -> Option<Progress> {
        self.table().progress.get(&source).cloned()
    }

    pub fn note(&self, source: Source, change: impl FnOnce(&mut Progress)) {
        // So that it goes with its entry.
        let _taken = self.take(source);
        change(self.table().progress.entry(source).or_default());
    }

    /// Nothing is known of it any more; whoever works with its entry goes on with an empty one.
    pub fn forget(&self, source: Source) {
        let mut table = self.table();
        table.progress.remove(&source);
        table.resting.pop(&source);
        table.remove_if_idle(source);
    }

    /// Entries in memory.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        let table = self.table();
        table.entries.len().max(table.progress.len())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether nobody works with the entry and nothing of it is due.
    fn is_idle(&self, source: Source) -> bool {
        let is_told = self.progress.get(&source).is_none_or(Progress::is_settled);
        let unused = self.entries.get(&source).filter(|(_, users)| *users == 0);
        is_told && unused.is_some_and(|(entry, _)| entry.state.try_lock().is_ok_and(|state| state.is_idle()))
    }

    fn remove_if_idle(&mut self, source: Source) {
        if self.is_idle(source) {
            self.entries.remove(&source);
            self.progress.remove(&source);
        }
    }
}

impl Deref for Taken<'_> {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut table = self.states.table();
        if let Some((_, users)) = table.entries.get_mut(&self.source) {
            *users -= 1;
        }
        if !table.is_idle(self.source) {
            return;
        }
        let longest = table.resting.push(self.source, ()).map(|(source, ())| source);
        if let Some(longest) = longest.filter(|longest| *longest != self.source) {
            // It may have got something to do since; then it comes back here when that is done.
            table.remove_if_idle(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{OrganizationId, Timestamp};
    use crate::ltx::Txid;

    fn of(n: u128) -> Source {
        Source::Organization(OrganizationId::from_bits(n))
    }

    fn note_shipped(states: &States, source: Source) {
        states.note(source, |progress| {
            progress.txid = Some(Txid(1));
            progress.shipped_at = Some(Timestamp::from_millis(1));
        });
    }

    #[tokio::test]
    async fn what_was_written_to_once_does_not_stay() {
        let states = States::default();
        for n in 0..100_000 {
            let taken = states.take(of(n));
            taken.state.lock().await.failures = 0;
            note_shipped(&states, of(n));
        }
        assert_eq!(states.len(), RESTING.get());
        // The last ones are known as before, so that the store need not be asked again.
        assert_eq!(states.progress(of(99_999)).unwrap().txid, Some(Txid(1)));
        assert!(states.progress(of(0)).is_none());
    }

    #[test]
    fn an_entry_is_small() {
        // With the maps, some 600 bytes; of 100,000 that were written to within the hour, 60 MB.
        assert!(size_of::<(Source, (Arc<Entry>, usize))>() <= 48, "{}", size_of::<(Source, (Arc<Entry>, usize))>());
        assert!(size_of::<Entry>() <= 352, "{}", size_of::<Entry>());
        assert!(size_of::<(Source, Progress)>() <= 192, "{}", size_of::<(Source, Progress)>());
    }

    #[tokio::test]
    async fn what_has_something_to_do_stays_whatever_comes_after_it() {
        let states = States::default();
        let now = tokio::time::Instant::now();
        states.take(of(1)).state.lock().await.levels[2] = Some(now);
        states.note(of(2), |progress| progress.last_error = Some("the store is down".to_owned()));
        states.take(of(3)).state.lock().await.stopped = Some("two servers".to_owned());
        let held = states.take(of(4));
        let waiting = states.take(of(4));
        for n in 10..5000 {
            note_shipped(&states, of(n));
        }
        assert_eq!(states.len(), RESTING.get() + 4);
        assert_eq!(states.take(of(1)).state.lock().await.levels[2], Some(now));
        assert!(states.progress(of(2)).unwrap().last_error.is_some());
        assert!(states.take(of(3)).state.lock().await.stopped.is_some());
        // There is one entry of each for all who work with it.
        assert!(std::ptr::eq(&raw const *held, &raw const *waiting));
        drop(held);
        assert!(std::ptr::eq(&raw const *states.take(of(4)), &raw const *waiting));
    }

    #[tokio::test]
    async fn what_is_gone_is_forgotten_at_once() {
        let states = States::default();
        note_shipped(&states, of(1));
        states.forget(of(1));
        assert_eq!((states.len(), states.progress(of(1)).is_none()), (0, true));
        let held = states.take(of(2));
        note_shipped(&states, of(2));
        states.forget(of(2));
        assert!(states.progress(of(2)).is_none());
        // Not under the feet of whoever has it.
        assert_eq!(states.len(), 1);
        drop(held);
        states.forget(of(2));
        assert_eq!(states.len(), 0);
    }
}
