//! The operations on an organization's signing keys. The public halves for everybody are at its JWKS.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Holder, Keys, Serving};
use crate::base::{Page, SigningKeyId, Timestamp};
use crate::crypto::Algorithm;
use crate::features::TenantState;
use crate::features::audit::http::by_caller;
use crate::features::audit::{Act, Target};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, scope};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, List, RequestInfo, reply};

object!(pub SigningKeyObject = "signing_key");

pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new().routes(routes!(list_signing_keys)).routes(routes!(rotate_signing_keys))
}

/// A key that signs the organization's tokens; its private half never leaves the file.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningKey)]
struct SigningKeyBody {
    #[schema(inline)]
    object: SigningKeyObject,
    /// The `kid` of the tokens that it signs.
    id: SigningKeyId,
    algorithm: Algorithm,
    /// The public half (RFC 7517).
    #[schema(value_type = Object)]
    public_jwk: Value,
    created_at: Timestamp,
    /// It signs from this moment on; published it is from the first.
    active_from: Timestamp,
    /// It is published, and its tokens are accepted, until this moment.
    retire_at: Option<Timestamp>,
}

/// How to rotate.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RotateSigningKeys {
    algorithm: Algorithm,
    /// For a key that has leaked: the old one is withdrawn in the same moment, and tokens that it has
    /// signed are refused from then on.
    #[serde(default)]
    #[schema(default = false)]
    immediately: bool,
}

impl SigningKeyBody {
    fn new(serving: &Serving) -> Self {
        Self {
            object: SigningKeyObject,
            id: serving.id,
            algorithm: serving.key.algorithm(),
            public_jwk: serving.key.jwk(),
            created_at: serving.created_at,
            active_from: serving.active_from,
            retire_at: serving.retire_at,
        }
    }
}

/// Few by nature, so there is one page.
fn listed(keys: &Keys, now: Timestamp) -> Response {
    let published = keys.all().iter().filter(|key| key.retire_at.is_none_or(|retire_at| retire_at > now));
    let data: Vec<_> = published.map(SigningKeyBody::new).collect();
    reply::json(200, &List::from(Page { data, before: None, after: None }))
}

/// List signing keys
///
/// Those that are published, oldest first; all on one page. A key of an algorithm is made when the first
/// token needs it.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/signing_keys", tag = "Signing keys",
    security(("api_key" = ["keys:read"])),
    responses((status = 200, description = "The keys", body = List<SigningKeyBody>)),
)]
async fn list_signing_keys(tenant: Tenant, _caller: Allowed<scope::KeysRead>) -> Answer {
    let keys = Holder::Organization(&tenant).keys().await?;
    Ok(listed(&keys, tenant.clock().now()))
}

/// Rotate signing keys
///
/// Makes a new key. It is published at once and signs ten minutes later, when nobody has a copy of the
/// old key set any more; the old key is published for another day. Answers with the keys after that.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/signing_keys/rotation", tag = "Signing keys",
    security(("api_key" = ["keys:write"])),
    responses((status = 200, description = "The keys after the rotation", body = List<SigningKeyBody>)),
)]
async fn rotate_signing_keys(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::KeysWrite>,
    info: RequestInfo,
    Json(body): Json<RotateSigningKeys>,
) -> Answer {
    let (holder, by) = (Holder::Organization(&tenant), by_caller(&info, &caller));
    holder.rotate(body.algorithm, body.immediately, &state.key_stock, &by).await?;
    let keys = holder.keys().await?;
    let act = Act::about("signing_key.created", tenant.id()).with("algorithm", body.algorithm.as_str());
    let act = match keys.all().iter().max_by_key(|key| key.id) {
        Some(newest) => act.on(Target::new("signing_key", newest.id)),
        None => act,
    };
    state.operator_log.note(&caller, &info, act).await;
    Ok(listed(&keys, tenant.clock().now()))
}
