//! A small application of a SaaS team, signing people in through Bulkhead with the unmodified
//! [`openidconnect`] crate: no SDK of ours, nothing but OpenID Connect.
//!
//! It shows the two ways in that every application has:
//!
//! * **one issuer for all** (`--issuer`): one discovery document and one set of keys, whatever
//!   the organization; the claims `org_id` and `org_slug` say whose member signed in;
//! * **the organization's own issuer** (`http://acme.localhost:8080`): its own address and its
//!   own keys, for applications that know the organization first, by sub-domain for instance.
//!
//! ```sh
//! bulkhead app create --name Demo --redirect-uri http://localhost:3000/callback \
//!     --post-logout-redirect-uri http://localhost:3000/
//! cargo run --example demo_app -- --client-id app_... --client-secret bh_cs_...
//! ```
//!
//! What a real application would do otherwise: keep sessions in its database, cache the discovery
//! documents, and mark its cookies `Secure`. Everything else is here; what people see is in
//! `demo_app/pages.rs`.

// An application outside of the house: the rules for the server's clock and errors are not its.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::print_stdout)]

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use clap::Parser;
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreAuthenticationFlow, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreRevocableToken, CoreRevocationErrorResponse,
    CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AccessTokenHash, AdditionalClaims, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken,
    EmptyExtraTokenFields, EndSessionUrl, EndpointMaybeSet, EndpointNotSet, EndpointSet, IdToken, IdTokenClaims,
    IdTokenFields, IssuerUrl, LogoutRequest, Nonce, NonceVerifier, OAuth2TokenResponse, PkceCodeChallenge,
    PkceCodeVerifier, PostLogoutRedirectUrl, ProviderMetadataWithLogout, RedirectUrl, RefreshToken, Scope,
    StandardErrorResponse, StandardTokenResponse, TokenResponse, UserInfoClaims,
};
use serde::{Deserialize, Serialize};
use url::Url;

#[path = "demo_app/http.rs"]
mod http;
#[path = "demo_app/pages.rs"]
mod pages;
use http::Http;
use pages::{Failure, Page, chain, refused};

#[derive(Parser)]
#[command(about = "A demo application that signs people in through Bulkhead")]
struct Options {
    /// Where this application listens
    #[arg(long, env = "DEMO_LISTEN", default_value = "127.0.0.1:3000")]
    listen: SocketAddr,
    /// Where browsers find this application; the callback below it must be registered
    #[arg(long, env = "DEMO_URL", default_value = "http://localhost:3000")]
    url: Url,
    /// The deployment's issuer; organizations' own issuers are sub-domains of it
    #[arg(long, env = "DEMO_ISSUER", default_value = "http://localhost:8080")]
    issuer: Url,
    #[arg(long, env = "DEMO_CLIENT_ID")]
    client_id: String,
    /// Left out for a public client
    #[arg(long, env = "DEMO_CLIENT_SECRET", hide_env_values = true)]
    client_secret: Option<String>,
}

// ---- the library, told about the claims that Bulkhead adds -------------------------------------

#[derive(Clone, Debug, Serialize, Deserialize)]
struct OrgClaims {
    org_id: String,
    org_slug: String,
    #[serde(default)]
    roles: Vec<String>,
    sid: Option<String>,
}
impl AdditionalClaims for OrgClaims {}

type Claims = IdTokenClaims<OrgClaims, CoreGenderClaim>;
type Token = IdToken<OrgClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm>;
type Fields = IdTokenFields<
    OrgClaims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Tokens = StandardTokenResponse<Fields, CoreTokenType>;
#[rustfmt::skip]
type Oidc = Client<
    OrgClaims, CoreAuthDisplay, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, CoreJsonWebKey, CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>, Tokens, CoreTokenIntrospectionResponse, CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet,
>;

// ---- what this application remembers -----------------------------------------------------------

struct App {
    options: Options,
    http: Http,
    /// Sign-ins under way, by `state`.
    pending: Mutex<HashMap<String, Pending>>,
    sessions: Mutex<HashMap<String, Session>>,
}

struct Pending {
    issuer: IssuerUrl,
    oidc: Oidc,
    logout: Option<EndSessionUrl>,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    started: Instant,
}

#[derive(Clone)]
struct Session {
    issuer: IssuerUrl,
    oidc: Oidc,
    logout: Option<EndSessionUrl>,
    id_token: Token,
    claims: Claims,
    userinfo: UserInfoClaims<OrgClaims, CoreGenderClaim>,
    refresh_token: Option<RefreshToken>,
    refreshes: u32,
}

