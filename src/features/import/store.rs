//! SQL of imports: rows out of a checked file, rows into a fresh one. As with exports, the whole file is the feature's
//! matter, so it names the tables of others; each column stands here once for reading and once for writing.

use super::rows::{Blob, Cell, unreadable};
use crate::base::{ApiKeyId, AuditEventId, Email, MemberId, Result, SigningKeyId, Timestamp};
use crate::crypto::Sealer;
use crate::sqlite::{Read, Row, RowResult, TenantDb, Value, Write, params, unfit};

/// The columns in the order of `rows::TABLES`.
const SELECTS: [(&str, &str, usize); 5] = [
    (
        "organization",
        "SELECT id, name, slug, external_id, state, metadata, accent, policy, created_at, updated_at FROM organization",
        10,
    ),
    (
        "member",
        "SELECT id, email, name, username, phone, title, status, roles, email_verified, password_set_at, created_at,
                updated_at
         FROM member ORDER BY id",
        12,
    ),
    (
        "signing_key",
        "SELECT id, algorithm, public_jwk, created_at, active_from, retire_at FROM signing_key ORDER BY id",
        6,
    ),
    (
        "api_key",
        "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at FROM api_key ORDER BY id",
        8,
    ),
    (
        "audit_event",
        "SELECT sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash
         FROM audit_event ORDER BY sequence",
        10,
    ),
];

/// Visits every row that is taken over, table by table.
pub(super) fn each(
    db: &Read<'_, TenantDb>,
    mut visit: impl FnMut(&'static str, Vec<Cell>) -> Result<()>,
) -> Result<()> {
    SELECTS.iter().try_for_each(|&(table, sql, columns)| {
        let mut place = 0_u64;
        db.each(sql, [], |row| {
            place += 1;
            let cell = |at| cell(row, at).map_err(|_| unreadable(table, at, place));
            let cells = (0..columns).map(cell).collect::<Result<Vec<_>>>()?;
            visit(table, cells)
        })
    })
}

fn cell(row: &Row<'_>, at: usize) -> RowResult<Cell> {
    Ok(match row.get::<_, Value>(at)? {
        Value::Null => Cell::Null,
        Value::Integer(number) => Cell::Integer(number),
        Value::Text(text) => Cell::Text(text),
        Value::Blob(bytes) => Cell::Blob(Blob { blob: hex::encode(bytes) }),
        Value::Real(_) => return Err(unfit(at)),
    })
}

/// Whose file it is, by its own stamp, and its slug and name.
pub(super) fn stamp(db: &Read<'_, TenantDb>) -> Result<Option<(String, String, String)>> {
    db.one("SELECT id, slug, name FROM organization", [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
}

/// A member as it was, roles and times included; counts of failures begin anew.
pub(super) struct MemberRow<'m> {
    pub id: MemberId,
    pub email: &'m Email,
    pub name: Option<&'m str>,
    pub username: Option<&'m str>,
    pub phone: Option<&'m str>,
    pub title: Option<&'m str>,
    pub status: &'static str,
    /// JSON
    pub roles: String,
    pub email_verified: bool,
    pub password_hash: Option<&'m str>,
    pub password_set_at: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

pub(super) fn insert_member(db: &Write<'_, TenantDb>, member: &MemberRow<'_>) -> Result<()> {
    db.execute(
        "INSERT INTO member (id, email, email_key, name, username, phone, title, status, roles, email_verified,
                             password_hash, password_set_at, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            member.id,
            member.email.as_str(),
            member.email.normalized(),
            member.name,
            member.username,
            member.phone,
            member.title,
            member.status,
            member.roles,
            member.email_verified,
            member.password_hash,
            member.password_set_at,
            member.created_at,
            member.updated_at
        ],
    )?;
    Ok(())
}

/// A signing key with its private half.
pub(super) struct SigningKeyRow {
    pub id: SigningKeyId,
    pub algorithm: &'static str,
    pub public_jwk: String,
    pub created_at: Timestamp,
    pub active_from: Timestamp,
    pub retire_at: Option<Timestamp>,
}

/// Seals the private half with the new organization's key.
pub(super) fn insert_signing_key(
    db: &Write<'_, TenantDb>,
    sealer: &Sealer,
    key: &SigningKeyRow,
    pkcs8: &[u8],
) -> Result<()> {
    let sealed = sealer.seal("signing_key", "private_key", &key.id.to_string(), pkcs8);
    db.execute(
        "INSERT INTO signing_key (id, algorithm, public_jwk, private_key, created_at, active_from, retire_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![key.id, key.algorithm, key.public_jwk, sealed, key.created_at, key.active_from, key.retire_at],
    )?;
    Ok(())
}

/// An API key, of which there is only a hash.
pub(super) struct ApiKeyRow {
    pub id: ApiKeyId,
    pub name: String,
    pub suffix: String,
    pub scopes: String,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

pub(super) fn insert_api_key(db: &Write<'_, TenantDb>, key: &ApiKeyRow, secret_hash: &[u8]) -> Result<()> {
    db.execute(
        "INSERT INTO api_key (id, name, secret_hash, suffix, scopes, created_at, last_used_at, expires_at, revoked_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            key.id,
            key.name,
            secret_hash,
            key.suffix,
            key.scopes,
            key.created_at,
            key.last_used_at,
            key.expires_at,
            key.revoked_at
        ],
    )?;
    Ok(())
}

/// An event as it was; the chain is verified when all are there.
pub(super) struct AuditRow {
    pub sequence: i64,
    pub id: AuditEventId,
    pub occurred_at: Timestamp,
    pub action: String,
    pub outcome: &'static str,
    pub payload: Option<String>,
    pub payload_salt: Option<Vec<u8>>,
    pub payload_digest: Vec<u8>,
    pub prev_hash: Vec<u8>,
    pub hash: Vec<u8>,
}

pub(super) fn insert_audit_event(db: &Write<'_, TenantDb>, event: &AuditRow) -> Result<()> {
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
            event.payload,
            event.payload_salt,
            event.payload_digest,
            event.prev_hash,
            event.hash
        ],
    )?;
    Ok(())
}
