//! Having one organization's file for oneself: nobody is given it, those who work with it may end that, and then
//! it is closed. For what replaces, moves or removes files.

use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::encryption::Keys;
use super::gate::Shut;
use super::look::{Depth, Look, look_at};
use super::open_files::{Tenants, check_stamp, require_stamp, stamp_in};
use super::path;
use super::tenant::Tenant;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::crypto::hash;
use crate::keyring::WrappedKey;
use crate::sqlite::{
    Aside, CAN_ENCRYPT, Database, Opening, Read, TenantDb, Write, beside, is_of_file, remove_wal, sync_directory,
    unfolded,
};

/// How long those who work with the file may go on.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same where newcomers wait: shorter than they do, so that none of them is turned away.
const STILL: Duration = Duration::from_secs(4);
/// How often it is looked whether they have ended.
const LOOK: Duration = Duration::from_millis(2);
/// When whoever was refused may try again.
const COME_BACK: Duration = Duration::from_secs(1);

/// What whoever wants the file is told meanwhile.
pub(super) fn refusal() -> Error {
    Error::new(&codes::ORGANIZATION_UNAVAILABLE)
        .because("its file is held: it is being restored, moved or removed")
        .retry_after(COME_BACK)
}

/// How many handles there are to each file that is open, those included that nobody else is given any more.
#[derive(Clone, Default)]
pub(super) struct Handles(Arc<(Mutex<HashMap<OrganizationId, Count>>, Condvar)>);

#[derive(Default)]
struct Count {
    handles: usize,
    /// Its only handle reads it with a descriptor that SQLite knows nothing of.
    is_alone: bool,
}

impl Handles {
    /// Counts one more, until what is returned is dropped. Blocks for as long as somebody is [`Alone`] with it.
    pub fn of(&self, id: OrganizationId) -> Handle {
        let counts = self.counts();
        let busy = |counts: &mut HashMap<OrganizationId, Count>| counts.get(&id).is_some_and(|count| count.is_alone);
        let mut counts = self.0.1.wait_while(counts, busy).unwrap_or_else(PoisonError::into_inner);
        counts.entry(id).or_default().handles += 1;
        Handle { handles: self.clone(), id }
    }

    /// For the holder of the only handle: nobody gets another one while what is returned exists, which is to be short.
    pub fn alone(&self, id: OrganizationId) -> Option<Alone<'_>> {
        let mut counts = self.counts();
        let count = counts.get_mut(&id).filter(|count| count.handles == 1 && !count.is_alone)?;
        count.is_alone = true;
        Some(Alone(self, id))
    }

    fn none_of(&self, id: OrganizationId) -> bool {
        !self.counts().contains_key(&id)
    }

    /// How many there are now.
    pub fn count(&self, id: OrganizationId) -> usize {
        self.counts().get(&id).map_or(0, |count| count.handles)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<OrganizationId, Count>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While this exists, there is no second handle.
pub(super) struct Alone<'a>(&'a Handles, OrganizationId);

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0.counts().get_mut(&self.1) {
            count.is_alone = false;
        }
        self.0.0.1.notify_all();
    }
}

