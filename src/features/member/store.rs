//! SQL of members.

use super::{Member, Status};
use crate::base::{Email, Error, MemberId, Page, PageRequest, Result, Timestamp};
use crate::sqlite::{Read, Row, RowResult, TenantDb, Write, params};

pub fn get(db: &Read<'_, TenantDb>, id: MemberId) -> Result<Option<Member>> {
    db.one(
        "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_hash, failed_attempts,
                locked_until, created_at, updated_at, password_set_at
         FROM member WHERE id = ?",
        params![id],
        from_row,
    )
}

pub fn by_email(db: &Read<'_, TenantDb>, email: &Email) -> Result<Option<Member>> {
    db.one(
        "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_hash, failed_attempts,
                locked_until, created_at, updated_at, password_set_at
         FROM member WHERE email_key = ?",
        params![email.normalized()],
        from_row,
    )
}

pub fn list(db: &Read<'_, TenantDb>, request: &PageRequest) -> Result<Page<Member>> {
    let limit = request.limit + 1;
    let rows = if request.forward() {
        db.all(
            "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_hash,
                    failed_attempts, locked_until, created_at, updated_at, password_set_at
             FROM member WHERE id > ?1 ORDER BY id ASC LIMIT ?2",
            params![request.cursor().unwrap_or(""), limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_hash,
                    failed_attempts, locked_until, created_at, updated_at, password_set_at
             FROM member WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            params![request.cursor().unwrap_or("~"), limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |member| member.id.to_string()))
}

/// All of them, by id.
pub fn all(db: &Read<'_, TenantDb>) -> Result<Vec<Member>> {
    db.all(
        "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_hash, failed_attempts,
                locked_until, created_at, updated_at, password_set_at
         FROM member ORDER BY id",
        [],
        from_row,
    )
}

pub fn count(db: &Read<'_, TenantDb>) -> Result<i64> {
    db.number("SELECT count(*) FROM member", [])
}

pub fn count_active_owners(db: &Read<'_, TenantDb>) -> Result<i64> {
    db.number(
        "SELECT count(*) FROM member
         WHERE status = 'active' AND EXISTS (SELECT 1 FROM json_each(member.roles) WHERE value = 'owner')",
        [],
    )
}

pub fn insert(db: &Write<'_, TenantDb>, member: &Member) -> Result<()> {
    db.execute(
        "INSERT INTO member (id, email, email_key, name, username, phone, title, status, roles, email_verified,
                             password_hash, password_set_at, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)",
        params![
            member.id,
            member.email.as_str(),
            member.email.normalized(),
            member.name,
            member.username,
            member.phone,
            member.title,
            member.status.as_str(),
            roles(member)?,
            member.email_verified,
            member.password_hash,
            member.password_set_at,
            member.created_at
        ],
    )?;
    Ok(())
}

/// The profile, status and roles; password and failed attempts have statements of their own.
pub fn update(db: &Write<'_, TenantDb>, member: &Member) -> Result<()> {
    db.execute(
        "UPDATE member SET email = ?, email_key = ?, name = ?, username = ?, phone = ?, title = ?, status = ?,
                           roles = ?, email_verified = ?, updated_at = ?
         WHERE id = ?",
        params![
            member.email.as_str(),
            member.email.normalized(),
            member.name,
            member.username,
            member.phone,
            member.title,
            member.status.as_str(),
            roles(member)?,
            member.email_verified,
            member.updated_at,
            member.id
        ],
    )?;
    Ok(())
}

/// A new password also ends a lock.
pub fn set_password(db: &Write<'_, TenantDb>, id: MemberId, hash: &str) -> Result<()> {
    db.execute(
        "UPDATE member SET password_hash = ?1, password_set_at = ?2, failed_attempts = 0, locked_until = NULL,
                           updated_at = ?2
         WHERE id = ?3",
        params![hash, db.now(), id],
    )?;
    Ok(())
}

pub fn set_attempts(db: &Write<'_, TenantDb>, id: MemberId, failed: u32, locked: Option<Timestamp>) -> Result<()> {
    db.execute("UPDATE member SET failed_attempts = ?, locked_until = ? WHERE id = ?", params![failed, locked, id])?;
    Ok(())
}

/// Frees a member's address until the next [`update`] of the row, so that addresses can change hands.
pub fn park_email(db: &Write<'_, TenantDb>, id: MemberId) -> Result<()> {
    db.execute("UPDATE member SET email_key = 'parked ' || id WHERE id = ?", params![id])?;
    Ok(())
}

pub fn delete(db: &Write<'_, TenantDb>, id: MemberId) -> Result<()> {
    db.execute("DELETE FROM member WHERE id = ?", params![id])?;
    Ok(())
}

fn roles(member: &Member) -> Result<String> {
    serde_json::to_string(&member.roles).map_err(|error| Error::internal("roles could not be written").source(error))
}

fn from_row(row: &Row<'_>) -> RowResult<Member> {
    let email: String = row.get(1)?;
    Ok(Member {
        id: row.get(0)?,
        email: Email::parse(&email).ok_or(crate::sqlite::unfit(1))?,
        name: row.get(2)?,
        username: row.get(3)?,
        phone: row.get(4)?,
        title: row.get(5)?,
        status: Status::parse(&row.get::<_, String>(6)?),
        roles: serde_json::from_str(&row.get::<_, String>(7)?).unwrap_or_default(),
        email_verified: row.get(8)?,
        password_hash: row.get(9)?,
        failed_attempts: row.get(10)?,
        locked_until: row.get(11)?,
        created_at: row.get(12)?,
        updated_at: row.get(13)?,
        password_set_at: row.get(14)?,
    })
}
