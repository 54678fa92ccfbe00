//! The token endpoint (RFC 6749 section 3.2).

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};

use super::client::authenticate_at;
use super::{OauthAnswer, OauthFailure, by_application, party, speaker};
use crate::base::{Credential, CredentialKind, Error};
use crate::features::TenantState;
use crate::features::oauth::{self, Exchange, Parameters, TokenRequest, Tokens};
use crate::features::session::http::rules;
use crate::tenants::Tenant;
use crate::web::extract::RawForm;
use crate::web::{Place, RequestInfo, reply};

pub(super) async fn token(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    headers: HeaderMap,
    RawForm(pairs): RawForm,
) -> OauthAnswer {
    state.limits.token.check(&(tenant.id(), info.network()))?;
    let parameters = Parameters::new(pairs);
    let application = authenticate_at(&tenant, &info, &state.applications, &headers, &parameters).await?;
    let request = TokenRequest::parse(&parameters)?;
    let (speaker, by) = (speaker(&tenant, &place), by_application(&info, &application));
    let party = party(&application, &speaker);

    // The key first: a code must not be used up for tokens that then cannot be signed.
    let algorithm = application.id_token_signed_response_alg;
    let keys = state.keys(&tenant, place.issuer).keys_for(&[algorithm], &state.key_stock).await?;
    let key = keys.signer(algorithm, tenant.clock().now());
    let none = || Error::internal(format!("there is no key for {algorithm}"));
    // A file that takes no writes gets no key either.
    let key = key.ok_or_else(|| tenant.require_open().err().unwrap_or_else(none))?;

    let (tried, exchange) = match request {
        TokenRequest::Code { code, redirect_uri, verifier } => {
            let redeem = match parse(CredentialKind::AuthorizationCode, code, &tenant) {
                Some(code) => tenant.write(|db| oauth::redeem(db, &party, &code, redirect_uri, verifier, &by)).await?,
                None => Exchange::unknown(),
            };
            ("grant.redeemed", redeem)
        }
        TokenRequest::Refresh { token, scope } => {
            let rules = rules(&state, &tenant).await?;
            let refresh = match parse(CredentialKind::RefreshToken, token, &tenant) {
                Some(token) => tenant.write(|db| oauth::refresh(db, &party, &token, scope, &rules, &by)).await?,
                None => Exchange::unknown(),
            };
            ("grant.refreshed", refresh)
        }
    };
    let granted = match exchange {
        Exchange::Granted(granted) => granted,
        Exchange::ScopeExceeded => return Err(scope_exceeded()),
        Exchange::Refused(refused) => {
            oauth::note(&tenant, refused.act(tried), &by).await;
            return Err(OauthFailure::invalid_grant());
        }
    };
    let tokens = Tokens::sign(&speaker, &granted, key, state.tokens.access_token, state.tokens.id_token)?;
    let mut response = reply::json(200, &tokens);
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Another organization's is answered like one that never was.
fn parse(kind: CredentialKind, text: &str, tenant: &Tenant) -> Option<Credential> {
    Credential::parse(kind, text).filter(|credential| credential.organization() == Some(tenant.id()))
}

fn scope_exceeded() -> OauthFailure {
    oauth::Refusal { error: "invalid_scope", description: "More was asked for than was granted." }.into()
}
