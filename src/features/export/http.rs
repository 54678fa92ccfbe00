//! Exports for programs.

use std::path::Path as FilePath;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio_util::io::ReaderStream;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::format::Secrets;
use super::{Export, State as ExportState};
use crate::base::{Error, ExportId, OrganizationId, Page, Result, Secret, Timestamp, codes};
use crate::crypto::envelope::{self, Lock};
use crate::features::audit::http::by_caller;
use crate::features::audit::{Act, Target};
use crate::features::{TenantState, export};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, scope};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Caller, Json, List, Path, RequestInfo, reply};

object!(pub ExportObject = "export");

const SHORTEST_PASSPHRASE: usize = 12;
const LONGEST_PASSPHRASE: usize = 1024;

/// The operations on an organization's exports.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new()
        .routes(routes!(list_exports, create_export))
        .routes(routes!(get_export, delete_export))
        .routes(routes!(get_export_content))
}

/// An archive of everything that an organization has.
#[derive(Serialize, ToSchema)]
#[schema(as = Export)]
struct ExportBody {
    #[schema(inline)]
    object: ExportObject,
    id: ExportId,
    organization_id: OrganizationId,
    #[schema(inline)]
    state: ExportState,
    #[schema(inline)]
    secrets: Secrets,
    file_name: String,
    /// In bytes; null until it is ready.
    size: Option<u64>,
    /// In hexadecimal; null until it is ready.
    sha256: Option<String>,
    /// The code of what went wrong, when it failed.
    failure: Option<String>,
    created_at: Timestamp,
    /// Then it is deleted.
    expires_at: Timestamp,
}

impl From<Export> for ExportBody {
    fn from(export: Export) -> Self {
        Self {
            object: ExportObject,
            id: export.id,
            organization_id: export.organization_id,
            state: export.state,
            secrets: export.secrets,
            file_name: export.file_name,
            size: export.size,
            sha256: export.sha256,
            failure: export.failure,
            created_at: export.created_at,
            expires_at: export.expires_at,
        }
    }
}

/// `omit` leaves password hashes, keys and hashes of keys out; `passphrase` and `age` seal them into a file of their
/// own, which only operators may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Wanted {
    Omit,
    Passphrase,
    Age,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateExport {
    #[schema(inline)]
    secrets: Wanted,
    /// With `passphrase`: 12 to 1024 characters.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password, min_length = 12, max_length = 1024)]
    passphrase: Option<Secret>,
    /// With `age`: whose key opens it, `age1…`.
    #[serde(default)]
    #[schema(max_length = 200, pattern = "^age1[02-9ac-hj-np-z]+$")]
    recipient: Option<String>,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct ExportPath {
    /// The export's id.
    export: String,
}

impl ExportPath {
    fn id(&self) -> Result<ExportId> {
        self.export.parse().map_err(|_| Error::new(&codes::EXPORT_NOT_FOUND))
    }
}

/// List an organization's exports
///
/// Those that can still be fetched or are being made, newest first.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/exports", tag = "Exports",
    security(("api_key" = ["exports:read"])),
    responses((status = 200, description = "All of them on one page", body = List<ExportBody>)),
)]
async fn list_exports(
    State(state): State<TenantState>,
    tenant: Tenant,
    _caller: Allowed<scope::ExportsRead>,
) -> Answer {
    let exports = state.exports.list(tenant.id(), state.clock.now());
    let data = exports.into_iter().map(ExportBody::from).collect();
    Ok(reply::json(200, &List::from(Page { data, before: None, after: None })))
}

/// Export an organization
///
/// Begins to make an archive of everything that the organization has: ask for it until it is `ready`, then fetch its
/// `content`. Nobody is kept waiting meanwhile. It is deleted after a day.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/exports", tag = "Exports",
    security(("api_key" = ["exports:write"])),
    responses(
        (status = 202, description = "It is being made", body = ExportBody),
        (status = 409, description = "`export_in_progress` or `export_limit_reached`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_export(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::ExportsWrite>,
    info: RequestInfo,
    Json(body): Json<CreateExport>,
) -> Answer {
    let lock = lock_of(body, &caller)?;
    let by = by_caller(&info, &caller);
    let made = export::request(&state.exports, &tenant, &state.key_stock, lock, &by).await?;
    let act = Act::about("organization.exported", tenant.id()).on(Target::new("export", made.id));
    state.operator_log.note(&caller, &info, act.with("secrets", made.secrets.as_str())).await;
    Ok(reply::json(202, &ExportBody::from(made)))
}

/// Get an export
#[utoipa::path(
    get, path = "/v1/organizations/{org}/exports/{export}", tag = "Exports",
    security(("api_key" = ["exports:read"])),
    params(ExportPath),
    responses((status = 200, description = "The export", body = ExportBody)),
)]
async fn get_export(
    State(state): State<TenantState>,
    tenant: Tenant,
    _caller: Allowed<scope::ExportsRead>,
    Path(path): Path<ExportPath>,
) -> Answer {
    Ok(reply::json(200, &ExportBody::from(state.exports.get(tenant.id(), path.id()?, state.clock.now())?)))
}

