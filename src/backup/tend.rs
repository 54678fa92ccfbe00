//! What keeps a replica short: merges, snapshots, expiry. While a database is written to, and once in a while when it
//! rests.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::capture::{capture, snapshot};
use super::rounds::{note, note_failure, put as put_level_0, ship, unreadable};
use super::state::{Chores, State};
use super::states::Entry;
use super::{Inner, Schedule, Source};
use crate::base::time::length;
use crate::base::{Timestamp, codes};
use crate::ltx::{Header, Txid};
use crate::replica::{self, Body, Error, Item, Replica, SNAPSHOT_LEVEL};

type Result<T> = replica::Result<T>;

/// How often it is looked whether a resting one is due; nobody is asked for that.
const LOOK: Duration = Duration::from_secs(5);
/// Resting ones that are looked at in the same moment.
const AT_ONCE: usize = 2;

/// After a file of which no snapshot could be made.
const AGAIN: Duration = length::hours(1);

/// A clock that is set right by less than this was not wrong.
const CLOCKS_DIFFER: Duration = length::hours(1);

/// A whole database on its way to the store.
struct Snapshot {
    body: Body,
    header: Header,
}

/// Merges, snapshots and expiry. Whoever ships goes on meanwhile, and finds out only of what is damaged.
pub(super) async fn tend(inner: &Inner, source: Source, entry: &Entry, chores: Chores) -> Result<()> {
    // Somebody does, for longer than it takes for more to be due: the turn is left to them.
    let Ok(_turn) = entry.tending.try_lock() else {
        entry.state.lock().await.put_back(chores, inner.schedule.levels[0]);
        return Ok(());
    };
    let mut left = chores;
    let done = do_chores(inner, source, entry, &mut left).await;
    match &done {
        Ok(()) if chores.snapshot => entry.state.lock().await.has_no_snapshot = false,
        Ok(()) => {}
        // Looking at all of a file holds its writers up, and nothing mends it meanwhile.
        Err(Error::Database { .. }) if left.snapshot => {
            let mut state = entry.state.lock().await;
            state.has_no_snapshot = true;
            state.put_back(Chores { snapshot: false, ..left }, inner.schedule.levels[0]);
            state.put_back(Chores { snapshot: true, ..Chores::default() }, AGAIN);
        }
        Err(_) => entry.state.lock().await.put_back(left, inner.schedule.levels[0]),
    }
    done
}

/// Takes out of `left` what it has done.
async fn do_chores(inner: &Inner, source: Source, entry: &Entry, left: &mut Chores) -> Result<()> {
    let replica = inner.store.replica(&source.path())?;
    let mut is_damaged = false;
    for level in 1..=3_u8 {
        let is_due = &mut left.levels[usize::from(level - 1)];
        if *is_due {
            is_damaged |= merge(inner, source, entry, &replica, level).await?;
            *is_due = false;
            if level > 1 {
                expire(inner, source, entry, &replica).await?;
            }
        }
    }
    // What takes the file waits until it may be looked at: then it is shipped whole.
    let is_aside = inner.is_set_aside(source).await;
    if is_damaged {
        let mut state = entry.state.lock().await;
        state.is_torn = true;
        if !is_aside {
            mend(inner, source, &mut state).await?;
        }
    }
    if is_aside {
        left.snapshot = false;
    }
    if left.snapshot {
        let items: Vec<Item> = replica.list(SNAPSHOT_LEVEL).await?;
        let every = inner.schedule.snapshots;
        let newest = replica.date(items.into_iter().last().into_iter().collect()).await?;
        let newest = newest.first();
        let snapshot = {
            let mut state = entry.state.lock().await;
            if newest.is_some_and(|newest| state.reached.is_some_and(|reached| newest.name.max >= reached.txid)) {
                // Nothing was written since.
                None
            } else {
                match newest.map(|item| age(inner, item)) {
                    Some(age) if age < every => {
                        state.snapshot = Some(Instant::now() + every.saturating_sub(age));
                        None
                    }
                    _ => take(inner, source, &replica, &mut state).await?,
                }
            }
        };
        if let Some(snapshot) = snapshot {
            put(inner, &replica, snapshot).await?;
        }
        left.snapshot = false;
    }
    Ok(())
}

/// What is too old goes, and with it what is known of damage in it.
async fn expire(inner: &Inner, source: Source, entry: &Entry, replica: &Replica) -> Result<()> {
    // A merge may have taken long enough for somebody else to have taken the location over.
    inner.require_owner().await?;
    let retained = replica::retain(replica, inner.rules(source), inner.clock.now().to_utc()).await?;
    if !retained.deleted.is_empty() {
        let mut state = entry.state.lock().await;
        for item in &retained.deleted {
            state.damaged.remove(&(item.level, item.name));
        }
    }
    Ok(())
}

