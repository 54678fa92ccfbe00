//! `fleet migrate`: bringing every organization's file to the newest schema before a request asks for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::walk::Ended;
use super::{Found, Job, JobState, set_aside, store};
use crate::base::{Error, MemberId, OrganizationId, Result, codes};
use crate::catalog::{care, organizations};
use crate::crypto::Crew;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::erasure::member::erase_from_past;
use crate::features::keys::require_keys;
use crate::sqlite::{Read, TenantDb, Write};

/// Organizations between two notes of the place, and how long it takes to the next at the most where each takes long.
const BATCH: usize = 64;
const NOTE: Duration = Duration::from_secs(1);
/// Files that are migrated in the same moment.
const WORKERS: usize = 2;
/// Organizations that are begun before the first of them has ended: what waits for one of the workers keeps them at
/// work while the place is noted.
const AHEAD: usize = 8 * WORKERS;
/// After how long a migration that failed is tried once more before it counts.
const AGAIN: Duration = Duration::from_secs(1);

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
    let sweep = Sweep::new(state, options)?;
    // Where the first failure is to be the last, no second one is begun with it.
    let ahead = if options.pause_on_error { 1 } else { AHEAD };
    let (mut place, mut left) = (job.place.clone(), usize::try_from(job.total - job.done).unwrap_or(0));
    let (mut next, mut begun, mut ended) = (VecDeque::new(), VecDeque::new(), Vec::new());
    let mut noted = Instant::now();
    loop {
        while begun.len() < ahead && !*stopping.borrow() {
            if next.is_empty() && left > 0 {
                let most = u32::try_from(left.min(BATCH)).unwrap_or(0);
                next.extend(state.catalog.read(|db| care::older_after(db, &place, sweep.newest, most)).await?);
                left = if next.is_empty() { 0 } else { left.saturating_sub(next.len()) };
                place = next.back().map_or(place, OrganizationId::to_string);
            }
            let Some(id) = next.pop_front() else { break };
            let sweep = sweep.clone();
            begun.push_back(tokio::spawn(async move { (sweep.migrate(id).await, Instant::now()) }));
        }
        // In the order in which they were begun: whatever is before a noted place has ended.
        let Some(first) = begun.pop_front() else { break };
        let failed_to_end = |error| Error::internal("a migration did not end").source(error);
        let ((id, mut migrated), tried_at) = first.await.map_err(failed_to_end)?;
        if has_failed(&migrated) {
            // It may have waited long for its turn to be noted, and have been recovered or erased since.
            migrated = match state.catalog.read(|db| organizations::entry(db, id)).await? {
                Some(_) if tried_at.elapsed() > AGAIN => sweep.clone().migrate(id).await.1,
                Some(_) => migrated,
                None => Ok(()),
            };
        }
        let failed = has_failed(&migrated);
        ended.push((id, migrated));
        if failed || ended.len() >= BATCH || noted.elapsed() >= NOTE {
            note(state, job, &sweep, std::mem::take(&mut ended)).await?;
            noted = Instant::now();
        }
        if failed && options.pause_on_error {
            return Ok(Some(JobState::Paused));
        }
    }
    note(state, job, &sweep, ended).await?;
    Ok(if *stopping.borrow() { None } else { Some(JobState::Done) })
}

/// What all migrations of a sweep share.
#[derive(Clone)]
struct Sweep {
    state: DeploymentState,
    options: MigrationOptions,
    newest: i64,
    /// Threads that take what time requests leave.
    crew: Crew,
    /// One more than there are of them, so that none waits for what it does next.
    hands: Arc<Semaphore>,
}

impl Sweep {
    fn new(state: &DeploymentState, options: MigrationOptions) -> Result<Self> {
        let fairness = state.tenants.fairness().clone();
        Ok(Self {
            state: state.clone(),
            options,
            newest: state.tenants.schema_version(),
            crew: Crew::start("migration", WORKERS, move || fairness.entered())?,
            hands: Arc::new(Semaphore::new(WORKERS + 1)),
        })
    }

    async fn migrate(self, id: OrganizationId) -> (OrganizationId, Result<()>) {
        let _hand = self.hands.acquire().await;
        let migrated = if self.options.dry_run {
            self.state.tenants.try_migration(id, &self.crew).await
        } else {
            patiently(&self.state, id, &self.crew).await
        };
        (id, migrated)
    }
}

