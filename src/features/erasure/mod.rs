//! Erasing: an organization for good, with a certificate of what was destroyed, and one member of an organization.
//!
//! It owns the order of the steps and what is said of them; the rows are the catalog's ([`crate::catalog::erasures`]),
//! the file is held and removed by `tenants`, the key destroyed by the keyring. An erasure is asked for and then
//! waits; meanwhile the organization is suspended, and it can be called off. When it is due, [`next`] takes one step
//! after the other. Which one is next follows from what is there, so that a crash anywhere costs nothing but time.
//!
//! It leaves alone what has left the deployment: mail, webhooks, copies that somebody made. The certificate names
//! them. `docs/ERASURE.md` is for those who have to rely on it.

pub mod certificate;
pub mod http;
pub mod member;
mod steps;

use std::collections::{BTreeMap, HashMap};
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steps::Part;
pub use steps::{Step, next};

use crate::base::time::length;
use crate::base::{ApiKeyId, Error, OrganizationId, Page, PageRequest, Result, codes};
use crate::catalog::transfers::{self, Direction, TransferStage};
use crate::catalog::{Erasure, Stage, erasures, freezes, placements};
use crate::features::audit::{self, Act, By};
use crate::features::provisioning::{agree, impersonal, mark_in_catalog, mark_in_file};
use crate::features::{Bell, DeploymentState, member as members};
use crate::keyring::WrappedKey;
use crate::sqlite::{CatalogDb, Write};
use crate::tenants::{KeptFile, Shut, Tenant};

/// How long it can be called off unless something else is asked for, in days.
pub const GRACE: u16 = 7;
/// The longest time to wait, in days.
pub const LONGEST: u16 = 90;
/// When a failed step is tried again.
const AGAIN: Duration = length::minutes(1);
/// Erasures that reach the backups together: the keyring's replica is replaced once for all of them.
const TOGETHER: usize = 100;
/// A clock may be set while nobody looks at it.
const LOOK: Duration = length::hours(1);

/// When an organization is to be erased, and why.
pub struct Wanted {
    pub after: Duration,
    /// For the organization's own log, with which it will be erased: free text may name people.
    pub reason: String,
    /// Whose key asks; none on the machine itself.
    pub requested_by: Option<ApiKeyId>,
}

/// Wakes whoever carries erasures out, and keeps two from doing it at the same time; cheap to clone.
#[derive(Clone, Default)]
pub struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    bell: Bell<steps::Keys>,
    /// Why those that wait did not get further.
    failures: Mutex<HashMap<OrganizationId, Arc<Error>>>,
}

