//! Self-serve sign-up: prove a mailbox, name an organization, become its owner.
//!
//! It owns the catalog's table `sign_up`, which holds keyed hashes only: the address itself travels in
//! the person's browser, sealed. The code is mailed at once and not through an outbox, because there is
//! no file yet that could hold one; who does not get it asks again.

pub mod http;
mod store;

use serde::{Deserialize, Serialize};

use crate::base::time::length;
use crate::base::{Credential, CredentialKind, Email, Error, Result, Secret, SignUpId, Slug, Timestamp, codes};
use crate::crypto::{hash, random};
use crate::features::audit::By;
use crate::features::organization::Rules;
use crate::features::outbox::Mail;
use crate::features::provisioning::{self, NewOrganization, Owner};
use crate::features::{DeploymentState, member, session};
use crate::sqlite::{TenantDb, Write};
use crate::tenants::Tenant;

pub(super) const VALID_MINUTES: u32 = 10;
const VALID: std::time::Duration = length::minutes(10);
/// A proven mailbox has this long to name its organization.
const PROVEN_FOR: std::time::Duration = length::minutes(30);
const TRIES: u32 = 5;

/// A sign-up's row.
pub(super) struct SignUp {
    id: SignUpId,
    email_mac: Vec<u8>,
    code_hash: Vec<u8>,
    attempts: u32,
    proven_at: Option<Timestamp>,
    used_at: Option<Timestamp>,
    expires_at: Timestamp,
}

/// What the browser carries, sealed, from one page to the next.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ticket {
    pub id: SignUpId,
    pub email: Email,
}

/// Begins a sign-up and returns the mail with its code.
pub async fn begin(state: &DeploymentState, email: &Email) -> Result<(Ticket, Mail)> {
    refuse_if_closed(state)?;
    let (id, code) = (random::id(state.tenant.clock.now()), random::digits(6));
    let (mac, hash) = (email_mac(state, email), code_hash(state, id, &code));
    state
        .catalog
        .write(|db| {
            store::forget_old(db)?;
            store::insert(db, id, &mac, &hash, db.now().plus(VALID))
        })
        .await?;
    let text = format!(
        "Your code is {code}.\n\nType it on the page where you began to create your organization ({origin}). It is \
         good for {VALID_MINUTES} minutes.\n\nIf this was not you, you can ignore this message.\n",
        origin = state.tenant.address.origin(),
    );
    let mail = Mail { to: email.clone(), subject: format!("{code} is your code"), text, code: Some(code) };
    Ok((Ticket { id, email: email.clone() }, mail))
}

/// Checks the code; blanks and dashes in it do not matter.
pub async fn prove(state: &DeploymentState, ticket: &Ticket, code: &str) -> Result<()> {
    let digits: String = code.chars().filter(char::is_ascii_digit).collect();
    let hash = code_hash(state, ticket.id, &digits);
    let right = state
        .catalog
        .write(|db| {
            let Some(sign_up) = store::get(db, ticket.id)? else { return Ok(false) };
            if sign_up.used_at.is_some() || sign_up.attempts >= TRIES || db.now() >= sign_up.expires_at {
                return Ok(false);
            }
            store::count_attempt(db, sign_up.id)?;
            let right = hash::equal(&hash, &sign_up.code_hash);
            if right {
                store::set_proven(db, sign_up.id, db.now().plus(PROVEN_FOR))?;
            }
            Ok(right)
        })
        .await?;
    if right { Ok(()) } else { Err(Error::new(&codes::CODE_INCORRECT)) }
}

/// Whether the mailbox of this ticket has been proven and not been used yet.
pub async fn is_proven(state: &DeploymentState, ticket: &Ticket) -> Result<bool> {
    let mac = email_mac(state, &ticket.email);
    let (found, now) = state.catalog.read(|db| Ok((store::get(db, ticket.id)?, db.now()))).await?;
    Ok(found.is_some_and(|sign_up| {
        sign_up.proven_at.is_some()
            && sign_up.used_at.is_none()
            && now < sign_up.expires_at
            && hash::equal(&sign_up.email_mac, &mac)
    }))
}

