//! What happens when it is a database's turn: shipping, merging, snapshots, expiry.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::capture::{Captured, capture, fold, snapshot};
use super::state::{At, Progress, Reached, State};
use super::{Backups, Inner, Source};
use crate::base::{Timestamp, codes};
use crate::catalog::{State as CatalogState, organizations};
use crate::ltx::{Header, Txid};
use crate::replica::{self, Error, Item, Replica, SNAPSHOT_LEVEL};

type Result<T> = replica::Result<T>;

/// The longest pause after the store did not take something.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Backups {
    /// Works until the runtime ends.
    pub async fn run(self) {
        loop {
            let (source, written) = self.0.dirty.next().await;
            let rests_until = self.0.store_rests.lock().unwrap_or_else(PoisonError::into_inner).0;
            if let Some(until) = rests_until {
                tokio::time::sleep_until(until).await;
            }
            let Ok(()) = self.0.hands.acquire().await.map(tokio::sync::SemaphorePermit::forget) else { return };
            let inner = Arc::clone(&self.0);
            tokio::spawn(async move {
                turn(&inner, source, written).await;
                inner.hands.add_permits(1);
            });
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

async fn turn(inner: &Inner, source: Source, written: bool) {
    match work(inner, source, written).await {
        Ok(next) => {
            *inner.store_rests.lock().unwrap_or_else(PoisonError::into_inner) = (None, 0);
            if let Some(next) = next {
                inner.dirty.plan(source, next);
            }
        }
        Err(error) => {
            let failures = inner.state(source).lock().await.failures;
            note_failure(inner, source, &error, failures);
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

/// Everything that is due for a database; tells when there is something again.
async fn work(inner: &Inner, source: Source, written: bool) -> Result<Option<Duration>> {
    let state = inner.state(source);
    let mut state = state.lock().await;
    let outcome = async {
        let rests = state.levels[0].is_some_and(|due| due <= Instant::now());
        // Otherwise there is nothing new, and the file need not be opened to see that.
        if written || rests {
            ship_with(inner, source, &mut state, rests).await?;
        }
        tend(inner, source, &mut state).await
    }
    .await;
    match outcome {
        Ok(()) => {
            state.failures = 0;
            Ok(state.next())
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

async fn ship_with(inner: &Inner, source: Source, state: &mut State, rests: bool) -> Result<()> {
    let replica = inner.store.replica(&source.path())?;
    let reached = match state.reached {
        Some(reached) => reached,
        None => recover(inner, &replica, state).await?,
    };
    state.reached = Some(reached);
    let now = inner.clock.now();
    note_waiting(inner, source, now);
    let captured = inner.still(source, |still| capture(still, reached, now)).await;
    let captured = match captured {
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
            return Err(Error::Database { source: error.into() });
        }
    };
    if let Some(Captured { bytes, header, then, mark }) = captured {
        let size = bytes.len();
        replica.put(0, header.file_name(), bytes, moment(&header)).await?;
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
        metrics::counter!("bulkhead_backup_bytes_total").increment(size as u64);
        metrics::counter!("bulkhead_backup_files_total").increment(1);
    }
    if let Some(reached) = &mut state.reached {
        let at = inner.still(source, |still| fold(still, *reached, rests)).await;
        if let Some(at) = at.map_err(|error| Error::Database { source: error.into() })? {
            reached.at = at;
        }
    }
    note_success(inner, source, state.reached);
    inner.shipped(source);
    Ok(())
}

async fn is_being_made(inner: &Inner, source: Source) -> bool {
    let Source::Organization(id) = source else { return false };
    let entry = inner.databases.catalog.read(|db| organizations::entry(db, id)).await;
    entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.state == CatalogState::Creating))
}

/// Where the replica is, as the store tells.
async fn recover(inner: &Inner, replica: &Replica, state: &State) -> Result<Reached> {
    let items = replica.list_all().await?;
    let Some(newest) = items.iter().map(|item| item.name.max).max() else {
        return Ok(Reached { txid: Txid(0), commit: 0, at: At::Whole });
    };
    let last = items.iter().find(|item| item.level == 0 && item.name.max == newest);
    let (Some(last), false) = (last, state.is_replaced) else {
        return Ok(Reached { txid: newest, commit: 0, at: At::Whole });
    };
    let header = header_of(inner, replica, last).await?;
    Ok(Reached { txid: newest, commit: header.commit, at: At::Beginning { salts: header.wal_salts } })
}

async fn header_of(inner: &Inner, replica: &Replica, item: &Item) -> Result<Header> {
    let body = replica.fetch(item, &inner.scratch).await?;
    replica.header(item, &body)
}

/// Merges, snapshots and expiry, as far as they are due.
async fn tend(inner: &Inner, source: Source, state: &mut State) -> Result<()> {
    let replica = inner.store.replica(&source.path())?;
    for level in 1..=3_u8 {
        let due = &mut state.levels[usize::from(level - 1)];
        if due.is_some_and(|due| due <= Instant::now()) {
            *due = None;
            replica::compact(&replica, level, &inner.scratch).await?;
            if level > 1 {
                replica::retain(&replica, inner.rules(source), utc(inner.clock.now())).await?;
            }
        }
    }
    if state.snapshot.is_some_and(|due| due <= Instant::now()) {
        state.snapshot = None;
        let items: Vec<Item> = replica.list(SNAPSHOT_LEVEL).await?;
        let every = inner.schedule.snapshots;
        let newest = replica.date(items.into_iter().last().into_iter().collect()).await?;
        let newest = newest.first();
        if newest.is_some_and(|newest| state.reached.is_some_and(|reached| newest.name.max >= reached.txid)) {
            // Nothing was written since.
            return Ok(());
        }
        let age = newest.map(|item| (utc(inner.clock.now()) - item.created_at).to_std().unwrap_or_default());
        match age {
            Some(age) if age < every => state.snapshot = Some(Instant::now() + every.saturating_sub(age)),
            _ => put_snapshot(inner, source, &replica, state).await?,
        }
    }
    Ok(())
}

/// A snapshot belongs to a transaction that level 0 has, so whatever was committed meanwhile is shipped first.
async fn put_snapshot(inner: &Inner, source: Source, replica: &Replica, state: &mut State) -> Result<()> {
    let Some(reached) = state.reached.filter(|reached| reached.txid > Txid(0)) else { return Ok(()) };
    let now = inner.clock.now();
    let taken = inner
        .still(source, |still| {
            let more = capture(still, reached, now)?;
            let then = more.as_ref().map_or(reached, |more| more.then);
            Ok((more, snapshot(still, then, now)?))
        })
        .await;
    let (more, (bytes, header)) = match taken {
        Ok(taken) => taken,
        Err(error) => return Err(Error::Database { source: error.into() }),
    };
    if let Some(Captured { bytes, header, then, .. }) = more {
        replica.put(0, header.file_name(), bytes, moment(&header)).await?;
        state.reached = Some(then);
    }
    replica.put_same(SNAPSHOT_LEVEL, header.file_name(), bytes, moment(&header)).await?;
    metrics::counter!("bulkhead_backup_snapshots_total").increment(1);
    Ok(())
}

fn moment(header: &Header) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(header.timestamp_ms).unwrap_or_default()
}

fn utc(now: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(now.millis()).unwrap_or_default()
}

fn note(inner: &Inner, source: Source, change: impl FnOnce(&mut Progress)) {
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
    });
}

fn note_failure(inner: &Inner, source: Source, error: &Error, failures: u32) {
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
