//! Resolution: which organization a request names, if any, and which router it is for.
//!
//! Four ways to name one: host, path (`/o/{org}`, `/v1/organizations/{org}`), the header
//! `Bulkhead-Organization` from a configured proxy, and the hint inside a credential. Two that disagree
//! are a 400, never a silent choice.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::hint;
use super::paths::{acknowledges, is_upload, needs_no_file, organization_in_api_path, rewrite};
use crate::backup::{Backups, ledger};
use crate::base::{Error, HostName, OrganizationId, Result, codes};
use crate::catalog::{Directory, State as OrganizationState, TenantRoute};
use crate::fairness::Turn;
use crate::features::api_key::http::Authenticator;
use crate::features::organization;
use crate::tenants::{Tenant, Tenants};
use crate::web::access::presented_key;
use crate::web::extract::body as body_of;
use crate::web::{Address, Caller, Failure, IssuerKind, Place, PlaceFacts};

/// Everything behind the front door; cheap to clone.
#[derive(Clone)]
pub struct Front(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub address: Address,
    pub directory: Directory,
    pub tenants: Tenants,
    pub backups: Option<Backups>,
    pub trust: Trust,
    pub authenticator: Authenticator,
    pub tenant: Router,
    pub deployment: Router,
    pub api: Router,
}

/// Whose word counts for the header that names an organization.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    pub header: bool,
    pub proxies: Vec<ipnet::IpNet>,
}

/// The peer's own address, as accepted.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Which router answers.
enum Door {
    Tenant,
    Deployment,
    Api,
}

impl Front {
    #[must_use]
    pub fn new(
        address: Address,
        directory: Directory,
        tenants: Tenants,
        backups: Option<Backups>,
        trust: Trust,
        authenticator: Authenticator,
        [tenant, deployment, api]: [Router; 3],
    ) -> Self {
        Self(Arc::new(Inner { address, directory, tenants, backups, trust, authenticator, tenant, deployment, api }))
    }

    /// The paths of the three routers, for the test that walks them all.
    #[must_use]
    pub fn paths(&self) -> [Vec<String>; 3] {
        [&self.0.tenant, &self.0.deployment, &self.0.api].map(super::paths)
    }
}

/// The public way in.
pub async fn dispatch(State(front): State<Front>, request: Request) -> Response {
    match route(&front, request).await {
        // The turn ends with the answer.
        Ok((door, request, _turn)) => enter(&front, door, request).await,
        Err(error) => Failure::from(error).into_response(),
    }
}

/// The way in for the local operator: the API and nothing else, whatever the host.
pub async fn dispatch_local(State(front): State<Front>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let admitted = async {
        if let Some(name) = organization_in_api_path(parts.uri.path())
            && let Some(route) = named_to_api(&front, &name, None, &mut parts).await?
        {
            admit(&front, route, None, &mut parts).await?;
        }
        Ok::<_, Error>(())
    };
    match admitted.await {
        Ok(()) => enter(&front, Door::Api, Request::from_parts(parts, body)).await,
        Err(error) => Failure::from(error).into_response(),
    }
}

async fn enter(front: &Front, door: Door, request: Request) -> Response {
    let place = request.extensions().get::<Place>().cloned();
    let router = match door {
        Door::Tenant => &front.0.tenant,
        Door::Deployment => &front.0.deployment,
        Door::Api => &front.0.api,
    };
    let acknowledges = acknowledges(&request);
    let (answered, awaited) = ledger::watched(router.clone().oneshot(request)).await;
    let mut response = match answered {
        Ok(response) => response,
        Err(never) => match never {},
    };
    // What is told to be done must be at the store where an operator wants that. A refusal tells of nothing done.
    let is_done = response.status().is_success() || response.status().is_redirection();
    if let Some(backups) = front.0.backups.as_ref().filter(|_| acknowledges && is_done && !awaited.sources.is_empty())
        && let Err(error) = backups.confirm_answer(&awaited).await
    {
        response = Failure::from(error).into_response();
    }
    // A refusal is drawn further out, and wants to look like the organization's.
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if let Some(place) = place.filter(|_| refused) {
        response.extensions_mut().insert(place);
    }
    response
}

/// The request with all of its body, before any file is opened for it: whoever sends slowly keeps none open.
async fn whole(request: Request) -> Result<Request> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let bytes = body_of(Request::from_parts(parts.clone(), body), &()).await?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// What the head of a request leads to.
struct Way {
    door: Door,
    organization: Option<TenantRoute>,
    /// Where the organization's pages stand, and whose tokens it gives.
    place: Option<(String, IssuerKind)>,
}

