//! Userinfo (OpenID Connect Core section 5.3), with a bearer token (RFC 6750).

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, Method, header};

use super::{OauthAnswer, OauthFailure, access_claims, speaker};
use crate::base::{Error, codes};
use crate::features::TenantState;
use crate::features::oauth::{self, Scope, UserInfo};
use crate::tenants::Tenant;
use crate::web::extract::RawForm;
use crate::web::{Place, reply};

pub(super) async fn userinfo(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    request: Request,
) -> OauthAnswer {
    let token = token_of(request).await?;
    let claims = access_claims(&state, &tenant, &place, &token).await?.ok_or_else(invalid_token)?;
    let speaker = speaker(&tenant, &place);
    let live = tenant.read(|db| oauth::live(db, &claims, speaker.issuer)).await?.ok_or_else(invalid_token)?;
    // An application that was deleted has nothing to ask any more.
    state.applications.get(claims.client_id).ok_or_else(invalid_token)?;
    if !claims.scope.has(Scope::Openid) {
        let error = Error::new(&codes::FORBIDDEN).detail("This needs the scope openid.");
        let failure = OauthFailure::named("insufficient_scope", error);
        return Err(failure.challenge("Bearer error=\"insufficient_scope\", scope=\"openid\""));
    }
    Ok(reply::json(200, &UserInfo::new(&speaker, &live, &claims.scope)))
}

/// In the header, or in the form of a POST; not in both, never in the address (RFC 6750 section 2).
pub(super) async fn token_of(request: Request) -> Result<String, OauthFailure> {
    let headers = request.headers();
    let in_header = bearer(headers).map(str::to_owned);
    let is_form = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded"));
    let in_form = if request.method() == Method::POST && is_form {
        let RawForm(pairs) = RawForm::from_request(request, &()).await?;
        pairs.into_iter().filter(|(name, _)| name == "access_token").map(|(_, value)| value).collect()
    } else {
        Vec::new()
    };
    let mut found = in_header.into_iter().chain(in_form);
    match (found.next(), found.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err(missing_token()),
        (Some(_), Some(_)) => {
            let failure = OauthFailure::invalid_request("Send one access token, in one way.");
            Err(failure.challenge("Bearer error=\"invalid_request\""))
        }
    }
}

/// The bearer token of a request that has exactly one `Authorization`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = values.next()?.to_str().ok()?.split_once(' ')?;
    (values.next().is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

pub(super) fn invalid_token() -> OauthFailure {
    let error = Error::new(&codes::UNAUTHENTICATED).detail("The access token is not valid.");
    OauthFailure::named("invalid_token", error).challenge("Bearer error=\"invalid_token\"")
}

/// Without any token the challenge says nothing of an error (RFC 6750 section 3.1).
fn missing_token() -> OauthFailure {
    OauthFailure::named("invalid_token", Error::new(&codes::UNAUTHENTICATED)).challenge("Bearer")
}
