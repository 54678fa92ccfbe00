//! Bodies, queries and paths: parsed into values, or refused with a stable code.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::csrf;
use super::failure::Failure;
use crate::base::{Error, MemberId, OrganizationId, PageRequest, codes};
use crate::catalog::Directory;

/// The organization as a path names it, for operations that are given no open file of it.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OrganizationPath {
    /// The organization: its id, slug or external id.
    #[param(min_length = 1, max_length = 128)]
    pub org: String,
}

impl OrganizationPath {
    /// Whose name it is, or 404.
    pub async fn find(&self, directory: &Directory) -> Result<OrganizationId, Error> {
        Ok(directory.by_name(&self.org).await?.organization())
    }
}

/// A member as a path names them.
#[derive(serde::Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Path)]
pub struct MemberPath {
    /// The member's id.
    member: String,
}

impl MemberPath {
    /// An id of another kind is as unknown as any.
    pub fn id(&self) -> Result<MemberId, Error> {
        self.member.parse().map_err(|_| Error::new(&codes::MEMBER_NOT_FOUND))
    }
}

/// Why an operator does something, as it is kept: 1 to 500 characters without what stands around them.
pub fn reason(text: &str) -> Result<&str, Error> {
    let reason = text.trim();
    match reason.chars().count() {
        1..=500 => Ok(reason),
        _ => Err(Error::new(&codes::VALIDATION_FAILED).field("reason", "invalid", "Use 1 to 500 characters.")),
    }
}

/// A JSON body (RFC 8259).
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !has_type(request.headers(), "application/json") {
            return Err(Error::new(&codes::UNSUPPORTED_MEDIA_TYPE)
                .detail("Send a body of type application/json.")
                .into());
        }
        let bytes = body(request, state).await?;
        // A derived reader would take a list of the values for an object as well.
        if bytes.trim_ascii_start().first() == Some(&b'[') {
            serde_json::from_slice::<IgnoredAny>(&bytes).map_err(|error| not_as_expected(&error))?;
            return Err(Error::new(&codes::VALIDATION_FAILED).detail("Send a JSON object.").into());
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| not_as_expected(&error).into())
    }
}

/// A form of one of our own pages: same origin, with the CSRF token of this browser.
pub struct Form<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Form<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let (parts, body) = request.into_parts();
        csrf::check_origin(&parts.headers)?;
        let cookie = csrf::Csrf::of(&parts.extensions);
        let RawForm(pairs) = RawForm::from_request(Request::from_parts(parts, body), state).await?;
        csrf::check_token(cookie.as_ref(), &pairs)?;
        parse_pairs(&pairs).map(Self)
    }
}

/// The pairs of a form that does not come from our own pages, such as a token request (RFC 6749
/// appendix B). No CSRF check: it carries its own credentials.
pub struct RawForm(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequest<S> for RawForm {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        if !has_type(request.headers(), "application/x-www-form-urlencoded") {
            let detail = "Send a body of type application/x-www-form-urlencoded.";
            return Err(Error::new(&codes::UNSUPPORTED_MEDIA_TYPE).detail(detail).into());
        }
        let bytes = body(request, state).await?;
        pairs_of(&bytes).map(Self)
    }
}

/// The query string, as pairs that keep their order and their repetitions.
pub struct RawPairs(pub Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for RawPairs {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        pairs_of(parts.uri.query().unwrap_or("").as_bytes()).map(Self)
    }
}

/// The query string as a value.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let RawQuery(query) = RawQuery::from_request_parts(parts, state).await.unwrap_or(RawQuery(None));
        parse_pairs(&pairs_of(query.unwrap_or_default().as_bytes())?).map(Self)
    }
}

/// The parameters of the path, by name. What is not of the right form leads nowhere: 404.
pub struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|_| Error::new(&codes::NOT_FOUND).into())
    }
}

/// `limit`, `before`, `after`, `order` of a list.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Paging {
    /// How many objects at the most.
    #[param(minimum = 1, maximum = 100, default = 10)]
    pub limit: Option<u32>,
    /// Objects before this id: `list_metadata.before` of the page that you have. Not together with `after`.
    #[param(pattern = "^[a-z]+_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub before: Option<String>,
    /// Objects after this id: `list_metadata.after` of the page that you have.
    #[param(pattern = "^[a-z]+_[0-7][0-9a-hjkmnp-tv-z]{25}$")]
    pub after: Option<String>,
    /// By time of creation; newest first unless you say otherwise.
    #[param(inline)]
    pub order: Option<Order>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Asc,
    Desc,
}

