//! SQL of the outbox.

use super::{Mail, Waiting};
use crate::base::{OutboxId, Result, Timestamp};
use crate::crypto::Sealer;
use crate::sqlite::{Read, TenantDb, Write, params};

pub(super) fn insert(db: &Write<'_, TenantDb>, id: OutboxId, sealed: &[u8]) -> Result<()> {
    db.execute(
        "INSERT INTO outbox (id, kind, payload, created_at, next_attempt_at) VALUES (?1, 'mail', ?2, ?3, ?3)",
        params![id, sealed, db.now()],
    )?;
    Ok(())
}

/// Messages whose time has come, oldest first, a few at a time.
pub fn due(db: &Read<'_, TenantDb>, sealer: &Sealer) -> Result<Vec<Waiting>> {
    let rows = db.all(
        "SELECT id, attempts, payload FROM outbox WHERE failed_at IS NULL AND next_attempt_at <= ? ORDER BY id LIMIT 20",
        params![db.now()],
        |row| Ok((row.get::<_, OutboxId>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?)),
    )?;
    opened(rows, sealer)
}

/// Every message, whatever has become of it.
pub(super) fn all(db: &Read<'_, TenantDb>, sealer: &Sealer) -> Result<Vec<Waiting>> {
    let rows = db.all("SELECT id, attempts, payload FROM outbox ORDER BY id", [], |row| {
        Ok((row.get::<_, OutboxId>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    opened(rows, sealer)
}

/// Every payload, whatever has become of it.
pub(super) fn sealed(db: &Read<'_, TenantDb>) -> Result<Vec<(OutboxId, Vec<u8>)>> {
    db.all("SELECT id, payload FROM outbox", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The same payload, sealed anew if an older data key has sealed it.
pub(super) fn reseal(db: &Write<'_, TenantDb>, sealer: &Sealer, id: OutboxId, sealed: &[u8]) -> Result<bool> {
    let Some(anew) = sealer.reseal("outbox", "payload", &id.to_string(), sealed)? else { return Ok(false) };
    db.execute("UPDATE outbox SET payload = ? WHERE id = ?", params![anew, id])?;
    Ok(true)
}

fn opened(rows: Vec<(OutboxId, u32, Vec<u8>)>, sealer: &Sealer) -> Result<Vec<Waiting>> {
    rows.into_iter()
        .map(|(id, attempts, sealed)| {
            let text = sealer.open("outbox", "payload", &id.to_string(), &sealed)?;
            let mail: Mail = serde_json::from_slice(&text)
                .map_err(|error| crate::base::Error::internal("a mail could not be read").source(error))?;
            Ok(Waiting { id, attempts, mail })
        })
        .collect()
}

/// When the next message is due, if any waits.
pub fn waits(db: &Read<'_, TenantDb>) -> Result<Option<Timestamp>> {
    db.one("SELECT min(next_attempt_at) FROM outbox WHERE failed_at IS NULL", [], |row| row.get(0)).map(Option::flatten)
}

/// The message is out: nothing of it stays.
pub fn delivered(db: &Write<'_, TenantDb>, id: OutboxId) -> Result<()> {
    db.execute("DELETE FROM outbox WHERE id = ?", params![id])?;
    Ok(())
}

pub(super) fn retry(db: &Write<'_, TenantDb>, id: OutboxId, at: Timestamp) -> Result<()> {
    db.execute("UPDATE outbox SET attempts = attempts + 1, next_attempt_at = ? WHERE id = ?", params![at, id])?;
    Ok(())
}

pub(super) fn give_up(db: &Write<'_, TenantDb>, id: OutboxId) -> Result<()> {
    db.execute("UPDATE outbox SET failed_at = ? WHERE id = ?", params![db.now(), id])?;
    Ok(())
}
