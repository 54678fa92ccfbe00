//! Bringing files to the newest schema without a request asking for them, trying that on a copy, and going back.

use std::fs;
use std::path::{Path, PathBuf};

use super::gate::{last_word, newest_event};
use super::hold::{self, failed};
use super::open_files::{Tenants, require_stamp};
use super::{MIGRATIONS, path};
use crate::base::{Error, OrganizationId, Result, codes};
use crate::crypto::Crew;
use crate::keyring::FileStanding;
use crate::sqlite::{
    Aside, Backup, CAN_ENCRYPT, Read, TenantDb, Write, bring_forward, copy_file, kept_before, remove_wal, salt_in,
    sync_directory, unfolded,
};

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
    pub async fn migrate(&self, id: OrganizationId, crew: &Crew) -> Result<()> {
        self.require_open(id)?;
        let (is_held, handle) = {
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
        let file_key = self.unlock(id).await?;
        let tenants = self.clone();
        let migrate = move || {
            let (_handle, _file_key) = (handle, file_key);
            let (file, now) = (path::file(&tenants.root_of(id), id), tenants.0.clock.now());
            // It is asked whether it may be changed on the connection that would change it.
            bring_forward::<TenantDb>(&file, tenants.schema(), now, &tenants.backup_of(id), |db, version| {
                require_stamp(db, id)?;
                if version < tenants.schema_version() { tenants.heed_newest_event(id, db) } else { Ok(()) }
            })
        };
        crew.run(migrate).await?
    }

    /// The file to be opened for requests: the organization's own, but for one that takes no writes and is older than
    /// this program. That one stays as it is, and a copy that nobody else knows is brought to the newest schema; tells
    /// whether it is that one.
    pub(super) fn file_to_open(&self, id: OrganizationId) -> Result<(PathBuf, bool)> {
        let file = path::file(&self.root_of(id), id);
        self.heed_last_word(id, &file);
        if self.why_shut(id).is_none() {
            return Ok((file, false));
        }
        let version = Aside::<TenantDb>::open(&file, self.0.clock.now())?.version()?;
        if i64::from(version) >= self.schema_version() {
            return Ok((file, false));
        }
        let view = path::building(&self.0.root, id).with_extension("view");
        let failed = |error| failed("cannot use", &view, error);
        if view.exists() {
            fs::remove_dir_all(&view).map_err(failed)?;
        }
        fs::create_dir_all(&view).map_err(failed)?;
        let copy = view.join("db.sqlite");
        copy_file(&file, &copy)?;
        Ok((copy, true))
    }

    /// A file that is about to be brought to another schema is asked first whether it may be changed: a catalog that
    /// was lost or is older does not know. What cannot be read is found by whoever opens it next.
    fn heed_last_word(&self, id: OrganizationId, file: &Path) {
        if self.why_shut(id).is_some() {
            return;
        }
        // Not by a look at the header: closing a descriptor that SQLite knows nothing of drops the locks of whoever
        // migrates the file at this moment (fcntl(2), POSIX).
        if let Ok(aside) = Aside::<TenantDb>::open(file, self.0.clock.now()) {
            let _ = aside.read(|db| self.heed_newest_event(id, db));
        }
    }

    /// Refuses what the newest event of the file's own log says that nothing follows.
    fn heed_newest_event(&self, id: OrganizationId, db: &Read<'_, TenantDb>) -> Result<()> {
        if let (Some(shut), None) = (last_word(newest_event(db)?.as_deref()), self.why_shut(id)) {
            tracing::warn!(organization = %id, "its own log says that nothing follows: it takes no writes");
            self.shut(id, shut);
        }
        self.require_open(id)
    }

    /// The same on a copy, which is thrown away.
    pub async fn try_migration(&self, id: OrganizationId, crew: &Crew) -> Result<()> {
        let handle = self.0.handles.of(id);
        let file_key = self.unlock(id).await?;
        let tenants = self.clone();
        let tried = move || {
            let (_handle, _file_key) = (handle, file_key);
            let scratch = path::building(&tenants.0.root, id).with_extension("try");
            let failed = |error| failed("cannot use", &scratch, error);
            fs::create_dir_all(&scratch).map_err(failed)?;
            let copy = scratch.join("copy.sqlite");
            let now = tenants.0.clock.now();
            let stamped = |db: &Read<'_, TenantDb>, _| require_stamp(db, id);
            let tried = copy_file(&path::file(&tenants.root_of(id), id), &copy)
                .and_then(|()| bring_forward(&copy, tenants.schema(), now, &Backup::None, stamped));
            fs::remove_dir_all(&scratch).map_err(failed)?;
            tried
        };
        crew.run(tried).await?
    }

    /// Looks into the copy that [`Tenants::roll_back`] would put back, as it is.
    pub async fn look_at_kept<T>(
        &self,
        id: OrganizationId,
        look: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>,
    ) -> Result<T> {
        let keys = self.unlock(id).await?;
        let standing = self.standing_with(id, &keys).await?;
        tokio::task::block_in_place(|| {
            let (_, kept) = newest_kept(&path::file(&self.root_of(id), id))?;
            // It would not be opened in the file's place: what could have brought it under the file's key did not.
            let is_under = match (salt_in(&kept)?, standing) {
                (None, standing) => !matches!(standing, FileStanding::Ciphertext(_)),
                (Some(salt), _) => !CAN_ENCRYPT || keys.with(salt).is_some(),
            };
            if !is_under {
                return Err(Error::new(&codes::DATA_KEY_DESTROYED)
                    .detail("The copy from before is not under the key that this organization's file is under now."));
            }
            let aside = Aside::<TenantDb>::open(&kept, self.0.clock.now())?;
            let seen = aside.read(|db| {
                require_stamp(db, id)?;
                look(db)
            });
            drop(aside);
            // Reading it has made them, and nothing is in them.
            remove_wal(&kept).map_err(|error| failed("cannot remove the WAL of", &kept, error))?;
            seen
        })
    }

    /// Puts the copy that was kept before the newest destructive step back into the file's place; the file of now
    /// stays beside it. Returns the version that it has. What was written since is in that other file alone. `look`
    /// may refuse it, and then nothing is changed. What `since` finds in the file of now is done in the copy by `redo`
    /// before anybody sees it.
    pub async fn roll_back<T>(
        &self,
        id: OrganizationId,
        look: impl FnOnce(&Read<'_, TenantDb>) -> Result<()>,
        since: impl FnOnce(&Read<'_, TenantDb>) -> Result<Vec<T>>,
        redo: impl FnOnce(&Write<'_, TenantDb>, Vec<T>) -> Result<()>,
    ) -> Result<i64> {
        self.require_own_files()?;
        let held = self.hold(id).await?;
        self.look_at_kept(id, look).await?;
        let since = held.read(since).map_err(|error| {
            Error::new(&codes::ORGANIZATION_UNAVAILABLE)
                .detail("The file of now cannot be read, so it is not known who was erased since the copy was made.")
                .source(error)
        })?;
        tokio::task::block_in_place(|| {
            let (directory, file) = (held.directory(), held.file());
            let (version, kept) = newest_kept(&file)?;
            // Its frames are newer than the copy, and would be taken for its own.
            if unfolded(&file).unwrap_or(0) > 0 {
                return Err(Error::new(&codes::ORGANIZATION_BUSY).because("the WAL could not be folded"));
            }
            if !since.is_empty() {
                // It stays at the schema of its time.
                let known = usize::try_from(version).ok().and_then(|version| self.schema().get(..version));
                held.write_into(&kept, known.unwrap_or(self.schema()), |db| redo(db, since))?;
            }
            let aside = directory.join(format!("rolled-back-{}.sqlite", self.0.clock.now().millis()));
            fs::hard_link(&file, &aside).map_err(|error| failed("cannot keep", &file, error))?;
            let _ = remove_wal(&file);
            self.ship_whole(id)?;
            // One step: there is a file at every moment.
            fs::rename(&kept, &file).map_err(|error| failed("cannot place", &kept, error))?;
            sync_directory(&directory)?;
            Ok(version)
        })
    }
}

/// The copy that was kept before the newest destructive step, and the version that it has.
fn newest_kept(file: &Path) -> Result<(i64, PathBuf)> {
    kept_before(file)?.into_iter().next_back().ok_or_else(|| Error::new(&codes::NO_SNAPSHOT))
}
