//! Sessions: a member's signed-in browser or device, in the organization's own file.
//!
//! It owns the table `session`. A session has an idle and an absolute end; it is ended early by sign-out,
//! by the member, by an operator, and whenever the member loses access. Everything an application got
//! (authorization codes, refresh tokens, access tokens) hangs on the session and ends with it.

pub mod api;
pub mod http;
mod store;

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;
use serde::Serialize;

pub use store::{get, list, list_of_member};

use crate::base::time::length;
use crate::base::{Credential, CredentialKind, Error, MemberId, Result, SessionId, Timestamp, codes};
use crate::crypto::{hash, random};
use crate::features::audit::{self, Act, Actor, By, Target};
use crate::features::member::{self, Member};
use crate::features::organization::{self, PolicyDefaults, Rules};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::Tenant;

/// A sign of life is written down at most this often, so that reading a session rarely writes.
const SIGN_OF_LIFE: std::time::Duration = length::minutes(1);

/// How long an ended session can still be looked at.
const KEPT: std::time::Duration = length::days(30);

/// A session's row.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: SessionId,
    pub member_id: MemberId,
    /// How the member proved to be themself (RFC 8176): `pwd`, `otp`, ...
    pub amr: Vec<String>,
    pub auth_time: Timestamp,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: Timestamp,
    pub last_seen_at: Timestamp,
    pub idle_expires_at: Timestamp,
    pub expires_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub end_reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Active,
    Expired,
    Revoked,
}

impl Session {
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        if self.ended_at.is_some() {
            Status::Revoked
        } else if now >= self.expires_at || now >= self.idle_expires_at {
            Status::Expired
        } else {
            Status::Active
        }
    }

    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.status(now) == Status::Active
    }
}

/// A session together with the member it belongs to, both fit for use.
#[derive(Debug, Clone)]
pub struct SignedIn {
    pub session: Session,
    pub member: Member,
}

/// Why a session ended; stored, shown in the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    SignedOut,
    RevokedByMember,
    RevokedByOperator,
    PasswordChanged,
    MemberDeactivated,
    OrganizationSuspended,
    OrganizationRestored,
    SignedInAgain,
}

impl End {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::RevokedByMember => "revoked_by_member",
            Self::RevokedByOperator => "revoked_by_operator",
            Self::PasswordChanged => "password_changed",
            Self::MemberDeactivated => "member_deactivated",
            Self::OrganizationSuspended => "organization_suspended",
            Self::OrganizationRestored => "organization_restored",
            Self::SignedInAgain => "signed_in_again",
        }
    }
}

/// Starts a session for a member who has proven to be themself just now. Proving takes a while: an
/// organization that was suspended meanwhile takes nobody in.
pub fn start(
    db: &Write<'_, TenantDb>,
    tenant: &Tenant,
    member: &Member,
    amr: &[&str],
    rules: &Rules,
    by: &By,
) -> Result<(Session, Credential)> {
    if organization::get(db)?.suspended {
        return Err(Error::new(&codes::ORGANIZATION_SUSPENDED));
    }
    let now = db.now();
    let token = random::credential(CredentialKind::Session, Some(tenant.id()));
    let expires_at = now.plus(rules.session_absolute);
    let session = Session {
        id: random::id(now),
        member_id: member.id,
        amr: amr.iter().map(|&method| method.to_owned()).collect(),
        auth_time: now,
        ip_address: by.context.ip_address.clone(),
        user_agent: by.context.user_agent.clone(),
        created_at: now,
        last_seen_at: now,
        idle_expires_at: now.plus(rules.session_idle).min(expires_at),
        expires_at,
        ended_at: None,
        end_reason: None,
    };
    store::insert(db, &session, &hash::credential_hash(&token))?;
    let by = by.as_actor(Actor::member(member.id, member.display()));
    audit::record(db, &by, Act::new("session.created").on(target(&session)).with("amr", session.amr.clone()))?;
    Ok((session, token))
}

/// The session of a token, if both session and member are fit for use now.
fn find_by_hash(db: &Read<'_, TenantDb>, hash: &[u8; 32]) -> Result<Option<SignedIn>> {
    let Some(session) = store::by_token(db, hash)? else { return Ok(None) };
    usable(db, session)
}

/// The session with this id, if both session and member are fit for use now.
pub fn find_by_id(db: &Read<'_, TenantDb>, id: SessionId) -> Result<Option<SignedIn>> {
    let Some(session) = get(db, id)? else { return Ok(None) };
    usable(db, session)
}

