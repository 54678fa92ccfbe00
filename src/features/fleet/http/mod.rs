//! The API of the care of all organizations. For operators alone.

mod limited;
mod migrations;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::{Error, FleetJobId, OrganizationId, Timestamp, codes};
use crate::catalog::care::Quarantine;
use crate::features::DeploymentState;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::features::fleet::{
    CheckOptions, Finding, Job, JobState, Kind, Stats, compact, job, quarantine, release, start_check, stats, why_aside,
};
use crate::tenants::Tenant;
use crate::web::access::{Operator, scope};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, Query, RequestInfo, reason, reply};

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .merge(migrations::deployment_api())
        .merge(limited::deployment_api())
        .routes(routes!(get_fleet_stats))
        .routes(routes!(start_fleet_check))
        .routes(routes!(get_fleet_check))
        .routes(routes!(compact_organization))
        .routes(routes!(get_quarantine, put_quarantine, delete_quarantine))
}

object!(pub CheckObject = "fleet_check");
object!(pub CompactionObject = "compaction");
object!(pub QuarantineObject = "quarantine");

/// A check of all organizations' files.
#[derive(Serialize, utoipa::ToSchema)]
struct CheckBody {
    #[schema(inline)]
    object: CheckObject,
    id: FleetJobId,
    state: JobState,
    full: bool,
    quarantine: bool,
    /// Organizations when it began, and those of them that were looked at.
    total: i64,
    checked: i64,
    /// How many findings there are; `findings` has a thousand of them at the most.
    findings_count: i64,
    findings: Vec<Finding>,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    /// Compare every index with its table as well; takes several times as long.
    #[serde(default)]
    full: bool,
    /// Set aside what cannot be used.
    #[serde(default)]
    quarantine: bool,
}

#[derive(Deserialize, utoipa::IntoParams)]
struct CheckPath {
    /// The id of a check.
    check: FleetJobId,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AfterQuery {
    /// Findings after the one with this number.
    #[param(minimum = 0)]
    after: Option<i64>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StatsQuery {
    /// How many of the largest organizations are named.
    #[param(minimum = 0, maximum = 1000, default = 10)]
    top: Option<usize>,
}

/// What a compaction has changed.
#[derive(Serialize, utoipa::ToSchema)]
struct CompactionBody {
    #[schema(inline)]
    object: CompactionObject,
    organization_id: OrganizationId,
    bytes_before: u64,
    bytes_after: u64,
}

/// Whether an organization's file is set aside, and why.
#[derive(Serialize, utoipa::ToSchema)]
struct QuarantineBody {
    #[schema(inline)]
    object: QuarantineObject,
    organization_id: OrganizationId,
    quarantined: bool,
    /// Why it was set aside first: a later reason does not take its place.
    reason: Option<String>,
    since: Option<Timestamp>,
    /// Of a request to set it aside, whether it was already, by an earlier one; null where nothing was asked for.
    already_quarantined: Option<bool>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct QuarantineRequest {
    /// For operators, up to 500 characters; it is kept in the catalog, so name no people in it.
    #[schema(min_length = 1, max_length = 500, pattern = r"\S")]
    reason: String,
}

/// Start a check of all files
///
/// Looks at the stamp, every page and the references of each organization's file, compares the catalog with it, then
/// looks for files that no organization owns. It runs in the background, a few files at a time, goes on after a
/// restart, and neither opens nor closes what requests use. Only for operators.
#[utoipa::path(
    post, path = "/v1/fleet/checks", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 202, description = "The check has begun", body = CheckBody),
        (status = 409, description = "`fleet_job_running`: there is one already; or see `Idempotency-Key`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn start_fleet_check(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<CheckRequest>,
) -> Answer {
    let options = CheckOptions { full: body.full, quarantine: body.quarantine };
    let job = start_check(&state, options, &by_caller(&info, &caller)).await?;
    Ok(reply::json(202, &check_of(job, Vec::new())))
}

/// Get a check of all files
///
/// How far it is and what it has found. Only for operators.
#[utoipa::path(
    get, path = "/v1/fleet/checks/{check}", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    params(CheckPath, AfterQuery),
    responses((status = 200, description = "The check", body = CheckBody)),
)]
async fn get_fleet_check(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<CheckPath>,
    Query(query): Query<AfterQuery>,
) -> Answer {
    let (job, findings) = job(&state, path.check, Kind::Check, query.after.unwrap_or(0)).await?;
    Ok(reply::json(200, &check_of(job, findings)))
}

