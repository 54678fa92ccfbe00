//! Making a file, whole or not at all, and clearing up after a crash in the middle.
//!
//! Order: names reserved in the catalog (`creating`), data key in the keyring, file put together in
//! `.building/`, moved into place in one rename, catalog row `active`. Whatever a crash leaves is either
//! complete from the rename on, or can be thrown away before it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use super::hold::failed;
use super::open_files::Tenants;
use super::path;
use crate::base::{OrganizationId, Result};
use crate::catalog::Claim;
use crate::crypto::Sealer;
use crate::keyring::OrganizationKeys;
use crate::sqlite::{TenantDb, Write, build, build_encrypted, bytes_of_new, sync_directory};

impl Tenants {
    /// Makes the file of a claimed organization; `fill` stamps and seeds it in its first transaction.
    pub async fn create<T>(
        &self,
        claim: &Claim,
        fill: impl FnOnce(&Write<'_, TenantDb>, &Sealer) -> Result<T>,
    ) -> Result<T> {
        self.create_as(claim, false, fill).await
    }

    /// The same; `encrypted`: as ciphertext from the first byte on, by a key of its own.
    pub async fn create_as<T>(
        &self,
        claim: &Claim,
        encrypted: bool,
        fill: impl FnOnce(&Write<'_, TenantDb>, &Sealer) -> Result<T>,
    ) -> Result<T> {
        let id = claim.id();
        let file_keys = if encrypted { Some(self.new_key(id).await?) } else { None };
        let keys = self.0.keyring.create(id).await?;
        let sealer = keys.sealer();
        tokio::task::block_in_place(|| {
            let workshop = path::building(&self.0.root, id);
            let place = path::directory(&self.0.root, id);
            fs::create_dir_all(&workshop).map_err(|error| failed("cannot make", &workshop, error))?;
            let now = self.0.clock.now();
            // By another name until it is whole: a litestream that looks through these folders opens every db.sqlite.
            let unfinished = workshop.join("new.sqlite");
            let fill = |db: &Write<'_, TenantDb>| fill(db, sealer);
            let value = match &file_keys {
                Some(keys) => build_encrypted::<TenantDb, T>(&unfinished, self.schema(), keys.newest()?, now, fill)?,
                None => build::<TenantDb, T>(&unfinished, &self.template()?, now, fill)?,
            };
            let finished = workshop.join("db.sqlite");
            fs::rename(&unfinished, &finished).map_err(|error| failed("cannot name", &finished, error))?;
            sync_directory(&workshop)?;
            let changed = make_shard(&self.0.root, &place)?;
            fs::rename(&workshop, &place).map_err(|error| failed("cannot place", &place, error))?;
            // All of them after the rename: a file system with a journal then writes it once.
            let settled = changed.into_iter().try_for_each(sync_directory).and_then(|()| self.wrote(id));
            if settled.is_err() {
                // It is this creation's own, which nobody else can know.
                let _ = fs::remove_dir_all(&place);
            }
            settled.map(|()| value)
        })
    }

    /// Whether the file of an organization that is still `creating` was completed before a crash.
    #[must_use]
    pub fn is_in_place(&self, id: OrganizationId) -> bool {
        path::file(&self.root_of(id), id).exists()
    }

    /// Throws away what a creation left that never came into place: its workshop and its key.
    pub async fn discard(&self, id: OrganizationId) -> Result<()> {
        // The workshop first: where the disk was too small for it, there is no room for anything else before it is gone.
        let workshop = path::building(&self.0.root, id);
        if workshop.exists() {
            fs::remove_dir_all(&workshop).map_err(|error| failed("cannot remove", &workshop, error))?;
        }
        self.0.keyring.destroy(id).await
    }

    /// An organization's keys, for a copy of its file.
    pub async fn keys(&self, id: OrganizationId) -> Result<Arc<OrganizationKeys>> {
        self.0.keyring.keys(id).await
    }

    /// Whether the keyring holds the key of an organization, for checks.
    pub async fn has_key(&self, id: OrganizationId) -> Result<bool> {
        self.0.keyring.holds(id).await
    }

    /// Makes `orgs/` and an empty workshop: what lies in it was interrupted, and nobody knows of it.
    pub(super) fn prepare_root(&self) -> Result<()> {
        let workshop = self.0.root.join(".building");
        if workshop.exists() {
            fs::remove_dir_all(&workshop).map_err(|error| failed("cannot clear", &workshop, error))?;
        }
        fs::create_dir_all(&workshop).map_err(|error| failed("cannot make", &workshop, error))
    }

    /// The bytes of an empty file, made at the first creation.
    fn template(&self) -> Result<Arc<Vec<u8>>> {
        let mut template = self.0.template.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = &*template {
            return Ok(Arc::clone(bytes));
        }
        let bytes = Arc::new(bytes_of_new::<TenantDb>(&self.0.root.join(".building"), self.schema())?);
        Ok(Arc::clone(template.insert(bytes)))
    }
}

/// Makes the directories above `place`; returns those in which something appears, the nearest first.
pub(super) fn make_shard<'a>(root: &'a Path, place: &'a Path) -> Result<Vec<&'a Path>> {
    let shard = place.parent().unwrap_or(place);
    let above = shard.parent().unwrap_or(root);
    let changed = match (shard.exists(), above.exists()) {
        (true, _) => vec![shard],
        (false, true) => vec![shard, above],
        (false, false) => vec![shard, above, root],
    };
    fs::create_dir_all(shard).map_err(|error| failed("cannot make", shard, error))?;
    Ok(changed)
}