/// Notes what became of a few, and with it the place, in one durable transaction. A crash before it leaves the catalog
/// behind the files, which harms nobody: files are migrated by what they say themselves, and the sweep goes on from the
/// place before and finds that these have been.
async fn note(
    state: &DeploymentState,
    job: &Job,
    sweep: &Sweep,
    ended: Vec<(OrganizationId, Result<()>)>,
) -> Result<()> {
    let Some((last, _)) = ended.last() else { return Ok(()) };
    let (options, newest, place, count) =
        (sweep.options, sweep.newest, last.to_string(), i64::try_from(ended.len()).unwrap_or(0));
    state
        .catalog
        .write(|db| {
            for (id, migrated) in &ended {
                if organizations::entry(db, *id)?.is_none() {
                    // Erased since: there is nothing to be migrated.
                    continue;
                }
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
                let failed = format!("its migration to schema version {newest} failed: {reason}");
                let (code, problem, advice) = if passes(error) {
                    let problem = format!("it was not migrated to schema version {newest}: {reason}");
                    ("not_migrated", problem, "Migrate again. It is migrated when it is opened as well.")
                } else if options.dry_run {
                    ("migration_failed", failed, "It would be set aside. Nothing was changed.")
                } else {
                    set_aside(db, *id, &failed, &By::system())?;
                    let advice =
                        "It is set aside as it was. Release it once the cause is gone: it is migrated when it is opened.";
                    ("migration_failed", failed, advice)
                };
                store::add(db, job.id, &Found { organization_id: Some(*id), code, problem, advice })?;
            }
            store::advance(db, job.id, &place, count)
        })
        .await?;
    if !options.dry_run {
        for (id, _) in ended.iter().filter(|(_, migrated)| has_failed(migrated)) {
            state.directory.forget(*id);
            state.tenants.let_go(*id);
        }
    }
    Ok(())
}

fn has_failed(migrated: &Result<()>) -> bool {
    migrated.as_ref().is_err_and(|error| !is_kept(error) && !passes(error))
}

/// Whether nothing is wrong with an organization's file, which only cannot be had at the moment, such as while it is
/// being restored or moved. Setting it aside would refuse it to everybody for that.
fn passes(error: &Error) -> bool {
    error.retry().is_some() && !error.is_of_storage()
}

/// Whether an organization's file is to stay as it is, which is no reason to set it aside: it is migrated when it may be.
fn is_kept(error: &Error) -> bool {
    [&codes::ORGANIZATION_FROZEN, &codes::ORGANIZATION_LEAVING, &codes::ORGANIZATION_MOVED]
        .iter()
        .any(|code| error.is(code))
}

/// A file that somebody has for themselves is waited for.
async fn patiently(state: &DeploymentState, id: OrganizationId, crew: &Crew) -> Result<()> {
    for _ in 0..50 {
        match state.tenants.migrate(id, crew).await {
            Err(error) if passes(&error) && !is_kept(&error) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ended => return ended,
        }
    }
    state.tenants.migrate(id, crew).await
}

/// Puts an organization back to what it was before the newest step of the schema that took something away, and sets
/// it aside: the next time it is opened it is migrated again, so an operator says when. Refused where that copy needs a
/// data key that has been destroyed since: nobody could open what is sealed in it. Whoever was erased since is erased in
/// the copy before it is anybody's; where that cannot be learned, it stays where it is.
pub async fn roll_back(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<i64> {
    // Before it is set aside for it.
    state.tenants.require_own_files()?;
    // Before it is set aside for nothing.
    state.tenants.require_open(id)?;
    let keys = state.tenants.keys(id).await?;
    let can_be_opened = |db: &Read<'_, TenantDb>| require_keys(db, keys.sealer());
    state.tenants.look_at_kept(id, can_be_opened).await?;
    let was_aside = super::why_aside(state, id).await?.is_some();
    // First, so that nobody opens it in between.
    super::quarantine(state, id, "it is being rolled back to the schema before", by).await?;
    // Once more, now that nobody has the file: a key is destroyed by whoever has it open.
    let erased_since = |db: &Read<'_, TenantDb>| {
        let erased = audit::erased_members(db)?;
        Ok(erased.iter().filter_map(|id| id.parse().ok()).collect())
    };
    let erase = |db: &Write<'_, TenantDb>, gone: Vec<MemberId>| {
        gone.into_iter().try_for_each(|member| erase_from_past(db, keys.sealer(), member, by).map(drop))
    };
    let rolled_back = state.tenants.roll_back(id, can_be_opened, erased_since, erase).await;
    let is_refused = |error: &Error| error.is(&codes::NO_SNAPSHOT) || error.is(&codes::DATA_KEY_DESTROYED);
    if !was_aside && rolled_back.as_ref().is_err_and(is_refused) {
        super::release(state, id, by).await?;
    }
    let version = rolled_back?;
    if let Some(backups) = &state.backups {
        backups.start_over(crate::backup::Source::Organization(id)).await;
    }
    state
        .catalog
        .write(|db| {
            // It may have been erased meanwhile.
            organizations::require(db, id)?;
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
