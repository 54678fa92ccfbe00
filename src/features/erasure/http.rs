//! The operations on erasures.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{GRACE, Head, LONGEST, Progress, Step, Wanted, cancel, list, member, preview, progress, require, schedule};
use crate::base::time::length;
use crate::base::{ApiKeyId, Error, MemberId, OrganizationId, Page, Result, Slug, Timestamp, codes};
use crate::catalog::Erasure;
use crate::features::audit::http::by_caller;
use crate::features::audit::{Act, ERASED, Target};
use crate::features::{DeploymentState, TenantState};
use crate::keyring::WrappedKey;
use crate::tenants::Tenant;
use crate::web::access::{Allowed, Identity, Operator, scope};
use crate::web::extract::Paging;
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Caller, Json, List, MemberPath, OrganizationPath, Path, Query, RequestInfo, reply};

object!(pub ErasureObject = "erasure");
object!(pub PreviewObject = "erasure_preview");
object!(pub MemberErasureObject = "member_erasure");

/// Operations that the catalog takes part in.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(put_erasure, get_organization_erasure, delete_erasure))
        .routes(routes!(preview_erasure))
        .routes(routes!(list_erasures))
        .routes(routes!(get_erasure))
}

/// Operations on one organization alone.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new().routes(routes!(erase_member))
}

/// An organization that is to be erased, or was.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Erasure)]
struct ErasureBody {
    #[schema(inline)]
    object: ErasureObject,
    organization_id: OrganizationId,
    /// Its slug, which nobody else can have.
    slug: Slug,
    /// `scheduled`, `erasing`, `erased` or `cancelled`.
    state: &'static str,
    requested_at: Timestamp,
    /// The operator's key; null: by somebody with access to the machine.
    requested_by: Option<ApiKeyId>,
    due_at: Timestamp,
    erased_at: Option<Timestamp>,
    /// While it is `erasing`, what is being done or done next: `examine`, `destroy_key`, `remove_files`, `remove_backup`
    /// or `certify`, in this order; null otherwise.
    next_step: Option<&'static str>,
    /// The code of why that has not succeeded; it is tried again every minute.
    failure: Option<&'static str>,
    failure_detail: Option<String>,
    /// A compact JWS (RFC 7515) that says what was destroyed and what may remain; null until it is erased.
    certificate: Option<String>,
    /// The public key (RFC 7517) that verifies it, for when the deployment's JWKS has moved on.
    #[schema(value_type = Option<Object>)]
    certificate_key: Option<Value>,
}

impl ErasureBody {
    async fn of(state: &DeploymentState, erasure: Erasure) -> Result<Self> {
        let Progress { step, failure } = progress(state, &erasure).await?;
        Ok(Self {
            object: ErasureObject,
            organization_id: erasure.organization_id,
            slug: erasure.slug,
            state: erasure.stage.as_str(),
            requested_at: erasure.requested_at,
            requested_by: erasure.requested_by,
            due_at: erasure.due_at,
            erased_at: erasure.erased_at,
            next_step: step.map(Step::as_str),
            failure: failure.as_ref().map(|error| error.code().name),
            failure_detail: failure.map(|error| error.public_detail().to_owned()),
            certificate: erasure.certificate,
            certificate_key: erasure.certificate_key.and_then(|text| serde_json::from_str(&text).ok()),
        })
    }
}

/// When to erase, and why.
#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutErasure {
    /// For the organization's own log, with which it is erased; up to 500 characters.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: String,
    /// How many days it can still be cancelled, from the first request on; 7 if nothing is said.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 90)]
    after_days: Option<u16>,
    /// Now; it cannot be cancelled then.
    #[serde(default)]
    immediately: bool,
}

impl PutErasure {
    fn check(self, caller: &Caller) -> Result<Wanted> {
        let invalid =
            |field: &'static str, code, text: String| Error::new(&codes::VALIDATION_FAILED).field(field, code, text);
        if self.reason.chars().count() > 500 {
            return Err(invalid("reason", "too_long", "Use at most 500 characters.".to_owned()));
        }
        if self.immediately && self.after_days.is_some() {
            let text = "Give either a number of days or immediately.";
            return Err(invalid("after_days", "invalid", text.to_owned()));
        }
        let days = if self.immediately { 0 } else { self.after_days.unwrap_or(GRACE) };
        if days > LONGEST {
            return Err(invalid("after_days", "out_of_range", format!("Use 0 to {LONGEST}.")));
        }
        let requested_by = match &caller.identity {
            Identity::OperatorKey { id, .. } => Some(*id),
            Identity::LocalOperator | Identity::OrganizationKey { .. } => None,
        };
        Ok(Wanted { after: length::days(days.into()), reason: self.reason, requested_by })
    }
}

/// Erase an organization
///
/// Suspends it now, and erases it for good when the days are over: its data key, its file, its replica, its entries
/// in the catalog. Its id and its names are never used again. Sent again, it changes the day, counted from the
/// first request. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/erasure", tag = "Erasures",
    security(("api_key" = ["organizations:write"])),
    responses((status = 202, description = "It is to be erased", body = ErasureBody)),
)]
async fn put_erasure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<PutErasure>,
) -> Answer {
    let wanted = body.check(&caller)?;
    let erasure = schedule(&state, path.find(&state.directory).await?, &wanted, &by_caller(&info, &caller)).await?;
    Ok(reply::json(202, &ErasureBody::of(&state, erasure).await?))
}

