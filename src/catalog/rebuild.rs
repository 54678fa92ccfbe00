//! Making the catalog again: a new file from rows that the organizations' files gave, with what can be read of the
//! old one, put into its place in one step.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::MIGRATIONS;
use super::organizations::Entry;
use super::transfers::{self, Direction, Transfer};
use crate::base::{Error, OrganizationId, Result, Slug, Timestamp};
use crate::sqlite::{
    Aside, CatalogDb, Read, Salvaged, Write, beside, build, bytes_of_new, params, remove_wal, sync_directory,
};

const FILE: &str = "catalog.sqlite";
const NEW: &str = "catalog.rebuilt";

/// What an organization's file says that the catalog is to say.
#[derive(Debug, Clone)]
pub struct NewRow {
    pub id: OrganizationId,
    pub slug: Slug,
    pub external_id: Option<String>,
    pub hosts: Vec<String>,
    pub former_names: Vec<String>,
    pub suspended: bool,
    /// The volume that the file stands on.
    pub placement: String,
    /// Its own log says that it is frozen.
    pub frozen: bool,
    /// Its own log says that it is on its way to or from another deployment, or has left.
    pub journey: Option<(Direction, Transfer)>,
    pub schema_version: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Something that could not be entered as its file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    pub organization_id: OrganizationId,
    pub problem: String,
}

/// What the old catalog says, as far as it can be read.
#[derive(Debug, Default)]
pub struct Old {
    pub entries: HashMap<OrganizationId, Entry>,
    pub hosts: HashMap<String, OrganizationId>,
    /// Those whose files are not in the data directory.
    pub placements: HashMap<OrganizationId, String>,
    /// Organizations that were erased, or are being: they stay so.
    pub erased: HashSet<OrganizationId>,
    /// Why it, or a part of it, cannot be read.
    pub unreadable: Option<String>,
}

/// A new catalog that is not in its place yet.
pub struct Rebuilt {
    path: PathBuf,
    pub conflicts: Vec<Conflict>,
    pub copied: Vec<Salvaged>,
}

/// Reads the old catalog from the side. Blocking, as all of this.
pub fn read_old(directory: &Path, now: Timestamp) -> Old {
    let mut old = Old::default();
    let mut read = || -> Result<()> {
        let aside = Aside::<CatalogDb>::open(&directory.join(FILE), now)?;
        aside.version()?;
        let mut problems = Vec::new();
        let mut note = |part: &str, read: Result<()>| {
            if let Err(error) = read {
                problems.push(format!("{part}: {}", error.cause().unwrap_or_else(|| error.to_string())));
            }
        };
        note("organizations", aside.read(|db| entries(db, &mut old.entries)));
        note("hosts", aside.read(|db| hosts(db, &mut old.hosts)));
        note("volumes", aside.read(|db| placements(db, &mut old.placements)));
        if aside.version()? >= 2 {
            note("erasures", aside.read(|db| erased(db, &mut old.erased)));
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::internal(problems.join("; "))) }
    };
    old.unreadable = read().err().map(|error| error.cause().unwrap_or_else(|| error.to_string()));
    old
}

/// Puts a new catalog together beside the old one. `rows` are entered in their order: whoever comes first has a name
/// that two want. `more` is the last thing that is done in it.
pub fn build_beside(
    directory: &Path,
    now: Timestamp,
    rows: &[NewRow],
    more: impl FnOnce(&Write<'_, CatalogDb>, &[Conflict]) -> Result<()>,
) -> Result<Rebuilt> {
    let path = directory.join(NEW);
    // What an earlier try has left would be taken for this file's own.
    remove(&path)?;
    remove_beside(&path)?;
    let template = bytes_of_new::<CatalogDb>(directory, MIGRATIONS)?;
    let (conflicts, copied) = build::<CatalogDb, _>(&path, &template, now, |db| {
        let mut conflicts = Vec::new();
        for row in rows {
            enter(db, row, &mut conflicts)?;
        }
        // Routing comes from the files alone; all else has no other copy, but for what their last words tell.
        let copied = db.salvage(&directory.join(FILE), &["organization", "host"]).unwrap_or_else(|error| {
            tracing::warn!(?error, "nothing of the old catalog could be copied");
            Vec::new()
        });
        for row in rows {
            for name in &row.former_names {
                db.execute(
                    "INSERT INTO retired_name (name, organization_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    params![name, row.id],
                )?;
            }
            // Without a certificate, which the next start writes; one of the old catalog stays.
            if row.frozen {
                super::freezes::begin(db, row.id, "found to be frozen when the catalog was rebuilt", None)?;
            }
            travel(db, row)?;
        }
        // A move that was interrupted goes on only from where its file was found: it empties the other place.
        db.execute(
            "DELETE FROM relocation WHERE CASE state WHEN 'switched' THEN target ELSE source END
                                          <> (SELECT placement FROM organization WHERE id = organization_id)",
            [],
        )?;
        more(db, &conflicts)?;
        Ok((conflicts, copied))
    })?;
    Ok(Rebuilt { path, conflicts, copied })
}

impl Rebuilt {
    /// Throws it away.
    pub fn discard(self) -> Result<()> {
        remove(&self.path)
    }

    /// Puts it into the place of the old one, which is kept under the name that is returned. A crash leaves either
    /// the one or the other there.
    pub fn put_in_place(self, directory: &Path, now: Timestamp) -> Result<Option<PathBuf>> {
        let old = directory.join(FILE);
        let kept = directory.join(format!("catalog.before-{}.sqlite", now.millis()));
        let io = |error| Error::internal(format!("cannot put {} into its place", self.path.display())).source(error);
        let had_one = old.exists();
        if had_one {
            fs::hard_link(&old, &kept).map_err(io)?;
            let wal = beside(&old, "-wal");
            if wal.exists() {
                fs::copy(&wal, beside(&kept, "-wal")).map_err(io)?;
            }
            sync_directory(directory)?;
        }
        // A WAL that is not its own would be taken for the new file's, also where there is nothing but that.
        remove_beside(&old)?;
        remove_beside(&self.path)?;
        fs::rename(&self.path, &old).map_err(io)?;
        sync_directory(directory)?;
        Ok(had_one.then_some(kept))
    }
}

/// What has arrived waits for its proof again, and what has left stays gone.
fn travel(db: &Write<'_, CatalogDb>, row: &NewRow) -> Result<()> {
    match &row.journey {
        Some((direction, transfer)) => transfers::enter_found(db, transfer, *direction)?,
        None => transfers::settle_arrival(db, row.id)?,
    }
    // One that was served has got a file of before its arrival's end since. Nothing throws it away.
    db.execute(
        "UPDATE organization SET state = 'active' WHERE id = ?1 AND state = 'creating' AND EXISTS (
           SELECT 1 FROM transfer WHERE organization_id = ?1 AND direction = 'arrival' AND state = 'active')",
        params![row.id],
    )?;
    Ok(())
}

