//! The operations on API keys, at both levels.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::{ApiKeyId, Credential, Error, OrganizationId, Result, Scope, Timestamp, codes};
use crate::features::api_key::{self, ApiKey, NewApiKey};
use crate::features::audit::http::{by_caller, by_operator};
use crate::features::audit::{Act, Target};
use crate::features::{DeploymentState, TenantState, organization};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, Operator, scope};
use crate::web::extract::Paging;
use crate::web::failure::Answer;
use crate::web::schema::{object, one_of};
use crate::web::{Json, List, Path, Query, RequestInfo, reply};

object!(pub ApiKeyObject = "api_key");

/// The operations on an organization's own keys.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new()
        .routes(routes!(list_organization_api_keys, create_organization_api_key))
        .routes(routes!(revoke_organization_api_key))
}

/// The operations on the deployment's keys.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(list_api_keys, create_api_key)).routes(routes!(revoke_api_key))
}

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct ApiKeyBody {
    #[schema(inline)]
    object: ApiKeyObject,
    id: ApiKeyId,
    /// The organization whose key it is; null for a key of the deployment.
    organization_id: Option<OrganizationId>,
    name: String,
    scopes: Vec<Scope>,
    /// The last four characters of the secret, to tell keys apart.
    suffix: String,
    created_at: Timestamp,
    /// To the minute.
    last_used_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
}

/// An API key that was just made.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyWithSecret)]
struct NewApiKeyBody {
    #[serde(flatten)]
    key: ApiKeyBody,
    /// The key itself. It is shown this once; only a hash of it is kept.
    #[schema(pattern = "^bh_sk_[0-9a-hjkmnp-tv-z]{85}$")]
    secret: String,
}

/// What a new API key is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateApiKey {
    /// What it is for. No control characters.
    #[schema(min_length = 1, max_length = 80, pattern = r"\S", example = "Billing service")]
    name: String,
    /// What it may do. `*` is everything; an organization's key cannot have `applications:read` and
    /// `applications:write`.
    #[schema(min_items = 1, max_items = 20, value_type = Vec<RequestedScope>)]
    scopes: Vec<String>,
    /// When it stops working; never if null. A time in the future.
    #[serde(default)]
    expires_at: Option<Timestamp>,
}

/// A scope, or `*` for all.
struct RequestedScope;

impl utoipa::PartialSchema for RequestedScope {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        one_of(Scope::ALL.iter().map(|scope| scope.as_str()).chain(["*"]))
    }
}

impl ToSchema for RequestedScope {}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct KeyPath {
    /// The key's id.
    key: String,
}

impl KeyPath {
    fn id(&self) -> Result<ApiKeyId> {
        self.key.parse().map_err(|_| Error::new(&codes::API_KEY_NOT_FOUND))
    }
}

impl ApiKeyBody {
    fn new(key: ApiKey, organization_id: Option<OrganizationId>) -> Self {
        Self {
            object: ApiKeyObject,
            id: key.id,
            organization_id,
            name: key.name,
            scopes: key.scopes,
            suffix: key.suffix,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
        }
    }
}

impl From<CreateApiKey> for NewApiKey {
    fn from(body: CreateApiKey) -> Self {
        Self { name: body.name, scopes: body.scopes, expires_at: body.expires_at }
    }
}

fn created(key: ApiKey, secret: &Credential) -> Response {
    let organization = secret.organization();
    reply::json(201, &NewApiKeyBody { key: ApiKeyBody::new(key, organization), secret: secret.expose().to_owned() })
}

/// List an organization's API keys
///
/// Revoked and expired keys are in the list too.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/api_keys", tag = "API keys",
    security(("api_key" = ["keys:read"])),
    params(Paging),
    responses((status = 200, description = "A page of keys", body = List<ApiKeyBody>)),
)]
async fn list_organization_api_keys(
    tenant: Tenant,
    _caller: Allowed<scope::KeysRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<ApiKeyId>().is_ok())?;
    let keys = tenant.read(|db| api_key::list(db, &page)).await?;
    Ok(reply::json(200, &List::from(keys.map(|key| ApiKeyBody::new(key, Some(tenant.id()))))))
}

/// Create an API key of an organization
///
/// The key opens this organization alone. You can give it only scopes that you have yourself.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/api_keys", tag = "API keys",
    security(("api_key" = ["keys:write"])),
    responses((status = 201, description = "The key with its secret", body = NewApiKeyBody)),
)]
async fn create_organization_api_key(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::KeysWrite>,
    info: RequestInfo,
    Json(body): Json<CreateApiKey>,
) -> Answer {
    let by = by_caller(&info, &caller);
    let (key, secret) = tenant
        .write(|db| {
            organization::require_bytes(db, &state.quotas)?;
            api_key::create(db, Some(tenant.id()), body.into(), &caller.scopes, &by)
        })
        .await?;
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let act = Act::about("api_key.created", tenant.id()).on(Target::new("api_key", key.id)).with("scopes", scopes);
    state.operator_log.note(&caller, &info, act).await;
    Ok(created(key, &secret))
}

/// Revoke an API key of an organization
///
/// It stops working at once. Revoking it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/api_keys/{key}", tag = "API keys",
    security(("api_key" = ["keys:write"])),
    params(KeyPath),
    responses((status = 204, description = "The key is revoked")),
)]
async fn revoke_organization_api_key(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::KeysWrite>,
    info: RequestInfo,
    Path(path): Path<KeyPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    tenant.write_beyond(|db| api_key::revoke(db, id, &by)).await?;
    let act = Act::about("api_key.revoked", tenant.id()).on(Target::new("api_key", id));
    state.operator_log.note(&caller, &info, act).await;
    Ok(reply::no_content())
}

/// List the deployment's API keys
///
/// Operators only. Revoked and expired keys are in the list too.
#[utoipa::path(
    get, path = "/v1/api_keys", tag = "API keys",
    security(("api_key" = ["keys:read"])),
    params(Paging),
    responses((status = 200, description = "A page of keys", body = List<ApiKeyBody>)),
)]
async fn list_api_keys(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::KeysRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<ApiKeyId>().is_ok())?;
    let keys = state.catalog.read(|db| api_key::list(db, &page)).await?;
    Ok(reply::json(200, &List::from(keys.map(|key| ApiKeyBody::new(key, None)))))
}

/// Create an API key of the deployment
///
/// Operators only. The key opens every organization, as far as its scopes go. You can give it
/// only scopes that you have yourself.
#[utoipa::path(
    post, path = "/v1/api_keys", tag = "API keys",
    security(("api_key" = ["keys:write"])),
    responses((status = 201, description = "The key with its secret", body = NewApiKeyBody)),
)]
async fn create_api_key(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Json(body): Json<CreateApiKey>,
) -> Answer {
    let by = by_operator(&info, &caller);
    let (key, secret) = state.catalog.write(|db| api_key::create(db, None, body.into(), &caller.scopes, &by)).await?;
    Ok(created(key, &secret))
}

/// Revoke an API key of the deployment
///
/// Operators only. It stops working at once. Revoking it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/api_keys/{key}", tag = "API keys",
    security(("api_key" = ["keys:write"])),
    params(KeyPath),
    responses((status = 204, description = "The key is revoked")),
)]
async fn revoke_api_key(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Path(path): Path<KeyPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_operator(&info, &caller));
    state.catalog.write(|db| api_key::revoke(db, id, &by)).await?;
    Ok(reply::no_content())
}
