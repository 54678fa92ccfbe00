//! F5. What happens without a request: delivery of outboxes, tidying, one organization at a time.
//!
//! Nothing here walks all organizations on a timer. A file calls for attention when it is opened and when
//! something was put into its outbox, and is looked after then.

mod delivery;
mod tidy;

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::catalog::Directory;
use crate::features::TenantState;
use crate::outbound::Mailer;
use crate::tenants::{Tenant, Tenants};

/// Files that called for attention.
pub type Calls = mpsc::UnboundedReceiver<Tenant>;

/// What the jobs work with.
#[derive(Clone)]
pub struct Jobs {
    pub state: TenantState,
    pub directory: Directory,
    pub tenants: Tenants,
    pub mailer: Arc<Mailer>,
}

/// Starts them; they end with the runtime, or when the last sender of calls is gone.
pub fn start(jobs: Jobs, mut calls: Calls) {
    let limits = jobs.state.limits.clone();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(std::time::Duration::from_secs(60));
        loop {
            every.tick().await;
            limits.tidy();
        }
    });
    tokio::spawn(async move {
        let tidied = tidy::Tidied::new();
        while let Some(tenant) = calls.recv().await {
            delivery::look(&jobs, &tenant).await;
            tidy::look(&tidied, &tenant).await;
        }
    });
}
