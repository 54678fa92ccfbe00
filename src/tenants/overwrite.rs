//! Seeing to it that what was deleted in a file is gone from the disk: SQLite overwrites it in the pages
//! (`secure_delete`), and what was there before stands in the WAL until that is folded.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::sleep;

use super::open_files::Tenants;
use super::tenant::Tenant;
use crate::base::OrganizationId;

/// How often it is tried while somebody reads in the WAL, and the pause between two tries.
const TRIES: u32 = 60;
const PAUSE: Duration = Duration::from_millis(50);

type Folding = Pin<Box<dyn Future<Output = bool> + Send>>;
/// Folds the WAL of one organization; tells whether that is done.
pub type Fold = Box<dyn Fn(OrganizationId) -> Folding + Send + Sync>;

/// Whoever folds the WALs of files that are backed up; asked for one, it tells whether that is folded.
#[derive(Clone, Default)]
pub(super) struct Folder(Arc<OnceLock<Fold>>);

impl Tenants {
    /// From now on whoever wants a WAL folded at once asks there, since a backup has to read it first.
    pub fn overwrite_by(&self, fold: Fold) {
        let _ = self.0.folder.0.set(fold);
    }
}

impl Tenant {
    /// Overwrites what was deleted: in the file, and in its WAL. Tells whether nothing of it is left, for which it waits
    /// a few seconds at the most. What is left goes when whoever reads in the WAL has ended, be it a request or a backup.
    pub async fn overwrite(&self) -> bool {
        // One that takes no writes stays as it is, to the bit.
        if self.require_open().is_err() {
            return false;
        }
        if let Some(folder) = self.0.folder.0.get() {
            return folder(self.id()).await;
        }
        for _ in 0..TRIES {
            match self.fold_if_free().await {
                Ok(true) => return true,
                Ok(false) => sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(organization = %self.id(), ?error, "what was deleted is not overwritten yet");
                    return false;
                }
            }
        }
        false
    }
}