/// How long ago it was made. One from a clock that was far ahead says nothing of that, so another one is due: it would
/// otherwise be the newest for as long as that clock was ahead.
fn age(inner: &Inner, item: &Item) -> Duration {
    let age = inner.clock.now().to_utc() - item.created_at;
    match age.abs().to_std() {
        Ok(ahead) if age < chrono::Duration::zero() => {
            if ahead > CLOCKS_DIFFER {
                Duration::MAX
            } else {
                Duration::ZERO
            }
        }
        Ok(age) => age,
        Err(_) => Duration::ZERO,
    }
}

/// Tells whether something was found that a fresh snapshot has to make up for.
async fn merge(inner: &Inner, source: Source, entry: &Entry, replica: &Replica, level: u8) -> Result<bool> {
    let merged = replica::compact(replica, level, &inner.scratch).await?;
    if merged.damaged.is_empty() {
        return Ok(false);
    }
    let mut state = entry.state.lock().await;
    let news = merged.damaged.iter().filter(|(item, why)| note_damage(inner, source, &mut state, item, why));
    Ok(news.count() > 0)
}

/// Remembers a file that is not what it should be; tells whether that is new.
pub(super) fn note_damage(inner: &Inner, source: Source, state: &mut State, item: &Item, why: &str) -> bool {
    if !state.damaged.insert((item.level, item.name)) {
        return false;
    }
    tracing::error!(%source, why, "a file of the backup is damaged; a whole one is shipped");
    metrics::counter!("bulkhead_backup_damaged_total").increment(1);
    let now = inner.clock.now();
    note(inner, source, |progress| progress.damaged = Some((why.to_owned(), now)));
    true
}

/// A snapshot belongs to a transaction that level 0 has, so whatever was committed meanwhile is shipped first.
async fn take(inner: &Inner, source: Source, replica: &Replica, state: &mut State) -> Result<Option<Snapshot>> {
    let Some(reached) = state.reached.filter(|reached| reached.txid > Txid(0)) else { return Ok(None) };
    let way = inner.way();
    let taken = inner
        .still(source, |still| {
            let more = capture(still, reached, way)?;
            let then = more.as_ref().map_or(reached, |more| more.then);
            Ok((more, snapshot(still, then, way)?))
        })
        .await;
    let (more, (body, header)) = taken.map_err(unreadable)?;
    if let Some(more) = more
        && let Err(error) = put_level_0(inner, source, state, replica, more).await
    {
        state.reached = None;
        return Err(error);
    }
    Ok(Some(Snapshot { body, header }))
}

/// Makes up for a file that is damaged: whatever comes after this can be restored without it.
pub(super) async fn mend(inner: &Inner, source: Source, state: &mut State) -> Result<()> {
    let replica = inner.store.replica(&source.path())?;
    if let Some(snapshot) = take(inner, source, &replica, state).await? {
        put(inner, &replica, snapshot).await?;
        state.is_torn = false;
    }
    Ok(())
}

/// Stores a snapshot.
async fn put(inner: &Inner, replica: &Replica, snapshot: Snapshot) -> Result<()> {
    let Snapshot { body, header } = snapshot;
    let (name, size) = (header.file_name(), body.len());
    match replica.put_same(SNAPSHOT_LEVEL, name, body, replica::moment(&header)).await {
        // Another one of the same state, from a try that the store has carried out late: as good as this one, if it
        // is whole.
        Err(Error::AlreadyExists { .. }) => {
            let created_at = replica::moment(&header);
            let there = Item { level: SNAPSHOT_LEVEL, name, size, created_at, dated: true };
            replica.verified(&there, &replica.fetch(&there, &inner.scratch).await?)?;
        }
        stored => {
            stored?;
        }
    }
    metrics::counter!("bulkhead_backup_snapshots_total").increment(1);
    Ok(())
}

/// When a database is looked at that was shipped just now and is not written to any more: when the next snapshot is
/// due, not all at the same moment.
pub(super) fn first_look(inner: &Inner, source: Source) -> Timestamp {
    let every = inner.schedule.snapshots;
    inner.clock.now().plus(every + spread(source, every / 8))
}

/// A part of `most` that is the same for a database every time.
fn spread(source: Source, most: Duration) -> Duration {
    let Source::Organization(id) = source else { return Duration::ZERO };
    // The last bits of an id are random.
    most / 1024 * u32::try_from(id.bits() & 0x3ff).unwrap_or(0)
}

