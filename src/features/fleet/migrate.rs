//! `fleet migrate`: bringing every organization's file to the newest schema before a request asks for it.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::walk::Ended;
use super::{Found, Job, JobState, set_aside, store};
use crate::base::{Error, OrganizationId, Result, codes};
use crate::catalog::care;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};

/// Organizations between two notes of the place.
const BATCH: u32 = 64;
/// Files that are migrated in the same moment.
const WORKERS: usize = 2;

/// What a migration is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationOptions {
    /// End after so many organizations; 0 for all.
    pub at_most: i64,
    /// Wait for an operator after the first that fails.
    pub pause_on_error: bool,
    /// Try it on copies, and change nothing.
    pub dry_run: bool,
}

/// How many organizations there are for a share of those that are older than the newest schema, one at the least.
pub async fn canary(state: &DeploymentState, percent: Option<f64>) -> Result<(i64, i64)> {
    let newest = state.tenants.schema_version();
    let pending = state.catalog.read(|db| care::count_older(db, newest)).await?;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a share of a count")]
    let at_most = percent.map_or(pending, |percent| ((pending as f64) * percent / 100.0).ceil() as i64);
    Ok((pending, at_most.min(pending)))
}

pub(super) async fn migrate_all(
    state: &DeploymentState,
    job: &Job,
    stopping: &mut watch::Receiver<bool>,
) -> Result<Ended> {
    let options: MigrationOptions = serde_json::from_str(&job.options)
        .map_err(|error| Error::internal("the options of a walk could not be read").source(error))?;
    let newest = state.tenants.schema_version();
    let (mut place, mut done) = (job.place.clone(), job.done);
    loop {
        if *stopping.borrow() {
            return Ok(None);
        }
        let left = u32::try_from(job.total - done).unwrap_or(0).min(BATCH);
        // Where the first failure is to be the last, no second one is begun with it.
        let left = if options.pause_on_error { left.min(1) } else { left };
        let batch = state.catalog.read(|db| care::older_after(db, &place, newest, left)).await?;
        let Some(last) = batch.last() else { return Ok(Some(JobState::Done)) };
        place = last.to_string();
        done += i64::try_from(batch.len()).unwrap_or(0);
        let failed = migrate_batch(state, job, options, batch, &place).await?;
        if failed && options.pause_on_error {
            return Ok(Some(JobState::Paused));
        }
    }
}

/// Migrates a few, then notes what became of them, in one transaction. Tells whether one has failed.
async fn migrate_batch(
    state: &DeploymentState,
    job: &Job,
    options: MigrationOptions,
    batch: Vec<OrganizationId>,
    place: &str,
) -> Result<bool> {
    let (newest, count) = (state.tenants.schema_version(), i64::try_from(batch.len()).unwrap_or(0));
    let hands = Arc::new(Semaphore::new(WORKERS));
    let mut work = JoinSet::new();
    for id in batch {
        let (state, hands) = (state.clone(), Arc::clone(&hands));
        work.spawn(async move {
            let _hand = hands.acquire_owned().await;
            let migrated =
                if options.dry_run { state.tenants.try_migration(id).await } else { patiently(&state, id).await };
            (id, migrated)
        });
    }
    let mut all = Vec::new();
    while let Some(ended) = work.join_next().await {
        all.push(ended.map_err(|error| Error::internal("a migration did not end").source(error))?);
    }
    all.sort_by_key(|(id, _)| *id);
    state
        .catalog
        .write(|db| {
            for (id, migrated) in &all {
                let Err(error) = migrated else {
                    if !options.dry_run {
                        care::set_schema_version(db, *id, newest)?;
                    }
                    continue;
                };
                if is_kept(error) {
                    continue;
                }
                let reason = error.cause().unwrap_or_else(|| error.to_string());
                let problem = format!("its migration to schema version {newest} failed: {reason}");
                let advice = if options.dry_run {
                    "It would be set aside. Nothing was changed."
                } else {
                    set_aside(db, *id, &problem, &By::system())?;
                    "It is set aside as it was. Release it once the cause is gone: it is migrated when it is opened."
                };
                store::add(
                    db,
                    job.id,
                    &Found { organization_id: Some(*id), code: "migration_failed", problem, advice },
                )?;
            }
            store::advance(db, job.id, place, count)
        })
        .await?;
    let failed: Vec<OrganizationId> =
        all.into_iter().filter_map(|(id, done)| done.is_err_and(|error| !is_kept(&error)).then_some(id)).collect();
    if !options.dry_run {
        for id in &failed {
            state.directory.forget(*id);
            state.tenants.let_go(*id);
        }
    }
    Ok(!failed.is_empty())
}

/// Whether an organization's file is to stay as it is, which is no reason to set it aside: it is migrated when it may be.
fn is_kept(error: &Error) -> bool {
    [&codes::ORGANIZATION_FROZEN, &codes::ORGANIZATION_LEAVING, &codes::ORGANIZATION_MOVED]
        .iter()
        .any(|code| error.is(code))
}

/// A file that somebody has for themselves is waited for.
async fn patiently(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    for _ in 0..50 {
        match state.tenants.migrate(id).await {
            Err(error) if error.retry().is_some() && !error.is_of_storage() && !is_kept(&error) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ended => return ended,
        }
    }
    state.tenants.migrate(id).await
}

/// Puts an organization back to what it was before the newest step of the schema that took something away, and sets
/// it aside: the next time it is opened it is migrated again, so an operator says when.
pub async fn roll_back(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<i64> {
    // Before it is set aside for it.
    state.tenants.require_own_files()?;
    // Before it is set aside for nothing.
    state.tenants.require_open(id)?;
    let was_aside = super::why_aside(state, id).await?.is_some();
    // First, so that nobody opens it in between.
    super::quarantine(state, id, "it is being rolled back to the schema before", by).await?;
    let rolled_back = state.tenants.roll_back(id).await;
    if !was_aside && rolled_back.as_ref().is_err_and(|error| error.is(&codes::NO_SNAPSHOT)) {
        super::release(state, id, by).await?;
    }
    let version = rolled_back?;
    if let Some(backups) = &state.backups {
        backups.start_over(crate::backup::Source::Organization(id)).await;
    }
    state
        .catalog
        .write(|db| {
            care::release(db, id)?;
            care::set_aside(db, id, &format!("rolled back to schema version {version}"))?;
            care::set_schema_version(db, id, version)?;
            let act = Act::about("organization.rolled_back", id);
            audit::record(db, by, act.with("schema_version", version))
        })
        .await?;
    state.directory.forget(id);
    Ok(version)
}
