//! SQL of applications, in the catalog.

use super::{Application, Type};
use crate::base::{ApplicationId, Error, Page, PageRequest, Result};
use crate::crypto::Algorithm;
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// All of them, deleted ones too, for the book.
pub fn all(db: &Read<'_, CatalogDb>) -> Result<Vec<Application>> {
    db.all(
        "SELECT id, name, type, secret_hash, redirect_uris, post_logout_redirect_uris, id_token_signed_response_alg,
                state, created_at, updated_at
         FROM application",
        [],
        from_row,
    )
}

pub fn get(db: &Read<'_, CatalogDb>, id: ApplicationId) -> Result<Option<Application>> {
    db.one(
        "SELECT id, name, type, secret_hash, redirect_uris, post_logout_redirect_uris, id_token_signed_response_alg,
                state, created_at, updated_at
         FROM application WHERE id = ? AND state = 'active'",
        params![id],
        from_row,
    )
}

pub fn list(db: &Read<'_, CatalogDb>, request: &PageRequest) -> Result<Page<Application>> {
    let limit = request.limit + 1;
    let rows = if request.forward() {
        db.all(
            "SELECT id, name, type, secret_hash, redirect_uris, post_logout_redirect_uris,
                    id_token_signed_response_alg, state, created_at, updated_at
             FROM application WHERE state = 'active' AND id > ?1 ORDER BY id ASC LIMIT ?2",
            params![request.cursor().unwrap_or(""), limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT id, name, type, secret_hash, redirect_uris, post_logout_redirect_uris,
                    id_token_signed_response_alg, state, created_at, updated_at
             FROM application WHERE state = 'active' AND id < ?1 ORDER BY id DESC LIMIT ?2",
            params![request.cursor().unwrap_or("~"), limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |application| application.id.to_string()))
}

pub fn insert(db: &Write<'_, CatalogDb>, application: &Application) -> Result<()> {
    db.execute(
        "INSERT INTO application (id, name, type, secret_hash, redirect_uris, post_logout_redirect_uris,
                                  id_token_signed_response_alg, state, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, 'active', ?, ?)",
        params![
            application.id,
            application.name,
            if application.r#type == Type::Public { "public" } else { "confidential" },
            application.secret_hash,
            json(&application.redirect_uris)?,
            json(&application.post_logout_redirect_uris)?,
            application.id_token_signed_response_alg.as_str(),
            application.created_at,
            application.updated_at
        ],
    )?;
    Ok(())
}

/// Everything but the secret; also marks it as deleted.
pub fn update(db: &Write<'_, CatalogDb>, application: &Application) -> Result<()> {
    db.execute(
        "UPDATE application SET name = ?, redirect_uris = ?, post_logout_redirect_uris = ?,
                                id_token_signed_response_alg = ?, state = ?, updated_at = ?
         WHERE id = ?",
        params![
            application.name,
            json(&application.redirect_uris)?,
            json(&application.post_logout_redirect_uris)?,
            application.id_token_signed_response_alg.as_str(),
            if application.deleted { "deleted" } else { "active" },
            db.now(),
            application.id
        ],
    )?;
    Ok(())
}

pub fn set_secret(db: &Write<'_, CatalogDb>, id: ApplicationId, secret_hash: &[u8; 32]) -> Result<()> {
    db.execute(
        "UPDATE application SET secret_hash = ?, updated_at = ? WHERE id = ?",
        params![secret_hash, db.now(), id],
    )?;
    Ok(())
}

fn json(values: &[String]) -> Result<String> {
    serde_json::to_string(values).map_err(|error| Error::internal("a column could not be written").source(error))
}

fn from_row(row: &Row<'_>) -> RowResult<Application> {
    let text = |at: usize| row.get::<_, String>(at);
    let algorithm: Algorithm = text(6)?.parse().map_err(|_| crate::sqlite::unfit(6))?;
    Ok(Application {
        id: row.get(0)?,
        name: row.get(1)?,
        r#type: if text(2)? == "public" { Type::Public } else { Type::Confidential },
        secret_hash: row.get(3)?,
        redirect_uris: serde_json::from_str(&text(4)?).unwrap_or_default(),
        post_logout_redirect_uris: serde_json::from_str(&text(5)?).unwrap_or_default(),
        id_token_signed_response_alg: algorithm,
        deleted: text(7)? == "deleted",
        created_at: row.get(8)?,
        updated_at: row.get(9)?,
    })
}
