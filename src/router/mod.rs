//! F5. Every route of the product, and how a request finds the one router that may answer it.
//!
//! Three routers: an organization's pages and endpoints (state without a catalog), the deployment's own
//! pages, and the API. [`front`] decides which of them a request is for and, where it is an
//! organization's, opens that one organization; everything behind it works with what it was given.

mod documentation;
mod front;
mod hint;
mod pages;
mod paths;
mod watch;

use std::time::Duration;

use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa_axum::router::OpenApiRouter;

pub use front::{Front, Peer, Trust};
pub use watch::Watch;

use crate::features::api_key::http::{Authenticator, authenticate};
use crate::features::idempotency::http::{Replays, replay};
use crate::features::{
    DeploymentState, TenantState, account, api, export, import, oauth, password, provisioning, recovery, session,
    sign_up,
};
use crate::web::Caller;
use crate::web::csrf::{self, Guard};
use crate::web::failure;

/// What an organization answers on its own host and below `/o/{org}`.
pub fn tenant(state: &TenantState) -> Router {
    let guard = Guard { key: state.mac.clone(), secure: state.address.is_secure() };
    let with_forms = Router::new()
        .merge(password::http::routes())
        .merge(recovery::http::routes())
        .merge(account::http::routes())
        .merge(export::pages::routes())
        .merge(sign_up::http::tenant_routes())
        .merge(oauth::http::pages())
        .layer(middleware::from_fn_with_state(guard, csrf::layer));
    let for_programs = Router::new()
        .merge(session::http::routes())
        .merge(oauth::http::endpoints())
        .route("/theme.css", get(pages::theme));
    with_forms.merge(for_programs).with_state(state.clone())
}

/// What the deployment answers on its own host.
pub fn deployment(state: &DeploymentState, document: utoipa::openapi::OpenApi) -> Router {
    let guard = Guard { key: state.tenant.mac.clone(), secure: state.tenant.address.is_secure() };
    let mut with_forms = Router::new().merge(sign_up::http::deployment_routes()).merge(oauth::http::deployment_pages());
    if state.tenant.local_mailbox {
        with_forms = with_forms.route("/mailbox", get(pages::mailbox));
    }
    let with_forms = with_forms.layer(middleware::from_fn_with_state(guard, csrf::layer));
    with_forms
        .merge(oauth::http::deployment_endpoints())
        .with_state(state.clone())
        .merge(pages::api_documentation(document))
}

/// The API, and the document that describes it.
pub fn api(state: &DeploymentState, authenticator: Authenticator) -> (Router, utoipa::openapi::OpenApi) {
    let tenant = api::tenant_api().merge(provisioning::http::tenant_api()).with_state(state.tenant.clone());
    let deployment = api::deployment_api()
        .merge(provisioning::http::deployment_api())
        .merge(import::http::deployment_api())
        .with_state(state.clone());
    let (router, document) = OpenApiRouter::new().merge(tenant).merge(deployment).split_for_parts();
    let replays = Replays::new(state.catalog.clone(), state.directory.clone(), state.tenants.clone());
    let router = router
        // Inside the layer that keeps answers, so that a refusal is kept as it was told.
        .layer(middleware::from_fn(failure::layer))
        .layer(middleware::from_fn_with_state(replays, replay))
        .layer(middleware::from_fn_with_state(authenticator, authenticate));
    (router, api::document(document, &state.tenant.address))
}

/// The public service: health and assets for any host and at any load, everything else through the front.
pub fn public(front: Front, watch: Watch, limits: BodyLimits) -> Router {
    let bounded = Router::new().fallback(front::dispatch).with_state(front.clone());
    let around = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(watch.clone(), watch::layer))
        .layer(middleware::from_fn(failure::layer));
    Router::new()
        .route("/healthz", get(pages::healthy))
        .route("/readyz", get(pages::ready))
        .route("/assets/{name}", get(pages::asset))
        .with_state(front)
        .fallback_service(bounds(bounded, &watch, limits))
        .layer(around)
}

/// The same for somebody with access to the data directory: the API as the local operator.
pub fn control(front: Front, watch: Watch, limits: BodyLimits) -> Router {
    let around = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(watch.clone(), watch::layer))
        .layer(middleware::from_fn(|mut request: axum::extract::Request, next: middleware::Next| async move {
            request.extensions_mut().insert(Caller::local());
            next.run(request).await
        }))
        .layer(middleware::from_fn(failure::layer));
    bounds(Router::new().fallback(front::dispatch_local).with_state(front), &watch, limits).layer(around)
}

/// What a body may be.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    pub bytes: usize,
    /// Between two pieces of it.
    pub pause: Duration,
}

fn bounds(router: Router, watch: &Watch, limits: BodyLimits) -> Router {
    // One stack instead of four layers of the router, each of which would put the request into a box.
    let around = ServiceBuilder::new()
        .layer(RequestBodyTimeoutLayer::new(limits.pause))
        .layer(MapRequestBodyLayer::new(Body::new))
        .layer(middleware::from_fn_with_state(watch.clone(), watch::bounds))
        .layer(CatchPanicLayer::new())
        .layer(DefaultBodyLimit::max(limits.bytes));
    router.layer(around)
}

/// Health for the metrics listener, which answers nothing else of the product.
pub fn operations(front: Front, render: impl Fn() -> String + Clone + Send + Sync + 'static) -> Router {
    Router::new()
        .route("/healthz", get(pages::healthy))
        .route("/readyz", get(pages::ready))
        .route("/metrics", get(move || async move { render().into_response() }))
        .with_state(front)
}

/// The paths of a router, as it would match them; for the test that no route escapes the isolation walk.
#[must_use]
pub fn paths(router: &Router) -> Vec<String> {
    let text = format!("{router:?}");
    let mut paths: Vec<String> =
        text.split('"').filter(|part| part.starts_with('/') && !part.contains(' ')).map(str::to_owned).collect();
    // The framework's own entry for what is at no path.
    paths.retain(|path| !path.contains("__private__"));
    paths.sort();
    paths.dedup();
    paths
}
