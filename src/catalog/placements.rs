//! Which volume an organization's file is on, and files that are on their way to another. One statement a function,
//! inside the caller's transaction.

use crate::base::{OrganizationId, Result, Timestamp};
use crate::sqlite::{CatalogDb, Read, Write, params};

/// The volume that every organization begins on: `orgs/` in the data directory.
pub const LOCAL: &str = "local";

/// A file on its way from one volume to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    pub organization_id: OrganizationId,
    pub source: String,
    pub target: String,
    /// The new place counts; the old one is to be removed.
    pub switched: bool,
    pub started_at: Timestamp,
}

pub fn placement(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<String>> {
    db.one("SELECT placement FROM organization WHERE id = ?", params![id], |row| row.get(0))
}

/// Organizations on other volumes, for the start of the process; those included that are being erased.
pub fn elsewhere(db: &Read<'_, CatalogDb>) -> Result<Vec<(OrganizationId, String)>> {
    db.all(
        "SELECT id, placement FROM organization WHERE placement <> 'local'
         UNION ALL SELECT organization_id, placement FROM erasure WHERE state = 'erasing' AND placement <> 'local'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// How many organizations each volume has.
pub fn by_volume(db: &Read<'_, CatalogDb>) -> Result<Vec<(String, i64)>> {
    db.all("SELECT placement, count(*) FROM organization GROUP BY placement ORDER BY placement", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

pub fn relocation(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<Relocation>> {
    db.one(
        "SELECT organization_id, source, target, state = 'switched', started_at FROM relocation
         WHERE organization_id = ?",
        params![id],
        from_row,
    )
}

/// What a crash has interrupted.
pub fn relocations(db: &Read<'_, CatalogDb>) -> Result<Vec<Relocation>> {
    db.all(
        "SELECT organization_id, source, target, state = 'switched', started_at FROM relocation
         ORDER BY organization_id",
        [],
        from_row,
    )
}

/// Writes down where a file is to go; returns false if it is on its way already.
pub fn begin(db: &Write<'_, CatalogDb>, id: OrganizationId, source: &str, target: &str) -> Result<bool> {
    let set = db.execute(
        "INSERT INTO relocation (organization_id, source, target, state, started_at) VALUES (?, ?, ?, 'copying', ?)
         ON CONFLICT DO NOTHING",
        params![id, source, target, db.now()],
    )?;
    Ok(set > 0)
}

/// From here on the file is at its new place. Returns false if nothing is on its way any more.
pub fn switch(db: &Write<'_, CatalogDb>, id: OrganizationId, target: &str) -> Result<bool> {
    let switched = db.execute(
        "UPDATE relocation SET state = 'switched' WHERE organization_id = ? AND target = ? AND state = 'copying'",
        params![id, target],
    )?;
    let placed = db.execute(
        "UPDATE organization SET placement = ?2, updated_at = ?3 WHERE id = ?1",
        params![id, target, db.now()],
    )?;
    Ok(switched > 0 && placed > 0)
}

/// Nothing is left to be done, or to be undone.
pub fn end(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute("DELETE FROM relocation WHERE organization_id = ?", params![id])?;
    Ok(())
}

fn from_row(row: &crate::sqlite::Row<'_>) -> crate::sqlite::RowResult<Relocation> {
    Ok(Relocation {
        organization_id: row.get(0)?,
        source: row.get(1)?,
        target: row.get(2)?,
        switched: row.get(3)?,
        started_at: row.get(4)?,
    })
}