impl Desk {
    fn failures(&self) -> MutexGuard<'_, HashMap<OrganizationId, Arc<Error>>> {
        self.0.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Desk {
    type Target = Bell<steps::Keys>;

    fn deref(&self) -> &Self::Target {
        &self.0.bell
    }
}

/// Suspends the organization and writes down when it is to be erased. Asking again changes the time, which counts
/// from the first request, so that the same request twice is as good as once.
pub async fn schedule(state: &DeploymentState, id: OrganizationId, wanted: &Wanted, by: &By) -> Result<Erasure> {
    let operator = impersonal(by);
    let mut is_new = false;
    // One that has moved away is erased here like any other. A catalog that came out of an older backup does not know of
    // a freeze; the file does.
    if let Some(shut @ (Shut::Frozen | Shut::Leaving)) = state.tenants.why_shut_by_its_log(id).await? {
        return Err(shut.refusal());
    }
    mark_in_catalog(state, id, true, by, |db| {
        let before = erasures::get(db, id)?;
        if erasures::is_gone(db, id)? {
            return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
        }
        if freezes::get(db, id)?.is_some() {
            return Err(Error::new(&codes::ORGANIZATION_FROZEN));
        }
        // On its way since it was looked at above: the other side is not to be sent what is destroyed here.
        let departure = transfers::open_of(db, id, Direction::Departure)?.map(|departure| departure.stage);
        if matches!(departure, Some(TransferStage::Leaving | TransferStage::Cancelling)) {
            return Err(Shut::Leaving.refusal());
        }
        // A second copy of it is being made.
        if placements::relocation(db, id)?.is_some() {
            return Err(Error::new(&codes::RELOCATION_RUNNING));
        }
        let before = before.filter(|erasure| erasure.stage == Stage::Scheduled);
        let requested_at = before.as_ref().map_or(db.now(), |erasure| erasure.requested_at);
        let due_at = if wanted.after.is_zero() { db.now() } else { requested_at.plus(wanted.after) };
        // Due is due: a later request for "at once" is no later.
        if before.is_some_and(|erasure| erasure.due_at == due_at || erasure.due_at.max(due_at) <= db.now()) {
            return Ok(());
        }
        is_new = true;
        erasures::schedule(db, id, wanted.requested_by, requested_at, due_at)?;
        let act = Act::about("organization.erasure_scheduled", id);
        audit::record(db, &operator, act.with("due_at", due_at.to_string()))?;
        Ok(())
    })
    .await?;
    let erasure = require(state, id).await?;
    if let Some(tenant) = open(state, id).await {
        mark_in_file(&tenant, true, Some("it is to be erased"), by).await?;
        if is_new {
            let act = Act::about("organization.erasure_scheduled", id);
            let act = act.with("due_at", erasure.due_at.to_string()).with("reason", wanted.reason.as_str());
            tenant.write_beyond(|db| audit::record(db, by, act)).await?;
        }
        // It may have been called off in the meantime.
        agree(state, &tenant, by).await?;
    }
    state.erasures.ring();
    Ok(erasure)
}

/// A file that cannot be used keeps nobody from erasing it.
async fn open(state: &DeploymentState, id: OrganizationId) -> Option<Tenant> {
    let opened = async { state.tenants.open(&state.directory.by_id(id).await?).await };
    opened.await.inspect_err(|error| tracing::warn!(organization = %id, ?error, "its own log is not written")).ok()
}

/// Calls an erasure off. The organization is as it was before, but for the sessions that were ended.
pub async fn cancel(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<Erasure> {
    let operator = impersonal(by);
    let before = require(state, id).await?;
    if before.stage != Stage::Scheduled {
        return Err(Error::new(&codes::ERASURE_NOT_SCHEDULED));
    }
    let act = Act::about("organization.erasure_cancelled", id);
    let tenant = open(state, id).await;
    let cancel = |db: &Write<'_, CatalogDb>| {
        // It may have begun in the meantime, or somebody else was faster.
        if !erasures::cancel(db, id)? {
            return Err(Error::new(&codes::ERASURE_NOT_SCHEDULED));
        }
        audit::record(db, &operator, act.clone()).map(drop)
    };
    if before.was_suspended {
        state.catalog.write(cancel).await?;
    } else {
        if let Some(tenant) = &tenant {
            mark_in_file(tenant, false, None, by).await?;
        }
        mark_in_catalog(state, id, false, by, cancel).await?;
    }
    if let Some(tenant) = tenant {
        tenant.write_beyond(|db| audit::record(db, by, act.clone())).await?;
        agree(state, &tenant, by).await?;
    }
    state.erasures.ring();
    require(state, id).await
}

/// The erasure of an organization, also of one that is gone.
pub async fn require(state: &DeploymentState, id: OrganizationId) -> Result<Erasure> {
    let found = state.catalog.read(|db| erasures::get(db, id)).await?;
    found.ok_or_else(|| Error::new(&codes::ERASURE_NOT_FOUND))
}

/// How far an erasure is that has begun.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What is being done, or done next.
    pub step: Option<Step>,
    /// Why that has not succeeded, as far as this process knows.
    pub failure: Option<Arc<Error>>,
}

/// How far this erasure is. Nobody is waited for, the one who carries it out least of all.
pub async fn progress(state: &DeploymentState, erasure: &Erasure) -> Result<Progress> {
    if erasure.stage != Stage::Erasing {
        return Ok(Progress::default());
    }
    let failure = state.erasures.failures().get(&erasure.organization_id).cloned();
    let step = match steps::ahead_of(state, erasure).await? {
        // What is not there cannot be looked at, and its files are there still.
        Some(Step::RemoveReplica) if state.tenants.require_volume(erasure.organization_id).is_err() => {
            Some(Step::RemoveFiles)
        }
        step => step,
    };
    Ok(Progress { step, failure })
}

