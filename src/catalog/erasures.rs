//! Erasures and tombstones: what the catalog keeps of organizations that are to be erased or were. One statement
//! or one step a function, inside the caller's transaction.

use std::collections::BTreeMap;

use crate::base::{ApiKeyId, OrganizationId, Page, PageRequest, Result, Slug, Timestamp};
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// How far an erasure has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It can be cancelled; the organization is suspended.
    Scheduled,
    /// There is no way back: nothing leads to the organization any more.
    Erasing,
    Erased,
    Cancelled,
}

impl Stage {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Erasing => "erasing",
            Self::Erased => "erased",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "scheduled" => Self::Scheduled,
            "erasing" => Self::Erasing,
            "erased" => Self::Erased,
            _ => Self::Cancelled,
        }
    }
}

/// An erasure as it stands.
#[derive(Debug, Clone)]
pub struct Erasure {
    pub organization_id: OrganizationId,
    pub slug: Slug,
    pub stage: Stage,
    /// Whether the organization was suspended before.
    pub was_suspended: bool,
    /// The operator's key; none on the machine itself.
    pub requested_by: Option<ApiKeyId>,
    pub requested_at: Timestamp,
    pub due_at: Timestamp,
    /// Rows of the catalog that were deleted, by table, as JSON.
    pub catalog_rows: Option<String>,
    /// What was found before anything was destroyed, as JSON.
    pub findings: Option<String>,
    /// What was deleted of the replica, as JSON.
    pub replica: Option<String>,
    pub erased_at: Option<Timestamp>,
    pub certificate: Option<String>,
    /// The public key that verifies it, as JSON.
    pub certificate_key: Option<String>,
}

