//! `GET /v1/status`.

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::Timestamp;
use crate::features::{DeploymentState, status};
use crate::web::access::{Operator, scope};
use crate::web::failure::Answer;
use crate::web::reply;
use crate::web::schema::object;

object!(pub StatusObject = "status");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(get_status))
}

/// The state of the deployment.
#[derive(Serialize, ToSchema)]
struct Status {
    #[schema(inline)]
    object: StatusObject,
    /// The version of the server.
    #[schema(example = "0.1.0")]
    version: &'static str,
    sqlite_version: &'static str,
    /// The deployment's address, which is also its issuer.
    #[schema(example = "https://example.com")]
    url: String,
    now: Timestamp,
    organizations: OrganizationFiles,
}

/// Files of organizations.
#[derive(Serialize, ToSchema)]
struct OrganizationFiles {
    /// How many are open.
    open: usize,
    /// How many may be open at the same time.
    capacity: usize,
}

/// Get the deployment's status
///
/// Operators only.
#[utoipa::path(
    get, path = "/v1/status", tag = "Deployment",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "The status", body = Status)),
)]
async fn get_status(State(state): State<DeploymentState>, _caller: Operator<scope::OrganizationsRead>) -> Answer {
    let (open, capacity) = state.tenants.usage();
    Ok(reply::json(
        200,
        &Status {
            object: StatusObject,
            version: status::VERSION,
            sqlite_version: status::sqlite_version(),
            url: state.tenant.address.origin().to_owned(),
            now: state.tenant.clock.now(),
            organizations: OrganizationFiles { open, capacity },
        },
    ))
}
