//! The API of bringing all organizations to the newest schema.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AfterQuery;
use crate::base::{Error, FleetJobId, OrganizationId, Timestamp, codes};
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::features::fleet::{
    Finding, Job, JobState, Kind, MigrationOptions, job, migration_status, roll_back, start_migration,
};
use crate::web::access::{Operator, scope};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, Query, RequestInfo, reply};

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(get_fleet_migrations, start_fleet_migration))
        .routes(routes!(get_fleet_migration))
        .routes(routes!(roll_back_migration))
}

object!(pub MigrationObject = "fleet_migration");
object!(pub MigrationsObject = "fleet_migrations");
object!(pub RollbackObject = "migration_rollback");

/// A walk that brings organizations to the newest schema.
#[derive(Serialize, utoipa::ToSchema)]
struct MigrationBody {
    #[schema(inline)]
    object: MigrationObject,
    id: FleetJobId,
    /// `paused`: one has failed, and it was to wait for you. Start another one to go on.
    state: JobState,
    dry_run: bool,
    pause_on_error: bool,
    /// Organizations that it is to migrate, and those that it has come to.
    total: i64,
    migrated: i64,
    /// How many have failed; `findings` has a thousand of them at the most.
    findings_count: i64,
    findings: Vec<Finding>,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
}

/// How far the deployment is with its newest schema.
#[derive(Serialize, utoipa::ToSchema)]
struct MigrationsBody {
    #[schema(inline)]
    object: MigrationsObject,
    /// The newest, which new organizations have.
    schema_version: i64,
    /// Organizations that are older and not set aside.
    pending: i64,
    latest: Option<MigrationBody>,
}

/// What an organization was put back to.
#[derive(Serialize, utoipa::ToSchema)]
struct RollbackBody {
    #[schema(inline)]
    object: RollbackObject,
    organization_id: OrganizationId,
    schema_version: i64,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct MigrationRequest {
    /// Only this share of those that are older, in percent, and one at the least.
    #[serde(default)]
    #[schema(exclusive_minimum = 0.0, maximum = 100.0)]
    canary_percent: Option<f64>,
    /// Wait for you after the first that fails.
    #[serde(default)]
    pause_on_error: bool,
    /// Try it on copies, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize, utoipa::IntoParams)]
struct MigrationPath {
    /// The id of a migration.
    migration: FleetJobId,
}

/// Get how far the newest schema is
///
/// Organizations that it has not come to are migrated when they are opened. Only for operators.
#[utoipa::path(
    get, path = "/v1/fleet/migrations", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "How many are older, and the newest migration", body = MigrationsBody)),
)]
async fn get_fleet_migrations(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
) -> Answer {
    let (pending, latest) = migration_status(&state).await?;
    let body = MigrationsBody {
        object: MigrationsObject,
        schema_version: state.tenants.schema_version(),
        pending,
        latest: latest.map(|job| body_of(job, Vec::new())),
    };
    Ok(reply::json(200, &body))
}

/// Start to migrate all organizations
///
/// Brings each file that is older to the newest schema, a few at a time, in the background. One that fails is left as
/// it was and set aside with the reason, and the rest go on. One that somebody has for themselves, such as while it is
/// moved, is found as `not_migrated` and not set aside. It goes on after a restart. Only for operators.
#[utoipa::path(
    post, path = "/v1/fleet/migrations", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 202, description = "The migration has begun", body = MigrationBody),
        (status = 409, description = "`fleet_job_running`: there is one already; or see `Idempotency-Key`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn start_fleet_migration(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<MigrationRequest>,
) -> Answer {
    if body.canary_percent.is_some_and(|percent| !(percent > 0.0 && percent <= 100.0)) {
        let message = "Use more than 0 and at most 100.";
        return Err(Error::new(&codes::VALIDATION_FAILED).field("canary_percent", "out_of_range", message).into());
    }
    let options = MigrationOptions { at_most: 0, pause_on_error: body.pause_on_error, dry_run: body.dry_run };
    let job = start_migration(&state, options, body.canary_percent, &by_caller(&info, &caller)).await?;
    Ok(reply::json(202, &body_of(job, Vec::new())))
}

/// Get a migration of all organizations
///
/// How far it is, and which have failed. Only for operators.
#[utoipa::path(
    get, path = "/v1/fleet/migrations/{migration}", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    params(MigrationPath, AfterQuery),
    responses((status = 200, description = "The migration", body = MigrationBody)),
)]
async fn get_fleet_migration(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<MigrationPath>,
    Query(query): Query<AfterQuery>,
) -> Answer {
    let (job, findings) = job(&state, path.migration, Kind::Migration, query.after.unwrap_or(0)).await?;
    Ok(reply::json(200, &body_of(job, findings)))
}

/// Roll an organization back to the schema before
///
/// Puts the copy back that was kept before the newest step that took something away. What was written since stays in a
/// file beside it. The organization is set aside: once it is released it is migrated again. Only for operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/migration_rollback", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "The schema version that it has now", body = RollbackBody),
        (status = 409, description = "`no_snapshot`: no copy was kept; `data_key_destroyed`: that copy needs a key that is \
         gone, and nothing was changed; or see `Idempotency-Key`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn roll_back_migration(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let schema_version = roll_back(&state, id, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &RollbackBody { object: RollbackObject, organization_id: id, schema_version }))
}

fn body_of(job: Job, findings: Vec<Finding>) -> MigrationBody {
    let options: MigrationOptions = serde_json::from_str(&job.options).unwrap_or_default();
    MigrationBody {
        object: MigrationObject,
        id: job.id,
        state: job.state,
        dry_run: options.dry_run,
        pause_on_error: options.pause_on_error,
        total: job.total,
        migrated: job.done,
        findings_count: job.findings,
        findings,
        created_at: job.created_at,
        ended_at: job.ended_at,
    }
}
