//! Introspection (RFC 7662) and revocation (RFC 7009).

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::response::IntoResponse;

use super::client::{authenticate_at, confidential};
use super::{OauthAnswer, OauthFailure, access_claims, by_application, party, speaker};
use crate::base::{Credential, CredentialKind};
use crate::features::TenantState;
use crate::features::oauth::{self, Introspection, Parameters};
use crate::tenants::Tenant;
use crate::web::extract::RawForm;
use crate::web::{Place, RequestInfo, reply};

/// Live: it looks at the session and the member, not only at the token.
pub(super) async fn introspect(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    headers: HeaderMap,
    RawForm(pairs): RawForm,
) -> OauthAnswer {
    let parameters = Parameters::new(pairs);
    let application = authenticate_at(&tenant, &info, &state.applications, &headers, &parameters).await?;
    let application = confidential(application)?;
    let token = token_of(&parameters)?;
    let speaker = speaker(&tenant, &place);
    let party = party(&application, &speaker);
    let answer = if let Some(token) = refresh_token(&tenant, token) {
        let found = tenant.read(|db| oauth::live_refresh_token(db, &token, &party)).await?;
        found.map(|(row, live)| Introspection::of_refresh_token(&speaker, &row, live))
    } else if let Some(claims) = access_claims(&state, &tenant, &place, token).await? {
        let live = tenant.read(|db| oauth::live(db, &claims, speaker.issuer)).await?;
        let live = live.filter(|live| party.holds(&live.grant));
        live.map(|live| Introspection::of_access_token(claims, &live))
    } else {
        None
    };
    Ok(reply::json(200, &answer.unwrap_or_else(Introspection::inactive)))
}

/// Whatever the token was, the answer is the same: afterwards it is not good (any more).
pub(super) async fn revoke(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    headers: HeaderMap,
    RawForm(pairs): RawForm,
) -> OauthAnswer {
    let parameters = Parameters::new(pairs);
    let application = authenticate_at(&tenant, &info, &state.applications, &headers, &parameters).await?;
    let token = token_of(&parameters)?;
    let (speaker, by) = (speaker(&tenant, &place), by_application(&info, &application));
    let party = party(&application, &speaker);
    if let Some(token) = refresh_token(&tenant, token) {
        tenant.write_beyond(|db| oauth::revoke_refresh_token(db, &token, &party, &by)).await?;
    } else if let Some(claims) = access_claims(&state, &tenant, &place, token).await? {
        tenant.write_beyond(|db| oauth::revoke_access_token(db, &claims, &party, &by)).await?;
    }
    Ok(StatusCode::OK.into_response())
}

/// A refresh token of this organization; another's is not looked for here.
fn refresh_token(tenant: &Tenant, token: &str) -> Option<Credential> {
    let token = Credential::parse(CredentialKind::RefreshToken, token);
    token.filter(|token| token.organization() == Some(tenant.id()))
}

pub(super) fn token_of(parameters: &Parameters) -> Result<&str, OauthFailure> {
    parameters.get("token").ok_or_else(|| OauthFailure::invalid_request("token is missing."))
}
