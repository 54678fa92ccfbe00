//! SQL of API keys; the same in an organization's file and in the catalog.

use super::ApiKey;
use crate::base::{ApiKeyId, Error, Page, PageRequest, Result, Scope};
use crate::sqlite::{Kind, Read, Row, RowResult, Write, params};

pub fn by_hash<K: Kind>(db: &Read<'_, K>, secret_hash: &[u8; 32]) -> Result<Option<ApiKey>> {
    db.one(
        "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at
         FROM api_key WHERE secret_hash = ?",
        params![secret_hash],
        from_row,
    )
}

pub(super) fn get<K: Kind>(db: &Read<'_, K>, id: ApiKeyId) -> Result<Option<ApiKey>> {
    db.one(
        "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at
         FROM api_key WHERE id = ?",
        params![id],
        from_row,
    )
}

/// All of them, by id; revoked ones too.
pub fn all<K: Kind>(db: &Read<'_, K>) -> Result<Vec<ApiKey>> {
    db.all(
        "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at FROM api_key ORDER BY id",
        [],
        from_row,
    )
}

/// Revoked ones too.
pub fn list<K: Kind>(db: &Read<'_, K>, request: &PageRequest) -> Result<Page<ApiKey>> {
    let limit = request.limit + 1;
    let rows = if request.forward() {
        db.all(
            "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at
             FROM api_key WHERE id > ?1 ORDER BY id ASC LIMIT ?2",
            params![request.cursor().unwrap_or(""), limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at
             FROM api_key WHERE id < ?1 ORDER BY id DESC LIMIT ?2",
            params![request.cursor().unwrap_or("~"), limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |key| key.id.to_string()))
}

pub(super) fn insert<K: Kind>(db: &Write<'_, K>, key: &ApiKey, secret_hash: &[u8; 32]) -> Result<()> {
    let scopes = serde_json::to_string(&key.scopes)
        .map_err(|error| Error::internal("scopes could not be written").source(error))?;
    db.execute(
        "INSERT INTO api_key (id, name, secret_hash, suffix, scopes, created_at, expires_at)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![key.id, key.name, secret_hash, key.suffix, scopes, key.created_at, key.expires_at],
    )?;
    Ok(())
}

pub(super) fn revoke<K: Kind>(db: &Write<'_, K>, id: ApiKeyId) -> Result<()> {
    db.execute("UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", params![db.now(), id])?;
    Ok(())
}

pub fn note_use<K: Kind>(db: &Write<'_, K>, id: ApiKeyId) -> Result<()> {
    db.execute("UPDATE api_key SET last_used_at = ? WHERE id = ?", params![db.now(), id])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> RowResult<ApiKey> {
    // A scope that a later version has given and this one does not know opens nothing here.
    let scopes: Vec<String> = serde_json::from_str(&row.get::<_, String>(3)?).unwrap_or_default();
    Ok(ApiKey {
        id: row.get(0)?,
        name: row.get(1)?,
        suffix: row.get(2)?,
        scopes: scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
        created_at: row.get(4)?,
        last_used_at: row.get(5)?,
        expires_at: row.get(6)?,
        revoked_at: row.get(7)?,
    })
}
