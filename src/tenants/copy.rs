//! Copies of organizations' files that nobody else knows.

use std::path::Path;

use super::open_files::{Tenants, check_stamp, require_stamp};
use crate::base::{Error, OrganizationId, Result, codes};
use crate::sqlite::{Aside, Backup, Database, Opening, Read, TenantDb, Write, is_damage, is_of_disk, remove_wal};

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
        self.open_copy(id, copy)?.first_read(work).map_err(|error| self.found_in_copy(id, error))
    }

    /// The same as it is, to the bit: it is not brought to another schema. Blocking.
    pub fn look_into_copy<T>(
        &self,
        id: OrganizationId,
        copy: &Path,
        work: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>,
    ) -> Result<T> {
        self.beside_copy(id, copy, |aside| aside.read(work))
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
        let written = tokio::runtime::Handle::current().block_on(database.write(work));
        let value = written.map_err(|error| self.found_in_copy(id, error))?;
        database.settle();
        drop(database);
        // Folded, so there is nothing in them.
        let _ = remove_wal(copy);
        Ok(value)
    }

    /// Refuses a private copy that is another organization's, or in which a page is not in order; `full` looks whether
    /// every index fits its table as well. The copy stays as it is. Blocking.
    pub fn require_whole_copy(&self, id: OrganizationId, copy: &Path, full: bool) -> Result<()> {
        let damage = self.beside_copy(id, copy, |aside| {
            let damage = aside.damage(full)?;
            // On damaged pages it means nothing whose they are.
            if damage.is_empty() { aside.read(|db| require_stamp(db, id)).map(|()| None) } else { Ok(Some(damage)) }
        })?;
        match damage {
            Some(damage) => Err(Error::new(&codes::BACKUP_DAMAGED).because(damage.join("; "))),
            None => Ok(()),
        }
    }

    /// Looks at a private copy, which stays as it is. Refuses what is no organization's file at all.
    fn beside_copy<T>(
        &self,
        id: OrganizationId,
        copy: &Path,
        work: impl FnOnce(&Aside<TenantDb>) -> Result<T>,
    ) -> Result<T> {
        let _file_keys = tokio::runtime::Handle::current().block_on(self.unlock_copies(id))?;
        let looked = Aside::<TenantDb>::open(copy, self.0.clock.now()).and_then(|aside| {
            aside.version()?;
            work(&aside)
        });
        // Looking at it has made them.
        let _ = remove_wal(copy);
        looked.map_err(|error| self.of_copy(id, error))
    }

    fn open_copy(&self, id: OrganizationId, copy: &Path) -> Result<Database<TenantDb>> {
        let opened = Database::<TenantDb>::open(Opening {
            path: copy,
            migrations: self.schema(),
            readers: 1,
            clock: self.0.clock.clone(),
            backup: Backup::None,
        });
        let checked = opened.and_then(|database| check_stamp(&database, id).map(|()| database));
        checked.map_err(|error| self.of_copy(id, error))
    }

    /// While it is worked with, only what SQLite says of its pages is the copy's own fault.
    fn found_in_copy(&self, id: OrganizationId, error: Error) -> Error {
        if is_damage(&error) { self.of_copy(id, error) } else { error }
    }

    /// It is not the organization's file that cannot be used, but what was taken for a copy of it.
    fn of_copy(&self, id: OrganizationId, error: Error) -> Error {
        let error = tokio::runtime::Handle::current().block_on(self.named(id, error));
        if is_of_disk(&error) && error.is(&codes::ORGANIZATION_UNAVAILABLE) {
            return Error::new(&codes::STORAGE_FAILED).because("a copy cannot be looked at here").source(error);
        }
        if !error.is(&codes::ORGANIZATION_UNAVAILABLE) {
            return error;
        }
        // What SQLite says is for the log.
        let why = error.cause().filter(|_| std::error::Error::source(&error).is_none());
        let why = why.unwrap_or_else(|| "it cannot be read".to_owned());
        Error::new(&codes::BACKUP_DAMAGED)
            .detail(format!("What the backup has for this point is not the organization's file: {why}."))
            .source(error)
    }
}
