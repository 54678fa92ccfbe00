//! Effects outside an organization's file: messages that wait in it and are delivered after commit.
//!
//! It owns the table `outbox`. A message is put there in the transaction of the act that causes it, its
//! content sealed; `jobs::delivery` takes it out. Delivery is at least once.

mod store;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use store::{delivered, due, waits};

use crate::base::time::length;
use crate::base::{Email, Error, OutboxId, Result};
use crate::crypto::{Sealer, random};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::Tenant;

/// When a failed delivery is tried again; after the last, the message is given up.
const RETRIES: [Duration; 6] = [
    length::seconds(5),
    length::seconds(30),
    length::minutes(2),
    length::minutes(10),
    length::hours(1),
    length::hours(6),
];

/// A mail on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mail {
    pub to: Email,
    pub subject: String,
    pub text: String,
    /// A code that the local mailbox shows in large type.
    pub code: Option<String>,
}

/// A message with its place in the queue.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub id: OutboxId,
    pub attempts: u32,
    pub mail: Mail,
}

/// Puts a mail into the outbox; call [`Tenant::call_attention`] after the commit.
pub fn send(db: &Write<'_, TenantDb>, tenant: &Tenant, mail: &Mail) -> Result<()> {
    let id: OutboxId = random::id(db.now());
    let text =
        serde_json::to_vec(mail).map_err(|error| Error::internal("a mail could not be written").source(error))?;
    store::insert(db, id, &tenant.sealer().seal("outbox", "payload", &id.to_string(), &text))
}

/// Takes out every mail to certain addresses, also those that were given up; returns how many.
pub fn forget_to(db: &Write<'_, TenantDb>, sealer: &Sealer, is_one: impl Fn(&Email) -> bool) -> Result<usize> {
    let mut forgotten = 0;
    for message in store::all(db, sealer)?.into_iter().filter(|message| is_one(&message.mail.to)) {
        delivered(db, message.id)?;
        forgotten += 1;
    }
    Ok(forgotten)
}

/// Refuses what a data key has sealed that is not there any more.
pub fn require_keys(db: &Read<'_, TenantDb>, sealer: &Sealer) -> Result<()> {
    store::sealed(db)?.iter().try_for_each(|(_, sealed)| sealer.require_key_of(sealed))
}

/// Seals anew what an older data key has sealed; returns how many messages.
pub fn reseal(db: &Write<'_, TenantDb>, sealer: &Sealer) -> Result<usize> {
    store::sealed(db)?
        .iter()
        .try_fold(0, |count, (id, sealed)| Ok(count + usize::from(store::reseal(db, sealer, *id, sealed)?)))
}

/// Notes a failed attempt: a later try, or the end.
pub fn failed(db: &Write<'_, TenantDb>, message: &Waiting) -> Result<()> {
    match RETRIES.get(message.attempts as usize) {
        Some(&pause) => store::retry(db, message.id, db.now().plus(pause)),
        None => store::give_up(db, message.id),
    }
}
