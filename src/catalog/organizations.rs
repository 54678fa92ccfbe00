//! The rows of the catalog that lead to organizations. One statement a function, inside the caller's
//! transaction, so that an operator's act and its line in the log are committed together.

use serde::Serialize;

use super::erasures;
use crate::base::{Error, ExternalId, HostName, OrganizationId, Page, PageRequest, Result, Slug, Timestamp, codes};
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// Whether an organization can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Creating,
    Active,
    Suspended,
}

impl State {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "suspended" => Self::Suspended,
            _ => Self::Creating,
        }
    }
}

/// What the catalog knows of one organization.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: OrganizationId,
    pub slug: Slug,
    pub external_id: Option<String>,
    pub state: State,
    pub schema_version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a new organization wants to be called.
pub struct NewEntry {
    pub id: OrganizationId,
    pub slug: Slug,
    pub external_id: Option<ExternalId>,
    pub schema_version: i64,
    /// The keyed hash of the founder's address, and how many organizations one address may found.
    pub founder: Option<([u8; 32], u32)>,
}

/// The right to make one organization's file: its names are reserved. Minted by [`claim`] only.
#[derive(Debug)]
pub struct Claim {
    id: OrganizationId,
}

impl Claim {
    #[must_use]
    pub const fn id(&self) -> OrganizationId {
        self.id
    }
}

/// Refuses an organization that could not be entered as it is: before anything is made of it.
pub fn require_free(
    db: &Read<'_, CatalogDb>,
    id: OrganizationId,
    slug: &Slug,
    external_id: Option<&ExternalId>,
    hosts: &[HostName],
) -> Result<()> {
    if entry(db, id)?.is_some() {
        return Err(Error::new(&codes::ORGANIZATION_EXISTS));
    }
    if erasures::is_gone(db, id)? {
        return Err(Error::new(&codes::ORGANIZATION_ERASED));
    }
    if name_in_use(db, slug.as_str(), None)? {
        return Err(slug_taken(slug));
    }
    if let Some(external_id) = external_id
        && name_in_use(db, external_id.as_str(), None)?
    {
        return Err(Error::new(&codes::EXTERNAL_ID_TAKEN).field("external_id", "taken", "This external id is in use."));
    }
    for host in hosts {
        if organization_by_host(db, host)?.is_some() {
            return Err(Error::new(&codes::HOST_TAKEN).field("hosts", "taken", format!("{host} is in use.")));
        }
    }
    Ok(())
}

/// Reserves the names, in state `creating`.
pub fn claim(db: &Write<'_, CatalogDb>, new: &NewEntry) -> Result<Claim> {
    if erasures::is_gone(db, new.id)? {
        return Err(Error::new(&codes::ORGANIZATION_ERASED));
    }
    if name_in_use(db, new.slug.as_str(), None)? {
        return Err(slug_taken(&new.slug));
    }
    if let Some(external_id) = &new.external_id
        && name_in_use(db, external_id.as_str(), None)?
    {
        return Err(Error::new(&codes::EXTERNAL_ID_TAKEN).field("external_id", "taken", "This external id is in use."));
    }
    if let Some((mac, limit)) = &new.founder
        && *limit > 0
        && db.number("SELECT count(*) FROM founder WHERE email_mac = ?", params![mac])? >= i64::from(*limit)
    {
        return Err(Error::new(&codes::ORGANIZATION_LIMIT_REACHED));
    }
    db.execute(
        "INSERT INTO organization (id, slug, external_id, state, schema_version, created_at, updated_at)
         VALUES (?1, ?2, ?3, 'creating', ?4, ?5, ?5)",
        params![new.id, new.slug, new.external_id.as_ref().map(ExternalId::as_str), new.schema_version, db.now()],
    )?;
    if let Some((mac, _)) = &new.founder {
        db.execute("INSERT INTO founder (email_mac, organization_id) VALUES (?, ?)", params![mac, new.id])?;
    }
    Ok(Claim { id: new.id })
}

/// The file is in place: the organization can be reached from now on.
pub fn activate(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute(
        "UPDATE organization SET state = 'active', updated_at = ? WHERE id = ? AND state = 'creating'",
        params![db.now(), id],
    )?;
    Ok(())
}

/// Gives the names back; only what never became active can be abandoned.
pub fn abandon(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute("DELETE FROM organization WHERE id = ? AND state = 'creating'", params![id])?;
    Ok(())
}

/// What a crash left half done.
pub fn half_done(db: &Read<'_, CatalogDb>) -> Result<Vec<OrganizationId>> {
    db.all("SELECT id FROM organization WHERE state = 'creating'", [], |row| row.get(0))
}

pub fn set_state(db: &Write<'_, CatalogDb>, id: OrganizationId, state: State) -> Result<()> {
    db.execute(
        "UPDATE organization SET state = ?, updated_at = ? WHERE id = ? AND state <> 'creating'",
        params![state.as_str(), db.now(), id],
    )?;
    Ok(())
}

