//! The operations on backups; for operators.

use std::time::Duration;

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    Access, Difference, Facts, Past, Recovery, Restoration, Withheld, at, between, past, rehearse,
    rehearse_replacement, replace, restore, workshop,
};
use crate::backup::{Backups, Item, Point, Progress, Source, Target, Txid, is_out_of_reach};
use crate::base::{Error, Kind, OrganizationId, Replication, Result, Timestamp, codes};
use crate::features::DeploymentState;
use crate::features::audit::Act;
use crate::features::audit::http::by_caller;
use crate::tenants::Tenant;
use crate::web::access::{Operator, scope};
use crate::web::failure::{Answer, Problem};
use crate::web::schema::object;
use crate::web::{Json, OrganizationPath, Path, Query, RequestInfo, reply};

/// Whoever names a moment reads it from a clock of their own.
const CLOCKS_DIFFER: Duration = Duration::from_mins(1);

object!(pub BackupObject = "backup");
object!(pub DeploymentBackupObject = "deployment_backup");
object!(pub RestorationObject = "restoration");
object!(pub DifferencesObject = "differences");
object!(pub RecoveryObject = "recovery");

pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new()
        .routes(routes!(get_deployment_backup))
        .routes(routes!(get_backup))
        .routes(routes!(list_differences))
        .routes(routes!(restore_organization))
        .routes(routes!(recover_organization))
}

/// How far the copy of one database has come, since the server runs.
#[derive(Serialize, ToSchema)]
struct ProgressBody {
    /// The newest transaction of the copy; null where nothing was shipped since the start.
    txid: Option<String>,
    shipped_at: Option<Timestamp>,
    /// Since when something waits that was not shipped; null if nothing does.
    behind_since: Option<Timestamp>,
    last_error: Option<String>,
    last_error_at: Option<Timestamp>,
    /// Why nothing is shipped any more: another server writes to this copy, or the organization is set aside. Null
    /// while all is well.
    stopped: Option<String>,
    /// The last file of the copy that was found damaged; a whole one was shipped in its place.
    damaged: Option<String>,
    damaged_at: Option<Timestamp>,
}

impl From<Option<Progress>> for ProgressBody {
    fn from(progress: Option<Progress>) -> Self {
        let progress = progress.unwrap_or_default();
        Self {
            txid: progress.txid.map(|txid| txid.to_string()),
            shipped_at: progress.shipped_at,
            behind_since: progress.behind_since,
            last_error: progress.last_error,
            last_error_at: progress.last_error_at,
            stopped: progress.stopped,
            damaged_at: progress.damaged.as_ref().map(|(_, at)| *at),
            damaged: progress.damaged.map(|(why, _)| why),
        }
    }
}

/// The backup of the deployment.
#[derive(Serialize, ToSchema)]
struct DeploymentBackup {
    #[schema(inline)]
    object: DeploymentBackupObject,
    /// `built-in`: the server ships. `litestream`: a stock litestream does, and of that nothing is known here.
    mode: &'static str,
    /// Databases of which something was written that the store does not have yet.
    waiting: usize,
    /// Answers that wait until the store has what they tell of.
    confirming: usize,
    /// Why nothing is shipped any more: the store belongs to another deployment. Null while it is ours.
    superseded: Option<String>,
    catalog: ProgressBody,
    keyring: ProgressBody,
}

/// A moment that can be had back.
#[derive(Serialize, ToSchema)]
struct PointBody {
    /// 16 hexadecimal digits.
    txid: String,
    at: Timestamp,
}

/// What can be had back of one organization.
#[derive(Serialize, ToSchema)]
struct BackupBody {
    #[schema(inline)]
    object: BackupObject,
    organization_id: OrganizationId,
    /// What a write has reached when it is acknowledged; null while its file, which says so, cannot be opened.
    replication: Option<Replication>,
    progress: ProgressBody,
    /// Whether the store could be looked at. If not, nothing is known of what follows.
    store_reachable: bool,
    /// Everything from here on can be restored, but for the gaps; null if there is no copy yet.
    oldest: Option<PointBody>,
    newest: Option<PointBody>,
    snapshots: Vec<PointBody>,
    /// Bytes that the copy takes up.
    bytes: u64,
    /// Stretches that are lost.
    gaps: Vec<GapBody>,
    /// Where the server's clock was set back. A time between the two moments of one is refused
    /// (`backup_time_unclear`); ask for a transaction then.
    clock_set_back: Vec<SetbackBody>,
}

/// Two transactions, one after the other, of which the second is dated earlier.
#[derive(Serialize, ToSchema)]
struct SetbackBody {
    before: PointBody,
    after: PointBody,
}

#[derive(Serialize, ToSchema)]
struct GapBody {
    from_txid: String,
    to_txid: String,
}

