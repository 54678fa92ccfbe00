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
use axum::http::request::Parts;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use tower::ServiceExt;

use super::hint;
use crate::base::{Error, HostName, OrganizationId, Result, codes};
use crate::catalog::{Directory, State as OrganizationState, TenantRoute};
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
    pub trust: Trust,
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
        trust: Trust,
        [tenant, deployment, api]: [Router; 3],
    ) -> Self {
        Self(Arc::new(Inner { address, directory, tenants, trust, tenant, deployment, api }))
    }

    /// The paths of the three routers, for the test that walks them all.
    #[must_use]
    pub fn paths(&self) -> [Vec<String>; 3] {
        [&self.0.tenant, &self.0.deployment, &self.0.api].map(super::paths)
    }
}

/// The public way in.
pub async fn dispatch(State(front): State<Front>, request: Request) -> Response {
    let whole = if is_upload(&request) { Ok(request) } else { whole(request).await };
    let routed = match whole {
        Ok(request) => route(&front, request).await,
        Err(error) => Err(error),
    };
    match routed {
        Ok((door, request)) => enter(&front, door, request).await,
        Err(error) => Failure::from(error).into_response(),
    }
}

/// The way in for the local operator: the API and nothing else, whatever the host.
pub async fn dispatch_local(State(front): State<Front>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let named = match organization_in_api_path(parts.uri.path()) {
        Some(name) => admit_to_api(&front, &name, None, &mut parts).await,
        None => Ok(()),
    };
    match named {
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
    let mut response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
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

/// An upload goes to a file piece by piece, and no organization is opened for it.
pub(super) fn is_upload(request: &Request) -> bool {
    request.uri().path() == "/v1/imports"
}

async fn route(front: &Front, request: Request) -> Result<(Door, Request)> {
    let (mut parts, body) = request.into_parts();
    let by_host = by_host(front, &parts).await?;
    let by_header = by_header(front, &parts).await?;
    let path = parts.uri.path().to_owned();

    if path.starts_with("/v1/") && path != "/v1/session" {
        let outside = agree(by_host, by_header)?;
        match organization_in_api_path(&path) {
            Some(name) => admit_to_api(front, &name, outside, &mut parts).await?,
            None => {
                // An organization's key on an operation of the deployment: known, so that it can be told
                // that it may not.
                if path.starts_with("/v1/organizations/") {
                    return Err(Error::new(&codes::ORGANIZATION_NOT_FOUND));
                }
                if let Some(id) = key_hint(&parts)
                    && let Ok(route) = front.0.directory.by_id(id).await
                    && let Some(route) = agree(Some(route), outside)?
                {
                    admit(front, route, None, &mut parts).await?;
                }
            }
        }
        return Ok((Door::Api, Request::from_parts(parts, body)));
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
        rewrite(&mut parts, &format!("/{inner}"))?;
    }
    if let Some(route) = agree(agree(by_host, by_header)?, by_path)? {
        admit(front, route, Some((base, IssuerKind::Organization)), &mut parts).await?;
        return Ok((Door::Tenant, Request::from_parts(parts, body)));
    }
    // On the deployment's own host: its issuer's endpoints work for the organization that the
    // credential names.
    let (hinted, request) = hint::of(Request::from_parts(parts, body)).await?;
    let Some(id) = hinted else { return Ok((Door::Deployment, request)) };
    let route = match front.0.directory.by_id(id).await {
        Ok(route) if route.state() == OrganizationState::Active => route,
        // The deployment's own handler answers as for any other credential that is no good.
        Ok(_) => return Ok((Door::Deployment, request)),
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => return Ok((Door::Deployment, request)),
        Err(error) => return Err(error),
    };
    let (mut parts, body) = request.into_parts();
    let base = format!("/o/{}", route.slug());
    admit(front, route, Some((base, IssuerKind::Deployment)), &mut parts).await?;
    Ok((Door::Tenant, Request::from_parts(parts, body)))
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

/// The API of one organization: path, host, header and key must all mean the same one.
async fn admit_to_api(front: &Front, name: &str, outside: Option<TenantRoute>, parts: &mut Parts) -> Result<()> {
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
    // Without any credential nothing is looked up or opened.
    if !is_local && presented_key(&parts.headers).is_none() {
        return Err(Error::new(&codes::UNAUTHENTICATED));
    }
    // What the path names and nobody has is nobody's, whatever the host says.
    if named.is_none() {
        return Ok(());
    }
    let Some(named) = agree(named, outside)? else { return Ok(()) };
    if hint.is_none() && needs_no_file(parts.uri.path()) {
        return Ok(());
    }
    admit(front, named, None, parts).await
}

/// What operators do about an organization whose file may be of no use. They are given no file; an organization's
/// own key is known only to that, and gets its refusal by way of it.
fn needs_no_file(path: &str) -> bool {
    const BELOW: [&str; 5] = ["quarantine", "recovery", "migration_rollback", "erasure", "erasure/preview"];
    let below = path.strip_prefix("/v1/organizations/").and_then(|rest| rest.split_once('/'));
    below.is_some_and(|(_, below)| BELOW.contains(&below))
}

/// Opens the organization and hands it to the request: the one place where that happens.
async fn admit(
    front: &Front,
    route: TenantRoute,
    place: Option<(String, IssuerKind)>,
    parts: &mut Parts,
) -> Result<()> {
    // A suspended organization can be administered by operators, and by nobody else.
    let by_operator = place.is_none() && key_hint(parts).is_none();
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

fn organization_in_api_path(path: &str) -> Option<String> {
    let rest = path.strip_prefix("/v1/organizations/")?;
    let name = rest.split('/').next().filter(|name| !name.is_empty())?;
    // As typed into an address: `%2E` and the like decode to what was meant.
    let pairs = crate::web::extract::pairs_of(format!("x={}", name.replace('+', "%2B")).as_bytes()).ok()?;
    pairs.into_iter().next().map(|(_, value)| value)
}

/// The organization that an API key names.
fn key_hint(parts: &Parts) -> Option<OrganizationId> {
    presented_key(&parts.headers)?.organization()
}

/// What stands below `/o/{org}` is the same as on the organization's own host.
fn rewrite(parts: &mut Parts, path: &str) -> Result<()> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let uri: Uri = format!("{path}{query}").parse().map_err(|_| Error::new(&codes::MALFORMED_REQUEST))?;
    parts.uri = uri;
    Ok(())
}
