//! Rows that nobody can use any more leave an organization's file, at most once a day while it is open.

use crate::base::Result;
use crate::base::Timestamp;
use crate::base::time::length;
use crate::features::{oauth, session};
use crate::tenants::Tenant;

/// When this file was tidied last.
struct Tidied(Timestamp);

pub(super) async fn look(tenant: &Tenant) {
    let now = tenant.clock().now();
    if tenant.recall::<Tidied>().is_some_and(|tidied| now.since(tidied.0) < length::days(1)) {
        return;
    }
    tenant.remember(Tidied(now));
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
