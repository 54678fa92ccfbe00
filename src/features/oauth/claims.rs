//! What the tokens say, and reading them when they come back.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::{Grant, Granted, Issuer, Live, Scope, Scopes};
use crate::base::time::length;
use crate::base::{ApplicationId, GrantId, MemberId, OrganizationId, SessionId, Slug, Timestamp};
use crate::crypto::{hash, random, signing};
use crate::features::member::{Member, Role};
use crate::features::signing_key::Keys;

/// The `typ` of an access token (RFC 9068 section 2.1).
pub const ACCESS_TOKEN: &str = "at+jwt";
/// The `typ` of an ID token.
pub const ID_TOKEN: &str = "JWT";
/// How far another node's clock may be ahead of ours.
const SKEW: Duration = length::seconds(30);

/// The issuer in whose name tokens are made and read, for one organization.
#[derive(Debug, Clone, Copy)]
pub struct Speaker<'a> {
    pub issuer: Issuer,
    /// `iss`
    pub url: &'a str,
    pub organization: OrganizationId,
    pub slug: &'a Slug,
}

/// The claims of an access token (RFC 9068 section 2.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    pub iss: String,
    pub sub: MemberId,
    /// The issuer: its own userinfo is the one resource that it knows of.
    pub aud: String,
    pub client_id: ApplicationId,
    pub scope: Scopes,
    pub exp: i64,
    pub iat: i64,
    /// The grant's id, a dot, and random characters.
    pub jti: String,
    pub sid: SessionId,
    pub org_id: OrganizationId,
    pub org_slug: String,
    pub roles: Vec<Role>,
    pub auth_time: i64,
    pub amr: Vec<String>,
}

impl AccessClaims {
    /// Ends with the session at the latest.
    #[must_use]
    pub fn new(speaker: &Speaker<'_>, granted: &Granted, lifetime: Duration) -> Self {
        let Granted { grant, signed_in, scopes, at, .. } = granted;
        Self {
            iss: speaker.url.to_owned(),
            sub: signed_in.member.id,
            aud: speaker.url.to_owned(),
            client_id: grant.application_id,
            scope: scopes.clone(),
            exp: at.plus(lifetime).min(signed_in.session.expires_at).seconds(),
            iat: at.seconds(),
            jti: format!("{}.{}", grant.id, random::token()),
            sid: signed_in.session.id,
            org_id: speaker.organization,
            org_slug: speaker.slug.to_string(),
            roles: signed_in.member.roles.clone(),
            auth_time: signed_in.session.auth_time.seconds(),
            amr: signed_in.session.amr.clone(),
        }
    }

    /// The grant that the token belongs to.
    #[must_use]
    pub fn grant(&self) -> Option<GrantId> {
        self.jti.split_once('.').and_then(|(grant, _)| grant.parse().ok())
    }
}

/// The claims about a person that scopes open (OpenID Connect Core section 5.4).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Person {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preferred_username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_verified: Option<bool>,
}

impl Person {
    fn new(member: &Member, scopes: &Scopes) -> Self {
        let mut person = Self::default();
        if scopes.has(Scope::Profile) {
            person.name.clone_from(&member.name);
            person.preferred_username.clone_from(&member.username);
            person.updated_at = Some(member.updated_at.seconds());
        }
        if scopes.has(Scope::Email) {
            person.email = Some(member.email.as_str().to_owned());
            person.email_verified = Some(member.email_verified);
        }
        person
    }
}

/// The claims of an ID token (OpenID Connect Core section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdClaims {
    iss: String,
    sub: MemberId,
    aud: ApplicationId,
    exp: i64,
    iat: i64,
    auth_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    amr: Vec<String>,
    sid: SessionId,
    at_hash: String,
    org_id: OrganizationId,
    org_slug: String,
    roles: Vec<Role>,
    #[serde(flatten)]
    person: Person,
}

impl IdClaims {
    #[must_use]
    pub fn new(access: &AccessClaims, access_token: &str, granted: &Granted, lifetime: Duration) -> Self {
        Self {
            iss: access.iss.clone(),
            sub: access.sub,
            aud: access.client_id,
            exp: granted.at.plus(lifetime).seconds(),
            iat: access.iat,
            auth_time: access.auth_time,
            nonce: granted.nonce.clone(),
            amr: access.amr.clone(),
            sid: access.sid,
            // The left half of the hash (OpenID Connect Core section 3.1.3.6); both algorithms use SHA-256.
            at_hash: URL_SAFE_NO_PAD.encode(&hash::sha256(access_token.as_bytes())[..16]),
            org_id: access.org_id,
            org_slug: access.org_slug.clone(),
            roles: access.roles.clone(),
            person: Person::new(&granted.signed_in.member, &granted.scopes),
        }
    }
}

