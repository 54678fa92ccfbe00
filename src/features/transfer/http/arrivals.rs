//! The operations on organizations that come from another deployment.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::super::arrival::{self, Announced};
use super::{TransferPath, address, head_of};
use crate::base::{Error, ExternalId, HostName, OrganizationId, Result, Slug, Timestamp, TransferId, codes};
use crate::catalog::transfers::{Transfer, TransferStage};
use crate::crypto::hash;
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::features::export::format::AuditHead;
use crate::features::import::http::{require_archive, save};
use crate::features::provisioning::Encryption;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, Path, Query, RequestInfo, reply};

object!(pub ArrivalObject = "arrival");

pub(super) fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(put_arrival, get_arrival, delete_arrival))
        .routes(routes!(upload_arrival))
        .routes(routes!(activate_arrival))
}

/// An organization that comes from another deployment.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Arrival)]
struct ArrivalBody {
    #[schema(inline)]
    object: ArrivalObject,
    id: TransferId,
    organization_id: OrganizationId,
    slug: Slug,
    /// `prepared`: it may be sent. `arrived`: it is here, and nobody is led to it. `active`: it is served here.
    /// `cancelled`: nothing of it is here, and never will be.
    state: &'static str,
    from: String,
    /// What its file is here, or is to be; the departure is told it before it leaves.
    encryption: Encryption,
    /// Whom the archive is to be sealed for (age).
    recipient: Option<String>,
    /// Of the archive that has arrived, in hexadecimal.
    archive_sha256: Option<String>,
    /// The end of the audit log in it.
    #[schema(inline)]
    audit: Option<AuditHead>,
    /// What the waiver is known by; the departure is told it before it leaves.
    waiver_sha256: Option<String>,
    /// Of one that is cancelled: takes a departure back that has ended.
    waiver: Option<String>,
    created_at: Timestamp,
}

