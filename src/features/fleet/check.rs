//! `fleet check`: each organization's file and what the catalog says of it, then what stands in `orgs/` that nobody
//! knows of.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Found;
use crate::base::{OrganizationId, Result};
use crate::catalog::{Entry, State, organizations, placements};
use crate::features::DeploymentState;
use crate::tenants::{Depth, Look, Seen, Standing, file_in, look_at};

/// What a look at one organization has shown.
#[derive(Debug, Default)]
pub struct Looked {
    pub found: Vec<Found>,
    /// The schema version, where the file could be read.
    pub version: Option<i64>,
    /// Why the file cannot be used at all.
    pub unusable: Option<String>,
}

const RESTORE: &str = "`bulkhead org recover ORG` puts back what the backup has.";

/// The names in the catalog and in the file are not the same.
const DISAGREEMENT: &str = "disagreement";
/// How long whoever changes both has for the second of them.
const SECOND: Duration = Duration::from_secs(1);

/// Looks at one organization. Nothing is found of one that is not there any more: its row goes first, then its key and
/// its file.
pub async fn organization(state: &DeploymentState, id: OrganizationId, full: bool) -> Result<Looked> {
    let looked = look(state, id, full).await;
    let is_well = matches!(&looked, Ok(looked) if looked.found.is_empty());
    if !is_well && state.catalog.read(|db| organizations::entry(db, id)).await?.is_none() {
        return Ok(Looked::default());
    }
    looked
}

/// What is found of these is looked for once more, and is found if it is there then. Catalog and file are not read in the
/// same moment, so one may have been renamed in between; and one may have been recovered while others were looked at.
pub async fn twice<L>(
    ids: Vec<OrganizationId>,
    look: impl Fn(Vec<OrganizationId>) -> L,
) -> Result<BTreeMap<OrganizationId, Looked>>
where
    L: Future<Output = Result<BTreeMap<OrganizationId, Looked>>>,
{
    let mut all = look(ids).await?;
    let found = || all.iter().filter(|(_, looked)| !looked.found.is_empty());
    if found().any(|(_, looked)| looked.found.iter().any(|found| found.code == DISAGREEMENT)) {
        tokio::time::sleep(SECOND).await;
    }
    let again: Vec<OrganizationId> = found().map(|(id, _)| *id).collect();
    if !again.is_empty() {
        all.extend(look(again).await?);
    }
    Ok(all)
}

async fn look(state: &DeploymentState, id: OrganizationId, full: bool) -> Result<Looked> {
    let mut looked = Looked::default();
    let Some(entry) = state.catalog.read(|db| organizations::entry(db, id)).await? else { return Ok(looked) };
    let found = |code, problem: String, advice| Found { organization_id: Some(id), code, problem, advice };
    if entry.state == State::Creating {
        looked.found.push(found(
            "not_finished",
            "its creation has not finished".to_owned(),
            "Restart the server: it completes or removes what a crash left.",
        ));
        return Ok(looked);
    }
    let has_key = match state.tenants.has_key(entry.id).await {
        Ok(has) => has.then_some(()).ok_or_else(|| "its data key is not in the keyring".to_owned()),
        Err(error) => Err(error.cause().unwrap_or_else(|| error.to_string())),
    };
    if let Err(problem) = has_key {
        let advice = "Restore keyring.sqlite from a backup; without the key the sealed columns cannot be read.";
        looked.found.push(found("key_missing", problem, advice));
    }
    let depth = if full { Depth::Full } else { Depth::Pages };
    let seen = match state.tenants.look(entry.id, depth).await? {
        Look::Missing => Err(("file_missing", "its file is missing".to_owned())),
        Look::Unreadable(reason) => Err(("damaged", format!("its file cannot be read: {reason}"))),
        Look::Held => {
            let advice = "Check again when its restore, move or removal has ended.";
            looked.found.push(found("not_checked", "its file is held at the moment".to_owned(), advice));
            return Ok(looked);
        }
        Look::Foreign(reason) => Err(("foreign_file", format!("its file cannot be used: {reason}"))),
        Look::Seen(seen) if seen.names.id != entry.id => {
            Err(("wrong_place", format!("the file at its place belongs to {}", seen.names.id)))
        }
        Look::Seen(seen) => Ok(seen),
    };
    match seen {
        Ok(seen) => inside(state, &entry, &seen, &mut looked, found).await?,
        Err((code, problem)) => {
            looked.unusable = Some(problem.clone());
            looked.found.push(found(code, problem, RESTORE));
        }
    }
    Ok(looked)
}

