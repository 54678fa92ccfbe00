//! Organizations whose files take no writes for the time being, or for good: one place that refuses them all,
//! whoever asks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::open_files::Tenants;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::sqlite::{Read, TenantDb};

/// Why a file takes no writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shut {
    /// An operator has frozen it: it is read and not changed until it is released.
    Frozen,
    /// It is on its way to another deployment; that can still be called off.
    Leaving,
    /// It is written anew under another key, and so much is written to it that this could not be done meanwhile.
    Rewriting,
    /// It has left for the deployment at this address. It is not served here any more.
    Moved { to: String },
}

/// When whoever was refused by an organization that is leaving may look again.
const COME_BACK: Duration = Duration::from_secs(5);
/// The same of one that is written anew.
const SOON: Duration = Duration::from_secs(1);

impl Shut {
    /// What a writer is told.
    #[must_use]
    pub fn refusal(&self) -> Error {
        match self {
            Self::Frozen => Error::new(&codes::ORGANIZATION_FROZEN),
            Self::Leaving => Error::new(&codes::ORGANIZATION_LEAVING).retry_after(COME_BACK),
            Self::Rewriting => Error::new(&codes::ORGANIZATION_BUSY)
                .because("its file is being written anew under another key")
                .retry_after(SOON),
            Self::Moved { to } => {
                Error::new(&codes::ORGANIZATION_MOVED).detail(format!("This organization has moved to {to}."))
            }
        }
    }
}

/// The events that nothing follows, but for the one that takes them back.
pub const FROZEN: &str = "organization.frozen";
/// Takes a freeze back.
pub const UNFROZEN: &str = "organization.unfrozen";
/// Where the operators' log says which one, by the hash of its event: a damaged file has no event of its own for it.
pub const FROZEN_HEAD: &str = "frozen_head";
pub const DEPARTING: &str = "organization.departing";
pub const ARRIVING: &str = "organization.arriving";
pub const DEPARTED: &str = "organization.departed";

/// Why nothing is written to a file whose newest event is this one, if nothing is.
#[must_use]
pub fn last_word(action: Option<&str>) -> Option<Shut> {
    match action {
        Some(FROZEN) => Some(Shut::Frozen),
        Some(DEPARTING | ARRIVING) => Some(Shut::Leaving),
        Some(DEPARTED) => Some(Shut::Moved { to: "another deployment".to_owned() }),
        _ => None,
    }
}

/// The newest event of a file's log.
pub(super) fn newest_event(db: &Read<'_, TenantDb>) -> Result<Option<String>> {
    db.one("SELECT action FROM audit_event ORDER BY sequence DESC LIMIT 1", [], |row| row.get(0))
}

/// Which files are shut; cheap to clone. Hardly ever one is, so the common case asks one flag.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_any: AtomicBool,
    shut: RwLock<HashMap<OrganizationId, Shut>>,
}

impl Gates {
    pub fn of(&self, id: OrganizationId) -> Option<Shut> {
        if !self.0.is_any.load(Ordering::SeqCst) {
            return None;
        }
        self.0.shut.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Refuses a write.
    pub fn require_open(&self, id: OrganizationId) -> Result<()> {
        self.of(id).map_or(Ok(()), |shut| Err(shut.refusal()))
    }

    pub fn shut(&self, id: OrganizationId, why: Shut) {
        self.0.shut.write().unwrap_or_else(PoisonError::into_inner).insert(id, why);
        self.0.is_any.store(true, Ordering::SeqCst);
    }

    /// The same unless it is shut already, for whatever reason.
    pub fn shut_if_open(&self, id: OrganizationId, why: Shut) -> Result<()> {
        let mut shut = self.0.shut.write().unwrap_or_else(PoisonError::into_inner);
        match shut.entry(id) {
            Entry::Occupied(other) => Err(other.get().refusal()),
            Entry::Vacant(place) => {
                place.insert(why);
                self.0.is_any.store(true, Ordering::SeqCst);
                Ok(())
            }
        }
    }

    /// Opens it if it is shut for this reason, and for no other that came since.
    pub fn open_if(&self, id: OrganizationId, why: &Shut) {
        let mut shut = self.0.shut.write().unwrap_or_else(PoisonError::into_inner);
        if shut.get(&id) == Some(why) {
            shut.remove(&id);
            self.0.is_any.store(!shut.is_empty(), Ordering::SeqCst);
        }
    }

    pub fn open(&self, id: OrganizationId) {
        let mut shut = self.0.shut.write().unwrap_or_else(PoisonError::into_inner);
        shut.remove(&id);
        self.0.is_any.store(!shut.is_empty(), Ordering::SeqCst);
    }
}

impl Tenants {
    /// From now on every write to the organization's file is refused, except by whoever holds it. Who is in the
    /// middle of one ends it: holding the file waits for that.
    pub fn shut(&self, id: OrganizationId, why: Shut) {
        self.0.gates.shut(id, why);
    }

    /// It takes writes again.
    pub fn reopen(&self, id: OrganizationId) {
        self.0.gates.open(id);
    }

    /// Why the organization's file takes no writes, if it takes none.
    #[must_use]
    pub fn why_shut(&self, id: OrganizationId) -> Option<Shut> {
        self.0.gates.of(id)
    }

    /// Refuses what would end in a write, before anything of it is done elsewhere.
    pub fn require_open(&self, id: OrganizationId) -> Result<()> {
        self.0.gates.require_open(id)
    }
}
