//! The operations on how an organization's file is encrypted. For operators alone.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Aim, Plan, Standing, begin, carry_out, plan, standing};
use crate::base::{OrganizationId, Timestamp};
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::features::provisioning::Encryption;
use crate::keyring::FileStanding;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Caller, Json, OrganizationPath, Path, RequestInfo, reply};

object!(pub FileEncryptionObject = "file_encryption");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(get_encryption, put_encryption)).routes(routes!(rotate_file_key))
}

/// How an organization's file is encrypted.
#[derive(Serialize, utoipa::ToSchema)]
struct FileEncryption {
    #[schema(inline)]
    object: FileEncryptionObject,
    organization_id: OrganizationId,
    /// What it is now.
    encryption: Encryption,
    /// What it is on its way to; the same again for another key, null if nothing is changed.
    changing_to: Option<Encryption>,
    /// `rewriting`: it is written anew and shipped. `clearing`: copies from before are deleted. Null if nothing is done.
    state: Option<&'static str>,
    /// The version of its key; null if the file is plain.
    file_key_version: Option<u32>,
    /// Bytes to be written, and those that are. Of a dry run: what would be written.
    bytes: u64,
    bytes_written: u64,
    /// Until when the backup has copies from before, under another key or plain; null if it has none any more.
    copies_from_before_until: Option<Timestamp>,
    /// Files on the server, in the organization's directory, that are as the database was before.
    files_from_before: Vec<String>,
    /// The code of why it did not get further.
    failure: Option<String>,
    failure_detail: Option<String>,
}

impl FileEncryption {
    fn of(id: OrganizationId, found: Standing) -> Self {
        let ciphertext = |is: bool| if is { Encryption::File } else { Encryption::Columns };
        let change = found.keys.change;
        let (encryption, version) = match found.keys.standing {
            FileStanding::Plain => (Encryption::Columns, None),
            FileStanding::Ciphertext(version) => (Encryption::File, Some(version)),
            // On its way: as it was, until nothing else is right.
            FileStanding::Either(version) => {
                let is_going = change.is_some_and(|change| change.target.is_none());
                (ciphertext(is_going), is_going.then_some(version))
            }
        };
        Self {
            object: FileEncryptionObject,
            organization_id: id,
            encryption,
            changing_to: change.filter(|change| !change.is_clearing).map(|change| ciphertext(change.target.is_some())),
            state: change.map(|change| if change.is_clearing { "clearing" } else { "rewriting" }),
            file_key_version: version,
            bytes: found.bytes,
            bytes_written: found.written,
            copies_from_before_until: found.copies_until,
            files_from_before: found.kept,
            failure: found.failure.as_ref().map(|error| error.code().name.to_owned()),
            failure_detail: found.failure.map(|error| error.public_detail().to_owned()),
        }
    }
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct PutEncryption {
    encryption: Encryption,
    /// Delete what the backup and the organization's directory have from before, once the file is as it shall be.
    #[serde(default)]
    delete_copies: bool,
    /// Say what it would take, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateFileKey {
    /// Delete what the backup and the organization's directory have under the key before, and that key.
    #[serde(default)]
    delete_copies: bool,
    /// Say what it would take, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Get how an organization's file is encrypted
///
/// And how far it is on its way to something else. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/encryption", tag = "Keys",
    security(("api_key" = ["keys:read"])),
    responses((status = 200, description = "How it is encrypted", body = FileEncryption)),
)]
async fn get_encryption(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::KeysRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    Ok(reply::json(200, &FileEncryption::of(id, standing(&state, id).await?)))
}

/// Encrypt an organization's whole file, or decrypt it
///
/// The file is written anew while it is in use; then requests wait a moment. Ask for it until nothing is changed any
/// more. What fails leaves the file as it was. Copies in the backup stay as they are until they expire, unless they are
/// to be deleted. Only for operators, of a server that was built with SQLCipher.
#[utoipa::path(
    put, path = "/v1/organizations/{org}/encryption", tag = "Keys",
    security(("api_key" = ["keys:write"])),
    responses(
        (status = 200, description = "It is so already, or what a dry run found", body = FileEncryption),
        (status = 202, description = "It is on its way", body = FileEncryption),
        (status = 409, description = "`file_encryption_unavailable`, `file_change_running`, `organization_frozen`, \
         `relocation_running`, `transfer_conflict` or `erasure_scheduled`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn put_encryption(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<PutEncryption>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    change(state, id, Aim::Be(body.encryption), (body.delete_copies, body.dry_run), (&info, &caller)).await
}

/// Replace the key of an organization's file
///
/// Everything is written anew under another key while it is in use; then requests wait a moment. The key before is kept
/// for as long as copies are that need it. Only for operators, of a server that was built with SQLCipher.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/file_key_rotations", tag = "Keys",
    security(("api_key" = ["keys:write"])),
    responses(
        (status = 200, description = "What a dry run found", body = FileEncryption),
        (status = 202, description = "It is on its way", body = FileEncryption),
        (status = 409, description = "`file_encryption_unavailable`, `file_not_encrypted`, `file_change_running`, \
         `organization_frozen`, `relocation_running`, `transfer_conflict` or `erasure_scheduled`; or see \
         `Idempotency-Key`", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rotate_file_key(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<RotateFileKey>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    change(state, id, Aim::NewKey, (body.delete_copies, body.dry_run), (&info, &caller)).await
}

async fn change(
    state: DeploymentState,
    id: OrganizationId,
    aim: Aim,
    (clears, is_dry): (bool, bool),
    (info, caller): (&RequestInfo, &Caller),
) -> Answer {
    let plan = match is_dry {
        true => plan(&state, id, aim, clears).await?,
        false => begin(&state, id, aim, clears, &by_caller(info, caller)).await?,
    };
    let mut body = FileEncryption::of(id, standing(&state, id).await?);
    if let Plan::Rewrite { to, bytes } = plan {
        (body.changing_to, body.bytes) = (Some(to), bytes);
    }
    if is_dry || plan == Plan::Nothing {
        return Ok(reply::json(200, &body));
    }
    tokio::spawn(async move { carry_out(&state, id).await });
    Ok(reply::json(202, &body))
}