/// Looks a token up and notes the sign of life, at most once a minute. Only that needs the organization's policy, where
/// it has one beside the deployment's.
pub async fn authenticate(tenant: &Tenant, token: &Credential, policy: &PolicyDefaults) -> Result<Option<SignedIn>> {
    if token.organization() != Some(tenant.id()) {
        return Ok(None);
    }
    let Some(mut signed_in) = look_up(tenant, token).await? else { return Ok(None) };
    if is_due(&signed_in.session, tenant.clock().now()) {
        let rules = organization::current(tenant).await?.policy.in_force(policy);
        let session = &mut signed_in.session;
        match tenant.write(|db| touch(db, session, &rules)).await {
            Ok(touched) => *session = touched,
            // A session that is good stays so where the disk takes no sign of life.
            Err(error) if error.is_of_a_shut_file() => {}
            Err(error) if error.is_of_storage() => {
                tracing::warn!(organization = %tenant.id(), ?error, "a sign of life was not noted");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(signed_in))
}

/// What the last look-ups of tokens found, each with the number of commits before it.
struct Recent(Mutex<LruCache<[u8; 32], (u64, SignedIn)>>);

/// Some kilobytes for each file that is open.
const RECENT: NonZero<usize> = NonZero::new(32).unwrap();

/// An app asks for the same few sessions again and again, and all writes of a file go through its [`Tenant`]:
/// while there was none, what was found is still so, except for the time.
async fn look_up(tenant: &Tenant, token: &Credential) -> Result<Option<SignedIn>> {
    let (hash, commits) = (hash::credential_hash(token), tenant.commits());
    let recent =
        tenant.recall::<Recent>().unwrap_or_else(|| tenant.remember(Recent(Mutex::new(LruCache::new(RECENT)))));
    let known = {
        let mut recent = recent.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.get(&hash).filter(|(then, _)| *then == commits).map(|(_, signed_in)| signed_in.clone())
    };
    if let Some(signed_in) = known {
        return Ok(signed_in.session.is_active(tenant.clock().now()).then_some(signed_in));
    }
    let found = tenant.read(|db| find_by_hash(db, &hash)).await?;
    if let Some(signed_in) = &found {
        recent.0.lock().unwrap_or_else(PoisonError::into_inner).put(hash, (commits, signed_in.clone()));
    }
    Ok(found)
}

/// Whether a sign of life should be written down.
#[must_use]
pub fn is_due(session: &Session, now: Timestamp) -> bool {
    now.since(session.last_seen_at) >= SIGN_OF_LIFE
}

/// Notes a sign of life: the idle end moves, the absolute end does not.
pub fn touch(db: &Write<'_, TenantDb>, session: &Session, rules: &Rules) -> Result<Session> {
    let mut session = session.clone();
    session.last_seen_at = db.now();
    session.idle_expires_at = db.now().plus(rules.session_idle).min(session.expires_at);
    store::touch(db, &session)?;
    Ok(session)
}

/// Ends one session; ending it again changes nothing.
pub fn end(db: &Write<'_, TenantDb>, id: SessionId, reason: End, by: &By) -> Result<()> {
    let session = get(db, id)?.ok_or_else(|| Error::new(&codes::SESSION_NOT_FOUND))?;
    if session.ended_at.is_none() && store::end(db, id, reason.as_str())? {
        audit::record(db, by, Act::new("session.revoked").on(target(&session)).with("reason", reason.as_str()))?;
    }
    Ok(())
}

/// Ends every session of a member but one; returns how many.
pub fn end_all_of(
    db: &Write<'_, TenantDb>,
    member: MemberId,
    except: Option<SessionId>,
    reason: End,
    by: &By,
) -> Result<usize> {
    let ended = store::end_all_of(db, member, except, reason.as_str())?;
    if ended > 0 {
        let act = Act::new("member.sessions_revoked").on(Target::new("member", member));
        audit::record(db, by, act.with("count", ended).with("reason", reason.as_str()))?;
    }
    Ok(ended)
}

/// The ids of all sessions of a member, also of those that are over.
pub fn ids_of(db: &Read<'_, TenantDb>, member: MemberId) -> Result<Vec<SessionId>> {
    store::ids_of(db, member)
}

/// Ends every session of the organization; returns how many.
pub fn end_all(db: &Write<'_, TenantDb>, reason: End) -> Result<usize> {
    store::end_all(db, reason.as_str())
}

fn usable(db: &Read<'_, TenantDb>, session: Session) -> Result<Option<SignedIn>> {
    if !session.is_active(db.now()) {
        return Ok(None);
    }
    let member = member::get(db, session.member_id)?.filter(|member| member.status == member::Status::Active);
    Ok(member.map(|member| SignedIn { session, member }))
}

fn target(session: &Session) -> Target {
    Target::new("session", session.id)
}

/// Forgets sessions that ended long ago, and with them what applications got from them.
pub fn forget_old(db: &Write<'_, TenantDb>) -> Result<()> {
    store::forget_old(db, db.now().minus(KEPT))
}
