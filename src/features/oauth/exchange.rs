//! The token endpoint's rules: a code or a refresh token becomes tokens, once (RFC 6749 sections 4.1.3 and 6).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use std::time::Duration;

use serde::Serialize;

use super::claims::{ACCESS_TOKEN, AccessClaims, ID_TOKEN, IdClaims, Speaker};
use super::refused::{Refused, Why};
use super::{
    Grant, Issuer, Parameters, RefreshToken, Refusal, Revocation, Scope, Scopes, act_on, revoke, store, usable,
};
use crate::base::{Credential, CredentialKind, OrganizationId, Result, Timestamp};
use crate::crypto::{SigningKey, hash, random};
use crate::features::application::Application;
use crate::features::audit::{self, Act, By};
use crate::features::organization::Rules;
use crate::features::session::{self, SignedIn};
use crate::sqlite::{TenantDb, Write};

/// Which application is asking, at which issuer of which organization.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    pub application: &'a Application,
    pub issuer: Issuer,
    pub organization: OrganizationId,
}

impl Party<'_> {
    /// Whether a grant was given to this application by this issuer.
    #[must_use]
    pub fn holds(&self, grant: &Grant) -> bool {
        self.stranger_to(grant).is_none()
    }

    fn stranger_to(&self, grant: &Grant) -> Option<Why> {
        if grant.application_id != self.application.id {
            Some(Why::OtherApplication)
        } else if grant.issuer != self.issuer {
            Some(Why::OtherIssuer)
        } else {
            None
        }
    }
}

/// What the token endpoint is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum TokenRequest<'a> {
    Code { code: &'a str, redirect_uri: &'a str, verifier: &'a str },
    Refresh { token: &'a str, scope: Option<&'a str> },
}

impl<'a> TokenRequest<'a> {
    pub fn parse(parameters: &'a Parameters) -> Result<Self, Refusal> {
        let needed = |name| {
            parameters.get(name).ok_or(Refusal { error: "invalid_request", description: "A parameter is missing." })
        };
        if parameters.repeated().is_some() {
            return Err(Refusal { error: "invalid_request", description: "A parameter was sent more than once." });
        }
        match needed("grant_type")? {
            "authorization_code" => Ok(Self::Code {
                code: needed("code")?,
                redirect_uri: needed("redirect_uri")?,
                verifier: needed("code_verifier")?,
            }),
            "refresh_token" => Ok(Self::Refresh { token: needed("refresh_token")?, scope: parameters.get("scope") }),
            _ => Err(Refusal {
                error: "unsupported_grant_type",
                description: "Use authorization_code or refresh_token.",
            }),
        }
    }
}

/// What an exchange came to. A refusal is an answer, not an error, because what it changed (a revoked
/// grant, an event) has to be committed.
#[derive(Debug)]
pub enum Exchange {
    Granted(Box<Granted>),
    /// More was asked for than was granted.
    ScopeExceeded,
    /// One answer for everything else that can be wrong with a code or a refresh token; why is for the log.
    Refused(Refused),
}

impl Exchange {
    /// Of what cannot even be looked up.
    #[must_use]
    pub const fn unknown() -> Self {
        Self::Refused(Refused::unknown())
    }

    fn refused(grant: Grant, why: Why) -> Self {
        Self::Refused(Refused::of(grant, why))
    }
}

/// What tokens are to be made of.
#[derive(Debug)]
pub struct Granted {
    pub grant: Grant,
    pub signed_in: SignedIn,
    /// What this access token is good for.
    pub scopes: Scopes,
    /// For the ID token of the first exchange; later ones have none (OpenID Connect Core section 12.2).
    pub nonce: Option<String>,
    pub refresh_token: Option<Credential>,
    pub at: Timestamp,
}

/// Redeems a code. Used a second time it takes back what it gave, since one of the two was a thief.
pub fn redeem(
    db: &Write<'_, TenantDb>,
    party: &Party<'_>,
    code: &Credential,
    redirect_uri: &str,
    verifier: &str,
    by: &By,
) -> Result<Exchange> {
    let Some(grant) = store::by_code(db, &hash::credential_hash(code))? else {
        return Ok(Exchange::unknown());
    };
    if let Some(why) = party.stranger_to(&grant) {
        return Ok(Exchange::refused(grant, why));
    }
    if grant.code_used_at.is_some() {
        revoke(db, &grant, Revocation::CodeReused, by)?;
        return Ok(Exchange::refused(grant, Why::Reused));
    }
    if db.now() >= grant.code_expires_at {
        return Ok(Exchange::refused(grant, Why::Expired));
    }
    if grant.redirect_uri != redirect_uri || !is_verifier_of(verifier, &grant.code_challenge) {
        return Ok(Exchange::refused(grant, Why::ProofMismatch));
    }
    let Some(signed_in) = usable(db, &grant)? else { return Ok(Exchange::refused(grant, Why::Ended)) };
    if !store::use_code(db, grant.id)? {
        return Ok(Exchange::refused(grant, Why::Reused));
    }
    audit::record(db, by, act_on(Act::new("grant.redeemed"), &grant))?;
    let refresh_token = match grant.scopes.has(Scope::OfflineAccess) {
        true => Some(next_refresh_token(db, party, &grant, &signed_in)?),
        false => None,
    };
    Ok(Exchange::Granted(Box::new(Granted {
        scopes: grant.scopes.clone(),
        nonce: grant.nonce.clone(),
        refresh_token,
        at: db.now(),
        grant,
        signed_in,
    })))
}

