//! The open files: found on demand, opened once at a time, bounded, evicted least recently used first.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use lru::LruCache;
use moka::sync::Cache;
use tokio::sync::{Notify, OnceCell, Semaphore};
use tokio::time::timeout;

use super::awaited::Reports;
use super::encryption::require_ciphertext;
use super::gate::{Gates, Shut, last_word};
use super::hold::{self, Handle, Handles};
use super::overwrite::Folder;
use super::path;
use super::places::all_in_use;
use super::tenant::{Open, Tenant, backstop};
use super::volumes::Volumes;
use crate::base::{Clock, Error, OrganizationId, Replication, Result, codes};
use crate::catalog::TenantRoute;
use crate::fairness::{Fairness, Values};
use crate::keyring::Keyring;
use crate::sqlite::{Backup, Database, Opening, Read, TenantDb};

/// A connection with the whole schema parsed, its page cache and the shared memory of the WAL.
const BYTES_PER_CONNECTION: u64 = 300 << 10;
/// How long a broken file is not tried again.
const FAULT_FOR: Duration = Duration::from_secs(5);
/// How long a request waits for its file to be opened: for a place while every file that may be open is in
/// use, for its turn, and for others who open the same one.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
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
    /// What an organization's data may take up that has no limit of its own; 0 is no limit.
    pub file_bytes: u64,
    /// What a write of an organization has reached when it is acknowledged, where that has nothing of its own.
    pub replication: Replication,
    /// What an organization may take of what all share, where that has nothing of its own.
    pub shares: Values,
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
    pub volumes: Volumes,
    pub gates: Gates,
    pub keyring: Keyring,
    pub clock: Clock,
    pub fairness: Fairness,
    pub template: Mutex<Option<Arc<Vec<u8>>>>,
    pub limits: Limits,
    pub capacity: usize,
    /// One for each file that may be open. A file takes its place before it is opened and gives it back
    /// when it is closed, so that the bound holds whatever happens in between.
    pub places: Arc<Semaphore>,
    /// Held by whoever looks for a place: first come, first served.
    pub turn: Semaphore,
    files: Mutex<Files>,
    /// Whether somebody closes files ahead of those who will want their places.
    pub closing: AtomicBool,
    /// Told whenever the newcomers of a file are not held up any more.
    pub let_go: Notify,
    opening: Semaphore,
    faults: Faults,
    attention: Attention,
    /// Files that are open, also those that nobody else is given any more.
    pub handles: Handles,
    /// Told of every commit, where files are backed up.
    pub written: OnceLock<Reports>,
    /// Whoever folds WALs, where files are backed up.
    pub folder: Folder,
    /// Where it is not the product's own.
    pub schema: OnceLock<&'static [&'static str]>,
}

pub(super) type Written = Arc<dyn Fn(OrganizationId, bool) + Send + Sync>;

pub(super) type Slot = Arc<OnceCell<Tenant>>;

/// What is open or about to be.
pub(super) struct Files {
    pub slots: LruCache<OrganizationId, Slot>,
    /// The one whose newcomers wait, so that it falls idle although requests for it never stop.
    pub held_up: Option<OrganizationId>,
    /// Nobody is given these: see [`Tenants::hold`].
    pub held: HashSet<OrganizationId>,
    /// Those of them whose newcomers wait instead of being refused.
    pub patient: HashSet<OrganizationId>,
}

/// Whoever looks after what waits inside a file. It is told the name and not given the file: what is still
/// to be looked after must not keep files open.
pub(super) type Attention = Arc<dyn Fn(OrganizationId, Occasion) + Send + Sync>;

