//! F5. What happens without a request: delivery of outboxes, tidying, one organization at a time.
//!
//! Nothing here walks all organizations on a timer. A file calls for attention when it is opened and when
//! something was put into its outbox, and is looked after then.

mod delivery;
pub mod erasure;
pub mod keys;
mod tidy;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use crate::base::{OrganizationId, Result};
use crate::catalog::Directory;
use crate::features::TenantState;
use crate::outbound::Mailer;
use crate::tenants::{Occasion, Tenant, Tenants};

/// Files that are looked after at the same moment, so that one that takes long keeps no other waiting.
const AT_ONCE: usize = 4;

/// Files that called for attention. A call holds no file open.
pub type Calls = mpsc::UnboundedReceiver<(OrganizationId, Occasion)>;

/// What the jobs work with.
#[derive(Clone)]
pub struct Jobs {
    pub state: TenantState,
    pub directory: Directory,
    pub tenants: Tenants,
    pub mailer: Arc<Mailer>,
}

impl Jobs {
    /// An organization's file, opened if it is not.
    async fn open(&self, id: OrganizationId) -> Result<Tenant> {
        self.tenants.open(&self.directory.by_id(id).await?).await
    }
}

/// Starts them; they end with the runtime, or when the last sender of calls is gone.
pub fn start(jobs: Jobs, mut calls: Calls) {
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
        let looked = tidy::Looked::new();
        let courier = delivery::Courier::new(jobs.clone(), looked.clone());
        let hands = Arc::new(Semaphore::new(AT_ONCE));
        while let Some((id, occasion)) = calls.recv().await {
            if occasion == Occasion::Asked {
                courier.call(id);
                continue;
            }
            if !looked.is_due(id, jobs.state.clock.now()) {
                continue;
            }
            let (jobs, hands, looked, courier) = (jobs.clone(), Arc::clone(&hands), looked.clone(), courier.clone());
            tokio::spawn(async move {
                let Ok(_hand) = hands.acquire().await else { return };
                let Some(tenant) = jobs.tenants.if_open(id) else { return looked.forget(id) };
                courier.look(&tenant).await;
                tidy::look(&tenant).await;
            });
        }
    });
}
