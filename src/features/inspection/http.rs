//! The operations that look at the past; for operators.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Prepared, beside, file_of, prepare, require_free, told};
use crate::backup::Source;
use crate::base::{Error, OrganizationId, Slug, Timestamp, codes};
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::features::backup::http::{configured, target_of};
use crate::tenants::Tenant;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, Query, RequestInfo, reply};

object!(pub CopyObject = "organization_copy");
object!(pub SnapshotObject = "snapshot");

/// Tell which transaction a snapshot is of, and when that was.
const TRANSACTION: HeaderName = HeaderName::from_static("bulkhead-transaction");
const AS_OF: HeaderName = HeaderName::from_static("bulkhead-as-of");
const PIECE: usize = 64 << 10;

/// What is in the past and in no copy of it, in words.
const LEFT_OUT: [&str; 5] = [
    "sessions and grants: nobody is signed in, and no token of then works",
    "passwords: members set one by “forgot password” once the copy is resumed",
    "API keys and signing keys: the copy has a signing key of its own",
    "mail that waited: nothing is sent",
    "hosts and the external id: they lead to the live organization",
];

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(copy_organization)).routes(routes!(get_snapshot))
}

/// Which past, and what it is to be called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CopyBody {
    /// The name in addresses of the copy; needed unless nothing is made.
    #[serde(default)]
    #[schema(value_type = Option<Slug>)]
    slug: Option<String>,
    /// The last state at or before this time; with neither this nor `txid`, the newest there is.
    #[serde(default)]
    at: Option<Timestamp>,
    /// The state right after this transaction of the backup, in 16 hexadecimal digits.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{16}$")]
    txid: Option<String>,
    /// Say what would be made, and make nothing.
    #[serde(default)]
    dry_run: bool,
}

/// An organization that was made of the past of another.
#[derive(Serialize, ToSchema)]
struct OrganizationCopy {
    #[schema(inline)]
    object: CopyObject,
    dry_run: bool,
    /// The copy; null if nothing was made.
    organization_id: Option<OrganizationId>,
    slug: Option<Slug>,
    name: String,
    /// Always `suspended`: nobody gets in before an operator resumes it.
    state: &'static str,
    restored_from: OrganizationId,
    txid: String,
    as_of: Timestamp,
    members: u64,
    audit_events: u64,
    /// Members of then who were erased since: they do not come back.
    erased_members: u64,
    /// What is not in it, in words.
    left_out: [&'static str; 5],
}

/// Which past.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Moment {
    /// The last state at or before this time; with neither this nor `txid`, the newest there is.
    at: Option<Timestamp>,
    /// The state right after this transaction of the backup.
    #[param(pattern = "^[0-9a-f]{16}$")]
    txid: Option<String>,
    /// Say what would be sent, as JSON, and send nothing of it.
    dry_run: Option<bool>,
}

/// What a snapshot would have in it.
#[derive(Serialize, ToSchema)]
struct SnapshotBody {
    #[schema(inline)]
    object: SnapshotObject,
    organization_id: OrganizationId,
    name: String,
    txid: String,
    as_of: Timestamp,
    members: u64,
    audit_events: u64,
    erased_members: u64,
    /// About so many: what is taken out makes it smaller.
    bytes: u64,
}

