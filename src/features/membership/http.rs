//! The operations on members.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Change;
use crate::base::{Email, MemberId, Secret};
use crate::features::audit::http::by_caller;
use crate::features::audit::{Act, Target};
use crate::features::member::http::MemberBody;
use crate::features::member::{Member, NewMember, Role};
use crate::features::{TenantState, member, membership, organization};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, scope};
use crate::web::extract::Paging;
use crate::web::failure::{Answer, Problem};
use crate::web::{Caller, Json, List, MemberPath, Path, Query, RequestInfo, nullable, reply};

pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new()
        .routes(routes!(list_members, create_member))
        .routes(routes!(get_member, update_member, delete_member))
        .routes(routes!(deactivate_member, reactivate_member))
        .routes(routes!(set_member_password))
        .routes(routes!(unlock_member))
        .routes(routes!(revoke_member_sessions))
}

/// A person to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateMember {
    /// Unique within the organization, without regard to case.
    email: Email,
    #[schema(min_length = 1, max_length = 120, pattern = r"\S", example = "Ada Lovelace")]
    #[serde(default)]
    name: Option<String>,
    #[schema(min_length = 1, max_length = 64, pattern = r"\S")]
    #[serde(default)]
    username: Option<String>,
    #[schema(min_length = 1, max_length = 32, pattern = r"\S")]
    #[serde(default)]
    phone: Option<String>,
    #[schema(min_length = 1, max_length = 120, pattern = r"\S")]
    #[serde(default)]
    title: Option<String>,
    #[serde(default = "plain_member")]
    #[schema(min_items = 1, max_items = 10, default = json!(["member"]))]
    roles: Vec<Role>,
    /// With a password the member is active at once; without one pending, until a password is set by way
    /// of the mailbox. It has to be hard to guess.
    #[schema(value_type = Option<String>, format = Password, min_length = 8, max_length = 128)]
    #[serde(default)]
    password: Option<Secret>,
}

fn plain_member() -> Vec<Role> {
    vec![Role::Member]
}

/// What is to change; what is absent stays, null clears.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UpdateMember {
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false)]
    email: Option<Email>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 120, pattern = r"\S")]
    name: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 64, pattern = r"\S")]
    username: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 32, pattern = r"\S")]
    phone: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::clearable")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 120, pattern = r"\S")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "nullable::kept")]
    #[schema(nullable = false, min_items = 1, max_items = 10)]
    roles: Option<Vec<Role>>,
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SetPassword {
    /// It has to be hard to guess.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
}

fn answer(status: u16, tenant: &Tenant, member: &Member) -> Response {
    reply::json(status, &MemberBody::new(tenant.id(), member, tenant.clock().now()))
}

async fn note(
    state: &TenantState,
    caller: &Caller,
    info: &RequestInfo,
    tenant: &Tenant,
    act: &'static str,
    id: MemberId,
) {
    state.operator_log.note(caller, info, Act::about(act, tenant.id()).on(Target::new("member", id))).await;
}

/// List members
#[utoipa::path(
    get, path = "/v1/organizations/{org}/members", tag = "Members",
    security(("api_key" = ["members:read"])),
    params(Paging),
    responses((status = 200, description = "A page of members", body = List<MemberBody>)),
)]
async fn list_members(tenant: Tenant, _caller: Allowed<scope::MembersRead>, Query(paging): Query<Paging>) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<MemberId>().is_ok())?;
    let members = tenant.read(|db| member::list(db, &page)).await?;
    let (organization, now) = (tenant.id(), tenant.clock().now());
    Ok(reply::json(200, &List::from(members.map(|member| MemberBody::new(organization, &member, now)))))
}

