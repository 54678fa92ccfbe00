//! SQL of sign-ups, in the catalog; and of hand-overs, in the new organization's file.

use super::SignUp;
use crate::base::time::length;
use crate::base::{Result, SignUpId, Timestamp};
use crate::sqlite::{CatalogDb, Read, TenantDb, Write, params};

pub(super) fn insert(
    db: &Write<'_, CatalogDb>,
    id: SignUpId,
    email_mac: &[u8; 32],
    code_hash: &[u8; 32],
    expires_at: Timestamp,
) -> Result<()> {
    db.execute(
        "INSERT INTO sign_up (id, email_mac, code_hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
        params![id, email_mac, code_hash, db.now(), expires_at],
    )?;
    Ok(())
}

pub(super) fn get(db: &Read<'_, CatalogDb>, id: SignUpId) -> Result<Option<SignUp>> {
    db.one(
        "SELECT id, email_mac, code_hash, attempts, proven_at, used_at, expires_at FROM sign_up WHERE id = ?",
        params![id],
        |row| {
            Ok(SignUp {
                id: row.get(0)?,
                email_mac: row.get(1)?,
                code_hash: row.get(2)?,
                attempts: row.get(3)?,
                proven_at: row.get(4)?,
                used_at: row.get(5)?,
                expires_at: row.get(6)?,
            })
        },
    )
}

pub(super) fn count_attempt(db: &Write<'_, CatalogDb>, id: SignUpId) -> Result<()> {
    db.execute("UPDATE sign_up SET attempts = attempts + 1 WHERE id = ?", params![id])?;
    Ok(())
}

pub(super) fn set_proven(db: &Write<'_, CatalogDb>, id: SignUpId, expires_at: Timestamp) -> Result<()> {
    db.execute("UPDATE sign_up SET proven_at = ?, expires_at = ? WHERE id = ?", params![db.now(), expires_at, id])?;
    Ok(())
}

/// Whether this call was the one that used it.
pub(super) fn set_used(db: &Write<'_, CatalogDb>, id: SignUpId) -> Result<bool> {
    let changed =
        db.execute("UPDATE sign_up SET used_at = ? WHERE id = ? AND used_at IS NULL", params![db.now(), id])?;
    Ok(changed > 0)
}

pub(super) fn set_unused(db: &Write<'_, CatalogDb>, id: SignUpId) -> Result<()> {
    db.execute("UPDATE sign_up SET used_at = NULL WHERE id = ?", params![id])?;
    Ok(())
}

pub(super) fn forget_old(db: &Write<'_, CatalogDb>) -> Result<()> {
    db.execute("DELETE FROM sign_up WHERE expires_at < ?", params![db.now().minus(length::days(1))])?;
    Ok(())
}

/// Uses a hand-over up, in the organization's own file; whether this was the first time.
pub(super) fn use_relay(db: &Write<'_, TenantDb>, token_hash: &[u8; 32], expires_at: i64) -> Result<bool> {
    db.execute("DELETE FROM used_relay WHERE expires_at < ?", params![db.now().minus(length::hours(1))])?;
    let inserted = db.execute(
        "INSERT INTO used_relay (token_hash, expires_at) VALUES (?, ?) ON CONFLICT (token_hash) DO NOTHING",
        params![token_hash, expires_at],
    )?;
    Ok(inserted > 0)
}
