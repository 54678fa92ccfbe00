//! Who calls the API: from `Authorization: Bearer bh_sk_…` to a [`Caller`] in the request's extensions.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::base::{ApiKeyId, Credential, CredentialKind, Error, OrganizationId, Result, codes};
use crate::catalog::Catalog;
use crate::crypto::hash;
use crate::features::DEPLOYMENT;
use crate::features::api_key::{self, ApiKey};
use crate::tenants::Tenant;
use crate::web::access::{Identity, presented_key};
use crate::web::limits::{Left, Limits};
use crate::web::{Caller, Failure};

/// The deployment's keys, for recognising them and nothing else; cheap to clone. It gives no access to
/// the catalog behind it.
#[derive(Clone)]
pub struct OperatorKeys {
    catalog: Catalog,
}

impl OperatorKeys {
    #[must_use]
    pub const fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }

    /// The operator whose key this is, if it is one that may be used now.
    pub async fn authenticate(&self, credential: &Credential) -> Result<Option<Caller>> {
        if credential.kind() != CredentialKind::ApiKey || credential.organization().is_some() {
            return Ok(None);
        }
        let secret_hash = hash::credential_hash(credential);
        let found = self.catalog.read(|db| Ok(usable(api_key::by_hash(db, &secret_hash)?, db.now()))).await?;
        let Some((key, is_use_due)) = found else { return Ok(None) };
        if is_use_due {
            unless_full(self.catalog.write(|db| api_key::note_use(db, key.id)).await)?;
        }
        Ok(Some(caller(key, |id, name| Identity::OperatorKey { id, name })))
    }
}

/// What the layer [`authenticate`] works with.
#[derive(Clone)]
pub struct Authenticator {
    pub operators: OperatorKeys,
    pub limits: Limits,
}

impl Authenticator {
    /// The operator whose key the request presents, counted among their calls about this organization, and what is left
    /// of those. 401 without one.
    pub async fn operator(&self, headers: &HeaderMap, about: Option<OrganizationId>) -> Result<(Caller, Option<Left>)> {
        let caller = match presented_key(headers) {
            Some(credential) => self.operators.authenticate(&credential).await?,
            None => None,
        };
        let caller = caller.ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
        let left = self.limits.api.check(&(about.unwrap_or(DEPLOYMENT), caller.key()))?;
        Ok((caller, left))
    }
}

/// Recognises the caller. Without a credential that can be used the answer is 401: a wrong, revoked and
/// expired key are all the same to whoever holds it.
///
/// It stands inside the layer that finds the organization, whose own keys it looks up in its file.
pub async fn authenticate(State(auth): State<Authenticator>, mut request: Request, next: Next) -> Response {
    let mut left = request.extensions_mut().remove::<Left>();
    // The control socket has spoken for its peer already, and so has the front door for an operator.
    if request.extensions().get::<Caller>().is_none()
        && let Some(credential) = presented_key(request.headers())
    {
        let found = match credential.organization() {
            None => auth.operators.authenticate(&credential).await,
            Some(organization) => {
                let tenant = request.extensions().get::<Tenant>().cloned();
                of_organization(tenant, organization, &credential).await
            }
        };
        match found {
            Ok(Some(caller)) => {
                let organization = request.extensions().get::<Tenant>().map_or(DEPLOYMENT, Tenant::id);
                match auth.limits.api.check(&(organization, caller.key())) {
                    Ok(now) => left = now,
                    Err(error) => return Failure::from(error).into_response(),
                }
                request.extensions_mut().insert(caller);
            }
            Ok(None) => (),
            Err(error) => return Failure::from(error).into_response(),
        }
    }
    // Before any handler looks at what is asked for, so that nobody learns which organizations there are.
    if request.extensions().get::<Caller>().is_none() {
        return Failure::from(Error::new(&codes::UNAUTHENTICATED)).into_response();
    }
    let mut response = next.run(request).await;
    if response.status().is_success()
        && let Some(left) = left
    {
        left.tell(response.headers_mut());
    }
    response
}

/// A key of the organization that the request has resolved to; one of another is unknown here.
async fn of_organization(
    tenant: Option<Tenant>,
    organization: OrganizationId,
    credential: &Credential,
) -> Result<Option<Caller>> {
    let Some(tenant) = tenant.filter(|tenant| tenant.id() == organization) else { return Ok(None) };
    let secret_hash = hash::credential_hash(credential);
    let found = tenant.read(|db| Ok(usable(api_key::by_hash(db, &secret_hash)?, db.now()))).await?;
    let Some((key, is_use_due)) = found else { return Ok(None) };
    if is_use_due {
        unless_full(tenant.write(|db| api_key::note_use(db, key.id)).await)?;
    }
    Ok(Some(caller(key, |id, name| Identity::OrganizationKey { id, name, organization })))
}

/// When a key was used last is no reason to refuse it: where the disk takes nothing, reading goes on.
fn unless_full(noted: Result<()>) -> Result<()> {
    noted.or_else(|error| if error.is_of_storage() || error.is_of_a_shut_file() { Ok(()) } else { Err(error) })
}

/// The key if it may be used now, and whether its use should be written down.
fn usable(key: Option<ApiKey>, now: crate::base::Timestamp) -> Option<(ApiKey, bool)> {
    let key = key.filter(|key| key.is_usable(now))?;
    let is_use_due = key.is_use_due(now);
    Some((key, is_use_due))
}

fn caller(key: ApiKey, identity: impl FnOnce(ApiKeyId, String) -> Identity) -> Caller {
    Caller { scopes: key.scopes, identity: identity(key.id, key.name) }
}
