//! Looking at files without opening them for requests: for checks of the whole fleet, and for making the catalog
//! again from the files.
//!
//! What is open is looked at through its own connections and stays where it is in the order of eviction; what is
//! not is looked at from the side, takes no place of those that requests wait for, and is not migrated.

use std::fs;
use std::path::{Path, PathBuf};

use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::gate::{Shut, last_word, newest_event};
use super::hold;
use super::open_files::{PATIENCE, Tenants, stamp_in};
use super::path;
use crate::base::{Error, OrganizationId, Result, Slug, Timestamp, codes};
use crate::sqlite::{Aside, Examination, Read, TenantDb, unfolded};

/// What an organization's file says of the names that lead to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    pub id: OrganizationId,
    pub slug: Slug,
    pub external_id: Option<String>,
    pub hosts: Vec<String>,
    pub suspended: bool,
    /// Names that led to it before; empty in files that are older than the column.
    pub former_names: Vec<String>,
    /// The newest event of its log: some are the last that may be.
    pub newest_event: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a look at a file has shown.
#[derive(Debug)]
pub enum Look {
    /// There is no file.
    Missing,
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// It is not an organization's, or made by a newer program.
    Foreign(String),
    /// Somebody has it for themselves at the moment.
    Held,
    Seen(Seen),
}

/// A file that can be read.
#[derive(Debug)]
pub struct Seen {
    pub version: i64,
    pub names: Names,
    pub examination: Examination,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Stamp and names.
    Names,
    /// And every page.
    Pages,
    /// And every index.
    Full,
}

/// Something that stands in `orgs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub path: PathBuf,
    /// The organization whose place this is; nothing if it is nobody's.
    pub id: Option<OrganizationId>,
}

impl Tenants {
    /// Why the organization's file takes no writes, also by its own log where nobody has opened it since the start: the
    /// catalog may be older than the file. Of a file that is held nobody knows that, which is no reason to go on.
    pub async fn why_shut_by_its_log(&self, id: OrganizationId) -> Result<Option<Shut>> {
        if let Some(shut) = self.why_shut(id) {
            return Ok(Some(shut));
        }
        Ok(match self.look_at_rest(id, Depth::Names).await? {
            Look::Seen(seen) => last_word(seen.names.newest_event.as_deref()),
            _ => None,
        })
    }

    /// Looks at an organization's file for a decision, which nobody who has it for themselves shall take away. They are
    /// waited for, or it is refused, as it is for whoever would open it.
    pub async fn look_at_rest(&self, id: OrganizationId, depth: Depth) -> Result<Look> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Made before the look: what is told in between is not missed.
            let let_go = self.0.let_go.notified();
            match self.look(id, depth).await? {
                Look::Held => {}
                look => return Ok(look),
            }
            let (is_held, is_patient) = {
                let files = self.files();
                (files.held.contains(&id), files.patient.contains(&id))
            };
            if is_held && (!is_patient || timeout_at(deadline, let_go).await.is_err()) {
                return Err(hold::refusal());
            }
        }
    }

    /// Looks at an organization's file.
    pub async fn look(&self, id: OrganizationId, depth: Depth) -> Result<Look> {
        // Counted in the same moment: whoever wants to hold the file waits for this look.
        let (is_held, _handle) = {
            let files = self.files();
            (files.held.contains(&id), self.0.handles.of(id))
        };
        if is_held {
            return Ok(Look::Held);
        }
        let Some(tenant) = self.if_open(id) else {
            return self.look_from_the_side(id, depth).await;
        };
        // An open file has been migrated.
        let newest = self.schema_version();
        let seen = async {
            let names = tenant.0.database.read(|db| names(db, newest)).await?;
            let examination = match depth {
                Depth::Names => Examination::default(),
                Depth::Pages | Depth::Full => tenant.0.database.examine(depth == Depth::Full).await?,
            };
            Ok(Seen { version: newest, names, examination })
        };
        judge(seen.await)
    }

    /// The directories below `orgs/` that organizations' directories stand in, in a fixed order.
    pub fn shards(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for root in self.roots() {
            found.extend(shards(&root)?);
        }
        found.sort();
        Ok(found)
    }

    /// What stands in one of them.
    pub fn standing_in(&self, shard: &Path) -> Result<Vec<Standing>> {
        let root = self.roots().into_iter().find(|root| shard.starts_with(root));
        standing_in(root.as_deref().unwrap_or(&self.0.root), shard)
    }

    /// Bytes that an organization takes up, its WAL included; nothing if there is no file.
    #[must_use]
    pub fn bytes(&self, id: OrganizationId) -> Option<u64> {
        let file = path::file(&self.root_of(id), id);
        // Looking at sizes opens nothing, so it takes no lock from anybody.
        Some(fs::metadata(&file).ok()?.len() + unfolded(&file).unwrap_or(0))
    }
}

