//! What happens when it is a database's turn: shipping what was committed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::capture::{Captured, Way, capture, fold, is_large};
use super::state::{At, Progress, Reached, State};
use super::tend::{self, Snapshot};
use super::{Backups, Inner, Source};
use crate::base::{Timestamp, codes};
use crate::catalog::{State as CatalogState, organizations};
use crate::ltx::{Header, Txid};
use crate::replica::{self, Error, Item, Replica};

type Result<T> = replica::Result<T>;

/// The longest pause after the store did not take something.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Backups {
    /// Works until the runtime ends.
    pub async fn run(self) {
        tokio::spawn(tend::rest(Arc::clone(&self.0)));
        loop {
            let (source, written) = self.0.dirty.next().await;
            let rests_until = self.0.store_rests.lock().unwrap_or_else(PoisonError::into_inner).0;
            if let Some(until) = rests_until {
                tokio::time::sleep_until(until).await;
            }
            let Ok(()) = self.0.hands.acquire().await.map(tokio::sync::SemaphorePermit::forget) else { return };
            let hand = Hand(Arc::clone(&self.0));
            tokio::spawn(async move { turn(&hand.0, source, written).await });
        }
    }

    /// Ships what waits, for as long as there is time; at shutdown. What is left over is found at the next start.
    pub async fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        for source in self.0.dirty.take_written() {
            if tokio::time::timeout_at(until, turn(&self.0, source, true)).await.is_err() {
                return;
            }
        }
    }
}

/// One of the workers; free again when dropped, however its turn has ended.
struct Hand(Arc<Inner>);

impl Drop for Hand {
    fn drop(&mut self) {
        self.0.hands.add_permits(1);
    }
}

async fn turn(inner: &Inner, source: Source, written: bool) {
    let worked = match work(inner, source, written).await {
        // It is large and slow, and nobody who ships need wait for it.
        Ok((next, Some(snapshot))) => tend::put(inner, source, snapshot).await.map(|()| next),
        Ok((next, None)) => Ok(next),
        Err(error) => Err(error),
    };
    match worked {
        Ok(next) => {
            *inner.store_rests.lock().unwrap_or_else(PoisonError::into_inner) = (None, 0);
            if let Some(next) = next {
                inner.dirty.plan(source, next);
            }
        }
        Err(error) => {
            let failures = inner.state(source).lock().await.failures;
            note_failure(inner, source, &error, failures);
            // Nothing that passes: an operator decides whose it is.
            if matches!(error, Error::Superseded(_)) {
                return;
            }
            // What the failed call did is not known: the store is asked again. One that does not answer is left
            // in peace by all, or each of many databases would wait for it in turn.
            let mut pause = pause_after(failures);
            if error.is_retryable() {
                let mut rests = inner.store_rests.lock().unwrap_or_else(PoisonError::into_inner);
                let is_over = rests.0.is_none_or(|until| until <= Instant::now());
                if is_over {
                    rests.1 += 1;
                    rests.0 = Some(Instant::now() + pause_after(rests.1));
                }
                pause = rests.0.map_or(pause, |until| until.saturating_duration_since(Instant::now()));
            }
            inner.dirty.mark_after(source, pause);
        }
    }
}

fn pause_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE)
}

/// Everything that is due for a database; tells when there is something again, and what is still to be stored.
async fn work(inner: &Inner, source: Source, written: bool) -> Result<(Option<Duration>, Option<Snapshot>)> {
    let state = inner.state(source);
    let mut state = state.lock().await;
    let outcome = async {
        let rests = state.levels[0].is_some_and(|due| due <= Instant::now());
        // Otherwise there is nothing new, and the file need not be opened to see that.
        if written || rests {
            ship_with(inner, source, &mut state, rests).await?;
        } else {
            // Merges and expiry are no less the owner's.
            inner.require_owner().await?;
        }
        tend::tend(inner, source, &mut state).await
    }
    .await;
    match outcome {
        Ok(snapshot) => {
            state.failures = 0;
            Ok((state.next(), snapshot))
        }
        Err(error) => {
            state.failures += 1;
            state.reached = None;
            Err(error)
        }
    }
}

