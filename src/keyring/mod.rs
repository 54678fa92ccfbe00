//! F2. The ring of data keys: those of each organization and the deployment's own, wrapped by the master key.
//!
//! It owns `keyring.sqlite`, a file apart from the catalog: an organization is erased by destroying its
//! keys, which is worth only as much as the history of this file is short. It owns whom the master key is asked
//! for ([`provider`]), for how long what was unwrapped is remembered ([`known`]), and how either kind of key is
//! replaced ([`master`], [`versions`]). It knows no organization's file and no table but its own. The master key itself is
//! kept in a file, in the environment or by somebody else, and is never written into the ring.
//!
//! What the deployment derives from a key (the seal of what travels through a browser, MACs, the seal of the catalog) is
//! derived from its own data key, not from the master key: it stays the same when the master key is rotated.

mod file_keys;
mod known;
mod master;
pub mod provider;
mod store;
mod versions;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::base::{Clock, Error, OrganizationId, Result, Timestamp, Turns, codes};
use crate::crypto::{DataKey, DataKeys, hash};
use crate::sqlite::{Backup, Database, KeyringDb, Opening, Still, bytes_of_new};

pub use file_keys::{FileChange, FileKeys, FileStanding};
pub use known::{CacheFigures, OrganizationKeys};
pub use master::{MasterPlan, MasterStatus};
pub use provider::{Health, Provider, Settings};
pub use store::{DataRotation, MasterRotation, Swept};
pub use versions::Replaced;

use known::Known;
use provider::Providers;
use store::Kept;

const MIGRATIONS: &[&str] =
    &[include_str!("0001_initial.sql"), include_str!("0002_versions.sql"), include_str!("0003_file_keys.sql")];
const DEPLOYMENT: &str = "deployment";

/// What can be said of a data key without telling it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WrappedKey {
    /// Of its wrapped form, in hexadecimal.
    pub sha256: String,
    /// The master key that it is wrapped with.
    pub master_key_id: String,
    pub created_at: Timestamp,
    /// The same of the key of its whole file, where that is ciphertext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_key_sha256: Option<String>,
    /// The same of the versions before either that are kept for backups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_sha256: Vec<String>,
}

/// The keyring of a data directory; cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    database: Database<KeyringDb>,
    providers: Providers,
    /// Keys that were unwrapped lately; whatever is destroyed leaves it as well.
    known: Known,
    /// Held by whoever reads, replaces or destroys the keys of one organization.
    turns: Turns<OrganizationId>,
    /// Shared by whoever wraps a new key, and held by whoever takes a master key out of its file.
    wrapping: tokio::sync::RwLock<()>,
}

/// A key that was wrapped and is not in the ring yet. While there is one, no master key leaves its file: it may be the
/// one that wrapped it.
struct Fresh<'a> {
    wrapped: Vec<u8>,
    by: String,
    _master_stays: tokio::sync::RwLockReadGuard<'a, ()>,
}

impl Keyring {
    /// Opens the ring, making an empty one on first use. Blocking.
    pub fn open(directory: &Path, settings: impl Into<Settings>, clock: Clock, backup: Backup) -> Result<Self> {
        let settings = settings.into();
        let path = directory.join("keyring.sqlite");
        if !path.exists() {
            let bytes = bytes_of_new::<KeyringDb>(directory, MIGRATIONS)?;
            crate::sqlite::place_file(&path, &bytes)?;
        }
        let opening = Opening { path: &path, migrations: MIGRATIONS, readers: 2, clock: clock.clone(), backup };
        let database = Database::open(opening)?;
        let known = Known::new(settings.cached, settings.remember);
        let providers = Providers::new(settings, clock);
        let (turns, wrapping) = (Turns::default(), tokio::sync::RwLock::default());
        Ok(Self(Arc::new(Inner { database, providers, known, turns, wrapping })))
    }

