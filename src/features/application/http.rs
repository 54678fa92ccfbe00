//! The operations on applications. Operators only: an application serves every organization.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Application, Change, NewApplication, Type};
use crate::base::{ApplicationId, Credential, Error, Result, Timestamp, codes};
use crate::crypto::Algorithm;
use crate::features::audit::http::by_operator;
use crate::features::{DeploymentState, application};
use crate::web::access::{Operator, scope};
use crate::web::extract::Paging;
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, List, Path, Query, RequestInfo, nullable, reply};

object!(pub ApplicationObject = "application");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(list_applications, create_application))
        .routes(routes!(get_application, update_application, delete_application))
        .routes(routes!(rotate_application_secret))
}

/// An app that signs people in.
#[derive(Serialize, ToSchema)]
#[schema(as = Application)]
struct ApplicationBody {
    #[schema(inline)]
    object: ApplicationObject,
    /// Also the `client_id`.
    id: ApplicationId,
    name: String,
    #[schema(inline)]
    r#type: Type,
    redirect_uris: Vec<String>,
    post_logout_redirect_uris: Vec<String>,
    id_token_signed_response_alg: Algorithm,
    #[schema(inline)]
    state: Active,
    created_at: Timestamp,
    updated_at: Timestamp,
}

object!(Active = "active");

/// An application whose secret was just made.
#[derive(Serialize, ToSchema)]
struct ApplicationWithSecret {
    #[serde(flatten)]
    application: ApplicationBody,
    /// It is shown this once; only a hash of it is kept. A public application has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^bh_cs_[0-9a-hjkmnp-tv-z]{85}$")]
    client_secret: Option<String>,
}

/// An app to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateApplication {
    #[schema(min_length = 1, max_length = 120, pattern = r"\S", example = "Timesheets")]
    name: String,
    #[schema(inline)]
    r#type: Type,
    /// Compared character by character. https, http on a loopback address, or a scheme such as
    /// `com.example.app` for a public application; no fragment, no wildcard, 2,000 characters at most.
    #[schema(min_items = 1, max_items = 50, example = json!(["https://app.example.com/callback"]))]
    redirect_uris: Vec<String>,
    #[serde(default)]
    #[schema(max_items = 50, example = json!(["https://app.example.com/"]))]
    post_logout_redirect_uris: Vec<String>,
    /// How ID tokens are signed.
    #[serde(default = "rs256")]
    #[schema(default = "RS256")]
    id_token_signed_response_alg: Algorithm,
}

fn rs256() -> Algorithm {
    Algorithm::RS256
}

/// What is to change; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateApplication {
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false, min_length = 1, max_length = 120, pattern = r"\S")]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false, min_items = 1, max_items = 50)]
    redirect_uris: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false, max_items = 50)]
    post_logout_redirect_uris: Option<Vec<String>>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false)]
    id_token_signed_response_alg: Option<Algorithm>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct ApplicationPath {
    /// The application's id.
    application: String,
}

impl ApplicationPath {
    fn id(&self) -> Result<ApplicationId> {
        self.application.parse().map_err(|_| Error::new(&codes::APPLICATION_NOT_FOUND))
    }
}

impl From<Application> for ApplicationBody {
    fn from(application: Application) -> Self {
        Self {
            object: ApplicationObject,
            id: application.id,
            name: application.name,
            r#type: application.r#type,
            redirect_uris: application.redirect_uris,
            post_logout_redirect_uris: application.post_logout_redirect_uris,
            id_token_signed_response_alg: application.id_token_signed_response_alg,
            state: Active,
            created_at: application.created_at,
            updated_at: application.updated_at,
        }
    }
}

fn with_secret(application: Application, secret: Option<&Credential>) -> ApplicationWithSecret {
    let client_secret = secret.map(|secret| secret.expose().to_owned());
    ApplicationWithSecret { application: application.into(), client_secret }
}

/// List applications
#[utoipa::path(
    get, path = "/v1/applications", tag = "Applications",
    security(("api_key" = ["applications:read"])),
    params(Paging),
    responses((status = 200, description = "A page of applications", body = List<ApplicationBody>)),
)]
async fn list_applications(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::ApplicationsRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<ApplicationId>().is_ok())?;
    let applications = state.catalog.read(|db| application::list(db, &page)).await?;
    Ok(reply::json(200, &List::from(applications.map(ApplicationBody::from))))
}

