//! What waits when a process starts: everything where the store is new, and otherwise what the process before
//! could not ship.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Backups, Inner, Source};
use crate::base::time::length;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::catalog::{Entry, organizations};

/// When what could not be read is looked at again.
const AGAIN: Duration = length::minutes(1);

impl Backups {
    /// Marks what waits, without holding up the start.
    pub fn look_for_leftovers(&self) {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            while let Err(error) = look(&inner).await {
                tracing::warn!(?error, "not every organization could be looked at for writes that were not shipped");
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

async fn look(inner: &Arc<Inner>) -> Result<()> {
    if inner.is_complete()? {
        inner.dirty.mark(Source::Catalog);
        inner.dirty.mark(Source::Keyring);
        inner.databases.tenants.each_unfolded(|id| inner.dirty.mark(Source::Organization(id))).await?;
        // A new file has no WAL, and may not have been shipped before the process ended.
        let since = inner.clock.now().minus(length::days(1));
        each_made_since(inner, since, |id| inner.dirty.mark(Source::Organization(id))).await?;
        return inner.look_for_unplanned().await;
    }
    tracing::info!("the store of the backup is new: everything is shipped once");
    let mut all = vec![Source::Catalog, Source::Keyring];
    each_made_since(inner, Timestamp::from_millis(0), |id| all.push(Source::Organization(id))).await?;
    inner.first_time.lock().unwrap_or_else(PoisonError::into_inner).extend(all.iter().copied());
    for source in all {
        // What it may hold of an earlier time says nothing of what was written meanwhile.
        inner.states.take(source).state.lock().await.is_replaced = true;
        inner.dirty.mark(source);
    }
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        while !inner.first_time.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        match tokio::task::block_in_place(|| inner.completed()) {
            Ok(()) => tracing::info!("the store of the backup has everything"),
            Err(error) => tracing::warn!(?error, "that the backup is complete could not be written down"),
        }
    });
    Ok(())
}

impl Inner {
    /// One less to wait for.
    pub(super) fn shipped(&self, source: Source) {
        self.first_time.lock().unwrap_or_else(PoisonError::into_inner).remove(&source);
    }

    /// One that cannot be looked at now, because it is damaged, held, or its key cannot be had. The others need not wait
    /// for it as soon as its own mark says that nothing of it is there: this process may end before it is tried again.
    /// Blocking.
    pub(super) fn pass_over(&self, source: Source) {
        let Source::Organization(id) = source else { return };
        if !self.first_time.lock().unwrap_or_else(PoisonError::into_inner).contains(&source) {
            return;
        }
        let tenants = &self.databases.tenants;
        // A file on a volume that is away cannot be marked, and is not missing.
        match tenants.require_volume(id).and_then(|()| tenants.ship_whole(id)) {
            Ok(()) => self.shipped(source),
            Err(error) => tracing::warn!(%source, ?error, "what cannot be shipped now could not be marked"),
        }
    }
}

async fn each_made_since(inner: &Inner, since: Timestamp, mut visit: impl FnMut(OrganizationId)) -> Result<()> {
    let visit_young = |entry: Entry| {
        if entry.created_at >= since {
            visit(entry.id);
        }
        Ok(())
    };
    inner.databases.catalog.scan(|db| organizations::each(db, visit_young)).await
}
