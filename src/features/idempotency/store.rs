//! SQL of keyed requests; the same in an organization's file and in the catalog.

use crate::base::{Result, Timestamp};
use crate::sqlite::{Kind, Read, Write, params};

pub(super) struct Row {
    pub request: [u8; 32],
    pub status: Option<u16>,
    pub body: Option<Vec<u8>>,
    pub created_at: Timestamp,
}

pub(super) fn get<K: Kind>(db: &Read<'_, K>, key: &[u8; 32]) -> Result<Option<Row>> {
    db.one("SELECT request_hash, status, body, created_at FROM idempotency WHERE key = ?", params![key], |row| {
        Ok(Row { request: row.get(0)?, status: row.get(1)?, body: row.get(2)?, created_at: row.get(3)? })
    })
}

/// A request that runs from now on, instead of whatever the key stood for before.
pub(super) fn put<K: Kind>(db: &Write<'_, K>, key: &[u8; 32], request: &[u8; 32]) -> Result<()> {
    db.execute(
        "INSERT INTO idempotency (key, request_hash, created_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET request_hash = ?2, status = NULL, body = NULL, created_at = ?3",
        params![key, request, db.now()],
    )?;
    Ok(())
}

pub(super) fn set_reply<K: Kind>(
    db: &Write<'_, K>,
    key: &[u8; 32],
    since: Timestamp,
    status: u16,
    body: &[u8],
) -> Result<()> {
    db.execute(
        "UPDATE idempotency SET status = ?, body = ? WHERE key = ? AND created_at = ? AND status IS NULL",
        params![status, body, key, since],
    )?;
    Ok(())
}

pub(super) fn answers<K: Kind>(db: &Read<'_, K>) -> Result<Vec<([u8; 32], Vec<u8>)>> {
    db.all("SELECT key, body FROM idempotency WHERE body IS NOT NULL", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

pub(super) fn replace<K: Kind>(db: &Write<'_, K>, key: &[u8; 32], body: &[u8]) -> Result<()> {
    db.execute("UPDATE idempotency SET body = ? WHERE key = ?", params![body, key])?;
    Ok(())
}

pub(super) fn delete<K: Kind>(db: &Write<'_, K>, key: &[u8; 32], since: Timestamp) -> Result<()> {
    db.execute("DELETE FROM idempotency WHERE key = ? AND created_at = ? AND status IS NULL", params![key, since])?;
    Ok(())
}

pub(super) fn has_older<K: Kind>(db: &Read<'_, K>, than: Timestamp) -> Result<bool> {
    Ok(db.number("SELECT EXISTS (SELECT 1 FROM idempotency WHERE created_at <= ?)", params![than])? > 0)
}

pub(super) fn forget_older<K: Kind>(db: &Write<'_, K>, than: Timestamp) -> Result<()> {
    db.execute("DELETE FROM idempotency WHERE created_at <= ?", params![than])?;
    Ok(())
}
