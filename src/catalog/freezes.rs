//! Organizations that are frozen, as the catalog knows them. One statement a function, inside the caller's
//! transaction.

use crate::base::{ApiKeyId, OrganizationId, Result, Timestamp};
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// The `typ` of the JWS that is kept as the certificate of one.
pub const CERTIFICATE: &str = "freeze-certificate+jwt";

/// How far a freeze has come, or its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreezeStage {
    /// Nothing is written any more; what is there has not been certified yet.
    Freezing,
    Frozen,
    Releasing,
}

impl FreezeStage {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
            Self::Releasing => "releasing",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "frozen" => Self::Frozen,
            "releasing" => Self::Releasing,
            _ => Self::Freezing,
        }
    }
}

/// A freeze as it stands.
#[derive(Debug, Clone)]
pub struct Freeze {
    pub organization_id: OrganizationId,
    pub stage: FreezeStage,
    /// For operators.
    pub reason: String,
    /// The operator's key; none on the machine itself.
    pub requested_by: Option<ApiKeyId>,
    pub since: Timestamp,
    pub certificate: Option<String>,
    /// The public key that verifies it, as JSON.
    pub certificate_key: Option<String>,
}

pub fn get(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<Freeze>> {
    db.one(
        "SELECT organization_id, state, reason, requested_by, since, certificate, certificate_key
         FROM freeze WHERE organization_id = ?",
        params![id],
        from_row,
    )
}

/// All of them, for the start of the process. They are few.
pub fn all(db: &Read<'_, CatalogDb>) -> Result<Vec<Freeze>> {
    db.all(
        "SELECT organization_id, state, reason, requested_by, since, certificate, certificate_key
         FROM freeze ORDER BY organization_id",
        [],
        from_row,
    )
}

/// Writes down that nothing may be written any more; returns whether that is new. The first reason stays.
pub fn begin(
    db: &Write<'_, CatalogDb>,
    id: OrganizationId,
    reason: &str,
    requested_by: Option<ApiKeyId>,
) -> Result<bool> {
    let set = db.execute(
        "INSERT INTO freeze (organization_id, state, reason, requested_by, since) VALUES (?, 'freezing', ?, ?, ?)
         ON CONFLICT DO NOTHING",
        params![id, reason, requested_by, db.now()],
    )?;
    Ok(set > 0)
}

/// The certificate of what was found; a freeze that is being released gets none.
pub fn certify(db: &Write<'_, CatalogDb>, id: OrganizationId, certificate: &str, key: &str) -> Result<bool> {
    let set = db.execute(
        "UPDATE freeze SET state = 'frozen', certificate = ?2, certificate_key = ?3
         WHERE organization_id = ?1 AND state = 'freezing'",
        params![id, certificate, key],
    )?;
    Ok(set > 0)
}

/// The release has begun, and will be completed: also of what only the organization's own log calls frozen.
pub fn begin_release(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute(
        "INSERT INTO freeze (organization_id, state, reason, since) VALUES (?, 'releasing', 'by its own log', ?)
         ON CONFLICT (organization_id) DO UPDATE SET state = 'releasing'",
        params![id, db.now()],
    )?;
    Ok(())
}

/// It has come to nothing: the freeze stands as it did, if it stood here at all.
pub fn call_off_release(db: &Write<'_, CatalogDb>, id: OrganizationId, stage: Option<FreezeStage>) -> Result<()> {
    match stage {
        Some(stage) => db.execute(
            "UPDATE freeze SET state = ?2 WHERE organization_id = ?1 AND state = 'releasing'",
            params![id, stage.as_str()],
        )?,
        None => db.execute("DELETE FROM freeze WHERE organization_id = ? AND state = 'releasing'", params![id])?,
    };
    Ok(())
}

pub fn end_release(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute("DELETE FROM freeze WHERE organization_id = ? AND state = 'releasing'", params![id])?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> RowResult<Freeze> {
    Ok(Freeze {
        organization_id: row.get(0)?,
        stage: FreezeStage::parse(&row.get::<_, String>(1)?),
        reason: row.get(2)?,
        requested_by: row.get(3)?,
        since: row.get(4)?,
        certificate: row.get(5)?,
        certificate_key: row.get(6)?,
    })
}
