//! F2. Continuous backup: what was written is shipped to a replica a moment later, in Litestream's format, so that
//! one organization can be had back as it was at any moment of the last days.
//!
//! It owns which databases wait to be shipped ([`Dirty`]), how far each has come ([`state`]), what is read from a
//! database between two transactions ([`capture`]) and when what happens ([`Backups::run`]). An organization that is
//! not written to costs nothing: no open file, no timer, no request. A store that cannot be reached slows no request
//! down; what was not shipped stays in the WAL, which is folded only after it was read.
//!
//! It leaves alone: the format (`ltx`), where files of a replica lie and which may go (`replica`), what is inside a
//! database, and putting a restored file into a live one's place (`features::backup`).

mod aside;
mod capture;
mod confirm;
mod dirty;
mod due;
pub mod ledger;
mod leftovers;
mod overwrite;
mod renew;
mod rounds;
mod standing;
mod state;
mod states;
mod tend;
mod whole;

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

pub use dirty::Dirty;
pub use standing::{Adopted, Adoption, Ownership, adopt, is_ours, leave, was_backed_up};
pub use state::Progress;

pub use crate::ltx::Txid;
pub use crate::replica::{Destroyed, Gap, History, Item, Point, Restored, Setback, Target};

use crate::base::{Clock, Error, OrganizationId, Result, Turns, codes};
use crate::catalog::{Catalog, Directory};
use crate::keyring::Keyring;
use crate::replica::{self, Replica, Rules, Store};
use crate::sqlite::Still;
use crate::tenants::Tenants;

use state::State;
use states::States;

/// A database that is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Organization(OrganizationId),
    Catalog,
    /// Its replica holds wrapped keys, so it reaches back only as far as an erasure may be undone.
    Keyring,
}

impl Source {
    /// The path of its replica: that of the file in the data directory, as `litestream replicate` would name it.
    #[must_use]
    pub fn path(self) -> String {
        match self {
            Self::Organization(id) => {
                let uuid = Uuid::from_u128(id.bits());
                let bytes = uuid.as_bytes();
                format!("orgs/{:02x}/{:02x}/{uuid}/db.sqlite", bytes[15], bytes[14])
            }
            Self::Catalog => "catalog.sqlite".to_owned(),
            Self::Keyring => "keyring.sqlite".to_owned(),
        }
    }

    /// As it is displayed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "catalog" => Some(Self::Catalog),
            "keyring" => Some(Self::Keyring),
            id => id.parse().ok().map(Self::Organization),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Organization(id) => id.fmt(f),
            Self::Catalog => f.write_str("catalog"),
            Self::Keyring => f.write_str("keyring"),
        }
    }
}

/// When what is done.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// From a commit to its being shipped, so that one file holds all of a burst.
    pub debounce: Duration,
    /// From the first file to its merge into level 1, 2 and 3.
    pub levels: [Duration; 3],
    /// Between two snapshots of a database that is written to.
    pub snapshots: Duration,
    /// How far back a restore reaches.
    pub retention: Duration,
    /// The same for the keyring: as long as that, an erased organization's key can be had back from the replica.
    pub keyring_retention: Duration,
    /// Databases that are shipped at the same moment.
    pub workers: usize,
    /// How long an acknowledgement waits for the store.
    pub confirmation: Duration,
    /// Another program ships; here its copies are read, and those of what is erased removed.
    pub is_foreign: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            debounce: Duration::from_secs(1),
            levels: [Duration::from_secs(30), Duration::from_secs(300), Duration::from_secs(3600)],
            snapshots: Duration::from_secs(24 * 3600),
            retention: Duration::from_secs(7 * 24 * 3600),
            keyring_retention: Duration::from_secs(24 * 3600),
            workers: 8,
            confirmation: Duration::from_secs(10),
            is_foreign: false,
        }
    }
}

/// The databases of a deployment.
#[derive(Clone)]
pub struct Databases {
    pub tenants: Tenants,
    pub directory: Directory,
    pub catalog: Catalog,
    pub keyring: Keyring,
}