/// Makes the organization with its owner and returns its slug and a hand-over to its own address.
pub async fn finish(
    state: &DeploymentState,
    ticket: &Ticket,
    name: String,
    slug: Option<Slug>,
    full_name: Option<String>,
    password: Secret,
    by: &By,
) -> Result<(Slug, Handover)> {
    refuse_if_closed(state)?;
    if !is_proven(state, ticket).await? {
        return Err(Error::new(&codes::SIGN_UP_EXPIRED));
    }
    let owner = Owner { email: ticket.email.clone(), name: full_name, password: Some(password), verified: true };
    let new = NewOrganization {
        name,
        slug,
        external_id: None,
        metadata: std::collections::BTreeMap::new(),
        accent: None,
        policy: crate::features::organization::Policy::default(),
        owner: Some(owner),
        founder: Some(email_mac(state, &ticket.email)),
        encryption: provisioning::Encryption::default(),
    };
    // Used up first: of two submits at once, one goes on. It is given back if nothing was made.
    if !state.catalog.write(|db| store::set_used(db, ticket.id)).await? {
        return Err(Error::new(&codes::SIGN_UP_EXPIRED).detail("This sign-up was completed already."));
    }
    match provisioning::create(state, new, by).await {
        Ok((organization, owner)) => {
            let member = owner.ok_or_else(|| Error::internal("a sign-up without an owner"))?;
            let token = random::credential(CredentialKind::Relay, Some(organization.id));
            let handover = Handover {
                token: token.expose().to_owned(),
                member: member.id.to_string(),
                email: member.email.as_str().to_owned(),
                expires_at: state.tenant.clock.now().plus(length::minutes(1)).millis(),
            };
            Ok((organization.slug, handover))
        }
        Err(error) => {
            state.catalog.write(|db| store::set_unused(db, ticket.id)).await?;
            Err(error)
        }
    }
}

/// Carries the fresh owner over to the organization's own address: sealed, good for a minute and once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handover {
    pub token: String,
    pub member: String,
    /// Shown on arrival, so that people see as whom they continue.
    pub email: String,
    pub expires_at: i64,
}

impl Handover {
    /// The credential inside, which names the organization and is used up on arrival.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        Credential::parse(CredentialKind::Relay, &self.token)
    }

    /// Whether it leads to this organization and is not too old.
    #[must_use]
    pub fn is_for(&self, tenant: &Tenant) -> bool {
        self.credential().is_some_and(|credential| credential.organization() == Some(tenant.id()))
            && tenant.clock().now().millis() < self.expires_at
    }
}

/// Takes the fresh owner in, once: starts a session, or nothing if the hand-over is for another
/// organization, too old, or used.
pub fn arrive(
    db: &Write<'_, TenantDb>,
    tenant: &Tenant,
    handover: &Handover,
    rules: &Rules,
    by: &By,
) -> Result<Option<Credential>> {
    if !handover.is_for(tenant) {
        return Ok(None);
    }
    let Some(credential) = handover.credential() else { return Ok(None) };
    if !store::use_relay(db, &hash::credential_hash(&credential), handover.expires_at)? {
        return Ok(None);
    }
    let Ok(id) = handover.member.parse() else { return Ok(None) };
    let member = member::get(db, id)?.filter(|member| member.status == member::Status::Active);
    let Some(member) = member else { return Ok(None) };
    let (_, token) = session::start(db, tenant, &member, &["pwd", "otp"], rules, by)?;
    Ok(Some(token))
}

fn refuse_if_closed(state: &DeploymentState) -> Result<()> {
    if state.sign_up.open { Ok(()) } else { Err(Error::new(&codes::SIGN_UP_CLOSED)) }
}

fn email_mac(state: &DeploymentState, email: &Email) -> [u8; 32] {
    state.tenant.mac.mac("founder", &[email.normalized().as_bytes()])
}

fn code_hash(state: &DeploymentState, id: SignUpId, code: &str) -> [u8; 32] {
    state.tenant.mac.mac("sign-up code", &[id.to_string().as_bytes(), code.as_bytes()])
}