/// All of them, newest organizations first.
pub async fn list(state: &DeploymentState, request: &PageRequest) -> Result<Page<Erasure>> {
    state.catalog.read(|db| erasures::list(db, request)).await
}

/// What there was before anything was destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    pub data_key: Option<WrappedKey>,
    pub files: Vec<KeptFile>,
    pub audit_head: Option<Head>,
}

/// The newest event of an audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Head {
    pub sequence: i64,
    /// In hexadecimal.
    pub hash: String,
}

impl From<(i64, String)> for Head {
    fn from((sequence, hash): (i64, String)) -> Self {
        Self { sequence, hash }
    }
}

/// What an erasure would destroy.
#[derive(Debug, Serialize)]
pub struct Preview {
    pub data_key: Option<WrappedKey>,
    /// Names inside the organization's directory, with their sizes.
    pub files: Vec<(String, u64)>,
    pub catalog_rows: BTreeMap<&'static str, i64>,
    /// Unknown where the file cannot be read, as is what follows.
    pub members: Option<i64>,
    pub audit_head: Option<Head>,
    /// Whether there is a backup with a replica of it.
    pub has_replica: bool,
}

/// Looks at what an erasure would destroy, and changes nothing.
pub async fn preview(state: &DeploymentState, id: OrganizationId) -> Result<Preview> {
    let inside = match open(state, id).await {
        Some(tenant) => tenant.read(|db| Ok((members::count(db)?, audit::head(db)?))).await.ok(),
        None => None,
    };
    let (members, audit_head) = inside.unzip();
    Ok(Preview {
        data_key: state.tenants.wrapped_key(id).await?,
        files: state.tenants.sizes(id)?,
        catalog_rows: state.catalog.read(|db| erasures::rows_of(db, id)).await?,
        members,
        audit_head: audit_head.map(Head::from),
        has_replica: state.backups.is_some(),
    })
}

/// Carries out what is due; tells how long it is until there may be more to do. Nothing: it is time to stop.
pub async fn round(state: &DeploymentState) -> Option<Duration> {
    let due = state.catalog.read(erasures::due).await.unwrap_or_else(|error| {
        tracing::error!(?error, "the erasures that are due could not be read");
        Vec::new()
    });
    let mut has_failed = false;
    let mut due = due;
    while !due.is_empty() {
        let later = due.split_off(due.len().min(TOGETHER));
        let mut ready = Vec::new();
        for id in std::mem::replace(&mut due, later) {
            match carry_out(state, id, Part::AtHome).await {
                true => ready.push(id),
                false => has_failed = true,
            }
        }
        for id in ready {
            has_failed |= !carry_out(state, id, Part::All).await;
        }
    }
    if state.erasures.is_closed() {
        return None;
    }
    let next = state.catalog.read(|db| Ok(erasures::next_due(db)?.map(|at| at.since(db.now())))).await;
    let wait = next.ok().flatten().unwrap_or(LOOK);
    Some(if has_failed { wait.max(AGAIN) } else { wait }.min(LOOK))
}

/// Takes step after step; tells whether none has failed.
async fn carry_out(state: &DeploymentState, id: OrganizationId, part: Part) -> bool {
    loop {
        match steps::next_of(state, id, part).await {
            Ok(step) => {
                // Where only a part was to be done, what the rest has failed at has not gone away.
                if step.is_some() || part == Part::All {
                    state.erasures.failures().remove(&id);
                }
                let Some(step) = step else { return true };
                tracing::info!(organization = %id, ?step, "erasing");
            }
            Err(error) => {
                // What is half done is not reachable any more, and goes on from there.
                tracing::error!(organization = %id, ?error, "an erasure did not get further; it will be tried again");
                state.erasures.failures().insert(id, Arc::new(error));
                return false;
            }
        }
    }
}
