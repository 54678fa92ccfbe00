//! The OpenID provider at the edge: its routes, its form of refusal, and who speaks at an address.
//!
//! Pages (for people) and endpoints (for programs) are apart: pages have forms and stand inside the CSRF
//! layer, endpoints carry their own credentials, and `web::failure` tells a refusal to each in its form.

mod authorize;
mod client;
mod deployment;
mod discovery;
mod introspect;
mod logout;
mod token;
mod userinfo;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

pub use deployment::{deployment_endpoints, deployment_pages};

use super::{AccessClaims, Issuer, Party, Refusal, Speaker, read_access_token};
use crate::base::{Error, codes};
use crate::features::TenantState;
use crate::features::application::Application;
use crate::features::audit::{Actor, By};
use crate::features::session::http::by;
use crate::tenants::Tenant;
use crate::web::failure::OauthCode;
use crate::web::{Failure, IssuerKind, Place, RequestInfo};

/// Pages of an organization.
pub fn pages() -> Router<TenantState> {
    Router::new()
        .route("/oauth2/authorize", get(authorize::by_query).post(authorize::by_form))
        .route("/oauth2/continue", get(authorize::resume))
        .route("/oauth2/confirm", post(authorize::confirm))
        .route("/oauth2/logout", get(logout::by_query).post(logout::by_form))
        .route("/oauth2/logout/confirm", post(logout::confirm))
}

/// Endpoints of an organization. The same serve the deployment's issuer, once a credential has said
/// which organization is meant.
pub fn endpoints() -> Router<TenantState> {
    let open = Router::new()
        .route("/oauth2/token", post(token::token))
        .route("/oauth2/revoke", post(introspect::revoke))
        .route("/oauth2/userinfo", get(userinfo::userinfo).post(userinfo::userinfo))
        .route("/oauth2/jwks", get(discovery::jwks))
        .route("/.well-known/openid-configuration", get(discovery::metadata))
        .route("/.well-known/oauth-authorization-server", get(discovery::metadata))
        .layer(middleware::from_fn(any_origin));
    open.route("/oauth2/introspect", post(introspect::introspect))
}

/// A refusal by its OAuth name. Without a name, the layer chooses one by the kind of the error.
#[derive(Debug)]
pub(super) struct OauthFailure {
    name: Option<&'static str>,
    failure: Failure,
    challenge: Option<HeaderValue>,
}

type OauthAnswer = Result<Response, OauthFailure>;

impl OauthFailure {
    fn named(name: &'static str, error: Error) -> Self {
        Self { name: Some(name), failure: error.into(), challenge: None }
    }

    /// `WWW-Authenticate` (RFC 9110 section 11.6.1).
    fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(HeaderValue::from_static(challenge));
        self
    }

    fn invalid_request(detail: &'static str) -> Self {
        Self::named("invalid_request", Error::new(&codes::MALFORMED_REQUEST).detail(detail))
    }

    /// The one answer to every code and refresh token that is not good.
    fn invalid_grant() -> Self {
        let detail = "The code or refresh token is not valid, not yours, or was used before.";
        Self::named("invalid_grant", Error::new(&codes::MALFORMED_REQUEST).detail(detail))
    }
}

impl From<Error> for OauthFailure {
    fn from(error: Error) -> Self {
        Self { name: None, failure: error.into(), challenge: None }
    }
}

impl From<Failure> for OauthFailure {
    fn from(failure: Failure) -> Self {
        Self { name: None, failure, challenge: None }
    }
}

impl From<Refusal> for OauthFailure {
    fn from(refusal: Refusal) -> Self {
        Self::named(refusal.error, Error::new(&codes::MALFORMED_REQUEST).detail(refusal.description))
    }
}

impl IntoResponse for OauthFailure {
    fn into_response(self) -> Response {
        let mut response = self.failure.into_response();
        if let Some(name) = self.name {
            response.extensions_mut().insert(OauthCode(name));
        }
        if let Some(challenge) = self.challenge {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// Who speaks where this request arrived.
fn speaker<'a>(tenant: &Tenant, place: &'a Place) -> Speaker<'a> {
    let issuer = issuer(place.issuer);
    Speaker { issuer, url: &place.issuer_url, organization: tenant.id(), slug: &place.slug }
}

fn party<'a>(application: &'a Application, speaker: &Speaker<'_>) -> Party<'a> {
    Party { application, issuer: speaker.issuer, organization: speaker.organization }
}

const fn issuer(kind: IssuerKind) -> Issuer {
    match kind {
        IssuerKind::Organization => Issuer::Organization,
        IssuerKind::Deployment => Issuer::Deployment,
    }
}

/// An act of an application in this request.
fn by_application(info: &RequestInfo, application: &Application) -> By {
    let id = application.id.to_string();
    let actor = Actor { r#type: "application".to_owned(), id: Some(id.clone()), name: Some(application.name.clone()) };
    let mut by = by(info, actor);
    by.context.application_id = Some(id);
    by
}

/// A genuine access token of the issuer that the request addressed.
async fn access_claims(
    state: &TenantState,
    tenant: &Tenant,
    place: &Place,
    jwt: &str,
) -> Result<Option<AccessClaims>, Failure> {
    let keys = state.keys(tenant, place.issuer).keys().await?;
    Ok(read_access_token(jwt, &keys, &speaker(tenant, place), tenant.clock().now()))
}

/// Apps in browsers call these from their own origin (WHATWG Fetch, CORS). No cookie counts here, so any
/// origin may.
async fn any_origin(request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = if is_preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let mut set = |name: HeaderName, value| response.headers_mut().insert(name, HeaderValue::from_static(value));
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    if is_preflight {
        set(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST");
        set(header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type");
        set(header::ACCESS_CONTROL_MAX_AGE, "600");
    } else {
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, "www-authenticate");
    }
    response
}
