//! The API of limits of organizations. For operators alone.

use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::features::DeploymentState;
use crate::features::fleet::{Limited, limited};
use crate::web::access::{Operator, scope};
use crate::web::failure::Answer;
use crate::web::reply;

pub(super) fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(get_limited))
}

/// Get who was limited lately
///
/// Organizations that have reached one of their `limits` since the server was started, with how often something was
/// refused. Only for operators.
#[utoipa::path(
    get, path = "/v1/fleet/limited", tag = "Fleet",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "Who was limited", body = Limited)),
)]
async fn get_limited(State(state): State<DeploymentState>, _caller: Operator<scope::OrganizationsRead>) -> Answer {
    Ok(reply::json(200, &limited(&state).await?))
}
