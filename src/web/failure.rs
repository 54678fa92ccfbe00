//! How a refusal is told: problem details for the API, RFC 6749 for OAuth, a page for people.
//!
//! A handler returns [`Failure`]; which of the three it becomes is decided by the layer around the
//! router it stands in, so that no handler can choose the wrong one.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;

use super::frame;
use super::place::Place;
use super::reply;
use super::request::RequestInfo;
use crate::base::error::{FieldError, Quota, WholePoint};
use crate::base::{Error, Kind, Timestamp, codes};

/// What a handler fails with.
#[derive(Debug)]
pub struct Failure(Arc<Error>);

pub type Answer<T = Response> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(Arc::new(error))
    }
}

/// Rides in the extensions of a response until a rendering layer meets it.
#[derive(Clone)]
struct Unrendered(Arc<Error>);

/// An OAuth error by its own name (RFC 6749 section 5.2), beside the house's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OauthCode(pub &'static str);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Unrendered(self.0));
        response
    }
}

/// A problem document (RFC 9457).
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Problem {
    /// Always `about:blank`-like: the place where the code is documented.
    pub r#type: String,
    /// The meaning of the status.
    pub title: &'static str,
    pub status: u16,
    /// A stable code; see the list in the documentation.
    pub code: &'static str,
    /// For people.
    pub detail: String,
    /// What is wrong with single fields.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<ProblemField>)]
    pub errors: Vec<FieldError>,
    /// With `backup_damaged`: the newest point before the one that was asked for that was found whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemPoint>)]
    pub whole_point: Option<WholePoint>,
    /// The id to quote when asking for help.
    pub request_id: String,
}

/// What is wrong with one field.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProblemField {
    pub field: String,
    pub code: String,
    pub message: String,
}

/// A point of the backup that can be had.
#[derive(Serialize, utoipa::ToSchema)]
pub struct ProblemPoint {
    /// 16 hexadecimal digits.
    pub txid: String,
    pub at: Timestamp,
}

/// How a refusal is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// RFC 9457, for the API.
    Problem,
    /// RFC 6749 section 5.2, for the OAuth endpoints that programs call.
    Oauth,
    /// For people.
    Page,
}

impl Style {
    fn of(path: &str) -> Self {
        // Below `/o/{org}` stands the same as on the organization's own host.
        let path = path.strip_prefix("/o/").and_then(|rest| rest.find('/').map(|at| &rest[at..])).unwrap_or(path);
        match path {
            "/oauth2/token" | "/oauth2/introspect" | "/oauth2/revoke" | "/oauth2/userinfo" | "/oauth2/jwks" => {
                Self::Oauth
            }
            _ if path.starts_with("/.well-known/") => Self::Oauth,
            _ if path.starts_with("/v1/") || path == "/v1" || path == "/openapi.json" => Self::Problem,
            _ => Self::Page,
        }
    }
}

/// The outermost layer: every refusal, ours or the framework's, in the form that fits its address.
pub async fn layer(info: RequestInfo, request: Request, next: Next) -> Response {
    let style = Style::of(request.uri().path());
    let response = next.run(request).await;
    let place = response.extensions().get::<Place>().cloned();
    let oauth = response.extensions().get::<OauthCode>().copied();
    render(response, &info, |error| match style {
        Style::Problem => problem(error, &info),
        Style::Oauth => oauth_error(error, oauth, &info),
        Style::Page => {
            let page = frame::error_page(place.as_ref(), error, &info.id);
            reply::page_with_status(error.kind().status(), &page)
        }
    })
}

