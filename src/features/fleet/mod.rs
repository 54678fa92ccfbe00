//! The care of all organizations' files: checking them, setting bad ones aside, how many there are of what.
//!
//! It owns walks over all organizations ([`Job`]) and what they find; both are in the catalog, so that a walk goes
//! on after a restart from where it was. A walk looks at a few files at a time, through `tenants`, which opens none
//! behind the back of a request and closes none that requests use. It changes no row of an organization.
//! What it leaves alone: making organizations and their names (`provisioning`), backups, erasure.

mod check;
pub mod http;
mod journey;
mod limited;
mod migrate;
pub mod rebuild;
mod stats;
mod store;
mod twins;
mod walk;

use serde::{Deserialize, Serialize};

pub use limited::{LimitHit, Limited, LimitedOrganization, limited};
pub use migrate::{MigrationOptions, roll_back};
pub use stats::{Stats, stats};
pub use walk::{Desk, resume};

use crate::backup::Source;
use crate::base::{Error, FleetJobId, OrganizationId, Result, Timestamp, codes};
use crate::catalog::care::{self, Quarantine};
use crate::catalog::organizations;
use crate::crypto::random;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By, Target};
use crate::sqlite::Compacted;
use crate::tenants::Tenant;

/// What a walk does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Check,
    Migration,
}

impl Kind {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Migration => "migration",
        }
    }

    fn parse(text: &str) -> Self {
        if text == "migration" { Self::Migration } else { Self::Check }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Running,
    /// It waits for an operator.
    Paused,
    Done,
    /// It could not go on; the log says why.
    Failed,
}

impl JobState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "paused" => Self::Paused,
            "done" => Self::Done,
            _ => Self::Failed,
        }
    }
}

/// A walk over all organizations.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: FleetJobId,
    pub kind: Kind,
    /// JSON, of the kind's own.
    pub options: String,
    pub state: JobState,
    /// Where it has come to.
    pub place: String,
    /// Organizations when it began, and those of them that were looked at.
    pub total: i64,
    pub done: i64,
    pub findings: i64,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
}

/// What a check is to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckOptions {
    /// Compare every index with its table as well.
    pub full: bool,
    /// Set aside what cannot be used.
    pub quarantine: bool,
}

/// Something that is not as it should be, before it has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub organization_id: Option<OrganizationId>,
    pub code: &'static str,
    pub problem: String,
    pub advice: &'static str,
}

/// One thing that is not as it should be, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Finding {
    /// Counts up from 1.
    pub sequence: i64,
    pub organization_id: Option<OrganizationId>,
    /// A stable word: `damaged`, `orphan`, ...
    pub code: String,
    pub problem: String,
    pub advice: String,
}

/// Begins a check of all files.
pub async fn start_check(state: &DeploymentState, options: CheckOptions, by: &By) -> Result<Job> {
    let act = Act::new("fleet.check_started").with("full", options.full).with("quarantine", options.quarantine);
    let total = state.catalog.read(care::count).await?;
    begin(state, (Kind::Check, total), &options, act, by).await
}

/// Begins to bring every file to the newest schema, or this share of them, in percent.
pub async fn start_migration(
    state: &DeploymentState,
    mut options: MigrationOptions,
    percent: Option<f64>,
    by: &By,
) -> Result<Job> {
    let (_, total) = migrate::canary(state, percent).await?;
    options.at_most = total;
    let act = Act::new("fleet.migration_started").with("at_most", total).with("dry_run", options.dry_run);
    begin(state, (Kind::Migration, total), &options, act, by).await
}

/// How many organizations have an older schema, and the newest migration.
pub async fn migration_status(state: &DeploymentState) -> Result<(i64, Option<Job>)> {
    let newest = state.tenants.schema_version();
    state.catalog.read(|db| Ok((care::count_older(db, newest)?, store::newest(db, Kind::Migration)?))).await
}

