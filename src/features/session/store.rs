//! SQL of sessions.

use super::Session;
use crate::base::{MemberId, Page, PageRequest, Result, SessionId, Timestamp};
use crate::sqlite::{Read, Row, RowResult, TenantDb, Write, params};

pub(super) fn insert(db: &Write<'_, TenantDb>, session: &Session, token_hash: &[u8; 32]) -> Result<()> {
    db.execute(
        "INSERT INTO session (id, member_id, token_hash, amr, auth_time, ip_address, user_agent, created_at,
                              last_seen_at, idle_expires_at, expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            session.id,
            session.member_id,
            token_hash,
            session.amr.join(" "),
            session.auth_time,
            session.ip_address,
            session.user_agent,
            session.created_at,
            session.last_seen_at,
            session.idle_expires_at,
            session.expires_at
        ],
    )?;
    Ok(())
}

pub(super) fn by_token(db: &Read<'_, TenantDb>, token_hash: &[u8; 32]) -> Result<Option<Session>> {
    db.one(
        "SELECT id, member_id, amr, auth_time, ip_address, user_agent, created_at, last_seen_at, idle_expires_at,
                expires_at, ended_at, end_reason
         FROM session WHERE token_hash = ?",
        params![token_hash],
        from_row,
    )
}

pub fn get(db: &Read<'_, TenantDb>, id: SessionId) -> Result<Option<Session>> {
    db.one(
        "SELECT id, member_id, amr, auth_time, ip_address, user_agent, created_at, last_seen_at, idle_expires_at,
                expires_at, ended_at, end_reason
         FROM session WHERE id = ?",
        params![id],
        from_row,
    )
}

/// Newest first, those of one member or of all.
pub fn list(db: &Read<'_, TenantDb>, member: Option<MemberId>, request: &PageRequest) -> Result<Page<Session>> {
    let limit = request.limit + 1;
    let member = member.map(|member| member.to_string());
    let rows = if request.forward() {
        db.all(
            "SELECT id, member_id, amr, auth_time, ip_address, user_agent, created_at, last_seen_at, idle_expires_at,
                    expires_at, ended_at, end_reason
             FROM session WHERE id > ?1 AND (?2 IS NULL OR member_id = ?2) ORDER BY id ASC LIMIT ?3",
            params![request.cursor().unwrap_or(""), member, limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT id, member_id, amr, auth_time, ip_address, user_agent, created_at, last_seen_at, idle_expires_at,
                    expires_at, ended_at, end_reason
             FROM session WHERE id < ?1 AND (?2 IS NULL OR member_id = ?2) ORDER BY id DESC LIMIT ?3",
            params![request.cursor().unwrap_or("~"), member, limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |session| session.id.to_string()))
}

pub(super) fn ids_of(db: &Read<'_, TenantDb>, member: MemberId) -> Result<Vec<SessionId>> {
    db.all("SELECT id FROM session WHERE member_id = ?", params![member], |row| row.get(0))
}

/// The sessions of a member that are still good, newest first.
pub fn list_of_member(db: &Read<'_, TenantDb>, member: MemberId) -> Result<Vec<Session>> {
    db.all(
        "SELECT id, member_id, amr, auth_time, ip_address, user_agent, created_at, last_seen_at, idle_expires_at,
                expires_at, ended_at, end_reason
         FROM session
         WHERE member_id = ?1 AND ended_at IS NULL AND expires_at > ?2 AND idle_expires_at > ?2
         ORDER BY id DESC LIMIT 100",
        params![member, db.now()],
        from_row,
    )
}

pub(super) fn touch(db: &Write<'_, TenantDb>, session: &Session) -> Result<()> {
    db.execute(
        "UPDATE session SET last_seen_at = ?, idle_expires_at = ? WHERE id = ? AND ended_at IS NULL",
        params![session.last_seen_at, session.idle_expires_at, session.id],
    )?;
    Ok(())
}

pub(super) fn end(db: &Write<'_, TenantDb>, id: SessionId, reason: &str) -> Result<bool> {
    let changed = db.execute(
        "UPDATE session SET ended_at = ?, end_reason = ? WHERE id = ? AND ended_at IS NULL",
        params![db.now(), reason, id],
    )?;
    Ok(changed > 0)
}

pub(super) fn end_all_of(
    db: &Write<'_, TenantDb>,
    member: MemberId,
    except: Option<SessionId>,
    reason: &str,
) -> Result<usize> {
    db.execute(
        "UPDATE session SET ended_at = ?1, end_reason = ?2
         WHERE member_id = ?3 AND ended_at IS NULL AND (?4 IS NULL OR id <> ?4)",
        params![db.now(), reason, member, except.map(|id| id.to_string())],
    )
}

pub(super) fn end_all(db: &Write<'_, TenantDb>, reason: &str) -> Result<usize> {
    db.execute("UPDATE session SET ended_at = ?, end_reason = ? WHERE ended_at IS NULL", params![db.now(), reason])
}

pub(super) fn forget_old(db: &Write<'_, TenantDb>, before: Timestamp) -> Result<()> {
    db.execute("DELETE FROM session WHERE expires_at < ?1 OR ended_at < ?1", params![before])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> RowResult<Session> {
    Ok(Session {
        id: row.get(0)?,
        member_id: row.get(1)?,
        amr: row.get::<_, String>(2)?.split_whitespace().map(str::to_owned).collect(),
        auth_time: row.get(3)?,
        ip_address: row.get(4)?,
        user_agent: row.get(5)?,
        created_at: row.get(6)?,
        last_seen_at: row.get(7)?,
        idle_expires_at: row.get(8)?,
        expires_at: row.get(9)?,
        ended_at: row.get(10)?,
        end_reason: row.get(11)?,
    })
}
