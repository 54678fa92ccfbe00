//! The deployment's issuer: one address for apps that serve all organizations.
//!
//! Authorization finds the organization and hands over to its own address, where its sessions are. The
//! endpoints are the organizations' own; here is what answers when a credential leads to none of them, in
//! the same words as for one that is not good.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::client::{authenticate, authenticate_confidential};
use super::introspect::token_of;
use super::{OauthAnswer, OauthFailure, any_origin, authorize, discovery, userinfo};
use crate::base::{Error, codes};
use crate::catalog::{State as Status, TenantRoute};
use crate::features::oauth::{self, Introspection, Issuer, Parameters, Refusal, TokenRequest, Trusted};
use crate::features::signing_key::Holder;
use crate::features::{DEPLOYMENT, DeploymentState};
use crate::web::extract::{RawForm, RawPairs};
use crate::web::failure::Answer;
use crate::web::pages::{Address, ChooseOrganization, FormState, Frame};
use crate::web::{Failure, RequestInfo, reply};

/// Pages of the deployment.
pub fn deployment_pages() -> Router<DeploymentState> {
    Router::new()
        .route("/oauth2/authorize", get(authorize_by_query).post(authorize_by_form))
        .route("/oauth2/logout", get(sign_out_of_nothing).post(sign_out_of_nothing))
}

/// Endpoints of the deployment that need no organization, or were given no good one.
pub fn deployment_endpoints() -> Router<DeploymentState> {
    let open = Router::new()
        .route("/oauth2/token", post(token))
        .route("/oauth2/revoke", post(revoke))
        .route("/oauth2/userinfo", get(no_userinfo).post(no_userinfo))
        .route("/oauth2/jwks", get(jwks))
        .route("/.well-known/openid-configuration", get(metadata))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .layer(middleware::from_fn(any_origin));
    open.route("/oauth2/introspect", post(introspect))
}

async fn authorize_by_query(State(state): State<DeploymentState>, RawPairs(pairs): RawPairs) -> Answer {
    begin(&state, &Parameters::new(pairs)).await
}

async fn authorize_by_form(State(state): State<DeploymentState>, RawForm(pairs): RawForm) -> Answer {
    begin(&state, &Parameters::new(pairs)).await
}

async fn begin(state: &DeploymentState, parameters: &Parameters) -> Answer {
    let (tenant, now) = (&state.tenant, state.tenant.clock.now());
    let trusted = oauth::trust(parameters, &tenant.applications)?;
    let refuse = |refusal| Ok(reply::see_other(&trusted.refuse(refusal, tenant.address.origin())));
    let asked = match oauth::asked_for(parameters, &trusted, Issuer::Deployment, now) {
        Ok(asked) => asked,
        Err(refusal) => return refuse(refusal),
    };
    let route = match named(state, parameters).await? {
        Some(route) => route,
        None if asked.silent => return refuse(Refusal::INTERACTION_REQUIRED),
        None => return Ok(choose(state, parameters, &trusted)),
    };
    match asked.pin(route.organization()).seal(&tenant.boxes) {
        Ok(sealed) => {
            let base = tenant.address.of_organization(route.slug());
            Ok(reply::see_other(&authorize::continue_at(&base, &sealed)))
        }
        Err(refusal) => refuse(refusal),
    }
}

/// The organization that the parameters name, by id, slug or external id.
async fn named(state: &DeploymentState, parameters: &Parameters) -> Result<Option<TenantRoute>, Error> {
    let mut found: Option<TenantRoute> = None;
    for name in ["organization", "organization_id"] {
        let Some(name) = parameters.get(name) else { continue };
        let route = state.directory.by_name(name).await?;
        if found.as_ref().is_some_and(|other| other.organization() != route.organization()) {
            return Err(Error::new(&codes::ORGANIZATION_CONFLICT));
        }
        found = Some(route);
    }
    match found {
        // Whether it is suspended is nothing for strangers.
        Some(route) if route.state() != Status::Active => Err(Error::new(&codes::ORGANIZATION_NOT_FOUND)),
        found => Ok(found),
    }
}

/// Asks for the organization; everything else of the request is sent again with the answer.
fn choose(state: &DeploymentState, parameters: &Parameters, trusted: &Trusted) -> Response {
    let (before, after) = state.tenant.address.around_slug();
    let before = before.split_once("://").map_or(before.as_str(), |(_, rest)| rest).to_owned();
    reply::page(&ChooseOrganization {
        frame: Frame::new("Choose your organization"),
        form: FormState::default(),
        action: "/oauth2/authorize".to_owned(),
        hidden: parameters.pairs().to_vec(),
        app_name: Some(trusted.application.name.clone()),
        address: Address { before, after },
        choices: Vec::new(),
    })
}

/// Sessions are at their organization's address; without an ID token nobody knows which that is.
async fn sign_out_of_nothing() -> Failure {
    let detail = "The app did not say which organization you are signed in to. Sign out there instead.";
    Error::new(&codes::MALFORMED_REQUEST).detail(detail).into()
}

async fn metadata(State(state): State<DeploymentState>) -> Response {
    discovery::document(state.tenant.address.origin())
}

async fn jwks(State(state): State<DeploymentState>) -> OauthAnswer {
    let holder = Holder::Deployment(&state.tenant.deployment_keys);
    Ok(discovery::key_set(&holder, &state.tenant.key_stock, state.tenant.clock.now()).await?)
}

async fn token(
    State(state): State<DeploymentState>,
    info: RequestInfo,
    headers: HeaderMap,
    RawForm(pairs): RawForm,
) -> OauthAnswer {
    state.tenant.limits.token.check(&(DEPLOYMENT, info.network()))?;
    let parameters = Parameters::new(pairs);
    authenticate(&state.tenant.applications, &headers, &parameters)?;
    TokenRequest::parse(&parameters)?;
    Err(OauthFailure::invalid_grant())
}

async fn introspect(State(state): State<DeploymentState>, headers: HeaderMap, RawForm(pairs): RawForm) -> OauthAnswer {
    let parameters = Parameters::new(pairs);
    authenticate_confidential(&state.tenant.applications, &headers, &parameters)?;
    token_of(&parameters)?;
    Ok(reply::json(200, &Introspection::inactive()))
}

async fn revoke(State(state): State<DeploymentState>, headers: HeaderMap, RawForm(pairs): RawForm) -> OauthAnswer {
    let parameters = Parameters::new(pairs);
    authenticate(&state.tenant.applications, &headers, &parameters)?;
    token_of(&parameters)?;
    Ok(StatusCode::OK.into_response())
}

async fn no_userinfo(request: Request) -> OauthAnswer {
    userinfo::token_of(request).await?;
    Err(userinfo::invalid_token())
}