pub fn get(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<Erasure>> {
    db.one(
        "SELECT organization_id, slug, state, was_suspended, requested_by, requested_at, due_at, catalog_rows, findings,
                replica, erased_at, certificate, certificate_key
         FROM erasure WHERE organization_id = ?",
        params![id],
        from_row,
    )
}

pub fn list(db: &Read<'_, CatalogDb>, request: &PageRequest) -> Result<Page<Erasure>> {
    let limit = request.limit + 1;
    let rows = if request.forward() {
        db.all(
            "SELECT organization_id, slug, state, was_suspended, requested_by, requested_at, due_at, catalog_rows,
                    findings, replica, erased_at, certificate, certificate_key
             FROM erasure WHERE organization_id > ?1 ORDER BY organization_id ASC LIMIT ?2",
            params![request.cursor().unwrap_or(""), limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT organization_id, slug, state, was_suspended, requested_by, requested_at, due_at, catalog_rows,
                    findings, replica, erased_at, certificate, certificate_key
             FROM erasure WHERE organization_id < ?1 ORDER BY organization_id DESC LIMIT ?2",
            params![request.cursor().unwrap_or("~"), limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |erasure| erasure.organization_id.to_string()))
}

/// Writes down that the organization is to be erased, or when else. The first request counts for the time of it.
pub fn schedule(
    db: &Write<'_, CatalogDb>,
    id: OrganizationId,
    requested_by: Option<ApiKeyId>,
    requested_at: Timestamp,
    due_at: Timestamp,
) -> Result<()> {
    db.execute(
        "INSERT INTO erasure (organization_id, slug, state, was_suspended, requested_by, requested_at, due_at)
         SELECT id, slug, 'scheduled', state = 'suspended', ?2, ?3, ?4 FROM organization WHERE id = ?1
         ON CONFLICT (organization_id) DO UPDATE SET
           slug = excluded.slug, due_at = excluded.due_at, requested_by = excluded.requested_by,
           requested_at = excluded.requested_at, state = 'scheduled',
           was_suspended = CASE erasure.state WHEN 'scheduled' THEN erasure.was_suspended ELSE excluded.was_suspended END
         WHERE erasure.state IN ('scheduled', 'cancelled')",
        params![id, requested_by, requested_at, due_at],
    )?;
    Ok(())
}

/// Calls it off; returns whether it could be.
pub fn cancel(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<bool> {
    let changed = db.execute(
        "UPDATE erasure SET state = 'cancelled' WHERE organization_id = ? AND state = 'scheduled'",
        params![id],
    )?;
    Ok(changed > 0)
}

/// Whether the organization is to be erased, and may not be opened to its members until that is called off.
pub fn is_scheduled(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<bool> {
    Ok(get(db, id)?.is_some_and(|erasure| erasure.stage == Stage::Scheduled))
}

/// Whether an organization of this id was erased, or is being: the id is never used again.
pub fn is_gone(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<bool> {
    Ok(get(db, id)?.is_some_and(|erasure| matches!(erasure.stage, Stage::Erasing | Stage::Erased)))
}

/// The tombstone that keeps a name, if one does.
pub fn keeper_of(db: &Read<'_, CatalogDb>, name: &str) -> Result<Option<OrganizationId>> {
    db.one("SELECT organization_id FROM tombstone_name WHERE name = ?", params![name], |row| row.get(0))
}

/// Names that a tombstone keeps, in order.
pub fn kept_names(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Vec<String>> {
    db.all("SELECT name FROM tombstone_name WHERE organization_id = ? ORDER BY name", params![id], |row| row.get(0))
}

/// The erasures that are due, and those that a crash or a failure has interrupted; oldest first.
pub fn due(db: &Read<'_, CatalogDb>) -> Result<Vec<OrganizationId>> {
    db.all(
        "SELECT organization_id FROM erasure
         WHERE state IN ('scheduled', 'erasing') AND (due_at <= ?1 OR state = 'erasing') ORDER BY due_at LIMIT 1000",
        params![db.now()],
        |row| row.get(0),
    )
}

/// When the next one is due, if there is one.
pub fn next_due(db: &Read<'_, CatalogDb>) -> Result<Option<Timestamp>> {
    db.one("SELECT min(due_at) FROM erasure WHERE state IN ('scheduled', 'erasing')", [], |row| row.get(0))
        .map(Option::flatten)
}

/// Rows that lead to an organization, by table: what [`close`] deletes.
pub fn rows_of(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<BTreeMap<&'static str, i64>> {
    let count = |sql: &'static str| db.number(sql, params![id]);
    Ok(BTreeMap::from([
        ("organization", count("SELECT count(*) FROM organization WHERE id = ?")?),
        ("host", count("SELECT count(*) FROM host WHERE organization_id = ?")?),
        ("founder", count("SELECT count(*) FROM founder WHERE organization_id = ?")?),
        ("quarantine", count("SELECT count(*) FROM quarantine WHERE organization_id = ?")?),
        ("retired_name", count("SELECT count(*) FROM retired_name WHERE organization_id = ?")?),
    ]))
}

/// The point of no return, in one transaction: the names go into the tombstone and every row that leads to the
/// organization is deleted, so that nothing finds it from here on. `rows` is what is kept of [`rows_of`].
pub fn close(db: &Write<'_, CatalogDb>, id: OrganizationId, rows: &str) -> Result<()> {
    db.execute(
        "UPDATE erasure SET state = 'erasing', catalog_rows = ?2,
                            placement = (SELECT placement FROM organization WHERE id = ?1),
                            slug = coalesce((SELECT slug FROM organization WHERE id = ?1), slug)
         WHERE organization_id = ?1 AND state = 'scheduled'",
        params![id, rows],
    )?;
    db.execute(
        "INSERT INTO tombstone_name (name, organization_id)
         SELECT slug, id FROM organization WHERE id = ?1
         UNION SELECT external_id, id FROM organization WHERE id = ?1 AND external_id IS NOT NULL
         UNION SELECT name, organization_id FROM retired_name WHERE organization_id = ?1
         ON CONFLICT (name) DO NOTHING",
        params![id],
    )?;
    // Hosts, founders, retired names and whatever else references it go with it.
    db.execute("DELETE FROM organization WHERE id = ?", params![id])?;
    Ok(())
}

pub fn set_findings(db: &Write<'_, CatalogDb>, id: OrganizationId, findings: &str) -> Result<()> {
    db.execute(
        "UPDATE erasure SET findings = ?2 WHERE organization_id = ?1 AND findings IS NULL",
        params![id, findings],
    )?;
    Ok(())
}

pub fn set_replica(db: &Write<'_, CatalogDb>, id: OrganizationId, replica: &str) -> Result<()> {
    db.execute("UPDATE erasure SET replica = ?2 WHERE organization_id = ?1 AND replica IS NULL", params![id, replica])?;
    Ok(())
}

/// Ends an erasure with its certificate; returns whether it had not ended before.
pub fn finish(db: &Write<'_, CatalogDb>, id: OrganizationId, certificate: &str, key: &str) -> Result<bool> {
    let changed = db.execute(
        "UPDATE erasure SET state = 'erased', erased_at = ?2, certificate = ?3, certificate_key = ?4
         WHERE organization_id = ?1 AND state = 'erasing'",
        params![id, db.now(), certificate, key],
    )?;
    Ok(changed > 0)
}

fn from_row(row: &Row<'_>) -> RowResult<Erasure> {
    Ok(Erasure {
        organization_id: row.get(0)?,
        slug: row.get(1)?,
        stage: Stage::parse(&row.get::<_, String>(2)?),
        was_suspended: row.get(3)?,
        requested_by: row.get(4)?,
        requested_at: row.get(5)?,
        due_at: row.get(6)?,
        catalog_rows: row.get(7)?,
        findings: row.get(8)?,
        replica: row.get(9)?,
        erased_at: row.get(10)?,
        certificate: row.get(11)?,
        certificate_key: row.get(12)?,
    })
}
