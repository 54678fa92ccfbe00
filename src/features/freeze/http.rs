//! The operations on freezes. For operators alone.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::io::ReaderStream;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Released, compare, copy, find, freeze, release};
use crate::base::{ApiKeyId, Error, OrganizationId, Result, Timestamp};
use crate::catalog::{Freeze, FreezeStage};
use crate::features::DeploymentState;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::features::erasure::Head;
use crate::features::import::receive;
use crate::tenants::Shut;
use crate::web::access::{Identity, Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Caller, Json, OrganizationPath, Path, RequestInfo, reason, reply};

object!(pub FreezeObject = "freeze");
object!(pub ReleaseObject = "freeze_release");
object!(pub VerificationObject = "freeze_verification");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(put_freeze, get_freeze, delete_freeze))
        .routes(routes!(verify_freeze))
        .routes(routes!(get_frozen_file))
}

/// Whether an organization is frozen, and the certificate of it.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Freeze)]
struct FreezeBody {
    #[schema(inline)]
    object: FreezeObject,
    organization_id: OrganizationId,
    frozen: bool,
    /// `freezing` until it is certified, then `frozen`; `releasing` until that has ended. Null if it is not frozen.
    state: Option<&'static str>,
    reason: Option<String>,
    since: Option<Timestamp>,
    /// The operator's key; null: by somebody with access to the machine.
    requested_by: Option<ApiKeyId>,
    /// A compact JWS (RFC 7515) that says what the file is, to the bit.
    certificate: Option<String>,
    /// The public key (RFC 7517) that verifies it, for when the deployment's JWKS has moved on.
    #[schema(value_type = Option<Object>)]
    certificate_key: Option<Value>,
}

impl FreezeBody {
    fn of(id: OrganizationId, freeze: Option<Freeze>, is_shut: bool) -> Self {
        let Some(freeze) = freeze else {
            return Self {
                object: FreezeObject,
                organization_id: id,
                frozen: is_shut,
                state: is_shut.then_some(FreezeStage::Freezing.as_str()),
                reason: None,
                since: None,
                requested_by: None,
                certificate: None,
                certificate_key: None,
            };
        };
        Self {
            object: FreezeObject,
            organization_id: id,
            frozen: true,
            state: Some(freeze.stage.as_str()),
            reason: Some(freeze.reason),
            since: Some(freeze.since),
            requested_by: freeze.requested_by,
            certificate: freeze.certificate,
            certificate_key: freeze.certificate_key.and_then(|text| serde_json::from_str(&text).ok()),
        }
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutFreeze {
    /// For operators and the organization's own log, up to 500 characters; name no people in it.
    #[schema(min_length = 1, max_length = 500, pattern = r"\S")]
    reason: String,
}

fn requested_by(caller: &Caller) -> Option<ApiKeyId> {
    match &caller.identity {
        Identity::OperatorKey { id, .. } => Some(*id),
        Identity::LocalOperator | Identity::OrganizationKey { .. } => None,
    }
}

/// Freeze an organization
///
/// From now on nothing in its file changes: it is read, sessions and access tokens are good as before, and every
/// change is answered 409 `organization_frozen`, signing in included. The event of this is the last one of its audit
/// log. The certificate says what the file is, to the bit. The same again changes nothing. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/freeze", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "It is frozen; an earlier reason stays", body = FreezeBody),
        (status = 409, description = "`erasure_scheduled`, `relocation_running` or `transfer_conflict`; its file is \
         missing or damaged: `freeze_file_damaged`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_freeze(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<PutFreeze>,
) -> Answer {
    let reason = reason(&body.reason)?;
    let id = path.find(&state.directory).await?;
    let frozen = freeze(&state, id, reason, requested_by(&caller), &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &FreezeBody::of(id, Some(frozen), true)))
}

/// Get the freeze of an organization
///
/// With its certificate. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/freeze", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "Whether it is frozen", body = FreezeBody)),
)]
async fn get_freeze(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let is_shut = state.tenants.why_shut(id) == Some(Shut::Frozen);
    Ok(reply::json(200, &FreezeBody::of(id, find(&state, id).await?, is_shut)))
}

/// A release of which the organization's own log does not tell.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FreezeRelease)]
struct ReleaseBody {
    #[schema(inline)]
    object: ReleaseObject,
    organization_id: OrganizationId,
    file_damaged: bool,
}

/// Release a frozen organization
///
/// Its file changes again. One that is damaged is released as well, without an event in its own log, so that any point
/// can take its place (`POST /v1/organizations/{org}/recovery`). Whatever else fails leaves it frozen. Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/freeze", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "It is frozen no more, and its file is damaged", body = ReleaseBody),
        (status = 204, description = "It takes changes again"),
    ),
)]
async fn delete_freeze(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    Ok(match release(&state, id, &by_caller(&info, &caller)).await? {
        Released::Told => StatusCode::NO_CONTENT.into_response(),
        Released::Damaged => {
            reply::json(200, &ReleaseBody { object: ReleaseObject, organization_id: id, file_damaged: true })
        }
    })
}

/// What a frozen file is now.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = FreezeVerification)]
struct VerificationBody {
    #[schema(inline)]
    object: VerificationObject,
    organization_id: OrganizationId,
    /// Whether the file is the certified one, to the bit.
    identical: bool,
    /// Of the file as it is now, in hexadecimal.
    sha256: String,
    bytes: u64,
    audit_head: Head,
    certified_sha256: String,
    certified_bytes: u64,
    certified_at: Timestamp,
}

/// Verify a freeze
///
/// Reads the file again and compares it with its certificate. Whoever wants to read it waits meanwhile. Only for
/// operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/freeze/verification", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "What was found", body = VerificationBody)),
)]
async fn verify_freeze(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let compared = compare(&state, id).await?;
    let identical = compared.is_identical();
    Ok(reply::json(
        200,
        &VerificationBody {
            object: VerificationObject,
            organization_id: id,
            identical,
            sha256: compared.now.file.sha256,
            bytes: compared.now.file.bytes,
            audit_head: compared.now.head,
            certified_sha256: compared.certified.file.sha256,
            certified_bytes: compared.certified.file.bytes,
            certified_at: compared.certified.certified_at,
        },
    ))
}

/// Fetch a frozen file
///
/// The database itself, as the certificate describes it. Secrets in it are as they are stored: hashed, or sealed with
/// the organization's key. It is in the operators' log. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/freeze/file", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses((status = 200, description = "The file", content_type = "application/vnd.sqlite3")),
)]
async fn get_frozen_file(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    // A private folder that the next start clears if this process ends here.
    let place = receive(&state)?;
    let found = copy(&state, id, &place.archive()).await?;
    let act = Act::about("organization.frozen_file_fetched", id).with("sha256", found.sha256.as_str());
    state.tenant.operator_log.note(&caller, &info, act).await;
    let failed = |error: std::io::Error| Error::internal("a copy of a frozen file cannot be read").source(error);
    let file = tokio::fs::File::open(place.archive()).await.map_err(failed)?;
    // The open descriptor is enough from here on.
    drop(place);
    let mut response: Response =
        (StatusCode::OK, Body::from_stream(ReaderStream::with_capacity(file, 64 << 10))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(found.bytes));
    Ok(response)
}
