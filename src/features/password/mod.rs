//! Signing in with e-mail and password, and changing the password.
//!
//! Whoever asks learns nothing but yes or no: an unknown member, a wrong password, a member who is
//! locked, pending or deactivated all get the same answer after the same work. Five failures in a row
//! lock a member for ten minutes, unless the organization's policy says otherwise.

pub mod http;

use crate::base::{Credential, Email, Error, MemberId, Result, Secret, codes};
use crate::crypto::{PasswordHasher, Verdict, strength};
use crate::features::audit::{self, Act, Actor, By, Target};
use crate::features::member::{self, Member, Status};
use crate::features::organization::{Organization, Rules};
use crate::features::session::{self, End, Session, SignedIn};
use crate::sqlite::{TenantDb, Write};
use crate::tenants::Tenant;

/// What a password must be, for the hint beside the field.
pub const HINT: &str = "At least 8 characters. A few unrelated words work well.";

/// How an attempt ended. A wrong password is an answer, not an error.
pub enum Outcome {
    SignedIn(Box<SignedIn>, Credential),
    Refused,
}

/// One attempt to sign in.
pub async fn sign_in(
    tenant: &Tenant,
    hasher: &PasswordHasher,
    rules: &Rules,
    email: Option<&Email>,
    password: Secret,
    by: &By,
) -> Result<Outcome> {
    // For everybody alike, so that the refusal tells nobody whose address is known.
    tenant.require_open()?;
    let known = match email {
        Some(email) => tenant.read(|db| member::by_email(db, email)).await?,
        // Not an address at all: go on as with an unknown one.
        None => None,
    };
    let stored = known.as_ref().and_then(|member| member.password_hash.clone());
    // No connection is held meanwhile. `None` is checked against a decoy at the same price.
    let verdict = tenant.verify(hasher, password.clone(), stored.clone()).await?;
    // A hash of older parameters is renewed while the password is at hand.
    let renewed = if verdict == Verdict::YesRehash { Some(tenant.hash(hasher, password).await?) } else { None };
    let attempt =
        Attempt { id: known.as_ref().map(|member| member.id), stored, right: verdict != Verdict::No, renewed };
    tenant.write(|db| settle(db, tenant, rules, email, &attempt, by)).await
}

struct Attempt {
    id: Option<MemberId>,
    /// The hash that was checked: if it was replaced meanwhile, the check is worth nothing.
    stored: Option<String>,
    right: bool,
    renewed: Option<String>,
}

fn settle(
    db: &Write<'_, TenantDb>,
    tenant: &Tenant,
    rules: &Rules,
    email: Option<&Email>,
    attempt: &Attempt,
    by: &By,
) -> Result<Outcome> {
    let member = match attempt.id {
        Some(id) => member::get(db, id)?,
        None => None,
    };
    let Some(member) = member else {
        let act = Act::failed("authentication.password_failed").with("reason", "unknown_member");
        audit::record(db, by, act.with("email", email.map_or("", Email::as_str)))?;
        return Ok(Outcome::Refused);
    };
    if let Some(reason) = obstacle(&member, attempt, db) {
        if reason == "wrong_password" {
            count_failure(db, rules, &member, by)?;
        }
        let act = Act::failed("authentication.password_failed").with("reason", reason);
        audit::record(db, by, act.on(Target::new("member", member.id).named(member.display())))?;
        return Ok(Outcome::Refused);
    }
    if member.failed_attempts > 0 || member.locked_until.is_some() {
        member::set_attempts(db, member.id, 0, None)?;
    }
    if let Some(hash) = &attempt.renewed {
        member::set_password(db, member.id, hash)?;
    }
    let by = by.as_actor(Actor::member(member.id, member.display()));
    let act = Act::new("authentication.password_succeeded").on(Target::new("member", member.id));
    audit::record(db, &by, act)?;
    let (session, token) = session::start(db, tenant, &member, &["pwd"], rules, &by)?;
    Ok(Outcome::SignedIn(Box::new(SignedIn { session, member }), token))
}

