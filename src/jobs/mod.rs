//! F5. What happens without a request: delivery of outboxes, tidying, one organization at a time.
//!
//! Nothing here walks all organizations on a timer. A file calls for attention when something waits in its outbox and
//! when it was written, and is looked after then.

mod delivery;
pub mod erasure;
pub mod keys;
mod tidy;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::backup::Backups;
use crate::base::{Clock, OrganizationId, Result};
use crate::catalog::Directory;
use crate::features::TenantState;
use crate::outbound::Mailer;
use crate::tenants::{Occasion, Tenant, Tenants};

/// Files that are looked after at the same moment, so that one that takes long keeps no other waiting.
const AT_ONCE: usize = 4;

/// Files that called for attention. A call holds no file open.
pub struct Calls {
    /// How long to wait with a look into a file that was written; nothing where something waits in its outbox.
    calls: mpsc::UnboundedReceiver<(OrganizationId, Option<Duration>)>,
    looked: tidy::Looked,
}

/// What files call with, and whoever hears it. At shutdown nobody listens any more, and nothing is lost: what waits in
/// an outbox calls at the next open.
pub fn bell(clock: Clock) -> (impl Fn(OrganizationId, Occasion) + Send + Sync + 'static, Calls) {
    let (sender, calls) = mpsc::unbounded_channel();
    let looked = tidy::Looked::new();
    let known = looked.clone();
    let ring = move |id, occasion| {
        let wait = match occasion {
            Occasion::Asked => None,
            // A file that is written again and again wakes nobody.
            Occasion::Written => match known.due(id, clock.now()) {
                Some(wait) => Some(wait),
                None => return,
            },
        };
        let _ = sender.send((id, wait));
    };
    (ring, Calls { calls, looked })
}

/// What the jobs work with.
#[derive(Clone)]
pub struct Jobs {
    pub state: TenantState,
    pub directory: Directory,
    pub tenants: Tenants,
    pub mailer: Arc<Mailer>,
    pub backups: Option<Backups>,
}

impl Jobs {
    /// An organization's file, opened if it is not.
    async fn open(&self, id: OrganizationId) -> Result<Tenant> {
        self.tenants.open(&self.directory.by_id(id).await?).await
    }
}

/// Starts them; they end with the runtime, or when the last sender of calls is gone.
pub fn start(jobs: Jobs, calls: Calls) {
    let (limits, state, fairness) = (jobs.state.limits.clone(), jobs.state.clone(), jobs.tenants.fairness().clone());
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_secs(60));
        loop {
            every.tick().await;
            limits.tidy();
            fairness.tidy();
            tokio::task::block_in_place(|| state.exports.sweep(state.clock.now()));
        }
    });
    tokio::spawn(async move {
        let Calls { mut calls, looked } = calls;
        let courier = delivery::Courier::new(jobs.clone());
        let hands = Arc::new(Semaphore::new(AT_ONCE));
        while let Some((id, wait)) = calls.recv().await {
            let Some(wait) = wait else {
                courier.call(id);
                continue;
            };
            let (jobs, hands, looked) = (jobs.clone(), Arc::clone(&hands), looked.clone());
            tokio::spawn(async move {
                tokio::time::sleep(wait).await;
                let Ok(_hand) = hands.acquire().await else { return };
                let Some(tenant) = jobs.tenants.if_open(id) else { return looked.missed(id) };
                tidy::look(&tenant).await;
            });
        }
    });
}
