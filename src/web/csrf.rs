//! Protection against forged forms: a random cookie, and its keyed hash as a hidden field.
//!
//! Two independent checks. Browsers say where a request comes from (`Sec-Fetch-Site`, `Origin`), and
//! a form of ours carries a token that only a page of ours for this browser and this organization can
//! have written. A plain HTTP client has the second and need not send the first.

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;

use super::cookie::{self, Purpose};
use super::failure::Failure;
use super::place::Place;
use super::reply;
use crate::base::{Error, HostName, codes};
use crate::crypto::hash::MacKey;
use crate::crypto::{hash, random};

/// What the layer needs.
#[derive(Clone)]
pub struct Guard {
    pub key: MacKey,
    pub secure: bool,
}

/// The token for the forms of one page.
#[derive(Debug, Clone)]
pub struct Csrf {
    pub token: String,
}

impl Csrf {
    pub(super) fn of(extensions: &Extensions) -> Option<Self> {
        extensions.get().cloned()
    }
}

impl<S: Sync> FromRequestParts<S> for Csrf {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(&parts.extensions).ok_or_else(|| Error::internal("a page outside the CSRF layer").into())
    }
}

/// Gives every browser its cookie and every page its token. Stands around all pages with forms.
pub async fn layer(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let known = cookie::read(request.headers(), Purpose::Csrf, guard.secure).filter(|value| value.len() >= 20);
    let (secret, fresh) = known.map_or_else(|| (random::token(), true), |known| (known, false));
    let base = request.extensions().get::<Place>().map_or("", |place| place.url.as_str());
    let token = hex::encode(guard.key.mac("csrf", &[secret.as_bytes(), base.as_bytes()]));
    request.extensions_mut().insert(Csrf { token });
    let response = next.run(request).await;
    if fresh {
        reply::with_cookie(response, &cookie::set(Purpose::Csrf, guard.secure, &secret, None))
    } else {
        response
    }
}

/// Refuses what a browser says comes from another site.
pub fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site")
        && !matches!(site, "same-origin" | "none")
    {
        return Err(Error::new(&codes::CSRF_FAILED).because(format!("sec-fetch-site {site}")).into());
    }
    if let Some(origin) = text("origin") {
        let host = origin.split_once("://").map(|(_, authority)| authority);
        let own = text(header::HOST.as_str());
        let same = |own: &str| host.is_some_and(|host| host.eq_ignore_ascii_case(own));
        if host.and_then(HostName::parse).is_none() || own.is_some_and(|own| !same(own)) {
            return Err(Error::new(&codes::CSRF_FAILED).because("origin is another host").into());
        }
    }
    Ok(())
}

pub(super) fn check_token(csrf: Option<&Csrf>, pairs: &[(String, String)]) -> Result<(), Failure> {
    let sent = pairs.iter().find(|(name, _)| name == "csrf").map_or("", |(_, value)| value.as_str());
    match csrf {
        Some(csrf) if hash::equal(csrf.token.as_bytes(), sent.as_bytes()) => Ok(()),
        _ => Err(Error::new(&codes::CSRF_FAILED).into()),
    }
}
