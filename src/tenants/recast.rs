//! An organization's file written anew, under another key or under none: beside it while everybody goes on, then in its
//! place in one step, if nothing was written since.
//!
//! Which of the two files is there, the file itself says by its first bytes, and both are right until the keyring says
//! otherwise ([`crate::keyring::FileStanding`]): a crash anywhere leaves one of them, and it opens.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::gate::Shut;
use super::hold::{Held, failed, files_below};
use super::open_files::{Tenants, check_stamp};
use super::path;
use super::relocate::remove;
use super::tenant::Tenant;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::keyring::FileStanding;
use crate::sqlite::{
    Backup, Database, Opening, TenantDb, Unlocked, Write, mark_unread, recast, remove_wal, require_room, salt_in,
    sync_directory, unfolded,
};

const NEW: &str = "new.sqlite";
/// What belongs to the database itself: written anew with it, or gone with its WAL.
const OWN: [&str; 4] = ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm", "db.sqlite-unread"];
/// Copies that are kept beside it and may take its place: from before a step of the schema, and from before that was
/// taken back.
const KEPT: [&str; 2] = ["before-", "rolled-back-"];

/// A file that was written anew and is not in its place yet.
pub struct Recast {
    tenants: Tenants,
    tenant: Tenant,
    new: New,
    commits: Arc<AtomicU64>,
    /// What was counted before the file was read; nothing if others may have written to it by other handles.
    counted: Option<u64>,
}

/// The file beside the one that it is to replace.
struct New {
    directory: PathBuf,
    /// Where the other one was when this was begun.
    place: PathBuf,
}

/// The same with nobody at the file that it replaces, into which nothing was written since.
pub struct Ready {
    held: Held,
    new: New,
}

impl Tenants {
    /// Refuses what the disk has no room for; tells how large the file is, and what is free.
    pub fn require_room_for_recast(&self, id: OrganizationId) -> Result<u64> {
        let file = path::file(&self.root_of(id), id);
        let bytes = self.bytes(id).unwrap_or(0);
        // Each page of ciphertext keeps a part of itself, and what is written meanwhile grows it as well.
        require_room(&file, bytes + bytes / 8 + (1 << 20))?;
        Ok(bytes)
    }

    /// Writes the file anew as it is now, under this version of its key or under none, while everybody goes on.
    pub async fn recast(&self, tenant: Tenant, target: Option<u32>) -> Result<Recast> {
        let id = tenant.id();
        let keys = self.unlock(id).await?;
        let commits = tenant.0.database.commit_counter();
        // In this order: what is counted is in what is read.
        let is_alone = self.0.handles.count(id) == 1;
        let counted = is_alone.then(|| commits.load(Ordering::SeqCst));
        let place = path::directory(&self.root_of(id), id);
        let new = New { directory: self.recast_workshop(id), place };
        tokio::task::block_in_place(|| {
            remove(&new.directory)?;
            fs::create_dir_all(&new.directory).map_err(|error| failed("cannot make", &new.directory, error))?;
            let key = target.map(|version| keys.of(version)).transpose()?;
            recast::<TenantDb>(tenant.0.database.path(), &new.file(), key, self.0.clock.now())
        })?;
        Ok(Recast { tenants: self.clone(), tenant, new, commits, counted })
    }

    /// How many bytes of a file that is written anew are there.
    #[must_use]
    pub fn recast_bytes(&self, id: OrganizationId) -> u64 {
        fs::metadata(self.recast_workshop(id).join(NEW)).map_or(0, |found| found.len())
    }

    /// Throws away what was written beside the file.
    pub fn discard_recast(&self, id: OrganizationId) -> Result<()> {
        tokio::task::block_in_place(|| remove(&self.recast_workshop(id)))
    }

    /// From now on writes are refused for a moment, unless they are already for another reason.
    pub fn shut_for_recast(&self, id: OrganizationId) -> Result<()> {
        self.0.gates.shut_if_open(id, Shut::Rewriting)
    }

