//! Making the catalog again from the organizations' files, with nobody else at work on the directory.
//!
//! The file is the truth, the catalog an index: slug, external id, hosts, state and former names are in each file.
//! Where it was on its way to or from another deployment, its last word says so. What only the old catalog has
//! (applications, operators' keys, their log, tombstones, what is set aside) is copied as far as it can be read. No
//! organization is left out silently: one whose file cannot be read keeps the row that the old catalog has for it, and
//! of two files of one organization the one that does not count is set aside.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use super::journey::OnTheWay;
pub use super::twins::SetAside;
use super::{journey, twins};
use crate::base::{Clock, OrganizationId, Result, Timestamp};
use crate::catalog::State;
use crate::catalog::placements::LOCAL;
use crate::catalog::rebuild::{Conflict, NewRow, Old, build_beside, read_old};
use crate::catalog::transfers::{Direction, Transfer};
use crate::features::audit::{self, Act, By};
use crate::keyring::Keyring;
use crate::sqlite::{Aside, Salvaged, TenantDb, Unlocked, unlock};
use crate::tenants::{Depth, FROZEN, Look, MIGRATIONS, Seen, file_in, look_at, shards, standing_in};

/// What was made, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Always `catalog_rebuild`.
    pub object: &'static str,
    pub dry_run: bool,
    /// Organizations in the new catalog.
    pub organizations: u64,
    /// Of those, entered as the old catalog had them, because their files cannot be read.
    pub from_the_old_catalog: u64,
    /// What could not be entered as its file says, or not at all.
    pub conflicts: Vec<Conflict>,
    /// Files that were left out, and why.
    pub left_out: Vec<LeftOut>,
    /// Second files of one organization.
    pub set_aside: Vec<SetAside>,
    /// Organizations whose own logs say that they are on their way to or from another deployment, or have left.
    pub on_their_way: Vec<OnTheWay>,
    /// Rows of the old catalog, by table.
    pub copied: Vec<Salvaged>,
    /// Why the old catalog, or a part of it, could not be read.
    pub old_unreadable: Option<String>,
    /// Where the old one is kept.
    pub kept: Option<PathBuf>,
}

/// A file that no row was made from.
#[derive(Debug, Serialize)]
pub struct LeftOut {
    pub path: PathBuf,
    pub organization_id: Option<OrganizationId>,
    pub why: String,
}

/// Makes the catalog again; the caller owns the directory, and nothing in it is open. After each file it tells how many
/// it has read.
pub async fn rebuild(
    data_dir: &Path,
    volumes: &BTreeMap<String, PathBuf>,
    keyring: &Keyring,
    clock: &Clock,
    dry_run: bool,
    read: &mut (dyn FnMut(u64) + Send),
) -> Result<Report> {
    let now = clock.now();
    let old = tokio::task::block_in_place(|| read_old(data_dir, now));
    let mut left_out = Vec::new();
    let mut files: BTreeMap<OrganizationId, Vec<File>> = BTreeMap::new();
    let mut kept_rows = 0;
    let survey = tokio::task::block_in_place(|| survey_all(data_dir, volumes, keyring, now, read))?;
    for (volume, Stood { path, id, look, journey }) in survey {
        let mut leave_out = |why: String| left_out.push(LeftOut { path: path.clone(), organization_id: id, why });
        let Some(id) = id else {
            leave_out("it is no place of an organization".to_owned());
            continue;
        };
        if old.erased.contains(&id) {
            leave_out("this organization was erased".to_owned());
            continue;
        }
        if !keyring.holds(id).await.unwrap_or(true) {
            leave_out("its data key is not in the keyring: it was erased, or never finished".to_owned());
            continue;
        }
        let why = match look {
            Look::Seen(seen) if seen.names.id == id => {
                files.entry(id).or_default().push(File { volume, path, seen, journey });
                continue;
            }
            Look::Seen(seen) => format!("it belongs to {}", seen.names.id),
            Look::Missing => "there is no file in it".to_owned(),
            Look::Held => "it is in use".to_owned(),
            Look::Unreadable(reason) | Look::Foreign(reason) => reason,
        };
        leave_out(why);
    }
    let mut set_aside = Vec::new();
    let mut found: HashMap<OrganizationId, NewRow> = HashMap::new();
    for (id, all) in files {
        let file = tokio::task::block_in_place(|| {
            let root = |volume: &str| volumes.get(volume).map_or(data_dir, PathBuf::as_path);
            one_of(id, all, (keyring, &old, now), root, &mut set_aside)
        });
        if let Some(file) = file {
            found.insert(id, row_from(file));
        }
    }
    // An organization whose file is of no use is still one: it can be restored.
    for (id, entry) in &old.entries {
        if !found.contains_key(id) && entry.state != State::Creating && !old.erased.contains(id) {
            found.insert(*id, row_of(&old, *id, entry));
            kept_rows += 1;
        }
    }
    let rows = in_order(found, &old);
    let organizations = rows.len() as u64;
    let on_their_way = rows.iter().filter_map(|row| row.journey.as_ref().map(OnTheWay::of)).collect();
    let rebuilt = tokio::task::block_in_place(|| {
        build_beside(data_dir, now, &rows, |db, conflicts| {
            let act =
                Act::new("catalog.rebuilt").with("organizations", organizations).with("conflicts", conflicts.len());
            audit::record(db, &By::system(), act).map(drop)
        })
    })?;
    let (conflicts, copied) = (rebuilt.conflicts.clone(), rebuilt.copied.clone());
    let kept = tokio::task::block_in_place(|| {
        if dry_run {
            return rebuilt.discard().map(|()| None);
        }
        let kept = rebuilt.put_in_place(data_dir, now)?;
        // After the catalog that does not need them: a crash before this leaves them where they were.
        set_aside.iter().try_for_each(twins::set_aside)?;
        Ok(kept)
    })?;
    Ok(Report {
        object: "catalog_rebuild",
        dry_run,
        organizations,
        from_the_old_catalog: kept_rows,
        conflicts,
        left_out,
        set_aside,
        on_their_way,
        copied,
        old_unreadable: old.unreadable,
        kept,
    })
}

