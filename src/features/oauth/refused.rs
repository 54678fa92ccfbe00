//! What was refused to applications, in the organization's log: enough to see an attack, and no more than so
//! much, because whoever sends rubbish to the token endpoint must not fill the disk with it.

use std::sync::{Mutex, PoisonError};

use super::{Grant, act_on};
use crate::base::{Result, Timestamp};
use crate::features::application::Application;
use crate::features::audit::{self, Act, By, Target};
use crate::tenants::Tenant;

/// Refusals that are written down for one organization in a minute; the next one that is written afterwards
/// says how many were left out.
const PER_MINUTE: u32 = 30;
const MINUTE_MILLIS: i64 = 60_000;

/// Why a code or a refresh token is no good. The application is told nothing of it (RFC 6749 section 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing of the kind is known: forged, another organization's, or forgotten.
    Unknown,
    OtherApplication,
    OtherIssuer,
    Expired,
    Reused,
    /// The redirect address or the code verifier is another.
    ProofMismatch,
    /// The grant was taken back, the session has ended, or the member has no access any more.
    Ended,
}

impl Why {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OtherApplication => "other_application",
            Self::OtherIssuer => "other_issuer",
            Self::Expired => "expired",
            Self::Reused => "reused",
            Self::ProofMismatch => "proof_mismatch",
            Self::Ended => "ended",
        }
    }
}

/// A code or a refresh token that was refused.
#[derive(Debug)]
pub struct Refused {
    pub why: Why,
    /// What it once belonged to, if that is known.
    pub grant: Option<Box<Grant>>,
}

impl Refused {
    pub(super) const fn unknown() -> Self {
        Self { why: Why::Unknown, grant: None }
    }

    pub(super) fn of(grant: Grant, why: Why) -> Self {
        Self { why, grant: Some(Box::new(grant)) }
    }

    /// As an event; `action` is what was tried.
    #[must_use]
    pub fn act(&self, action: &'static str) -> Act {
        let act = Act::failed(action).with("reason", self.why.as_str());
        self.grant.iter().fold(act, |act, grant| act_on(act, grant))
    }
}

/// Somebody who says to be this application and could not prove it.
#[must_use]
pub fn impostor(application: &Application) -> Act {
    let target = Target::new("application", application.id).named(application.name.clone());
    Act::failed("application.authentication_failed").on(target)
}

/// Writes a refusal down, unless there were too many. It changes no answer: where it fails, the log of the
/// process says so.
pub async fn note(tenant: &Tenant, act: Act, by: &By) {
    if let Err(error) = try_note(tenant, act, by).await {
        tracing::warn!(organization = %tenant.id(), ?error, "a refusal could not be written down");
    }
}

async fn try_note(tenant: &Tenant, act: Act, by: &By) -> Result<()> {
    let noted = tenant.recall::<Noted>().unwrap_or_else(|| tenant.remember(Noted::default()));
    let Some(left_out) = noted.take(tenant.clock().now()) else {
        metrics::counter!("bulkhead_refusals_not_recorded_total").increment(1);
        return Ok(());
    };
    let act = if left_out > 0 { act.with("not_recorded", left_out) } else { act };
    tenant.write(|db| audit::record(db, by, act).map(drop)).await
}

/// How much has been written down, remembered while the file is open.
#[derive(Default)]
struct Noted(Mutex<Count>);

#[derive(Default)]
struct Count {
    minute: i64,
    written: u32,
    left_out: u32,
}

impl Noted {
    /// Whether one more may be written, and how many were left out since the last.
    fn take(&self, now: Timestamp) -> Option<u32> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.millis() / MINUTE_MILLIS;
        if count.minute != minute {
            (count.minute, count.written) = (minute, 0);
        }
        if count.written == PER_MINUTE {
            count.left_out = count.left_out.saturating_add(1);
            return None;
        }
        count.written += 1;
        Some(std::mem::take(&mut count.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_so_much_a_minute_and_its_number() {
        let noted = Noted::default();
        let at = |second: i64| Timestamp::from_seconds(1_764_000_000 + second);
        let taken = (0..100).filter_map(|n| noted.take(at(n / 2))).collect::<Vec<_>>();
        assert_eq!(taken, [0; PER_MINUTE as usize]);
        assert_eq!(noted.take(at(60)), Some(70));
        assert_eq!(noted.take(at(61)), Some(0));
    }
}