impl ArrivalBody {
    async fn of(state: &DeploymentState, transfer: Transfer) -> Result<Self> {
        let (waiver_sha256, waiver) = arrival::waiver(state, &transfer);
        let is_encrypted = match transfer.stage {
            // The file is what it is; an arrival that was found again by its file alone was told nothing.
            TransferStage::Arrived | TransferStage::Active => {
                state.tenants.is_encrypted(transfer.organization_id).await?
            }
            _ => transfer.encrypted,
        };
        Ok(Self {
            object: ArrivalObject,
            id: transfer.id,
            organization_id: transfer.organization_id,
            slug: transfer.slug,
            state: transfer.stage.as_str(),
            from: transfer.peer,
            encryption: Encryption::of_file(is_encrypted),
            recipient: transfer.recipient,
            archive_sha256: transfer.archive_sha256,
            audit: transfer.log_end.map(head_of),
            waiver_sha256,
            waiver,
            created_at: transfer.created_at,
        })
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutArrival {
    organization_id: OrganizationId,
    #[schema(min_length = 2, max_length = 63)]
    slug: String,
    #[serde(default)]
    #[schema(max_length = 128)]
    external_id: Option<String>,
    /// Custom hosts that it has; none of them may lead elsewhere here.
    #[serde(default)]
    #[schema(max_items = 1000)]
    hosts: Vec<String>,
    /// The address of the deployment that it comes from.
    #[schema(min_length = 1, max_length = 500)]
    from: String,
    /// `key` of the departure.
    #[schema(value_type = Object)]
    key: Value,
    /// `bytes` of the departure: refused where there is not so much room.
    #[serde(default)]
    bytes: Option<u64>,
    /// `encryption` of the departure: what the file is to be here.
    #[serde(default)]
    encryption: Encryption,
}

impl PutArrival {
    fn check(self, transfer: TransferId) -> Result<Announced> {
        let invalid =
            |field: &'static str| Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", "This cannot be used.");
        let slug = Slug::parse(&self.slug).ok_or_else(|| invalid("slug"))?;
        let external_id = self.external_id.map(|text| ExternalId::parse(&text).ok_or_else(|| invalid("external_id")));
        let hosts = self.hosts.iter().map(|host| HostName::parse(host).ok_or_else(|| invalid("hosts")));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        if hosts.len() > 1000 || !self.key.is_object() || !self.key["kid"].is_string() {
            return Err(invalid("key"));
        }
        Ok(Announced {
            transfer,
            organization: self.organization_id,
            slug,
            external_id: external_id.transpose()?,
            hosts,
            from: address("from", &self.from)?,
            key: self.key.to_string(),
            bytes: self.bytes,
            encryption: self.encryption,
        })
    }
}

/// Prepare an arrival
///
/// Refused if its id, slug, external id or a host is not free here, or there is no room for it; then nothing has happened on either side. Makes a
/// key for this one transfer. The same again gives the same arrival; one that is `prepared` for `columns` may still be told
/// `file`. Only for operators.
#[utoipa::path(
    put, path = "/v1/arrivals/{transfer}", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    params(TransferPath),
    responses(
        (status = 200, description = "The arrival", body = ArrivalBody),
        (status = 409, description = "`organization_exists`, `organization_erased`, `slug_taken`, `external_id_taken`, \
         `host_taken`, `transfer_conflict`, `file_encryption_unavailable`, or `transfer_state`: it was called off", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_arrival(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<TransferPath>,
    Json(body): Json<PutArrival>,
) -> Answer {
    let announced = body.check(path.id()?)?;
    let transfer = arrival::prepare(&state, announced, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &ArrivalBody::of(&state, transfer).await?))
}

/// Get an arrival
///
/// Only for operators.
#[utoipa::path(
    get, path = "/v1/arrivals/{transfer}", tag = "Moving",
    security(("api_key" = ["organizations:read"])),
    params(TransferPath),
    responses((status = 200, description = "The arrival", body = ArrivalBody)),
)]
async fn get_arrival(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<TransferPath>,
) -> Answer {
    Ok(reply::json(200, &ArrivalBody::of(&state, arrival::require(&state, path.id()?).await?).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CancelQuery {
    /// Also one that has arrived: the other deployment stays, or shall take it back by the waiver.
    #[serde(default)]
    give_up: bool,
}

/// Throw an arrival away
///
/// As long as it is not active. Of one that has arrived nobody here knows whether the other deployment has let go of it,
/// so that must be said to be wanted (`give_up`); `org push --cancel` asks the other side first. The answer has the
/// waiver: from here on this arrival is never served, and with that the other deployment takes back what it has let go
/// of. Only for operators.
#[utoipa::path(
    delete, path = "/v1/arrivals/{transfer}", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    params(TransferPath, CancelQuery),
    responses(
        (status = 200, description = "Nothing of it is here", body = ArrivalBody),
        (status = 409, description = "`transfer_unsettled`: it has arrived. `transfer_state`: it is active",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete_arrival(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<TransferPath>,
    Query(query): Query<CancelQuery>,
) -> Answer {
    let transfer = arrival::cancel(&state, path.id()?, query.give_up, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &ArrivalBody::of(&state, transfer).await?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// Of the archive as it was sent, in hexadecimal.
    #[param(pattern = "^[0-9a-f]{64}$")]
    sha256: String,
}

/// Receive an arrival
///
/// The body is the archive of the departure. It is checked like any import; then the organization is here, and nobody
/// is led to it. The same again changes nothing. Only for operators.
#[utoipa::path(
    post, path = "/v1/arrivals/{transfer}/content", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    params(TransferPath, UploadQuery),
    request_body(content = inline(String), content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "It has arrived", body = ArrivalBody),
        (status = 409, description = "`transfer_mismatch` or `transfer_state`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn upload_arrival(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    headers: HeaderMap,
    Path(path): Path<TransferPath>,
    Query(query): Query<UploadQuery>,
    body: Body,
) -> Answer {
    let id = path.id()?;
    require_archive(&headers)?;
    // Before anything is received.
    let known = arrival::require(&state, id).await?;
    if known.stage == TransferStage::Arrived || known.stage == TransferStage::Active {
        return Ok(reply::json(200, &ArrivalBody::of(&state, known).await?));
    }
    let upload = save(&state, &headers, body).await?;
    let path = upload.archive();
    let digest = tokio::task::block_in_place(|| std::fs::File::open(&path).and_then(hash::sha256_of));
    let (digest, _) = digest.map_err(|error| Error::internal("an upload cannot be read").source(error))?;
    let sha256 = hex::encode(digest);
    if sha256 != query.sha256 {
        let detail = "The archive that has arrived is not the one that was sent.";
        return Err(Error::new(&codes::TRANSFER_MISMATCH).detail(detail).into());
    }
    let transfer = arrival::receive(&state, id, upload, sha256, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &ArrivalBody::of(&state, transfer).await?))
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct ActivateArrival {
    /// `proof` of the departure.
    #[schema(max_length = 16384)]
    proof: String,
}

/// Activate an arrival
///
/// Takes the proof that the organization has left the deployment that it comes from; from here on it is served here.
/// The same again changes nothing. Only for operators.
#[utoipa::path(
    put, path = "/v1/arrivals/{transfer}/activation", tag = "Moving",
    security(("api_key" = ["organizations:write"])),
    params(TransferPath),
    responses(
        (status = 200, description = "It is served here", body = ArrivalBody),
        (status = 409, description = "`transfer_state`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`transfer_proof_invalid`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn activate_arrival(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<TransferPath>,
    Json(body): Json<ActivateArrival>,
) -> Answer {
    let transfer = arrival::activate(&state, path.id()?, &body.proof, &by_caller(&info, &caller)).await?;
    Ok(reply::json(200, &ArrivalBody::of(&state, transfer).await?))
}
