//! Takes messages out of outboxes: after commit, at least once, again after a failure.
//!
//! A file is open while something is read from it or written to it, and never while a mail server is waited
//! for: a slow one must not use up the files that may be open. Where writes wait for the store of the backup, so does
//! what they put here: nothing tells of what could be lost with this machine.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use super::Jobs;
use crate::backup::Source;
use crate::base::{OrganizationId, Replication, Result, Timestamp, codes};
use crate::features::outbox;
use crate::outbound::Message;
use crate::sqlite::{Read, TenantDb};

/// Deliveries at the same moment, over all organizations.
const AT_ONCE: usize = 8;
/// When an outbox is tried again whose file could not be opened because too many are in use.
const PAUSE: Duration = Duration::from_secs(5);
/// The same where the store of the backup has not confirmed what waits.
const UNCONFIRMED: Duration = Duration::from_secs(15);
/// When it is tried again in a file that stays open, after whatever else went wrong.
const LATER: Duration = Duration::from_secs(600);

/// Delivers for all organizations; cheap to clone.
#[derive(Clone)]
pub(super) struct Courier(Arc<Inner>);

struct Inner {
    jobs: Jobs,
    at_once: Semaphore,
    /// Organizations that are being delivered for, with a bell for what comes in meanwhile. One round at a
    /// time each, or a message would be sent twice.
    rounds: Mutex<HashMap<OrganizationId, watch::Sender<()>>>,
}

impl Courier {
    pub fn new(jobs: Jobs) -> Self {
        Self(Arc::new(Inner { jobs, at_once: Semaphore::new(AT_ONCE), rounds: Mutex::default() }))
    }

    /// Something waits in an organization's outbox.
    pub fn call(&self, id: OrganizationId) {
        let mut rounds = self.0.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bell) = rounds.get(&id) {
            bell.send_replace(());
            return;
        }
        let (bell, rung) = watch::channel(());
        rounds.insert(id, bell);
        tokio::spawn(self.clone().deliver_for(id, rung));
    }

    /// Delivers until the outbox is empty, waiting for what is not due yet.
    async fn deliver_for(self, id: OrganizationId, mut rung: watch::Receiver<()>) {
        loop {
            rung.mark_unchanged();
            let next = match self.round(id).await {
                Ok(next) => next,
                Err(error) => {
                    tracing::warn!(organization = %id, ?error, "an outbox could not be emptied");
                    // What waits in a file that was closed is found when it is opened again.
                    let stays = !error.is_of_a_shut_file() && self.0.jobs.tenants.if_open(id).is_some();
                    match () {
                        () if error.is(&codes::ORGANIZATION_BUSY) => Some(PAUSE),
                        () if error.is(&codes::WRITE_NOT_REPLICATED) => Some(UNCONFIRMED),
                        () => stays.then_some(LATER),
                    }
                }
            };
            if next == Some(Duration::ZERO) {
                continue;
            }
            if let Some(wait) = next {
                let _ = tokio::time::timeout(wait.max(Duration::from_millis(100)), rung.changed()).await;
                continue;
            }
            let mut rounds = self.0.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            if !rung.has_changed().unwrap_or(false) {
                rounds.remove(&id);
                return;
            }
        }
    }

    /// Sends some of what is due; tells how long it is until the next is, which may be no time at all. Whoever has
    /// many messages queues up again after a few, behind the other organizations that wait.
    async fn round(&self, id: OrganizationId) -> Result<Option<Duration>> {
        let mut permit = self.0.at_once.acquire().await;
        let jobs = &self.0.jobs;
        let mut tenant = jobs.open(id).await?;
        // What goes out could not be crossed off, and would go out again.
        tenant.require_open()?;
        tenant.require_store()?;
        let mut due = tenant.read(|db| outbox::due(db, tenant.sealer())).await?;
        if tenant.replication() == Replication::Object
            && let Some(backups) = jobs.backups.as_ref().filter(|_| !due.is_empty())
        {
            // Others deliver meanwhile.
            drop((permit, tenant));
            backups.confirm(&[Source::Organization(id)]).await?;
            permit = self.0.at_once.acquire().await;
            tenant = jobs.open(id).await?;
            let still_due = tenant.read(|db| outbox::due(db, tenant.sealer())).await?;
            // What came since is not at the store, and whatever was taken out is not to be sent.
            due.retain(|known| still_due.iter().any(|now| now.id == known.id));
            if due.is_empty() {
                return Ok(Some(Duration::ZERO));
            }
        }
        if due.is_empty() {
            let next = tenant.read(next_due).await?.map(|(at, now)| at.since(now));
            return Ok(next.map(|wait| wait.max(Duration::from_millis(1))));
        }
        drop(tenant);
        let _permit = permit;
        for message in due {
            let mail = message.mail.clone();
            let out = Message { to: mail.to, subject: mail.subject, text: mail.text, code: mail.code };
            let outcome = jobs.mailer.deliver(&out).await;
            let label = if outcome.is_ok() { "delivered" } else { "failed" };
            metrics::counter!("bulkhead_deliveries_total", "outcome" => label).increment(1);
            if let Err(error) = &outcome {
                tracing::warn!(organization = %id, message = %message.id, ?error, "a mail was not taken");
            }
            let settle = |db: &crate::sqlite::Write<'_, TenantDb>| match outcome {
                Ok(()) => outbox::delivered(db, message.id),
                Err(_) => outbox::failed(db, &message),
            };
            // What has gone out must not go out again because nothing more may be written.
            jobs.open(id).await?.write_beyond(settle).await?;
        }
        Ok(Some(Duration::ZERO))
    }
}

/// When the next message is due, and what time it is.
fn next_due(db: &Read<'_, TenantDb>) -> Result<Option<(Timestamp, Timestamp)>> {
    Ok(outbox::waits(db)?.map(|at| (at, db.now())))
}
