//! The API of keys. For operators alone.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::base::time::length;
use crate::base::{KeyRotationId, OrganizationId, Timestamp};
use crate::features::DeploymentState;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::features::keys::{Times, plan_data, plan_master, rotate, start_data, start_master};
use crate::keyring::{DataRotation, MasterRotation, Provider};
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, RequestInfo, reply};

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(get_keys))
        .routes(routes!(rotate_master_key))
        .routes(routes!(rotate_data_keys))
        .routes(routes!(rotate_data_key))
}

object!(pub KeysObject = "keys");
object!(pub MasterRotationObject = "master_rotation");
object!(pub DataRotationObject = "data_rotation");
object!(pub DataKeyRotationObject = "data_key_rotation");

/// Who wraps the keys of all organizations, and how that goes.
#[derive(Serialize, utoipa::ToSchema)]
struct KeysBody {
    #[schema(inline)]
    object: KeysObject,
    provider: Provider,
    /// The master key that wraps; unknown until an outside provider has told it.
    current_key_id: Option<String>,
    /// Every master key that wraps something, or that the server has.
    master_keys: Vec<MasterKeyBody>,
    /// The newest rotation of the master key.
    master_rotation: Option<MasterRotationBody>,
    /// The newest rotation of many data keys.
    data_rotation: Option<DataRotationBody>,
    replaced: ReplacedBody,
    cache: CacheBody,
    /// Requests to an outside provider since the start, and those that failed.
    provider_requests: u64,
    provider_failures: u64,
    last_error: Option<LastErrorBody>,
}

/// One master key.
#[derive(Serialize, utoipa::ToSchema)]
struct MasterKeyBody {
    id: String,
    current: bool,
    /// Keys that it wraps.
    data_keys: i64,
    /// Whether what it wraps can be unwrapped with this configuration.
    available: bool,
}

/// A rotation of the master key.
#[derive(Serialize, utoipa::ToSchema)]
struct MasterRotationBody {
    #[schema(inline)]
    object: MasterRotationObject,
    /// Nothing where it was only asked what would be done.
    id: Option<KeyRotationId>,
    /// `planned`, `running`, `waiting` (done, and the key before is kept for backups) or `done`.
    state: &'static str,
    /// The key that everything is wrapped by in the end; nothing while it is yet to be made.
    master_key_id: Option<String>,
    /// Keys that are to be wrapped anew, and those that were.
    total: i64,
    done: i64,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// When the keys before may leave their file, and when they did.
    retire_at: Option<Timestamp>,
    retired_at: Option<Timestamp>,
    /// Why it does not get further at the moment.
    last_error: Option<String>,
}

/// A rotation of many data keys.
#[derive(Serialize, utoipa::ToSchema)]
struct DataRotationBody {
    #[schema(inline)]
    object: DataRotationObject,
    /// Nothing where it was only asked what would be done.
    id: Option<KeyRotationId>,
    /// `planned`, `running` or `done`.
    state: &'static str,
    /// Keys made before this are replaced.
    before: Timestamp,
    /// Organizations that are to get a new key, those that did, those that are left as they are (set aside, frozen, on
    /// their way elsewhere or gone), and those where it failed.
    total: i64,
    done: i64,
    skipped: i64,
    failed: i64,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// Why the last one that was skipped, or failed, has no new key.
    last_error: Option<String>,
}

/// Data keys that are not sealed with any more.
#[derive(Serialize, utoipa::ToSchema)]
struct ReplacedBody {
    /// Those that are kept for backups, and since when the oldest of them.
    kept: i64,
    oldest_replaced_at: Option<Timestamp>,
    /// How long one is kept.
    keep_hours: u64,
    /// Organizations whose rotation was interrupted and goes on by itself.
    unfinished: usize,
}

/// Unwrapped keys in memory.
#[derive(Serialize, utoipa::ToSchema)]
struct CacheBody {
    entries: usize,
    capacity: usize,
    /// How long a key that an outside provider has unwrapped is remembered.
    seconds: u64,
    hits: u64,
    misses: u64,
}

