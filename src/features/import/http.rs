//! Imports at the edge: receiving an upload, bounded, and telling what came of it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Imported, Upload, Wanted, bring_in, receive};
use crate::base::{Error, OrganizationId, Result, Secret, Slug, Timestamp, codes};
use crate::features::DeploymentState;
use crate::features::audit::http::by_caller;
use crate::features::export::format::{AuditHead, Named};
use crate::features::provisioning::Encryption;
use crate::web::access::{Operator, scope};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Query, RequestInfo, reply};

object!(pub ImportObject = "import");

/// Carries a passphrase or an age key, in base64: it may have any character, and an address is written into logs.
const KEY_HEADER: &str = "bulkhead-secrets-key";
const LONGEST_KEY: usize = 8 << 10;
/// How much more is read of an upload that was refused.
const HEARD_OUT: u64 = 64 << 20;

/// The operations on the deployment.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(create_import))
}

/// What is to become of the archive.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Options {
    /// The slug that the organization gets here; the one in the archive when left out.
    #[param(min_length = 2, max_length = 63)]
    slug: Option<String>,
    /// Makes it another organization than the one that it came from.
    new_id: Option<bool>,
    /// Says what would be done, and does nothing.
    dry_run: Option<bool>,
    /// `file`: the whole file here is ciphertext, whatever it was where it comes from.
    #[serde(default)]
    encryption: Encryption,
}

/// What came of an import.
#[derive(Serialize, ToSchema)]
#[schema(as = Import)]
struct ImportBody {
    #[schema(inline)]
    object: ImportObject,
    /// The organization here.
    organization_id: OrganizationId,
    slug: Slug,
    dry_run: bool,
    /// The organization that the archive came from.
    #[schema(inline)]
    from: Named,
    exported_at: Timestamp,
    product_version: String,
    schema_version: usize,
    /// The `kid` of the key that signed the archive. The signature shows that nothing was changed since; whose it is,
    /// the issuer's JWKS tells.
    signed_by: String,
    /// The end of the audit log that was taken over.
    #[schema(inline)]
    audit: AuditHead,
    /// How many of each were taken over.
    #[schema(value_type = Object)]
    imported: BTreeMap<&'static str, u64>,
    /// What the archive has and the organization here does not, in words.
    left_out: Vec<&'static str>,
}

impl From<Imported> for ImportBody {
    fn from(done: Imported) -> Self {
        let taken = done.taken;
        Self {
            object: ImportObject,
            organization_id: done.id,
            slug: done.slug,
            dry_run: done.dry_run,
            from: done.manifest.organization,
            exported_at: done.manifest.created_at,
            product_version: done.manifest.product_version,
            schema_version: done.manifest.schema_version,
            signed_by: done.signed_by,
            audit: done.manifest.audit,
            imported: BTreeMap::from([
                ("members", taken.members),
                ("passwords", taken.passwords),
                ("signing_keys", taken.signing_keys),
                ("api_keys", taken.api_keys),
                ("audit_events", taken.audit_events),
            ]),
            left_out: done.left_out,
        }
    }
}

