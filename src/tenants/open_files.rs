//! The open files: found on demand, opened once at a time, bounded, evicted least recently used first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moka::sync::Cache;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::tenant::{Open, Tenant};
use super::{MIGRATIONS, path};
use crate::base::{Clock, Error, OrganizationId, Result, codes};
use crate::catalog::TenantRoute;
use crate::crypto::Sealer;
use crate::keyring::Keyring;
use crate::sqlite::{Database, Opening, TenantDb};

/// A connection with the whole schema parsed, its page cache and the shared memory of the WAL.
const BYTES_PER_CONNECTION: u64 = 300 << 10;
/// How long a broken file is not tried again.
const FAULT_FOR: Duration = Duration::from_secs(5);
/// How long a request waits for a place while every file that may be open is in use.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many files may be open at once: the smallest of the three bounds counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open organizations.
    pub open: usize,
    /// Memory for their connections, in bytes.
    pub bytes: u64,
    /// File descriptors for them.
    pub descriptors: u64,
    /// Files being opened at the same moment.
    pub opening: usize,
    /// Read-only connections a file.
    pub readers: u32,
}

impl Limits {
    /// The number of organizations that can be open at once within all three bounds, at the worst.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let connections = u64::from(self.readers.max(1)) + 1;
        // A connection holds the file and its WAL; the WAL index is shared.
        let descriptors = connections * 2 + 1;
        let by_bytes = self.bytes / (connections * BYTES_PER_CONNECTION);
        let by_descriptors = self.descriptors / descriptors;
        let bound = by_bytes.min(by_descriptors).min(self.open as u64).max(1);
        usize::try_from(bound).unwrap_or(usize::MAX)
    }
}

/// All organizations' files; cheap to clone.
#[derive(Clone)]
pub struct Tenants(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub root: PathBuf,
    pub keyring: Keyring,
    pub clock: Clock,
    pub template: Mutex<Option<Arc<Vec<u8>>>>,
    limits: Limits,
    capacity: usize,
    /// One for each file that may be open. A file takes its place before it is opened and gives it back
    /// when it is closed, so that the bound holds whatever happens in between.
    places: Arc<Semaphore>,
    files: Mutex<LruCache<OrganizationId, Arc<OnceCell<Tenant>>>>,
    opening: Semaphore,
    faults: Faults,
    attention: Attention,
}

/// Whoever looks after what waits inside a file.
pub(super) type Attention = Arc<dyn Fn(&Tenant) + Send + Sync>;

/// Why files could not be used, for a few seconds each.
#[derive(Clone)]
pub(super) struct Faults(Cache<OrganizationId, Arc<str>>);

impl Faults {
    pub fn record(&self, id: OrganizationId, error: &Error) {
        let reason = error.cause().unwrap_or_else(|| error.to_string());
        tracing::error!(organization = %id, %reason, "the organization's file cannot be used");
        metrics::counter!("bulkhead_organization_faults_total").increment(1);
        self.0.insert(id, reason.into());
    }

    /// What to answer while a fault is remembered.
    fn refusal(&self, id: OrganizationId) -> Option<Error> {
        let reason = self.0.get(&id)?;
        Some(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(reason.to_string()).retry_after(FAULT_FOR))
    }
}

impl Tenants {
    /// `attention` is called for every file that was opened, and when a file asks for it with
    /// [`Tenant::call_attention`]: something in its outbox may wait for delivery.
    pub fn new(
        root: &Path,
        keyring: Keyring,
        limits: Limits,
        clock: Clock,
        attention: impl Fn(&Tenant) + Send + Sync + 'static,
    ) -> Result<Self> {
        let inner = Inner {
            root: root.to_owned(),
            keyring,
            clock,
            template: Mutex::default(),
            limits,
            capacity: limits.capacity(),
            places: Arc::new(Semaphore::new(limits.capacity())),
            // Our own bound looks at what is in use, which the cache cannot know.
            files: Mutex::new(LruCache::unbounded()),
            opening: Semaphore::new(limits.opening.max(1)),
            faults: Faults(Cache::builder().max_capacity(10_000).time_to_live(FAULT_FOR).build()),
            attention: Arc::new(attention),
        };
        let tenants = Self(Arc::new(inner));
        tenants.prepare_root()?;
        Ok(tenants)
    }