/// One of a kind at a time: two would only be in each other's way.
async fn begin(
    state: &DeploymentState,
    (kind, total): (Kind, i64),
    options: &impl Serialize,
    act: Act,
    by: &By,
) -> Result<Job> {
    let now = state.tenant.clock.now();
    let options = serde_json::to_string(options)
        .map_err(|error| Error::internal("the options of a walk could not be written").source(error))?;
    let id = random::id(now);
    let job = state
        .catalog
        .write(|db| {
            if let Some(other) = store::running(db)?.into_iter().find(|other| other.kind == kind) {
                let detail =
                    format!("{} is running already: {} of {} organizations.", other.id, other.done, other.total);
                return Err(Error::new(&codes::FLEET_JOB_RUNNING).detail(detail).field(
                    "job",
                    "running",
                    other.id.to_string(),
                ));
            }
            let job = Job {
                id,
                kind,
                options,
                state: JobState::Running,
                place: String::new(),
                total,
                done: 0,
                findings: 0,
                created_at: now,
                ended_at: None,
            };
            store::insert(db, &job)?;
            audit::record(db, by, act.on(Target::new("fleet_job", id)))?;
            Ok(job)
        })
        .await?;
    state.fleet.start(state, job.clone());
    Ok(job)
}

/// A walk, with what it found after this number.
pub async fn job(state: &DeploymentState, id: FleetJobId, kind: Kind, after: i64) -> Result<(Job, Vec<Finding>)> {
    let found = state
        .catalog
        .read(|db| {
            let Some(job) = store::get(db, id, kind)? else { return Ok(None) };
            Ok(Some((job, store::findings(db, id, after, PAGE)?)))
        })
        .await?;
    found.ok_or_else(|| Error::new(&codes::FLEET_JOB_NOT_FOUND))
}

/// Findings in one answer.
const PAGE: u32 = 1000;

/// Sets an organization's file aside: whoever asks for it is refused until it is released. Again changes nothing, the
/// first reason stays; tells whether it is set aside by this.
pub async fn quarantine(
    state: &DeploymentState,
    id: OrganizationId,
    reason: &str,
    by: &By,
) -> Result<(Quarantine, bool)> {
    let (set, is_new) = state
        .catalog
        .write(|db| {
            let is_new = set_aside(db, id, reason, by)?;
            Ok((care::quarantine(db, id)?, is_new))
        })
        .await?;
    // In this order: nobody who comes now gets in, then what is open closes.
    state.directory.forget(id);
    state.tenants.let_go(id);
    Ok((set.ok_or_else(|| Error::new(&codes::ORGANIZATION_NOT_FOUND))?, is_new))
}

/// One that was erased meanwhile is nobody's any more, and is not set aside.
fn set_aside(
    db: &crate::sqlite::Write<'_, crate::sqlite::CatalogDb>,
    id: OrganizationId,
    reason: &str,
    by: &By,
) -> Result<bool> {
    let is_new = organizations::entry(db, id)?.is_some() && care::set_aside(db, id, reason)?;
    if is_new {
        let act = Act::about("organization.quarantined", id).with("reason", reason);
        audit::record(db, by, act)?;
    }
    Ok(is_new)
}

/// Lets an organization that was set aside back in. Again changes nothing.
pub async fn release(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<()> {
    let was_aside = state
        .catalog
        .write(|db| {
            let was_aside = care::release(db, id)?;
            if was_aside {
                // On the disk before it is let in: this process may end before the store answers, and the file may be
                // another one than was shipped, or none was.
                state.tenants.ship_whole(id)?;
                audit::record(db, by, Act::about("organization.released", id))?;
            }
            Ok(was_aside)
        })
        .await?;
    if was_aside {
        // Whatever was open before is opened anew: the file may have been replaced.
        state.tenants.let_go(id);
        state.directory.forget(id);
        if let Some(backups) = &state.backups {
            backups.take_up(Source::Organization(id)).await;
        }
    }
    Ok(())
}

/// Gives back what deleted rows have left in an organization's file.
pub async fn compact(tenant: &Tenant, by: &By) -> Result<Compacted> {
    let compacted = tenant.compact().await?;
    let act = Act::about("organization.compacted", tenant.id());
    let act = act.with("bytes_before", compacted.bytes_before).with("bytes_after", compacted.bytes_after);
    tenant.write_beyond(|db| audit::record(db, by, act)).await?;
    Ok(compacted)
}

/// Why an organization is set aside, if it is.
pub async fn why_aside(state: &DeploymentState, id: OrganizationId) -> Result<Option<Quarantine>> {
    state.catalog.read(|db| care::quarantine(db, id)).await
}
