//! Around every request: its id, its line in the log, its numbers, its bounds.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument;

use super::front::Peer;
use super::paths::takes_long;
use crate::base::{Error, codes};
use crate::web::{Failure, RequestInfo};

/// However large an upload is and however slow its line; however large an organization that is put together.
const LONG: Duration = Duration::from_secs(3600);

/// The bounds, and what a request is judged by.
#[derive(Clone)]
pub struct Watch {
    at_once: Arc<Semaphore>,
    timeout: Duration,
    proxies: Arc<[ipnet::IpNet]>,
    secure: bool,
}

impl Watch {
    #[must_use]
    pub fn new(at_once: usize, timeout: Duration, proxies: &[ipnet::IpNet], secure: bool) -> Self {
        Self { at_once: Arc::new(Semaphore::new(at_once)), timeout, proxies: proxies.into(), secure }
    }
}

pub async fn layer(State(watch): State<Watch>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    let info = RequestInfo::new(request.headers(), peer, &watch.proxies);
    let (started, id) = (Instant::now(), HeaderValue::from_str(&info.id));
    let span = tracing::info_span!(
        "request",
        request_id = %info.id,
        method = %request.method(),
        path = %request.uri().path(),
        organization = tracing::field::Empty,
    );
    request.extensions_mut().insert(info);
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    span.in_scope(|| {
        tracing::info!(status, micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), "answered");
    });
    metrics::histogram!("bulkhead_http_request_duration_seconds").record(elapsed.as_secs_f64());
    metrics::counter!("bulkhead_http_requests_total", "status" => class(status)).increment(1);
    let headers = response.headers_mut();
    if let Ok(id) = id {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if watch.secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    response
}

/// The bounds; inside the layer that draws refusals.
pub async fn bounds(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    // Refusing at once is kinder than queueing without end.
    let Ok(permit) = Arc::clone(&watch.at_once).try_acquire_owned() else {
        return Failure::from(Error::new(&codes::OVERLOADED).retry_after(Duration::from_secs(1))).into_response();
    };
    let is_read = request.method().is_safe();
    // The pieces of an upload have a bound of their own each, and so has what is done with it.
    let timeout = if takes_long(&request) { LONG } else { watch.timeout };
    let work = async move {
        let response = next.run(request).await;
        drop(permit);
        response
    };
    // What changes something runs to its end in a task of its own: neither a client that hangs up nor
    // the timeout may leave the second half of a change undone.
    let answer = if is_read {
        tokio::time::timeout(timeout, work).await.ok()
    } else {
        let task = tokio::spawn(work.in_current_span());
        tokio::time::timeout(timeout, task).await.ok().map(|ended| {
            let failed = |error| Failure::from(Error::internal("a request did not end").source(error));
            ended.map_err(failed).unwrap_or_else(IntoResponse::into_response)
        })
    };
    answer.unwrap_or_else(|| Failure::from(Error::new(&codes::REQUEST_TIMEOUT)).into_response())
}

const fn class(status: u16) -> &'static str {
    match status {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