/// Exchanges a refresh token for the next one. Used a second time it takes back the whole family
/// (RFC 9700 section 4.14.2). It is a sign of life of the session, and can do nothing for one that has ended.
pub fn refresh(
    db: &Write<'_, TenantDb>,
    party: &Party<'_>,
    token: &Credential,
    scope: Option<&str>,
    rules: &Rules,
    by: &By,
) -> Result<Exchange> {
    let token_hash = hash::credential_hash(token);
    let row = store::refresh_token(db, &token_hash)?;
    let grant = row.as_ref().map(|row| store::get(db, row.grant_id)).transpose()?.flatten();
    let (Some(row), Some(grant)) = (row, grant) else { return Ok(Exchange::unknown()) };
    if let Some(why) = party.stranger_to(&grant) {
        return Ok(Exchange::refused(grant, why));
    }
    if row.used_at.is_some() {
        revoke(db, &grant, Revocation::RefreshTokenReused, by)?;
        return Ok(Exchange::refused(grant, Why::Reused));
    }
    if db.now() >= row.expires_at {
        return Ok(Exchange::refused(grant, Why::Expired));
    }
    let Some(mut signed_in) = usable(db, &grant)? else { return Ok(Exchange::refused(grant, Why::Ended)) };
    let scopes = match scope {
        None => grant.scopes.clone(),
        Some(asked) => match grant.scopes.narrowed(asked) {
            Some(scopes) => scopes,
            None => return Ok(Exchange::ScopeExceeded),
        },
    };
    if !store::use_refresh_token(db, &token_hash)? {
        return Ok(Exchange::refused(grant, Why::Reused));
    }
    if session::is_due(&signed_in.session, db.now()) {
        signed_in.session = session::touch(db, &signed_in.session, rules)?;
    }
    audit::record(db, by, act_on(Act::new("grant.refreshed"), &grant))?;
    let refresh_token = Some(next_refresh_token(db, party, &grant, &signed_in)?);
    Ok(Exchange::Granted(Box::new(Granted { scopes, nonce: None, refresh_token, at: db.now(), grant, signed_in })))
}

/// The answer of the token endpoint (RFC 6749 section 5.1).
#[derive(Serialize)]
pub struct Tokens {
    access_token: String,
    token_type: &'static str,
    /// In seconds.
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
    scope: String,
}

impl Tokens {
    /// Signs what was granted.
    pub fn sign(
        speaker: &Speaker<'_>,
        granted: &Granted,
        key: &SigningKey,
        access_lifetime: Duration,
        id_lifetime: Duration,
    ) -> Result<Self> {
        let claims = AccessClaims::new(speaker, granted, access_lifetime);
        let access_token = key.sign(ACCESS_TOKEN, &claims)?;
        let id_token = match granted.scopes.has(Scope::Openid) {
            true => Some(key.sign(ID_TOKEN, &IdClaims::new(&claims, &access_token, granted, id_lifetime))?),
            false => None,
        };
        Ok(Self {
            access_token,
            token_type: "Bearer",
            expires_in: claims.exp - claims.iat,
            refresh_token: granted.refresh_token.as_ref().map(|token| token.expose().to_owned()),
            id_token,
            scope: granted.scopes.to_string(),
        })
    }
}

fn next_refresh_token(
    db: &Write<'_, TenantDb>,
    party: &Party<'_>,
    grant: &Grant,
    signed_in: &SignedIn,
) -> Result<Credential> {
    let token = random::credential(CredentialKind::RefreshToken, Some(party.organization));
    let row = RefreshToken {
        grant_id: grant.id,
        created_at: db.now(),
        expires_at: signed_in.session.expires_at,
        used_at: None,
    };
    store::insert_refresh_token(db, &hash::credential_hash(&token), &row)?;
    Ok(token)
}

/// RFC 7636 section 4.6, S256.
pub(super) fn is_verifier_of(verifier: &str, challenge: &str) -> bool {
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(unreserved)
        && hash::equal(URL_SAFE_NO_PAD.encode(hash::sha256(verifier.as_bytes())).as_bytes(), challenge.as_bytes())
}