/// When the provider last failed, and how.
#[derive(Serialize, utoipa::ToSchema)]
struct LastErrorBody {
    occurred_at: Timestamp,
    reason: String,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct MasterRequest {
    /// Let the keys before leave their file as soon as nothing here needs them. Earlier states of the keyring's backup
    /// are given up with them.
    #[serde(default)]
    retire_now: bool,
    /// Say what would be done, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct DataRequest {
    /// Only keys that are older than so many days; 0 for all.
    #[serde(default)]
    older_than_days: u16,
    /// Say how many that are, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A new data key of one organization.
#[derive(Serialize, utoipa::ToSchema)]
struct DataKeyRotationBody {
    #[schema(inline)]
    object: DataKeyRotationObject,
    organization_id: OrganizationId,
    from_version: u32,
    to_version: u32,
    /// Values that were sealed anew.
    resealed: usize,
    /// When the key before is destroyed: until then backups from before can be recovered.
    kept_until: Timestamp,
}

/// Get the state of all keys
///
/// Who wraps them, by which master key how many are wrapped, and whether a rotation is under way. No key is told. Only
/// for operators.
#[utoipa::path(
    get, path = "/v1/keys", tag = "Keys",
    security(("api_key" = ["keys:read"])),
    responses((status = 200, description = "The state of the keys", body = KeysBody)),
)]
async fn get_keys(State(state): State<DeploymentState>, _caller: Operator<scope::KeysRead>) -> Answer {
    let ring = state.keys.ring();
    let (master, replaced, data) = (ring.master_status().await?, ring.replaced().await?, ring.data_rotation().await?);
    let (cache, health) = (ring.cache(), ring.health());
    let Times { data_keys, .. } = state.keys.times();
    let current = master.current.clone();
    let body = KeysBody {
        object: KeysObject,
        provider: master.provider,
        master_keys: master
            .keys
            .into_iter()
            .map(|(id, data_keys, available)| MasterKeyBody {
                current: Some(&id) == current.as_ref(),
                id,
                data_keys,
                available,
            })
            .collect(),
        current_key_id: current,
        master_rotation: master.rotation.map(|rotation| master_body(rotation, master.left)),
        data_rotation: data.map(data_body),
        replaced: ReplacedBody {
            kept: replaced.kept,
            oldest_replaced_at: replaced.oldest,
            keep_hours: data_keys.as_secs() / 3600,
            unfinished: replaced.unfinished,
        },
        cache: CacheBody {
            entries: cache.entries,
            capacity: cache.capacity,
            seconds: cache.remember.as_secs(),
            hits: cache.hits,
            misses: cache.misses,
        },
        provider_requests: health.calls,
        provider_failures: health.failures,
        last_error: health.last_error.map(|(occurred_at, reason)| LastErrorBody { occurred_at, reason }),
    };
    Ok(reply::json(200, &body))
}

