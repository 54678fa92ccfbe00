//! Moving an organization's file to another volume, while everybody goes on but for a moment.
//!
//! It owns the order of the steps and the catalog's rows of them ([`crate::catalog::placements`]); `tenants` copies,
//! compares and removes. The file is copied while it is in use; then it is held, what has changed since is copied as
//! well, and one transaction of the catalog says that the new place counts. Before that a crash leaves the old place,
//! after it the new one; the next start removes the other.

pub mod http;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::base::{Error, OrganizationId, Result, codes};
use crate::catalog::placements::{self, LOCAL, Relocation};
use crate::catalog::transfers::{self, Direction};
use crate::catalog::{FreezeStage, erasures, freezes, organizations};
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::provisioning::impersonal;
use crate::sqlite::{Aside, TenantDb};
use crate::tenants::{Copied, Held};

/// How often it is tried to have the file for oneself, and how long it is waited in between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// How many are remembered. Of those before them it is known where they are, and no more.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(999);

/// One relocation at a time, and what has become of those of this process; cheap to clone.
#[derive(Clone, Default)]
pub struct Desk(Arc<Inner>);

struct Inner {
    at_work: tokio::sync::Mutex<()>,
    seen: Mutex<LruCache<OrganizationId, Seen>>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { at_work: tokio::sync::Mutex::default(), seen: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

/// What is known of a relocation besides its row.
#[derive(Clone, Default)]
struct Seen {
    /// The copy that was made while the file was in use is there.
    copied: bool,
    total: u64,
    /// Why the last one came to nothing.
    failure: Option<Arc<Error>>,
    /// What the last one has brought to the new place.
    done: Option<Copied>,
}

impl Desk {
    fn all(&self) -> MutexGuard<'_, LruCache<OrganizationId, Seen>> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self, id: OrganizationId) -> Option<Seen> {
        self.all().get(&id).cloned()
    }

    fn note(&self, id: OrganizationId, change: impl FnOnce(&mut Seen)) {
        change(self.all().get_or_insert_mut(id, Seen::default));
    }
}

/// Where a file is, and how far it is on its way elsewhere.
pub struct Placement {
    pub volume: String,
    pub relocation: Option<Relocation>,
    /// Bytes to be copied, and those that are there already.
    pub total: u64,
    pub copied: u64,
    /// Why the last relocation of this process came to nothing.
    pub failure: Option<Arc<Error>>,
    pub done: Option<Copied>,
}

/// What a relocation would take.
pub struct Plan {
    pub from: String,
    pub to: String,
    pub bytes: u64,
    /// On the volume that it would go to.
    pub free: u64,
}

pub async fn placement(state: &DeploymentState, id: OrganizationId) -> Result<Placement> {
    let (volume, relocation) =
        state.catalog.read(|db| Ok((placements::placement(db, id)?, placements::relocation(db, id)?))).await?;
    let volume = volume.ok_or_else(|| Error::new(&codes::ORGANIZATION_NOT_FOUND))?;
    let seen = state.relocations.seen(id).unwrap_or_default();
    let ahead = |relocation: &Relocation| match relocation.switched {
        true => seen.total,
        false => state.tenants.copied_ahead(id, name(&relocation.target)).min(seen.total),
    };
    let copied = relocation.as_ref().map_or(0, ahead);
    Ok(Placement { volume, total: seen.total, copied, relocation, failure: seen.failure, done: seen.done })
}

/// What moving it there would take; refuses what cannot be.
pub async fn plan(state: &DeploymentState, id: OrganizationId, to: &str) -> Result<Plan> {
    let to = match to {
        LOCAL => LOCAL,
        other => state.tenants.volume_by(other).ok_or_else(|| {
            Error::new(&codes::VOLUME_UNUSABLE).detail("That volume is not configured: list it in files.volumes.")
        })?,
    };
    let placed = placement(state, id).await?;
    if placed.relocation.is_some() {
        return Err(Error::new(&codes::RELOCATION_RUNNING));
    }
    if placed.volume == to {
        return Err(Error::new(&codes::ALREADY_THERE));
    }
    state.tenants.require_own_files()?;
    state.tenants.require_volume(id)?;
    if !state.tenants.is_in_place(id) {
        return Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("there is no file to be moved"));
    }
    let (bytes, free) = tokio::task::block_in_place(|| state.tenants.require_room_on(id, name(to)))?;
    Ok(Plan { from: placed.volume, to: to.to_owned(), bytes, free })
}

