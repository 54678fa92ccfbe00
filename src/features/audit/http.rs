//! Audit logs at the edge: reading and verifying them, and naming whoever calls the API in them.

use axum::extract::State;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Act, Actor, By, Context, Event, Outcome, Payload, Target, Verification};
use crate::base::{AuditEventId, Timestamp};
use crate::catalog::Catalog;
use crate::features::{DeploymentState, TenantState, audit};
use crate::tenants::Tenant;
use crate::web::access::{Allowed, Identity, Operator, scope};
use crate::web::extract::Paging;
use crate::web::failure::Answer;
use crate::web::schema::object;
use crate::web::{Caller, List, Query, RequestInfo, reply};

object!(pub AuditEventObject = "audit_event");

/// The operations on an organization's log.
pub fn tenant_api() -> OpenApiRouter<TenantState> {
    OpenApiRouter::new()
        .routes(routes!(list_organization_audit_events))
        .routes(routes!(verify_organization_audit_events))
}

/// The operations on the operators' log.
pub fn deployment_api() -> OpenApiRouter<DeploymentState> {
    OpenApiRouter::new().routes(routes!(list_audit_events)).routes(routes!(verify_audit_events))
}

/// An act of whoever calls the API, for the organization's own log.
#[must_use]
pub fn by_caller(info: &RequestInfo, caller: &Caller) -> By {
    let actor = match &caller.identity {
        Identity::LocalOperator => Actor::operator(None, Some("local operator")),
        Identity::OperatorKey { id, name } => Actor::operator(Some(id.to_string()), Some(name)),
        Identity::OrganizationKey { id, name, .. } => {
            Actor { r#type: "api_key".into(), id: Some(id.to_string()), name: Some(name.clone()) }
        }
    };
    let context = Context { ip_address: info.ip_text(), user_agent: info.user_agent.clone(), ..Context::default() };
    By { actor, context, request_id: info.id.clone() }
}

/// The same for the catalog, which holds no personal data: the operator's key says who, nothing says where.
#[must_use]
pub fn by_operator(info: &RequestInfo, caller: &Caller) -> By {
    let By { mut actor, request_id, .. } = by_caller(info, caller);
    if !caller.is_operator() {
        // Those of organizations are named by their people.
        actor.name = None;
    }
    By { actor, context: Context::default(), request_id }
}

/// The operators' log, for writing only; cheap to clone. It gives no access to the catalog behind it.
#[derive(Clone)]
pub struct OperatorLog {
    catalog: Catalog,
}

impl OperatorLog {
    #[must_use]
    pub const fn new(catalog: Catalog) -> Self {
        Self { catalog }
    }

    /// Notes what an operator has just done to an organization: which act on which ids, and what the organization's
    /// own log says of it besides, as far as that names no person. The acts of an organization's own keys are its own
    /// affair, and are not noted here.
    ///
    /// The act itself is committed, and in the organization's log; so a failure here does not undo or
    /// hide it, but must be seen by whoever watches the service.
    pub async fn note(&self, caller: &Caller, info: &RequestInfo, act: Act) {
        if !caller.is_operator() {
            return;
        }
        let (by, action) = (by_operator(info, caller), act.action);
        if let Err(error) = self.catalog.write(|db| audit::record(db, &by, act)).await {
            let (cause, request_id) = (error.cause(), info.id.as_str());
            tracing::error!(%error, cause, request_id, action, "an operator's act is missing in the operators' log");
        }
    }
}

/// Something that happened, in the order in which it was committed.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditEvent)]
struct AuditEventBody {
    #[schema(inline)]
    object: AuditEventObject,
    id: AuditEventId,
    /// Its place in the log, from 1 without gaps.
    #[schema(minimum = 1)]
    sequence: i64,
    /// What happened: `member.created`, `session.revoked`, ...
    #[schema(example = "member.created")]
    action: String,
    occurred_at: Timestamp,
    /// Who did it; null after the person was erased.
    actor: Option<Actor>,
    targets: Vec<Target>,
    context: Option<Context>,
    #[schema(inline)]
    outcome: Outcome,
    request_id: Option<String>,
    /// What else there is to say about this kind of act.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The hash of the event before this one, in hexadecimal; zeroes for the first.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    prev_hash: String,
    /// SHA-256 over this event and `prev_hash`, in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{64}$")]
    hash: String,
}

impl From<Event> for AuditEventBody {
    fn from(event: Event) -> Self {
        let (actor, targets, context, request_id, metadata) = match event.payload {
            Some(Payload { actor, targets, context, request_id, metadata }) => {
                (Some(actor), targets, Some(context), Some(request_id), metadata)
            }
            None => (None, Vec::new(), None, None, Map::new()),
        };
        Self {
            object: AuditEventObject,
            id: event.id,
            sequence: event.sequence,
            action: event.action,
            occurred_at: event.occurred_at,
            actor,
            targets,
            context,
            outcome: if event.outcome == "failure" { Outcome::Failure } else { Outcome::Success },
            request_id,
            metadata,
            prev_hash: hex::encode(event.prev_hash),
            hash: hex::encode(event.hash),
        }
    }
}

/// List an organization's audit events
///
/// What happened in the organization, newest first.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/audit_events", tag = "Audit events",
    security(("api_key" = ["audit:read"])),
    params(Paging),
    responses((status = 200, description = "A page of events", body = List<AuditEventBody>)),
)]
async fn list_organization_audit_events(
    tenant: Tenant,
    _caller: Allowed<scope::AuditRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<AuditEventId>().is_ok())?;
    let events = tenant.read(|db| audit::list(db, &page)).await?;
    Ok(reply::json(200, &List::from(events.map(AuditEventBody::from))))
}

/// Verify an organization's audit log
///
/// Walks the whole chain of hashes. Keep `head` elsewhere: a log that was cut off at its end is intact
/// in itself, and only a remembered head tells.
#[utoipa::path(
    get, path = "/v1/organizations/{org}/audit_events/verification", tag = "Audit events",
    security(("api_key" = ["audit:read"])),
    responses((status = 200, description = "What was found", body = Verification)),
)]
async fn verify_organization_audit_events(tenant: Tenant, _caller: Allowed<scope::AuditRead>) -> Answer {
    Ok(reply::json(200, &tenant.scan(audit::verify).await?))
}

/// List the operators' audit events
///
/// Operators only. What operators did, to the deployment and to organizations, newest first. It holds no
/// personal data: names and addresses are in the organization's own log.
#[utoipa::path(
    get, path = "/v1/audit_events", tag = "Audit events",
    security(("api_key" = ["audit:read"])),
    params(Paging),
    responses((status = 200, description = "A page of events", body = List<AuditEventBody>)),
)]
async fn list_audit_events(
    State(state): State<DeploymentState>,
    _caller: Operator<scope::AuditRead>,
    Query(paging): Query<Paging>,
) -> Answer {
    let page = paging.check(|cursor| cursor.parse::<AuditEventId>().is_ok())?;
    let events = state.catalog.read(|db| audit::list(db, &page)).await?;
    Ok(reply::json(200, &List::from(events.map(AuditEventBody::from))))
}

/// Verify the operators' audit log
///
/// Operators only. Walks the whole chain of hashes.
#[utoipa::path(
    get, path = "/v1/audit_events/verification", tag = "Audit events",
    security(("api_key" = ["audit:read"])),
    responses((status = 200, description = "What was found", body = Verification)),
)]
async fn verify_audit_events(State(state): State<DeploymentState>, _caller: Operator<scope::AuditRead>) -> Answer {
    Ok(reply::json(200, &state.catalog.scan(audit::verify).await?))
}
