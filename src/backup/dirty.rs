//! Which databases have something to do, and when.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Source, ledger};

/// Databases with the moment at which it is their turn; cheap to clone. It exists before the databases do, which
/// report their commits to it.
#[derive(Clone)]
pub struct Dirty(Arc<Inner>);

struct Inner {
    debounce: Duration,
    agenda: Mutex<Agenda>,
    bell: Notify,
}

#[derive(Default)]
struct Agenda {
    due: HashMap<Source, Instant>,
    order: BTreeSet<(Instant, Source)>,
    /// Those in which something was written that was not shipped yet.
    written: HashSet<Source>,
}

impl Dirty {
    #[must_use]
    pub fn new(debounce: Duration) -> Self {
        Self(Arc::new(Inner { debounce, agenda: Mutex::default(), bell: Notify::new() }))
    }

    /// Something was committed.
    pub fn mark(&self, source: Source) {
        ledger::note(source, false);
        self.mark_after(source, self.0.debounce);
    }

    /// The same, with another pause.
    pub(super) fn mark_after(&self, source: Source, after: Duration) {
        self.agenda().written.insert(source);
        self.plan(source, after);
    }

    /// It is a database's turn after this time at the latest.
    pub fn plan(&self, source: Source, after: Duration) {
        let due = Instant::now() + after;
        let mut agenda = self.agenda();
        if agenda.due.get(&source).is_some_and(|planned| *planned <= due) {
            return;
        }
        if let Some(later) = agenda.due.insert(source, due) {
            agenda.order.remove(&(later, source));
        }
        let is_first = agenda.order.first().is_none_or(|(first, _)| due < *first);
        agenda.order.insert((due, source));
        drop(agenda);
        if is_first {
            self.0.bell.notify_one();
        }
    }

    /// There is nothing left to do for it.
    pub fn forget(&self, source: Source) {
        let mut agenda = self.agenda();
        agenda.written.remove(&source);
        if let Some(due) = agenda.due.remove(&source) {
            agenda.order.remove(&(due, source));
        }
    }

    /// Whether something was written to it that was not shipped yet.
    pub(super) fn is_marked(&self, source: Source) -> bool {
        self.agenda().written.contains(&source)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.agenda().written.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whatever was written to, now; at shutdown.
    pub(super) fn take_written(&self) -> Vec<Source> {
        let mut agenda = self.agenda();
        agenda.order.clear();
        agenda.due.clear();
        agenda.written.drain().collect()
    }

    /// Waits for the next turn and takes it; tells whether something was written.
    pub(super) async fn next(&self) -> (Source, bool) {
        loop {
            let wait = {
                let mut agenda = self.agenda();
                let now = Instant::now();
                match agenda.order.first().copied() {
                    Some((due, source)) if due <= now => {
                        agenda.order.remove(&(due, source));
                        agenda.due.remove(&source);
                        return (source, agenda.written.remove(&source));
                    }
                    Some((due, _)) => Some(due - now),
                    None => None,
                }
            };
            match wait {
                Some(wait) => drop(tokio::time::timeout(wait, self.0.bell.notified()).await),
                None => self.0.bell.notified().await,
            }
        }
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.0.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
