//! The OpenID provider: what the SaaS team's apps talk to (OpenID Connect Core 1.0, RFC 6749, 7636, 7009, 7662,
//! 9068, 9207; OpenID Connect RP-Initiated Logout 1.0).
//!
//! It owns the tables `oauth_grant`, `refresh_token` and `revoked_access_token`. A grant is what one
//! authorization gave to one application: its code, the refresh tokens that follow, and every access
//! token. It hangs on a session and ends with it, so that removing a member, signing out or a new
//! password takes everything from every app at once. It leaves alone how a person proves to be themself
//! (`password`), and which applications there are (`application`).

mod claims;
mod exchange;
pub mod http;
mod logout;
mod refused;
mod request;
mod scope;
mod store;
#[cfg(test)]
mod tests;

pub use claims::{AccessClaims, IdHint, Introspection, Speaker, UserInfo, read_access_token, read_id_token_hint};
pub use exchange::{Exchange, Granted, Party, TokenRequest, Tokens, redeem, refresh};
pub use logout::SignOutRequest;
pub use refused::{Refused, Why, impostor, note};
pub use request::{AuthorizationRequest, Parameters, Refusal, Step, Trusted, answer, asked_for, trust};
pub use scope::{Scope, Scopes};

use std::time::Duration;

use crate::base::time::length;
use crate::base::{ApplicationId, Credential, CredentialKind, GrantId, MemberId, Result, SessionId, Timestamp};
use crate::crypto::{hash, random};
use crate::features::application::Application;
use crate::features::audit::{self, Act, By, Target};
use crate::features::session::{self, SignedIn};
use crate::sqlite::{Read, TenantDb, Write};

/// A code that nobody redeemed is forgotten after this; long after it has expired.
const UNUSED_FOR: Duration = length::days(1);

/// Which of the two issuers a grant was made by; its codes and tokens are good at that one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Issuer {
    /// The organization's own, with its own keys.
    Organization,
    /// The deployment's, for apps that want one issuer for all organizations.
    Deployment,
}

impl Issuer {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Deployment => "deployment",
        }
    }
}

/// A grant's row.
#[derive(Debug, Clone)]
pub struct Grant {
    pub id: GrantId,
    pub application_id: ApplicationId,
    pub member_id: MemberId,
    pub session_id: SessionId,
    pub issuer: Issuer,
    pub scopes: Scopes,
    pub nonce: Option<String>,
    pub redirect_uri: String,
    /// S256 (RFC 7636 section 4.2).
    pub code_challenge: String,
    pub code_expires_at: Timestamp,
    pub code_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// A refresh token's row.
#[derive(Debug, Clone)]
pub struct RefreshToken {
    pub grant_id: GrantId,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
    pub used_at: Option<Timestamp>,
}

/// Why a grant was taken back; stored, shown in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    CodeReused,
    RefreshTokenReused,
    ByApplication,
}

impl Revocation {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CodeReused => "code_reused",
            Self::RefreshTokenReused => "refresh_token_reused",
            Self::ByApplication => "revoked_by_application",
        }
    }
}

/// Gives an application a code for a member who is signed in; `None` if the session has ended meanwhile.
pub fn authorize(
    db: &Write<'_, TenantDb>,
    request: &AuthorizationRequest,
    session: SessionId,
    application: &Application,
    lifetime: Duration,
    by: &By,
) -> Result<Option<Credential>> {
    let Some(SignedIn { session, member }) = session::find_by_id(db, session)? else { return Ok(None) };
    let code = random::credential(CredentialKind::AuthorizationCode, Some(request.organization()));
    let asked = request.asked();
    let grant = Grant {
        id: random::id(db.now()),
        application_id: application.id,
        member_id: member.id,
        session_id: session.id,
        issuer: asked.issuer,
        scopes: asked.scopes.clone(),
        nonce: asked.nonce.clone(),
        redirect_uri: asked.redirect_uri.clone(),
        code_challenge: asked.code_challenge.clone(),
        code_expires_at: db.now().plus(lifetime),
        code_used_at: None,
        created_at: db.now(),
        revoked_at: None,
    };
    store::insert(db, &grant, &hash::credential_hash(&code))?;
    let act = act_on(Act::new("application.authorized"), &grant)
        .on(Target::new("application", application.id).named(application.name.clone()))
        .with("scope", grant.scopes.to_string())
        .with("issuer", grant.issuer.as_str());
    audit::record(db, by, act)?;
    Ok(Some(code))
}

