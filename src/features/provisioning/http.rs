//! The API of organizations.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::check::{CatalogCheck, check};
use super::{
    Change, Encryption, NewOrganization, Owner, add_host, change, create, fields, remove_host, resume, suspend,
};
use crate::base::{Email, Error, ExternalId, HostName, OrganizationId, Replication, Secret, Slug, Timestamp, codes};
use crate::catalog::{Entry, organizations};
use crate::fairness::Plan;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::features::organization::{self, Organization, Policy, Quotas};
use crate::features::{DeploymentState, TenantState};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, Operator, scope};
use crate::web::extract::Paging;
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, List, Path, Query, RequestInfo, nullable, reply};

/// Operations that the catalog takes part in.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(create_organization, list_organizations))
        .routes(routes!(update_organization))
        .routes(routes!(suspend_organization, resume_organization))
        .routes(routes!(put_host, delete_host))
        .routes(routes!(check_catalog))
}

/// Operations on one organization alone.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new().routes(routes!(get_organization))
}

object!(pub OrganizationObject = "organization");
object!(pub EntryObject = "organization_entry");

/// An organization.
#[derive(Serialize, utoipa::ToSchema)]
pub struct OrganizationBody {
    object: OrganizationObject,
    id: OrganizationId,
    name: String,
    slug: Slug,
    external_id: Option<String>,
    /// `active` or `suspended`.
    state: &'static str,
    metadata: BTreeMap<String, String>,
    /// The colour of buttons on its pages, `#rrggbb`.
    accent: Option<String>,
    policy: Policy,
    quotas: Quotas,
    limits: Plan,
    /// What a write has reached when it is acknowledged; null follows the deployment.
    replication: Option<Replication>,
    encryption: Encryption,
    /// Where its members sign in; also its issuer.
    url: String,
    issuer: String,
    /// Custom hosts.
    hosts: Vec<String>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What the catalog knows of an organization: enough to find it, and no more. Its name is in its file.
#[derive(Serialize, utoipa::ToSchema)]
pub struct EntryBody {
    object: EntryObject,
    id: OrganizationId,
    slug: Slug,
    external_id: Option<String>,
    /// `active` or `suspended`.
    state: &'static str,
    url: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateBody {
    /// 1 to 120 characters.
    #[schema(min_length = 1, max_length = 120, pattern = r"\S", example = "Acme")]
    name: String,
    /// 2 to 63 lower-case letters, digits and inner hyphens; proposed from the name when left out.
    #[schema(value_type = Option<Slug>)]
    slug: Option<String>,
    /// Your own id of it: up to 128 visible ASCII characters, accepted wherever ours is.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[!$&'()*+,\-.0-9:;=@A-Z\[\]^_`a-z{|}~]+$")]
    external_id: Option<String>,
    /// Strings of your own.
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    /// `#rrggbb`
    #[schema(pattern = "^#[0-9A-Fa-f]{6}$")]
    accent: Option<String>,
    policy: Option<Policy>,
    /// The first member, with role `owner`.
    owner: Option<OwnerBody>,
    /// `file`: the whole file is ciphertext by a key of its own. It cannot be changed later.
    #[serde(default)]
    encryption: Encryption,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnerBody {
    email: Email,
    name: Option<String>,
    /// With a password the owner is active at once; without one, the owner sets it with a mailed code.
    #[schema(value_type = Option<String>, format = Password, min_length = 8, max_length = 128)]
    password: Option<Secret>,
}

/// What is left out stays; `null` clears `external_id`, `accent` and `replication`.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false, min_length = 1, max_length = 120, pattern = r"\S")]
    name: Option<String>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(value_type = Slug, nullable = false)]
    slug: Option<String>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 128, pattern = r"^[!$&'()*+,\-.0-9:;=@A-Z\[\]^_`a-z{|}~]+$")]
    external_id: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, pattern = "^#[0-9A-Fa-f]{6}$")]
    accent: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::kept_object")]
    #[schema(nullable = false)]
    policy: Option<Policy>,
    /// Replaces the limits as a whole; what is left out follows the deployment. Only operators may set it.
    #[serde(default, deserialize_with = "nullable::kept_object")]
    #[schema(nullable = false)]
    quotas: Option<Quotas>,
    /// What it may take of what all organizations share. Replaces the limits as a whole; what is left out follows the
    /// deployment. Only operators may set it.
    #[serde(default, deserialize_with = "nullable::kept_object")]
    #[schema(nullable = false)]
    limits: Option<Plan>,
    /// What a write has reached when it is acknowledged: this machine's disk, or the store of the backup as well. Only
    /// operators may set it; `null` follows the deployment.
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<Replication>)]
    replication: Option<Option<Replication>>,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuspendBody {
    /// For the audit log; up to 500 characters.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: String,
}