/// Writes down where the file is to go. [`carry_out`] takes it there.
pub async fn begin(state: &DeploymentState, id: OrganizationId, to: &str, by: &By) -> Result<Plan> {
    tidy_up(state, id).await?;
    let plan = plan(state, id, to).await?;
    let operator = impersonal(by);
    state
        .catalog
        .write(|db| {
            organizations::require(db, id)?;
            if erasures::is_scheduled(db, id)? {
                return Err(Error::new(&codes::ERASURE_SCHEDULED));
            }
            if freezes::get(db, id)?.is_some_and(|freeze| freeze.stage != FreezeStage::Frozen) {
                return Err(Error::new(&codes::ORGANIZATION_FROZEN));
            }
            if transfers::open_of(db, id, Direction::Departure)?.is_some() {
                return Err(Error::new(&codes::TRANSFER_CONFLICT));
            }
            if !placements::begin(db, id, &plan.from, &plan.to)? {
                return Err(Error::new(&codes::RELOCATION_RUNNING));
            }
            let act = Act::about("organization.relocation_started", id);
            audit::record(db, &operator, act.with("from", plan.from.clone()).with("to", plan.to.clone())).map(drop)
        })
        .await?;
    state.relocations.note(id, |seen| *seen = Seen { total: plan.bytes, ..Seen::default() });
    Ok(plan)
}

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file was copied while it was in use.
    Copy,
    /// What has changed since as well; the new place counts.
    Switch,
    /// The old place is empty.
    Clear,
}

/// Takes one step after the other to the end. What fails before the new place counts is undone.
pub async fn carry_out(state: &DeploymentState, id: OrganizationId) {
    loop {
        match next(state, id).await {
            Ok(None) => return,
            Ok(Some(step)) => tracing::info!(organization = %id, ?step, "moving a file to another volume"),
            Err(error) => {
                tracing::error!(organization = %id, ?error, "a file could not be moved to another volume");
                state.relocations.note(id, |seen| seen.failure = Some(Arc::new(error)));
                if let Err(error) = give_up(state, id).await {
                    tracing::error!(organization = %id, ?error, "the next start clears it up");
                }
                return;
            }
        }
    }
}

/// Takes the next step; nothing if there is none.
pub async fn next(state: &DeploymentState, id: OrganizationId) -> Result<Option<Step>> {
    let _at_work = state.relocations.0.at_work.lock().await;
    let Some(relocation) = state.catalog.read(|db| placements::relocation(db, id)).await? else { return Ok(None) };
    let to = name(&relocation.target);
    let is_copied = state.relocations.seen(id).is_some_and(|seen| seen.copied);
    Ok(Some(match (relocation.switched, is_copied) {
        (false, false) => {
            state.tenants.copy_ahead(id, to).await?;
            state.relocations.note(id, |seen| seen.copied = true);
            Step::Copy
        }
        (false, true) => {
            switch(state, &relocation).await?;
            Step::Switch
        }
        (true, _) => {
            clear(state, &relocation).await?;
            Step::Clear
        }
    }))
}

async fn switch(state: &DeploymentState, relocation: &Relocation) -> Result<()> {
    let (id, to) = (relocation.organization_id, name(&relocation.target));
    let held = patiently(state, id).await?;
    // What stands there already is to be replaced.
    require_not_ahead(state, id, name(&relocation.source), to).await?;
    let copied = held.copy_rest(to)?;
    let switched = state
        .catalog
        .write(|db| {
            if !placements::switch(db, id, &relocation.target)? {
                // It was erased meanwhile; what this transaction has done is undone with it.
                return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
            }
            let act = Act::about("organization.relocated", id);
            let act = act.with("from", relocation.source.clone()).with("to", relocation.target.clone());
            audit::record(db, &By::system(), act.with("sha256", copied.sha256.clone()).with("bytes", copied.bytes))
                .map(drop)
        })
        .await;
    if let Err(error) = switched {
        // A commit that failed may be on the disk all the same: what is there counts.
        let is_there = state.catalog.read(|db| placements::relocation(db, id)).await?;
        if !is_there.is_some_and(|relocation| relocation.switched) {
            return Err(error);
        }
    }
    state.tenants.place(id, to);
    state.directory.forget(id);
    state.relocations.note(id, |seen| seen.done = Some(copied));
    drop(held);
    Ok(())
}

/// Whoever works with the file for long is waited for.
async fn patiently(state: &DeploymentState, id: OrganizationId) -> Result<Held> {
    for _ in 1..TRIES {
        match state.tenants.hold_still(id).await {
            Err(error) if error.retry().is_some() => tokio::time::sleep(PAUSE).await,
            held => return held,
        }
    }
    state.tenants.hold_still(id).await
}