/// In this order: whose it is, whether that organization may have another request, all of the body, the file. So a
/// flooded organization has no more of anything than its share, not even of bodies that never end.
async fn route(front: &Front, request: Request) -> Result<(Door, Request, Option<Turn>)> {
    let is_upload = is_upload(&request);
    let (mut parts, body) = request.into_parts();
    let mut way = way(front, &mut parts).await?;
    let by_operator = parts.extensions.get::<Caller>().is_some_and(Caller::is_operator);
    let mut turn = turn_of(front, &way, by_operator)?;
    let mut request = Request::from_parts(parts, body);
    if !is_upload {
        request = whole(request).await?;
    }
    if matches!(way.door, Door::Deployment) {
        // On the deployment's own host: its issuer's endpoints work for the organization that the credential names.
        let (hinted, whole) = hint::of(request).await?;
        request = whole;
        if let Some(route) = active(front, hinted).await? {
            let path = request.uri().path();
            let place = wants_place(path).then(|| (format!("/o/{}", route.slug()), IssuerKind::Deployment));
            way = Way { door: Door::Tenant, organization: Some(route), place };
            turn = turn_of(front, &way, by_operator)?;
        }
    }
    let (mut parts, body) = request.into_parts();
    if let Some(route) = way.organization {
        admit(front, route, way.place, &mut parts).await?;
    }
    Ok((way.door, Request::from_parts(parts, body), turn))
}

async fn way(front: &Front, parts: &mut Parts) -> Result<Way> {
    let by_host = by_host(front, parts).await?;
    let by_header = by_header(front, parts).await?;
    let path = parts.uri.path().to_owned();

    if path.starts_with("/v1/") && path != "/v1/session" {
        let outside = agree(by_host, by_header)?;
        let organization = match organization_in_api_path(&path) {
            Some(name) => named_to_api(front, &name, outside, parts).await?,
            None if path.starts_with("/v1/organizations/") => {
                return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
            }
            // An organization's key on an operation of the deployment: known, so that it can be told that it may not.
            None => match key_hint(parts) {
                Some(id) => match front.0.directory.by_id(id).await {
                    Ok(route) => agree(Some(route), outside)?,
                    Err(_) => None,
                },
                None => None,
            },
        };
        return Ok(Way { door: Door::Api, organization, place: None });
    }

    // RFC 8414 section 3.1 puts the issuer's path behind the well-known one.
    const METADATA: &str = "/.well-known/oauth-authorization-server";
    let path = match path.strip_prefix(METADATA) {
        Some(issuer_path) if issuer_path.starts_with("/o/") => format!("{issuer_path}{METADATA}"),
        _ => path,
    };
    let mut base = String::new();
    let mut by_path = None;
    if let Some(rest) = path.strip_prefix("/o/") {
        let (name, inner) = rest.split_once('/').unwrap_or((rest, ""));
        by_path = Some(front.0.directory.by_name(name).await?);
        base = format!("/o/{name}");
        rewrite(parts, &format!("/{inner}"))?;
    }
    Ok(match agree(agree(by_host, by_header)?, by_path)? {
        Some(route) => {
            let place = wants_place(parts.uri.path()).then_some((base, IssuerKind::Organization));
            Way { door: Door::Tenant, organization: Some(route), place }
        }
        None => Way { door: Door::Deployment, organization: None, place: None },
    })
}

/// Whether what stands at an address wants to know what the organization is called and looks like. The session check,
/// which is asked for more often than all else, does not.
fn wants_place(path: &str) -> bool {
    path != "/v1/session"
}

/// The request's place among those of its organization. Operators have none: whatever floods an organization, they
/// get in to do something about it.
fn turn_of(front: &Front, way: &Way, by_operator: bool) -> Result<Option<Turn>> {
    let Some(route) = way.organization.as_ref().filter(|_| !by_operator) else { return Ok(None) };
    front.0.tenants.account(route).enter().map(Some)
}

