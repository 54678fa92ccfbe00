//! The organization that a credential names, on the deployment's own host.

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use serde::Deserialize;

use crate::base::{Credential, CredentialKind, OrganizationId, Result};
use crate::crypto::signing;
use crate::web::extract::{body as body_of, pairs_of};

/// Reads the body of a token request once, and puts it back.
pub(super) async fn of(request: Request) -> Result<(Option<OrganizationId>, Request)> {
    let path = request.uri().path();
    let names_one = matches!(
        path,
        "/oauth2/token"
            | "/oauth2/introspect"
            | "/oauth2/revoke"
            | "/oauth2/userinfo"
            | "/oauth2/logout"
            | "/v1/session"
    );
    if !names_one {
        return Ok((None, request));
    }
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let token = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("Bearer")).map(|(_, token)| token.trim());
    if let Some(found) = token.and_then(of_token) {
        return Ok((Some(found), request));
    }
    let query = pairs_of(request.uri().query().unwrap_or("").as_bytes()).unwrap_or_default();
    if let Some(found) = of_pairs(&query) {
        return Ok((Some(found), request));
    }
    let (parts, body) = request.into_parts();
    // The same bound as everywhere: what is larger is refused here already.
    let limited = Request::from_parts(parts.clone(), body);
    let bytes = body_of(limited, &()).await?;
    let found = pairs_of(&bytes).ok().and_then(|pairs| of_pairs(&pairs));
    Ok((found, Request::from_parts(parts, Body::from(bytes))))
}

fn of_pairs(pairs: &[(String, String)]) -> Option<OrganizationId> {
    const NAMES: [&str; 5] = ["code", "refresh_token", "token", "access_token", "id_token_hint"];
    pairs.iter().filter(|(name, _)| NAMES.contains(&name.as_str())).find_map(|(_, value)| of_token(value))
}

/// From an opaque credential by its hint, from a JWT by its `org_id`: neither is believed yet, only
/// followed to the one file that can tell whether it is good.
fn of_token(text: &str) -> Option<OrganizationId> {
    #[derive(Deserialize)]
    struct Claims {
        org_id: OrganizationId,
    }
    [CredentialKind::AuthorizationCode, CredentialKind::RefreshToken, CredentialKind::Session]
        .into_iter()
        .find_map(|kind| Credential::parse(kind, text))
        .map_or_else(|| signing::peek::<Claims>(text).map(|(_, claims)| claims.org_id), |found| found.organization())
}
