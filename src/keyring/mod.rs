//! F2. The ring of data keys, one an organization and one for the deployment, wrapped by the master key.
//!
//! It owns `keyring.sqlite`, a file apart from the catalog: an organization is erased by destroying its
//! key, which is worth only as much as the history of this file is short. It knows no organization's
//! file and no table but its own. The master key itself is read from a file or the environment and is
//! never written here.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::base::{Clock, Error, OrganizationId, Result, Timestamp, codes};
use crate::crypto::{DataKey, MasterKey, hash};
use crate::sqlite::{Backup, Database, KeyringDb, Opening, Still, bytes_of_new, params};

const MIGRATIONS: &[&str] = &[include_str!("0001_initial.sql")];
const DEPLOYMENT: &str = "deployment";

/// What can be said of a data key without telling it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WrappedKey {
    /// Of its wrapped form, in hexadecimal.
    pub sha256: String,
    /// The master key that it is wrapped with.
    pub master_key_id: String,
    pub created_at: Timestamp,
}

/// The keyring of a data directory; cheap to clone.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    database: Database<KeyringDb>,
    master: MasterKey,
    /// Keys that were unwrapped lately; whatever is destroyed leaves it as well.
    known: Cache<OrganizationId, DataKey>,
    /// Counts destructions.
    destroyed: AtomicU64,
}

const KNOWN: u64 = 10_000;

impl Keyring {
    /// Opens the ring, making an empty one on first use. Blocking.
    pub fn open(directory: &Path, master: MasterKey, clock: Clock, backup: Backup) -> Result<Self> {
        let path = directory.join("keyring.sqlite");
        if !path.exists() {
            let bytes = bytes_of_new::<KeyringDb>(directory, MIGRATIONS)?;
            crate::sqlite::place_file(&path, &bytes)?;
        }
        let database = Database::open(Opening { path: &path, migrations: MIGRATIONS, readers: 2, clock, backup })?;
        let (known, destroyed) = (Cache::new(KNOWN), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { database, master, known, destroyed })))
    }

    /// Makes the data key of a new organization; the same one again if a crash came in between.
    pub async fn create(&self, organization: OrganizationId) -> Result<DataKey> {
        self.get_or_create(&organization.to_string()).await
    }

    /// The data key of an organization.
    pub async fn get(&self, organization: OrganizationId) -> Result<DataKey> {
        if let Some(key) = self.0.known.get(&organization) {
            return Ok(key);
        }
        let seen = self.0.destroyed.load(Ordering::SeqCst);
        let found = self.find(&organization.to_string()).await?;
        let missing = || Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("its data key is not in the keyring");
        let key = found.ok_or_else(missing)?;
        self.0.known.insert(organization, key.clone());
        // One that was destroyed while it was read must not outlive that here.
        if self.0.destroyed.load(Ordering::SeqCst) != seen {
            self.0.known.invalidate(&organization);
        }
        Ok(key)
    }

    /// The deployment's own data key, made on first use.
    pub async fn deployment(&self) -> Result<DataKey> {
        self.get_or_create(DEPLOYMENT).await
    }

    /// Destroys a key: whatever it sealed is gone, in every copy. When this returns, the wrapped key is neither in
    /// the file nor in its WAL: pages are overwritten (`secure_delete`), and the WAL is cut off.
    pub async fn destroy(&self, organization: OrganizationId) -> Result<()> {
        self.0
            .database
            .write(|db| db.execute("DELETE FROM data_key WHERE name = ?", params![organization.to_string()]))
            .await?;
        self.0.destroyed.fetch_add(1, Ordering::SeqCst);
        self.0.known.invalidate(&organization);
        self.0.database.fold().await
    }

    /// A key as it is kept: of no use without the master key, and enough to say later which one was destroyed.
    pub async fn wrapped(&self, organization: OrganizationId) -> Result<Option<WrappedKey>> {
        self.0
            .database
            .read(|db| {
                db.one(
                    "SELECT wrapped, master_key_id, created_at FROM data_key WHERE name = ?",
                    params![organization.to_string()],
                    |row| {
                        let sha256 = hex::encode(hash::sha256(&row.get::<_, Vec<u8>>(0)?));
                        Ok(WrappedKey { sha256, master_key_id: row.get(1)?, created_at: row.get(2)? })
                    },
                )
            })
            .await
    }

    /// Works on the file between two of its transactions; for backups.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        self.0.database.still(work).await
    }

    /// Whether there is a key for the organization.
    pub async fn holds(&self, organization: OrganizationId) -> Result<bool> {
        Ok(self.find(&organization.to_string()).await?.is_some())
    }

    async fn get_or_create(&self, name: &str) -> Result<DataKey> {
        if let Some(key) = self.find(name).await? {
            return Ok(key);
        }
        let key = DataKey::generate();
        let wrapped = self.0.master.wrap(name, &key);
        let stored = self
            .0
            .database
            .write(|db| {
                db.execute(
                    "INSERT INTO data_key (name, wrapped, master_key_id, created_at) VALUES (?, ?, ?, ?)
                     ON CONFLICT (name) DO NOTHING",
                    params![name, wrapped, self.0.master.id(), db.now()],
                )
            })
            .await?;
        // Somebody else was faster: theirs is the key.
        if stored == 0 { self.find(name).await?.ok_or_else(|| Error::internal("a data key vanished")) } else { Ok(key) }
    }

    async fn find(&self, name: &str) -> Result<Option<DataKey>> {
        let row = self
            .0
            .database
            .read(|db| {
                db.one("SELECT wrapped, master_key_id FROM data_key WHERE name = ?", params![name], |row| {
                    Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, String>(1)?))
                })
            })
            .await?;
        row.map(|(wrapped, master_key_id)| {
            self.0.master.unwrap(name, &wrapped).map_err(|_| {
                let why = if master_key_id == self.0.master.id() {
                    "it was changed, or moved here from elsewhere".to_owned()
                } else {
                    let ours = self.0.master.id();
                    format!("it was wrapped by another master key ({master_key_id}; this server has {ours})")
                };
                if name == DEPLOYMENT {
                    return Error::internal(format!("the deployment's data key cannot be unwrapped: {why}"));
                }
                Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("its data key cannot be unwrapped: {why}"))
            })
        })
        .transpose()
    }
}