    /// Makes the data key of a new organization; the same one again if a crash came in between.
    pub async fn create(&self, organization: OrganizationId) -> Result<Arc<OrganizationKeys>> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        let name = organization.to_string();
        self.create_first(&name).await?;
        let found = self.find(&name).await?.ok_or_else(|| Error::internal("a data key vanished"))?;
        Ok(self.0.known.put(organization, found.0, self.now(), found.1))
    }

    /// The data keys of an organization. Where an outside provider unwrapped them, and that is longer ago than they are
    /// remembered, it is asked again; when it does not answer, nobody gets them.
    pub async fn keys(&self, organization: OrganizationId) -> Result<Arc<OrganizationKeys>> {
        if let Some(keys) = self.0.known.get(organization, self.now()) {
            return Ok(keys);
        }
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        // Somebody else may have had them unwrapped meanwhile.
        if let Some(keys) = self.0.known.get(organization, self.now()) {
            return Ok(keys);
        }
        let found = self.find(&organization.to_string()).await?;
        let missing = || Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("its data key is not in the keyring");
        let (keys, is_here) = found.ok_or_else(missing)?;
        Ok(self.0.known.put(organization, keys, self.now(), is_here))
    }

    /// The deployment's own data key, made on first use.
    pub async fn deployment(&self) -> Result<DataKey> {
        self.create_first(DEPLOYMENT).await?;
        let found = self.find(DEPLOYMENT).await.map_err(|error| {
            let why = error.cause().unwrap_or_else(|| error.to_string());
            let what = "The deployment's own key cannot be unwrapped, so nothing can be served.";
            Error::new(error.code()).detail(what).because(format!("the deployment's data key: {why}"))
        })?;
        Ok(found.ok_or_else(|| Error::internal("a data key vanished"))?.0.newest.1)
    }

    /// Destroys every version of a key: whatever they sealed is gone, in every copy. When this returns, the wrapped keys
    /// are neither in the file nor in its WAL: pages are overwritten (`secure_delete`), and the WAL is cut off.
    pub async fn destroy(&self, organization: OrganizationId) -> Result<()> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        self.0
            .database
            .write(|db| {
                store::delete_all(db, &file_keys::name(organization))?;
                store::delete_all(db, &organization.to_string())
            })
            .await?;
        self.0.known.forget(organization);
        self.0.database.fold().await
    }

    /// A key as it is kept: of no use without the master key, and enough to say later which one was destroyed.
    pub async fn wrapped(&self, organization: OrganizationId) -> Result<Option<WrappedKey>> {
        let of = |name: String| self.0.database.read(move |db| store::versions(db, &name));
        let (kept, file) = (of(organization.to_string()).await?, of(file_keys::name(organization)).await?);
        let mut digests = kept.iter().map(|key| hex::encode(hash::sha256(&key.wrapped)));
        let (Some(newest), Some(sha256)) = (kept.first(), digests.next()) else { return Ok(None) };
        Ok(Some(WrappedKey {
            sha256,
            master_key_id: newest.by.clone(),
            created_at: newest.created_at,
            file_key_sha256: file.first().map(|key| hex::encode(hash::sha256(&key.wrapped))),
            earlier_sha256: digests
                .chain(file.iter().skip(1).map(|key| hex::encode(hash::sha256(&key.wrapped))))
                .collect(),
        }))
    }

    /// Folds the WAL into the file. Blocking; at shutdown.
    pub fn settle(&self) {
        self.0.database.settle();
    }

    /// Works on the file between two of its transactions; for backups.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        self.0.database.still(work).await
    }

    /// Whether there is a key for the organization. Nobody is asked to unwrap it, unless we have the master key.
    pub async fn holds(&self, organization: OrganizationId) -> Result<bool> {
        let name = organization.to_string();
        let kept = self.0.database.read(|db| store::versions(db, &name)).await?;
        for key in kept.iter().filter(|key| Providers::is_here(&key.by)) {
            self.unwrap(key).await?;
        }
        Ok(!kept.is_empty())
    }

    /// How the cache does.
    #[must_use]
    pub fn cache(&self) -> CacheFigures {
        self.0.known.figures()
    }

    /// How the provider does.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.providers.health()
    }

    async fn create_first(&self, name: &str) -> Result<()> {
        if self.0.database.read(|db| store::is_there(db, name)).await? {
            return Ok(());
        }
        let fresh = self.fresh(name, 1).await?;
        // Where somebody else was faster, theirs is the key.
        self.0.database.write(|db| store::insert_first(db, name, &fresh.wrapped, &fresh.by)).await.map(drop)
    }

    /// A new key, wrapped under its name.
    async fn fresh(&self, name: &str, version: u32) -> Result<Fresh<'_>> {
        let master_stays = self.0.wrapping.read().await;
        let (wrapped, by) = self.0.providers.wrap(&label(name, version), &DataKey::generate()).await?;
        Ok(Fresh { wrapped, by, _master_stays: master_stays })
    }

    /// All versions, unwrapped, and whether nobody had to be asked for them.
    async fn find(&self, name: &str) -> Result<Option<(DataKeys, bool)>> {
        let kept = self.0.database.read(|db| store::versions(db, name)).await?;
        let is_here = kept.iter().all(|key| Providers::is_here(&key.by));
        let mut keys = Vec::with_capacity(kept.len());
        for key in &kept {
            keys.push((key.version, self.unwrap(key).await?));
        }
        let mut keys = keys.into_iter();
        Ok(keys.next().map(|newest| (DataKeys { newest, older: keys.collect() }, is_here)))
    }

    async fn unwrap(&self, key: &Kept) -> Result<DataKey> {
        self.0.providers.unwrap(&label(&key.name, key.version), &key.wrapped, &key.by).await
    }

    /// Whoever reads, replaces or destroys the keys of one organization takes turns.
    fn turn(&self, organization: OrganizationId) -> Arc<tokio::sync::Mutex<()>> {
        self.0.turns.of(organization)
    }

    fn now(&self) -> Timestamp {
        self.0.database.clock().now()
    }
}

/// What a wrapped key is bound to. The first version is named as every keyring of before has it.
fn label(name: &str, version: u32) -> String {
    if version == 1 { name.to_owned() } else { format!("{name}#{version}") }
}