/// Get all organizations in numbers
///
/// By state and schema version, what their files take up, the largest, and those that are set aside. Looks up the
/// size of each file. Only for operators.
#[utoipa::path(
    get, path = "/v1/fleet/stats", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    params(StatsQuery),
    responses((status = 200, description = "The numbers", body = Stats)),
)]
async fn get_fleet_stats(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Query(query): Query<StatsQuery>,
) -> Answer {
    let top = query.top.unwrap_or(10);
    if top > 1000 {
        return Err(Error::new(&codes::VALIDATION_FAILED).field("top", "out_of_range", "Use 0 to 1000.").into());
    }
    Ok(reply::json(200, &stats(&state, top).await?))
}

/// Compact an organization's file
///
/// Writes the file anew without what deleted rows have left in it. Reads go on meanwhile, writes wait, and after five
/// seconds are told to come back. It needs room for the file twice more on the disk. Only for operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/compaction", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses((status = 200, description = "The size before and after", body = CompactionBody)),
)]
async fn compact_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
) -> Answer {
    let compacted = compact(&tenant, &by_caller(&info, &caller)).await?;
    let (bytes_before, bytes_after) = (compacted.bytes_before, compacted.bytes_after);
    let act = Act::about("organization.compacted", tenant.id());
    let act = act.with("bytes_before", bytes_before).with("bytes_after", bytes_after);
    state.tenant.operator_log.note(&caller, &info, act).await;
    let body = CompactionBody { object: CompactionObject, organization_id: tenant.id(), bytes_before, bytes_after };
    Ok(reply::json(200, &body))
}

/// Get whether an organization is set aside
///
/// Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/quarantine", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "Whether and why", body = QuarantineBody)),
)]
async fn get_quarantine(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    Ok(reply::json(200, &quarantine_of(id, why_aside(&state, id).await?)))
}

/// Set an organization aside
///
/// Whoever asks for it is answered 503 `organization_quarantined` until it is released; its file stays as it is.
/// Its file is not opened for this, so it works for one that cannot be. One that is set aside already stays so with the
/// reason that it has; the answer says so. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/quarantine", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses((status = 200, description = "It is set aside; an earlier reason stays", body = QuarantineBody)),
)]
async fn put_quarantine(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<QuarantineRequest>,
) -> Answer {
    let reason = reason(&body.reason)?;
    let id = path.find(&state.directory).await?;
    let (aside, is_new) = quarantine(&state, id, reason, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &QuarantineBody { already_quarantined: Some(!is_new), ..quarantine_of(id, Some(aside)) }))
}

/// Release an organization that is set aside
///
/// Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/quarantine", tag = "Fleet",
    security(("api_key" = ["organizations:write"])),
    responses((status = 204, description = "It answers again, if its file can be used")),
)]
async fn delete_quarantine(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    release(&state, id, &by_caller(&info, &caller)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn check_of(job: Job, findings: Vec<Finding>) -> CheckBody {
    let options: CheckOptions = serde_json::from_str(&job.options).unwrap_or_default();
    CheckBody {
        object: CheckObject,
        id: job.id,
        state: job.state,
        full: options.full,
        quarantine: options.quarantine,
        total: job.total,
        checked: job.done,
        findings_count: job.findings,
        findings,
        created_at: job.created_at,
        ended_at: job.ended_at,
    }
}

fn quarantine_of(id: OrganizationId, aside: Option<Quarantine>) -> QuarantineBody {
    let (reason, since) = aside.map_or((None, None), |aside| (Some(aside.reason), Some(aside.since)));
    let quarantined = since.is_some();
    let already_quarantined = None;
    QuarantineBody { object: QuarantineObject, organization_id: id, quarantined, reason, since, already_quarantined }
}
