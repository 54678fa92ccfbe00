//! Files that a process left with something in their WAL.

use std::fs;
use std::path::{Path, PathBuf};

use super::open_files::Tenants;
use super::path;
use crate::base::{Error, OrganizationId, Result};
use crate::sqlite::has_unread;

impl Tenants {
    /// Calls `found` for each organization whose WAL is not empty, or was folded unread. It looks at every directory, one of the 256 at
    /// a time and others' work in between.
    pub async fn each_unfolded(&self, mut found: impl FnMut(OrganizationId)) -> Result<()> {
        let mut shards = Vec::new();
        for root in self.roots() {
            shards.extend(children(&root)?);
        }
        for shard in shards {
            tokio::task::yield_now().await;
            tokio::task::block_in_place(|| -> Result<()> {
                for directory in
                    children(&shard)?.iter().map(|inner| children(inner)).collect::<Result<Vec<_>>>()?.concat()
                {
                    if let Some(id) = path::owner(&directory)
                        && has_unread(&directory.join("db.sqlite"))?
                    {
                        found(id);
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The directories inside, but for the hidden workshop.
fn children(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::internal(format!("cannot list {}", directory.display())).source(error);
    let mut children = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_hidden && entry.file_type().map_err(failed)?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}
