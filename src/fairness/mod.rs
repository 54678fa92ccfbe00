//! F1. What one organization may take of what all of them share, so that one that is flooded does not slow the
//! others: requests, requests at the same moment, password hashes, bytes written.
//!
//! It owns an [`Account`] of each organization that is at work, and the table of those that were limited lately.
//! An account is made for an organization that exists and for no name from outside, and goes away once nothing of
//! it is used. It knows no request and no file: `router` asks before a file is opened, `tenants` counts what is
//! written, `crypto` shares out its pool. Limits by address and by credential are `web::limits`.

mod account;
mod bucket;
mod limited;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use account::{Account, Turn};
pub use limited::{Count, Limited, LimitedOrganization, Which};
pub use plan::{Plan, Values};

use crate::base::{Clock, OrganizationId};

/// Accounts are kept in so many maps, each behind a lock of its own: requests of different organizations do not
/// wait for each other.
const SHARDS: usize = 64;
/// How many accounts a shard has before it is first looked through for those that nobody uses.
const FEW: usize = 32;

/// The accounts of all organizations; cheap to clone.
#[derive(Clone)]
pub struct Fairness(Arc<Inner>);

struct Inner {
    clock: Clock,
    defaults: Values,
    shards: [Mutex<Shard>; SHARDS],
    limited: Arc<Limited>,
    /// Requests that were let in, of all organizations.
    entered: Arc<AtomicU64>,
}

struct Shard {
    accounts: HashMap<OrganizationId, Arc<Account>>,
    /// When it has grown to this, it is looked through: so memory is bounded by what is in use also between two
    /// rounds of [`Fairness::tidy`].
    crowded: usize,
}

impl Fairness {
    /// `defaults` are for organizations that operators have set nothing else for.
    #[must_use]
    pub fn new(defaults: Values, clock: Clock) -> Self {
        let shards = std::array::from_fn(|_| Mutex::new(Shard { accounts: HashMap::new(), crowded: FEW }));
        let (limited, entered) = (Arc::new(Limited::new(clock.clone())), Arc::default());
        Self(Arc::new(Inner { clock, defaults, shards, limited, entered }))
    }

    /// The account of an organization, which must be one that exists.
    #[must_use]
    pub fn account(&self, id: OrganizationId) -> Arc<Account> {
        let mut shard = self.shard(id);
        if let Some(account) = shard.accounts.get(&id) {
            return Arc::clone(account);
        }
        if shard.accounts.len() >= shard.crowded {
            shard.tidy();
            shard.crowded = (2 * shard.accounts.len()).max(FEW);
        }
        let (limited, entered) = (Arc::clone(&self.0.limited), Arc::clone(&self.0.entered));
        let account = Account::new(id, self.0.clock.clone(), self.0.defaults, limited, entered);
        Arc::clone(shard.accounts.entry(id).or_insert_with(|| Arc::new(account)))
    }

    /// Lets go of accounts that nobody uses and that have nothing to remember; called now and then.
    pub fn tidy(&self) {
        for shard in &self.0.shards {
            let mut shard = locked(shard);
            shard.tidy();
            shard.accounts.shrink_to_fit();
            shard.crowded = (2 * shard.accounts.len()).max(FEW);
        }
    }

    /// Counts the requests that were let in: while this stays the same, work in the background is in nobody's way.
    /// Those of operators are not among them.
    #[must_use]
    pub fn entered(&self) -> u64 {
        self.0.entered.load(Ordering::Relaxed)
    }

    /// How many accounts there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.shards.iter().map(|shard| locked(shard).accounts.len()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Who was limited lately.
    #[must_use]
    pub fn limited(&self) -> &Limited {
        &self.0.limited
    }

    /// What organizations may take that operators have set nothing else for.
    #[must_use]
    pub fn defaults(&self) -> &Values {
        &self.0.defaults
    }

    fn shard(&self, id: OrganizationId) -> MutexGuard<'_, Shard> {
        // The low bits of an id are random.
        let at = usize::try_from(id.bits() % SHARDS as u128).unwrap_or(0);
        locked(&self.0.shards[at])
    }
}

impl Shard {
    fn tidy(&mut self) {
        // Whoever takes an account out of the map does so under its lock: one that only the map has is nobody's.
        self.accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_idle());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