/// Why a file calls for attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// Something in its outbox waits for delivery: it was found when the file was opened, or has just been put there.
    Asked,
    /// Something was written to it: what was written before may have become old.
    Written,
}

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
    /// `attention` is called for every file that was opened with something in its outbox or asks for it with
    /// [`Tenant::call_attention`], and for every file that was written.
    pub fn new(
        root: &Path,
        keyring: Keyring,
        limits: Limits,
        clock: Clock,
        attention: impl Fn(OrganizationId, Occasion) + Send + Sync + 'static,
    ) -> Result<Self> {
        let inner = Inner {
            root: root.to_owned(),
            volumes: Volumes::new(root),
            gates: Gates::default(),
            keyring,
            fairness: Fairness::new(limits.shares, clock.clone()),
            clock,
            template: Mutex::default(),
            limits,
            capacity: limits.capacity(),
            places: Arc::new(Semaphore::new(limits.capacity())),
            // Our own bound looks at what is in use, which the cache cannot know.
            files: Mutex::new(Files {
                slots: LruCache::unbounded(),
                held_up: None,
                held: HashSet::new(),
                patient: HashSet::new(),
            }),
            turn: Semaphore::new(1),
            closing: AtomicBool::new(false),
            let_go: Notify::new(),
            opening: Semaphore::new(limits.opening.max(1)),
            faults: Faults(Cache::builder().max_capacity(10_000).time_to_live(FAULT_FOR).build()),
            attention: Arc::new(attention),
            handles: Handles::default(),
            written: OnceLock::new(),
            folder: Folder::default(),
            schema: OnceLock::new(),
        };
        let tenants = Self(Arc::new(inner));
        tenants.prepare_root()?;
        Ok(tenants)
    }

    /// The organization that the route leads to, its file opened if it is not.
    pub async fn open(&self, route: &TenantRoute) -> Result<Tenant> {
        self.require_here(route)?;
        let tenant = self.open_to_copy(route).await?;
        // Its own log may have said so just now.
        self.require_here(route)?;
        Ok(tenant)
    }

    fn require_here(&self, route: &TenantRoute) -> Result<()> {
        match self.0.gates.of(route.organization()) {
            Some(moved @ Shut::Moved { .. }) => Err(moved.refusal()),
            _ => Ok(()),
        }
    }

    /// The same for backups, of an organization that has moved away as well: the last event of the file that stays says
    /// so, and has to get there.
    pub async fn open_to_copy(&self, route: &TenantRoute) -> Result<Tenant> {
        let id = route.organization();
        if route.is_quarantined() {
            return Err(Error::new(&codes::ORGANIZATION_QUARANTINED));
        }
        let ready = {
            let mut files = self.files();
            let held_up = files.held_up == Some(id) || files.held.contains(&id);
            let slot = if held_up { None } else { files.slots.get(&id) };
            slot.and_then(|slot| slot.get()).filter(|tenant| !tenant.is_faulty()).cloned()
        };
        match ready {
            Some(tenant) => self.with_fresh_keys(tenant).await,
            None => timeout(PATIENCE, self.wait_for(id)).await.unwrap_or_else(|_| Err(all_in_use())),
        }
    }

    /// The file if it is open: for work that is not worth opening it, and is no use of it either.
    #[must_use]
    pub fn if_open(&self, id: OrganizationId) -> Option<Tenant> {
        let files = self.files();
        let slot = files.slots.peek(&id).filter(|_| !files.held.contains(&id));
        let open = slot.and_then(|slot| slot.get()).filter(|tenant| !tenant.is_faulty());
        open.filter(|tenant| tenant.0.keys.are_fresh(|| self.0.clock.now())).cloned()
    }

    /// The file, if its keys may still be used. Where they may not, the file is closed: nobody falls back on them.
    async fn with_fresh_keys(&self, tenant: Tenant) -> Result<Tenant> {
        if tenant.0.keys.are_fresh(|| self.0.clock.now()) {
            return Ok(tenant);
        }
        let id = tenant.id();
        match self.0.keyring.keys(id).await {
            // What is open has the same keys as what is given out here.
            Ok(keys) if Arc::ptr_eq(&keys, &tenant.0.keys) => Ok(tenant),
            Ok(_) => {
                self.let_go(id);
                timeout(PATIENCE, self.wait_for(id)).await.unwrap_or_else(|_| Err(all_in_use()))
            }
            Err(error) => {
                self.let_go(id);
                Err(error)
            }
        }
    }

    async fn wait_for(&self, id: OrganizationId) -> Result<Tenant> {
        let waiting = loop {
            // Made before the look: what is told in between is not missed.
            let let_go = self.0.let_go.notified();
            match self.slot(id)? {
                Some(waiting) => break waiting,
                None => let_go.await,
            }
        };
        if let Some(refusal) = self.0.faults.refusal(id) {
            return Err(refusal);
        }
        // One request opens; the others that want the same file wait for it here.
        match waiting.slot.get_or_try_init(|| self.open_file(id)).await {
            Ok(tenant) => Ok(tenant.clone()),
            Err(error) if error.is(&codes::ORGANIZATION_BUSY) || error.is(&codes::KEY_UNAVAILABLE) => Err(error),
            Err(error) => match self.named(id, error).await {
                error if error.is(&codes::ORGANIZATION_ENCRYPTED) => Err(error),
                // Whatever else keeps a file from being opened is a fault of that file.
                error => {
                    self.0.faults.record(id, &error);
                    Err(self.0.faults.refusal(id).unwrap_or(error))
                }
            },
        }
    }

    /// The file's slot, made if there is none; nothing while its newcomers are held up.
    fn slot(&self, id: OrganizationId) -> Result<Option<Waiting<'_>>> {
        let (slot, faulty) = {
            let mut files = self.files();
            if files.held.contains(&id) && !files.patient.contains(&id) {
                return Err(hold::refusal());
            }
            if files.held_up == Some(id) || files.held.contains(&id) {
                return Ok(None);
            }
            let is_faulty = files.slots.peek(&id).and_then(|slot| slot.get()).is_some_and(Tenant::is_faulty);
            // Whoever works with it may end that; the next one gets the file as it is then.
            let faulty = if is_faulty { files.slots.pop(&id) } else { None };
            (Arc::clone(files.slots.get_or_insert(id, Slot::default)), faulty)
        };
        if faulty.is_some() {
            tokio::task::block_in_place(|| drop(faulty));
        }
        Ok(Some(Waiting { tenants: self, id, slot }))
    }

    /// Why an organization's file could not be used a moment ago, for the operator.
    #[must_use]
    pub fn fault(&self, id: OrganizationId) -> Option<String> {
        self.0.faults.0.get(&id).map(|reason| reason.to_string())
    }

    /// Closes a file for whoever comes next; those who work with it may end that.
    pub fn let_go(&self, id: OrganizationId) {
        let gone = self.files().slots.pop(&id);
        self.0.faults.0.invalidate(&id);
        tokio::task::block_in_place(|| drop(gone));
    }

    /// How many files are open, and how many may be.
    #[must_use]
    pub fn usage(&self) -> (usize, usize) {
        (self.0.capacity.saturating_sub(self.0.places.available_permits()), self.0.capacity)
    }

    /// Closes every file, folding what is in the WALs back. Blocking; at shutdown.
    pub fn close_all(&self) {
        let all = std::mem::replace(&mut self.files().slots, LruCache::unbounded());
        for (_, slot) in all {
            if let Some(tenant) = slot.get() {
                tenant.0.database.settle();
            }
        }
    }

    async fn open_file(&self, id: OrganizationId) -> Result<Tenant> {
        let (keys, file_keys, standing) = {
            let _permit = self.0.opening.acquire().await.map_err(|_| all_in_use())?;
            // Whoever is asked for them may take long to answer: no place waits for that.
            let (keys, file_keys) = (self.0.keyring.keys(id).await?, self.unlock(id).await?);
            let standing = self.standing_with(id, &file_keys).await?;
            (keys, file_keys, standing)
        };
        // The place first: whoever waits for one keeps nobody from opening who has one.
        let room = self.make_room().await?;
        let _permit = self.0.opening.acquire().await.map_err(|_| all_in_use())?;
        let (tenant, waits) = tokio::task::block_in_place(|| -> Result<_> {
            // Its place comes with it: given back first, somebody else could take it.
            let place = room.clear();
            let handle = self.handle(id)?;
            self.require_volume(id)?;
            let awaited = Arc::default();
            let (database, is_view) = self.open_database(id, &awaited)?;
            let facts = facts(&database, id)?;
            let is_ciphertext = require_ciphertext(&database, standing)?;
            let awaited = self.awaited(facts.replication.as_deref(), awaited);
            let account = self.account_of(&database, id, facts.limits.as_deref());
            database.bound(backstop(facts.max_bytes.unwrap_or(self.0.limits.file_bytes)));
            // The file is the truth: also where a catalog that was lost or is older does not know of it.
            if let (Some(shut), None) = (last_word(facts.action.as_deref()), self.0.gates.of(id)) {
                tracing::warn!(organization = %id, "its own log says that nothing follows: it takes no writes");
                self.0.gates.shut(id, shut);
            }
            let tenant = Tenant(Arc::new(Open {
                id,
                database,
                awaited,
                folder: self.0.folder.clone(),
                gates: self.0.gates.clone(),
                is_view,
                account,
                keys,
                faults: self.0.faults.clone(),
                attention: Arc::clone(&self.0.attention),
                memory: Mutex::new(HashMap::new()),
                faulty: AtomicBool::new(false),
                is_ciphertext,
                _file_keys: file_keys,
                _handle: handle,
                place,
            }));
            Ok((tenant, facts.waits))
        })?;
        metrics::counter!("bulkhead_organization_opens_total").increment(1);
        if waits {
            (self.0.attention)(id, Occasion::Asked);
        }
        self.keep_places_free();
        Ok(tenant)
    }

    /// Counts whoever is about to open the file. Where its slot was taken away meanwhile, whoever holds the file does not
    /// know of this one, and has it for themselves.
    fn handle(&self, id: OrganizationId) -> Result<Handle> {
        let files = self.files();
        if files.held.contains(&id) && !files.slots.contains(&id) {
            Err(all_in_use())
        } else {
            Ok(self.0.handles.of(id))
        }
    }

    /// Most files are of the newest schema and are read before they are written, if they are written at all. Tells
    /// whether it is a copy for reading only.
    fn open_database(&self, id: OrganizationId, awaited: &Arc<AtomicBool>) -> Result<(Database<TenantDb>, bool)> {
        let opening = |path, backup| Opening {
            path,
            migrations: self.schema(),
            readers: self.0.limits.readers,
            clock: self.0.clock.clone(),
            backup,
        };
        let file = path::file(&self.root_of(id), id);
        let alone = self.0.handles.alone(id);
        let opened = Database::open_to_read(opening(&file, self.backup_with(id, awaited)), alone.is_some())?;
        drop(alone);
        if let Some(database) = opened {
            return Ok((database, false));
        }
        let (file, is_view) = self.file_to_open(id)?;
        let backup = if is_view { Backup::None } else { self.backup_with(id, awaited) };
        Ok((Database::open(opening(&file, backup))?, is_view))
    }

    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a file that came to the wrong place.