/// Ships what was committed so far and nothing else.
pub(super) async fn ship(inner: &Inner, source: Source) -> Result<()> {
    let state = inner.state(source);
    let mut state = state.lock().await;
    let outcome = ship_with(inner, source, &mut state, false).await;
    if outcome.is_err() {
        state.reached = None;
    }
    if let Some(next) = state.next() {
        inner.dirty.plan(source, next);
    }
    outcome
}

pub(super) async fn ship_with(inner: &Inner, source: Source, state: &mut State, rests: bool) -> Result<()> {
    let replica = inner.store.replica(&source.path())?;
    if let Some(stopped) = &state.stopped {
        return Err(Error::Superseded(stopped.clone()));
    }
    inner.require_owner().await?;
    let reached = match state.reached {
        Some(reached) => reached,
        None => recover(inner, source, &replica, state).await?,
    };
    state.reached = Some(reached);
    let way = inner.way();
    note_waiting(inner, source, way.now);
    let captured = inner.still(source, |still| Ok((capture(still, reached, way)?, is_large(still)))).await;
    let (captured, is_large) = match captured {
        Ok(captured) => captured,
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => {
            // Being made, it is there in a moment. Gone, whoever removed it sees to its replica.
            if is_being_made(inner, source).await {
                inner.dirty.mark(source);
            } else {
                inner.shipped(source);
            }
            return Ok(());
        }
        Err(error) => {
            // Others need not wait for one that is damaged.
            inner.shipped(source);
            return Err(unreadable(error));
        }
    };
    if let Some(captured) = captured {
        put(inner, source, state, &replica, captured).await?;
    }
    if state.is_torn {
        tend::mend(inner, source, state).await?;
    }
    // Writers are held up once more only where there is something to fold; a small WAL is when the database rests.
    if let Some(reached) = &mut state.reached
        && (is_large || rests)
    {
        let at = inner.still(source, |still| fold(still, *reached)).await;
        if let Some(at) = at.map_err(unreadable)? {
            reached.at = at;
        }
    }
    note_success(inner, source, state.reached);
    inner.shipped(source);
    Ok(())
}

/// Stores the next file of level 0.
pub(super) async fn put(
    inner: &Inner,
    source: Source,
    state: &mut State,
    replica: &Replica,
    captured: Captured,
) -> Result<()> {
    let Captured { body, header, then, mark } = captured;
    let size = body.len();
    // Exactly these bytes are ours, from a try whose answer was lost.
    match replica.put_same(0, header.file_name(), body, moment(&header)).await {
        Ok(_) => {}
        Err(error @ Error::AlreadyExists { .. }) => return Err(conflict(inner, source, state, error).await),
        Err(error) => return Err(error),
    }
    state.reached = Some(then);
    state.is_replaced = false;
    // What was folded unread is in the file that has just arrived.
    if let Some(mark) = mark {
        let _ = std::fs::remove_file(mark);
    }
    let now = Instant::now();
    for (due, after) in state.levels.iter_mut().zip(inner.schedule.levels) {
        due.get_or_insert(now + after);
    }
    state.snapshot.get_or_insert(now + inner.schedule.levels[0]);
    inner.due.by(source, tend::first_look(inner, source));
    metrics::counter!("bulkhead_backup_bytes_total").increment(size);
    metrics::counter!("bulkhead_backup_files_total").increment(1);
    Ok(())
}

/// Another one's file is where ours belongs. It is never replaced.
async fn conflict(inner: &Inner, source: Source, state: &mut State, error: Error) -> Error {
    if let Err(error) = inner.require_owner_now().await {
        return error;
    }
    if inner.may_be_last_words() {
        // Whoever had the location before did not know it yet. The next file is a whole one, behind theirs.
        state.is_replaced = true;
        return Error::Unreachable { what: source.to_string(), source: error.into() };
    }
    let reason = format!("another server writes to this replica as well: {error}");
    tracing::error!(%source, %reason, "a database is not backed up any more");
    metrics::counter!("bulkhead_backup_stopped_total").increment(1);
    note(inner, source, |progress| progress.stopped = Some(reason.clone()));
    inner.shipped(source);
    state.stopped = Some(reason.clone());
    Error::Superseded(reason)
}

