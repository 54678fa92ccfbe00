//! One open organization.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

use crate::base::{Clock, OrganizationId, Result};
use crate::crypto::Sealer;
use crate::fairness::Account;
use crate::keyring::OrganizationKeys;
use crate::sqlite::{Compacted, Database, Private, Read, Still, TenantDb, Write, is_damage};

use super::awaited::Awaited;
use super::encryption::Keys;
use super::gate::Gates;
use super::hold::Handle;
use super::open_files::{Attention, Faults, Occasion};
use super::overwrite::Folder;

/// A handle to one organization's file. There is no public constructor; while a clone of it exists,
/// the file stays open.
#[derive(Clone)]
pub struct Tenant(pub(super) Arc<Open>);

pub(super) struct Open {
    pub id: OrganizationId,
    pub database: Database<TenantDb>,
    /// Whether it takes writes.
    pub gates: Gates,
    /// Whether it is a copy of the file, which takes no writes and is older than this program.
    pub is_view: bool,
    pub awaited: Awaited,
    /// Whoever folds its WAL for a backup.
    pub folder: Folder,
    /// What it takes of what all share; kept at least as long as the file is open.
    pub account: Arc<Account>,
    pub keys: Arc<OrganizationKeys>,
    pub faults: Faults,
    pub attention: Attention,
    /// What features remember about this file while it is open; gone with it, and never shared.
    pub memory: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    /// Damage was met: nobody else gets this handle.
    pub faulty: AtomicBool,
    /// Whether the whole file is ciphertext, and what opens it then.
    pub is_ciphertext: bool,
    pub _file_keys: Keys,
    /// Counted until everything above is closed.
    pub _handle: Handle,
    /// Given back when everything above is closed.
    pub place: OwnedSemaphorePermit,
}

impl Open {
    /// Closes the file; what is left of it is its place. Blocking.
    pub fn close(self) -> OwnedSemaphorePermit {
        let Self { database, place, .. } = self;
        drop(database);
        place
    }
}

impl Tenant {
    #[must_use]
    pub fn id(&self) -> OrganizationId {
        self.0.id
    }

    /// Short reads of one consistent state.
    pub async fn read<T>(&self, work: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>) -> Result<T> {
        self.watched(self.0.database.read(work).await)
    }

    /// Reads without a bound, such as a whole audit log.
    pub async fn scan<T>(&self, work: impl FnOnce(&Read<'_, TenantDb>) -> Result<T>) -> Result<T> {
        self.watched(self.0.database.scan(work).await)
    }

    /// One durable transaction: on disk when this returns `Ok`, undone on `Err`.
    pub async fn write<T>(&self, work: impl FnOnce(&Write<'_, TenantDb>) -> Result<T>) -> Result<T> {
        self.require_open()?;
        self.0.awaited.require_store()?;
        self.written(self.0.database.write(work).await)
    }

    /// Works on the file between two of its transactions; for backups.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        // What a backup reads is the file itself, and nothing has changed in that.
        if self.0.is_view {
            self.require_open()?;
        }
        self.watched(self.0.database.still(work).await)
    }

    pub(super) async fn fold_if_free(&self) -> Result<bool> {
        self.watched(self.0.database.fold_if_free().await)
    }

    /// The same where the organization's data takes up as much as it may, or it has written as much as it may: for
    /// what ends, revokes or deletes something, which always works.
    pub async fn write_beyond<T>(&self, work: impl FnOnce(&Write<'_, TenantDb>) -> Result<T>) -> Result<T> {
        self.require_open()?;
        self.0.awaited.require_store()?;
        self.written(self.0.database.write_beyond(work).await)
    }

    /// Gives back what deleted rows have left in the file. Readers go on, writers wait.
    pub async fn compact(&self) -> Result<Compacted> {
        self.require_open()?;
        self.watched(self.0.database.compact().await)
    }

    /// What the file may grow to, in bytes, from the next write on; 0 is no bound.
    pub fn bound(&self, max_bytes: u64) {
        self.0.database.bound(backstop(max_bytes));
    }

    /// Counts the writes. What was read after this number was seen is still so while the number is the same.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.0.database.commits()
    }

    /// Seals this organization's secrets; another organization's sealer cannot open them.
    #[must_use]
    pub fn sealer(&self) -> &Sealer {
        self.0.keys.sealer()
    }

    #[must_use]
    pub fn clock(&self) -> &Clock {
        self.0.database.clock()
    }

    /// What is wrong with the file, or nothing.
    pub async fn quick_check(&self) -> Result<Vec<String>> {
        self.watched(self.0.database.examine(false).await.map(|found| found.damage))
    }

    /// A copy of the file as it is at this moment, which nobody else knows of; nobody waits for it. `None` if it is
    /// larger than `most` bytes; a large one lies at `scratch`, which must not exist.
    pub async fn private_copy(&self, scratch: &std::path::Path, most: u64) -> Result<Option<Private<TenantDb>>> {
        self.watched(self.0.database.private_copy(scratch, most).await)
    }

    /// What a feature has remembered with [`Tenant::remember`], one value a type.
    #[must_use]
    pub fn recall<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.get(&TypeId::of::<T>()).cloned().and_then(|value| value.downcast().ok())
    }

    /// Remembers a value for as long as the file stays open.
    pub fn remember<T: Any + Send + Sync>(&self, value: T) -> Arc<T> {
        let value = Arc::new(value);
        let mut memory = self.0.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert(TypeId::of::<T>(), Arc::clone(&value) as _);
        value
    }

    /// Forgets it, because the file has changed.
    pub fn forget<T: Any>(&self) {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(&TypeId::of::<T>());
    }

    /// Something in the outbox waits for delivery; call it after the commit that put it there.
    pub fn call_attention(&self) {
        (self.0.attention)(self.0.id, Occasion::Asked);
    }

    /// Refuses where nothing may be written: before anything is done elsewhere that a write is to follow.
    pub fn require_open(&self) -> Result<()> {
        self.0.gates.require_open(self.0.id)
    }

    /// The same where writes wait for a store, and there is none.
    pub fn require_store(&self) -> Result<()> {
        self.0.awaited.require_store()
    }

    fn written<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_ok() {
            (self.0.attention)(self.0.id, Occasion::Written);
        }
        self.watched(result)
    }

    pub(super) fn is_faulty(&self) -> bool {
        self.0.faulty.load(Ordering::Acquire)
    }

    /// Damage found while the file is in use makes it unavailable for the next requests as well.
    fn watched<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && is_damage(error)
        {
            self.0.faults.record(self.0.id, error);
            self.0.faulty.store(true, Ordering::Release);
        }
        result
    }
}

/// Where a file that may take up `max_bytes` grows no further. What adds data on purpose is refused at the limit
/// itself; signing in and its traces go on a little longer.
pub(super) fn backstop(max_bytes: u64) -> Option<u64> {
    (max_bytes > 0).then(|| max_bytes.saturating_add((max_bytes / 4).max(1 << 20)))
}

impl fmt::Debug for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tenant({})", self.0.id)
    }
}