const SESSION: &str = "demo_session";
const STATE: &str = "demo_state";
const PENDING_FOR: Duration = Duration::from_mins(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- signing in --------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Start {
    /// `deployment` or `organization`: whose issuer.
    at: String,
    #[serde(default)]
    organization: String,
}

/// Discovers the issuer and sends the browser to its authorization endpoint.
async fn sign_in(State(app): State<Arc<App>>, jar: CookieJar, Query(start): Query<Start>) -> Result<Response, Failure> {
    let organization = start.organization.trim().to_lowercase();
    let own = start.at == "organization";
    // The slug becomes part of an address that this server will fetch: nothing but a DNS label.
    let label = |s: &str| s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if own && (organization.is_empty() || organization.len() > 63 || !label(&organization)) {
        return Err(Failure::new("Type the organization's short name, for example acme."));
    }
    let mut issuer = app.options.issuer.clone();
    if own {
        let host = format!("{organization}.{}", issuer.host_str().unwrap_or_default());
        issuer.set_host(Some(&host)).map_err(Failure::new)?;
    }
    let issuer = IssuerUrl::new(issuer.as_str().trim_end_matches('/').to_owned()).map_err(Failure::new)?;

    let metadata = ProviderMetadataWithLogout::discover_async(issuer.clone(), &app.http)
        .await
        .map_err(|e| Failure::new(format!("{} could not be reached or is no issuer: {}", *issuer, chain(&e))))?;
    let logout = metadata.additional_metadata().end_session_endpoint.clone();
    let callback = app.options.url.join("/callback").map_err(Failure::new)?;
    let oidc: Oidc = Client::from_provider_metadata(
        metadata,
        ClientId::new(app.options.client_id.clone()),
        app.options.client_secret.clone().map(ClientSecret::new),
    )
    .set_redirect_uri(RedirectUrl::from_url(callback));

    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let mut request = oidc
        .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
        .set_pkce_challenge(challenge);
    for scope in ["profile", "email", "offline_access"] {
        request = request.add_scope(Scope::new(scope.to_owned()));
    }
    if !own && !organization.is_empty() {
        request = request.add_extra_param("organization", organization);
    }
    let (url, state, nonce) = request.url();

    let pending = Pending { issuer, oidc, logout, nonce, verifier, started: Instant::now() };
    let mut waiting = lock(&app.pending);
    waiting.retain(|_, p| p.started.elapsed() < PENDING_FOR);
    waiting.insert(state.secret().clone(), pending);
    // The cookie ties the answer to the browser that asked; without it, anyone could sign a
    // victim in to the attacker's account by sending them a callback address.
    Ok((jar.add(cookie(STATE, state.secret())), Redirect::to(url.as_str())).into_response())
}

#[derive(Deserialize)]
struct Answer {
    state: Option<String>,
    iss: Option<String>,
    code: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
}

/// The browser comes back with a code, which is worth nothing until all of this holds.
async fn callback(
    State(app): State<Arc<App>>,
    jar: CookieJar,
    Query(answer): Query<Answer>,
) -> Result<Response, Failure> {
    let state = answer.state.filter(|s| jar.get(STATE).is_some_and(|c| c.value() == s));
    let pending = state.and_then(|state| lock(&app.pending).remove(&state));
    let pending = pending.filter(|p| p.started.elapsed() < PENDING_FOR);
    let pending = pending.ok_or_else(|| Failure::new("This sign-in was not started here, or it took too long."))?;
    // RFC 9207: the answer names its issuer, so that one issuer cannot pass off another's code.
    if answer.iss.as_deref() != Some(pending.issuer.as_str()) {
        return Err(Failure::new("The answer does not come from the issuer that was asked."));
    }
    if let Some(error) = answer.error {
        return Err(Failure::new(format!("{error}: {}", answer.error_description.unwrap_or_default())));
    }
    let code = AuthorizationCode::new(answer.code.ok_or_else(|| Failure::new("The answer has no code."))?);

    let Pending { issuer, oidc, logout, nonce, verifier, .. } = pending;
    let tokens = oidc
        .exchange_code(code)
        .map_err(Failure::new)?
        .set_pkce_verifier(verifier)
        .request_async(&app.http)
        .await
        .map_err(refused)?;
    let (id_token, claims) = verified(&oidc, &tokens, &nonce)?;
    let userinfo = oidc
        // The subject is compared, so that the answer is about the person in the ID token.
        .user_info(tokens.access_token().clone(), Some(claims.subject().clone()))
        .map_err(Failure::new)?
        .request_async(&app.http)
        .await
        .map_err(|e| Failure::new(format!("userinfo: {}", chain(&e))))?;

    let refresh_token = tokens.refresh_token().cloned();
    let session = Session { issuer, oidc, logout, id_token, claims, userinfo, refresh_token, refreshes: 0 };
    // A new id at every sign-in: whatever id the browser held before is worth nothing now.
    let id = CsrfToken::new_random().secret().clone();
    lock(&app.sessions).insert(id.clone(), session);
    Ok((jar.remove(expired(STATE)).add(cookie(SESSION, &id)), Redirect::to("/")).into_response())
}

/// Signature (with the issuer's published keys), issuer, audience, expiry, nonce, and that the
/// access token is the one this ID token was issued with.
fn verified(oidc: &Oidc, tokens: &Tokens, nonce: impl NonceVerifier) -> Result<(Token, Claims), Failure> {
    let token = tokens.id_token().ok_or_else(|| Failure::new("There is no ID token in the answer."))?;
    let verifier = oidc.id_token_verifier();
    let claims = token.claims(&verifier, nonce).map_err(|e| Failure::new(format!("ID token: {}", chain(&e))))?;
    if let Some(expected) = claims.access_token_hash() {
        let alg = token.signing_alg().map_err(Failure::new)?;
        let key = token.signing_key(&verifier).map_err(Failure::new)?;
        if AccessTokenHash::from_token(tokens.access_token(), alg, key).map_err(Failure::new)? != *expected {
            return Err(Failure::new("The access token does not belong to the ID token."));
        }
    }
    Ok((token.clone(), claims.clone()))
}

// ---- signed in ---------------------------------------------------------------------------------

/// Trades the refresh token for new tokens. Each may be used once: the answer brings the next.
async fn refresh(State(app): State<Arc<App>>, jar: CookieJar) -> Result<Redirect, Failure> {
    let (id, mut session) = current(&app, &jar).ok_or_else(|| Failure::new("You are not signed in."))?;
    let token = session.refresh_token.take().ok_or_else(|| Failure::new("There is no refresh token."))?;
    let exchange = session.oidc.exchange_refresh_token(&token).map_err(Failure::new)?;
    let answer = exchange.request_async(&app.http).await;
    // A refused refresh token means that the session behind it has ended: so does ours.
    let tokens = answer.map_err(refused).inspect_err(|_| drop(lock(&app.sessions).remove(&id)))?;
    if tokens.id_token().is_some() {
        // A refreshed ID token need not repeat the nonce, but must be about the same person.
        let (id_token, claims) = verified(&session.oidc, &tokens, |_: Option<&Nonce>| Ok(()))?;
        if claims.subject() != session.claims.subject() {
            return Err(Failure::new("The new tokens are about another person."));
        }
        (session.id_token, session.claims) = (id_token, claims);
    }
    session.refresh_token = tokens.refresh_token().cloned().or(Some(token));
    session.refreshes += 1;
    lock(&app.sessions).insert(id, session);
    Ok(Redirect::to("/"))
}

/// Ends our session, then the issuer's (RP-initiated logout), which sends the browser back home.
async fn sign_out(State(app): State<Arc<App>>, jar: CookieJar) -> Result<Response, Failure> {
    let Some((id, session)) = current(&app, &jar) else {
        return Ok(Redirect::to("/").into_response());
    };
    lock(&app.sessions).remove(&id);
    let home = PostLogoutRedirectUrl::from_url(app.options.url.join("/").map_err(Failure::new)?);
    let to = session.logout.map_or_else(
        || home.to_string(),
        |end| {
            let request = LogoutRequest::from(end).set_id_token_hint(&session.id_token);
            request.set_post_logout_redirect_uri(home.clone()).http_get_url().to_string()
        },
    );
    Ok((jar.remove(expired(SESSION)), Redirect::to(&to)).into_response())
}

fn current(app: &App, jar: &CookieJar) -> Option<(String, Session)> {
    let id = jar.get(SESSION)?.value().to_owned();
    let session = lock(&app.sessions).get(&id)?.clone();
    Some((id, session))
}

/// `Lax`: sent when the issuer sends the browser back, but not with another site's POST.
fn cookie(name: &'static str, value: &str) -> Cookie<'static> {
    let cookie = Cookie::build((name, value.to_owned()));
    cookie.path("/").http_only(true).same_site(SameSite::Lax).build()
}

fn expired(name: &'static str) -> Cookie<'static> {
    Cookie::build(name).path("/").build()
}

async fn home(State(app): State<Arc<App>>, jar: CookieJar) -> Page {
    let session = current(&app, &jar).map(|(_, session)| session);
    Page::home(app.options.issuer.as_str().trim_end_matches('/'), session.as_ref())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let listener = tokio::net::TcpListener::bind(options.listen).await?;
    println!("The demo application is at {}", options.url);
    let app = App { options, http: Http::new()?, pending: Mutex::default(), sessions: Mutex::default() };
    let routes = Router::new()
        .route("/", get(home))
        .route("/sign-in", get(sign_in))
        .route("/callback", get(callback))
        .route("/refresh", post(refresh))
        .route("/sign-out", post(sign_out))
        .route("/style.css", get(pages::style))
        .with_state(Arc::new(app));
    axum::serve(listener, routes).await?;
    Ok(())
}
