//! Walking all organizations: a few at a time, in order of their ids, with its place written down after each batch.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::migrate::migrate_all;
use super::{CheckOptions, Found, Job, JobState, Kind, check, set_aside, store};
use crate::base::{Error, OrganizationId, Result};
use crate::catalog::{Entry, care, organizations};
use crate::features::DeploymentState;
use crate::features::audit::By;

/// Organizations between two notes of the place.
const BATCH: u32 = 64;
/// Files that are looked at in the same moment.
const WORKERS: usize = 2;
/// A walk rests for this part of the time that a file took, so that requests come first.
const REST: u32 = 4;
/// The walk is through with the organizations, and has come so far in `orgs/`.
const SHARD: &str = "shard:";

/// Walks that run in this process; cheap to clone.
#[derive(Clone, Default)]
pub struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    stopping: watch::Sender<bool>,
    walks: Mutex<JoinSet<()>>,
}

impl Desk {
    pub(super) fn start(&self, state: &DeploymentState, job: Job) {
        let (state, mut stopping) = (state.clone(), self.0.stopping.subscribe());
        let mut walks = self.0.walks.lock().unwrap_or_else(PoisonError::into_inner);
        while walks.try_join_next().is_some() {}
        walks.spawn(async move {
            let ended = match job.kind {
                Kind::Check => check_all(&state, &job, &mut stopping).await,
                Kind::Migration => migrate_all(&state, &job, &mut stopping).await,
            };
            let ended = match ended {
                Ok(Some(ended)) => ended,
                // The next start goes on from here.
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(job = %job.id, ?error, "a walk over all organizations could not go on");
                    JobState::Failed
                }
            };
            if let Err(error) = state.catalog.write(|db| store::set_state(db, job.id, ended)).await {
                tracing::warn!(job = %job.id, ?error, "the end of a walk could not be noted: the next start goes on");
            }
        });
    }

    /// Lets what was begun come to the end of its batch; the next start goes on from there.
    pub async fn stop(&self) {
        self.0.stopping.send_replace(true);
        let mut walks = std::mem::take(&mut *self.0.walks.lock().unwrap_or_else(PoisonError::into_inner));
        while walks.join_next().await.is_some() {}
    }
}

/// Goes on with what a stop or a crash interrupted; at start.
pub async fn resume(state: &DeploymentState) -> Result<()> {
    for job in state.catalog.read(store::running).await? {
        tracing::info!(job = %job.id, done = job.done, total = job.total, "going on with a walk over all organizations");
        state.fleet.start(state, job);
    }
    Ok(())
}

/// How a walk has ended; nothing if it was told to stop.
pub(super) type Ended = Option<JobState>;

async fn check_all(state: &DeploymentState, job: &Job, stopping: &mut watch::Receiver<bool>) -> Result<Ended> {
    let options: CheckOptions = serde_json::from_str(&job.options)
        .map_err(|error| Error::internal("the options of a walk could not be read").source(error))?;
    let mut place = job.place.clone();
    while !place.starts_with(SHARD) {
        if *stopping.borrow() {
            return Ok(None);
        }
        let batch = state.catalog.read(|db| care::after(db, &place, BATCH)).await?;
        place = match batch.last() {
            Some(last) => last.id.to_string(),
            None => SHARD.to_owned(),
        };
        look_at_batch(state, job, options, batch, &place).await?;
    }
    let shards = tokio::task::block_in_place(|| state.tenants.shards())?;
    let name = |shard: &Path| format!("{SHARD}{}", shard.display());
    // The first that comes after the place, which may have gone meanwhile.
    for shards in shards.into_iter().filter(|shard| name(shard) > place).collect::<Vec<_>>().chunks(BATCH as usize) {
        if *stopping.borrow() {
            return Ok(None);
        }
        let mut found = Vec::new();
        for shard in shards {
            found.extend(check::strays(state, shard).await?);
        }
        let reached = shards.last().map_or_else(String::new, |shard| name(shard));
        state
            .catalog
            .write(|db| {
                found.iter().try_for_each(|found| store::add(db, job.id, found))?;
                store::advance(db, job.id, &reached, 0)
            })
            .await?;
    }
    Ok(Some(JobState::Done))
}

/// Looks at a few organizations, then notes what was found and how far it is, in one transaction.
async fn look_at_batch(
    state: &DeploymentState,
    job: &Job,
    options: CheckOptions,
    batch: Vec<Entry>,
    place: &str,
) -> Result<()> {
    let done = i64::try_from(batch.len()).unwrap_or(0);
    let ids = batch.into_iter().map(|entry| entry.id).collect();
    let all = check::twice(ids, |ids| look_at_each(state, ids, options.full)).await?;
    state
        .catalog
        .write(|db| {
            for (id, looked) in &all {
                if organizations::entry(db, *id)?.is_none() {
                    // Erased since: nothing is wrong with it.
                    continue;
                }
                looked.found.iter().try_for_each(|found| store::add(db, job.id, found))?;
                if let Some(version) = looked.version {
                    care::set_schema_version(db, *id, version)?;
                }
                if let (true, Some(reason)) = (options.quarantine, &looked.unusable) {
                    set_aside(db, *id, reason, &By::system())?;
                }
            }
            store::advance(db, job.id, place, done)
        })
        .await?;
    for (id, looked) in all {
        if options.quarantine && looked.unusable.is_some() {
            state.directory.forget(id);
            state.tenants.let_go(id);
        }
    }
    Ok(())
}

/// A few at a time.
async fn look_at_each(
    state: &DeploymentState,
    ids: Vec<OrganizationId>,
    full: bool,
) -> Result<BTreeMap<OrganizationId, check::Looked>> {
    let hands = Arc::new(Semaphore::new(WORKERS));
    let mut looks = JoinSet::new();
    for id in ids {
        let (state, hands) = (state.clone(), Arc::clone(&hands));
        looks.spawn(async move {
            let _hand = hands.acquire_owned().await;
            let began = Instant::now();
            let looked = check::organization(&state, id, full).await;
            let rest = (began.elapsed() / REST).min(Duration::from_millis(250));
            tokio::time::sleep(rest).await;
            (id, looked)
        });
    }
    let mut all = BTreeMap::new();
    while let Some(ended) = looks.join_next().await {
        let (id, looked) = ended.map_err(|error| Error::internal("a look at a file did not end").source(error))?;
        all.insert(id, looked.unwrap_or_else(|error| not_looked_at(id, &error)));
    }
    Ok(all)
}

/// What could not be looked at is said of that organization, and the walk goes on.
fn not_looked_at(id: OrganizationId, error: &Error) -> check::Looked {
    let found = Found {
        organization_id: Some(id),
        code: "not_checked",
        problem: format!("it could not be looked at: {}", error.cause().unwrap_or_else(|| error.to_string())),
        advice: "Check again: `bulkhead fleet check`.",
    };
    check::Looked { found: vec![found], ..check::Looked::default() }
}
