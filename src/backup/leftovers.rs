//! What waits when a process starts: everything where the store is new, and otherwise what the process before
//! could not ship.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Backups, Inner, Source};
use crate::base::time::length;
use crate::base::{OrganizationId, Result, Timestamp};
use crate::catalog::{Entry, organizations};
use crate::sqlite::place_file;

/// Which store has everything; in the data directory.
#[derive(Serialize, Deserialize)]
struct Complete {
    location: String,
}

impl Backups {
    /// Marks what waits, without holding up the start. `location` is the store's.
    pub fn look_for_leftovers(&self, location: &str) {
        let (inner, location) = (Arc::clone(&self.0), location.to_owned());
        tokio::spawn(async move {
            if let Err(error) = look(&inner, &location).await {
                tracing::warn!(?error, "not every organization could be looked at for writes that were not shipped");
            }
        });
    }

    /// Forgets that the store has everything; for a start without a backup, after which it has not.
    pub fn is_interrupted(data_dir: &std::path::Path) {
        let _ = std::fs::remove_file(data_dir.join(MARK));
    }
}

const MARK: &str = "backup.json";

async fn look(inner: &Arc<Inner>, location: &str) -> Result<()> {
    if is_complete(inner, location) {
        inner.dirty.mark(Source::Catalog);
        inner.dirty.mark(Source::Keyring);
        inner.databases.tenants.each_unfolded(|id| inner.dirty.mark(Source::Organization(id))).await?;
        // A new file has no WAL, and may not have been shipped before the process ended.
        let since = inner.clock.now().minus(length::days(1));
        return each_made_since(inner, since, |id| inner.dirty.mark(Source::Organization(id))).await;
    }
    tracing::info!(location, "the store of the backup is new: everything is shipped once");
    let mut all = vec![Source::Catalog, Source::Keyring];
    each_made_since(inner, Timestamp::from_millis(0), |id| all.push(Source::Organization(id))).await?;
    inner.first_time.lock().unwrap_or_else(PoisonError::into_inner).extend(all.iter().copied());
    for source in all {
        // What it may hold of an earlier time says nothing of what was written meanwhile.
        let state = inner.state(source);
        state.lock().await.is_replaced = true;
        inner.dirty.mark(source);
    }
    let (inner, location) = (Arc::clone(inner), location.to_owned());
    tokio::spawn(async move {
        while !inner.first_time.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        match serde_json::to_vec(&Complete { location }).map_err(std::io::Error::other) {
            Ok(bytes) => match tokio::task::block_in_place(|| place_file(&mark(&inner), &bytes)) {
                Ok(()) => tracing::info!("the store of the backup has everything"),
                Err(error) => tracing::warn!(?error, "that the backup is complete could not be written down"),
            },
            Err(error) => tracing::warn!(%error, "that the backup is complete could not be written down"),
        }
    });
    Ok(())
}

impl Inner {
    /// One less to wait for.
    pub(super) fn shipped(&self, source: Source) {
        self.first_time.lock().unwrap_or_else(PoisonError::into_inner).remove(&source);
    }
}

fn is_complete(inner: &Inner, location: &str) -> bool {
    let read = std::fs::read(mark(inner)).ok();
    let complete: Option<Complete> = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    complete.is_some_and(|complete| complete.location == location)
}

fn mark(inner: &Inner) -> PathBuf {
    inner.scratch.join(MARK)
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
