//! One organization's account.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use super::bucket::Bucket;
use super::limited::{Limited, Which};
use super::plan::{Plan, Values};
use crate::base::error::Quota;
use crate::base::time::length;
use crate::base::{Clock, Code, Error, OrganizationId, Result, codes};

/// What an organization has used of what it may; every look at it is a few atomic words.
pub struct Account {
    organization: OrganizationId,
    clock: Clock,
    defaults: Values,
    requests: Bucket,
    /// Requests that are being answered, and how many may be; 0 is no limit.
    running: AtomicU32,
    most_running: AtomicU32,
    hashes_at_once: AtomicU32,
    hashes_waiting: AtomicU32,
    written: Bucket,
    limited: Arc<Limited>,
    /// Of all organizations together.
    entered: Arc<AtomicU64>,
}

/// A request's place among those of its organization that are answered at the same moment; given back when dropped.
pub struct Turn(Arc<Account>);

impl Account {
    pub(super) fn new(
        organization: OrganizationId,
        clock: Clock,
        defaults: Values,
        limited: Arc<Limited>,
        entered: Arc<AtomicU64>,
    ) -> Self {
        let account = Self {
            organization,
            clock,
            defaults,
            requests: Bucket::default(),
            running: AtomicU32::new(0),
            most_running: AtomicU32::new(0),
            hashes_at_once: AtomicU32::new(0),
            hashes_waiting: AtomicU32::new(0),
            written: Bucket::default(),
            limited,
            entered,
        };
        account.apply(&Plan::default());
        account
    }

    /// What the organization may take from now on. Where it is something else than before, it begins with all of it.
    pub fn apply(&self, plan: &Plan) {
        let values = plan.over(&self.defaults);
        let (rate, burst) = (values.requests_per_second, u64::from(values.request_burst.max(1)));
        if rate == 0 {
            self.requests.set(0, Duration::ZERO);
        } else {
            self.requests.set(burst, Duration::from_nanos(1_000_000_000 * burst / u64::from(rate)));
        }
        self.most_running.store(values.concurrent_requests, Ordering::Relaxed);
        self.hashes_at_once.store(values.concurrent_hashes, Ordering::Relaxed);
        self.hashes_waiting.store(values.queued_hashes, Ordering::Relaxed);
        self.written.set(values.written_bytes_per_minute, length::minutes(1));
    }

    /// Counts a request, or refuses it.
    pub fn enter(self: &Arc<Self>) -> Result<Turn> {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        // Gives the place back wherever this ends.
        let turn = Turn(Arc::clone(self));
        let most = self.most_running.load(Ordering::Relaxed);
        if most > 0 && running > most {
            return Err(self.refusal(Which::Concurrency, &codes::ORGANIZATION_CONCURRENCY_LIMITED, Duration::ZERO));
        }
        match self.requests.take(self.clock.elapsed()) {
            Ok(()) => {
                self.entered.fetch_add(1, Ordering::Relaxed);
                Ok(turn)
            }
            Err(wait) => Err(self.refusal(Which::Requests, &codes::ORGANIZATION_RATE_LIMITED, wait)),
        }
    }

    /// Refuses to write more where what was written in the last minute is as much as it may be.
    pub fn may_write(&self) -> Result<()> {
        let left = self.written.look(self.clock.elapsed());
        left.map_err(|wait| self.refusal(Which::Writes, &codes::ORGANIZATION_WRITES_LIMITED, wait))
    }

    /// Counts what was written to the organization's file.
    pub fn wrote(&self, bytes: u64) {
        self.written.charge(self.clock.elapsed(), bytes);
    }

    /// Hashes that the organization may have at the same moment, and waiting; 0 is no limit.
    #[must_use]
    pub fn hashing(&self) -> (u32, u32) {
        (self.hashes_at_once.load(Ordering::Relaxed), self.hashes_waiting.load(Ordering::Relaxed))
    }

    /// Notes that a hash was refused because too many wait; how many may.
    pub fn hash_refused(&self) -> Quota {
        self.limited.note(self.organization, Which::Hashing);
        self.quota(Which::Hashing)
    }

    /// Requests that are being answered.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    /// Whether a new account would be the same.
    pub(super) fn is_idle(&self) -> bool {
        let now = self.clock.elapsed();
        self.running() == 0 && self.requests.is_full(now) && self.written.is_full(now)
    }

    /// How much there is of a limit, for whoever is refused because nothing is left.
    fn quota(&self, which: Which) -> Quota {
        let of = |bucket: &Bucket, unit| {
            let (amount, window) = bucket.size();
            Quota { name: which.as_str(), amount, unit, window: Some(window) }
        };
        match which {
            Which::Requests => of(&self.requests, None),
            Which::Writes => of(&self.written, Some("content-bytes")),
            Which::Concurrency | Which::Hashing => {
                let most = match which {
                    Which::Hashing => &self.hashes_waiting,
                    _ => &self.most_running,
                };
                let amount = u64::from(most.load(Ordering::Relaxed));
                Quota { name: which.as_str(), amount, unit: Some("concurrent-requests"), window: None }
            }
        }
    }

    fn refusal(&self, which: Which, code: &'static Code, wait: Duration) -> Error {
        self.limited.note(self.organization, which);
        // In whole seconds, as `Retry-After` says it (RFC 9110 section 10.2.3): never too few.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Error::new(code).retry_after(Duration::from_secs(seconds.max(1))).limited_by(self.quota(which))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}
