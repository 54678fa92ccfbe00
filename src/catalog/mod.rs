//! F2. The one global directory: which host, slug or external id leads to which organization.
//!
//! It owns `catalog.sqlite` and the in-memory routing above it. It holds no personal data and cannot see
//! an organization's file: `tenants` imports this room, never the other way round. Features of the
//! deployment (applications, operators' keys, their log) keep their rows here through [`Catalog::read`]
//! and [`Catalog::write`].

pub mod care;
mod directory;
pub mod erasures;
pub mod freezes;
pub mod organizations;
pub mod placements;
pub mod rebuild;
pub mod transfers;

use std::path::Path;
use std::sync::Arc;

pub use directory::{Directory, TenantRoute};
pub use erasures::{Erasure, Stage};
pub use freezes::{Freeze, FreezeStage};
pub use organizations::{Claim, Entry, NewEntry, State};

use crate::base::{Clock, OrganizationId, Result};
use crate::crypto::{DataKey, Sealer};
use crate::sqlite::{Backup, CatalogDb, Database, Opening, Read, Still, Write, bytes_of_new};

const MIGRATIONS: &[&str] = &[
    include_str!("../../catalog/0001_initial.sql"),
    include_str!("../../catalog/0002_erasure.sql"),
    include_str!("../../catalog/0003_fleet.sql"),
    include_str!("../../catalog/0004_moving.sql"),
    include_str!("../../catalog/0005_waivers.sql"),
    include_str!("../../catalog/0006_encryption_of_arrivals.sql"),
];

/// The organizations that a private copy of a catalog names, such as one that came out of a backup. Blocking.
pub fn ids_in(copy: &Path) -> Result<Vec<OrganizationId>> {
    let (clock, backup) = (Clock::system(), Backup::None);
    let database =
        Database::<CatalogDb>::open(Opening { path: copy, migrations: MIGRATIONS, readers: 1, clock, backup })?;
    let mut ids = Vec::new();
    database.first_read(|db| {
        organizations::each(db, |entry| {
            ids.push(entry.id);
            Ok(())
        })
    })?;
    Ok(ids)
}

/// The open catalog; cheap to clone.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    database: Database<CatalogDb>,
    sealer: Sealer,
}

impl Catalog {
    /// Opens the catalog, making an empty one on first use. Blocking.
    pub fn open(directory: &Path, key: &DataKey, clock: Clock, backup: Backup) -> Result<Self> {
        let path = directory.join("catalog.sqlite");
        if !path.exists() {
            let bytes = bytes_of_new::<CatalogDb>(directory, MIGRATIONS)?;
            crate::sqlite::place_file(&path, &bytes)?;
        }
        let database = Database::open(Opening { path: &path, migrations: MIGRATIONS, readers: 4, clock, backup })?;
        Ok(Self(Arc::new(Inner { database, sealer: Sealer::new(OrganizationId::from_bits(0), key) })))
    }

    /// Short reads of one consistent state.
    pub async fn read<T>(&self, work: impl FnOnce(&Read<'_, CatalogDb>) -> Result<T>) -> Result<T> {
        self.0.database.read(work).await
    }

    /// Reads without a bound.
    pub async fn scan<T>(&self, work: impl FnOnce(&Read<'_, CatalogDb>) -> Result<T>) -> Result<T> {
        self.0.database.scan(work).await
    }

    /// One durable transaction.
    pub async fn write<T>(&self, work: impl FnOnce(&Write<'_, CatalogDb>) -> Result<T>) -> Result<T> {
        self.0.database.write(work).await
    }

    /// Works on the file between two of its transactions; for backups.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        self.0.database.still(work).await
    }

    /// What is wrong with the catalog's own file, or nothing.
    pub async fn quick_check(&self) -> Result<Vec<String>> {
        Ok(self.0.database.examine(false).await?.damage)
    }

    /// Seals what belongs to the deployment as a whole.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        &self.0.sealer
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.0.database.clock()
    }

    /// Folds the WAL back before the process ends.
    pub fn settle(&self) {
        self.0.database.settle();
    }
}