/// Gives the organization another slug or external id.
pub fn rename(
    db: &Write<'_, CatalogDb>,
    id: OrganizationId,
    slug: &Slug,
    external_id: Option<&ExternalId>,
) -> Result<()> {
    if name_in_use(db, slug.as_str(), Some(id))? {
        return Err(slug_taken(slug));
    }
    if let Some(external_id) = external_id
        && name_in_use(db, external_id.as_str(), Some(id))?
    {
        return Err(Error::new(&codes::EXTERNAL_ID_TAKEN).field("external_id", "taken", "This external id is in use."));
    }
    db.execute(
        "INSERT INTO retired_name (name, organization_id)
         SELECT slug, id FROM organization WHERE id = ?1 AND slug <> ?2
         UNION SELECT external_id, id FROM organization WHERE id = ?1 AND external_id IS NOT ?3 AND external_id <> ''
         ON CONFLICT (name) DO NOTHING",
        params![id, slug, external_id.map(ExternalId::as_str)],
    )?;
    db.execute(
        "UPDATE organization SET slug = ?, external_id = ?, updated_at = ? WHERE id = ?",
        params![slug, external_id.map(ExternalId::as_str), db.now(), id],
    )?;
    Ok(())
}

/// Leads a custom host to the organization; the same again is harmless.
pub fn add_host(db: &Write<'_, CatalogDb>, id: OrganizationId, host: &HostName) -> Result<()> {
    match organization_by_host(db, host)? {
        Some(owner) if owner == id => Ok(()),
        Some(_) => Err(Error::new(&codes::HOST_TAKEN)),
        None => {
            db.execute("INSERT INTO host (host, organization_id) VALUES (?, ?)", params![host.as_str(), id])?;
            Ok(())
        }
    }
}

pub fn remove_host(db: &Write<'_, CatalogDb>, id: OrganizationId, host: &HostName) -> Result<bool> {
    Ok(db.execute("DELETE FROM host WHERE host = ? AND organization_id = ?", params![host.as_str(), id])? > 0)
}

pub fn hosts(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Vec<String>> {
    db.all("SELECT host FROM host WHERE organization_id = ? ORDER BY host", params![id], |row| row.get(0))
}

pub fn entry(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Option<Entry>> {
    db.one(
        "SELECT id, slug, external_id, state, schema_version, created_at, updated_at FROM organization WHERE id = ?",
        params![id],
        from_row,
    )
}

/// One that is there, and not still being made.
pub fn require(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Entry> {
    let made = entry(db, id)?.filter(|entry| entry.state != State::Creating);
    made.ok_or_else(|| Error::new(&codes::ORGANIZATION_NOT_FOUND))
}

pub fn list(db: &Read<'_, CatalogDb>, request: &PageRequest) -> Result<Page<Entry>> {
    let limit = request.limit + 1;
    let rows = if request.forward() {
        db.all(
            "SELECT id, slug, external_id, state, schema_version, created_at, updated_at FROM organization
             WHERE state <> 'creating' AND id > ?1 ORDER BY id ASC LIMIT ?2",
            params![request.cursor().unwrap_or(""), limit],
            from_row,
        )
    } else {
        db.all(
            "SELECT id, slug, external_id, state, schema_version, created_at, updated_at FROM organization
             WHERE state <> 'creating' AND id < ?1 ORDER BY id DESC LIMIT ?2",
            params![request.cursor().unwrap_or("~"), limit],
            from_row,
        )
    }?;
    Ok(Page::from_rows(request, rows, |entry| entry.id.to_string()))
}

/// Every id, for a check of the whole directory.
pub fn each(db: &Read<'_, CatalogDb>, visit: impl FnMut(Entry) -> Result<()>) -> Result<()> {
    let mut visit = visit;
    db.each(
        "SELECT id, slug, external_id, state, schema_version, created_at, updated_at FROM organization ORDER BY id",
        [],
        |row| visit(from_row(row)?),
    )
}

pub(super) fn organization_by_host(db: &Read<'_, CatalogDb>, host: &HostName) -> Result<Option<OrganizationId>> {
    db.one("SELECT organization_id FROM host WHERE host = ?", params![host.as_str()], |row| row.get(0))
}

/// A slug or an external id; the two share one name space, so that a name never means two things.
pub(super) fn organization_by_name(db: &Read<'_, CatalogDb>, name: &str) -> Result<Option<OrganizationId>> {
    db.one("SELECT id FROM organization WHERE slug = ?1 OR external_id = ?1", params![name], |row| row.get(0))
}

/// Whether a name leads to another organization, or did before that was renamed or erased.
pub(super) fn name_in_use(db: &Read<'_, CatalogDb>, name: &str, except: Option<OrganizationId>) -> Result<bool> {
    let retired = db.one("SELECT organization_id FROM retired_name WHERE name = ?", params![name], |row| row.get(0))?;
    let owner = organization_by_name(db, name)?.or(retired).or(erasures::keeper_of(db, name)?);
    Ok(owner.is_some_and(|id| Some(id) != except))
}

/// The refusal of a slug that is not free.
#[must_use]
pub fn slug_taken(slug: &Slug) -> Error {
    Error::new(&codes::SLUG_TAKEN).field("slug", "taken", format!("“{slug}” is taken. Choose another address."))
}

pub(super) fn from_row(row: &Row<'_>) -> RowResult<Entry> {
    Ok(Entry {
        id: row.get(0)?,
        slug: row.get(1)?,
        external_id: row.get(2)?,
        state: State::parse(&row.get::<_, String>(3)?),
        schema_version: row.get(4)?,
        created_at: row.get(5)?,
        updated_at: row.get(6)?,
    })
}
