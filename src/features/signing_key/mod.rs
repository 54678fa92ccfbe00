//! Keys that sign tokens: each organization's own, sealed in its own file, and the deployment's, sealed
//! in the catalog, for its own issuer.
//!
//! Rotation overlaps and needs no timer: a key is published from its creation, signs from `active_from`
//! (later than any cache of the JWKS lives), and is published until `retire_at` (later than any token it
//! signed lives). ES256 keys are made at once; RSA keys come from a stock, when first needed, so that
//! making an organization never waits for one.

pub mod http;
mod store;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};

use crate::base::time::length;
use crate::base::{Result, SigningKeyId, Timestamp};
use crate::catalog::Catalog;
use crate::crypto::{Algorithm, KeyStock, NewSigningKey, PublicKey, Sealer, SigningKey, random};
use crate::features::audit::{self, Act, By, Target};
use crate::sqlite::{Kind, Read, Write};
use crate::tenants::Tenant;

/// How long others may keep a copy of the JWKS; also sent as `Cache-Control: max-age`.
pub const JWKS_CACHE: Duration = length::minutes(5);
/// A new key is published this long before it signs.
const LEAD: Duration = length::minutes(10);
/// An old key is published this long after it has stopped signing; ID tokens live an hour at the most.
const TRAIL: Duration = length::hours(24);

/// A key with its time of service.
pub struct Serving {
    pub id: SigningKeyId,
    pub key: SigningKey,
    pub created_at: Timestamp,
    pub active_from: Timestamp,
    pub retire_at: Option<Timestamp>,
}

/// All keys of one issuer that are not retired for good, oldest first.
pub struct Keys(Vec<Serving>);

impl Keys {
    /// The key that signs now: the newest whose time has come.
    #[must_use]
    pub fn signer(&self, algorithm: Algorithm, now: Timestamp) -> Option<&SigningKey> {
        let mut serving = self.published(now).filter(|s| s.key.algorithm() == algorithm).collect::<Vec<_>>();
        serving.sort_by_key(|s| s.active_from);
        serving.into_iter().rev().find(|s| s.active_from <= now).map(|s| &s.key)
    }

    /// The key that a token names, if it is still published.
    #[must_use]
    pub fn public(&self, kid: &str, now: Timestamp) -> Option<PublicKey> {
        self.published(now).find(|s| s.key.kid() == kid).map(|s| s.key.public())
    }

    /// The published keys (RFC 7517 section 5).
    #[must_use]
    pub fn jwks(&self, now: Timestamp) -> Value {
        json!({ "keys": self.published(now).map(|s| s.key.jwk()).collect::<Vec<_>>() })
    }

    #[must_use]
    pub fn all(&self) -> &[Serving] {
        &self.0
    }

    fn published(&self, now: Timestamp) -> impl Iterator<Item = &Serving> {
        self.0.iter().filter(move |s| s.retire_at.is_none_or(|retire_at| retire_at > now))
    }
}

/// The deployment's own keys; cheap to clone. It gives no access to the catalog behind it.
#[derive(Clone)]
pub struct DeploymentKeys {
    catalog: Catalog,
    memory: Arc<RwLock<Option<Arc<Keys>>>>,
}

impl DeploymentKeys {
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, memory: Arc::default() }
    }
}

