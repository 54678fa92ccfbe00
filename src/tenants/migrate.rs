//! Bringing files to the newest schema without a request asking for them, trying that on a copy, and going back.

use std::fs;
use std::path::{Path, PathBuf};

use super::hold;
use super::open_files::{Tenants, check_stamp};
use super::{MIGRATIONS, path};
use crate::base::{Error, OrganizationId, Result, codes};
use crate::sqlite::{Backup, Database, Opening, TenantDb, copy_file, kept_before, sync_directory};

impl Tenants {
    /// The schema that this process knows, oldest step first.
    #[must_use]
    pub fn schema(&self) -> &'static [&'static str] {
        self.0.schema.get().copied().unwrap_or(MIGRATIONS)
    }

    /// The version that new organizations have.
    #[must_use]
    pub fn schema_version(&self) -> i64 {
        i64::try_from(self.schema().len()).unwrap_or(0)
    }

    /// Another schema than the product's, for tests of migrations. To be called before the first file is opened.
    pub fn use_schema(&self, schema: &'static [&'static str]) {
        let _ = self.0.schema.set(schema);
    }

    /// Brings an organization's file to the newest schema, if it is older. It takes no place of those that requests
    /// wait for. A request may open the file meanwhile: each step is one transaction, and is taken once.
    pub async fn migrate(&self, id: OrganizationId) -> Result<()> {
        let (is_held, _handle) = {
            let files = self.files();
            (files.held.contains(&id), self.0.handles.of(id))
        };
        if is_held {
            return Err(hold::refusal());
        }
        // An open file has been migrated.
        if self.if_open(id).is_some() {
            return Ok(());
        }
        tokio::task::block_in_place(|| {
            let database = self.open_aside(id, &path::file(&self.0.root, id), self.backup_of(id))?;
            match self.backup_of(id) {
                // Whoever ships the WAL folds it.
                Backup::Wal(written) => written(),
                Backup::None => database.fold_now().unwrap_or_else(|error| {
                    tracing::debug!(organization = %id, ?error, "the WAL of a migration is folded later");
                }),
            }
            Ok(())
        })
    }

    /// The same on a copy, which is thrown away.
    pub async fn try_migration(&self, id: OrganizationId) -> Result<()> {
        let _handle = self.0.handles.of(id);
        tokio::task::block_in_place(|| {
            let scratch = path::building(&self.0.root, id).with_extension("try");
            let failed = |error| failed("cannot use", &scratch, error);
            fs::create_dir_all(&scratch).map_err(failed)?;
            let copy = scratch.join("db.sqlite");
            let tried = copy_file(&path::file(&self.0.root, id), &copy)
                .and_then(|()| self.open_aside(id, &copy, Backup::None).map(drop));
            fs::remove_dir_all(&scratch).map_err(failed)?;
            tried
        })
    }

    /// Puts the copy that was kept before the newest destructive step back into the file's place; the file of now
    /// stays beside it. Returns the version that it has. What was written since is in that other file alone.
    pub async fn roll_back(&self, id: OrganizationId) -> Result<i64> {
        let held = self.hold(id).await?;
        tokio::task::block_in_place(|| {
            let (directory, file) = (held.directory(), held.file());
            let nothing = || Error::new(&codes::NO_SNAPSHOT);
            let (version, kept) = kept_before(&file)?.into_iter().next_back().ok_or_else(nothing)?;
            let aside = directory.join(format!("rolled-back-{}.sqlite", self.0.clock.now().millis()));
            let wal = PathBuf::from(format!("{}-wal", file.display()));
            // Its frames are newer than the copy, and would be taken for its own.
            if fs::metadata(&wal).is_ok_and(|wal| wal.len() > 0) {
                return Err(Error::new(&codes::ORGANIZATION_BUSY).because("the WAL could not be folded"));
            }
            fs::hard_link(&file, &aside).map_err(|error| failed("cannot keep", &file, error))?;
            for suffix in ["-wal", "-shm"] {
                let _ = fs::remove_file(format!("{}{suffix}", file.display()));
            }
            // One step: there is a file at every moment.
            fs::rename(&kept, &file).map_err(|error| failed("cannot place", &kept, error))?;
            sync_directory(&directory)?;
            Ok(version)
        })
    }

    fn open_aside(&self, id: OrganizationId, file: &Path, backup: Backup) -> Result<Database<TenantDb>> {
        let database = Database::<TenantDb>::open(Opening {
            path: file,
            migrations: self.schema(),
            readers: 1,
            clock: self.0.clock.clone(),
            backup,
        })?;
        check_stamp(&database, id)?;
        Ok(database)
    }
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("{what} {}", path.display())).source(error)
}
