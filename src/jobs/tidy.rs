//! Rows that nobody can use any more leave an organization's file, when something is written to it and at most once a
//! day. A file that nobody writes to gets no more of them.

use std::time::Duration;

use moka::sync::Cache;

use crate::base::time::length;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::features::{oauth, session};
use crate::tenants::Tenant;

/// When files were looked at last. It outlives their being open: a file that is closed and opened again all day
/// is looked at once.
#[derive(Clone)]
pub(super) struct Looked(Cache<OrganizationId, Timestamp>);

/// How long after it was written a file is looked at: whoever wrote it is answered first.
const AFTER: Duration = Duration::from_millis(20);
/// Stands for a look that came to nothing, because the file was closed before it.
const MISSED: Timestamp = Timestamp::from_millis(i64::MIN);

impl Looked {
    pub fn new() -> Self {
        Self(Cache::new(1_000_000))
    }

    /// How long to wait with the next look, where it is time for one; then it is noted that somebody looks.
    pub fn due(&self, id: OrganizationId, now: Timestamp) -> Option<Duration> {
        let last = self.0.get(&id);
        if last.is_some_and(|last| last != MISSED && now.since(last) < length::days(1)) {
            return None;
        }
        self.0.insert(id, now);
        // One that is never open for long is looked at while it is.
        Some(if last == Some(MISSED) { Duration::ZERO } else { AFTER })
    }

    /// It was closed before anybody looked: look as soon as it is written the next time.
    pub fn missed(&self, id: OrganizationId) {
        self.0.insert(id, MISSED);
    }
}

pub(super) async fn look(tenant: &Tenant) {
    if let Err(error) = tidy(tenant).await {
        tracing::warn!(organization = %tenant.id(), ?error, "a file could not be tidied");
    }
}

async fn tidy(tenant: &Tenant) -> Result<()> {
    if tenant.require_open().is_err() {
        return Ok(());
    }
    // Where there is nothing to tidy, this leaves nothing in the WAL.
    tenant
        .write_beyond(|db| {
            session::forget_old(db)?;
            oauth::forget_old(db)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_never_open_for_long_is_looked_at_all_the_same() {
        let (looked, id) = (Looked::new(), OrganizationId::from_bits(1));
        let at = |hours: u64| Timestamp::from_seconds(1_000_000_000).plus(length::hours(hours));
        assert_eq!(looked.due(id, at(0)), Some(AFTER));
        looked.missed(id);
        assert_eq!(looked.due(id, at(0)), Some(Duration::ZERO));
        // Once a day, where it was looked at.
        assert_eq!(looked.due(id, at(23)), None);
        assert_eq!(looked.due(id, at(24)), Some(AFTER));
    }
}
