//! Two files of one organization: a move between volumes that was interrupted, or a copy that somebody has made. The
//! one with the longer log counts; the other is set aside, where nobody takes it for the organization's.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::base::{Error, OrganizationId, Result, Timestamp};
use crate::features::audit;
use crate::sqlite::{Aside, TenantDb, sync_directory};
use crate::tenants::file_in;

/// A directory that was set aside, or would be.
#[derive(Debug, Serialize)]
pub struct SetAside {
    pub organization_id: OrganizationId,
    /// Where it stood.
    pub path: PathBuf,
    /// Where it stands now.
    pub kept: PathBuf,
    pub why: String,
}

/// An audit log, as a whole.
struct Chain {
    intact: bool,
    events: i64,
    head: String,
}

/// Which of them counts, and what is the matter with each of the others, in their order. `wanted` is the one at the
/// place where the old catalog has it: it counts where the logs cannot tell.
pub(super) fn choose(directories: &[&Path], wanted: Option<usize>, now: Timestamp) -> (usize, Vec<String>) {
    let mut best = wanted.unwrap_or(0);
    let mut whys = vec![String::new(); directories.len()];
    for other in (0..directories.len()).filter(|other| *other != wanted.unwrap_or(0)) {
        let (Some(this), Some(that)) = (directories.get(best), directories.get(other)) else { continue };
        let (is_that, why) = compare(this, that, wanted == Some(best), now);
        let loser = if is_that { std::mem::replace(&mut best, other) } else { other };
        if let Some(slot) = whys.get_mut(loser) {
            *slot = why;
        }
    }
    whys.remove(best);
    (best, whys)
}

/// Whether it is the second one that counts, and what is the matter with the one that does not.
fn compare(this: &Path, that: &Path, is_wanted: bool, now: Timestamp) -> (bool, String) {
    let (here, there) = (chain_of(this, now), chain_of(that, now));
    let not_whole = || "its audit log is not whole".to_owned();
    let (here, there) = match (here.filter(|chain| chain.intact), there.filter(|chain| chain.intact)) {
        (Some(here), Some(there)) => (here, there),
        (None, Some(_)) => return (true, not_whole()),
        (_, None) => return (false, not_whole()),
    };
    if here.events == there.events && here.head == there.head {
        return (false, "its audit log is the same".to_owned());
    }
    let is_that_longer = there.events > here.events;
    let (long, short) = if is_that_longer { (that, &here) } else { (this, &there) };
    if hash_at(long, short.events, now).is_ok_and(|hash| hash.as_deref() == Some(short.head.as_str())) {
        let behind = (here.events - there.events).abs();
        return (is_that_longer, format!("its audit log is the same, but for the last {behind} events"));
    }
    // Both have gone on by themselves. Somebody has to look at them.
    (is_that_longer && !is_wanted, "its audit log is another one from some event on: look at both".to_owned())
}

/// Nothing if it cannot be read.
fn chain_of(directory: &Path, now: Timestamp) -> Option<Chain> {
    let read = || -> Result<Chain> {
        let verified = Aside::<TenantDb>::open(&file_in(directory), now)?.read(audit::verify)?;
        Ok(Chain { intact: verified.intact, events: verified.events, head: verified.head })
    };
    read().ok()
}

/// The hash of one event.
fn hash_at(directory: &Path, sequence: i64, now: Timestamp) -> Result<Option<String>> {
    Aside::<TenantDb>::open(&file_in(directory), now)?.read(|db| {
        let mut found = None;
        audit::each_after(db, sequence - 1, |event| {
            if event.sequence == sequence {
                found = Some(hex::encode(&event.hash));
            }
            Ok(())
        })?;
        Ok(found)
    })
}

/// Where a directory goes that does not count: beside `orgs/`, on the same file system.
pub(super) fn aside(root: &Path, directory: &Path, now: Timestamp) -> PathBuf {
    let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
    root.join("set-aside").join(format!("{name}-{}", now.millis()))
}

/// Takes it there.
pub(super) fn set_aside(one: &SetAside) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot set aside {}", one.path.display())).source(error);
    let above = one.kept.parent().unwrap_or(&one.kept);
    fs::create_dir_all(above).map_err(failed)?;
    fs::rename(&one.path, &one.kept).map_err(failed)?;
    sync_directory(above)?;
    one.path.parent().map_or(Ok(()), sync_directory)
}