/// Which moment: one of `at` and `txid`, or neither for the newest there is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RestoreBody {
    /// The last state at or before this time.
    #[serde(default)]
    at: Option<Timestamp>,
    /// The state right after this transaction of the copy, in 16 hexadecimal digits.
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{16}$")]
    txid: Option<String>,
    /// Give members back what was taken from them since: those who were deleted, deactivated or lost a role come in
    /// as then, with the password of then if they were deleted. For undoing a mistake. Who was erased stays gone,
    /// and sessions and API keys stay ended.
    #[serde(default)]
    reinstate: bool,
    /// Say what would change, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A restore, done or rehearsed.
#[derive(Serialize, ToSchema)]
struct RestorationBody {
    #[schema(inline)]
    object: RestorationObject,
    organization_id: OrganizationId,
    dry_run: bool,
    txid: String,
    as_of: Timestamp,
    /// From what was to what is now.
    changes: Vec<Difference>,
    /// What was taken away since then and therefore stays away.
    withheld: Vec<WithheldBody>,
    /// Who got back what was taken away since, where that was asked for.
    reinstated: Vec<WithheldBody>,
    sessions_ended: usize,
    /// The point just before: restoring it undoes this, as far as the copy reaches.
    previous_txid: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct WithheldBody {
    kind: &'static str,
    id: String,
    name: String,
    /// `deactivated_since`, `deleted_since`, `roles_reduced_since`, `password_changed_since` or `revoked_since`.
    reason: &'static str,
}

/// Which moment, as in a restore.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RecoverBody {
    /// Say what would be put in place, and change nothing.
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    at: Option<Timestamp>,
    #[serde(default)]
    #[schema(pattern = "^[0-9a-f]{16}$")]
    txid: Option<String>,
}

/// What was put in the place of a lost file.
#[derive(Serialize, ToSchema)]
struct RecoveryBody {
    #[schema(inline)]
    object: RecoveryObject,
    organization_id: OrganizationId,
    dry_run: bool,
    txid: String,
    as_of: Timestamp,
    /// The directory on the server that keeps what was there; null if nothing was.
    kept: Option<String>,
    /// It was frozen and stays so: what is in place is the frozen file, to the bit, and no session ended.
    frozen: bool,
}

/// Two moments.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Moments {
    /// A time (RFC 3339) or a transaction (16 hexadecimal digits).
    from: String,
    /// The same; now if it is left out.
    to: Option<String>,
}

/// What differs between two moments.
#[derive(Serialize, ToSchema)]
struct Differences {
    #[schema(inline)]
    object: DifferencesObject,
    organization_id: OrganizationId,
    from: PointBody,
    /// Null for now.
    to: Option<PointBody>,
    #[serde(rename = "differences")]
    data: Vec<Difference>,
}