/// One open file.
pub(super) struct Handle {
    handles: Handles,
    id: OrganizationId,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut counts = self.handles.counts();
        if let Some(count) = counts.get_mut(&self.id) {
            count.handles -= 1;
            if count.handles == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

/// One organization's file, closed and nobody else's. It can be opened again when this is dropped.
pub struct Held {
    pub(super) tenants: Tenants,
    pub(super) id: OrganizationId,
    /// Where the whole file is ciphertext, and its keys could be had: it can be opened.
    pub(super) file_keys: Keys,
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeptFile {
    /// Its path inside the organization's directory.
    pub name: String,
    pub bytes: u64,
    /// In hexadecimal.
    pub sha256: String,
}

impl Tenants {
    /// Keeps everybody from the organization's file, waits until nobody works with it any more, and closes it, its
    /// WAL folded. Who comes meanwhile is refused. Only one can hold it, and nobody waits longer than half a minute.
    pub async fn hold(&self, id: OrganizationId) -> Result<Held> {
        // Whoever holds a file this way replaces or removes it. One that has moved away may be removed.
        if let Some(shut @ (Shut::Frozen | Shut::Leaving)) = self.0.gates.of(id) {
            return Err(shut.refusal());
        }
        self.hold_within(id, false, PATIENCE, None).await.map(|(held, _)| held)
    }

    /// The same for whoever leaves what the file says as it is, also where it takes no writes: who comes meanwhile
    /// waits, a few seconds at the most.
    pub async fn hold_still(&self, id: OrganizationId) -> Result<Held> {
        self.hold_within(id, true, STILL, None).await.map(|(held, _)| held)
    }

    /// The same for whoever has the file open: nobody else is given it between their use and this. Tells whether
    /// theirs was what everybody was given.
    pub(super) async fn hold_after(&self, tenant: Tenant) -> Result<(Held, bool)> {
        self.hold_within(tenant.id(), true, STILL, Some(tenant)).await
    }

    async fn hold_within(
        &self,
        id: OrganizationId,
        patient: bool,
        patience: Duration,
        after: Option<Tenant>,
    ) -> Result<(Held, bool)> {
        let was_current = {
            let mut files = self.files();
            if !files.held.insert(id) {
                return Err(refusal());
            }
            if patient {
                files.patient.insert(id);
            }
            let current = files.slots.peek(&id).and_then(|slot| slot.get());
            after.as_ref().zip(current).is_some_and(|(own, current)| Arc::ptr_eq(&own.0, &current.0))
        };
        // From here on a failure lets the file go again.
        let mut held = Held { tenants: self.clone(), id, file_keys: Keys::default() };
        tokio::task::block_in_place(|| drop(after));
        let deadline = Instant::now() + patience;
        while !self.is_closed(id) {
            if Instant::now() > deadline {
                return Err(Error::new(&codes::ORGANIZATION_BUSY)
                    .because("somebody works with its file and does not end")
                    .retry_after(COME_BACK));
            }
            sleep(LOOK).await;
        }
        held.file_keys = self.unlock_if_possible(id).await;
        tokio::task::block_in_place(|| held.fold());
        Ok((held, was_current))
    }

    /// Closes the file if nobody uses it; tells whether it is closed.
    fn is_closed(&self, id: OrganizationId) -> bool {
        let idle = {
            let mut files = self.files();
            // A slot that others have as well is being opened, or is about to be used.
            let is_free = files.slots.peek(&id).is_some_and(|slot| Arc::strong_count(slot) == 1);
            if is_free { files.slots.pop(&id) } else { None }
        };
        tokio::task::block_in_place(|| drop(idle));
        self.files().slots.peek(&id).is_none() && self.0.handles.none_of(id)
    }

    /// The organization's data key as the keyring keeps it, for a look before it is destroyed.
    pub async fn wrapped_key(&self, id: OrganizationId) -> Result<Option<WrappedKey>> {
        self.0.keyring.wrapped(id).await
    }

    /// The files in the organization's directory with their sizes, in order. Nothing is read.
    pub fn sizes(&self, id: OrganizationId) -> Result<Vec<(String, u64)>> {
        let directory = path::directory(&self.root_of(id), id);
        let found = tokio::task::block_in_place(|| files_below(&directory))?;
        Ok(found.into_iter().map(|(name, path)| (name, fs::metadata(path).map_or(0, |found| found.len()))).collect())
    }

    /// Whether there is a directory of the organization, with or without a file in it.
    #[must_use]
    pub fn has_directory(&self, id: OrganizationId) -> bool {
        path::directory(&self.root_of(id), id).exists()
    }

    /// The same on any volume, whatever the catalog says. One that cannot be looked at is there. Blocking.
    #[must_use]
    pub fn is_anywhere(&self, id: OrganizationId) -> bool {
        self.roots().iter().any(|root| path::directory(root, id).try_exists().unwrap_or(true))
    }
}

/// What is to be thought of a file.
#[derive(Debug)]
pub enum Condition {
    Sound,
    /// Missing, another one's, or damaged anywhere.
    Damaged,
    /// The disk does not give all of it: perhaps it does the next time, perhaps never again.
    Withheld(Error),
}

impl Held {
    #[must_use]
    pub const fn organization(&self) -> OrganizationId {
        self.id
    }

    /// The organization's own directory. It may be replaced as a whole.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        path::directory(&self.tenants.root_of(self.id), self.id)
    }

    /// The database in it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        path::file(&self.tenants.root_of(self.id), self.id)
    }

    /// Reads what is in the file, as far as it can be read. Refuses another organization's.
    pub fn read<T>(&self, work: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>) -> Result<T> {
        let (file, now) = (self.file(), self.tenants.0.clock.now());
        let own = |db: &Read<'_, TenantDb>| require_stamp(db, self.id).and_then(|()| work(db));
        tokio::task::block_in_place(|| Aside::<TenantDb>::open(&file, now)?.read(own))
    }

    /// Whether the file is this organization's and every page and index of it is in order. One that opens may still
    /// be damaged where nobody has looked yet.
    pub fn is_sound(&self) -> Result<bool> {
        let (file, now) = (self.file(), self.tenants.0.clock.now());
        let newest = self.tenants.schema_version();
        let look = tokio::task::block_in_place(|| look_at(&file, Depth::Full, now, newest))?;
        Ok(matches!(look, Look::Seen(seen) if seen.names.id == self.id && seen.examination.damage.is_empty()))
    }

    /// Whether the file is missing, another one's, or damaged anywhere. Fails where that cannot be told now, such as while
    /// its key cannot be had, its volume is away or the disk does not give it; a file that is too new for this program is
    /// none of it.
    pub async fn is_damaged(&self) -> Result<bool> {
        match self.condition().await? {
            Condition::Sound => Ok(false),
            Condition::Damaged => Ok(true),
            Condition::Withheld(error) => Err(error),
        }
    }

    /// The same, for whoever would take a file that the disk does not give for a damaged one.
    pub async fn condition(&self) -> Result<Condition> {
        self.tenants.require_volume(self.id)?;
        let _keys = self.tenants.unlock(self.id).await?;
        if !CAN_ENCRYPT && self.tenants.is_encrypted(self.id).await? {
            return Err(Error::new(&codes::ORGANIZATION_ENCRYPTED));
        }
        tokio::task::block_in_place(|| {
            let file = self.file();
            if !file.try_exists().map_err(|error| failed("cannot look at", &file, error))? {
                return Ok(Condition::Damaged);
            }
            if !self.looks_damaged()? {
                return Ok(Condition::Sound);
            }
            // To SQLite, a page that the disk does not give is one that is malformed. So the disk is asked, and then
            // SQLite once more, since it may have been so for a moment.
            for file in [&file, &beside(&file, "-wal")] {
                match fs::File::open(file).and_then(|mut file| io::copy(&mut file, &mut io::sink())) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Ok(Condition::Withheld(failed("cannot read", file, error)));
                    }
                    _ => {}
                }
            }
            Ok(if self.looks_damaged()? { Condition::Damaged } else { Condition::Sound })
        })
    }

    /// Whether it reads like that.
    fn looks_damaged(&self) -> Result<bool> {
        let looked = Aside::<TenantDb>::open(&self.file(), self.tenants.0.clock.now()).and_then(|aside| {
            aside.version()?;
            Ok(!aside.examine(true)?.damage.is_empty() || aside.read(stamp_in)? != Some(self.id))
        });
        match looked {
            Err(error) if is_of_file(&error) => Ok(true),
            looked => looked,
        }
    }

    /// Every file in the directory, with its digest.
    pub fn files(&self) -> Result<Vec<KeptFile>> {
        let with_digest = |(name, path): (String, PathBuf)| {
            let digest = fs::File::open(&path).and_then(hash::sha256_of);
            let (sha256, bytes) = digest.map_err(|error| failed("cannot read", &path, error))?;
            Ok(KeptFile { name, bytes, sha256: hex::encode(sha256) })
        };
        tokio::task::block_in_place(|| files_below(&self.directory())?.into_iter().map(with_digest).collect())
    }

    /// One transaction, also where the file takes no writes from anybody else. Of an older schema it is brought to
    /// the newest first.
    pub fn write<T>(&self, work: impl FnOnce(&Write<'_, TenantDb>) -> Result<T>) -> Result<T> {
        tokio::task::block_in_place(|| {
            let database = self.open()?;
            tokio::runtime::Handle::current().block_on(database.write(work))
        })
    }

    /// Sees to it that the database is one file: what is in the WAL is in it, and there is no WAL.
    pub fn fold_whole(&self) -> Result<()> {
        let file = self.file();
        tokio::task::block_in_place(|| {
            if unfolded(&file)? > 0 {
                self.open()?.fold_now()?;
            }
            // What is in it would be lost with it.
            if unfolded(&file)? > 0 {
                return Err(Error::new(&codes::ORGANIZATION_BUSY)
                    .because("its WAL is read by another program")
                    .retry_after(COME_BACK));
            }
            // Both are made anew by whoever opens it next.
            remove_wal(&file).map_err(|error| failed("cannot remove the WAL of", &file, error))
        })
    }

    /// Digest and size of the database's file, which is folded first.
    pub fn digest(&self) -> Result<KeptFile> {
        self.fold_whole()?;
        let file = self.file();
        tokio::task::block_in_place(|| {
            let digest = fs::File::open(&file).and_then(hash::sha256_of);
            let (sha256, bytes) = digest.map_err(|error| failed("cannot read", &file, error))?;
            Ok(KeptFile { name: "db.sqlite".to_owned(), bytes, sha256: hex::encode(sha256) })
        })
    }

    /// Copies the database's file, byte for byte, to where nothing is.
    pub fn copy_to(&self, to: &Path) -> Result<()> {
        self.fold_whole()?;
        let file = self.file();
        tokio::task::block_in_place(|| {
            fs::copy(&file, to).map(drop).map_err(|error| failed("cannot copy", &file, error))
        })
    }

    fn open(&self) -> Result<Database<TenantDb>> {
        let database = Database::<TenantDb>::open(Opening {
            path: &self.file(),
            migrations: self.tenants.schema(),
            readers: 1,
            clock: self.tenants.0.clock.clone(),
            // What a backup has not read yet is marked by this one as well.
            backup: self.tenants.backup_of(self.id),
        })?;
        check_stamp(&database, self.id)?;
        Ok(database)
    }

    /// Destroys the organization's data key. Whatever it has sealed is unreadable from here on, in every copy.
    pub async fn destroy_key(&self) -> Result<()> {
        self.tenants.0.keyring.destroy(self.id).await
    }

    /// Removes the directory and everything in it, so that a power cut does not bring it back.
    pub fn remove_directory(&self) -> Result<()> {
        let directory = self.directory();
        tokio::task::block_in_place(|| {
            match fs::remove_dir_all(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed("cannot remove", &directory, error)),
            }
            // An earlier try may have removed it without getting to this.
            match directory.parent() {
                Some(shard) if shard.exists() => sync_directory(shard),
                _ => Ok(()),
            }
        })
    }

    /// What a process that is gone has left in the WAL. A file that cannot be opened stays as it is.
    fn fold(&self) {
        let file = self.file();
        if unfolded(&file).unwrap_or(0) == 0 || !file.exists() {
            return;
        }
        if let Err(error) = self.open().and_then(|database| database.fold_now()) {
            tracing::warn!(organization = %self.id, ?error, "the WAL of a file could not be folded");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let was_patient = {
            let mut files = self.tenants.files();
            files.held.remove(&self.id);
            files.patient.remove(&self.id)
        };
        if was_patient {
            self.tenants.0.let_go.notify_waiters();
        }
    }
}