/// Delete an export
///
/// Removes the archive before its time.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/exports/{export}", tag = "Exports",
    security(("api_key" = ["exports:write"])),
    params(ExportPath),
    responses(
        (status = 204, description = "Deleted"),
        (status = 409, description = "`export_not_ready`: it is being made", body = crate::web::failure::Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn delete_export(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::ExportsWrite>,
    info: RequestInfo,
    Path(path): Path<ExportPath>,
) -> Answer {
    export::remove(&state.exports, &tenant, path.id()?, &by_caller(&info, &caller)).await?;
    Ok(reply::no_content())
}

/// Fetch an export
///
/// The archive itself: a tar, compressed with zstd. Each fetch is in the organization's audit log.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/exports/{export}/content", tag = "Exports",
    security(("api_key" = ["exports:read"])),
    params(ExportPath),
    responses(
        (status = 200, description = "The archive", content_type = "application/zstd"),
        (status = 409, description = "`export_not_ready`: it is being made, or could not be made",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn get_export_content(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::ExportsRead>,
    info: RequestInfo,
    Path(path): Path<ExportPath>,
) -> Answer {
    let id = path.id()?;
    let (export, archive) =
        export::take(&state.exports, &tenant, id, &by_caller(&info, &caller), caller.is_operator()).await?;
    let act = Act::about("organization.export_downloaded", tenant.id()).on(Target::new("export", id));
    state.operator_log.note(&caller, &info, act).await;
    Ok(stream(&export, &archive).await?)
}

/// The archive as a download, piece by piece.
pub(super) async fn stream(export: &Export, archive: &FilePath) -> Result<Response> {
    // It may have expired between the look and this.
    let file = tokio::fs::File::open(archive).await.map_err(|_| Error::new(&codes::EXPORT_NOT_FOUND))?;
    let mut response = (StatusCode::OK, Body::from_stream(ReaderStream::with_capacity(file, 64 << 10))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // The name is made of a slug and a time: nothing in it needs quoting.
    let disposition = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", export.file_name));
    headers.extend(disposition.map(|value| (header::CONTENT_DISPOSITION, value)));
    headers.extend(export.size.map(|size| (header::CONTENT_LENGTH, HeaderValue::from(size))));
    Ok(response)
}

fn lock_of(body: CreateExport, caller: &Caller) -> Result<Option<Lock>> {
    let invalid = |field: &'static str, message: &'static str| {
        Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", message)
    };
    // What is not used was meant for something: nobody shall believe that an archive is sealed which is not.
    if body.passphrase.is_some() && body.secrets != Wanted::Passphrase {
        return Err(invalid("passphrase", "Only with `\"secrets\": \"passphrase\"`."));
    }
    if body.recipient.is_some() && body.secrets != Wanted::Age {
        return Err(invalid("recipient", "Only with `\"secrets\": \"age\"`."));
    }
    if body.secrets != Wanted::Omit && !caller.is_operator() {
        return Err(Error::new(&codes::FORBIDDEN).detail("Secrets are exported with an operator's key only."));
    }
    match body.secrets {
        Wanted::Omit => Ok(None),
        Wanted::Passphrase => {
            let length = SHORTEST_PASSPHRASE..=LONGEST_PASSPHRASE;
            let passphrase = body.passphrase.filter(|text| length.contains(&text.expose().chars().count()));
            let passphrase = passphrase.ok_or_else(|| invalid("passphrase", "Use 12 to 1024 characters."))?;
            Ok(Some(Lock::Passphrase(passphrase)))
        }
        Wanted::Age => {
            let recipient = body.recipient.filter(|text| envelope::is_recipient(text));
            Ok(Some(Lock::Recipient(recipient.ok_or_else(|| invalid("recipient", "This is no age recipient."))?)))
        }
    }
}