/// What userinfo answers, as the member is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserInfo {
    sub: MemberId,
    org_id: OrganizationId,
    org_slug: String,
    roles: Vec<Role>,
    #[serde(flatten)]
    person: Person,
}

impl UserInfo {
    #[must_use]
    pub fn new(speaker: &Speaker<'_>, live: &Live, scopes: &Scopes) -> Self {
        let member = &live.signed_in.member;
        Self {
            sub: member.id,
            org_id: speaker.organization,
            org_slug: speaker.slug.to_string(),
            roles: member.roles.clone(),
            person: Person::new(member, scopes),
        }
    }
}

/// A genuine access token of this issuer for this organization that has not expired. Whether it is still
/// good is for [`super::live`] to say.
#[must_use]
pub fn read_access_token(jwt: &str, keys: &Keys, speaker: &Speaker<'_>, now: Timestamp) -> Option<AccessClaims> {
    let (head, _) = signing::peek::<IgnoredAny>(jwt)?;
    let key = keys.public(&head.kid?, now)?;
    let claims: AccessClaims = signing::verify(jwt, &key, ACCESS_TOKEN)?;
    let good = claims.iss == speaker.url
        && claims.aud == speaker.url
        && claims.org_id == speaker.organization
        && claims.exp > now.seconds()
        && claims.iat <= now.plus(SKEW).seconds();
    good.then_some(claims)
}

/// What an ID token says about the sign-in that is to end.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IdHint {
    iss: String,
    pub aud: ApplicationId,
    pub sid: SessionId,
    org_id: OrganizationId,
}

/// A genuine ID token of this issuer for this organization. It may have expired: people sign out late.
#[must_use]
pub fn read_id_token_hint(jwt: &str, keys: &Keys, speaker: &Speaker<'_>, now: Timestamp) -> Option<IdHint> {
    let (head, _) = signing::peek::<IgnoredAny>(jwt)?;
    let key = keys.public(&head.kid?, now)?;
    let hint: IdHint = signing::verify(jwt, &key, ID_TOKEN)?;
    (hint.iss == speaker.url && hint.org_id == speaker.organization).then_some(hint)
}

/// The answer of introspection (RFC 7662 section 2.2).
#[derive(Debug, Default, Serialize)]
pub struct Introspection {
    active: bool,
    #[serde(flatten)]
    token: Option<ActiveToken>,
}

#[derive(Debug, Serialize)]
struct ActiveToken {
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type: Option<&'static str>,
    scope: Scopes,
    client_id: ApplicationId,
    sub: MemberId,
    iss: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    exp: i64,
    iat: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    sid: SessionId,
    org_id: OrganizationId,
    org_slug: String,
    roles: Vec<Role>,
    auth_time: i64,
    amr: Vec<String>,
}

impl Introspection {
    /// Of a token that is unknown, over, or somebody else's: nothing is said about which.
    #[must_use]
    pub fn inactive() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn of_access_token(claims: AccessClaims, live: &Live) -> Self {
        Self::active(ActiveToken {
            token_type: Some("Bearer"),
            scope: claims.scope,
            client_id: claims.client_id,
            sub: claims.sub,
            iss: claims.iss,
            aud: Some(claims.aud),
            exp: claims.exp,
            iat: claims.iat,
            jti: Some(claims.jti),
            sid: claims.sid,
            org_id: claims.org_id,
            org_slug: claims.org_slug,
            // As they are now, not as they were when the token was made.
            roles: live.signed_in.member.roles.clone(),
            auth_time: claims.auth_time,
            amr: claims.amr,
        })
    }

    #[must_use]
    pub fn of_refresh_token(speaker: &Speaker<'_>, token: &super::RefreshToken, live: Live) -> Self {
        let Live { signed_in, grant: Grant { scopes, application_id, .. } } = live;
        Self::active(ActiveToken {
            token_type: None,
            scope: scopes,
            client_id: application_id,
            sub: signed_in.member.id,
            iss: speaker.url.to_owned(),
            aud: None,
            exp: token.expires_at.seconds(),
            iat: token.created_at.seconds(),
            jti: None,
            sid: signed_in.session.id,
            org_id: speaker.organization,
            org_slug: speaker.slug.to_string(),
            roles: signed_in.member.roles,
            auth_time: signed_in.session.auth_time.seconds(),
            amr: signed_in.session.amr,
        })
    }

    fn active(token: ActiveToken) -> Self {
        Self { active: true, token: Some(token) }
    }
}
