//! A new password by a code sent to the mailbox: for whoever forgot theirs, and for pending members who
//! never had one.
//!
//! It owns the table `email_challenge`. Every answer is the same whether or not the address belongs to a
//! member: for a stranger the same row is written and no mail is sent. A code is six digits, good for ten
//! minutes and five tries; the proof it gives is good for ten minutes and one password.

pub mod http;
mod store;

use serde::{Deserialize, Serialize};

use crate::base::time::length;
use crate::base::{Credential, Email, Error, MemberId, OrganizationId, Result, Timestamp, codes};
use crate::crypto::{MacKey, random};
use crate::features::audit::{self, Act, Actor, By, Target};
use crate::features::member::{self, Member, Status};
use crate::features::organization::{Organization, Rules};
use crate::features::outbox::{self, Mail};
use crate::features::session::{self, End, Session};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::Tenant;

pub(super) const VALID_MINUTES: u32 = 10;
const VALID: std::time::Duration = length::minutes(10);
const TRIES: u32 = 5;

/// A challenge's row.
#[derive(Debug, Clone)]
pub struct Challenge {
    pub id: String,
    pub member_id: Option<MemberId>,
    code_hash: Vec<u8>,
    attempts: u32,
    proven_at: Option<Timestamp>,
    used_at: Option<Timestamp>,
    created_at: Timestamp,
    expires_at: Timestamp,
}

/// What the browser carries, sealed, from one page to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ticket {
    /// Where it was begun; it is worth nothing elsewhere.
    pub organization: OrganizationId,
    pub challenge: String,
    pub email: String,
}

/// Sends a code to the address if it belongs to a member who may use it, and says nothing either way;
/// `quiet` sends none.
pub async fn begin(
    tenant: &Tenant,
    mac: &MacKey,
    organization: &Organization,
    url: &str,
    email: &Email,
    quiet: bool,
    by: &By,
) -> Result<Ticket> {
    // For everybody alike, so that the refusal tells nobody whose address is known.
    tenant.require_open()?;
    let (id, code) = (random::token(), random::digits(6));
    tenant
        .write(|db| {
            store::forget_old(db)?;
            let member = member::by_email(db, email)?.filter(|member| member.status != Status::Inactive);
            store::insert(
                db,
                &id,
                member.as_ref().map(|member| member.id),
                &code_hash(mac, &id, &code),
                db.now().plus(VALID),
            )?;
            let mut act = Act::new("recovery.requested");
            if let Some(member) = member.as_ref().filter(|_| !quiet) {
                outbox::send(db, tenant, &mail(organization, url, member, &code))?;
                act = act.on(Target::new("member", member.id).named(member.display()));
            }
            audit::record(db, by, act)
        })
        .await?;
    tenant.call_attention();
    Ok(Ticket { organization: tenant.id(), challenge: id, email: email.as_str().to_owned() })
}

/// Checks a code; blanks and dashes in it do not matter.
pub async fn prove(tenant: &Tenant, mac: &MacKey, ticket: &Ticket, code: &str, by: &By) -> Result<()> {
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    let right = tenant
        .write(|db| {
            let Some(challenge) = store::get(db, &ticket.challenge)? else { return Ok(false) };
            let open = challenge.used_at.is_none() && challenge.attempts < TRIES && db.now() < challenge.expires_at;
            store::count_attempt(db, &challenge.id)?;
            let fits =
                open && mac.verify("email code", &[challenge.id.as_bytes(), digits.as_bytes()], &challenge.code_hash);
            // A stranger's code was never sent, so nobody can know it; it stays wrong all the same.
            if fits && challenge.member_id.is_some() {
                store::set_proven(db, &challenge.id, db.now().plus(VALID))?;
                return Ok(true);
            }
            let mut act = Act::failed("recovery.code_refused");
            if let Some(member) = challenge.member_id {
                act = act.on(Target::new("member", member));
            }
            audit::record(db, by, act)?;
            Ok(false)
        })
        .await?;
    if right { Ok(()) } else { Err(Error::new(&codes::CODE_INCORRECT)) }
}

/// The member whose mailbox was proven, while the proof is good.
pub fn proven(db: &Read<'_, TenantDb>, ticket: &Ticket) -> Result<Option<Member>> {
    let challenge = store::get(db, &ticket.challenge)?
        .filter(|challenge| challenge.proven_at.is_some() && challenge.used_at.is_none())
        .filter(|challenge| db.now() < challenge.expires_at);
    let Some(challenge) = challenge else { return Ok(None) };
    let Some(id) = challenge.member_id else { return Ok(None) };
    // The proof is of one mailbox, and older than no password: after a change of either it is void.
    let stands = |member: &Member| {
        member.status != Status::Inactive
            && Email::parse(&ticket.email).is_some_and(|email| email.normalized() == member.email.normalized())
            && member.password_set_at.is_none_or(|set_at| challenge.created_at >= set_at)
    };
    Ok(member::get(db, id)?.filter(stands))
}

/// Sets the password with the proof, which is used up; ends every session and starts a new one.
pub fn finish(
    db: &Write<'_, TenantDb>,
    tenant: &Tenant,
    ticket: &Ticket,
    hash: &str,
    rules: &Rules,
    by: &By,
) -> Result<(Member, Session, Credential)> {
    let mut member = proven(db, ticket)?.ok_or_else(expired)?;
    store::set_used(db, &ticket.challenge)?;
    let by = by.as_actor(Actor::member(member.id, member.display()));
    member::set_password(db, member.id, hash)?;
    member.status = Status::Active;
    member.email_verified = true;
    let member = member::change(db, member)?;
    session::end_all_of(db, member.id, None, End::PasswordChanged, &by)?;
    audit::record(db, &by, Act::new("member.password_recovered").on(Target::new("member", member.id)))?;
    let (session, token) = session::start(db, tenant, &member, &["otp"], rules, &by)?;
    Ok((member, session, token))
}

/// The way is too old, was used, or was never begun.
#[must_use]
pub fn expired() -> Error {
    Error::new(&codes::CODE_INCORRECT).detail("This has expired. Ask for a new code.")
}

fn code_hash(mac: &MacKey, id: &str, code: &str) -> [u8; 32] {
    mac.mac("email code", &[id.as_bytes(), code.as_bytes()])
}

fn mail(organization: &Organization, url: &str, member: &Member, code: &str) -> Mail {
    let text = format!(
        "Your code for {name} is {code}.\n\nType it on the page where you asked for it ({url}). It is good for \
         {VALID_MINUTES} minutes.\n\nIf you did not ask for it, you can ignore this message: nothing has changed.\n",
        name = organization.name,
    );
    Mail {
        to: member.email.clone(),
        subject: format!("{code} is your code for {}", organization.name),
        text,
        code: Some(code.to_owned()),
    }
}