impl Paging {
    /// Checks the values; a cursor must be an id of the listed kind, which `is_cursor` tells.
    pub fn check(self, is_cursor: impl Fn(&str) -> bool) -> Result<PageRequest, Failure> {
        let limit = self.limit.unwrap_or(PageRequest::DEFAULT_LIMIT);
        if limit == 0 || limit > PageRequest::MAX_LIMIT {
            return Err(Error::new(&codes::VALIDATION_FAILED).field("limit", "invalid", "Use 1 to 100.").into());
        }
        if self.before.is_some() && self.after.is_some() {
            return Err(Error::new(&codes::INVALID_CURSOR).detail("Use either `before` or `after`.").into());
        }
        if self.before.iter().chain(&self.after).any(|cursor| !is_cursor(cursor)) {
            return Err(Error::new(&codes::INVALID_CURSOR).into());
        }
        Ok(PageRequest { limit, after: self.after, before: self.before, descending: self.order != Some(Order::Asc) })
    }
}

/// `application/x-www-form-urlencoded` in UTF-8, strictly: bytes that are no text are refused, not
/// replaced, so that two readers cannot see two values.
pub fn pairs_of(bytes: &[u8]) -> Result<Vec<(String, String)>, Failure> {
    let malformed = || Failure::from(Error::new(&codes::MALFORMED_BODY).detail("The text is not valid UTF-8."));
    let text = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name).ok_or_else(malformed)?, decode(value).ok_or_else(malformed)?))
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|d| u8::try_from(d).ok());
                digit(rest.next())? << 4 | digit(rest.next())?
            }
            other => other,
        });
    }
    // NUL has no place in any value of ours, and is a classic way to cut one short.
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn parse_pairs<T: DeserializeOwned>(pairs: &[(String, String)]) -> Result<T, Failure> {
    for (at, (name, _)) in pairs.iter().enumerate() {
        if pairs[..at].iter().any(|(earlier, _)| earlier == name) {
            let detail = format!("`{}` was sent more than once.", name.chars().take(40).collect::<String>());
            return Err(Error::new(&codes::MALFORMED_REQUEST).detail(detail).into());
        }
    }
    let mut encoded = url::form_urlencoded::Serializer::new(String::new());
    encoded.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    serde_html_form(&encoded.finish())
}

fn serde_html_form<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    // axum's own form reader does the conversion of numbers and enums.
    let uri: axum::http::Uri =
        format!("/?{text}").parse().map_err(|_| Failure::from(Error::new(&codes::MALFORMED_REQUEST)))?;
    axum::extract::Query::<T>::try_from_uri(&uri).map(|axum::extract::Query(value)| value).map_err(|error| {
        let detail = error.to_string().replace("Failed to deserialize query string: ", "");
        Error::new(&codes::VALIDATION_FAILED).detail(format!("A value cannot be used: {detail}.")).into()
    })
}

/// The whole body, within the limit that the router has set.
pub async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Error> {
    Bytes::from_request(request, state).await.map_err(|rejection| {
        let code = match rejection.status().as_u16() {
            413 => &codes::BODY_TOO_LARGE,
            _ if has_timed_out(&rejection) => &codes::REQUEST_TIMEOUT,
            _ => &codes::MALFORMED_BODY,
        };
        Error::new(code)
    })
}

/// Whether the body stopped arriving; the layer that notices says so somewhere in the chain of causes.
fn has_timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<tower_http::timeout::TimeoutError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case(wanted))
}

/// A syntax error is a 400; a well-formed body with a wrong value is a 422 that names the place.
fn not_as_expected(error: &serde_json::Error) -> Error {
    match error.classify() {
        serde_json::error::Category::Data => {
            Error::new(&codes::VALIDATION_FAILED).detail(format!("The body cannot be used: {error}."))
        }
        _ => Error::new(&codes::MALFORMED_BODY).detail(format!("The body is not JSON: {error}.")),
    }
}