fn enter(db: &Write<'_, CatalogDb>, row: &NewRow, conflicts: &mut Vec<Conflict>) -> Result<()> {
    let mut conflict = |problem: String| conflicts.push(Conflict { organization_id: row.id, problem });
    let is_free = |name: &str| Ok::<_, Error>(super::organizations::organization_by_name(db, name)?.is_none());
    let mut slug = row.slug.clone();
    for number in 2_u32.. {
        if is_free(slug.as_str())? {
            break;
        }
        slug = Slug::parse(&format!("{}-{number}", row.slug)).unwrap_or_else(|| row.slug.clone());
        if number > 1000 {
            return Err(Error::internal(format!("no name could be found for {}", row.id)));
        }
    }
    if slug != row.slug {
        conflict(format!("another organization has the slug {} too; entered as {slug}", row.slug));
    }
    let mut external_id = row.external_id.as_deref();
    if let Some(wanted) = external_id
        && !is_free(wanted)?
    {
        conflict(format!("another organization has the external id {wanted} too; entered without"));
        external_id = None;
    }
    db.execute(
        "INSERT INTO organization (id, slug, external_id, state, placement, schema_version, created_at, updated_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            row.id,
            slug,
            external_id,
            match row.journey {
                Some((Direction::Arrival, _)) => "creating",
                _ if row.suspended => "suspended",
                _ => "active",
            },
            row.placement,
            row.schema_version,
            row.created_at,
            row.updated_at
        ],
    )?;
    for host in &row.hosts {
        let entered = db.execute(
            "INSERT INTO host (host, organization_id) VALUES (?, ?) ON CONFLICT DO NOTHING",
            params![host, row.id],
        )?;
        if entered == 0 {
            conflict(format!("another organization has the host {host} too; entered without"));
        }
    }
    Ok(())
}

fn entries(db: &Read<'_, CatalogDb>, into: &mut HashMap<OrganizationId, Entry>) -> Result<()> {
    super::organizations::each(db, |entry| {
        into.insert(entry.id, entry);
        Ok(())
    })
}

fn hosts(db: &Read<'_, CatalogDb>, into: &mut HashMap<String, OrganizationId>) -> Result<()> {
    db.each("SELECT host, organization_id FROM host", [], |row| {
        into.insert(row.get(0)?, row.get(1)?);
        Ok(())
    })
}

fn placements(db: &Read<'_, CatalogDb>, into: &mut HashMap<OrganizationId, String>) -> Result<()> {
    db.each("SELECT id, placement FROM organization WHERE placement <> 'local'", [], |row| {
        into.insert(row.get(0)?, row.get(1)?);
        Ok(())
    })
}

fn erased(db: &Read<'_, CatalogDb>, into: &mut HashSet<OrganizationId>) -> Result<()> {
    db.each("SELECT organization_id FROM erasure WHERE state IN ('erasing', 'erased')", [], |row| {
        into.insert(row.get(0)?);
        Ok(())
    })
}

fn remove_beside(path: &Path) -> Result<()> {
    remove_wal(path)
        .map_err(|error| Error::internal(format!("cannot remove the WAL of {}", path.display())).source(error))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::internal(format!("cannot remove {}", path.display())).source(error)),
    }
}
