//! The operations on sessions, for operators and for apps that hold a session token.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{End, Session, SignedIn, Status};
use crate::base::{
    Credential, CredentialKind, Error, MemberId, OrganizationId, Page, Result, Secret, SessionId, Timestamp, codes,
};
use crate::features::audit::http::by_caller;
use crate::features::audit::{Act, Target};
use crate::features::member::http::MemberBody;
use crate::features::{TenantState, session};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, scope};
use crate::web::extract::{Order, Paging};
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Json, List, Path, Query, RequestInfo, reply};

object!(pub SessionObject = "session");

pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new()
        .routes(routes!(list_sessions))
        .routes(routes!(get_session, revoke_session))
        .routes(routes!(authenticate_session))
}

/// A member's signed-in browser or device.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionBody {
    #[schema(inline)]
    object: SessionObject,
    id: SessionId,
    organization_id: OrganizationId,
    member_id: MemberId,
    #[schema(inline)]
    status: Status,
    /// How the member proved to be themself (RFC 8176).
    #[schema(example = json!(["pwd"]))]
    amr: Vec<String>,
    auth_time: Timestamp,
    ip_address: Option<String>,
    user_agent: Option<String>,
    created_at: Timestamp,
    /// To the minute.
    last_seen_at: Timestamp,
    /// When it ends unless it is used before.
    idle_expires_at: Timestamp,
    /// When it ends in any case.
    expires_at: Timestamp,
    ended_at: Option<Timestamp>,
    /// Whose session it is; only where the session was looked up by its token.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    member: Option<MemberBody>,
}

impl SessionBody {
    /// `now` decides on the status.
    #[must_use]
    pub fn new(organization_id: OrganizationId, session: Session, now: Timestamp) -> Self {
        Self {
            object: SessionObject,
            id: session.id,
            organization_id,
            member_id: session.member_id,
            status: session.status(now),
            amr: session.amr,
            auth_time: session.auth_time,
            ip_address: session.ip_address,
            user_agent: session.user_agent,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            idle_expires_at: session.idle_expires_at,
            expires_at: session.expires_at,
            ended_at: session.ended_at,
            member: None,
        }
    }

    /// The session together with its member.
    #[must_use]
    pub fn with_member(tenant: &Tenant, signed_in: &SignedIn) -> Self {
        let now = tenant.clock().now();
        let member = Some(MemberBody::new(tenant.id(), &signed_in.member, now));
        Self { member, ..Self::new(tenant.id(), signed_in.session.clone(), now) }
    }
}

/// Which sessions to list.
#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SessionFilter {
    /// Only the sessions of this member.
    #[param(pattern = "^mem_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    member: Option<String>,
    /// How many objects at the most.
    #[param(minimum = 1, maximum = 100, default = 10)]
    limit: Option<u32>,
    /// Objects before this id: `list_metadata.before` of the page that you have. Not together with `after`.
    #[param(pattern = "^session_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    before: Option<String>,
    /// Objects after this id: `list_metadata.after` of the page that you have.
    #[param(pattern = "^session_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    after: Option<String>,
    /// By time of creation; newest first unless you say otherwise.
    #[param(inline)]
    order: Option<Order>,
}

/// A session token to look up.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AuthenticateSession {
    /// The value of the organization's session cookie.
    #[schema(value_type = String, format = Password, min_length = 1, max_length = 200)]
    session_token: Secret,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
struct SessionPath {
    /// The session's id.
    session: String,
}

impl SessionPath {
    fn id(&self) -> Result<SessionId> {
        self.session.parse().map_err(|_| unknown())
    }
}

fn unknown() -> Error {
    Error::new(&codes::SESSION_NOT_FOUND)
}

/// List sessions
///
/// Active, expired and revoked ones, of one member or of all.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/sessions", tag = "Sessions",
    security(("api_key" = ["sessions:read"])),
    params(SessionFilter),
    responses((status = 200, description = "A page of sessions", body = List<SessionBody>)),
)]
async fn list_sessions(
    tenant: Tenant,
    _caller: Allowed<scope::SessionsRead>,
    Query(filter): Query<SessionFilter>,
) -> Answer {
    let SessionFilter { member, limit, before, after, order } = filter;
    let page = Paging { limit, before, after, order }.check(|cursor| cursor.parse::<SessionId>().is_ok())?;
    let sessions = match member.map(|member| member.parse::<MemberId>()) {
        // Nobody has this id, which is what an unknown one would say too.
        Some(Err(_)) => Page { data: Vec::new(), before: None, after: None },
        member => tenant.read(|db| session::list(db, member.and_then(Result::ok), &page)).await?,
    };
    let (organization, now) = (tenant.id(), tenant.clock().now());
    Ok(reply::json(200, &List::from(sessions.map(|session| SessionBody::new(organization, session, now)))))
}

/// Get a session
#[utoipa::path(
    get, path = "/v1/organizations/{org}/sessions/{session}", tag = "Sessions",
    security(("api_key" = ["sessions:read"])),
    params(SessionPath),
    responses((status = 200, description = "The session", body = SessionBody)),
)]
async fn get_session(tenant: Tenant, _caller: Allowed<scope::SessionsRead>, Path(path): Path<SessionPath>) -> Answer {
    let id = path.id()?;
    let session = tenant.read(|db| session::get(db, id)).await?.ok_or_else(unknown)?;
    Ok(reply::json(200, &SessionBody::new(tenant.id(), session, tenant.clock().now())))
}

/// Revoke a session
///
/// It ends at once, with everything that applications got through it. Revoking it again changes nothing.
#[utoipa::path(
    delete, path = "/v1/organizations/{org}/sessions/{session}", tag = "Sessions",
    security(("api_key" = ["sessions:write"])),
    params(SessionPath),
    responses((status = 204, description = "The session is over")),
)]
async fn revoke_session(
    State(state): State<TenantState>,
    tenant: Tenant,
    caller: Allowed<scope::SessionsWrite>,
    info: RequestInfo,
    Path(path): Path<SessionPath>,
) -> Answer {
    let (id, by) = (path.id()?, by_caller(&info, &caller));
    tenant.write_beyond(|db| session::end(db, id, End::RevokedByOperator, &by)).await?;
    let act = Act::about("session.revoked", tenant.id()).on(Target::new("session", id));
    state.operator_log.note(&caller, &info, act).await;
    Ok(reply::no_content())
}

/// Authenticate a session token
///
/// Tells whose active session a token opens, and counts as a use of the session. A token that is
/// malformed, unknown, expired, revoked or of another organization is the same 404.
#[utoipa::path(
    post, path = "/v1/organizations/{org}/sessions/authenticate", tag = "Sessions",
    security(("api_key" = ["sessions:read"])),
    responses((status = 200, description = "The session with its member", body = SessionBody)),
)]
async fn authenticate_session(
    State(state): State<TenantState>,
    tenant: Tenant,
    _caller: Allowed<scope::SessionsRead>,
    Json(body): Json<AuthenticateSession>,
) -> Answer {
    let token = Credential::parse(CredentialKind::Session, body.session_token.expose()).ok_or_else(unknown)?;
    let found = session::authenticate(&tenant, &token, &state.policy).await?.ok_or_else(unknown)?;
    Ok(reply::json(200, &SessionBody::with_member(&tenant, &found)))
}
