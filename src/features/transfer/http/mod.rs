//! The operations on transfers: departures of organizations that are here, and arrivals (`arrivals.rs`) of those that
//! come. For operators alone.

mod arrivals;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::io::ReaderStream;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::departure::{self, Recipient};
use crate::base::{Error, OrganizationId, Result, Slug, Timestamp, TransferId, codes};
use crate::catalog::organizations;
use crate::catalog::transfers::{LogEnd, Transfer, TransferStage};
use crate::features::DeploymentState;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::features::export::format::AuditHead;
use crate::features::provisioning::Encryption;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, RequestInfo, reply};

object!(pub DepartureObject = "departure");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .merge(arrivals::deployment_api())
        .routes(routes!(put_departure, get_departure, delete_departure))
        .routes(routes!(make_departure_archive, get_departure_archive))
        .routes(routes!(complete_departure))
        .routes(routes!(return_departure))
        .routes(routes!(get_departure_by_id))
}

/// An organization that leaves for another deployment.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Departure)]
struct DepartureBody {
    #[schema(inline)]
    object: DepartureObject,
    /// The transfer; the same on both sides.
    id: TransferId,
    organization_id: OrganizationId,
    slug: Slug,
    external_id: Option<String>,
    /// Custom hosts; they are added anew where it goes.
    hosts: Vec<String>,
    /// What its file takes up here.
    bytes: Option<u64>,
    /// How its file is encrypted here.
    encryption: Encryption,
    /// `prepared`: nothing is different yet. `leaving`: it is read, and takes no writes; that can be called off.
    /// `gone`: it takes none any more. `cancelled`: it stayed, or came back.
    state: &'static str,
    /// The address of the other deployment.
    to: String,
    /// This deployment's address.
    from: String,
    /// The public key (RFC 7517) that the proof verifies with.
    #[schema(value_type = Object)]
    key: Value,
    /// Of the archive, in hexadecimal; null until there is one.
    archive_sha256: Option<String>,
    /// The end of its audit log in the archive; null until it has left, since what has arrived has to say it first.
    #[schema(inline)]
    audit: Option<AuditHead>,
    /// A compact JWS (RFC 7515) that says that it has left; null until it has.
    proof: Option<String>,
    created_at: Timestamp,
}

fn head_of(end: LogEnd) -> AuditHead {
    AuditHead { sequence: end.sequence, hash: end.hash }
}

async fn departure_of(state: &DeploymentState, transfer: Transfer) -> Result<DepartureBody> {
    let (id, has_left) = (transfer.organization_id, transfer.stage == TransferStage::Gone);
    let encryption = Encryption::of_file(state.tenants.is_encrypted(id).await?);
    let (entry, hosts) =
        state.catalog.read(|db| Ok((organizations::entry(db, id)?, organizations::hosts(db, id)?))).await?;
    Ok(DepartureBody {
        object: DepartureObject,
        id: transfer.id,
        organization_id: id,
        slug: transfer.slug,
        external_id: entry.and_then(|entry| entry.external_id),
        hosts,
        bytes: state.tenants.bytes(id),
        encryption,
        state: transfer.stage.as_str(),
        to: transfer.peer,
        from: state.tenant.address.origin().to_owned(),
        key: transfer.peer_key.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        archive_sha256: transfer.archive_sha256,
        audit: transfer.log_end.filter(|_| has_left).map(head_of),
        // Of one that came back it is something else.
        proof: transfer.proof.filter(|_| has_left),
        created_at: transfer.created_at,
    })
}

/// For whoever asks how far it is.
async fn shown(state: &DeploymentState, transfer: Transfer) -> Answer {
    let transfer = departure::as_shown(state, transfer).await?;
    Ok(reply::json(200, &departure_of(state, transfer).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutDeparture {
    /// The address of the deployment that it goes to, such as `https://id.example.com`.
    #[schema(min_length = 1, max_length = 500)]
    to: String,
}

/// Prepare a departure
///
/// The first step of moving an organization to another deployment; nothing is different yet. The same again gives the
/// same departure. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/departure", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "The departure", body = DepartureBody),
        (status = 409, description = "`transfer_conflict`, `erasure_scheduled`, `organization_frozen` or \
         `relocation_running`", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_departure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<PutDeparture>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let to = address("to", &body.to)?;
    let transfer = departure::prepare(&state, id, &to, &by_caller(&info, &caller)).await?;
    shown(&state, transfer).await
}

/// Get a departure
///
/// Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/departure", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    responses((status = 200, description = "The departure", body = DepartureBody)),
)]
async fn get_departure(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    shown(&state, departure::require(&state, id).await?).await
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct TransferPath {
    /// The id of the transfer.
    transfer: String,
}

impl TransferPath {
    fn id(&self) -> Result<TransferId> {
        self.transfer.parse().map_err(|_| Error::new(&codes::TRANSFER_NOT_FOUND))
    }
}

/// Get a departure by its transfer
///
/// Also one that was called off, and one of an organization that was erased here after it had left: the proof is what
/// the other deployment can be made to serve it by. Only for operators.
#[utoipa::path(
    get, path = "/v1/departures/{transfer}", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    params(TransferPath),
    responses((status = 200, description = "The departure", body = DepartureBody)),
)]
async fn get_departure_by_id(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<TransferPath>,
) -> Answer {
    shown(&state, departure::by_id(&state, path.id()?).await?).await
}