    /// They are taken again.
    pub fn reopen_after_recast(&self, id: OrganizationId) {
        self.0.gates.open_if(id, &Shut::Rewriting);
    }

    /// Files in the organization's directory that are not under the key that its file is under, by their names:
    /// whoever has looked at a damaged one, or keeps it, decides about it.
    pub async fn under_other_keys(&self, id: OrganizationId) -> Result<Vec<String>> {
        let place = path::directory(&self.root_of(id), id);
        let keys = self.unlock_if_possible(id).await;
        let own = match self.file_keys_known(id).await?.standing {
            FileStanding::Plain => None,
            FileStanding::Ciphertext(version) => Some(version),
            FileStanding::Either(_) => return Ok(Vec::new()),
        };
        tokio::task::block_in_place(|| {
            // What cannot be read may hold anything.
            let is_other =
                |file: &Path| !salt_in(file).is_ok_and(|salt| salt.map(|salt| keys.with(salt)) == own.map(Some));
            let found = files_below(&place)?.into_iter();
            let found = found.filter(|(name, path)| !OWN.contains(&name.as_str()) && is_other(path));
            Ok(found.map(|(name, _)| name).collect())
        })
    }

    /// Tells of a copy whether it is under the key that the file is under, or plain as it is.
    pub async fn tells_own(&self, id: OrganizationId) -> Result<impl Fn(&Path) -> Result<bool> + use<>> {
        let keys = self.unlock(id).await?;
        let own = match self.file_keys_known(id).await?.standing {
            FileStanding::Plain => None,
            FileStanding::Ciphertext(version) => Some(version),
            FileStanding::Either(_) => return Err(Error::new(&codes::FILE_CHANGE_RUNNING)),
        };
        Ok(move |copy: &Path| Ok(salt_in(copy)?.map(|salt| keys.with(salt)) == own.map(Some)))
    }

    /// Whether copies are kept beside the file that may take its place.
    pub fn has_kept_copies(&self, id: OrganizationId) -> Result<bool> {
        let place = path::directory(&self.root_of(id), id);
        let found = tokio::task::block_in_place(|| files_below(&place))?;
        Ok(found.iter().any(|(name, _)| KEPT.iter().any(|kept| name.starts_with(kept))))
    }

    fn recast_workshop(&self, id: OrganizationId) -> PathBuf {
        path::building(&self.root_of(id), id).with_extension("recast")
    }
}

impl New {
    fn file(&self) -> PathBuf {
        self.directory.join(NEW)
    }
}

impl Recast {
    /// Has the file that is to be replaced for oneself. Nothing if something was written to it since it was read: then
    /// it is to be read again.
    pub async fn hold(self) -> Result<Option<Ready>> {
        let Self { tenants, tenant, new, commits, counted } = self;
        let (held, was_current) = tenants.hold_after(tenant).await?;
        let is_same = was_current && counted == Some(commits.load(Ordering::SeqCst));
        // It may have gone to another volume meanwhile.
        Ok((is_same && held.directory() == new.place).then_some(Ready { held, new }))
    }
}

impl Ready {
    #[must_use]
    pub const fn held(&self) -> &Held {
        &self.held
    }

