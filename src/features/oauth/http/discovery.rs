//! What this provider can do (OpenID Connect Discovery 1.0, RFC 8414), and its public keys (RFC 7517).

use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;

use super::OauthAnswer;
use crate::base::{Error, Timestamp};
use crate::crypto::{Algorithm, KeyStock};
use crate::features::TenantState;
use crate::features::oauth::Scope;
use crate::features::signing_key::{Holder, JWKS_CACHE};
use crate::tenants::Tenant;
use crate::web::{Place, reply};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::RS256, Algorithm::ES256];

pub(super) async fn metadata(place: Place) -> Response {
    document(&place.issuer_url)
}

pub(super) async fn jwks(State(state): State<TenantState>, tenant: Tenant, place: Place) -> OauthAnswer {
    let now = tenant.clock().now();
    Ok(key_set(&state.keys(&tenant, place.issuer), &state.key_stock, now).await?)
}

/// The published keys. One of each algorithm is made before the first answer, so that nobody keeps a copy
/// in which the key of the first token is missing.
pub(super) async fn key_set(holder: &Holder<'_>, stock: &KeyStock, now: Timestamp) -> Result<Response, Error> {
    let keys = holder.keys_for(&ALGORITHMS, stock).await?;
    Ok(cached(reply::json(200, &keys.jwks(now))))
}

/// The metadata of one issuer.
pub(super) fn document(issuer: &str) -> Response {
    cached(reply::json(200, &Metadata::new(issuer)))
}

/// May be kept for a while by anybody.
fn cached(mut response: Response) -> Response {
    let value = HeaderValue::from_str(&format!("public, max-age={}", JWKS_CACHE.as_secs()));
    if let Ok(value) = value {
        response.headers_mut().insert(header::CACHE_CONTROL, value);
    }
    response
}

#[derive(Serialize)]
struct Metadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: String,
    jwks_uri: String,
    introspection_endpoint: String,
    revocation_endpoint: String,
    end_session_endpoint: String,
    scopes_supported: [&'static str; 4],
    response_types_supported: [&'static str; 1],
    response_modes_supported: [&'static str; 1],
    grant_types_supported: [&'static str; 2],
    subject_types_supported: [&'static str; 1],
    id_token_signing_alg_values_supported: [Algorithm; 2],
    token_endpoint_auth_methods_supported: [&'static str; 3],
    revocation_endpoint_auth_methods_supported: [&'static str; 3],
    introspection_endpoint_auth_methods_supported: [&'static str; 2],
    code_challenge_methods_supported: [&'static str; 1],
    prompt_values_supported: [&'static str; 4],
    claim_types_supported: [&'static str; 1],
    claims_supported: &'static [&'static str],
    ui_locales_supported: [&'static str; 1],
    authorization_response_iss_parameter_supported: bool,
    claims_parameter_supported: bool,
    request_parameter_supported: bool,
    request_uri_parameter_supported: bool,
}

const CLAIMS: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "auth_time",
    "nonce",
    "amr",
    "sid",
    "at_hash",
    "org_id",
    "org_slug",
    "roles",
    "name",
    "preferred_username",
    "updated_at",
    "email",
    "email_verified",
];

impl Metadata {
    fn new(issuer: &str) -> Self {
        let at = |path: &str| format!("{issuer}/oauth2/{path}");
        Self {
            issuer: issuer.to_owned(),
            authorization_endpoint: at("authorize"),
            token_endpoint: at("token"),
            userinfo_endpoint: at("userinfo"),
            jwks_uri: at("jwks"),
            introspection_endpoint: at("introspect"),
            revocation_endpoint: at("revoke"),
            end_session_endpoint: at("logout"),
            scopes_supported: Scope::ALL.map(Scope::as_str),
            response_types_supported: ["code"],
            response_modes_supported: ["query"],
            grant_types_supported: ["authorization_code", "refresh_token"],
            subject_types_supported: ["public"],
            id_token_signing_alg_values_supported: ALGORITHMS,
            token_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "none"],
            revocation_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post", "none"],
            introspection_endpoint_auth_methods_supported: ["client_secret_basic", "client_secret_post"],
            code_challenge_methods_supported: ["S256"],
            prompt_values_supported: ["none", "login", "select_account", "consent"],
            claim_types_supported: ["normal"],
            claims_supported: CLAIMS,
            ui_locales_supported: ["en"],
            authorization_response_iss_parameter_supported: true,
            claims_parameter_supported: false,
            request_parameter_supported: false,
            // Its default is true (OpenID Connect Discovery section 3).
            request_uri_parameter_supported: false,
        }
    }
}
