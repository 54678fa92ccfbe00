//! Sessions at the edge: the cookie, the extractors, the session check.

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::get;

use super::api::SessionBody;
use super::{SignedIn, authenticate};
use crate::base::{Credential, CredentialKind, Error, codes};
use crate::features::TenantState;
use crate::features::audit::{Actor, By, Context};
use crate::features::organization::{self, Rules};
use crate::tenants::Tenant;
use crate::web::cookie::{self, Purpose};
use crate::web::failure::Answer;
use crate::web::{Failure, Place, RequestInfo, reply};

/// The session check, for apps behind the same address and for load balancers.
pub fn routes() -> Router<TenantState> {
    Router::new().route("/v1/session", get(check))
}

/// Whoever is signed in by the cookie of this organization, if anybody is.
pub struct CurrentSession(pub Option<SignedIn>);

/// Whoever is signed in; without a session the browser is sent to the sign-in page.
pub struct Required(pub SignedIn);

impl FromRequestParts<TenantState> for CurrentSession {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &TenantState) -> Result<Self, Failure> {
        let tenant = Tenant::from_request_parts(parts, state).await?;
        let cookie = cookie::read(&parts.headers, Purpose::Session(tenant.id()), state.address.is_secure());
        let token = cookie.and_then(|text| Credential::parse(CredentialKind::Session, &text));
        let Some(token) = token else { return Ok(Self(None)) };
        Ok(Self(authenticate(&tenant, &token, &state.policy).await?))
    }
}

impl FromRequestParts<TenantState> for Required {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &TenantState) -> Result<Self, Response> {
        use axum::response::IntoResponse;
        let current = CurrentSession::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
        match current.0 {
            Some(signed_in) => Ok(Self(signed_in)),
            None => {
                let place = Place::from_request_parts(parts, state).await.map_err(IntoResponse::into_response)?;
                Err(reply::see_other(&place.path("/sign-in")))
            }
        }
    }
}

/// `GET /v1/session`: by cookie, or by `Authorization: Bearer bh_st_…`.
async fn check(State(state): State<TenantState>, tenant: Tenant, headers: HeaderMap) -> Answer {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = match bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) => Some(token.to_owned()),
        None => cookie::read(&headers, Purpose::Session(tenant.id()), state.address.is_secure()),
    };
    let token = token.and_then(|text| Credential::parse(CredentialKind::Session, &text));
    let unauthenticated = || Error::new(&codes::UNAUTHENTICATED).detail("There is no active session.");
    let token = token.ok_or_else(unauthenticated)?;
    let found = authenticate(&tenant, &token, &state.policy).await?.ok_or_else(unauthenticated)?;
    Ok(reply::json(200, &SessionBody::with_member(&tenant, &found)))
}

/// The policy in force for an organization.
pub async fn rules(state: &TenantState, tenant: &Tenant) -> Result<Rules, Failure> {
    Ok(organization::current(tenant).await?.policy.in_force(&state.policy))
}

/// The `Set-Cookie` of a fresh session.
#[must_use]
pub fn session_cookie(state: &TenantState, tenant: &Tenant, token: &Credential, rules: &Rules) -> String {
    let purpose = Purpose::Session(tenant.id());
    cookie::set(purpose, state.address.is_secure(), token.expose(), Some(rules.session_absolute))
}

/// The `Set-Cookie` that signs the browser out.
#[must_use]
pub fn clear_session_cookie(state: &TenantState, tenant: &Tenant) -> String {
    cookie::clear(Purpose::Session(tenant.id()), state.address.is_secure())
}

/// An act in this request.
#[must_use]
pub fn by(info: &RequestInfo, actor: Actor) -> By {
    let context = Context { ip_address: info.ip_text(), user_agent: info.user_agent.clone(), ..Context::default() };
    By { actor, context, request_id: info.id.clone() }
}

/// An act of nobody known.
#[must_use]
pub fn by_anonymous(info: &RequestInfo) -> By {
    by(info, Actor::anonymous())
}

/// An act of the member who is signed in.
#[must_use]
pub fn by_member(info: &RequestInfo, signed_in: &SignedIn) -> By {
    let mut by = by(info, Actor::member(signed_in.member.id, signed_in.member.display()));
    by.context.session_id = Some(signed_in.session.id.to_string());
    by
}