#[derive(Deserialize, utoipa::IntoParams)]
struct HostPath {
    /// A host name, such as `login.acme.com`.
    host: String,
}

/// Create an organization
///
/// Makes the organization with a file of its own, and its first owner if one is named. Only for operators.
#[utoipa::path(
    post, path = "/v1/organizations", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 201, description = "The organization", body = OrganizationBody),
        (status = 409, description = "`slug_taken`, `external_id_taken`, `file_encryption_unavailable`, or see `Idempotency-Key`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_organization(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<CreateBody>,
) -> Answer {
    let owner = match body.owner {
        Some(owner) => Some(Owner { email: owner.email, name: owner.name, password: owner.password, verified: false }),
        None => None,
    };
    let new = NewOrganization {
        name: body.name,
        slug: body.slug.as_deref().map(slug_of).transpose()?,
        external_id: body.external_id.as_deref().map(external_id_of).transpose()?,
        metadata: body.metadata,
        accent: body.accent,
        policy: body.policy.unwrap_or_default(),
        owner,
        founder: None,
        encryption: body.encryption,
    };
    let (organization, _) = create(&state, new, &by_caller(&info, &caller)).await?;
    Ok(reply::json(201, &body_of(&state.tenant, &organization, body.encryption)))
}

/// List organizations
///
/// What the catalog knows of each, newest first. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations", tag = "Organizations",
    security(("api_key" = ["organizations:read"])),
    params(Paging),
    responses(
        (status = 200, description = "A page of organizations", body = List<EntryBody>),
    ),
)]
async fn list_organizations(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let request = paging.check(|cursor| cursor.parse::<OrganizationId>().is_ok())?;
    let page = state.catalog.read(|db| organizations::list(db, &request)).await?;
    Ok(reply::json(200, &List::from(page.map(|entry| entry_of(&state.tenant, entry)))))
}

/// Get an organization
#[utoipa::path(
    get, path = "/v1/organizations/{org}", tag = "Organizations",
    security(("api_key" = ["organizations:read"])),
    responses(
        (status = 200, description = "The organization", body = OrganizationBody),
    ),
)]
async fn get_organization(
    State(state): State<TenantState>,
    tenant: Tenant,
    _caller: Allowed<scope::OrganizationsRead>,
) -> Answer {
    Ok(reply::json(200, &body_of(&state, &*organization::current(&tenant).await?, Encryption::of(&tenant))))
}

/// Update an organization
///
/// Changes what is given. A new slug changes the organization's address and issuer. Only
/// operators may change slug, external id, quotas, limits and replication.
#[utoipa::path(
    patch, path = "/v1/organizations/{org}", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "The organization", body = OrganizationBody),
        (status = 409, description = "`slug_taken`, `external_id_taken`, or `backup_not_configured`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn update_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Allowed<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<UpdateBody>,
) -> Answer {
    let of_operators = [
        body.slug.is_some(),
        body.external_id.is_some(),
        body.quotas.is_some(),
        body.limits.is_some(),
        body.replication.is_some(),
    ];
    if !caller.is_operator() && of_operators.contains(&true) {
        return Err(Error::new(&codes::FORBIDDEN)
            .detail("Slug, external id, quotas, limits and replication need an operator's key.")
            .into());
    }
    let wanted = Change {
        name: body.name,
        slug: body.slug.as_deref().map(slug_of).transpose()?,
        external_id: body.external_id.map(|id| id.as_deref().map(external_id_of).transpose()).transpose()?,
        metadata: body.metadata,
        accent: body.accent,
        policy: body.policy,
        quotas: body.quotas,
        limits: body.limits,
        replication: body.replication,
    };
    let act = Act::about("organization.updated", tenant.id()).with("fields", fields(&wanted));
    let organization = change(&state, &tenant, wanted, &by_caller(&info, &caller)).await?;
    state.tenant.operator_log.note(&caller, &info, act).await;
    Ok(reply::json(200, &body_of(&state.tenant, &organization, Encryption::of(&tenant))))
}

