//! What happens when it is a database's turn: shipping what was committed.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::capture::{Captured, Way, capture, fold, is_large};
use super::dirty::Turn;
use super::state::{At, Progress, Reached, State};
use super::tend;
use super::{Backups, Inner, Source};
use crate::base::{Timestamp, codes};
use crate::catalog::{self, organizations};
use crate::crypto::hash;
use crate::ltx::{FileName, Header, Txid};
use crate::replica::{self, Body, Error, Item, Replica};

type Result<T, E = Error> = replica::Result<T, E>;

/// Tries whose outcome is not known that are told from another server's files.
const MOST_TRIED: usize = 16;
/// The longest pause after the store did not take something.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Backups {
    /// Works until the runtime ends.
    pub async fn run(self) {
        tokio::spawn(tend::rest(Arc::clone(&self.0)));
        loop {
            let next = self.0.dirty.next().await;
            let rests_until = self.0.store_rests.lock().unwrap_or_else(PoisonError::into_inner).0;
            if let Some(until) = rests_until {
                tokio::time::sleep_until(until).await;
            }
            let Ok(()) = self.0.hands.acquire().await.map(tokio::sync::SemaphorePermit::forget) else { return };
            let hand = Hand(Arc::clone(&self.0));
            tokio::spawn(async move { take(&hand.0, next).await });
        }
    }

    /// Ships what waits, and waits for whoever is shipping, for as long as there is time; at shutdown. What is left over
    /// is found at the next start.
    pub async fn finish(&self, patience: Duration) {
        let until = Instant::now() + patience;
        for source in self.0.dirty.take_all() {
            if self.0.is_set_aside(source).await {
                continue;
            }
            // What is merged later costs nobody anything.
            match tokio::time::timeout_at(until, ship(&self.0, source)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => note_failure(&self.0, source, &error, 1),
                Err(_) => return,
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

async fn take(inner: &Inner, mut turn: Turn) {
    let source = turn.source;
    match work(inner, &mut turn).await {
        Ok(next) => {
            *inner.store_rests.lock().unwrap_or_else(PoisonError::into_inner) = (None, 0);
            if let Some(next) = next {
                inner.dirty.plan(source, next);
            }
        }
        Err((error, failures)) => {
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

/// Everything that is due for a database; tells when there is something again, or what went wrong and how often in a
/// row. What keeps the replica short may take long, and nobody who ships waits for it.
async fn work(inner: &Inner, turn: &mut Turn) -> Result<Option<Duration>, (Error, u32)> {
    let (source, written) = (turn.source, turn.written);
    let entry = inner.states.take(source);
    let is_aside = inner.is_set_aside(source).await;
    if is_aside && written {
        inner.leave_aside(source);
    }
    let chores = {
        let mut state = entry.state.lock().await;
        let rests = state.levels[0].is_some_and(|due| due <= Instant::now());
        // Otherwise there is nothing new, and the file need not be opened to see that.
        let shipped = match (written || rests) && !is_aside {
            true => ship_with(inner, source, &mut state, rests).await,
            // Merges and expiry are no less the owner's.
            false => inner.require_owner().await,
        };
        if let Err(error) = shipped {
            state.reached = None;
            state.failures += 1;
            return Err((error, state.failures));
        }
        turn.is_shipped();
        state.take_chores()
    };
    let tended = match chores {
        Some(chores) => tend::tend(inner, source, &entry, chores).await,
        None => Ok(()),
    };
    let mut state = entry.state.lock().await;
    match tended {
        Ok(()) => {
            state.failures = 0;
            Ok(state.next())
        }
        Err(error) => {
            state.failures += 1;
            Err((error, state.failures))
        }
    }
}

/// Ships what was committed so far and nothing else.
pub(super) async fn ship(inner: &Inner, source: Source) -> Result<()> {
    let entry = inner.states.take(source);
    let mut state = entry.state.lock().await;
    ship_in(inner, source, &mut state).await
}

/// The same for whoever has its turn.
pub(super) async fn ship_in(inner: &Inner, source: Source, state: &mut State) -> Result<()> {
    let outcome = ship_with(inner, source, state, false).await;
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
            match state_in_the_catalog(inner, source).await.map_err(unreadable)? {
                // Made, or on its way to here. Nobody is led to it, so nothing of it is to be had back: what is told of
                // it meanwhile is told of the catalog and the keyring.
                Some(catalog::State::Creating) => inner.dirty.mark(source),
                // It is there by now, and nothing of it was shipped.
                Some(_) => {
                    inner.dirty.mark(source);
                    return Err(unreadable(error));
                }
                // Whoever removed it sees to its replica.
                None => {
                    inner.shipped(source);
                    *state = State::default();
                    note(inner, source, |progress| progress.behind_since = None);
                }
            }
            return Ok(());
        }
        Err(error) => {
            tokio::task::block_in_place(|| inner.pass_over(source));
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
    note_success(inner, source, state);
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
    // Noted before it is sent: whoever waits for it may go away at any moment, and the store carry it out all the same.
    state.tried.truncate(MOST_TRIED);
    state.tried.insert(0, digest(&body)?);
    state.reached = None;
    // Exactly these bytes are ours, from a try whose answer was lost.
    match replica.put_same(0, header.file_name(), body, replica::moment(&header)).await {
        Ok(_) => state.tried.clear(),
        Err(error @ Error::AlreadyExists { .. }) => {
            state.tried.remove(0);
            return Err(match is_late(inner, state, replica, header.file_name()).await? {
                // What follows it is captured by the next try.
                true => Error::Unreachable { what: source.to_string(), source: error.into() },
                false => conflict(inner, source, state, error).await,
            });
        }
        // It cannot be found there later, and must not push out of the list what can.
        Err(error) if error.is_not_begun() => {
            state.tried.remove(0);
            return Err(error);
        }
        Err(error) => return Err(error),
    }
    state.reached = Some(then);
    state.is_replaced = false;
    // What was folded unread is in the file that has just arrived, unless that was after it was read.
    if let Some(mark) = mark {
        tokio::task::block_in_place(|| mark.clear());
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

/// Whether what lies there is our own, from a try that seemed to have failed and was carried out by the store later.
async fn is_late(inner: &Inner, state: &State, replica: &Replica, name: FileName) -> Result<bool> {
    if state.tried.is_empty() {
        return Ok(false);
    }
    let found = replica.list(0).await?.into_iter().find(|item| item.name == name);
    let Some(item) = found else { return Ok(false) };
    let there = digest(&replica.fetch(&item, &inner.scratch).await?)?;
    Ok(state.tried.contains(&there))
}

fn digest(body: &Body) -> Result<[u8; 32]> {
    let digest = tokio::task::block_in_place(|| hash::sha256_of(body.reader()));
    digest.map(|(digest, _)| digest).map_err(|error| Error::Database { source: error.into() })
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

async fn state_in_the_catalog(inner: &Inner, source: Source) -> crate::base::Result<Option<catalog::State>> {
    let Source::Organization(id) = source else { return Ok(None) };
    let entry = inner.databases.catalog.read(|db| organizations::entry(db, id)).await?;
    Ok(entry.map(|entry| entry.state))
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

pub(super) fn note(inner: &Inner, source: Source, change: impl FnOnce(&mut Progress)) {
    inner.states.note(source, change);
}

fn note_waiting(inner: &Inner, source: Source, now: Timestamp) {
    note(inner, source, |progress| {
        progress.behind_since.get_or_insert(now);
    });
}

fn note_success(inner: &Inner, source: Source, state: &State) {
    let (now, reached) = (inner.clock.now(), state.reached);
    note(inner, source, |progress| {
        progress.txid = reached.map(|reached| reached.txid).filter(|txid| *txid > Txid(0));
        progress.shipped_at = Some(now);
        if let Some(since) = progress.behind_since.take() {
            metrics::histogram!("bulkhead_backup_lag_seconds").record(now.since(since).as_secs_f64());
        }
        if !state.has_no_snapshot {
            progress.last_error = None;
            progress.last_error_at = None;
        }
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