/// Call a departure off
///
/// As long as it has not left. It takes writes again. Only for operators.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/departure", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 204, description = "It stays"),
        (status = 409, description = "`transfer_state`: it has left", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn delete_departure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    departure::cancel(&state, id, &by_caller(&info, &caller)).await?;
    Ok(reply::no_content())
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct MakeArchive {
    /// Whom the secrets in it are sealed for: `recipient` of the arrival.
    #[schema(max_length = 200, pattern = "^age1[02-9ac-hj-np-z]+$")]
    recipient: String,
    /// `waiver_sha256` of the arrival: what it is taken back by, should it leave and never be served there.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    waiver_sha256: String,
    /// `encryption` of the arrival. One whose whole file is encrypted does not leave for where it would be a plain one.
    #[serde(default)]
    encryption: Encryption,
}

/// Begin to leave
///
/// From now on the organization is read and takes no writes (503 `organization_leaving`), and there is an archive of
/// it with everything. The same again gives the same archive. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/departure/archive", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "The departure, with the digest of the archive", body = DepartureBody),
        (status = 409, description = "`transfer_state` or `encrypted_not_transferred`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn make_departure_archive(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<MakeArchive>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let to = Recipient { recipient: &body.recipient, waiver_sha256: &body.waiver_sha256, encryption: body.encryption };
    let transfer = departure::leave(&state, id, &to, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &departure_of(&state, transfer).await?))
}

/// Fetch the archive of a departure
///
/// Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/departure/archive", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "The archive", content_type = "application/zstd"),
        (status = 409, description = "`transfer_state`: there is none", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn get_departure_archive(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let archive = departure::archive(&state, id).await?;
    let failed = |error: std::io::Error| Error::internal("the archive of a departure cannot be read").source(error);
    let file = tokio::fs::File::open(&archive).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let transfer = departure::require(&state, id).await?.id;
    let act = Act::about("organization.departure_fetched", id).with("transfer", transfer.to_string());
    state.tenant.operator_log.note(&caller, &info, act).await;
    let mut response: Response =
        (StatusCode::OK, Body::from_stream(ReaderStream::with_capacity(file, 64 << 10))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct CompleteDeparture {
    /// What the arrival says has arrived.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    archive_sha256: String,
    #[schema(inline)]
    audit: AuditHead,
}

/// Complete a departure
///
/// If what has arrived is what was sent, the organization has left: from here on it takes no write here, whoever asks for
/// it is answered 421 `organization_moved`, and there is a proof of that for the arrival. Nothing but a waiver of the
/// arrival takes that back. The same again gives the same proof. Only for operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/departure/completion", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "It has left", body = DepartureBody),
        (status = 409, description = "`transfer_mismatch` or `transfer_state`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn complete_departure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<CompleteDeparture>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let end = LogEnd { sequence: body.audit.sequence, hash: body.audit.hash };
    let by = by_caller(&info, &caller);
    let transfer = departure::complete(&state, id, &body.archive_sha256, &end, &by).await?;
    Ok(reply::json(200, &departure_of(&state, transfer).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ReturnDeparture {
    /// `waiver` of the arrival, which was called off.
    #[schema(max_length = 200)]
    waiver: String,
}

/// Take a departure back
///
/// An organization that has left, and never was nor will be served where it went, is served here again. Only for
/// operators.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/departure/return", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 204, description = "It is here again"),
        (status = 422, description = "`transfer_waiver_invalid`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn return_departure(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<ReturnDeparture>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    departure::take_back(&state, id, &body.waiver, &by_caller(&info, &caller)).await?;
    Ok(reply::no_content())
}

/// An address as it is shown to whoever asks for an organization that has moved: scheme and host, no more.
fn address(field: &'static str, text: &str) -> Result<String> {
    let url = url::Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
    });
    let invalid = || {
        let message = "Give an address such as https://id.example.com.";
        Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", message)
    };
    Ok(url.filter(|_| text.len() <= 500).ok_or_else(invalid)?.as_str().trim_end_matches('/').to_owned())
}
