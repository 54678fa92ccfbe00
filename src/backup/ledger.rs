//! What one request has written, for whoever answers it: where an organization's writes are acknowledged only once
//! the store has them, the answer waits for exactly these.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::Source;

tokio::task_local! {
    static LEDGER: Ledger;
}

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    sources: BTreeSet<Source>,
    is_awaited: bool,
    has_waited: bool,
}

/// What must be at the store before something is told to anybody.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Awaited {
    /// Nothing where nobody waits.
    pub sources: Vec<Source>,
    /// As long as anybody waits for the store was waited for it already, in vain.
    pub has_waited: bool,
}

impl Ledger {
    fn awaited(&self) -> Vec<Source> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.is_awaited { entries.sources.iter().copied().collect() } else { Vec::new() }
    }
}

/// Runs the work of a request. With what it gives comes what it has written and what must be at the store before
/// that is told to anybody.
pub async fn watched<F: Future>(work: F) -> (F::Output, Awaited) {
    let ledger = Ledger::default();
    let output = LEDGER.scope(ledger.clone(), work).await;
    let has_waited = ledger.0.lock().unwrap_or_else(PoisonError::into_inner).has_waited;
    (output, Awaited { sources: ledger.awaited(), has_waited })
}

/// Notes that the work has waited for the store in vain: whoever answers does not wait as long once more.
pub(super) fn note_waited() {
    let _ = LEDGER.try_with(|ledger| {
        ledger.0.lock().unwrap_or_else(PoisonError::into_inner).has_waited = true;
    });
}

/// What has been written so far of what must be at the store before it is told; nothing where nobody waits.
#[must_use]
pub fn awaited() -> Vec<Source> {
    LEDGER.try_with(Ledger::awaited).unwrap_or_default()
}

/// The same work for a task of its own: what it writes is written by the request that made it.
pub fn carried<F: Future + Send + 'static>(work: F) -> std::pin::Pin<Box<dyn Future<Output = F::Output> + Send>>
where
    F::Output: Send,
{
    match LEDGER.try_with(Clone::clone) {
        Ok(ledger) => Box::pin(LEDGER.scope(ledger, work)),
        Err(_) => Box::pin(work),
    }
}

/// Notes a commit, or whatever else must be at the store. `is_awaited`: of an organization whose writes wait.
pub fn note(source: Source, is_awaited: bool) {
    let _ = LEDGER.try_with(|ledger| {
        let mut entries = ledger.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.sources.insert(source);
        entries.is_awaited |= is_awaited;
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::OrganizationId;

    #[tokio::test]
    async fn only_what_is_awaited_is_told_and_then_all_of_it() {
        let organization = Source::Organization(OrganizationId::from_bits(7));
        note(organization, true);
        let ((), told) = watched(async { note(Source::Catalog, false) }).await;
        assert_eq!(told, Awaited::default());
        let ((), told) = watched(async {
            note(Source::Catalog, false);
            tokio::spawn(carried(async move { note(organization, true) })).await.unwrap();
            tokio::spawn(async { note(Source::Keyring, false) }).await.unwrap();
        })
        .await;
        assert_eq!(told, Awaited { sources: vec![organization, Source::Catalog], has_waited: false });
        let ((), told) = watched(async { note_waited() }).await;
        assert!(told.has_waited && told.sources.is_empty());
    }
}