/// Databases that are shipped at the same moment because somebody waits for that.
const URGENT: usize = 32;

/// The backup of a deployment; cheap to clone.
#[derive(Clone)]
pub struct Backups(Arc<Inner>);

struct Inner {
    store: Store,
    ownership: Ownership,
    dirty: Dirty,
    databases: Databases,
    schedule: Schedule,
    clock: Clock,
    /// Where large contents pass through.
    scratch: PathBuf,
    hands: Semaphore,
    /// The same for what somebody waits for.
    urgent_hands: Semaphore,
    /// Those who wait until something is at the store.
    lines: Mutex<confirm::Lines>,
    /// Those who fold a WAL because somebody waits for that: one at a time of each database.
    folding: Turns<Source>,
    /// When those that rest are looked at again.
    due: due::Due,
    /// What is known of what was written to lately.
    states: States,
    /// Until when nobody asks the store, because it did not answer, and how often in a row it did not.
    store_rests: Mutex<(Option<Instant>, u32)>,
    /// Databases that are shipped whole because the store is new.
    first_time: Mutex<HashSet<Source>>,
}

impl Backups {
    #[must_use]
    pub fn new(
        (store, ownership): (Store, Ownership),
        dirty: Dirty,
        databases: Databases,
        schedule: Schedule,
        clock: Clock,
        scratch: &Path,
    ) -> Self {
        let hands = Semaphore::new(schedule.workers.max(1));
        Self(Arc::new(Inner {
            store,
            ownership,
            dirty,
            databases,
            schedule,
            clock,
            scratch: scratch.to_owned(),
            hands,
            urgent_hands: Semaphore::new(URGENT),
            lines: Mutex::default(),
            folding: Turns::default(),
            due: due::Due::load(scratch),
            states: States::default(),
            store_rests: Mutex::default(),
            first_time: Mutex::default(),
        }))
    }

    /// The replica of one database.
    pub fn replica_of(&self, source: Source) -> Result<Replica> {
        let replica = self.0.store.replica(&source.path()).map_err(told)?;
        Ok(replica.seen_at(self.0.clock.now().to_utc()))
    }

    /// How far a database has come since this process runs. Nothing: it was not written to, or so long ago that it is
    /// not remembered any more.
    #[must_use]
    pub fn progress(&self, source: Source) -> Option<Progress> {
        self.0.states.progress(source)
    }

    /// Where copies may be put together: on the file system of the data directory.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.0.scratch
    }

    /// Of how many databases something was written that the store does not have yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.dirty.len()
    }

    /// Whether another program ships, such as a stock litestream beside the server. Then copies are read here, and
    /// those of what is erased removed, and nothing else.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.0.schedule.is_foreign
    }

    /// Ships what was committed before the call, now.
    pub async fn ship_now(&self, source: Source) -> Result<()> {
        if self.is_foreign() {
            // Whoever ships has no ear for us; what it has not shipped yet cannot be had back yet.
            return Ok(());
        }
        rounds::ship(&self.0, source).await.map_err(told)
    }

    /// What can be had back.
    pub async fn history(&self, source: Source) -> Result<History> {
        replica::history(&self.replica_of(source)?).await.map_err(told)
    }

    /// Builds a database as it was, at a path where nothing is.
    pub async fn restore(&self, source: Source, target: Target, out: &Path) -> Result<Restored> {
        replica::restore(&self.replica_of(source)?, target, out).await.map_err(told)
    }

    /// The next file of this database is a whole one: another file has taken the place of the one that was
    /// shipped so far.
    pub async fn start_over(&self, source: Source) {
        if self.is_foreign() {
            return;
        }
        let entry = self.0.states.take(source);
        entry.state.lock().await.start_over();
        self.0.dirty.mark(source);
    }

    /// Removes a database's replica, and what is known of it.
    pub async fn destroy(&self, source: Source) -> Result<Destroyed> {
        let entry = self.0.states.take(source);
        // Whatever arrived afterwards would bring back what is removed here.
        let nothing_on_its_way = entry.tending.lock().await;
        let mut state = entry.state.lock().await;
        self.0.dirty.forget(source);
        if !self.is_foreign() {
            self.0.require_owner_now().await.map_err(told)?;
        }
        let destroyed = self.replica_of(source)?.destroy().await.map_err(told)?;
        *state = State::default();
        self.0.due.plan(source, None);
        // Nobody waits for its first copy any more.
        self.0.shipped(source);
        drop((state, nothing_on_its_way));
        // Whoever waits for it goes on with the same entry, and is not taken for another server.
        drop(entry);
        self.0.states.forget(source);
        Ok(destroyed)
    }

    /// Replaces the keyring's replica by one that holds only what the keyring holds now, so that a destroyed key
    /// is not in it either.
    pub async fn renew_keyring(&self) -> Result<()> {
        if self.is_foreign() {
            // Its replica is another program's, and ages out there.
            return Ok(());
        }
        self.destroy(Source::Keyring).await?;
        self.ship_now(Source::Keyring).await
    }
}