/// What an access token stands for, as it is now.
#[derive(Debug)]
pub struct Live {
    pub signed_in: SignedIn,
    pub grant: Grant,
}

/// Whether a genuine access token is still good: neither it nor its grant was revoked, the session has
/// not ended, the member is still active. Tokens live for minutes, removal takes effect at once.
pub fn live(db: &Read<'_, TenantDb>, claims: &AccessClaims, issuer: Issuer) -> Result<Option<Live>> {
    let Some(grant) = claims.grant() else { return Ok(None) };
    let Some(grant) = store::get(db, grant)? else { return Ok(None) };
    let belongs = grant.issuer == issuer
        && grant.application_id == claims.client_id
        && grant.member_id == claims.sub
        && grant.session_id == claims.sid;
    if !belongs || store::is_revoked(db, &claims.jti)? {
        return Ok(None);
    }
    Ok(usable(db, &grant)?.map(|signed_in| Live { signed_in, grant }))
}

/// A refresh token that could still be used, with what it stands for. Looking does not use it.
pub fn live_refresh_token(
    db: &Read<'_, TenantDb>,
    token: &Credential,
    party: &Party<'_>,
) -> Result<Option<(RefreshToken, Live)>> {
    let Some(row) = store::refresh_token(db, &hash::credential_hash(token))? else { return Ok(None) };
    let Some(grant) = store::get(db, row.grant_id)?.filter(|grant| party.holds(grant)) else { return Ok(None) };
    if row.used_at.is_some() || db.now() >= row.expires_at {
        return Ok(None);
    }
    Ok(usable(db, &grant)?.map(|signed_in| (row, Live { signed_in, grant })))
}

/// Takes back the whole grant of a refresh token (RFC 7009 section 2.1); another application's is left alone.
pub fn revoke_refresh_token(db: &Write<'_, TenantDb>, token: &Credential, party: &Party<'_>, by: &By) -> Result<()> {
    let Some(row) = store::refresh_token(db, &hash::credential_hash(token))? else { return Ok(()) };
    match store::get(db, row.grant_id)? {
        Some(grant) if party.holds(&grant) => revoke(db, &grant, Revocation::ByApplication, by),
        _ => Ok(()),
    }
}

/// Takes back one access token; another application's is left alone.
pub fn revoke_access_token(db: &Write<'_, TenantDb>, claims: &AccessClaims, party: &Party<'_>, by: &By) -> Result<()> {
    match live(db, claims, party.issuer)? {
        Some(Live { grant, .. }) if party.holds(&grant) => {
            store::revoke_access_token(db, &claims.jti, Timestamp::from_seconds(claims.exp))?;
            audit::record(db, by, act_on(Act::new("access_token.revoked"), &grant)).map(drop)
        }
        _ => Ok(()),
    }
}

/// Forgets what can never be asked for again. Grants that were redeemed go with their session.
pub fn forget_old(db: &Write<'_, TenantDb>) -> Result<()> {
    store::forget_old(db, db.now().minus(UNUSED_FOR))
}

/// Takes a grant back, once.
fn revoke(db: &Write<'_, TenantDb>, grant: &Grant, why: Revocation, by: &By) -> Result<()> {
    if store::revoke(db, grant.id, why.as_str())? {
        audit::record(db, by, act_on(Act::new("grant.revoked"), grant).with("reason", why.as_str()))?;
    }
    Ok(())
}

/// Who is behind a grant, if the grant, the session and the member are all fit for use now.
fn usable(db: &Read<'_, TenantDb>, grant: &Grant) -> Result<Option<SignedIn>> {
    if grant.revoked_at.is_some() {
        return Ok(None);
    }
    let signed_in = session::find_by_id(db, grant.session_id)?;
    Ok(signed_in.filter(|signed_in| signed_in.member.id == grant.member_id))
}

fn act_on(act: Act, grant: &Grant) -> Act {
    act.on(Target::new("grant", grant.id))
        .on(Target::new("member", grant.member_id))
        .on(Target::new("session", grant.session_id))
}
