//! SQL of grants and their tokens.

use super::{Grant, Issuer, RefreshToken, Scopes};
use crate::base::{GrantId, Result, Timestamp};
use crate::sqlite::{Read, Row, RowResult, TenantDb, Write, params};

pub(super) fn insert(db: &Write<'_, TenantDb>, grant: &Grant, code_hash: &[u8; 32]) -> Result<()> {
    db.execute(
        "INSERT INTO oauth_grant (id, application_id, member_id, session_id, issuer, scope, nonce, redirect_uri,
                                  code_hash, code_challenge, code_expires_at, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            grant.id,
            grant.application_id,
            grant.member_id,
            grant.session_id,
            grant.issuer.as_str(),
            grant.scopes.to_string(),
            grant.nonce,
            grant.redirect_uri,
            code_hash,
            grant.code_challenge,
            grant.code_expires_at,
            grant.created_at
        ],
    )?;
    Ok(())
}

pub(super) fn get(db: &Read<'_, TenantDb>, id: GrantId) -> Result<Option<Grant>> {
    db.one(
        "SELECT id, application_id, member_id, session_id, issuer, scope, nonce, redirect_uri, code_challenge,
                code_expires_at, code_used_at, created_at, revoked_at
         FROM oauth_grant WHERE id = ?",
        params![id],
        grant_from_row,
    )
}

pub(super) fn by_code(db: &Read<'_, TenantDb>, code_hash: &[u8; 32]) -> Result<Option<Grant>> {
    db.one(
        "SELECT id, application_id, member_id, session_id, issuer, scope, nonce, redirect_uri, code_challenge,
                code_expires_at, code_used_at, created_at, revoked_at
         FROM oauth_grant WHERE code_hash = ?",
        params![code_hash],
        grant_from_row,
    )
}

/// False if it was used before.
pub(super) fn use_code(db: &Write<'_, TenantDb>, id: GrantId) -> Result<bool> {
    let changed = db.execute(
        "UPDATE oauth_grant SET code_used_at = ? WHERE id = ? AND code_used_at IS NULL",
        params![db.now(), id],
    )?;
    Ok(changed > 0)
}

/// False if it was revoked before.
pub(super) fn revoke(db: &Write<'_, TenantDb>, id: GrantId, reason: &str) -> Result<bool> {
    let changed = db.execute(
        "UPDATE oauth_grant SET revoked_at = ?, revoke_reason = ? WHERE id = ? AND revoked_at IS NULL",
        params![db.now(), reason, id],
    )?;
    Ok(changed > 0)
}

pub(super) fn insert_refresh_token(
    db: &Write<'_, TenantDb>,
    token_hash: &[u8; 32],
    token: &RefreshToken,
) -> Result<()> {
    db.execute(
        "INSERT INTO refresh_token (token_hash, grant_id, created_at, expires_at) VALUES (?, ?, ?, ?)",
        params![token_hash, token.grant_id, token.created_at, token.expires_at],
    )?;
    Ok(())
}

pub(super) fn refresh_token(db: &Read<'_, TenantDb>, token_hash: &[u8; 32]) -> Result<Option<RefreshToken>> {
    db.one(
        "SELECT grant_id, created_at, expires_at, used_at FROM refresh_token WHERE token_hash = ?",
        params![token_hash],
        |row| {
            Ok(RefreshToken {
                grant_id: row.get(0)?,
                created_at: row.get(1)?,
                expires_at: row.get(2)?,
                used_at: row.get(3)?,
            })
        },
    )
}

/// False if it was used before.
pub(super) fn use_refresh_token(db: &Write<'_, TenantDb>, token_hash: &[u8; 32]) -> Result<bool> {
    let changed = db.execute(
        "UPDATE refresh_token SET used_at = ? WHERE token_hash = ? AND used_at IS NULL",
        params![db.now(), token_hash],
    )?;
    Ok(changed > 0)
}

pub(super) fn revoke_access_token(db: &Write<'_, TenantDb>, jti: &str, expires_at: Timestamp) -> Result<()> {
    db.execute(
        "INSERT INTO revoked_access_token (jti, expires_at) VALUES (?, ?) ON CONFLICT (jti) DO NOTHING",
        params![jti, expires_at],
    )?;
    Ok(())
}

pub(super) fn is_revoked(db: &Read<'_, TenantDb>, jti: &str) -> Result<bool> {
    Ok(db.number("SELECT count(*) FROM revoked_access_token WHERE jti = ?", params![jti])? > 0)
}

/// Tokens that have expired on their own, and grants whose code expired before `unused` and was never redeemed.
pub(super) fn forget_old(db: &Write<'_, TenantDb>, unused: Timestamp) -> Result<()> {
    db.execute("DELETE FROM refresh_token WHERE expires_at <= ?", params![db.now()])?;
    db.execute("DELETE FROM revoked_access_token WHERE expires_at <= ?", params![db.now()])?;
    db.execute("DELETE FROM oauth_grant WHERE code_used_at IS NULL AND code_expires_at < ?", params![unused])?;
    Ok(())
}

fn grant_from_row(row: &Row<'_>) -> RowResult<Grant> {
    let issuer = match row.get::<_, String>(4)?.as_str() {
        "organization" => Issuer::Organization,
        "deployment" => Issuer::Deployment,
        _ => return Err(crate::sqlite::unfit(4)),
    };
    Ok(Grant {
        id: row.get(0)?,
        application_id: row.get(1)?,
        member_id: row.get(2)?,
        session_id: row.get(3)?,
        issuer,
        scopes: Scopes::parse(&row.get::<_, String>(5)?),
        nonce: row.get(6)?,
        redirect_uri: row.get(7)?,
        code_challenge: row.get(8)?,
        code_expires_at: row.get(9)?,
        code_used_at: row.get(10)?,
        created_at: row.get(11)?,
        revoked_at: row.get(12)?,
    })
}