fn problem(error: &Error, info: &RequestInfo) -> Response {
    let status = error.kind().status();
    let problem = Problem {
        r#type: format!("/docs/api#{}", error.code().name),
        title: StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error"),
        status,
        code: error.code().name,
        detail: error.public_detail().to_owned(),
        errors: error.fields().to_vec(),
        whole_point: error.whole_point().cloned(),
        request_id: info.id.clone(),
    };
    let mut response = reply::json(status, &problem);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if error.kind() == Kind::Unauthenticated {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

fn oauth_error(error: &Error, oauth: Option<OauthCode>, info: &RequestInfo) -> Response {
    let name = oauth.map_or_else(
        || match error.kind() {
            Kind::Unauthenticated => "invalid_token",
            Kind::Unavailable | Kind::TooMany => "temporarily_unavailable",
            // It will pass, and the request was right.
            Kind::Conflict if error.is(&codes::ORGANIZATION_FROZEN) => "temporarily_unavailable",
            Kind::Internal => "server_error",
            _ => "invalid_request",
        },
        |code| code.0,
    );
    let mut body = serde_json::json!({
        "error": name,
        "error_description": error.public_detail(),
        "request_id": info.id,
    });
    // RFC 6749 has no word for it: which limit it was is said beside.
    if error.kind() == Kind::TooMany {
        body["code"] = error.code().name.into();
    }
    reply::json(error.kind().status(), &body)
}

fn render(response: Response, info: &RequestInfo, draw: impl FnOnce(&Error) -> Response) -> Response {
    let error = match response.extensions().get::<Unrendered>() {
        Some(unrendered) => Arc::clone(&unrendered.0),
        // What the framework itself refused: give it our form, keep its status and headers.
        None => match framework_refusal(&response) {
            Some(error) => Arc::new(error),
            None => return response,
        },
    };
    log(&error, info);
    let mut drawn = draw(&error);
    if let Some(after) = error.retry() {
        drawn.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds(after)));
    }
    if let Some(quota) = error.quota() {
        let [policy, rest] = rate_limit(quota, error.retry());
        for (name, value) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, rest)] {
            if let Ok(value) = HeaderValue::try_from(value) {
                drawn.headers_mut().insert(name, value);
            }
        }
    }
    for name in [
        header::ALLOW,
        header::WWW_AUTHENTICATE,
        header::SET_COOKIE,
        // Without these an app in a browser could not read why it was refused.
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
    ] {
        for value in response.headers().get_all(&name) {
            drawn.headers_mut().append(&name, value.clone());
        }
    }
    drawn
}

pub(super) const RATE_LIMIT_POLICY: &str = "ratelimit-policy";
pub(super) const RATE_LIMIT: &str = "ratelimit";

/// In whole seconds, and never too few: whoever waits that long gets in.
pub(super) fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// `RateLimit-Policy` and `RateLimit` of a limit of which nothing is left: draft-ietf-httpapi-ratelimit-headers-10,
/// sections 3 and 4, two lists of RFC 9651 with one item each.
fn rate_limit(quota: &Quota, wait: Option<Duration>) -> [String; 2] {
    let wait = wait.map(|wait| format!(";t={}", seconds(wait))).unwrap_or_default();
    [policy(quota), format!("\"{}\";r=0{wait}", quota.name)]
}

/// The first of them.
pub(super) fn policy(quota: &Quota) -> String {
    let (name, amount) = (quota.name, quota.amount);
    let unit = quota.unit.map(|unit| format!(";qu=\"{unit}\"")).unwrap_or_default();
    let window = quota.window.map(|window| format!(";w={}", seconds(window))).unwrap_or_default();
    format!("\"{name}\";q={amount}{unit}{window}")
}

fn framework_refusal(response: &Response) -> Option<Error> {
    let plain = |response: &Response| {
        let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_none_or(|text| text.starts_with("text/plain"))
    };
    let code = match response.status() {
        StatusCode::NOT_FOUND => &codes::NOT_FOUND,
        StatusCode::METHOD_NOT_ALLOWED => &codes::METHOD_NOT_ALLOWED,
        StatusCode::PAYLOAD_TOO_LARGE => &codes::BODY_TOO_LARGE,
        StatusCode::UNSUPPORTED_MEDIA_TYPE => &codes::UNSUPPORTED_MEDIA_TYPE,
        StatusCode::BAD_REQUEST => &codes::MALFORMED_REQUEST,
        StatusCode::REQUEST_TIMEOUT => &codes::REQUEST_TIMEOUT,
        StatusCode::INTERNAL_SERVER_ERROR => &codes::INTERNAL,
        StatusCode::SERVICE_UNAVAILABLE => &codes::OVERLOADED,
        _ => return None,
    };
    plain(response).then(|| Error::new(code))
}

fn log(error: &Error, info: &RequestInfo) {
    let (code, cause, request_id) = (error.code().name, error.cause(), info.id.as_str());
    match error.kind() {
        Kind::Internal => tracing::error!(code, cause, request_id, "request failed"),
        Kind::Unavailable => tracing::warn!(code, cause, request_id, "request could not be served"),
        _ => tracing::debug!(code, cause, request_id, "request refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_told_as_a_structured_field() {
        let quota = Quota { name: "requests", amount: 20, unit: None, window: Some(Duration::from_millis(9001)) };
        let of = |quota, wait| rate_limit(quota, wait);
        assert_eq!(
            of(&quota, Some(Duration::from_millis(500))),
            ["\"requests\";q=20;w=10", "\"requests\";r=0;t=1"].map(str::to_owned)
        );
        let quota = Quota { unit: Some("concurrent-requests"), window: None, ..quota };
        assert_eq!(
            of(&quota, None),
            ["\"requests\";q=20;qu=\"concurrent-requests\"", "\"requests\";r=0"].map(str::to_owned)
        );
    }
}