async fn clear(state: &DeploymentState, relocation: &Relocation) -> Result<()> {
    let id = relocation.organization_id;
    require(state, &relocation.source)?;
    require_not_ahead(state, id, name(&relocation.target), name(&relocation.source)).await?;
    state.tenants.leave(id, name(&relocation.source))?;
    state.catalog.write(|db| placements::end(db, id)).await
}

/// Before the new place counts: throws the copy away. After it: nothing, the next start goes on from there.
async fn give_up(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let _at_work = state.relocations.0.at_work.lock().await;
    let Some(relocation) = state.catalog.read(|db| placements::relocation(db, id)).await? else { return Ok(()) };
    if relocation.switched {
        return Ok(());
    }
    undo(state, &relocation).await
}

/// What an earlier one of this process has failed in, and could not clear up either: its volume may be there again.
async fn tidy_up(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    if state.relocations.seen(id).is_none_or(|seen| seen.failure.is_none()) {
        return Ok(());
    }
    let _at_work = state.relocations.0.at_work.lock().await;
    match state.catalog.read(|db| placements::relocation(db, id)).await? {
        Some(relocation) if relocation.switched => clear(state, &relocation).await,
        Some(relocation) => undo(state, &relocation).await,
        None => Ok(()),
    }
}

async fn undo(state: &DeploymentState, relocation: &Relocation) -> Result<()> {
    let id = relocation.organization_id;
    require(state, &relocation.target)?;
    require_not_ahead(state, id, name(&relocation.source), name(&relocation.target)).await?;
    state.tenants.undo_copy(id, name(&relocation.target))?;
    state.catalog.write(|db| placements::end(db, id)).await
}

/// Before the first request: where files are, and what a crash has left half done. A volume that is not there keeps
/// nobody from starting.
pub async fn recover(state: &DeploymentState) -> Result<()> {
    for (id, volume) in state.catalog.read(placements::elsewhere).await? {
        state.tenants.place(id, Some(&volume));
    }
    for relocation in state.catalog.read(placements::relocations).await? {
        let id = relocation.organization_id;
        let done = if relocation.switched { clear(state, &relocation).await } else { undo(state, &relocation).await };
        match done {
            Ok(()) if relocation.switched => tracing::info!(organization = %id, "its old place was emptied"),
            Ok(()) => tracing::info!(organization = %id, "undid a move to another volume that was interrupted"),
            Err(error) => tracing::error!(organization = %id, ?error, "what a move has left stays for now"),
        }
    }
    Ok(())
}

/// Refuses to remove what stands at one place where the file at the other one is missing, or behind: then the catalog is
/// older than the files, and the one that is to go may be all there is.
async fn require_not_ahead(
    state: &DeploymentState,
    id: OrganizationId,
    stays: Option<&str>,
    goes: Option<&str>,
) -> Result<()> {
    let (stays, goes) = (state.tenants.file_on(id, stays), state.tenants.file_on(id, goes));
    if !goes.exists() {
        return Ok(());
    }
    let detail =
        "The catalog is older than the organization's files: stop the server and run `bulkhead catalog rebuild`.";
    let is_behind = || Error::new(&codes::VOLUME_UNUSABLE).detail(detail);
    if !stays.exists() {
        return Err(is_behind());
    }
    let _file_keys = state.tenants.unlock_if_possible(id).await;
    let now = state.tenant.clock.now();
    let events = |file: &Path| Aside::<TenantDb>::open(file, now)?.read(|db| Ok(audit::head(db)?.0));
    tokio::task::block_in_place(|| match (events(&stays), events(&goes)) {
        (Ok(stays), Ok(goes)) if goes > stays => Err(is_behind()),
        _ => Ok(()),
    })
}

/// A place that is not there is not empty.
fn require(state: &DeploymentState, volume: &str) -> Result<()> {
    let is_there = name(volume).is_none_or(|name| state.tenants.volume(name).is_some_and(Path::is_dir));
    if is_there {
        return Ok(());
    }
    Err(Error::new(&codes::VOLUME_UNUSABLE).detail(format!("The volume {volume} is not there.")))
}

/// As `tenants` knows it.
fn name(volume: &str) -> Option<&str> {
    (volume != LOCAL).then_some(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_relocations_is_bounded() {
        let desk = Desk::default();
        let id = |n: usize| OrganizationId::from_bits(n as u128);
        for n in 0..3 * REMEMBERED.get() {
            desk.note(id(n), |seen| seen.total = n as u64);
        }
        assert_eq!(desk.all().len(), REMEMBERED.get());
        let newest = 3 * REMEMBERED.get() - 1;
        assert_eq!(desk.seen(id(newest)).map(|seen| seen.total), Some(newest as u64));
        assert!(desk.seen(id(0)).is_none());
    }
}
