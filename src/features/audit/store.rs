//! SQL of the audit log; the same in an organization's file and in the catalog.

use super::Event;
use crate::base::{Page, PageRequest, Result};
use crate::sqlite::{Kind, Read, Row, RowResult, Write, params};

pub(super) fn last<K: Kind>(db: &Read<'_, K>) -> Result<Option<(i64, Vec<u8>)>> {
    db.one("SELECT sequence, hash FROM audit_event ORDER BY sequence DESC LIMIT 1", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// What happened last.
pub fn newest_action<K: Kind>(db: &Read<'_, K>) -> Result<Option<String>> {
    db.one("SELECT action FROM audit_event ORDER BY sequence DESC LIMIT 1", [], |row| row.get(0))
}

pub(super) fn insert<K: Kind>(db: &Write<'_, K>, event: &Event) -> Result<()> {
    db.execute(
        "INSERT INTO audit_event (sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest,
                                  prev_hash, hash)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            event.sequence,
            event.id,
            event.occurred_at,
            event.action,
            event.outcome,
            event.payload_text,
            event.payload_salt,
            event.payload_digest,
            event.prev_hash,
            event.hash
        ],
    )?;
    Ok(())
}

/// One page, by id: ids are in the order of the chain to the millisecond, and the sequence breaks ties.
pub fn list<K: Kind>(db: &Read<'_, K>, request: &PageRequest) -> Result<Page<Event>> {
    let limit = request.limit + 1;
    let cursor = request.cursor();
    let rows = if request.forward() {
        db.all(
            "SELECT sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash
             FROM audit_event WHERE sequence > coalesce((SELECT sequence FROM audit_event WHERE id = ?1), 0)
             ORDER BY sequence ASC LIMIT ?2",
            params![cursor, limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash
             FROM audit_event
             WHERE sequence < coalesce((SELECT sequence FROM audit_event WHERE id = ?1), 9223372036854775807)
             ORDER BY sequence DESC LIMIT ?2",
            params![cursor, limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |event| event.id.to_string()))
}

/// Every event of one kind.
pub(super) fn of_action<K: Kind>(db: &Read<'_, K>, action: &str) -> Result<Vec<Event>> {
    db.all(
        "SELECT sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash
         FROM audit_event WHERE action = ? ORDER BY sequence",
        params![action],
        from_row,
    )
}

/// Every event from the first on, one at a time.
pub fn each<K: Kind>(db: &Read<'_, K>, visit: impl FnMut(Event) -> Result<()>) -> Result<()> {
    each_after(db, 0, visit)
}

/// Every event behind this one.
pub fn each_after<K: Kind>(db: &Read<'_, K>, after: i64, mut visit: impl FnMut(Event) -> Result<()>) -> Result<()> {
    db.each(
        "SELECT sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash
         FROM audit_event WHERE sequence > ? ORDER BY sequence",
        params![after],
        |row| visit(from_row(row)?),
    )
}

/// Takes the content of an event out; its digest stays.
pub(super) fn blank<K: Kind>(db: &Write<'_, K>, sequence: i64) -> Result<()> {
    db.execute("UPDATE audit_event SET payload = NULL, payload_salt = NULL WHERE sequence = ?", params![sequence])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> RowResult<Event> {
    let text: Option<String> = row.get(5)?;
    Ok(Event {
        sequence: row.get(0)?,
        id: row.get(1)?,
        occurred_at: row.get(2)?,
        action: row.get(3)?,
        outcome: row.get(4)?,
        payload: text.as_deref().and_then(|text| serde_json::from_str(text).ok()),
        payload_text: text,
        payload_salt: row.get(6)?,
        payload_digest: row.get(7)?,
        prev_hash: row.get(8)?,
        hash: row.get(9)?,
    })
}
