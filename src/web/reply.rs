//! Answers: JSON, pages with their security headers, redirects, cookies.

use askama::Template;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::failure::Failure;
use crate::base::Error;

/// No script but ours, no frame around us, nothing from another host, forms only to ourselves (and the
/// redirects that follow them, which is why `form-action` is left open to https).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// A JSON answer that is not stored by anybody.
#[must_use]
pub fn json<T: Serialize>(status: u16, value: &T) -> Response {
    // Room for most answers: one object of ours.
    let mut body = Vec::with_capacity(1024);
    match serde_json::to_writer(&mut body, value) {
        Ok(()) => (
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")],
            body,
        )
            .into_response(),
        Err(error) => Failure::from(Error::internal("an answer could not be written").source(error)).into_response(),
    }
}

/// `204 No Content`.
#[must_use]
pub fn no_content() -> Response {
    (StatusCode::NO_CONTENT, [no_store()]).into_response()
}

/// A page with status 200.
#[must_use]
pub fn page(template: &impl Template) -> Response {
    page_with_status(200, template)
}

/// A page with another status.
#[must_use]
pub fn page_with_status(status: u16, template: &impl Template) -> Response {
    let html = match template.render() {
        Ok(html) => html,
        Err(error) => {
            tracing::error!(%error, "a page could not be drawn");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `303 See Other`: after a form was taken, or to the next step.
#[must_use]
pub fn see_other(location: &str) -> Response {
    match HeaderValue::from_str(location) {
        Ok(value) => (StatusCode::SEE_OTHER, [(header::LOCATION, value), no_store()]).into_response(),
        Err(error) => Failure::from(Error::internal("a redirect that cannot be sent").source(error)).into_response(),
    }
}

fn no_store() -> (header::HeaderName, HeaderValue) {
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
}

/// Adds a `Set-Cookie` to an answer.
#[must_use]
pub fn with_cookie(mut response: Response, cookie: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(cookie) {
        response.headers_mut().append(header::SET_COOKIE, value);
    }
    response
}
