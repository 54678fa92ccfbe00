//! Erasing one member: the row and everything that hangs on it, mail that waits for them, and what the audit log
//! says of them. The chain of the log stays whole, because it holds only digests of what is taken out; the event of
//! the erasure says which events those are.

use super::members;
use crate::base::{MemberId, Result, Timestamp};
use crate::crypto::Sealer;
use crate::features::audit::{self, Act, Actor, By, Context, Person, Target};
use crate::features::{idempotency, outbox, session};
use crate::sqlite::{TenantDb, Write};
use crate::tenants::Tenant;

/// What an erasure has taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Events of the audit log whose content is gone.
    pub events: usize,
    /// Mails that waited.
    pub mails: usize,
    pub erased_at: Timestamp,
}

/// Erases a member. The last active owner cannot be erased.
pub async fn erase(tenant: &Tenant, id: MemberId, by: &By) -> Result<Erased> {
    // A log without a bound is read before anything is held up by it.
    let (person, seen, found) = tenant
        .scan(|db| {
            let member = members::require(db, id)?;
            let mut person = Person::new(id, member.email.normalized());
            person.sessions = session::ids_of(db, id)?;
            audit::earlier_addresses(db, &mut person)?;
            let found = audit::about(db, &person, 0)?;
            Ok((person, audit::head(db)?.0, found))
        })
        .await?;
    let erased = tenant
        .write_beyond(|db| {
            members::remove(db, id)?;
            let mails = outbox::forget_to(db, tenant.sealer(), |to| person.is_address(to.normalized()))?;
            idempotency::strip(db, tenant.sealer(), |answer| person.is_in(answer))?;
            let mut events = found;
            events.extend(audit::about(db, &person, seen)?);
            audit::strip(db, &events)?;
            let act = Act::new(audit::ERASED).on(Target::new("member", id));
            audit::record(db, &unnamed(by), act.with("events", audit::ranges(&events)))?;
            Ok(Erased { events: events.len(), mails, erased_at: db.now() })
        })
        .await?;
    // What was deleted is overwritten in the file when the WAL is folded.
    tenant.settle();
    Ok(erased)
}

/// The same in a private copy of an earlier time, for a member who was erased since: whatever they were then, the
/// last owner included. The copy holds no mail and no answers any more. Nothing, if they were not there yet.
pub fn erase_from_copy(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<bool> {
    take_out(db, id, by).map(|person| person.is_some())
}

/// The same in one that becomes the live file again, with its mail and its answers.
pub fn erase_from_past(db: &Write<'_, TenantDb>, sealer: &Sealer, id: MemberId, by: &By) -> Result<bool> {
    let Some(person) = take_out(db, id, by)? else { return Ok(false) };
    outbox::forget_to(db, sealer, |to| person.is_address(to.normalized()))?;
    idempotency::strip(db, sealer, |answer| person.is_in(answer))?;
    Ok(true)
}

fn take_out(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<Option<Person>> {
    let Some(member) = members::get(db, id)? else { return Ok(None) };
    let mut person = Person::new(id, member.email.normalized());
    person.sessions = session::ids_of(db, id)?;
    audit::earlier_addresses(db, &mut person)?;
    let events = audit::about(db, &person, 0)?;
    members::delete(db, id)?;
    audit::strip(db, &events)?;
    let act = Act::new(audit::ERASED).on(Target::new("member", id));
    audit::record(db, &unnamed(by), act.with("events", audit::ranges(&events)))?;
    Ok(Some(person))
}

/// The event of an erasure is never taken out itself, so it holds nobody's name and no address.
fn unnamed(by: &By) -> By {
    By {
        actor: Actor { name: None, ..by.actor.clone() },
        context: Context::default(),
        request_id: by.request_id.clone(),
    }
}
