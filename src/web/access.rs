//! Who may call an operation of the API, as a parameter of its handler.
//!
//! A handler that wants to be reached names what it needs in its signature: [`Allowed<MembersRead>`].
//! Without the scope the handler does not run, so authorization cannot be forgotten inside it.

use std::marker::PhantomData;
use std::ops::Deref;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::failure::Failure;
pub use crate::base::Scope;
use crate::base::{ApiKeyId, Credential, CredentialKind, Error, OrganizationId, codes};

macro_rules! required {
    ($($variant:ident)*) => {
        /// One type a scope, for [`Allowed`] and [`Operator`].
        pub mod scope {
            use super::{Required, Scope};
            $(pub struct $variant;
            impl Required for $variant { const SCOPE: Scope = Scope::$variant; })*
        }
    };
}

required! {
    OrganizationsRead OrganizationsWrite
    MembersRead MembersWrite
    SessionsRead SessionsWrite
    ApplicationsRead ApplicationsWrite
    AuditRead
    KeysRead KeysWrite
    ExportsRead ExportsWrite
    BackupsRead
}

/// Who calls the API.
#[derive(Debug, Clone)]
pub struct Caller {
    pub identity: Identity,
    pub scopes: Vec<Scope>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// Somebody with access to the data directory, through the control socket or the stopped server.
    LocalOperator,
    /// A key of the deployment.
    OperatorKey { id: ApiKeyId, name: String },
    /// A key of one organization.
    OrganizationKey { id: ApiKeyId, name: String, organization: OrganizationId },
}

impl Caller {
    #[must_use]
    pub fn local() -> Self {
        Self { identity: Identity::LocalOperator, scopes: Scope::ALL.to_vec() }
    }

    #[must_use]
    pub const fn is_operator(&self) -> bool {
        !matches!(self.identity, Identity::OrganizationKey { .. })
    }

    /// Tells callers apart, for what is remembered by caller.
    #[must_use]
    pub fn key(&self) -> String {
        match &self.identity {
            Identity::LocalOperator => "local".to_owned(),
            Identity::OperatorKey { id, .. } | Identity::OrganizationKey { id, .. } => id.to_string(),
        }
    }
}

/// The scope that an operation needs.
pub trait Required {
    const SCOPE: Scope;
}

/// A caller with scope `R`: an operator, or a key of the organization that the request resolved to.
pub struct Allowed<R>(Caller, PhantomData<fn() -> R>);

/// An operator with scope `R`; no key of an organization, whatever its scopes.
pub struct Operator<R>(Caller, PhantomData<fn() -> R>);

impl<R> Deref for Allowed<R> {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<R> Deref for Operator<R> {
    type Target = Caller;
    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Sync, R: Required> FromRequestParts<S> for Allowed<R> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = with_scope::<R>(parts)?;
        if let Identity::OrganizationKey { organization, .. } = &caller.identity {
            let here = parts.extensions.get::<crate::tenants::Tenant>().map(crate::tenants::Tenant::id);
            if here != Some(*organization) {
                return Err(Error::new(&codes::FORBIDDEN).detail("This needs an operator's key.").into());
            }
        }
        Ok(Self(caller, PhantomData))
    }
}

impl<S: Sync, R: Required> FromRequestParts<S> for Operator<R> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = with_scope::<R>(parts)?;
        if !caller.is_operator() {
            return Err(Error::new(&codes::FORBIDDEN).detail("This needs an operator's key.").into());
        }
        Ok(Self(caller, PhantomData))
    }
}

fn with_scope<R: Required>(parts: &Parts) -> Result<Caller, Failure> {
    let caller = parts.extensions.get::<Caller>().ok_or_else(|| Error::new(&codes::UNAUTHENTICATED))?;
    if !caller.scopes.contains(&R::SCOPE) {
        let detail = format!("This needs the scope {}.", R::SCOPE.as_str());
        return Err(Error::new(&codes::FORBIDDEN).detail(detail).into());
    }
    Ok(caller.clone())
}

/// An API key in the form it was given out in. What is wrong with its checksum never reaches a disk.
#[must_use]
pub fn presented_key(headers: &HeaderMap) -> Option<Credential> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return None;
    }
    Credential::parse(CredentialKind::ApiKey, token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_one_well_formed_bearer_credential_counts() {
        let key = Credential::mint(CredentialKind::ApiKey, None, [7; 32]);
        let text = key.expose();
        for good in [format!("Bearer {text}"), format!("bearer  {text} ")] {
            assert!(presented_key(&with(&[&good])).is_some(), "{good}");
        }
        let session = Credential::mint(CredentialKind::Session, None, [7; 32]);
        for bad in [
            text.to_owned(),
            format!("Basic {text}"),
            format!("Bearer{text}"),
            format!("Bearer {}", &text[..text.len() - 1]),
            format!("Bearer {}", session.expose()),
            "Bearer".to_owned(),
            String::new(),
        ] {
            assert!(presented_key(&with(&[&bad])).is_none(), "{bad}");
        }
        let twice = format!("Bearer {text}");
        assert!(presented_key(&with(&[&twice, &twice])).is_none());
        assert!(presented_key(&HeaderMap::new()).is_none());
    }
}