/// Suspend an organization
///
/// Refuses every sign-in and ends every session, until it is resumed. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/suspension", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 204, description = "Suspended"),
    ),
)]
async fn suspend_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<SuspendBody>,
) -> Answer {
    if body.reason.chars().count() > 500 {
        return Err(invalid("reason", "Use at most 500 characters.").into());
    }
    suspend(&state, &tenant, &body.reason, &by_caller(&info, &caller)).await?;
    Ok(no_content())
}

/// Resume an organization
///
/// Its members can sign in again. Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/suspension", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 204, description = "Active"),
    ),
)]
async fn resume_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
) -> Answer {
    resume(&state, &tenant, &by_caller(&info, &caller)).await?;
    Ok(no_content())
}

/// Add a custom host
///
/// The organization answers under this host as well. The host must reach this server, and TLS for it is
/// the proxy's. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/hosts/{host}", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    params(HostPath),
    responses(
        (status = 204, description = "The host leads to the organization"),
        (status = 422, description = "The name is no host that an organization can have",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
        (status = 409, description = "`host_taken`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_host(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<HostPath>,
) -> Answer {
    add_host(&state, &tenant, &host_of(&path.host)?, &by_caller(&info, &caller)).await?;
    Ok(no_content())
}

/// Remove a custom host
///
/// Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/hosts/{host}", tag = "Organizations",
    security(("api_key" = ["organizations:write"])),
    params(HostPath),
    responses(
        (status = 204, description = "The host leads nowhere"),
        (status = 422, description = "The name is no host that an organization can have",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete_host(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<HostPath>,
) -> Answer {
    remove_host(&state, &tenant, &host_of(&path.host)?, &by_caller(&info, &caller)).await?;
    Ok(no_content())
}

/// Check the catalog
///
/// Compares the catalog with the keyring and every organization's file, and checks each file. Opens all
/// of them, so it takes its time on a large deployment. Only for operators.
#[utoipa::path(
    get, path = "/v1/catalog/check", tag = "Deployment",
    security(("api_key" = ["organizations:read"])),
    responses(
        (status = 200, description = "What was found", body = CatalogCheck),
    ),
)]
async fn check_catalog(State(state): State<DeploymentState>, _caller: Operator<scope::OrganizationsRead>) -> Answer {
    Ok(reply::json(200, &check(&state).await?))
}

fn body_of(state: &TenantState, organization: &Organization, encryption: Encryption) -> OrganizationBody {
    let url = state.address.of_organization(&organization.slug);
    OrganizationBody {
        object: OrganizationObject,
        id: organization.id,
        name: organization.name.clone(),
        slug: organization.slug.clone(),
        external_id: organization.external_id.clone(),
        state: if organization.suspended { "suspended" } else { "active" },
        metadata: organization.metadata.clone(),
        accent: organization.accent.clone(),
        policy: organization.policy.clone(),
        quotas: organization.quotas,
        limits: organization.limits,
        replication: organization.replication,
        encryption,
        issuer: url.clone(),
        url,
        hosts: organization.hosts.clone(),
        created_at: organization.created_at,
        updated_at: organization.updated_at,
    }
}

fn entry_of(state: &TenantState, entry: Entry) -> EntryBody {
    EntryBody {
        object: EntryObject,
        id: entry.id,
        url: state.address.of_organization(&entry.slug),
        slug: entry.slug,
        external_id: entry.external_id,
        state: entry.state.as_str(),
        created_at: entry.created_at,
        updated_at: entry.updated_at,
    }
}

fn slug_of(text: &str) -> Result<Slug, Error> {
    Slug::parse(text).ok_or_else(|| {
        invalid("slug", "Use 2 to 63 lower-case letters, digits and inner hyphens; a few names are reserved.")
    })
}

fn external_id_of(text: &str) -> Result<ExternalId, Error> {
    ExternalId::parse(text)
        .ok_or_else(|| invalid("external_id", "Use 1 to 128 visible ASCII characters without / ? # % \" < > \\."))
}

fn host_of(text: &str) -> Result<HostName, Error> {
    let host = HostName::parse(text).filter(|host| host.as_str().contains('.') && !text.contains(':'));
    host.ok_or_else(|| invalid("host", "Use a full host name such as login.acme.com."))
}

fn invalid(field: &'static str, message: &'static str) -> Error {
    Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", message)
}

fn no_content() -> Response {
    axum::response::IntoResponse::into_response(axum::http::StatusCode::NO_CONTENT)
}
