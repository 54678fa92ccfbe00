//! The operations on where an organization's file is. For operators alone.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Placement, Plan, begin, carry_out, placement, plan};
use crate::base::{OrganizationId, Result};
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, RequestInfo, reply};

object!(pub PlacementObject = "placement");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(get_placement, put_placement))
}

/// Where an organization's file is.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Placement)]
struct PlacementBody {
    #[schema(inline)]
    object: PlacementObject,
    organization_id: OrganizationId,
    /// The name of the volume; `local` is the data directory itself.
    volume: String,
    /// Where it is on its way to; null if it is not.
    moving_to: Option<String>,
    /// `copying`: it is in use where it was. `clearing`: it is in use at its new place. Null if nothing is moved.
    state: Option<&'static str>,
    /// Bytes to be copied, and those that are there. Of a dry run: what would be copied.
    bytes: u64,
    bytes_copied: u64,
    /// Bytes free on the volume that it would go to; of a dry run.
    bytes_free: Option<u64>,
    /// Bytes that were written while nobody could use the file; of the last move since the server was started.
    bytes_while_held: Option<u64>,
    /// Of the database as it was put in place.
    sha256: Option<String>,
    /// The code of why the last move came to nothing.
    failure: Option<String>,
    failure_detail: Option<String>,
}

impl PlacementBody {
    fn of(id: OrganizationId, placed: Placement) -> Self {
        let state = placed.relocation.as_ref().map(|going| if going.switched { "clearing" } else { "copying" });
        Self {
            object: PlacementObject,
            organization_id: id,
            volume: placed.volume,
            moving_to: placed.relocation.map(|going| going.target),
            state,
            bytes: placed.total,
            bytes_copied: placed.copied,
            bytes_free: None,
            bytes_while_held: placed.done.as_ref().map(|done| done.rest),
            sha256: placed.done.map(|done| done.sha256),
            failure: placed.failure.as_ref().map(|error| error.code().name.to_owned()),
            failure_detail: placed.failure.map(|error| error.public_detail().to_owned()),
        }
    }

    fn of_plan(id: OrganizationId, plan: Plan, starts: bool) -> Self {
        Self {
            object: PlacementObject,
            organization_id: id,
            volume: plan.from,
            moving_to: Some(plan.to),
            state: starts.then_some("copying"),
            bytes: plan.bytes,
            bytes_copied: 0,
            bytes_free: Some(plan.free),
            bytes_while_held: None,
            sha256: None,
            failure: None,
            failure_detail: None,
        }
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutPlacement {
    /// The name or the directory of a volume that is configured; `local` for the data directory itself.
    #[schema(min_length = 1, max_length = 4096)]
    volume: String,
    /// Say what it would take, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Get where an organization's file is
///
/// And how far it is on its way elsewhere. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/placement", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "The volume", body = PlacementBody)),
)]
async fn get_placement(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    Ok(reply::json(200, &PlacementBody::of(id, placement(&state, id).await?)))
}

/// Move an organization's file to another volume
///
/// It is copied while it is in use; then requests wait a moment, and go on at the new place. Ask for it until nothing
/// is moved any more. What fails leaves it where it was. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/placement", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "What a dry run found", body = PlacementBody),
        (status = 202, description = "It is on its way", body = PlacementBody),
        (status = 409, description = "`already_there`, `relocation_running`, `volume_unusable`, `erasure_scheduled` or \
         `transfer_conflict`", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_placement(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<PutPlacement>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    if body.dry_run {
        return Ok(reply::json(200, &PlacementBody::of_plan(id, plan(&state, id, &body.volume).await?, false)));
    }
    let plan = begin(&state, id, &body.volume, &by_caller(&info, &caller)).await?;
    tokio::spawn(async move { carry_out(&state, id).await });
    Ok(reply::json(202, &PlacementBody::of_plan(id, plan, true)))
}
