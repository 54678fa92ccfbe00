//! How often something may be tried, by organization and by address.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use governor::RateLimiter;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;

use super::failure::{RATE_LIMIT, RATE_LIMIT_POLICY, policy, seconds};
use crate::base::error::Quota;
use crate::base::{Error, OrganizationId, Result, codes};

/// One limit; keys are (organization, who).
pub struct Limit<K: Hash + Eq + Clone>(Option<Inner<K>>);

struct Inner<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DefaultKeyedStateStore<K>, DefaultClock, StateInformationMiddleware>,
    quota: Quota,
    /// As it is told.
    policy: HeaderValue,
    /// How long one of them takes to come back.
    each: Duration,
}

/// What is left of a limit.
#[derive(Debug, Clone)]
pub struct Left {
    name: &'static str,
    policy: HeaderValue,
    amount: u32,
    /// Until all of it is back.
    whole_in: Duration,
}

impl Left {
    /// The fields of draft-ietf-httpapi-ratelimit-headers-10, for whoever is let in.
    pub fn tell(self, headers: &mut HeaderMap) {
        let left = format!("\"{}\";r={};t={}", self.name, self.amount, seconds(self.whole_in));
        if let Ok(left) = HeaderValue::try_from(left) {
            headers.insert(RATE_LIMIT_POLICY, self.policy);
            headers.insert(RATE_LIMIT, left);
        }
    }
}

impl<K: Hash + Eq + Clone> Limit<K> {
    /// `count` at once, and as many again over each `period`; 0 is no limit. `name` is for whoever is refused.
    #[must_use]
    pub fn new(name: &'static str, count: u32, period: Duration) -> Self {
        Self(NonZeroU32::new(count).and_then(|burst| {
            let each = governor::Quota::with_period(period / count)?;
            let quota = Quota { name, amount: u64::from(count), unit: None, window: Some(period) };
            let policy = HeaderValue::try_from(policy(&quota)).ok()?;
            let limiter = RateLimiter::keyed(each.allow_burst(burst)).with_middleware();
            Some(Inner { limiter, quota, policy, each: period / count })
        }))
    }

    /// Counts one try and tells what is left, if there is a limit; or says when the next is allowed.
    pub fn check(&self, key: &K) -> Result<Option<Left>> {
        let Some(Inner { limiter, quota, policy, each }) = &self.0 else { return Ok(None) };
        let state = limiter.check_key(key).map_err(|not_until| {
            metrics::counter!("bulkhead_rate_limited_total").increment(1);
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            Error::new(&codes::RATE_LIMITED).retry_after(wait.max(Duration::from_secs(1))).limited_by(*quota)
        })?;
        let amount = state.remaining_burst_capacity();
        let used = u32::try_from(quota.amount).unwrap_or(u32::MAX).saturating_sub(amount);
        Ok(Some(Left { name: quota.name, policy: policy.clone(), amount, whole_in: each.saturating_mul(used) }))
    }

    /// Forgets keys that are back at full; called now and then, or the table grows for ever.
    fn tidy(&self) {
        if let Some(Inner { limiter, .. }) = &self.0 {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}

/// By organization (or the deployment) and client address.
pub type ByAddress = Limit<(OrganizationId, String)>;

/// The limits of what somebody unknown can make us do; cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Table>);

/// One field a limit.
pub struct Table {
    /// Passwords tried.
    pub sign_in: ByAddress,
    /// Passwords tried by one address anywhere; the first part of the key is the deployment.
    pub sign_in_anywhere: ByAddress,
    /// Codes typed.
    pub code: ByAddress,
    /// Recoveries begun.
    pub recovery: ByAddress,
    /// Sign-ups begun.
    pub sign_up: ByAddress,
    /// Token requests.
    pub token: ByAddress,
    /// Calls of the API; the second part of the key is the caller.
    pub api: ByAddress,
    /// Mails to one mailbox; the second part of the key is the keyed hash of the address.
    pub mailbox: Limit<(OrganizationId, [u8; 32])>,
}

impl Limits {
    #[must_use]
    pub fn new(table: Table) -> Self {
        Self(Arc::new(table))
    }

    pub fn tidy(&self) {
        for limit in
            [&self.sign_in, &self.sign_in_anywhere, &self.code, &self.recovery, &self.sign_up, &self.token, &self.api]
        {
            limit.tidy();
        }
        self.mailbox.tidy();
    }
}

impl std::ops::Deref for Limits {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_does_not_use_up_the_other() {
        let limit = Limit::new("tries", 2, Duration::from_secs(60));
        assert!(limit.check(&"a").is_ok() && limit.check(&"a").is_ok());
        let refused = limit.check(&"a").unwrap_err();
        assert!(refused.is(&codes::RATE_LIMITED) && refused.retry().is_some());
        assert_eq!(refused.quota().map(|quota| (quota.name, quota.amount)), Some(("tries", 2)));
        assert!(limit.check(&"b").is_ok());
    }
}