fn obstacle(member: &Member, attempt: &Attempt, db: &Write<'_, TenantDb>) -> Option<&'static str> {
    if member.is_locked(db.now()) {
        Some("locked")
    } else if member.status != Status::Active {
        Some("not_active")
    } else if !attempt.right || member.password_hash != attempt.stored {
        Some("wrong_password")
    } else {
        None
    }
}

fn count_failure(db: &Write<'_, TenantDb>, rules: &Rules, member: &Member, by: &By) -> Result<()> {
    // A lock that has run out starts the count anew.
    let before = if member.locked_until.is_some() { 0 } else { member.failed_attempts };
    let failed = before + 1;
    if failed < rules.lockout_attempts {
        return member::set_attempts(db, member.id, failed, None);
    }
    let until = db.now().plus(rules.lockout);
    member::set_attempts(db, member.id, failed, Some(until))?;
    let act = Act::new("member.locked").on(Target::new("member", member.id).named(member.display()));
    audit::record(db, by, act.with("until", until.to_string()).with("attempts", failed))?;
    Ok(())
}

/// Refuses a password that is easy to guess, with advice.
pub fn check_strength(
    field: &'static str,
    password: &Secret,
    email: &Email,
    name: Option<&str>,
    organization: &str,
) -> Result<()> {
    let about = [email.as_str(), email.as_str().split('@').next().unwrap_or(""), name.unwrap_or(""), organization];
    strength::check(password, &about)
        .map_err(|advice| Error::new(&codes::PASSWORD_TOO_WEAK).detail(advice.clone()).field(field, "too_weak", advice))
}

/// Changes the own password: needs the current one, ends every other session. A wrong one counts towards
/// the lock as at the sign-in, or a stolen session could guess its way to the password.
pub async fn change(
    tenant: &Tenant,
    hasher: &PasswordHasher,
    rules: &Rules,
    organization: &Organization,
    signed_in: &SignedIn,
    current: Secret,
    new: Secret,
    by: &By,
) -> Result<Session> {
    let member = &signed_in.member;
    let incorrect = |detail: &'static str| {
        let error = Error::new(&codes::VALIDATION_FAILED).detail(detail);
        error.field("current_password", "incorrect", "This is not your current password.")
    };
    let right = tenant.verify(hasher, current, member.password_hash.clone()).await? != Verdict::No;
    if tenant.write(|db| refuse_change(db, rules, member.id, right, by)).await? {
        return Err(incorrect("The current password is not right."));
    }
    check_strength("new_password", &new, &member.email, member.name.as_deref(), &organization.name)?;
    let hash = tenant.hash(hasher, new).await?;
    tenant
        .write(|db| {
            let now_stored = member::require(db, member.id)?.password_hash;
            if now_stored != member.password_hash {
                return Err(incorrect("The password was changed in the meantime."));
            }
            // Somebody may have ended it while the hashes were made, to stop just this.
            if session::find_by_id(db, signed_in.session.id)?.is_none() {
                return Err(Error::new(&codes::UNAUTHENTICATED));
            }
            member::set_password(db, member.id, &hash)?;
            session::end_all_of(db, member.id, Some(signed_in.session.id), End::PasswordChanged, by)?;
            let act = Act::new("member.password_changed").on(Target::new("member", member.id));
            audit::record(db, by, act)?;
            Ok(signed_in.session.clone())
        })
        .await
}

/// Whether whoever is signed in knows their password, before something that a stolen session must not do. A wrong
/// one counts towards the lock as at the sign-in.
pub async fn confirm(
    tenant: &Tenant,
    hasher: &PasswordHasher,
    rules: &Rules,
    signed_in: &SignedIn,
    password: Secret,
    by: &By,
) -> Result<()> {
    let member = &signed_in.member;
    let right = tenant.verify(hasher, password, member.password_hash.clone()).await? != Verdict::No;
    let refused = tenant
        .write(|db| {
            let now = member::require(db, member.id)?;
            // A password that was changed while this one was looked at is not the one that was asked for.
            let right = right && now.password_hash == member.password_hash;
            if !right && !now.is_locked(db.now()) {
                count_failure(db, rules, &now, by)?;
            }
            let refused = !right || now.is_locked(db.now());
            if refused {
                let act = Act::failed("member.password_confirmed").on(Target::new("member", member.id));
                audit::record(db, by, act.with("reason", if right { "locked" } else { "wrong_password" }))?;
            }
            Ok(refused)
        })
        .await?;
    let incorrect = || {
        let error = Error::new(&codes::VALIDATION_FAILED).detail("The password is not right.");
        error.field("password", "incorrect", "This is not your password.")
    };
    if refused { Err(incorrect()) } else { Ok(()) }
}

/// Whether a change is refused: by a wrong password, which is counted, or by a lock.
fn refuse_change(db: &Write<'_, TenantDb>, rules: &Rules, id: MemberId, right: bool, by: &By) -> Result<bool> {
    let member = member::require(db, id)?;
    let reason = match (member.is_locked(db.now()), right) {
        (true, _) => "locked",
        (false, false) => "wrong_password",
        (false, true) => return Ok(false),
    };
    if reason == "wrong_password" {
        count_failure(db, rules, &member, by)?;
    }
    let act = Act::failed("member.password_changed").on(Target::new("member", id)).with("reason", reason);
    audit::record(db, by, act)?;
    Ok(true)
}