/// Get the erasure of an organization
///
/// While it can still be cancelled, and after it was. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/erasure", tag = "Erasures",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "The erasure", body = ErasureBody)),
)]
async fn get_organization_erasure(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let erasure = require(&state, path.find(&state.directory).await?).await?;
    Ok(reply::json(200, &ErasureBody::of(&state, erasure).await?))
}

/// Cancel an erasure
///
/// The organization is as it was before it was asked for, without the sessions of that time. Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/erasure", tag = "Erasures",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "It is cancelled", body = ErasureBody),
        (status = 409, description = "`erasure_not_scheduled`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn delete_erasure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let erasure = cancel(&state, path.find(&state.directory).await?, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &ErasureBody::of(&state, erasure).await?))
}

/// What an erasure would destroy.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = ErasurePreview)]
struct PreviewBody {
    #[schema(inline)]
    object: PreviewObject,
    organization_id: OrganizationId,
    data_key: Option<WrappedKey>,
    files: Vec<FileSize>,
    /// Rows of the catalog, by table.
    catalog_rows: BTreeMap<&'static str, i64>,
    /// Null where its file cannot be read.
    members: Option<i64>,
    /// The newest event of its audit log.
    audit_head: Option<Head>,
    /// Whether there is a backup with a replica of it.
    has_replica: bool,
}

/// A file of the organization.
#[derive(Serialize, utoipa::ToSchema)]
struct FileSize {
    name: String,
    bytes: u64,
}

/// Preview an erasure
///
/// What would be destroyed. It changes nothing. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/erasure/preview", tag = "Erasures",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "What there is", body = PreviewBody)),
)]
async fn preview_erasure(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let found = preview(&state, id).await?;
    Ok(reply::json(
        200,
        &PreviewBody {
            object: PreviewObject,
            organization_id: id,
            data_key: found.data_key,
            files: found.files.into_iter().map(|(name, bytes)| FileSize { name, bytes }).collect(),
            catalog_rows: found.catalog_rows,
            members: found.members,
            audit_head: found.audit_head,
            has_replica: found.has_replica,
        },
    ))
}

/// List erasures
///
/// Organizations that are to be erased, were, or were not after all; newest first. Only for operators.
#[utoipa::path(
    get, path = "/v1/erasures", tag = "Erasures",
    security(("api_key" = ["organizations:read"])),
    params(Paging),
    responses((status = 200, description = "A page of erasures", body = List<ErasureBody>)),
)]
async fn list_erasures(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let request = paging.check(|cursor| cursor.parse::<OrganizationId>().is_ok())?;
    let Page { data, before, after } = list(&state, &request).await?;
    let mut bodies = Vec::with_capacity(data.len());
    for erasure in data {
        bodies.push(ErasureBody::of(&state, erasure).await?);
    }
    Ok(reply::json(200, &List::from(Page { data: bodies, before, after })))
}

#[derive(Deserialize, utoipa::IntoParams)]
struct ErasurePath {
    /// The id of the organization.
    organization: String,
}

/// Get an erasure
///
/// Also when the organization is gone. Only for operators.
#[utoipa::path(
    get, path = "/v1/erasures/{organization}", tag = "Erasures",
    security(("api_key" = ["organizations:read"])),
    params(ErasurePath),
    responses((status = 200, description = "The erasure", body = ErasureBody)),
)]
async fn get_erasure(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<ErasurePath>,
) -> Answer {
    let id = path.organization.parse::<OrganizationId>().map_err(|_| Error::new(&codes::ERASURE_NOT_FOUND))?;
    Ok(reply::json(200, &ErasureBody::of(&state, require(&state, id).await?).await?))
}

/// What was taken out of an organization.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = MemberErasure)]
struct MemberErasureBody {
    #[schema(inline)]
    object: MemberErasureObject,
    member_id: MemberId,
    /// Events of the audit log that have lost their content; its chain is whole.
    audit_events: usize,
    /// Mails to the member that waited.
    mails: usize,
    erased_at: Timestamp,
    /// Whether neither the file nor its write-ahead log holds anything of the member any more. `false`: until the
    /// backup has read that log, or whoever reads in it now has ended. Asking again asks for it again.
    overwritten: bool,
}

/// Erase a member
///
/// Deletes the member with every session and grant, and takes what the audit log says of them out of it, also if the
/// member was deleted before. Again changes nothing. The last active owner cannot be erased.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/members/{member}/erasure", tag = "Erasures",
    security(("api_key" = ["members:write"])),
    params(MemberPath),
    responses(
        (status = 200, description = "The member is erased", body = MemberErasureBody),
        (status = 409, description = "`last_owner`: an organization needs an active owner",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn erase_member(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::MembersWrite>,
    info: RequestInfo,
    Path(path): Path<MemberPath>,
) -> Answer {
    let id = path.id()?;
    let erased = member::erase(&tenant, id, &by_caller(&info, &caller)).await?;
    if erased.is_new {
        let act = Act::about(ERASED, tenant.id()).on(Target::new("member", id));
        state.operator_log.note(&caller, &info, act).await;
    }
    Ok(reply::json(
        200,
        &MemberErasureBody {
            object: MemberErasureObject,
            member_id: id,
            audit_events: erased.events,
            mails: erased.mails,
            erased_at: erased.erased_at,
            overwritten: erased.overwritten,
        },
    ))
}