/// Rotate the master key
///
/// Wraps every key anew in the background, while all are in use: with a new master key where it is in a file, else with
/// the one that is configured now. It goes on after a restart. The key before leaves its file when nothing needs it any
/// more. Only for operators.
#[utoipa::path(
    post, path = "/v1/keys/master_rotations", tag = "Keys",
    security(("api_key" = ["keys:write"])),
    responses(
        (status = 202, description = "It has begun, or what it would do", body = MasterRotationBody),
        (status = 409, description = "`key_rotation_running`, `key_rotation_not_needed`, `master_key_not_writable`; or \
         see `Idempotency-Key`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`key_unavailable`: the key provider does not answer",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rotate_master_key(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Json(body): Json<MasterRequest>,
) -> Answer {
    if body.dry_run {
        let plan = plan_master(&state).await?;
        let body = MasterRotationBody {
            object: MasterRotationObject,
            id: None,
            state: "planned",
            master_key_id: plan.to,
            total: plan.total,
            done: 0,
            started_at: None,
            ended_at: None,
            retire_at: None,
            retired_at: None,
            last_error: None,
        };
        return Ok(reply::json(202, &body));
    }
    let rotation = start_master(&state, body.retire_now, &by_caller(&info, &caller)).await?;
    let left = rotation.total;
    Ok(reply::json(202, &master_body(rotation, left)))
}

/// Rotate the data keys of many organizations
///
/// Gives a new data key to each organization whose key is old enough, one after the other in the background. It goes on
/// after a restart. Only for operators.
#[utoipa::path(
    post, path = "/v1/keys/data_rotations", tag = "Keys",
    security(("api_key" = ["keys:write"])),
    responses(
        (status = 202, description = "It has begun, or what it would do", body = DataRotationBody),
        (status = 409, description = "`key_rotation_running`; or see `Idempotency-Key`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rotate_data_keys(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Json(body): Json<DataRequest>,
) -> Answer {
    let older_than = length::days(u64::from(body.older_than_days));
    if body.dry_run {
        let body = DataRotationBody {
            object: DataRotationObject,
            id: None,
            state: "planned",
            before: state.tenant.clock.now().minus(older_than),
            total: plan_data(&state, older_than).await?,
            done: 0,
            skipped: 0,
            failed: 0,
            started_at: None,
            ended_at: None,
            last_error: None,
        };
        return Ok(reply::json(202, &body));
    }
    let rotation = start_data(&state, older_than, &by_caller(&info, &caller)).await?;
    Ok(reply::json(202, &data_body(rotation)))
}

/// Rotate the data key of an organization
///
/// Everything that is sealed in its file is sealed anew with a new key, while it is served. The key before is kept for
/// as long as backups may need it, and destroyed then. Only for operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/data_key_rotations", tag = "Keys",
    security(("api_key" = ["keys:write"])),
    responses(
        (status = 200, description = "It has a new key", body = DataKeyRotationBody),
        (status = 503, description = "`key_unavailable`: the key provider does not answer",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rotate_data_key(
    State(state): State<DeploymentState>,
    caller: Operator<scope::KeysWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let id = path.find(&state.directory).await?;
    let rotated = rotate(&state, id, &by_caller(&info, &caller)).await?;
    let act = Act::about("data_key.rotated", id).with("to", rotated.to).with("resealed", rotated.resealed);
    state.tenant.operator_log.note(&caller, &info, act).await;
    let body = DataKeyRotationBody {
        object: DataKeyRotationObject,
        organization_id: id,
        from_version: rotated.from,
        to_version: rotated.to,
        resealed: rotated.resealed,
        kept_until: rotated.kept_until,
    };
    Ok(reply::json(200, &body))
}

fn master_body(rotation: MasterRotation, left: i64) -> MasterRotationBody {
    let state = match (rotation.ended_at, rotation.retired_at) {
        (None, _) => "running",
        (Some(_), None) => "waiting",
        (Some(_), Some(_)) => "done",
    };
    MasterRotationBody {
        object: MasterRotationObject,
        id: Some(rotation.id),
        state,
        master_key_id: Some(rotation.target).filter(|target| !target.is_empty()),
        done: (rotation.total - left).max(0),
        total: rotation.total,
        started_at: Some(rotation.started_at),
        ended_at: rotation.ended_at,
        retire_at: rotation.retire_at,
        retired_at: rotation.retired_at,
        last_error: rotation.last_error,
    }
}

fn data_body(rotation: DataRotation) -> DataRotationBody {
    DataRotationBody {
        object: DataRotationObject,
        id: Some(rotation.id),
        state: if rotation.ended_at.is_some() { "done" } else { "running" },
        before: rotation.before,
        total: rotation.total,
        done: rotation.done,
        skipped: rotation.skipped,
        failed: rotation.failed,
        started_at: Some(rotation.started_at),
        ended_at: rotation.ended_at,
        last_error: rotation.last_error,
    }
}