impl Inner {
    /// Nothing is planned for later than this from now on.
    fn horizon(&self) -> Duration {
        let Schedule { snapshots, retention, keyring_retention, .. } = self.schedule;
        snapshots.saturating_mul(2).saturating_add(retention.max(keyring_retention))
    }

    /// Plans a first look at every database where nothing was ever planned; by and by, since each is one request.
    pub(super) async fn look_for_unplanned(&self) -> crate::base::Result<()> {
        if !self.due.is_new() {
            return Ok(());
        }
        let now = self.clock.now();
        let plan = |entry: crate::catalog::Entry| {
            let source = Source::Organization(entry.id);
            self.due.by(source, now.plus(spread(source, self.schedule.snapshots)));
            Ok(())
        };
        self.databases.catalog.scan(|db| crate::catalog::organizations::each(db, plan)).await
    }
}

/// Looks after those that rest, for as long as the runtime lives.
pub(super) async fn rest(inner: Arc<Inner>) {
    let hands = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        sleep(LOOK).await;
        // What a clock that was ahead has planned; by and by, as what was never planned.
        let now = inner.clock.now();
        inner.due.bring_forward(now.plus(inner.horizon()), |source| now.plus(spread(source, inner.schedule.snapshots)));
        while let Some(source) = inner.due.take(inner.clock.now()) {
            let Ok(hand) = Arc::clone(&hands).acquire_owned().await else { return };
            let inner = Arc::clone(&inner);
            tokio::spawn(async move {
                match look_after(&inner, source).await {
                    Ok(()) => note_in_order(&inner, source),
                    // It is tried again in an hour.
                    Err(error) => note_failure(&inner, source, &error, 1),
                }
                drop(hand);
            });
        }
    }
}

/// What was wrong an hour ago is so no more, unless it is of something that still waits to be shipped.
fn note_in_order(inner: &Inner, source: Source) {
    let was_wrong = inner.states.progress(source).is_some_and(|progress| progress.last_error.is_some());
    if was_wrong && !inner.dirty.is_marked(source) {
        note(inner, source, |progress| {
            (progress.behind_since, progress.last_error, progress.last_error_at) = (None, None, None);
        });
    }
}

/// The newest state as a snapshot, and nothing of what is too old.
async fn look_after(inner: &Inner, source: Source) -> Result<()> {
    inner.require_owner().await?;
    let replica = inner.store.replica(&source.path())?;
    let entry = inner.states.take(source);
    let _turn = entry.tending.lock().await;
    let mut items = replica.list_all().await?;
    let Some(newest) = items.iter().map(|item| item.name.max).max() else {
        inner.due.plan(source, None);
        return Ok(());
    };
    let snapshots = items.iter().filter(|item| item.level == SNAPSHOT_LEVEL);
    let last = snapshots.max_by_key(|item| item.name.max).cloned();
    let is_covered = last.as_ref().is_some_and(|last| last.name.max >= newest);
    let every = inner.schedule.snapshots;
    let mut next = None;
    if !is_covered {
        let last = replica.date(last.into_iter().collect()).await?;
        match last.first().map(|last| age(inner, last)) {
            Some(age) if age < every => next = Some(inner.clock.now().plus(every.saturating_sub(age))),
            _ if inner.is_set_aside(source).await => next = Some(inner.clock.now().plus(every)),
            _ if is_gone(inner, source).await? => {}
            _ => {
                ship(inner, source).await?;
                for level in 1..=3 {
                    merge(inner, source, &entry, &replica, level).await?;
                }
                let snapshot = {
                    let mut state = entry.state.lock().await;
                    state.snapshot = None;
                    take(inner, source, &replica, &mut state).await?
                };
                if let Some(snapshot) = snapshot {
                    put(inner, &replica, snapshot).await?;
                }
            }
        }
    }
    expire(inner, source, &entry, &replica).await?;
    items = replica.list_all().await?;
    let now = inner.clock.now();
    let expiry = replica::next_expiry(&items, inner.rules(source), now.to_utc());
    let due = [next, expiry.map(Timestamp::from_utc)].into_iter().flatten().min();
    inner.due.plan(source, due.map(|due| due.min(now.plus(inner.horizon()))));
    Ok(())
}

async fn is_gone(inner: &Inner, source: Source) -> Result<bool> {
    let Source::Organization(id) = source else { return Ok(false) };
    match inner.databases.directory.by_id(id).await {
        Ok(_) => Ok(false),
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => Ok(true),
        Err(error) => Err(unreadable(error)),
    }
}