    /// The organization that the route leads to, its file opened if it is not.
    pub async fn open(&self, route: &TenantRoute) -> Result<Tenant> {
        let id = route.organization();
        let (slot, faulty) = {
            let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
            let faulty = match files.get(&id).and_then(|slot| slot.get()) {
                Some(tenant) if !tenant.is_faulty() => return Ok(tenant.clone()),
                // Whoever works with it may end that; the next one gets the file as it is then.
                Some(_) => files.pop(&id),
                None => None,
            };
            (Arc::clone(files.get_or_insert(id, || Arc::new(OnceCell::new()))), faulty)
        };
        if faulty.is_some() {
            tokio::task::block_in_place(|| drop(faulty));
        }
        if let Some(refusal) = self.0.faults.refusal(id) {
            self.forget(id);
            return Err(refusal);
        }
        // One request opens; the others that want the same file wait for it here.
        match slot.get_or_try_init(|| self.open_file(id)).await {
            Ok(tenant) => Ok(tenant.clone()),
            Err(error) => {
                self.forget(id);
                if error.is(&codes::ORGANIZATION_BUSY) {
                    return Err(error);
                }
                // Whatever else keeps a file from being opened is a fault of that file.
                self.0.faults.record(id, &error);
                Err(self.0.faults.refusal(id).unwrap_or(error))
            }
        }
    }

    /// Why an organization's file could not be used a moment ago, for the operator.
    #[must_use]
    pub fn fault(&self, id: OrganizationId) -> Option<String> {
        self.0.faults.0.get(&id).map(|reason| reason.to_string())
    }

    /// How many files are open, and how many may be.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.0.capacity.saturating_sub(self.0.places.available_permits()), self.0.capacity)
    }

    /// Closes every file, folding what is in the WALs back. Blocking; at shutdown.
    pub fn close_all(&self) {
        let all =
            std::mem::replace(&mut *self.0.files.lock().unwrap_or_else(PoisonError::into_inner), LruCache::unbounded());
        for (_, slot) in all {
            if let Some(tenant) = slot.get() {
                tenant.0.database.settle();
            }
        }
    }

    async fn open_file(&self, id: OrganizationId) -> Result<Tenant> {
        let _permit = self.0.opening.acquire().await.map_err(|_| all_in_use())?;
        let place = self.make_room().await?;
        let key = self.0.keyring.get(id).await?;
        let tenant = tokio::task::block_in_place(|| -> Result<Tenant> {
            let file = path::file(&self.0.root, id);
            let database = Database::<TenantDb>::open(Opening {
                path: &file,
                migrations: MIGRATIONS,
                readers: self.0.limits.readers,
                clock: self.0.clock.clone(),
            })?;
            Ok(Tenant(Arc::new(Open {
                id,
                database,
                sealer: Sealer::new(id, &key),
                faults: self.0.faults.clone(),
                attention: Arc::clone(&self.0.attention),
                memory: Mutex::new(HashMap::new()),
                faulty: AtomicBool::new(false),
                _place: place,
            })))
        })?;
        let stamp = tenant.0.database.read(|db| db.one("SELECT id FROM organization", [], |row| row.get(0))).await?;
        if stamp != Some(id) {
            let stamp = stamp.map_or_else(|| "none".to_owned(), |other: OrganizationId| other.to_string());
            return Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE)
                .because(format!("the file at the place of {id} belongs to {stamp}")));
        }
        metrics::counter!("bulkhead_organization_opens_total").increment(1);
        (self.0.attention)(&tenant);
        Ok(tenant)
    }

    /// A place for one more file, made by closing what nobody uses if there is none.
    async fn make_room(&self) -> Result<OwnedSemaphorePermit> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() {
                return Ok(place);
            }
            if self.evict_one() {
                continue;
            }
            // All are in use. A place comes free when one is closed, or one can be closed when a request ends.
            let place = Arc::clone(&self.0.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(Duration::from_millis(5), place).await {
                return Ok(place);
            }
            if Instant::now() >= deadline {
                return Err(all_in_use());
            }
        }
    }

    /// Closes the least recently used file that nobody uses; says whether there was one.
    fn evict_one(&self) -> bool {
        let evicted = {
            let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
            // The map holds one reference to the slot, and the slot one to the file: a further one is a
            // request at work, or about to be.
            let idle = |slot: &Arc<OnceCell<Tenant>>| {
                Arc::strong_count(slot) == 1 && slot.get().is_some_and(|tenant| Arc::strong_count(&tenant.0) == 1)
            };
            let found = files.iter().rev().find_map(|(id, slot)| idle(slot).then_some(*id));
            found.and_then(|id| files.pop(&id))
        };
        let Some(slot) = evicted else { return false };
        metrics::counter!("bulkhead_organization_evictions_total").increment(1);
        tokio::task::block_in_place(|| drop(slot));
        true
    }

    /// Takes a slot out whose file could not be opened.
    pub(super) fn forget(&self, id: OrganizationId) {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.peek(&id).is_some_and(|slot| slot.get().is_none()) {
            files.pop(&id);
        }
    }
}

fn all_in_use() -> Error {
    Error::new(&codes::ORGANIZATION_BUSY)
        .because("every file that may be open is in use")
        .retry_after(Duration::from_secs(1))
}