/// The organization of a hint, where it can be used. If not, the deployment's own handler answers as for any other
/// credential that is no good.
async fn active(front: &Front, hint: Option<OrganizationId>) -> Result<Option<TenantRoute>> {
    let Some(id) = hint else { return Ok(None) };
    match front.0.directory.by_id(id).await {
        Ok(route) => Ok(Some(route).filter(|route| route.state() == OrganizationState::Active)),
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn by_host(front: &Front, parts: &Parts) -> Result<Option<TenantRoute>> {
    let text = parts.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let target = parts.uri.authority().map(axum::http::uri::Authority::as_str);
    // RFC 9112 section 3.2.2 lets the target win; here two that disagree are refused.
    if let (Some(text), Some(target)) = (text, target)
        && HostName::parse(text) != HostName::parse(target)
    {
        return Err(Error::new(&codes::MALFORMED_HOST));
    }
    let host = text.or(target).and_then(HostName::parse).ok_or_else(|| Error::new(&codes::MALFORMED_HOST))?;
    if parts.headers.get_all(header::HOST).iter().count() > 1 {
        return Err(Error::new(&codes::MALFORMED_HOST));
    }
    let own = front.0.address.host();
    if host == *own {
        Ok(None)
    } else if let Some(label) = host.label_before(own) {
        front.0.directory.by_name(label).await.map(Some)
    } else {
        front.0.directory.by_host(&host).await.map(Some)
    }
}

async fn by_header(front: &Front, parts: &Parts) -> Result<Option<TenantRoute>> {
    let Some(value) = parts.headers.get("bulkhead-organization") else { return Ok(None) };
    let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
    let trusted = peer.is_some_and(|peer| front.0.trust.proxies.iter().any(|net| net.contains(&peer)));
    if !front.0.trust.header || !trusted {
        return Ok(None);
    }
    let name = value.to_str().map_err(|_| Error::new(&codes::MALFORMED_REQUEST))?;
    front.0.directory.by_name(name).await.map(Some)
}

fn agree(one: Option<TenantRoute>, other: Option<TenantRoute>) -> Result<Option<TenantRoute>> {
    match (one, other) {
        (Some(one), Some(other)) if one.organization() != other.organization() => {
            Err(Error::new(&codes::ORGANIZATION_CONFLICT))
        }
        (one, other) => Ok(one.or(other)),
    }
}

/// The API of one organization: path, host, header and key must all mean the same one. Nothing where no file is
/// to be opened for it.
async fn named_to_api(
    front: &Front,
    name: &str,
    outside: Option<TenantRoute>,
    parts: &mut Parts,
) -> Result<Option<TenantRoute>> {
    let hint = key_hint(parts);
    let named = match front.0.directory.by_name(name).await {
        Ok(route) => Some(route),
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => None,
        Err(error) => return Err(error),
    };
    // The same answer whether the other organization exists or not: a key tells nothing of others.
    if let Some(hint) = hint
        && named.as_ref().map(TenantRoute::organization) != Some(hint)
    {
        return Err(Error::new(&codes::ORGANIZATION_CONFLICT));
    }
    let is_local = parts.extensions.get::<Caller>().is_some();
    if !is_local && hint.is_none() {
        // Without a credential that is good nothing is opened, and what looks like an operator's key gets nobody past
        // the organization's limits.
        let about = named.as_ref().map(TenantRoute::organization);
        let (caller, left) = front.0.authenticator.operator(&parts.headers, about).await?;
        parts.extensions.insert(caller);
        if let Some(left) = left {
            parts.extensions.insert(left);
        }
    }
    // What the path names and nobody has is nobody's, whatever the host says.
    if named.is_none() {
        return Ok(None);
    }
    let named = agree(named, outside)?;
    Ok(named.filter(|_| hint.is_some() || !needs_no_file(parts.uri.path())))
}

/// Opens the organization and hands it to the request: the one place where that happens.
async fn admit(
    front: &Front,
    route: TenantRoute,
    place: Option<(String, IssuerKind)>,
    parts: &mut Parts,
) -> Result<()> {
    // A suspended organization can be administered by operators, and by nobody else.
    let by_operator = place.is_none() && parts.extensions.get::<Caller>().is_some_and(Caller::is_operator);
    let suspended = route.state() != OrganizationState::Active && !by_operator;
    let tenant = front.0.tenants.open(&route).await?;
    tracing::Span::current().record("organization", tracing::field::display(tenant.id()));
    if let Some((base, issuer)) = place {
        parts.extensions.insert(place_of(front, &route, &tenant, base, issuer).await?);
    }
    if suspended {
        return Err(Error::new(&codes::ORGANIZATION_SUSPENDED));
    }
    parts.extensions.insert::<Tenant>(tenant);
    Ok(())
}

async fn place_of(
    front: &Front,
    route: &TenantRoute,
    tenant: &Tenant,
    base: String,
    issuer: IssuerKind,
) -> Result<Place> {
    let organization = organization::current(tenant).await?;
    let url = front.0.address.of_organization(route.slug());
    let issuer_url = match issuer {
        IssuerKind::Organization => url.clone(),
        IssuerKind::Deployment => front.0.address.origin().to_owned(),
    };
    Ok(Place::from(PlaceFacts {
        base,
        slug: route.slug().clone(),
        url,
        issuer,
        issuer_url,
        display_name: organization.name.clone(),
        accent: organization.accent.clone(),
    }))
}

/// The organization that an API key names.
fn key_hint(parts: &Parts) -> Option<OrganizationId> {
    presented_key(&parts.headers)?.organization()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_out_by_link_is_acknowledged_and_a_look_is_not() {
        let asks = |method: &str, path: &str| {
            acknowledges(&Request::builder().method(method).uri(path).body(Body::empty()).unwrap())
        };
        for (method, path) in [
            ("POST", "/sign-out"),
            ("PATCH", "/v1/organizations/acme"),
            // OpenID Connect RP-Initiated Logout 1.0 section 2 ends a session by GET.
            ("GET", "/oauth2/logout?id_token_hint=x"),
            ("GET", "/oauth2/authorize?client_id=x"),
            ("GET", "/oauth2/continue"),
        ] {
            assert!(asks(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/account"),
            ("GET", "/v1/organizations/acme"),
            ("POST", "/v1/organizations/acme/sessions/authenticate"),
            ("POST", "/oauth2/introspect"),
        ] {
            assert!(!asks(method, path), "{method} {path}");
        }
    }
}
