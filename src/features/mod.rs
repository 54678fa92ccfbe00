//! F4. What the product can do, one folder a capability: `mod.rs` holds the rules, `store.rs` the SQL,
//! `http.rs` the translation to and from HTTP.
//!
//! Features may use one another in one order only, which is that of `FEATURES` in `tests/it/architecture/rules.rs`.
//! Here are also the two states that handlers are given: [`TenantState`] knows no catalog, so that what
//! answers for one organization has no way to another.

pub mod account;
pub mod api;
pub mod api_key;
pub mod application;
pub mod audit;
pub mod backup;
pub mod encryption;
pub mod erasure;
pub mod export;
pub mod fleet;
pub mod freeze;
pub mod idempotency;
pub mod import;
pub mod inspection;
pub mod keys;
pub mod member;
pub mod membership;
pub mod oauth;
pub mod organization;
pub mod outbox;
pub mod password;
pub mod placement;
pub mod provisioning;
pub mod recovery;
pub mod session;
pub mod sign_up;
pub mod signing_key;
pub mod status;
pub mod transfer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, Notify};

use crate::backup::Backups;
use crate::base::{Clock, OrganizationId};
use crate::catalog::{Catalog, Directory};
use crate::crypto::{HashParameters, KeyStock, MacKey, PasswordHasher, TokenBox};
use crate::outbound::Mailer;
use crate::tenants::Tenants;
use crate::web::limits::Limits;
use crate::web::{Address, IssuerKind};
use std::sync::Arc;

/// What handlers of one organization work with, besides its [`crate::tenants::Tenant`].
#[derive(Clone)]
pub struct TenantState(Arc<Services>);

/// The long-lived things that are the same for every organization.
pub struct Services {
    pub address: Address,
    pub clock: Clock,
    pub hasher: PasswordHasher,
    pub hash_parameters: HashParameters,
    pub key_stock: KeyStock,
    pub applications: application::Book,
    pub deployment_keys: signing_key::DeploymentKeys,
    pub operator_log: audit::http::OperatorLog,
    pub operator_keys: api_key::http::OperatorKeys,
    /// State that travels through a browser, sealed.
    pub boxes: TokenBox,
    pub mac: MacKey,
    pub limits: Limits,
    pub policy: organization::PolicyDefaults,
    pub quotas: organization::QuotaDefaults,
    pub tokens: TokenLifetimes,
    /// Archives that wait to be fetched.
    pub exports: export::Shelf,
    /// Whether mail goes to the local mailbox page instead of out.
    pub local_mailbox: bool,
}

/// What handlers of the deployment work with. It leads to every organization, so only those that
/// route, make or administer organizations are given it.
#[derive(Clone)]
pub struct DeploymentState {
    pub tenant: TenantState,
    pub catalog: Catalog,
    pub directory: Directory,
    pub tenants: Tenants,
    pub sign_up: SignUpRules,
    pub mailer: Arc<Mailer>,
    pub fleet: fleet::Desk,
    /// Wakes whoever rotates keys.
    pub keys: keys::Desk,
    /// Wakes whoever erases organizations.
    pub erasures: erasure::Desk,
    /// Where copies go, if a backup is configured.
    pub backups: Option<Backups>,
    /// Who has a past state put together at the moment.
    pub inspections: inspection::Desk,
    /// Files on their way to other volumes.
    pub relocations: placement::Desk,
    /// Files on their way to other keys.
    pub encryptions: encryption::Desk,
    /// Keeps the steps of one arrival apart.
    pub arrivals: transfer::Desk,
    /// Looks at what is uploaded.
    pub imports: import::Checker,
}

/// Wakes whoever works in the background on what is given to it, keeps two from doing so at the same time, and lets
/// them come to an end.
#[derive(Default)]
pub struct Bell<T> {
    rings: Notify,
    at_work: Mutex<T>,
    is_closed: AtomicBool,
}

impl<T> Bell<T> {
    /// There is something to do.
    pub fn ring(&self) {
        self.rings.notify_one();
    }

    /// Until it rings.
    pub async fn rung(&self) {
        self.rings.notified().await;
    }

    /// The turn of whoever works.
    pub async fn turn(&self) -> MutexGuard<'_, T> {
        self.at_work.lock().await
    }

    /// Nothing further is begun; returns when what is under way has ended.
    pub async fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        drop(self.turn().await);
        self.ring();
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }
}

/// Who may create organizations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignUpRules {
    /// Whether people may sign up by themselves.
    pub open: bool,
    /// How many organizations one mailbox may found; 0 is no limit.
    pub max_per_email: u32,
}

/// How long tokens live.
#[derive(Debug, Clone, Copy)]
pub struct TokenLifetimes {
    pub access_token: Duration,
    pub authorization_code: Duration,
    pub id_token: Duration,
    /// From the app's request to the code.
    pub authorization_request: Duration,
}

impl TenantState {
    #[must_use]
    pub fn new(services: Services) -> Self {
        Self(Arc::new(services))
    }

    /// The name of the application whose sealed request waits for a sign-in, for the page to say.
    #[must_use]
    pub fn waiting_application(&self, request: &str) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Waiting {
            client_id: String,
        }
        let opened = self.boxes.open("authorization_request", request)?;
        let waiting: Waiting = serde_json::from_slice(&opened).ok()?;
        self.applications.find(&waiting.client_id).map(|application| application.name.clone())
    }

    /// Where the local mailbox is, if mail goes there.
    #[must_use]
    pub fn mailbox_url(&self) -> Option<String> {
        self.local_mailbox.then(|| format!("{}/mailbox", self.address.origin()))
    }

    /// The keys of the issuer that the request addressed.
    #[must_use]
    pub fn keys<'a>(&'a self, tenant: &'a crate::tenants::Tenant, issuer: IssuerKind) -> signing_key::Holder<'a> {
        match issuer {
            IssuerKind::Organization => signing_key::Holder::Organization(tenant),
            IssuerKind::Deployment => signing_key::Holder::Deployment(&self.deployment_keys),
        }
    }
}

impl std::ops::Deref for TenantState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// The key of limits that belong to no organization.
pub const DEPLOYMENT: OrganizationId = OrganizationId::from_bits(0);