/// The keys of one issuer, wherever they are kept.
pub enum Holder<'a> {
    Organization(&'a Tenant),
    Deployment(&'a DeploymentKeys),
}

impl Holder<'_> {
    /// The keys as they are, from memory if they were read before.
    pub async fn keys(&self) -> Result<Arc<Keys>> {
        match self {
            Self::Organization(tenant) => match tenant.recall::<Keys>() {
                Some(keys) => Ok(keys),
                None => Ok(tenant.remember(tenant.read(|db| store::all(db, tenant.sealer())).await?)),
            },
            Self::Deployment(deployment) => {
                let known = deployment.memory.read().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(keys) = known {
                    return Ok(keys);
                }
                let keys = deployment.catalog.read(|db| store::all(db, deployment.catalog.sealer())).await?;
                let keys = Arc::new(keys);
                *deployment.memory.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&keys));
                Ok(keys)
            }
        }
    }

    /// The keys, with one that can sign by each of `algorithms`; made now if there is none.
    pub async fn keys_for(&self, algorithms: &[Algorithm], stock: &KeyStock) -> Result<Arc<Keys>> {
        let mut keys = self.keys().await?;
        for &algorithm in algorithms {
            if keys.signer(algorithm, self.now()).is_none() {
                let new = stock.take(algorithm).await?;
                match self.add(&new, &By::system(), Lead::OnlyIfNone).await {
                    // Where nothing is written, what is there must do: reading it goes on.
                    Err(error) if error.is_of_a_shut_file() => continue,
                    added => added?,
                }
                keys = self.keys().await?;
            }
        }
        Ok(keys)
    }

    /// Makes a new key that takes over after the lead time, or at once.
    ///
    /// At once is for a key that has leaked: the old one is withdrawn in the same moment, tokens that
    /// it signed are no longer accepted, and clients with a cached JWKS must fetch it again.
    pub async fn rotate(&self, algorithm: Algorithm, immediately: bool, stock: &KeyStock, by: &By) -> Result<()> {
        let new = stock.take(algorithm).await?;
        self.add(&new, by, if immediately { Lead::None } else { Lead::Published }).await
    }

    async fn add(&self, new: &NewSigningKey, by: &By, lead: Lead) -> Result<()> {
        match self {
            Self::Organization(tenant) => {
                tenant.write(|db| add(db, tenant.sealer(), new, by, lead)).await?;
                tenant.forget::<Keys>();
            }
            Self::Deployment(deployment) => {
                deployment.catalog.write(|db| add(db, deployment.catalog.sealer(), new, by, lead)).await?;
                *deployment.memory.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        match self {
            Self::Organization(tenant) => tenant.clock().now(),
            Self::Deployment(deployment) => deployment.catalog.clock().now(),
        }
    }
}

/// How a new key comes into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// The first of its algorithm: nobody can have cached anything.
    OnlyIfNone,
    /// Published first, signing later.
    Published,
    /// Signing now, the others withdrawn.
    None,
}

/// Seals a first key into a new organization's file.
pub fn seed<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, new: &NewSigningKey) -> Result<()> {
    add(db, sealer, new, &By::system(), Lead::OnlyIfNone)
}

/// Refuses what a data key has sealed that is not there any more.
pub fn require_keys<K: Kind>(db: &Read<'_, K>, sealer: &Sealer) -> Result<()> {
    store::sealed(db)?.iter().try_for_each(|(_, sealed)| sealer.require_key_of(sealed))
}

/// Seals anew what an older data key has sealed; returns how many rows.
pub fn reseal<K: Kind>(db: &Write<'_, K>, sealer: &Sealer) -> Result<usize> {
    store::sealed(db)?
        .iter()
        .try_fold(0, |count, (id, sealed)| Ok(count + usize::from(store::reseal(db, sealer, *id, sealed)?)))
}

fn add<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, new: &NewSigningKey, by: &By, lead: Lead) -> Result<()> {
    let now = db.now();
    if lead == Lead::OnlyIfNone && store::has_active(db, new.algorithm)? {
        return Ok(());
    }
    let active_from = if lead == Lead::Published { now.plus(LEAD) } else { now };
    let retire_old_at = if lead == Lead::None { now } else { active_from.plus(TRAIL) };
    store::retire(db, new.algorithm, retire_old_at)?;
    let id: SigningKeyId = random::id(now);
    store::insert(db, sealer, id, new, active_from)?;
    let act = Act::new("signing_key.created").on(Target::new("signing_key", id));
    audit::record(db, by, act.with("algorithm", new.algorithm.as_str()).with("withdrawn_old", lead == Lead::None))?;
    Ok(())
}
