//! The layer that makes `POST` requests with an `Idempotency-Key` safe to send again.

use axum::body::{Body, to_bytes};
use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::{Begun, Reply, Running};
use crate::backup::{Source, ledger};
use crate::base::{Error, Replication, Result, codes};
use crate::catalog::{Catalog, Directory};
use crate::features::idempotency;
use crate::tenants::{Tenant, Tenants};
use crate::web::{Caller, Failure, extract};

const HEADER: &str = "idempotency-key";
const REPLAYED: &str = "idempotent-replayed";

/// Where the answers to requests that belong to no organization are kept; cheap to clone.
#[derive(Clone)]
pub struct Replays {
    catalog: Catalog,
    directory: Directory,
    tenants: Tenants,
}

impl Replays {
    #[must_use]
    pub const fn new(catalog: Catalog, directory: Directory, tenants: Tenants) -> Self {
        Self { catalog, directory, tenants }
    }

    /// What a kept answer tells of must be at the store as it had to be the first time, unless operators have said
    /// meanwhile that nobody waits.
    async fn await_again(&self, names: &[String]) {
        for source in names.iter().filter_map(|name| Source::parse(name)) {
            ledger::note(source, self.is_awaited(source).await);
        }
    }

    async fn is_awaited(&self, source: Source) -> bool {
        let Source::Organization(id) = source else { return false };
        let opened = async { self.tenants.open(&self.directory.by_id(id).await?).await };
        match opened.await {
            Ok(tenant) => tenant.replication() == Replication::Object,
            // Nothing of it is left that could be lost.
            Err(error) => !error.is(&codes::ORGANIZATION_NOT_FOUND),
        }
    }
}

/// Does a keyed request once. It stands inside the layer that recognises the caller, whose keys are its
/// own, and outside the one that renders problems, so that a refusal is kept as it was told.
pub async fn replay(State(replays): State<Replays>, request: Request, next: Next) -> Response {
    // A session check asks how things are now; yesterday's answer would be a wrong one.
    let asks_now = request.uri().path().ends_with("/sessions/authenticate");
    if request.method() != Method::POST || asks_now || !request.headers().contains_key(HEADER) {
        return next.run(request).await;
    }
    let Some(caller) = request.extensions().get::<Caller>().map(Caller::key) else { return next.run(request).await };
    match once(replays, &caller, request, next).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    }
}

async fn once(replays: Replays, caller: &str, request: Request, next: Next) -> Result<Response, Failure> {
    let key = key_of(request.headers())?;
    let (parts, body) = request.into_parts();
    let place = match parts.extensions.get::<Tenant>() {
        Some(tenant) => Place::Organization(tenant.clone()),
        None => Place::Deployment(replays.catalog.clone()),
    };
    let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
    let target = uri.path_and_query().map_or_else(|| uri.path().to_owned(), ToString::to_string);
    let method = parts.method.to_string();
    let body = extract::body(Request::from_parts(parts.clone(), body), &()).await?;

    let keyed = idempotency::Request::new(caller, &key, &method, &target, &body);
    match place.begin(&keyed).await? {
        Begun::Replay(reply) => {
            replays.await_again(&reply.awaited).await;
            Ok(replayed(reply))
        }
        Begun::Run(running) => {
            let request = Request::from_parts(parts, Body::from(body));
            // A client that hangs up must not leave the work done and its answer lost.
            let work = async move { place.settle(running, next.run(request).await).await };
            let done = tokio::spawn(ledger::carried(work).in_current_span()).await;
            Ok(done.map_err(|error| Error::internal("a keyed request did not end").source(error))??)
        }
    }
}

/// 1 to 255 visible ASCII characters, sent once.
fn key_of(headers: &HeaderMap) -> Result<String> {
    let mut values = headers.get_all(HEADER).iter();
    let key = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic())),
        _ => None,
    };
    let key = key.filter(|key| (1..=255).contains(&key.len()));
    key.map(str::to_owned).ok_or_else(|| {
        Error::new(&codes::MALFORMED_REQUEST).detail("Send one Idempotency-Key of 1 to 255 visible ASCII characters.")
    })
}

/// Whose file remembers the request.
enum Place {
    Organization(Tenant),
    Deployment(Catalog),
}

impl Place {
    async fn begin(&self, request: &idempotency::Request) -> Result<Begun> {
        match self {
            Self::Organization(tenant) => tenant.write(|db| idempotency::begin(db, tenant.sealer(), request)).await,
            Self::Deployment(catalog) => catalog.write(|db| idempotency::begin(db, catalog.sealer(), request)).await,
        }
    }

    /// Keeps the answer if it is one to keep, or frees the key. The work is done in either case, so the
    /// client gets its answer even if it could not be kept.
    async fn settle(&self, running: Running, response: Response) -> Result<Response> {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await;
        let body = body.map_err(|error| Error::internal("an answer could not be read").source(error))?;
        let awaited = ledger::awaited().iter().map(ToString::to_string).collect();
        let reply = Reply { status: parts.status.as_u16(), body: body.to_vec(), awaited };
        let kept = match self {
            Self::Organization(tenant) => {
                // Also beyond what may be written: the work is done, and a key that stayed in use would be lost.
                tenant.write_beyond(|db| idempotency::end(db, tenant.sealer(), running, &reply)).await
            }
            Self::Deployment(catalog) => {
                catalog.write(|db| idempotency::end(db, catalog.sealer(), running, &reply)).await
            }
        };
        if let Err(error) = kept {
            tracing::warn!(%error, cause = error.cause(), "the answer to a keyed request could not be kept");
        }
        Ok(Response::from_parts(parts, Body::from(body)))
    }
}

/// The answer of the first time. Its type follows from its status: the API has only two.
fn replayed(reply: Reply) -> Response {
    let mut response = Response::new(Body::from(reply.body));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = if reply.status < 400 { "application/json" } else { "application/problem+json" };
    let headers = response.headers_mut();
    if reply.status != 204 {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_key() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            key_of(&headers)
        };
        assert_eq!(of(&["2c1e-retry"]).unwrap(), "2c1e-retry");
        assert!(of(&[&"k".repeat(255)]).is_ok());
        for bad in [vec![""], vec!["a b"], vec!["é"], vec!["a", "a"], vec![&*"k".repeat(256)]] {
            assert!(of(&bad).unwrap_err().is(&codes::MALFORMED_REQUEST), "{bad:?}");
        }
    }
}
