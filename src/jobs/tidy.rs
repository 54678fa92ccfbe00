//! Rows that nobody can use any more leave an organization's file, when it is opened and at most once a day.

use moka::sync::Cache;

use crate::base::time::length;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::features::{oauth, session};
use crate::tenants::Tenant;

/// When files were looked at last. It outlives their being open: a file that is closed and opened again all day
/// is looked at once, since whatever this process puts into it later calls for attention by itself.
#[derive(Clone)]
pub(super) struct Looked(Cache<OrganizationId, Timestamp>);

impl Looked {
    pub fn new() -> Self {
        Self(Cache::new(1_000_000))
    }

    /// Whether it is time to look again; if so, it is noted that somebody does.
    pub fn is_due(&self, id: OrganizationId, now: Timestamp) -> bool {
        if self.0.get(&id).is_some_and(|last| now.since(last) < length::days(1)) {
            return false;
        }
        self.0.insert(id, now);
        true
    }

    /// Something was left undone: look when the file is opened the next time.
    pub fn forget(&self, id: OrganizationId) {
        self.0.invalidate(&id);
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
    // Most files have nothing to tidy: look first, so that opening a file does not write to it.
    let due = tenant.read(|db| Ok(session::has_old(db)? || oauth::has_old(db)?)).await?;
    if due {
        tenant
            .write_beyond(|db| {
                session::forget_old(db)?;
                oauth::forget_old(db)
            })
            .await?;
    }
    Ok(())
}