/// Looks at a file that nobody has open, or from the side of those who have; `newest` is the schema version that is
/// known. Blocking.
pub fn look_at(file: &Path, depth: Depth, now: Timestamp, newest: i64) -> Result<Look> {
    if !file.exists() {
        return Ok(Look::Missing);
    }
    let looked = || -> Result<Seen> {
        let aside = Aside::<TenantDb>::open(file, now)?;
        let version = aside.version()?;
        if !(1..=newest).contains(&i64::from(version)) {
            return Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE)
                .because(format!("{FOREIGN}: schema version {version}; this program knows those up to {newest}")));
        }
        let examination = match depth {
            Depth::Names => Examination::default(),
            Depth::Pages | Depth::Full => aside.examine(depth == Depth::Full)?,
        };
        Ok(Seen { version: version.into(), names: aside.read(|db| names(db, version.into()))?, examination })
    };
    judge(looked())
}

/// Whose file this is, if anybody's, which nobody has open. Blocking.
pub fn whose(file: &Path, now: Timestamp) -> Result<Option<OrganizationId>> {
    let aside = Aside::<TenantDb>::open(file, now)?;
    aside.version()?;
    aside.read(stamp_in)
}

/// The schema version that the column came with.
const FORMER_NAMES_SINCE: i64 = 3;
/// Begins the reason of a file that is in order and still cannot be used.
const FOREIGN: &str = "the file";

/// Whatever is wrong with one file is a finding. Too many at once is not: that passes.
fn judge(seen: Result<Seen>) -> Result<Look> {
    match seen {
        Ok(seen) => Ok(Look::Seen(seen)),
        Err(error) if error.is(&codes::ORGANIZATION_BUSY) => Err(error),
        Err(error) => {
            let reason = error.cause().unwrap_or_else(|| error.to_string());
            Ok(if reason.starts_with(FOREIGN) { Look::Foreign(reason) } else { Look::Unreadable(reason) })
        }
    }
}

/// What leads to the organization, of a file of any version.
fn names(db: &Read<'_, TenantDb>, version: i64) -> Result<Names> {
    let found =
        db.one("SELECT id, slug, external_id, hosts, state, created_at, updated_at FROM organization", [], |row| {
            let (hosts, state): (String, String) = (row.get(3)?, row.get(4)?);
            Ok(Names {
                id: row.get(0)?,
                slug: row.get(1)?,
                external_id: row.get(2)?,
                hosts: serde_json::from_str(&hosts).unwrap_or_default(),
                suspended: state == "suspended",
                former_names: Vec::new(),
                newest_event: None,
                created_at: row.get(5)?,
                updated_at: row.get(6)?,
            })
        })?;
    let mut names = found.ok_or_else(|| {
        Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("{FOREIGN} belongs to no organization"))
    })?;
    names.newest_event = newest_event(db)?;
    if version >= FORMER_NAMES_SINCE {
        let former: Option<String> = db.one("SELECT former_names FROM organization", [], |row| row.get(0))?;
        names.former_names = former.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default();
    }
    Ok(names)
}

/// The directories that organizations' directories stand in: `orgs/<2 hex>/<2 hex>`.
pub fn shards(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for above in entries(root)? {
        if above.is_dir() {
            found.extend(entries(&above)?.into_iter().filter(|shard| shard.is_dir()));
        }
    }
    Ok(found)
}

/// What stands in one of [`shards`].
pub fn standing_in(root: &Path, shard: &Path) -> Result<Vec<Standing>> {
    let place_of = |path: &PathBuf| {
        let uuid = Uuid::parse_str(path.file_name()?.to_str()?).ok()?;
        let id = OrganizationId::from_bits(uuid.as_u128());
        (path::directory(root, id) == *path).then_some(id)
    };
    Ok(entries(shard)?.into_iter().map(|path| Standing { id: place_of(&path), path }).collect())
}

/// The file in an organization's directory.
#[must_use]
pub fn file_in(directory: &Path) -> PathBuf {
    directory.join("db.sqlite")
}

/// What is in a directory, in order; names with a dot in front are work in progress, and nobody's yet.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::internal(format!("cannot read the directory {}", directory.display())).source(error);
    let mut found = Vec::new();
    let listed = match fs::read_dir(directory) {
        Ok(listed) => listed,
        // It went while the walk was on its way to it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(failed(error)),
    };
    for entry in listed {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
