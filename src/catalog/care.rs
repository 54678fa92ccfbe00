//! What the care of all organizations asks of the catalog: which are set aside, how many there are of what, and
//! walking them in order.

use serde::Serialize;

use super::organizations::{Entry, from_row};
use crate::base::{OrganizationId, Result, Timestamp};
use crate::sqlite::{CatalogDb, Read, Write, params};

/// An organization whose file is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Quarantine {
    pub organization_id: OrganizationId,
    /// Why, for operators.
    pub reason: String,
    pub since: Timestamp,
}

/// Sets an organization aside; returns whether it was not before. The first reason stays.
pub fn set_aside(db: &Write<'_, CatalogDb>, id: OrganizationId, reason: &str) -> Result<bool> {
    let set = db.execute(
        "INSERT INTO quarantine (organization_id, reason, since) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        params![id, reason, db.now()],
    )?;
    Ok(set > 0)
}

/// Lets it back in; returns whether it was set aside.
pub fn release(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<bool> {
    Ok(db.execute("DELETE FROM quarantine WHERE organization_id = ?", params![id])? > 0)
}

pub fn quarantine(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<Quarantine>> {
    db.one("SELECT organization_id, reason, since FROM quarantine WHERE organization_id = ?", params![id], |row| {
        Ok(Quarantine { organization_id: row.get(0)?, reason: row.get(1)?, since: row.get(2)? })
    })
}

/// The first so many, by id.
pub fn quarantined(db: &Read<'_, CatalogDb>, most: u32) -> Result<Vec<Quarantine>> {
    db.all(
        "SELECT organization_id, reason, since FROM quarantine ORDER BY organization_id LIMIT ?",
        params![most],
        |row| Ok(Quarantine { organization_id: row.get(0)?, reason: row.get(1)?, since: row.get(2)? }),
    )
}

/// The next organizations after this one, by id; the first with an empty text.
pub fn after(db: &Read<'_, CatalogDb>, id: &str, limit: u32) -> Result<Vec<Entry>> {
    db.all(
        "SELECT id, slug, external_id, state, schema_version, created_at, updated_at FROM organization
         WHERE id > ? ORDER BY id LIMIT ?",
        params![id, limit],
        from_row,
    )
}

pub fn count(db: &Read<'_, CatalogDb>) -> Result<i64> {
    db.number("SELECT count(*) FROM organization", [])
}

/// How many organizations have an older schema; those that are set aside are left as they are.
pub fn count_older(db: &Read<'_, CatalogDb>, newest: i64) -> Result<i64> {
    db.number(
        "SELECT count(*) FROM organization WHERE schema_version < ? AND state <> 'creating'
           AND id NOT IN (SELECT organization_id FROM quarantine)
           AND id NOT IN (SELECT organization_id FROM freeze)
           AND id NOT IN (SELECT organization_id FROM transfer WHERE state IN ('leaving', 'gone'))",
        params![newest],
    )
}

/// The next of them after this one, by id.
pub fn older_after(db: &Read<'_, CatalogDb>, id: &str, newest: i64, limit: u32) -> Result<Vec<OrganizationId>> {
    db.all(
        "SELECT id FROM organization WHERE id > ? AND schema_version < ? AND state <> 'creating'
           AND id NOT IN (SELECT organization_id FROM quarantine)
           AND id NOT IN (SELECT organization_id FROM freeze)
           AND id NOT IN (SELECT organization_id FROM transfer WHERE state IN ('leaving', 'gone')) ORDER BY id LIMIT ?",
        params![id, newest, limit],
        |row| row.get(0),
    )
}

/// How many organizations are in each state.
pub fn by_state(db: &Read<'_, CatalogDb>) -> Result<Vec<(String, i64)>> {
    db.all("SELECT state, count(*) FROM organization GROUP BY state", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// How many organizations have each schema version.
pub fn by_schema_version(db: &Read<'_, CatalogDb>) -> Result<Vec<(i64, i64)>> {
    db.all(
        "SELECT schema_version, count(*) FROM organization GROUP BY schema_version ORDER BY schema_version",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// What a look at the file has shown.
pub fn set_schema_version(db: &Write<'_, CatalogDb>, id: OrganizationId, version: i64) -> Result<()> {
    db.execute(
        "UPDATE organization SET schema_version = ?2 WHERE id = ?1 AND schema_version <> ?2",
        params![id, version],
    )?;
    Ok(())
}