async fn inside(
    state: &DeploymentState,
    entry: &Entry,
    seen: &Seen,
    looked: &mut Looked,
    found: impl Fn(&'static str, String, &'static str) -> Found,
) -> Result<()> {
    looked.version = Some(seen.version);
    if let Some(line) = seen.examination.damage.first() {
        let problem = format!("its file is damaged: {line}");
        looked.unusable = Some(problem.clone());
        looked.found.push(found("damaged", problem, RESTORE));
    }
    if !seen.examination.dangling.is_empty() {
        looked.found.push(found(
            "dangling_reference",
            format!(
                "{} rows refer to rows that are not there: {}",
                seen.examination.dangling.len(),
                seen.examination.dangling[0]
            ),
            "Restore this organization to a moment before, or ask for help with the output of this check.",
        ));
    }
    // Read again: it may have been renamed while its file was looked at.
    let (entry, hosts) =
        state.catalog.read(|db| Ok((organizations::entry(db, entry.id)?, organizations::hosts(db, entry.id)?))).await?;
    let Some(entry) = entry else { return Ok(()) };
    let differs = [
        ("slug", seen.names.slug != entry.slug),
        ("external id", seen.names.external_id != entry.external_id),
        ("state", seen.names.suspended != (entry.state == State::Suspended)),
        ("hosts", seen.names.hosts != hosts),
    ];
    let names: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|&(name, _)| name).collect();
    if !names.is_empty() {
        looked.found.push(found(
            DISAGREEMENT,
            format!("the catalog and the file disagree about: {}", names.join(", ")),
            "Set the wanted value again with PATCH /v1/organizations/{org} or the CLI: both are written.",
        ));
    }
    Ok(())
}

/// What stands in one directory of `orgs/` that no organization owns.
pub async fn strays(state: &DeploymentState, shard: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for standing in tokio::task::block_in_place(|| state.tenants.standing_in(shard))? {
        if is_known(state, &standing).await? {
            continue;
        }
        // A row comes before its file and goes after it: what was on its way has arrived or gone by now.
        if !standing.path.exists() || is_known(state, &standing).await? {
            continue;
        }
        let _file_keys = match standing.id {
            Some(id) => Some(state.tenants.unlock_if_possible(id).await),
            None => None,
        };
        found.push(stray(state, &standing)?);
    }
    Ok(found)
}

/// Whether an organization is at this place, or on its way to or from it.
async fn is_known(state: &DeploymentState, standing: &Standing) -> Result<bool> {
    let Some(id) = standing.id else { return Ok(false) };
    let (entry, going) =
        state.catalog.read(|db| Ok((organizations::entry(db, id)?, placements::relocation(db, id)?))).await?;
    Ok(entry.is_some() && (going.is_some() || state.tenants.is_place_of(&standing.path, id)))
}

fn stray(state: &DeploymentState, standing: &Standing) -> Result<Found> {
    let (path, now) = (standing.path.display(), state.tenant.clock.now());
    let look = tokio::task::block_in_place(|| {
        look_at(&file_in(&standing.path), Depth::Names, now, state.tenants.schema_version())
    })?;
    let (code, problem, advice) = match (look, standing.id) {
        (Look::Seen(seen), Some(id)) if seen.names.id == id && !state.tenants.is_place_of(&standing.path, id) => (
            "left_behind",
            format!("{path} is a copy of the file of {id}, which is on another volume"),
            "Remove the directory once `bulkhead fleet check` finds the file itself in order.",
        ),
        (Look::Seen(seen), Some(id)) if seen.names.id == id => (
            "orphan",
            format!("{path} is the file of {id} ({}), which the catalog does not know", seen.names.slug),
            "`bulkhead catalog rebuild` takes it in again; if the organization was erased, remove the directory.",
        ),
        (Look::Seen(seen), _) => (
            "wrong_place",
            format!("{path} holds the file of {}, whose place is elsewhere", seen.names.id),
            "Move it to the place of that organization if it has none there; remove it otherwise.",
        ),
        (_, Some(id)) => (
            "orphan",
            format!(
                "{path} is the place of {id}, which the catalog does not know, and holds no file of an organization"
            ),
            "Look at what it is; Bulkhead has no use for it.",
        ),
        (_, None) => (
            "stray",
            format!("{path} is no place of an organization"),
            "Look at what it is; Bulkhead has no use for it.",
        ),
    };
    // Of no organization that the catalog knows, so that nothing is filed under one.
    Ok(Found { organization_id: None, code, problem, advice })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn with(code: &'static str) -> Looked {
        let found = Found { organization_id: None, code, problem: String::new(), advice: "" };
        Looked { found: vec![found], ..Looked::default() }
    }

    #[tokio::test]
    async fn only_what_is_found_twice_is_found() {
        let ids = [1, 2].map(OrganizationId::from_bits);
        for code in [DISAGREEMENT, "damaged"] {
            // Of the first it passes, and of the second it does not.
            let looks = Mutex::new(Vec::new());
            let look = |asked: Vec<OrganizationId>| {
                let mut looks = looks.lock().unwrap();
                let is_found = |id: &OrganizationId| *id == ids[1] || looks.is_empty();
                let told = asked.iter().map(|id| (*id, if is_found(id) { with(code) } else { Looked::default() }));
                let told: BTreeMap<_, _> = told.collect();
                looks.push(asked);
                std::future::ready(Ok(told))
            };
            let found = twice(ids.to_vec(), look).await.unwrap();
            assert!(found[&ids[0]].found.is_empty(), "{code} is found although it has passed");
            assert_eq!(found[&ids[1]].found, with(code).found);
            assert_eq!(looks.into_inner().unwrap(), [ids.to_vec(), ids.to_vec()]);
        }
        // Where nothing is found, nobody looks twice.
        let looks = AtomicUsize::new(0);
        let well = |asked: Vec<OrganizationId>| {
            looks.fetch_add(1, Ordering::SeqCst);
            std::future::ready(Ok(asked.into_iter().map(|id| (id, Looked::default())).collect()))
        };
        assert_eq!(twice(ids.to_vec(), well).await.unwrap().len(), 2);
        assert_eq!(looks.load(Ordering::SeqCst), 1);
    }
}