async fn is_being_made(inner: &Inner, source: Source) -> bool {
    let Source::Organization(id) = source else { return false };
    let entry = inner.databases.catalog.read(|db| organizations::entry(db, id)).await;
    entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.state == CatalogState::Creating))
}

/// Where the replica is, as the store tells.
async fn recover(inner: &Inner, source: Source, replica: &Replica, state: &mut State) -> Result<Reached> {
    let items = replica.list_all().await?;
    let Some(newest) = items.iter().map(|item| item.name.max).max() else {
        return Ok(Reached { txid: Txid(0), commit: 0, at: At::Whole });
    };
    let whole = Reached { txid: newest, commit: 0, at: At::Whole };
    let last = items.iter().find(|item| item.level == 0 && item.name.max == newest);
    let (Some(last), false) = (last, state.is_replaced) else { return Ok(whole) };
    match header_of(inner, replica, last).await {
        Ok(header) => {
            Ok(Reached { txid: newest, commit: header.commit, at: At::Beginning { salts: header.wal_salts } })
        }
        // Whatever follows must not need it.
        Err(Error::Damaged { object, source: cause }) => {
            tend::note_damage(inner, source, state, last, &format!("{object} is damaged: {cause}"));
            state.is_torn = true;
            Ok(whole)
        }
        Err(error) => Err(error),
    }
}

/// What the newest file says of itself; read to its end, since what follows builds on it.
async fn header_of(inner: &Inner, replica: &Replica, item: &Item) -> Result<Header> {
    let body = replica.fetch(item, &inner.scratch).await?;
    replica.verified(item, &body)
}

impl Inner {
    pub(super) fn way(&self) -> Way<'_> {
        Way { now: self.clock.now(), scratch: &self.scratch }
    }
}

/// With what is wrong: this one is told to operators alone.
pub(super) fn unreadable(error: crate::base::Error) -> Error {
    let why = error.cause().unwrap_or_else(|| error.to_string());
    Error::Database { source: why.into() }
}

pub(super) fn moment(header: &Header) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(header.timestamp_ms).unwrap_or_default()
}

pub(super) fn utc(now: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(now.millis()).unwrap_or_default()
}

pub(super) fn note(inner: &Inner, source: Source, change: impl FnOnce(&mut Progress)) {
    change(inner.progress.lock().unwrap_or_else(PoisonError::into_inner).entry(source).or_default());
}

fn note_waiting(inner: &Inner, source: Source, now: Timestamp) {
    note(inner, source, |progress| {
        progress.behind_since.get_or_insert(now);
    });
}

fn note_success(inner: &Inner, source: Source, reached: Option<Reached>) {
    let now = inner.clock.now();
    note(inner, source, |progress| {
        progress.txid = reached.map(|reached| reached.txid).filter(|txid| *txid > Txid(0));
        progress.shipped_at = Some(now);
        if let Some(since) = progress.behind_since.take() {
            metrics::histogram!("bulkhead_backup_lag_seconds").record(now.since(since).as_secs_f64());
        }
        progress.last_error = None;
        progress.last_error_at = None;
        progress.stopped = None;
    });
}

pub(super) fn note_failure(inner: &Inner, source: Source, error: &Error, failures: u32) {
    let now = inner.clock.now();
    metrics::counter!("bulkhead_backup_failures_total").increment(1);
    // Once, and then once in a while: a store that is down is told about by every database.
    if failures <= 1 || failures.is_multiple_of(10) {
        tracing::warn!(%source, %error, failures, "a database could not be backed up; it will be tried again");
    }
    note(inner, source, |progress| {
        progress.behind_since.get_or_insert(now);
        progress.last_error = Some(error.to_string());
        progress.last_error_at = Some(now);
    });
}