/// The files below a directory, by their names inside it, in order; none if there is no directory.
pub(super) fn files_below(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let (mut found, mut waiting) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(current) = waiting.pop() {
        let listed = match fs::read_dir(&current) {
            Ok(listed) => listed,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("cannot list", &current, error)),
        };
        for entry in listed {
            let entry = entry.map_err(|error| failed("cannot list", &current, error))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(path);
            } else if let Ok(name) = path.strip_prefix(directory) {
                found.push((name.display().to_string(), path));
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> Error {
    Error::of_disk(&codes::ORGANIZATION_UNAVAILABLE, format!("{what} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_alone_with_a_file_stays_alone_and_the_next_one_waits() {
        let (handles, id) = (Handles::default(), OrganizationId::from_bits(1));
        assert!(handles.alone(id).is_none(), "nobody has it");
        let first = handles.of(id);
        let alone = handles.alone(id).unwrap();
        assert!(handles.alone(id).is_none());
        // Another file is no matter of this one.
        drop(handles.of(OrganizationId::from_bits(2)));
        let next = {
            let handles = handles.clone();
            std::thread::spawn(move || handles.of(id))
        };
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(handles.count(id), 1);
        drop(alone);
        let next = next.join().unwrap();
        assert!(handles.alone(id).is_none(), "there are two");
        drop((first, next));
        assert!(handles.none_of(id));
    }
}
