//! SQL of challenges by e-mail.

use super::Challenge;
use crate::base::time::length;
use crate::base::{MemberId, Result, Timestamp};
use crate::sqlite::{Read, TenantDb, Write, params};

pub(super) fn insert(
    db: &Write<'_, TenantDb>,
    id: &str,
    member: Option<MemberId>,
    code_hash: &[u8; 32],
    expires_at: Timestamp,
) -> Result<()> {
    db.execute(
        "INSERT INTO email_challenge (id, member_id, code_hash, created_at, expires_at) VALUES (?, ?, ?, ?, ?)",
        params![id, member, code_hash, db.now(), expires_at],
    )?;
    Ok(())
}

pub(super) fn get(db: &Read<'_, TenantDb>, id: &str) -> Result<Option<Challenge>> {
    db.one(
        "SELECT id, member_id, code_hash, attempts, proven_at, used_at, created_at, expires_at FROM email_challenge WHERE id = ?",
        params![id],
        |row| {
            Ok(Challenge {
                id: row.get(0)?,
                member_id: row.get(1)?,
                code_hash: row.get(2)?,
                attempts: row.get(3)?,
                proven_at: row.get(4)?,
                used_at: row.get(5)?,
                created_at: row.get(6)?,
                expires_at: row.get(7)?,
            })
        },
    )
}

pub(super) fn count_attempt(db: &Write<'_, TenantDb>, id: &str) -> Result<()> {
    db.execute("UPDATE email_challenge SET attempts = attempts + 1 WHERE id = ?", params![id])?;
    Ok(())
}

pub(super) fn set_proven(db: &Write<'_, TenantDb>, id: &str, expires_at: Timestamp) -> Result<()> {
    db.execute(
        "UPDATE email_challenge SET proven_at = ?, expires_at = ? WHERE id = ?",
        params![db.now(), expires_at, id],
    )?;
    Ok(())
}

pub(super) fn set_used(db: &Write<'_, TenantDb>, id: &str) -> Result<()> {
    db.execute("UPDATE email_challenge SET used_at = ? WHERE id = ?", params![db.now(), id])?;
    Ok(())
}

/// Challenges of yesterday are of no use to anybody.
pub(super) fn forget_old(db: &Write<'_, TenantDb>) -> Result<()> {
    db.execute("DELETE FROM email_challenge WHERE expires_at < ?", params![db.now().minus(length::days(1))])?;
    Ok(())
}
