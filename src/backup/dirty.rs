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
    /// Those in which something was written that nobody has begun to ship.
    written: HashSet<Source>,
    /// Those of which somebody is shipping it, and how many are.
    in_hand: HashMap<Source, usize>,
}

impl Agenda {
    /// Those in which something was written that was not shipped yet.
    fn waiting(&self) -> impl Iterator<Item = Source> {
        let only_in_hand = self.in_hand.keys().filter(|source| !self.written.contains(source));
        self.written.iter().chain(only_in_hand).copied()
    }
}

/// A turn that was taken. Until it is over, what was written counts as not shipped yet.
pub(super) struct Turn {
    dirty: Dirty,
    pub source: Source,
    /// Whether something was written.
    pub written: bool,
}

impl Turn {
    /// What was written is shipped.
    pub fn is_shipped(&mut self) {
        if !std::mem::take(&mut self.written) {
            return;
        }
        let in_hand = &mut self.dirty.agenda().in_hand;
        if let Some(count) = in_hand.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                in_hand.remove(&self.source);
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.is_shipped();
    }
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
        let agenda = self.agenda();
        agenda.written.contains(&source) || agenda.in_hand.contains_key(&source)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.agenda().waiting().count()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whatever waits, also what somebody is shipping; at shutdown.
    pub(super) fn take_all(&self) -> Vec<Source> {
        let mut agenda = self.agenda();
        agenda.order.clear();
        agenda.due.clear();
        let all = agenda.waiting().collect();
        agenda.written.clear();
        all
    }

    /// Waits for the next turn and takes it.
    pub(super) async fn next(&self) -> Turn {
        loop {
            let wait = {
                let mut agenda = self.agenda();
                let now = Instant::now();
                match agenda.order.first().copied() {
                    Some((due, source)) if due <= now => {
                        agenda.order.remove(&(due, source));
                        agenda.due.remove(&source);
                        let written = agenda.written.remove(&source);
                        if written {
                            *agenda.in_hand.entry(source).or_default() += 1;
                        }
                        return Turn { dirty: self.clone(), source, written };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_somebody_is_shipping_waits_until_it_is_shipped() {
        let dirty = Dirty::new(Duration::ZERO);
        dirty.mark(Source::Catalog);
        let mut first = dirty.next().await;
        assert!(first.written && dirty.is_marked(Source::Catalog));
        // Written to again, and taken by somebody else.
        dirty.mark(Source::Catalog);
        assert_eq!(dirty.len(), 1);
        let second = dirty.next().await;
        first.is_shipped();
        drop(first);
        assert_eq!((dirty.len(), dirty.take_all()), (1, vec![Source::Catalog]));
        // However its turn has ended.
        drop(second);
        assert!(dirty.is_empty() && !dirty.is_marked(Source::Catalog) && dirty.take_all().is_empty());

        dirty.plan(Source::Keyring, Duration::ZERO);
        let turn = dirty.next().await;
        assert!(!turn.written && dirty.is_empty());
    }
}