/// Create an application
///
/// Registers an app once, for every organization. A confidential application gets a client secret.
#[utoipa::path(
    post, path = "/v1/applications", tag = "Applications",
    security(("api_key" = ["applications:write"])),
    responses((status = 201, description = "The application with its secret", body = ApplicationWithSecret)),
)]
async fn create_application(
    State(state): State<DeploymentState>,
    caller: Operator<scope::ApplicationsWrite>,
    info: RequestInfo,
    Json(body): Json<CreateApplication>,
) -> Answer {
    let new = NewApplication {
        name: body.name,
        r#type: body.r#type,
        redirect_uris: body.redirect_uris,
        post_logout_redirect_uris: body.post_logout_redirect_uris,
        id_token_signed_response_alg: body.id_token_signed_response_alg,
    };
    let by = by_operator(&info, &caller);
    let (application, secret) = state.catalog.write(|db| application::create(db, new, &by)).await?;
    state.tenant.applications.put(application.clone());
    Ok(reply::json(201, &with_secret(application, secret.as_ref())))
}

/// Get an application
#[utoipa::path(
    get, path = "/v1/applications/{application}", tag = "Applications",
    security(("api_key" = ["applications:read"])),
    params(ApplicationPath),
    responses((status = 200, description = "The application", body = ApplicationBody)),
)]
async fn get_application(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::ApplicationsRead>,
    Path(path): Path<ApplicationPath>,
) -> Answer {
    let id = path.id()?;
    let application = state.catalog.read(|db| application::require(db, id)).await?;
    Ok(reply::json(200, &ApplicationBody::from(application)))
}

/// Update an application
///
/// Changes what is given and leaves the rest. Its type cannot change.
#[utoipa::path(
    patch, path = "/v1/applications/{application}", tag = "Applications",
    security(("api_key" = ["applications:write"])),
    params(ApplicationPath),
    responses((status = 200, description = "The application", body = ApplicationBody)),
)]
async fn update_application(
    State(state): State<DeploymentState>,
    caller: Operator<scope::ApplicationsWrite>,
    info: RequestInfo,
    Path(path): Path<ApplicationPath>,
    Json(body): Json<UpdateApplication>,
) -> Answer {
    let (id, by) = (path.id()?, by_operator(&info, &caller));
    let change = Change {
        name: body.name,
        redirect_uris: body.redirect_uris,
        post_logout_redirect_uris: body.post_logout_redirect_uris,
        id_token_signed_response_alg: body.id_token_signed_response_alg,
    };
    let application = state.catalog.write(|db| application::change(db, id, change, &by)).await?;
    state.tenant.applications.put(application.clone());
    Ok(reply::json(200, &ApplicationBody::from(application)))
}

/// Delete an application
///
/// It can sign nobody in from then on, and its refresh tokens stop working.
#[utoipa::path(
    delete, path = "/v1/applications/{application}", tag = "Applications",
    security(("api_key" = ["applications:write"])),
    params(ApplicationPath),
    responses((status = 204, description = "The application is gone")),
)]
async fn delete_application(
    State(state): State<DeploymentState>,
    caller: Operator<scope::ApplicationsWrite>,
    info: RequestInfo,
    Path(path): Path<ApplicationPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_operator(&info, &caller));
    state.tenant.applications.put(state.catalog.write(|db| application::delete(db, id, &by)).await?);
    Ok(reply::no_content())
}

/// Rotate an application's secret
///
/// Makes a new client secret; the old one stops working at once. A public application has none: 422.
#[utoipa::path(
    post, path = "/v1/applications/{application}/secret", tag = "Applications",
    security(("api_key" = ["applications:write"])),
    params(ApplicationPath),
    responses((status = 201, description = "The application with its new secret", body = ApplicationWithSecret)),
)]
async fn rotate_application_secret(
    State(state): State<DeploymentState>,
    caller: Operator<scope::ApplicationsWrite>,
    info: RequestInfo,
    Path(path): Path<ApplicationPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_operator(&info, &caller));
    let (application, secret) = state.catalog.write(|db| application::rotate_secret(db, id, &by)).await?;
    state.tenant.applications.put(application.clone());
    Ok(reply::json(201, &with_secret(application, Some(&secret))))
}
