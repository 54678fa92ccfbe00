//! The HTTP API `/v1` as a whole: the operations of all features in two routers, one for each state, and
//! the document that describes them.
//!
//! An operation describes what is its own: path, scope, bodies, and the answers that only it gives. What
//! all operations have in common is added in `document.rs`: the refusals, the organization in the path,
//! the `Idempotency-Key`. So it is the same everywhere, and a new operation cannot lack it.

mod document;

use utoipa_axum::router::OpenApiRouter;

pub use document::document;

use super::{DeploymentState, TenantState};
use super::{
    api_key, application, audit, backup, encryption, erasure, export, fleet, freeze, inspection, keys, membership,
    placement, session, signing_key, status, transfer,
};

/// The operations on one organization, which never see the catalog.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::default()
        .merge(membership::http::tenant_api())
        .merge(session::api::tenant_api())
        .merge(api_key::http::tenant_api())
        .merge(signing_key::http::tenant_api())
        .merge(audit::http::tenant_api())
        .merge(export::http::tenant_api())
        .merge(erasure::http::tenant_api())
}

/// The operations on the deployment.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::default()
        .merge(application::http::deployment_api())
        .merge(api_key::http::deployment_api())
        .merge(audit::http::deployment_api())
        .merge(backup::http::deployment_api())
        .merge(inspection::http::deployment_api())
        .merge(erasure::http::deployment_api())
        .merge(status::http::deployment_api())
        .merge(fleet::http::deployment_api())
        .merge(keys::http::deployment_api())
        .merge(freeze::http::deployment_api())
        .merge(placement::http::deployment_api())
        .merge(encryption::http::deployment_api())
        .merge(transfer::http::deployment_api())
}
