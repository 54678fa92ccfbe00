//! What one organization takes of what all of them share: its account is asked before its file is opened, and kept
//! with the file while that is open.

use std::sync::Arc;

use super::open_files::Tenants;
use super::tenant::Tenant;
use crate::base::{OrganizationId, Result, Secret, codes};
use crate::catalog::TenantRoute;
use crate::crypto::{PasswordHasher, Share, Verdict};
use crate::fairness::{Account, Fairness, Plan};
use crate::sqlite::{Database, Meter, TenantDb};

impl Tenants {
    /// The account of the organization that the route leads to. Only a name that leads somewhere has a route, so
    /// names that somebody makes up leave nothing behind.
    #[must_use]
    pub fn account(&self, route: &TenantRoute) -> Arc<Account> {
        self.0.fairness.account(route.organization())
    }

    #[must_use]
    pub fn fairness(&self) -> &Fairness {
        &self.0.fairness
    }

    /// The account of a file that is being opened, with what the file says of it.
    pub(super) fn account_of(
        &self,
        database: &Database<TenantDb>,
        id: OrganizationId,
        own: Option<&str>,
    ) -> Arc<Account> {
        let account = self.0.fairness.account(id);
        account.apply(&own.and_then(|own| serde_json::from_str(own).ok()).unwrap_or_default());
        database.metered(Arc::new(Counted(Arc::clone(&account))));
        account
    }
}

impl Tenant {
    /// What the organization may take from now on.
    pub fn limit(&self, plan: &Plan) {
        self.0.account.apply(plan);
    }

    /// Hashes a password in this organization's share of the pool.
    pub async fn hash(&self, hasher: &PasswordHasher, password: Secret) -> Result<String> {
        self.noted(hasher.hash(self.share(), password).await)
    }

    /// Compares a password in this organization's share of the pool; see [`PasswordHasher::verify`].
    pub async fn verify(&self, hasher: &PasswordHasher, password: Secret, phc: Option<String>) -> Result<Verdict> {
        self.noted(hasher.verify(self.share(), password, phc).await)
    }

    fn share(&self) -> Share {
        let (at_once, waiting) = self.0.account.hashing();
        Share { organization: self.0.id, at_once, waiting }
    }

    fn noted<T>(&self, hashed: Result<T>) -> Result<T> {
        hashed.map_err(|error| match error.is(&codes::ORGANIZATION_HASHING_LIMITED) {
            true => error.limited_by(self.0.account.hash_refused()),
            false => error,
        })
    }
}

/// Counts what is written to one organization's file.
struct Counted(Arc<Account>);

impl Meter for Counted {
    fn may_write(&self) -> Result<()> {
        self.0.may_write()
    }

    fn wrote(&self, bytes: u64) {
        self.0.wrote(bytes);
    }
}