/// A file that can be read, at the place of its organization.
struct File {
    volume: String,
    /// Its directory.
    path: PathBuf,
    seen: Seen,
    journey: Option<(Direction, Transfer)>,
}

/// The one that counts; what is the matter with the others is noted.
fn one_of<'a>(
    id: OrganizationId,
    mut all: Vec<File>,
    (keyring, old, now): (&Keyring, &Old, Timestamp),
    root: impl Fn(&str) -> &'a Path,
    others: &mut Vec<SetAside>,
) -> Option<File> {
    if all.len() < 2 {
        return all.pop();
    }
    let _file_keys = unlocked(keyring, id);
    let is_known = old.entries.contains_key(&id);
    let place = old.placements.get(&id).map_or(LOCAL, String::as_str);
    let wanted = all.iter().position(|file| is_known && file.volume == place);
    let paths: Vec<&Path> = all.iter().map(|file| file.path.as_path()).collect();
    let (best, whys) = twins::choose(&paths, wanted, now);
    let chosen = all.remove(best);
    others.extend(all.into_iter().zip(whys).map(|(file, why)| {
        let kept = twins::aside(root(&file.volume), &file.path, now);
        SetAside { organization_id: id, path: file.path, kept, why }
    }));
    Some(chosen)
}

fn row_from(file: File) -> NewRow {
    let names = file.seen.names;
    NewRow {
        id: names.id,
        slug: names.slug,
        external_id: names.external_id,
        hosts: names.hosts,
        former_names: names.former_names,
        suspended: names.suspended,
        placement: file.volume,
        frozen: names.newest_event.as_deref() == Some(FROZEN),
        journey: file.journey,
        schema_version: file.seen.version,
        created_at: names.created_at,
        updated_at: names.updated_at,
    }
}

/// What stands where an organization's directory does.
struct Stood {
    path: PathBuf,
    /// Whose place it is, if it is one.
    id: Option<OrganizationId>,
    look: Look,
    journey: Option<(Direction, Transfer)>,
}

/// On every volume that is there.
fn survey_all(
    data_dir: &Path,
    volumes: &BTreeMap<String, PathBuf>,
    keyring: &Keyring,
    now: Timestamp,
    read: &mut (dyn FnMut(u64) + Send),
) -> Result<Vec<(String, Stood)>> {
    let own = std::iter::once((LOCAL, data_dir.join("orgs")));
    let others = volumes.iter().map(|(name, path)| (name.as_str(), path.join("orgs")));
    let (mut found, mut seen) = (Vec::new(), 0);
    for (volume, root) in own.chain(others) {
        let all = survey(&root, keyring, now, &mut || {
            seen += 1;
            read(seen);
        })?;
        found.extend(all.into_iter().map(|stood| (volume.to_owned(), stood)));
    }
    Ok(found)
}

/// Everything that stands where organizations' directories do.
fn survey(root: &Path, keyring: &Keyring, now: Timestamp, seen: &mut dyn FnMut()) -> Result<Vec<Stood>> {
    let newest = i64::try_from(MIGRATIONS.len()).unwrap_or(0);
    let mut found = Vec::new();
    for shard in shards(root)? {
        for standing in standing_in(root, &shard)? {
            // Where the file is ciphertext. One whose key cannot be had is one that cannot be read.
            let _file_keys = standing.id.map(|id| unlocked(keyring, id));
            let file = file_in(&standing.path);
            let look = look_at(&file, Depth::Names, now, newest)?;
            let journey = match &look {
                Look::Seen(seen) if journey::is_on_its_way(&seen.names) => {
                    Aside::<TenantDb>::open(&file, now)?.read(|db| journey::of(db, &seen.names)).ok().flatten()
                }
                _ => None,
            };
            found.push(Stood { path: standing.path, id: standing.id, look, journey });
            seen();
        }
    }
    Ok(found)
}

/// Lets files be opened that are ciphertext, until what is returned is dropped.
fn unlocked(keyring: &Keyring, id: OrganizationId) -> Vec<Unlocked> {
    let keys = tokio::runtime::Handle::current().block_on(keyring.file_keys(id));
    keys.unwrap_or_default().into_iter().map(|(_, key)| unlock(key)).collect()
}

/// Whoever has a name in the old catalog keeps it; otherwise the organization that was there first.
fn in_order(found: HashMap<OrganizationId, NewRow>, old: &Old) -> Vec<NewRow> {
    let mut rows: Vec<NewRow> = found.into_values().collect();
    rows.sort_by_key(|row| {
        let is_as_before = old.entries.get(&row.id).is_some_and(|entry| entry.slug == row.slug);
        (!is_as_before, row.id)
    });
    rows
}

fn row_of(old: &Old, id: OrganizationId, entry: &crate::catalog::Entry) -> NewRow {
    let hosts = old.hosts.iter().filter(|(_, owner)| **owner == id).map(|(host, _)| host.clone());
    NewRow {
        id,
        slug: entry.slug.clone(),
        external_id: entry.external_id.clone(),
        hosts: hosts.collect(),
        former_names: Vec::new(),
        suspended: entry.state == State::Suspended,
        placement: old.placements.get(&id).map_or(LOCAL, String::as_str).to_owned(),
        frozen: false,
        journey: None,
        schema_version: entry.schema_version,
        created_at: entry.created_at,
        updated_at: entry.updated_at,
    }
}
