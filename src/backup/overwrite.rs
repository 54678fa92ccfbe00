//! Folding a WAL at once, for whoever has deleted something that must not be found on the disk any more.
//!
//! A WAL is folded by whoever ships it, when the database rests: half a minute later, or longer where the store does not
//! answer. That is too long to say of a person that they are erased.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::capture::fold;
use super::rounds::{note_failure, ship_in, unreadable};
use super::{Backups, Inner, Source, ledger};
use crate::replica;
use crate::tenants::Fold;

/// Between two tries while somebody reads in the WAL.
const PAUSE: Duration = Duration::from_millis(50);

impl Backups {
    /// Ships what was committed before the call, and folds the WAL: what was deleted is then neither in the file nor
    /// beside it. Tells whether that is so, and waits no longer than an acknowledgement does. What has not come about by
    /// then does when the store answers and nobody reads in the WAL any more.
    pub async fn overwrite(&self, source: Source) -> bool {
        if self.is_foreign() {
            // Whoever ships folds it, within a minute or so, and has no ear for us.
            return false;
        }
        let deadline = Instant::now() + self.0.schedule.confirmation;
        let inner = Arc::clone(&self.0);
        let asks = Arc::new(AtomicBool::new(false));
        let is_asking = Arc::clone(&asks);
        // What was shipped is noted also if nobody waits any more.
        let work = tokio::spawn(async move {
            let turn = inner.folding.of(source);
            let Ok(_turn) = timeout_at(deadline, turn.lock()).await else { return false };
            fold_now(&inner, source, deadline, &is_asking).await.unwrap_or_else(|error| {
                note_failure(&inner, source, &error, 1);
                false
            })
        });
        let folded = timeout_at(deadline, work).await;
        // Not where it was waited for whoever reads, or does the same, while the store answers.
        if Instant::now() >= deadline && asks.load(Ordering::Acquire) {
            ledger::note_waited();
        }
        matches!(folded, Ok(Ok(true)))
    }

    /// The same for whoever knows nothing of backups, and keeps none alive.
    #[must_use]
    pub fn overwriter(&self) -> Fold {
        let inner = Arc::downgrade(&self.0);
        Box::new(move |id| {
            let inner = inner.clone();
            Box::pin(async move {
                let Some(inner) = inner.upgrade() else { return false };
                Self(inner).overwrite(Source::Organization(id)).await
            })
        })
    }
}

async fn fold_now(inner: &Inner, source: Source, deadline: Instant, asks: &AtomicBool) -> replica::Result<bool> {
    let entry = inner.states.take(source);
    let mut is_shipped = false;
    loop {
        // For as long as something is done, and not while it is waited for whoever reads: others' acknowledgements need
        // these hands too. In the order of whoever acknowledges, so that neither waits for the other.
        asks.store(!is_shipped, Ordering::Release);
        let hand = inner.urgent_hands.acquire().await;
        let mut state = entry.state.lock().await;
        if !is_shipped || state.reached.is_none() {
            asks.store(true, Ordering::Release);
            ship_in(inner, source, &mut state).await?;
        }
        asks.store(false, Ordering::Release);
        let Some(reached) = &mut state.reached else { return Ok(false) };
        let folded = inner.still(source, |still| Ok((fold(still, *reached)?, still.is_folded()))).await;
        let (at, is_folded) = folded.map_err(unreadable)?;
        // Otherwise somebody has written since.
        is_shipped = at.is_some();
        reached.at = at.unwrap_or(reached.at);
        drop((state, hand));
        // Otherwise somebody reads in it, or has written.
        if is_folded || Instant::now() >= deadline {
            return Ok(is_folded);
        }
        sleep(PAUSE).await;
    }
}
