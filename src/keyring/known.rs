//! Data keys that were unwrapped lately, and what seals with them.
//!
//! Files that are open share one sealer an organization, so that a new version reaches all of them at once. What an
//! outside provider unwrapped is only as good as it is young: nobody is given it after that.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lru::LruCache;

use crate::base::{OrganizationId, Timestamp};
use crate::crypto::{DataKeys, Sealer};

/// The data keys of one organization, for as long as somebody works with them.
pub struct OrganizationKeys {
    id: OrganizationId,
    sealer: Sealer,
    good: Good,
    live: Live,
}

type Live = Arc<Mutex<HashMap<OrganizationId, Weak<OrganizationKeys>>>>;

/// From when until when keys may be used, in milliseconds; without an end for what nobody needs to be asked for.
struct Good {
    since: AtomicI64,
    until: AtomicI64,
}

/// The same as two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub since: Timestamp,
    pub until: Option<Timestamp>,
}

impl Span {
    fn holds(self, now: Timestamp) -> bool {
        // A clock that was set back makes nothing younger.
        self.until.is_none_or(|until| self.since <= now && now < until)
    }
}

impl OrganizationKeys {
    /// Seals and opens with them.
    #[must_use]
    pub const fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// Whether they may be used without asking the provider again.
    #[must_use]
    pub fn are_fresh(&self, now: impl FnOnce() -> Timestamp) -> bool {
        match self.good.until.load(Ordering::Acquire) {
            i64::MAX => true,
            until => {
                let since = Timestamp::from_millis(self.good.since.load(Ordering::Acquire));
                Span { since, until: Some(Timestamp::from_millis(until)) }.holds(now())
            }
        }
    }

    fn set(&self, span: Span) {
        self.good.since.store(span.since.millis(), Ordering::Release);
        self.good.until.store(span.until.map_or(i64::MAX, Timestamp::millis), Ordering::Release);
    }
}

impl Drop for OrganizationKeys {
    fn drop(&mut self) {
        let mut live = locked(&self.live);
        // Another one may have come in its place.
        if live.get(&self.id).is_some_and(|known| known.strong_count() == 0) {
            live.remove(&self.id);
        }
    }
}

/// How the cache does.
#[derive(Debug, Clone, Copy)]
pub struct CacheFigures {
    /// Organizations whose keys are remembered, and how many may be.
    pub entries: usize,
    pub capacity: usize,
    /// How long a key from outside is remembered.
    pub remember: Duration,
    pub hits: u64,
    pub misses: u64,
}

