//! Takes messages out of outboxes: after commit, at least once, again after a failure.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Jobs;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::features::outbox;
use crate::outbound::Message;
use crate::tenants::Tenant;

/// Deliveries at the same moment, over all organizations.
static AT_ONCE: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(8));

/// A delivery of this organization is running or planned: one is enough.
struct Planned;

/// Delivers what is due in a file, and plans what is not.
pub(super) async fn look(jobs: &Jobs, tenant: &Tenant) {
    match tenant.read(|db| Ok(outbox::waits(db)?.map(|at| (at, db.now())))).await {
        Ok(None) => {}
        Ok(Some((at, now))) if at <= now => {
            let (jobs, tenant) = (jobs.clone(), tenant.clone());
            tokio::spawn(async move {
                let Ok(_permit) = AT_ONCE.acquire().await else { return };
                if let Err(error) = deliver(&jobs, &tenant).await {
                    tracing::warn!(organization = %tenant.id(), ?error, "an outbox could not be emptied");
                }
                plan_next(&jobs, &tenant).await;
            });
        }
        Ok(Some((at, now))) => plan(jobs, tenant, at, now),
        Err(error) => tracing::warn!(organization = %tenant.id(), ?error, "an outbox could not be read"),
    }
}

async fn deliver(jobs: &Jobs, tenant: &Tenant) -> Result<()> {
    loop {
        let due = tenant.read(|db| outbox::due(db, tenant.sealer())).await?;
        if due.is_empty() {
            return Ok(());
        }
        for message in due {
            let mail = message.mail.clone();
            let out = Message { to: mail.to, subject: mail.subject, text: mail.text, code: mail.code };
            let outcome = jobs.mailer.deliver(&out).await;
            let label = if outcome.is_ok() { "delivered" } else { "failed" };
            metrics::counter!("bulkhead_deliveries_total", "outcome" => label).increment(1);
            if let Err(error) = &outcome {
                tracing::warn!(organization = %tenant.id(), message = %message.id, ?error, "a mail was not taken");
            }
            tenant
                .write(|db| match outcome {
                    Ok(()) => outbox::delivered(db, message.id),
                    Err(_) => outbox::failed(db, &message),
                })
                .await?;
        }
    }
}

async fn plan_next(jobs: &Jobs, tenant: &Tenant) {
    if let Ok(Some((at, now))) = tenant.read(|db| Ok(outbox::waits(db)?.map(|at| (at, db.now())))).await {
        plan(jobs, tenant, at, now);
    }
}

/// Waits without holding the file open, then finds it again.
fn plan(jobs: &Jobs, tenant: &Tenant, at: Timestamp, now: Timestamp) {
    if tenant.recall::<Planned>().is_some() {
        return;
    }
    tenant.remember(Planned);
    let (jobs, id, wait) = (jobs.clone(), tenant.id(), at.since(now).max(Duration::from_millis(100)));
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        if let Err(error) = wake(&jobs, id).await {
            tracing::warn!(organization = %id, ?error, "an outbox could not be looked at again");
        }
    });
}

async fn wake(jobs: &Jobs, id: OrganizationId) -> Result<()> {
    let tenant = jobs.tenants.open(&jobs.directory.by_id(id).await?).await?;
    tenant.forget::<Planned>();
    tenant.call_attention();
    Ok(())
}
