//! Erasing one member: the row and everything that hangs on it, mail that waits for them, and what the audit log
//! says of them. The chain of the log stays whole, because it holds only digests of what is taken out; the event of
//! the erasure says which events those are.

use super::members;
use crate::base::{Email, Error, MemberId, Result, Timestamp, codes};
use crate::crypto::Sealer;
use crate::features::audit::{self, Act, Actor, By, Context, Known, Person, Target};
use crate::features::{idempotency, outbox, session};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::Tenant;

/// What an erasure has taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Events of the audit log whose content is gone.
    pub events: usize,
    /// Mails that waited.
    pub mails: usize,
    pub erased_at: Timestamp,
    /// Whether anything was left to be taken out this time.
    pub is_new: bool,
    /// Whether neither the file nor its write-ahead log has anything of it any more.
    pub overwritten: bool,
}

/// Erases a member, also one who was deleted before: of them the log is what is left. Again changes nothing. The last
/// active owner cannot be erased, and whoever was never here is not known.
pub async fn erase(tenant: &Tenant, id: MemberId, by: &By) -> Result<Erased> {
    // A log without a bound is read before anything is held up by it.
    let found = tenant.scan(|db| Found::of(db, id)).await?;
    let found = found.ok_or_else(|| Error::new(&codes::MEMBER_NOT_FOUND))?;
    let mut erased = match found.done() {
        Some(done) => done,
        None => tenant.write_beyond(|db| found.take_out(db, tenant.sealer(), id, by)).await?,
    };
    // What was deleted is overwritten in the file when the WAL is folded.
    erased.overwritten = tenant.overwrite().await;
    Ok(erased)
}

/// What there is of somebody.
struct Found {
    person: Person,
    known: Known,
    is_member: bool,
    /// Events about them, and up to which one there are no others.
    events: Vec<i64>,
    seen: i64,
}

impl Found {
    /// Nothing, if there is no such member and the log knows of none.
    fn of(db: &Read<'_, TenantDb>, id: MemberId) -> Result<Option<Self>> {
        let mut person = Person::new(id);
        let member = members::get(db, id)?;
        if let Some(member) = &member {
            person.add_address(member.email.normalized());
            person.sessions = session::ids_of(db, id)?;
        }
        let known = audit::learn(db, &mut person)?;
        leave_to_others(db, &mut person, id)?;
        if member.is_none() && known == Known::default() {
            return Ok(None);
        }
        let (events, seen) = (audit::about(db, &person, 0)?, audit::head(db)?.0);
        Ok(Some(Self { person, known, is_member: member.is_some(), events, seen }))
    }

    /// What was done before, if nothing has come to light since.
    fn done(&self) -> Option<Erased> {
        let before = self.known.erased.filter(|_| !self.is_member && self.events.is_empty())?;
        let (events, mails, erased_at) = (before.events, before.mails, before.at);
        Some(Erased { events, mails, erased_at, is_new: false, overwritten: false })
    }

    fn take_out(self, db: &Write<'_, TenantDb>, sealer: &Sealer, id: MemberId, by: &By) -> Result<Erased> {
        let Self { mut person, mut events, mut seen, .. } = self;
        // Deleted, changed or brought back since it was looked.
        if let Some(member) = members::get(db, id)? {
            person.sessions = session::ids_of(db, id)?.into_iter().chain(person.sessions).collect();
            if person.add_address(member.email.normalized()) {
                (events, seen) = (Vec::new(), 0);
            }
            members::remove(db, id)?;
        }
        // Somebody was given one since.
        if leave_to_others(db, &mut person, id)? {
            (events, seen) = (Vec::new(), 0);
        }
        let mails = outbox::forget_to(db, sealer, |to| person.is_address(to.normalized()))?;
        idempotency::strip(db, sealer, |answer| person.is_in(answer))?;
        events.extend(audit::about(db, &person, seen)?);
        record(db, id, &events, mails, by)?;
        Ok(Erased { events: events.len(), mails, erased_at: db.now(), is_new: true, overwritten: false })
    }
}

/// Takes away the addresses that another member has by now: what names those is about that member. Tells whether there
/// were any.
fn leave_to_others(db: &Read<'_, TenantDb>, person: &mut Person, id: MemberId) -> Result<bool> {
    let mut others = Vec::new();
    for email in person.addresses().filter_map(Email::parse) {
        if members::by_email(db, &email)?.is_some_and(|member| member.id != id) {
            others.push(email);
        }
    }
    for email in &others {
        person.forget_address(email.normalized());
    }
    Ok(!others.is_empty())
}

/// Takes the content of these events out, and says which they are.
fn record(db: &Write<'_, TenantDb>, id: MemberId, events: &[i64], mails: usize, by: &By) -> Result<()> {
    audit::strip(db, events)?;
    let act = Act::new(audit::ERASED).on(Target::new("member", id));
    audit::record(db, &unnamed(by), act.with("events", audit::ranges(events)).with("mails", mails)).map(drop)
}

/// The same in a private copy of an earlier time, for a member who was erased since: whatever they were then, the
/// last owner and one who was deleted included. The copy holds no mail and no answers any more. Nothing, if they were
/// not there yet.
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
    let Some(found) = Found::of(db, id)?.filter(|found| found.done().is_none()) else { return Ok(None) };
    members::delete(db, id)?;
    record(db, id, &found.events, 0, by)?;
    Ok(Some(found.person))
}

/// The event of an erasure is never taken out itself, so it holds nobody's name and no address.
fn unnamed(by: &By) -> By {
    By {
        actor: Actor { name: None, ..by.actor.clone() },
        context: Context::default(),
        request_id: by.request_id.clone(),
    }
}