pub(super) fn check_stamp(database: &Database<TenantDb>, id: OrganizationId) -> Result<()> {
    database.first_read(|db| require_stamp(db, id))
}

/// The same within a read.
pub(super) fn require_stamp(db: &Read<'_, TenantDb>, id: OrganizationId) -> Result<()> {
    require_own(stamp_in(db)?, id)
}

/// Whose file it says that it is.
pub(super) fn stamp_in(db: &Read<'_, TenantDb>) -> Result<Option<OrganizationId>> {
    db.one("SELECT id FROM organization", [], |row| row.get(0))
}

fn require_own(stamp: Option<OrganizationId>, id: OrganizationId) -> Result<()> {
    if stamp == Some(id) {
        return Ok(());
    }
    let stamp = stamp.map_or_else(|| "none".to_owned(), |other| other.to_string());
    Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE)
        .because(format!("the file at the place of {id} belongs to {stamp}")))
}

/// What is asked of a file when it is opened, in one statement.
struct Facts {
    /// What this organization's data may take up, if it has a limit of its own.
    max_bytes: Option<u64>,
    /// What operators have set of what all share, and of what a write has reached.
    limits: Option<String>,
    replication: Option<String>,
    /// The newest event of its log.
    action: Option<String>,
    /// Whether something in its outbox waits for delivery.
    waits: bool,
}