/// Copy a past state of an organization beside it
///
/// Makes an organization of its own of what the backup has of an earlier moment, for a look at it; the live one goes
/// on untouched. It is suspended until it is resumed. Nothing that opens something comes along: nobody is signed in,
/// no password and no key of then works, nothing is sent, and members who were erased since stay erased. Only for
/// operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/copies", tag = "Backups",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "What a dry run found", body = OrganizationCopy),
        (status = 201, description = "The copy", body = OrganizationCopy),
        (status = 404, description = "`backup_not_found`: the backup does not reach that point",
         body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`backup_not_configured`, `backup_time_unclear` or `slug_taken`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn copy_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<CopyBody>,
) -> Answer {
    let backups = configured(&state)?;
    let point = target_of(&state, body.at, body.txid.as_deref())?;
    let slug = body.slug.as_deref().map(|text| Slug::parse(text).ok_or_else(unusable_slug)).transpose()?;
    match &slug {
        Some(slug) => require_free(&state, slug).await?,
        None if body.dry_run => {}
        None => return Err(unusable_slug().into()),
    }
    let _place = state.inspections.place()?;
    backups.ship_now(Source::Organization(tenant.id())).await?;
    let by = by_caller(&info, &caller);
    let prepared = prepare(&state, backups, &tenant, point, &by).await?;
    let (id, name) = match &slug {
        Some(slug) if !body.dry_run => {
            let made = beside(&state, &tenant, &prepared, slug.clone(), &by).await?;
            (Some(made.id), made.name)
        }
        _ => (None, prepared.name.clone()),
    };
    let answer = OrganizationCopy {
        object: CopyObject,
        dry_run: body.dry_run,
        organization_id: id,
        slug,
        name,
        state: "suspended",
        restored_from: tenant.id(),
        txid: prepared.txid.to_string(),
        as_of: prepared.as_of,
        members: prepared.members,
        audit_events: prepared.audit_events,
        erased_members: prepared.erased_members,
        left_out: LEFT_OUT,
    };
    Ok(reply::json(if body.dry_run { 200 } else { 201 }, &answer))
}

/// Fetch a past state of an organization as a file
///
/// A SQLite database with the tables and views of an export (docs/EXPORT.md), as the organization was at an earlier
/// moment. What opens something is not in it, and neither are members who were erased since. The headers
/// `Bulkhead-Transaction` and `Bulkhead-As-Of` say which moment it is. Each fetch is in the organization's audit log.
/// Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/backup/snapshot", tag = "Backups",
    security(("api_key" = ["backups:read"])),
    params(Moment),
    responses(
        (status = 200, description = "The database, or what a dry run found", content(
            (SnapshotBody = "application/json"),
            (String = "application/vnd.sqlite3"),
        )),
        (status = 404, description = "`backup_not_found`: the backup does not reach that point",
         body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`backup_not_configured` or `backup_time_unclear`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn get_snapshot(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::BackupsRead>,
    info: RequestInfo,
    Query(moment): Query<Moment>,
) -> Answer {
    let backups = configured(&state)?;
    let point = target_of(&state, moment.at, moment.txid.as_deref())?;
    let place = state.inspections.place()?;
    backups.ship_now(Source::Organization(tenant.id())).await?;
    let by = by_caller(&info, &caller);
    let prepared = prepare(&state, backups, &tenant, point, &by).await?;
    if moment.dry_run == Some(true) {
        let body = SnapshotBody {
            object: SnapshotObject,
            organization_id: tenant.id(),
            name: prepared.name,
            txid: prepared.txid.to_string(),
            as_of: prepared.as_of,
            members: prepared.members,
            audit_events: prepared.audit_events,
            erased_members: prepared.erased_members,
            bytes: prepared.bytes,
        };
        return Ok(reply::json(200, &body));
    }
    let act = told("organization.snapshot_downloaded", tenant.id(), &prepared);
    state.tenant.operator_log.note(&caller, &info, act).await;
    stream(&tenant, prepared, &by, place).await
}

/// The file, piece by piece. It is gone with its last piece, and only then does it make room for another.
async fn stream(
    tenant: &Tenant,
    prepared: Prepared,
    by: &crate::features::audit::By,
    place: OwnedSemaphorePermit,
) -> Answer {
    let named = [(TRANSACTION, prepared.txid.to_string()), (AS_OF, prepared.as_of.to_string())];
    let (file, bytes) = file_of(tenant, prepared, by).await?;
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
    let pieces = pieces.map(move |piece| {
        let _held = &place;
        piece
    });
    let mut response: Response = (StatusCode::OK, Body::from_stream(pieces)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    for (name, value) in named {
        headers.extend(HeaderValue::from_str(&value).map(|value| (name, value)));
    }
    Ok(response)
}

fn unusable_slug() -> Error {
    let message = "Use 2 to 63 lower-case letters, digits and inner hyphens.";
    Error::new(&codes::VALIDATION_FAILED).field("slug", "invalid", message)
}
