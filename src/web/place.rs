//! Where in the deployment a request has arrived: put there by the resolution, read by handlers.

use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::failure::Failure;
use crate::base::{Error, Slug, codes};
use crate::tenants::Tenant;

/// Which of the two issuers is speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IssuerKind {
    /// The organization's own, with its own keys.
    Organization,
    /// The deployment's, for apps that want one issuer for all organizations.
    Deployment,
}

impl IssuerKind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Deployment => "deployment",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "deployment" { Self::Deployment } else { Self::Organization }
    }
}

/// The organization's address as this request used it; cheap to clone, since request and response both
/// carry it.
#[derive(Debug, Clone)]
pub struct Place(Arc<PlaceFacts>);

/// What a [`Place`] says.
#[derive(Debug)]
pub struct PlaceFacts {
    /// In front of every path of a page: empty, or `/o/acme`.
    pub base: String,
    pub slug: Slug,
    /// The organization's canonical address and issuer: `https://acme.example.com`.
    pub url: String,
    /// The issuer that this request addressed, and its URL.
    pub issuer: IssuerKind,
    pub issuer_url: String,
    /// The organization's name and colour, for the frame of pages; empty where no page is drawn.
    pub display_name: String,
    pub accent: Option<String>,
}

impl From<PlaceFacts> for Place {
    fn from(facts: PlaceFacts) -> Self {
        Self(Arc::new(facts))
    }
}

impl Deref for Place {
    type Target = PlaceFacts;

    fn deref(&self) -> &PlaceFacts {
        &self.0
    }
}

impl Place {
    /// A path of this organization's pages.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

impl<S: Sync> FromRequestParts<S> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let place = parts.extensions.get::<Self>().cloned();
        place.ok_or_else(|| Error::new(&codes::ORGANIZATION_NOT_FOUND).into())
    }
}

/// The one organization that the request resolved to. There is no other way to a [`Tenant`] here.
impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let tenant = parts.extensions.get::<Self>().cloned();
        tenant.ok_or_else(|| Error::new(&codes::ORGANIZATION_NOT_FOUND).into())
    }
}
