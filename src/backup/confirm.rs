//! Waiting until the store has what was committed, for whoever acknowledges a write only then.
//!
//! Whoever waits takes a number. A task, one a database and only while somebody waits, ships whatever was committed
//! when it began, and tells all whose numbers were given out before: many commits travel in one file. It asks after
//! each upload whether the location is still ours, since a file that lies there is worth nothing to a successor that
//! has begun from what lay there before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::ledger::Awaited;
use super::{Backups, Inner, Source, rounds};
use crate::base::{Error, Result, codes};

/// Between two tries while somebody waits.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Those who wait, by what they wait for.
pub(super) type Lines = HashMap<Source, Line>;

pub(super) struct Line {
    /// The last number that was given out.
    given: u64,
    /// Everybody up to this one has been told.
    told: watch::Sender<u64>,
    waiting: usize,
    at_work: bool,
}

impl Backups {
    /// Waits until the store has whatever was committed to these before the call; not for longer than the operator
    /// allows. What it could not wait for is shipped later all the same.
    pub async fn confirm(&self, sources: &[Source]) -> Result<()> {
        self.confirm_within(sources, self.0.schedule.confirmation).await
    }

    /// The same for an answer; one that was waited for as long as that already has no more time.
    pub async fn confirm_answer(&self, awaited: &Awaited) -> Result<()> {
        let patience = if awaited.has_waited { Duration::ZERO } else { self.0.schedule.confirmation };
        self.confirm_within(&awaited.sources, patience).await
    }

    async fn confirm_within(&self, sources: &[Source], patience: Duration) -> Result<()> {
        let started = Instant::now();
        let deadline = started + patience;
        let places: Vec<Place> = sources.iter().map(|source| Place::take(&self.0, *source)).collect();
        for place in places {
            if timeout_at(deadline, place.told()).await.is_err() {
                metrics::counter!("bulkhead_backup_unconfirmed_total").increment(1);
                let reason = self.progress(place.source).and_then(|progress| progress.last_error);
                return Err(Error::new(&codes::WRITE_NOT_REPLICATED)
                    .because(reason.unwrap_or_else(|| format!("{} was not shipped in time", place.source)))
                    .retry_after(Duration::from_secs(5)));
            }
        }
        metrics::histogram!("bulkhead_backup_confirm_seconds").record(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// How many acknowledgements wait for the store.
    #[must_use]
    pub fn confirming(&self) -> usize {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).values().map(|line| line.waiting).sum()
    }
}

/// A place in a line; given up when dropped.
struct Place {
    inner: Arc<Inner>,
    source: Source,
    number: u64,
    told: watch::Receiver<u64>,
}

impl Place {
    fn take(inner: &Arc<Inner>, source: Source) -> Self {
        let mut lines = inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Line { given: 0, told: watch::Sender::new(0), waiting: 0, at_work: false };
        let line = lines.entry(source).or_insert_with(new);
        line.given += 1;
        line.waiting += 1;
        let place = Self { inner: Arc::clone(inner), source, number: line.given, told: line.told.subscribe() };
        if !line.at_work {
            line.at_work = true;
            tokio::spawn(work_off(Arc::clone(inner), source));
        }
        place
    }

    async fn told(&self) {
        let mut told = self.told.clone();
        if told.wait_for(|told| *told >= self.number).await.is_err() {
            // The line is gone with its task, which cannot be while this place is in it.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(&self.source) {
            line.waiting -= 1;
            if line.waiting == 0 && !line.at_work {
                lines.remove(&self.source);
            }
        }
    }
}

async fn work_off(inner: Arc<Inner>, source: Source) {
    let mut pause = PAUSE;
    while let Some(given) = next(&inner, source) {
        let hand = inner.urgent_hands.acquire().await;
        let shipped = async {
            rounds::ship(&inner, source).await?;
            inner.require_owner_now().await
        };
        let outcome = shipped.await;
        drop(hand);
        match outcome {
            Ok(()) => {
                pause = PAUSE;
                let lines = inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(line) = lines.get(&source) {
                    line.told.send_replace(given);
                }
            }
            Err(error) => {
                rounds::note_failure(&inner, source, &error, 1);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// The last number, if somebody still waits; otherwise the line is gone.
fn next(inner: &Inner, source: Source) -> Option<u64> {
    let mut lines = inner.lines.lock().unwrap_or_else(PoisonError::into_inner);
    let line = lines.get(&source)?;
    if *line.told.borrow() < line.given && line.waiting > 0 {
        return Some(line.given);
    }
    if line.waiting == 0 {
        lines.remove(&source);
    } else if let Some(line) = lines.get_mut(&source) {
        // They have been told and are about to leave.
        line.at_work = false;
    }
    None
}
