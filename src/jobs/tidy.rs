//! Rows that nobody can use any more leave an organization's file, when it is opened and at most once a day.

use moka::sync::Cache;

use crate::base::time::length;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::features::{oauth, session};
use crate::tenants::Tenant;

/// When files were tidied last. It outlives their being open: a file that is closed and opened again all day
/// is tidied once.
pub(super) struct Tidied(Cache<OrganizationId, Timestamp>);

impl Tidied {
    pub fn new() -> Self {
        Self(Cache::new(100_000))
    }
}

pub(super) async fn look(tidied: &Tidied, tenant: &Tenant) {
    let now = tenant.clock().now();
    if tidied.0.get(&tenant.id()).is_some_and(|last| now.since(last) < length::days(1)) {
        return;
    }
    tidied.0.insert(tenant.id(), now);
    if let Err(error) = tidy(tenant).await {
        tracing::warn!(organization = %tenant.id(), ?error, "a file could not be tidied");
    }
}

async fn tidy(tenant: &Tenant) -> Result<()> {
    // Most files have nothing to tidy: look first, so that opening a file does not write to it.
    let due = tenant.read(|db| Ok(session::has_old(db)? || oauth::has_old(db)?)).await?;
    if due {
        tenant
            .write(|db| {
                session::forget_old(db)?;
                oauth::forget_old(db)
            })
            .await?;
    }
    Ok(())
}