/// Get the state of the backup
///
/// Operators only.
#[utoipa::path(
    get, path = "/v1/backup", tag = "Backups",
    security(("api_key" = ["organizations:read"])),
    responses(
        (status = 200, description = "The state", body = DeploymentBackup),
        (status = 409, description = "`backup_not_configured`", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn get_deployment_backup(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
) -> Answer {
    let backups = configured(&state)?;
    let of = |source| ProgressBody::from(backups.progress(source));
    let body = DeploymentBackup {
        object: DeploymentBackupObject,
        mode: if backups.is_foreign() { "litestream" } else { "built-in" },
        waiting: backups.waiting(),
        confirming: backups.confirming(),
        superseded: backups.superseded(),
        catalog: of(Source::Catalog),
        keyring: of(Source::Keyring),
    };
    Ok(reply::json(200, &body))
}

/// Get an organization's backup
///
/// What can be had back, and how far the copy has come; also of an organization that is set aside, or whose file cannot
/// be used. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/backup", tag = "Backups",
    security(("api_key" = ["organizations:read"])),
    responses(
        (status = 200, description = "The backup", body = BackupBody),
        (status = 409, description = "`backup_not_configured`", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn get_backup(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::OrganizationsRead>,
    Path(path): Path<OrganizationPath>,
) -> Answer {
    let backups = configured(&state)?;
    let route = state.directory.by_name(&path.org).await?;
    let id = route.organization();
    let replication = match state.tenants.open(&route).await {
        Ok(tenant) => Some(tenant.replication()),
        Err(error) if error.kind() == Kind::Unavailable => None,
        Err(error) => return Err(error.into()),
    };
    // What is known here is told all the same: this is when it is asked for.
    let history = match backups.history(Source::Organization(id)).await {
        Ok(history) => Some(history),
        Err(error) if is_out_of_reach(&error) => None,
        Err(error) => return Err(error.into()),
    };
    let store_reachable = history.is_some();
    let history = history.unwrap_or_default();
    let item = |item: &Item| PointBody { txid: item.name.max.to_string(), at: Timestamp::from_utc(item.created_at) };
    let body = BackupBody {
        object: BackupObject,
        organization_id: id,
        replication,
        progress: backups.progress(Source::Organization(id)).into(),
        store_reachable,
        oldest: history.oldest.map(point),
        newest: history.newest.map(point),
        snapshots: history.snapshots.iter().map(item).collect(),
        bytes: history.bytes,
        gaps: history
            .gaps
            .iter()
            .map(|gap| GapBody { from_txid: gap.from.to_string(), to_txid: gap.to.to_string() })
            .collect(),
        clock_set_back: history
            .setbacks
            .iter()
            .map(|found| SetbackBody { before: point(found.ahead), after: point(found.behind) })
            .collect(),
    };
    Ok(reply::json(200, &body))
}

/// Compare two moments of an organization
///
/// Members, keys and settings that were added, removed or changed. Only for operators.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/differences", tag = "Backups",
    security(("api_key" = ["organizations:read"])),
    params(Moments),
    responses(
        (status = 200, description = "The differences", body = Differences),
        (status = 409, description = "`backup_not_configured` or `backup_time_unclear`", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn list_differences(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    _caller: Operator<scope::OrganizationsRead>,
    Query(moments): Query<Moments>,
) -> Answer {
    let backups = configured(&state)?;
    let from = moment(&state, "from", &moments.from)?;
    let to = moments.to.as_deref().map(|to| moment(&state, "to", to)).transpose()?;
    let before = had(&state, backups, &tenant, from).await?;
    let after = match to {
        Some(to) => Some(had(&state, backups, &tenant, to).await?),
        None => None,
    };
    let now = tenant.read(Facts::of).await?;
    let differences = match &after {
        Some(after) => between(&before.facts.without(&now.erased), &after.facts.without(&now.erased)),
        None => between(&before.facts.without(&now.erased), &now),
    };
    let of = |past: &Past| PointBody { txid: past.txid.to_string(), at: past.as_of };
    let body = Differences {
        object: DifferencesObject,
        organization_id: tenant.id(),
        from: of(&before),
        to: after.as_ref().map(of),
        data: differences,
    };
    Ok(reply::json(200, &body))
}

/// Restore an organization
///
/// Makes it what it was, in one transaction, while everybody else goes on. What was taken away since (access,
/// roles, keys, passwords) stays away, every session ends, and the audit log goes on and says so. Only for
/// operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/restorations", tag = "Backups",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "What was restored, or would be", body = RestorationBody),
        (status = 409, description = "`backup_not_configured`; `backup_damaged`; `backup_time_unclear`; or nobody \
         would own it: `last_owner`",
         body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn restore_organization(
    State(state): State<DeploymentState>,
    tenant: Tenant,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Json(body): Json<RestoreBody>,
) -> Answer {
    let backups = configured(&state)?;
    let target = target_of(&state, body.at, body.txid.as_deref())?;
    let past = had(&state, backups, &tenant, target).await?;
    let access = if body.reinstate { Access::AsThen } else { Access::AsNow };
    let restoration = if body.dry_run {
        rehearse(&tenant, &past, access).await?
    } else {
        let restored = restore(backups, &tenant, &past, access, &by_caller(&info, &caller)).await?;
        let act = Act::about("organization.restored", tenant.id())
            .with("txid", restored.txid.to_string())
            .with("as_of", restored.as_of.to_string())
            .with("previous_txid", restored.previous.map(|txid| txid.to_string()))
            .with("changes", restored.changes.len())
            .with("withheld", restored.withheld.len())
            .with("reinstated", restored.reinstated.len())
            .with("sessions_ended", restored.sessions_ended);
        state.tenant.operator_log.note(&caller, &info, act).await;
        restored
    };
    Ok(reply::json(200, &body_of(tenant.id(), body.dry_run, restoration)))
}

/// Recover an organization whose file is lost
///
/// Puts what the backup has in the place of a file that is missing or cannot be read. The broken file is kept beside
/// it, every session ends. What was revoked after that point is not known and may be valid again, so take the newest
/// point unless it is broken as well. What is frozen comes back as the frozen file, to the bit, and stays frozen. Only
/// for operators.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/recovery", tag = "Backups",
    security(("api_key" = ["organizations:write"])),
    responses(
        (status = 200, description = "It is in place", body = RecoveryBody),
        (status = 409, description = "`backup_not_configured`; `backup_damaged`; `backup_time_unclear`; it is fine: \
         `organization_readable`, or `organization_frozen` of one that is frozen; `freeze_not_in_backup`: this point \
         is not the frozen file",
         body = Problem, content_type = "application/problem+json"),
        (status = 421, description = "`organization_moved`: it has left for another deployment", body = Problem,
         content_type = "application/problem+json"),
    ),
)]
async fn recover_organization(
    State(state): State<DeploymentState>,
    caller: Operator<scope::OrganizationsWrite>,
    info: RequestInfo,
    Path(path): Path<OrganizationPath>,
    Json(body): Json<RecoverBody>,
) -> Answer {
    let backups = configured(&state)?;
    let target = target_of(&state, body.at, body.txid.as_deref())?;
    let id = path.find(&state.directory).await?;
    let recovery = Recovery::of(id, backups, &state.tenants, &state.catalog).await?;
    let by = by_caller(&info, &caller);
    let replaced = if body.dry_run {
        rehearse_replacement(&recovery, id, target).await?
    } else {
        let replaced = replace(&recovery, id, target, &by).await?;
        let act = Act::about("organization.recovered", id)
            .with("txid", replaced.txid.to_string())
            .with("as_of", replaced.as_of.to_string())
            .with("frozen", replaced.is_frozen);
        state.tenant.operator_log.note(&caller, &info, act).await;
        replaced
    };
    let body = RecoveryBody {
        object: RecoveryObject,
        organization_id: id,
        dry_run: body.dry_run,
        txid: replaced.txid.to_string(),
        as_of: replaced.as_of,
        kept: replaced.kept.map(|kept| kept.display().to_string()),
        frozen: replaced.is_frozen,
    };
    Ok(reply::json(200, &body))
}

pub(in crate::features) fn target_of(
    state: &DeploymentState,
    time: Option<Timestamp>,
    txid: Option<&str>,
) -> Result<Target> {
    match (time, txid) {
        (Some(_), Some(_)) => {
            Err(Error::new(&codes::VALIDATION_FAILED).field("txid", "conflict", "Give at or txid, not both."))
        }
        (Some(time), None) => passed(state, "at", time),
        (None, Some(txid)) => txid_of("txid", txid).map(Target::Txid),
        (None, None) => Ok(Target::Latest),
    }
}

fn body_of(organization_id: OrganizationId, dry_run: bool, restoration: Restoration) -> RestorationBody {
    let listed = |list: Vec<Withheld>| {
        let body = |one: Withheld| WithheldBody { kind: one.kind, id: one.id, name: one.name, reason: one.reason };
        list.into_iter().map(body).collect()
    };
    RestorationBody {
        object: RestorationObject,
        organization_id,
        dry_run,
        txid: restoration.txid.to_string(),
        as_of: restoration.as_of,
        changes: restoration.changes,
        withheld: listed(restoration.withheld),
        reinstated: listed(restoration.reinstated),
        sessions_ended: restoration.sessions_ended,
        previous_txid: restoration.previous.map(|txid| txid.to_string()),
    }
}

pub(in crate::features) fn configured(state: &DeploymentState) -> Result<&Backups> {
    state.backups.as_ref().ok_or_else(|| Error::new(&codes::BACKUP_NOT_CONFIGURED))
}

/// What a moment held. The newest includes what was committed just now.
async fn had(state: &DeploymentState, backups: &Backups, tenant: &Tenant, target: Target) -> Result<Past> {
    backups.ship_now(Source::Organization(tenant.id())).await?;
    past(backups, &state.tenants, tenant, target, &workshop(backups)).await
}

/// What is still to come would be answered with the newest there is, in the name of another moment.
fn passed(state: &DeploymentState, field: &'static str, time: Timestamp) -> Result<Target> {
    if time > state.tenant.clock.now().plus(CLOCKS_DIFFER) {
        let message = "This moment is still to come.";
        return Err(Error::new(&codes::VALIDATION_FAILED).field(field, "in_the_future", message));
    }
    Ok(at(time))
}

fn moment(state: &DeploymentState, field: &'static str, text: &str) -> Result<Target> {
    if text.len() == 16 && !text.contains('-') {
        return txid_of(field, text).map(Target::Txid);
    }
    let time: Option<Timestamp> = serde_json::from_value(text.into()).ok();
    let time = time.ok_or_else(|| {
        let message = "Use a time such as 2026-11-22T09:30:00Z, or the 16 hexadecimal digits of a transaction.";
        Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", message)
    })?;
    passed(state, field, time)
}

fn txid_of(field: &'static str, text: &str) -> Result<Txid> {
    text.parse().ok().filter(|txid| *txid >= Txid::FIRST).ok_or_else(|| {
        Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", "Use the 16 hexadecimal digits of a transaction.")
    })
}

fn point(point: Point) -> PointBody {
    PointBody { txid: point.txid.to_string(), at: Timestamp::from_utc(point.created_at) }
}