/// Create a member
///
/// With a password the member is active at once. Without one the member is pending, and sets a password
/// on the organization's recovery page, which proves the mailbox.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/members", tag = "Members",
    security(("api_key" = ["members:write"])),
    responses(
        (status = 201, description = "The member", body = MemberBody),
        (status = 409, description = "`email_taken`: another member has this address, or see `Idempotency-Key`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Json(body): Json<CreateMember>,
) -> Answer {
    let password_hash = match body.password {
        Some(password) => {
            let organization = organization::current(&tenant).await?;
            let name = body.name.as_deref().unwrap_or_default();
            membership::check_password(&password, &[body.email.as_str(), name, &organization.name])?;
            Some(tenant.hash(&state.hasher, password).await?)
        }
        None => None,
    };
    let new = NewMember {
        email: body.email,
        name: body.name,
        username: body.username,
        phone: body.phone,
        title: body.title,
        roles: body.roles,
        password_hash,
        email_verified: false,
    };
    let by = by_caller(&info, &caller);
    let member = tenant
        .write(|db| {
            membership::require_room(db, &state.quotas)?;
            membership::create(db, new, &by)
        })
        .await?;
    note(&state, &caller, &info, &tenant, "member.created", member.id).await;
    Ok(answer(201, &tenant, &member))
}

/// Get a member
#[utoipa::path(
    get, path = "/v1/organizations/{org}/members/{member}", tag = "Members",
    security(("api_key" = ["members:read"])),
    params(MemberPath),
    responses((status = 200, description = "The member", body = MemberBody)),
)]
async fn get_member(tenant: Tenant, _caller: Allowed<scope::MembersRead>, Path(path): Path<MemberPath>) -> Answer {
    let id = path.id()?;
    let member = tenant.read(|db| member::require(db, id)).await?;
    Ok(answer(200, &tenant, &member))
}

/// Update a member
///
/// Changes what is given and leaves the rest; null clears a field. The last active owner cannot lose the
/// role `owner`.
#[utoipa::path(
    patch, path = "/v1/organizations/{org}/members/{member}", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses(
        (status = 200, description = "The member", body = MemberBody),
        (status = 409, description = "`email_taken` or `last_owner`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn update_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
    Json(body): Json<UpdateMember>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    let change = Change {
        email: body.email,
        name: body.name,
        username: body.username,
        phone: body.phone,
        title: body.title,
        roles: body.roles,
    };
    let member = tenant.write(|db| membership::update(db, id, change, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.updated", id).await;
    Ok(answer(200, &tenant, &member))
}

/// Delete a member
///
/// For good, with every session and grant. The last active owner cannot be deleted.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/members/{member}", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses(
        (status = 204, description = "The member is gone"),
        (status = 409, description = "`last_owner`: an organization needs an active owner",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    tenant.write_beyond(|db| membership::delete(db, id, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.deleted", id).await;
    Ok(reply::no_content())
}

/// Deactivate a member
///
/// Takes the access away and ends every session and grant at once; the roles are kept. Doing it again
/// changes nothing.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/members/{member}/deactivation", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses(
        (status = 200, description = "The member, inactive", body = MemberBody),
        (status = 409, description = "`member_pending` or `last_owner`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn deactivate_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    let member = tenant.write_beyond(|db| membership::deactivate(db, id, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.deactivated", id).await;
    Ok(answer(200, &tenant, &member))
}

/// Reactivate a member
///
/// Gives the access back, with the roles of before. Doing it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/members/{member}/deactivation", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses(
        (status = 200, description = "The member, active", body = MemberBody),
        (status = 409, description = "`member_pending`: a pending member has no access to give back",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn reactivate_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    let member = tenant.write(|db| membership::reactivate(db, id, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.reactivated", id).await;
    Ok(answer(200, &tenant, &member))
}

/// Set a member's password
///
/// Ends every session of the member and lifts a lock; a pending member becomes active.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/members/{member}/password", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses((status = 204, description = "The password is set")),
)]
async fn set_member_password(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
    Json(body): Json<SetPassword>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    let member = tenant.read(|db| member::require(db, id)).await?;
    let organization = organization::current(&tenant).await?;
    let name = member.name.as_deref().unwrap_or_default();
    membership::check_password(&body.password, &[member.email.as_str(), name, &organization.name])?;
    let password_hash = tenant.hash(&state.hasher, body.password).await?;
    tenant.write(|db| membership::set_password(db, id, &password_hash, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.password_set", id).await;
    Ok(reply::no_content())
}

/// Unlock a member
///
/// Lifts the lock after too many wrong passwords before its time. Without a lock it changes nothing.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/members/{member}/lock", tag = "Members",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses((status = 204, description = "There is no lock")),
)]
async fn unlock_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    tenant.write_beyond(|db| membership::unlock(db, id, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.unlocked", id).await;
    Ok(reply::no_content())
}

/// Revoke every session of a member
///
/// What applications got through these sessions ends with them.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/members/{member}/sessions", tag = "Sessions",
    security(("api_key" = ["sessions:write"])),
    params(MemberPath),
    responses((status = 204, description = "The member has no active session")),
)]
async fn revoke_member_sessions(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::SessionsWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    tenant.write_beyond(|db| membership::end_sessions(db, id, &by)).await?;
    note(&state, &caller, &info, &tenant, "member.sessions_revoked", id).await;
    Ok(reply::no_content())
}