/// Import an organization
///
/// Operators only. The body is an archive of an export. It is checked in a process of its own, and its rows are copied
/// into a fresh file; then the organization is here, with its members, roles, policy and audit log. Passwords, signing
/// keys and API keys are taken over if the archive has secrets and the header `Bulkhead-Secrets-Key` holds, in base64,
/// the passphrase or the age key that opens them. People sign in again.
#[utoipa::path(
    post, path = "/v1/imports", tag = "Exports",
    security(("api_key" = ["organizations:write"])),
    params(Options),
    request_body(content = inline(String), content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "What a dry run found", body = ImportBody),
        (status = 201, description = "The organization is here", body = ImportBody),
        (status = 409, description = "`organization_exists`, `organization_erased`, `slug_taken` or `external_id_taken`",
         body = crate::web::failure::Problem, content_type = "application/problem+json"),
    ),
)]
async fn create_import(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    headers: HeaderMap,
    Query(options): Query<Options>,
    body: Body,
) -> Answer {
    require_archive(&headers)?;
    let slug = options.slug.as_deref().map(|text| {
        let unusable = || {
            let message = "Use 2 to 63 lower-case letters, digits and inner hyphens.";
            Error::new(&codes::VALIDATION_FAILED).field("slug", "invalid", message)
        };
        Slug::parse(text).ok_or_else(unusable)
    });
    let wanted = Wanted {
        slug: slug.transpose()?,
        new_id: options.new_id.unwrap_or(false),
        dry_run: options.dry_run.unwrap_or(false),
        key: key_of(&headers)?,
        encryption: options.encryption,
        arriving: None,
    };
    let upload = save(&state, &headers, body).await?;
    let done = bring_in(&state, upload, wanted, &by_caller(&info, &caller)).await?;
    let status = if done.dry_run { 200 } else { 201 };
    Ok(reply::json(status, &ImportBody::from(done)))
}

fn key_of(headers: &HeaderMap) -> Result<Option<Secret>> {
    let Some(value) = headers.get(KEY_HEADER) else { return Ok(None) };
    let decoded = STANDARD.decode(value.as_bytes()).ok().filter(|bytes| (1..=LONGEST_KEY).contains(&bytes.len()));
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
    let unusable = || Error::new(&codes::MALFORMED_REQUEST).detail("Bulkhead-Secrets-Key is not text in base64.");
    text.map(|text| Some(Secret::new(text))).ok_or_else(unusable)
}

/// Refuses a body that does not even say that it is an archive.
pub fn require_archive(headers: &HeaderMap) -> Result<()> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    match content_type {
        "application/octet-stream" | "application/zstd" => Ok(()),
        _ => Err(Error::new(&codes::UNSUPPORTED_MEDIA_TYPE)
            .detail("Send the archive as a body of type application/octet-stream.")),
    }
}

/// Receives an upload, piece by piece to a private file, and no further than may be. One that says beforehand that it is
/// larger than that is refused before any of it is read.
pub async fn save(state: &DeploymentState, headers: &HeaderMap, mut body: Body) -> Result<Upload> {
    let most = state.imports.largest_upload();
    if announced(headers).is_some_and(|length| length > most) {
        // Whoever waits to be told to go on (RFC 9110, section 10.1.1) is not to be.
        if !headers.contains_key(header::EXPECT) {
            // Beside the answer, which whoever watches for it gets at once.
            tokio::spawn(async move { hear_out(&mut body).await });
        }
        return Err(Error::new(&codes::IMPORT_TOO_LARGE));
    }
    let kept = match receive(state) {
        Ok(upload) => keep(&mut body, &upload.archive(), most).await.map(|()| upload),
        Err(error) => Err(error),
    };
    if kept.is_err() {
        hear_out(&mut body).await;
    }
    kept
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Whoever is still sending does not listen for an answer, and takes the end of the connection for one (RFC 9112,
/// section 9.6): some more is read and thrown away.
async fn hear_out(body: &mut Body) {
    let mut size = 0;
    while let Ok(Some(data)) = next(body).await
        && size < HEARD_OUT
    {
        size += data.len() as u64;
    }
}

/// The next piece, until there is none.
async fn next(body: &mut Body) -> Result<Option<Bytes>> {
    loop {
        let Some(frame) = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await else { return Ok(None) };
        let frame = frame.map_err(|error| Error::new(&codes::REQUEST_TIMEOUT).because(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}

async fn keep(body: &mut Body, to: &Path, most: u64) -> Result<()> {
    let failed = |error: std::io::Error| Error::of_disk(&codes::INTERNAL, "an upload could not be kept", error);
    let mut file = tokio::fs::File::create_new(to).await.map_err(failed)?;
    let mut size = 0_u64;
    while let Some(data) = next(body).await? {
        size += data.len() as u64;
        if size > most {
            return Err(Error::new(&codes::IMPORT_TOO_LARGE));
        }
        file.write_all(&data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}