pub(super) struct Known {
    recent: Mutex<LruCache<OrganizationId, (DataKeys, Span)>>,
    live: Live,
    remember: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Known {
    pub fn new(capacity: usize, remember: Duration) -> Self {
        let capacity = NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN);
        Self {
            recent: Mutex::new(LruCache::new(capacity)),
            live: Live::default(),
            remember,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Keys that may be used now.
    pub fn get(&self, id: OrganizationId, now: Timestamp) -> Option<Arc<OrganizationKeys>> {
        let open = locked(&self.live).get(&id).and_then(Weak::upgrade);
        let found = match open.filter(|keys| keys.are_fresh(|| now)) {
            Some(keys) => Some(keys),
            None => {
                let recent = {
                    let mut recent = locked(&self.recent);
                    let is_old = recent.peek(&id).is_some_and(|(_, span)| !span.holds(now));
                    if is_old {
                        recent.pop(&id);
                    }
                    recent.get(&id).cloned()
                };
                recent.map(|(keys, span)| self.share(id, &keys, span))
            }
        };
        let outcome = if found.is_some() { "hit" } else { "miss" };
        metrics::counter!("bulkhead_key_cache_total", "outcome" => outcome).increment(1);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Keys that were just unwrapped, by whoever they were.
    pub fn put(&self, id: OrganizationId, keys: DataKeys, now: Timestamp, is_here: bool) -> Arc<OrganizationKeys> {
        let span = Span { since: now, until: (!is_here).then(|| now.plus(self.remember)) };
        locked(&self.recent).put(id, (keys.clone(), span));
        self.share(id, &keys, span)
    }

    /// The one that all have, with these keys.
    fn share(&self, id: OrganizationId, keys: &DataKeys, span: Span) -> Arc<OrganizationKeys> {
        let mut live = locked(&self.live);
        if let Some(shared) = live.get(&id).and_then(Weak::upgrade) {
            // Two that read at the same time may come in any order; versions only go up.
            if shared.sealer.version() <= keys.newest.0 {
                shared.sealer.renew(keys);
            }
            shared.set(span);
            drop(live);
            return shared;
        }
        let good = Good { since: AtomicI64::new(0), until: AtomicI64::new(0) };
        let made = Arc::new(OrganizationKeys { id, sealer: Sealer::of(id, keys), good, live: Arc::clone(&self.live) });
        made.set(span);
        live.insert(id, Arc::downgrade(&made));
        made
    }

    /// Nobody is given them before they were unwrapped anew, and then everybody has the new ones, who has them now as
    /// well: of one organization there is one sealer, or one that is left behind would seal with what is to go.
    pub fn expire(&self, id: OrganizationId) {
        locked(&self.recent).pop(&id);
        let open = locked(&self.live).get(&id).and_then(Weak::upgrade);
        if let Some(open) = open {
            let never = Timestamp::from_millis(i64::MIN);
            open.set(Span { since: never, until: Some(never) });
        }
    }

    /// Nobody is given them any more; whoever has them keeps them until they end.
    pub fn forget(&self, id: OrganizationId) {
        locked(&self.recent).pop(&id);
        let open = locked(&self.live).remove(&id).and_then(|keys| keys.upgrade());
        drop(open);
    }

    pub fn figures(&self) -> CacheFigures {
        let recent = locked(&self.recent);
        CacheFigures {
            entries: recent.len(),
            capacity: recent.cap().get(),
            remember: self.remember,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::DataKey;

    fn keys(version: u32) -> DataKeys {
        DataKeys { newest: (version, DataKey::generate()), older: Vec::new() }
    }

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(seconds)
    }

    #[test]
    fn what_came_from_outside_ages_and_what_is_bounded_stays_so() {
        let known = Known::new(2, Duration::from_secs(60));
        let ids: Vec<OrganizationId> = (1..=3).map(OrganizationId::from_bits).collect();
        let held = known.put(ids[0], keys(1), at(100), false);
        for now in [100, 159] {
            assert!(held.are_fresh(|| at(now)) && known.get(ids[0], at(now)).is_some(), "{now}");
        }
        // Neither after its time nor before its time.
        for now in [160, 99] {
            assert!(!held.are_fresh(|| at(now)), "{now}");
        }
        assert!(known.get(ids[0], at(160)).is_none());
        // It is gone for good, whatever the clock says then.
        assert_eq!(known.figures().entries, 0);
        let again = known.put(ids[0], keys(2), at(200), false);
        assert!(Arc::ptr_eq(&held, &again) && held.sealer().version() == 2 && held.are_fresh(|| at(200)));
        drop((held, again));
        assert!(locked(&known.live).is_empty());

        for id in &ids {
            drop(known.put(*id, keys(1), at(200), true));
        }
        assert_eq!(known.figures().entries, 2);
        assert!(known.get(ids[2], at(1_000_000)).is_some() && known.get(ids[0], at(200)).is_none());
        known.forget(ids[2]);
        assert!(known.get(ids[2], at(200)).is_none());
    }

    #[test]
    fn who_has_keys_that_were_replaced_gets_the_new_ones_with_everybody_else() {
        for is_here in [true, false] {
            let known = Known::new(2, Duration::from_secs(60));
            let id = OrganizationId::from_bits(1);
            let held = known.put(id, keys(1), at(100), is_here);
            // The version after it is in the ring, and could not be unwrapped.
            known.expire(id);
            assert!(!held.are_fresh(|| at(100)) && known.get(id, at(100)).is_none());
            let other = known.put(id, keys(2), at(101), is_here);
            assert!(Arc::ptr_eq(&held, &other));
            assert!(held.sealer().version() == 2 && held.are_fresh(|| at(101)));
        }
    }

    #[test]
    fn an_older_version_never_takes_the_place_of_a_newer_one() {
        let known = Known::new(2, Duration::from_secs(60));
        let id = OrganizationId::from_bits(1);
        let held = known.put(id, keys(2), at(0), true);
        known.put(id, keys(1), at(0), true);
        assert_eq!(held.sealer().version(), 2);
    }
}
