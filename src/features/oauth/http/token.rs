//! The token endpoint (RFC 6749 section 3.2).

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};

use super::client::authenticate;
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
    let application = authenticate(&state.applications, &headers, &parameters)?;
    let request = TokenRequest::parse(&parameters)?;
    let (speaker, by) = (speaker(&tenant, &place), by_application(&info, &application));
    let party = party(&application, &speaker);

    // The key first: a code must not be used up for tokens that then cannot be signed.
    let algorithm = application.id_token_signed_response_alg;
    let keys = state.keys(&tenant, place.issuer).keys_for(&[algorithm], &state.key_stock).await?;
    let key = keys.signer(algorithm, tenant.clock().now());
    let key = key.ok_or_else(|| Error::internal(format!("there is no key for {algorithm}")))?;

    let exchange = match request {
        TokenRequest::Code { code, redirect_uri, verifier } => {
            let code = parse(CredentialKind::AuthorizationCode, code, &tenant)?;
            tenant.write(|db| oauth::redeem(db, &party, &code, redirect_uri, verifier, &by)).await?
        }
        TokenRequest::Refresh { token, scope } => {
            let token = parse(CredentialKind::RefreshToken, token, &tenant)?;
            let rules = rules(&state, &tenant).await?;
            tenant.write(|db| oauth::refresh(db, &party, &token, scope, &rules, &by)).await?
        }
    };
    let granted = match exchange {
        Exchange::Granted(granted) => granted,
        Exchange::ScopeExceeded => return Err(scope_exceeded()),
        Exchange::Refused => return Err(OauthFailure::invalid_grant()),
    };
    let tokens = Tokens::sign(&speaker, &granted, key, state.tokens.access_token, state.tokens.id_token)?;
    let mut response = reply::json(200, &tokens);
    response.headers_mut().insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Another organization's is answered like one that never was.
fn parse(kind: CredentialKind, text: &str, tenant: &Tenant) -> Result<Credential, OauthFailure> {
    Credential::parse(kind, text)
        .filter(|credential| credential.organization() == Some(tenant.id()))
        .ok_or_else(OauthFailure::invalid_grant)
}

fn scope_exceeded() -> OauthFailure {
    oauth::Refusal { error: "invalid_scope", description: "More was asked for than was granted." }.into()
}