/// Refuses a file that came to the wrong place.
fn facts(database: &Database<TenantDb>, id: OrganizationId) -> Result<Facts> {
    let found = database.first_read(|db| {
        db.once(
            "SELECT id, max_bytes, limits, replication,
                    (SELECT action FROM audit_event ORDER BY sequence DESC LIMIT 1),
                    EXISTS (SELECT 1 FROM outbox WHERE failed_at IS NULL) FROM organization",
            [],
            |row| {
                let max_bytes = row.get::<_, Option<i64>>(1)?.and_then(|limit| u64::try_from(limit).ok());
                let (limits, replication, action) = (row.get(2)?, row.get(3)?, row.get(4)?);
                Ok((row.get(0)?, Facts { max_bytes, limits, replication, action, waits: row.get(5)? }))
            },
        )
    })?;
    let (stamp, facts) = found.unzip();
    require_own(stamp, id)?;
    facts.ok_or_else(|| Error::internal("a file with a stamp has no facts"))
}

/// Somebody who waits for a file, or opens it.
struct Waiting<'a> {
    tenants: &'a Tenants,
    id: OrganizationId,
    slot: Slot,
}

impl Drop for Waiting<'_> {
    /// Takes out a slot that stayed empty because opening failed or was given up; the last one who waits for
    /// it does, or others would open the same file a second time.
    fn drop(&mut self) {
        if self.slot.initialized() {
            return;
        }
        let mut files = self.tenants.files();
        let slot = std::mem::take(&mut self.slot);
        let is_current = files.slots.peek(&self.id).is_some_and(|current| Arc::ptr_eq(current, &slot));
        if is_current && Arc::strong_count(&slot) == 2 {
            files.slots.pop(&self.id);
        }
    }
}
