//! Routing in memory: from a name to a [`TenantRoute`], with the catalog's file behind it.
//!
//! Nothing is loaded at start, so start-up does not grow with the number of organizations. A name that
//! leads nowhere is remembered for a few seconds, in a bounded table, so that guessing costs us little;
//! no file is ever opened for a name that came from outside.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use super::{Catalog, Entry, State, care, organizations};
use crate::base::{Error, HostName, OrganizationId, Result, Slug, codes};
use crate::sqlite::{CatalogDb, Read};

const KNOWN: u64 = 200_000;
const UNKNOWN: u64 = 50_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// Leads to exactly one organization. Only a [`Directory`] can make one.
#[derive(Clone)]
pub struct TenantRoute(Arc<Entry>, bool);

impl TenantRoute {
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.0.id
    }

    #[must_use]
    pub fn slug(&self) -> &Slug {
        &self.0.slug
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.0.state
    }

    /// Whether its file is set aside: nobody may open it for a request.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.1
    }
}

/// From names to organizations; cheap to clone.
#[derive(Clone)]
pub struct Directory {
    catalog: Catalog,
    names: Cache<Name, OrganizationId>,
    routes: Cache<OrganizationId, TenantRoute>,
    unknown: Cache<Name, ()>,
    /// Counts the changes: what was read before one must not be remembered after it. Held while something is remembered
    /// or forgotten, so that nobody is ever shown what was read too early.
    changes: Arc<Mutex<u64>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Name {
    Host(HostName),
    /// A slug or an external id.
    Given(String),
}

impl Directory {
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self {
            catalog,
            names: Cache::new(KNOWN),
            routes: Cache::new(KNOWN),
            unknown: Cache::builder().max_capacity(UNKNOWN).time_to_live(UNKNOWN_FOR).build(),
            changes: Arc::default(),
        }
    }

    /// By a custom host.
    pub async fn by_host(&self, host: &HostName) -> Result<TenantRoute> {
        self.by(Name::Host(host.clone())).await
    }

    /// By id, slug or external id, as all of them may stand wherever `{org}` does.
    pub async fn by_name(&self, name: &str) -> Result<TenantRoute> {
        if let Ok(id) = name.parse() {
            return self.by_id(id).await;
        }
        // Longer than any name we give out: not worth remembering.
        if name.is_empty() || name.len() > 128 {
            return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
        }
        self.by(Name::Given(name.to_owned())).await
    }

    /// By id, such as the hint inside a credential.
    pub async fn by_id(&self, id: OrganizationId) -> Result<TenantRoute> {
        if let Some(route) = self.routes.get(&id) {
            return Ok(route);
        }
        let name = Name::Given(id.to_string());
        if self.unknown.contains_key(&name) {
            return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
        }
        let seen = *self.changes();
        let found = self.catalog.read(|db| route(db, id)).await?;
        let found = found.inspect(|route| self.remember(route, None, seen));
        found.ok_or_else(|| self.leads_nowhere(name, seen))
    }

    /// Whether a slug or an external id is nobody's yet; only a claim makes sure.
    pub async fn is_free(&self, name: &str) -> Result<bool> {
        Ok(!self.catalog.read(|db| organizations::name_in_use(db, name, None)).await?)
    }

    /// An organization has come into being: names that led nowhere may lead there now.
    pub fn appeared(&self) {
        let mut changes = self.changes();
        *changes += 1;
        self.unknown.invalidate_all();
    }

    /// Forgets what was known of an organization, after the catalog has changed.
    pub fn forget(&self, id: OrganizationId) {
        let mut changes = self.changes();
        *changes += 1;
        self.routes.invalidate(&id);
        // Names are few changes and many reads: dropping all of them is simpler than tracking which
        // pointed here, and costs one indexed look-up each when they are asked for again.
        self.names.invalidate_all();
        self.unknown.invalidate_all();
    }

    async fn by(&self, name: Name) -> Result<TenantRoute> {
        if let Some(id) = self.names.get(&name) {
            return self.by_id(id).await;
        }
        if self.unknown.contains_key(&name) {
            return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
        }
        let seen = *self.changes();
        let read = |db: &Read<'_, CatalogDb>| {
            let found = match &name {
                Name::Host(host) => organizations::organization_by_host(db, host)?,
                Name::Given(given) => organizations::organization_by_name(db, given)?,
            };
            found.map_or(Ok(None), |id| route(db, id))
        };
        let Some(route) = self.catalog.read(read).await? else { return Err(self.leads_nowhere(name, seen)) };
        self.remember(&route, Some(name), seen);
        Ok(route)
    }

    /// `seen`: the changes that there were before it was read.
    fn remember(&self, route: &TenantRoute, name: Option<Name>, seen: u64) {
        let changes = self.changes();
        if *changes == seen {
            self.routes.insert(route.organization(), route.clone());
            if let Some(name) = name {
                self.names.insert(name, route.organization());
            }
        }
    }

    fn leads_nowhere(&self, name: Name, seen: u64) -> Error {
        let changes = self.changes();
        if *changes == seen {
            self.unknown.insert(name, ());
        }
        Error::new(&codes::ORGANIZATION_NOT_FOUND)
    }

    fn changes(&self) -> MutexGuard<'_, u64> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing where there is no such organization, or none yet.
fn route(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<TenantRoute>> {
    let Some(entry) = organizations::entry(db, id)?.filter(|entry| entry.state != State::Creating) else {
        return Ok(None);
    };
    let quarantine = care::quarantine(db, id)?;
    Ok(Some(TenantRoute(Arc::new(entry), quarantine.is_some())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Clock, Timestamp};
    use crate::crypto::DataKey;

    /// Whoever has read before a change and comes to remember it while that is made shows it to nobody, not even for the
    /// moment in between.
    #[tokio::test]
    async fn what_was_read_before_a_change_is_shown_to_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let now = Timestamp::from_millis(1_764_000_000_000);
        let catalog =
            Catalog::open(folder.path(), &DataKey::generate(), Clock::manual(now), Default::default()).unwrap();
        let directory = Directory::new(catalog);
        let id = OrganizationId::from_bits(7);
        let route = TenantRoute(
            Arc::new(Entry {
                id,
                slug: Slug::parse("acme").unwrap(),
                external_id: None,
                state: State::Active,
                schema_version: 1,
                created_at: now,
                updated_at: now,
            }),
            false,
        );
        let (here, nowhere) = (Name::Given("acme".to_owned()), Name::Given("globex".to_owned()));
        let shown = || {
            let is_known = directory.routes.contains_key(&id);
            [is_known, directory.names.contains_key(&here), directory.unknown.contains_key(&nowhere)]
        };
        let remember = |seen| {
            let _ = directory.leads_nowhere(nowhere.clone(), seen);
            directory.remember(&route, Some(here.clone()), seen);
        };
        let seen = *directory.changes();
        let (begin, begun) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let mut changes = directory.changes();
            let late = scope.spawn(|| {
                begin.send(()).unwrap();
                remember(seen);
            });
            begun.recv().unwrap();
            for _ in 0..50 {
                assert_eq!(shown(), [false; 3]);
                std::thread::sleep(Duration::from_millis(1));
            }
            *changes += 1;
            drop(changes);
            late.join().unwrap();
        });
        assert_eq!(shown(), [false; 3]);
        // What nothing has changed since is remembered.
        remember(seen + 1);
        assert_eq!(shown(), [true; 3]);
    }
}