    /// Writes what is to be the last of the new file, and puts it in the place of the other one, of which nothing is
    /// left then: neither a WAL nor a name. What a backup reads next of it is the whole.
    pub fn put(self, last: impl FnOnce(&Write<'_, TenantDb>) -> Result<()>) -> Result<Held> {
        let Self { held, new } = self;
        // What is in the WAL is in the new file; it must not be taken for that one's.
        held.fold_whole()?;
        let (from, to) = (new.file(), held.file());
        tokio::task::block_in_place(|| {
            held.write_into(&from, held.tenants.schema(), last)?;
            if matches!(held.tenants.backup_of(held.id), Backup::Wal(_) | Backup::Later) {
                mark_unread(&to)?;
            }
            fs::rename(&from, &to).map_err(|error| failed("cannot place", &to, error))?;
            sync_directory(&held.directory())?;
            remove(&new.directory)
        })?;
        Ok(held)
    }
}

impl Held {
    /// Whether the file is under this version of its key, or under none. One that is under a key that cannot be had
    /// tells nothing.
    pub fn is_under(&self, target: Option<u32>) -> Result<bool> {
        let file = self.file();
        let Some(salt) = tokio::task::block_in_place(|| salt_in(&file))? else { return Ok(target.is_none()) };
        let unknown = || Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("the key of its file cannot be had");
        let version = self.file_keys.with(salt).ok_or_else(unknown)?;
        Ok(target == Some(version))
    }

    /// Brings the copies that are kept beside the file, and may take its place, under the same key. One that cannot be
    /// read stays as it is.
    pub async fn recast_kept(&self, target: Option<u32>) -> Result<()> {
        let keys = self.tenants.unlock_copies(self.id).await?;
        let key = target.map(|version| keys.of(version)).transpose()?;
        tokio::task::block_in_place(|| {
            for (name, path) in files_below(&self.directory())? {
                // One that a crash has left unfinished.
                if name.ends_with(".making") {
                    fs::remove_file(&path).map_err(|error| failed("cannot remove", &path, error))?;
                }
                let is_kept = KEPT.iter().any(|kept| name.starts_with(kept)) && name.ends_with(".sqlite");
                if is_kept && let Err(error) = self.recast_one(&path, key) {
                    tracing::warn!(organization = %self.id, name, ?error, "a kept copy stays under the key of before");
                }
            }
            sync_directory(&self.directory())
        })
    }

    fn recast_one(&self, path: &Path, key: Option<&Unlocked>) -> Result<()> {
        if salt_in(path)? == key.map(Unlocked::salt) {
            return Ok(());
        }
        let again = path.with_extension("making");
        recast::<TenantDb>(path, &again, key, self.tenants.0.clock.now())?;
        // Reading it has made them, and they are not the new one's.
        remove_wal(path).map_err(|error| failed("cannot remove the WAL of", path, error))?;
        fs::rename(&again, path).map_err(|error| failed("cannot replace", path, error))
    }

    /// Removes files from the organization's directory, by what [`Tenants::under_other_keys`] calls them.
    pub fn remove_others(&self, names: &[String]) -> Result<()> {
        let directory = self.directory();
        tokio::task::block_in_place(|| {
            for path in names.iter().map(|name| directory.join(name)) {
                fs::remove_file(&path).map_err(|error| failed("cannot remove", &path, error))?;
                // Gone as well once it is empty.
                if let Some(parent) = path.parent().filter(|parent| *parent != directory) {
                    let _ = fs::remove_dir(parent);
                }
            }
            sync_directory(&directory)
        })
    }

    /// One transaction in a file that is nobody's yet, which is one file and on the disk afterwards.
    pub(super) fn write_into(
        &self,
        file: &Path,
        migrations: &[&'static str],
        work: impl FnOnce(&Write<'_, TenantDb>) -> Result<()>,
    ) -> Result<()> {
        let database = Database::<TenantDb>::open(Opening {
            path: file,
            migrations,
            readers: 1,
            clock: self.tenants.0.clock.clone(),
            backup: Backup::None,
        })?;
        check_stamp(&database, self.id)?;
        tokio::runtime::Handle::current().block_on(database.write(work))?;
        database.settle();
        drop(database);
        if unfolded(file)? > 0 {
            return Err(Error::new(&codes::STORAGE_FAILED).because("what was written last is not in the new file"));
        }
        remove_wal(file).map_err(|error| failed("cannot remove the WAL of", file, error))?;
        File::open(file).and_then(|file| file.sync_all()).map_err(|error| failed("cannot sync", file, error))
    }
}