impl Inner {
    /// Works on a database between two of its transactions.
    async fn still<T>(&self, source: Source, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        match source {
            Source::Catalog => self.databases.catalog.still(work).await,
            Source::Keyring => self.databases.keyring.still(work).await,
            Source::Organization(id) => {
                let route = self.databases.directory.by_id(id).await?;
                self.databases.tenants.open_to_copy(&route).await?.still(work).await
            }
        }
    }

    fn rules(&self, source: Source) -> Rules {
        let kept = match source {
            Source::Keyring => self.schedule.keyring_retention,
            _ => self.schedule.retention,
        };
        // A snapshot more than the window would keep destroyed keys for twice as long as was said.
        Rules { snapshots: kept, whole_window: source != Source::Keyring, ..Rules::default() }
    }
}

/// Whether an error says that the store could not be looked at: it does not answer, or it refuses.
#[must_use]
pub fn is_out_of_reach(error: &Error) -> bool {
    error.is(&codes::BACKUP_UNAVAILABLE) || error.is(&codes::BACKUP_REFUSED)
}

/// A fault of the store in the house's words.
#[must_use]
pub fn told(error: replica::Error) -> Error {
    use replica::Error as Fault;
    let text = error.to_string();
    match error {
        Fault::Plan(plan @ replica::PlanError::ClockWentBack { .. }) => {
            Error::new(&codes::BACKUP_TIME_UNCLEAR).detail(capitalized(&plan.to_string()))
        }
        Fault::Plan(plan) => Error::new(&codes::BACKUP_NOT_FOUND).detail(capitalized(&plan.to_string())),
        Fault::Occupied { .. } => Error::new(&codes::BACKUP_TARGET_EXISTS).because(text),
        Fault::Superseded(_) => Error::new(&codes::BACKUP_SUPERSEDED).detail(format!(
            "{} If the other one is gone for good, `bulkhead backup adopt` takes the location over; if it is not, give \
             each deployment a location of its own.",
            capitalized(&text)
        )),
        Fault::Damaged { .. } => Error::new(&codes::BACKUP_DAMAGED).because(text),
        Fault::Unreachable { .. } => {
            Error::new(&codes::BACKUP_UNAVAILABLE).because(text).retry_after(Duration::from_secs(5))
        }
        // What is put together here found no room; the store is fine.
        Fault::Local { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Error::new(&codes::STORAGE_FULL).because(text).retry_after(Duration::from_secs(5))
        }
        Fault::Local { .. } => Error::new(&codes::STORAGE_FAILED).because(text),
        // Nothing that passes: somebody has to set it right.
        Fault::Refused { .. } | Fault::Configuration(_) => Error::new(&codes::BACKUP_REFUSED).because(text),
        _ => Error::new(&codes::BACKUP_UNAVAILABLE).because(text),
    }
}

fn capitalized(text: &str) -> String {
    let mut text = format!("{text}.");
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}
