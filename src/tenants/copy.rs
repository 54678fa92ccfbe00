//! Copies of organizations' files that nobody else knows.

use std::path::Path;

use super::open_files::{Tenants, check_stamp};
use crate::base::{OrganizationId, Result};
use crate::sqlite::{Backup, Database, Opening, Read, TenantDb, Write, remove_wal};

impl Tenants {
    /// Reads a private copy, such as one that came out of a backup. It is brought to today's schema first, and
    /// refused if it is another organization's. Blocking.
    pub fn read_copy<T>(
        &self,
        id: OrganizationId,
        copy: &Path,
        work: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>,
    ) -> Result<T> {
        let _file_keys = tokio::runtime::Handle::current().block_on(self.unlock_copies(id))?;
        self.open_copy(id, copy)?.first_read(work)
    }

    /// Changes a private copy in one transaction, and leaves it as one file. Blocking.
    pub fn write_copy<T>(
        &self,
        id: OrganizationId,
        copy: &Path,
        work: impl FnOnce(&Write<'_, TenantDb>) -> Result<T>,
    ) -> Result<T> {
        let _file_keys = tokio::runtime::Handle::current().block_on(self.unlock_copies(id))?;
        let database = self.open_copy(id, copy)?;
        let value = tokio::runtime::Handle::current().block_on(database.write(work))?;
        database.settle();
        drop(database);
        // Folded, so there is nothing in them.
        let _ = remove_wal(copy);
        Ok(value)
    }

    fn open_copy(&self, id: OrganizationId, copy: &Path) -> Result<Database<TenantDb>> {
        let database = Database::<TenantDb>::open(Opening {
            path: copy,
            migrations: self.schema(),
            readers: 1,
            clock: self.0.clock.clone(),
            backup: Backup::None,
        })?;
        check_stamp(&database, id)?;
        Ok(database)
    }
}
