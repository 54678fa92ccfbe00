//! Who the calling application is (RFC 6749 section 2.3).

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::OauthFailure;
use crate::base::{Error, Secret, codes};
use crate::features::application::{Application, Book, Type};
use crate::features::oauth::{self, Parameters};
use crate::features::session::http::by_anonymous;
use crate::tenants::Tenant;
use crate::web::RequestInfo;
use crate::web::extract::pairs_of;

const BASIC: &str = "Basic realm=\"oauth2\", charset=\"UTF-8\"";

/// A client's name and secret, and how they were sent.
struct Presented {
    id: String,
    secret: Option<Secret>,
    in_header: bool,
}

/// The application that calls: with its secret, or, if it is public, by its name alone.
pub(super) fn authenticate(
    book: &Book,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Arc<Application>, OauthFailure> {
    let presented = presented(headers, parameters)?;
    let known = book.find(&presented.id).filter(|application| is_proven(application, &presented));
    known.ok_or_else(|| invalid_client(presented.in_header))
}

/// The same at an organization, whose log tells of whoever could not prove to be one that is known. Names
/// that nobody has are not written down: they could be anything.
pub(super) async fn authenticate_at(
    tenant: &Tenant,
    info: &RequestInfo,
    book: &Book,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Arc<Application>, OauthFailure> {
    let presented = presented(headers, parameters)?;
    match book.find(&presented.id) {
        Some(application) if is_proven(&application, &presented) => Ok(application),
        Some(application) => {
            oauth::note(tenant, oauth::impostor(&application), &by_anonymous(info)).await;
            Err(invalid_client(presented.in_header))
        }
        None => Err(invalid_client(presented.in_header)),
    }
}

fn is_proven(application: &Application, presented: &Presented) -> bool {
    match (application.r#type, &presented.secret) {
        (Type::Confidential, Some(secret)) => application.has_secret(secret.expose()),
        (Type::Public, None) => true,
        _ => false,
    }
}

/// The same, for what only an application with a secret may ask.
pub(super) fn authenticate_confidential(
    book: &Book,
    headers: &HeaderMap,
    parameters: &Parameters,
) -> Result<Arc<Application>, OauthFailure> {
    confidential(authenticate(book, headers, parameters)?)
}

/// Refuses an application that has no secret.
pub(super) fn confidential(application: Arc<Application>) -> Result<Arc<Application>, OauthFailure> {
    if application.r#type == Type::Confidential { Ok(application) } else { Err(invalid_client(false)) }
}

fn presented(headers: &HeaderMap, parameters: &Parameters) -> Result<Presented, OauthFailure> {
    if parameters.repeated().is_some() {
        return Err(OauthFailure::invalid_request("A parameter was sent more than once."));
    }
    let (id, secret) = (parameters.get("client_id"), parameters.get("client_secret"));
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let Some(authorization) = authorizations.next() else {
        let id = id.ok_or_else(|| invalid_client(false))?;
        let secret = secret.map(|secret| Secret::new(secret.to_owned()));
        return Ok(Presented { id: id.to_owned(), secret, in_header: false });
    };
    if authorizations.next().is_some() || secret.is_some() {
        return Err(OauthFailure::invalid_request("Authenticate in one way only."));
    }
    let presented = authorization.to_str().ok().and_then(basic).ok_or_else(|| invalid_client(true))?;
    if id.is_some_and(|id| id != presented.id) {
        return Err(OauthFailure::invalid_request("The request names two applications."));
    }
    Ok(presented)
}

/// `client_secret_basic`: both halves are form-encoded before they are put together (RFC 6749 section 2.3.1).
fn basic(header: &str) -> Option<Presented> {
    let (scheme, text) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    let secret = decoded(secret)?;
    // Some libraries send a public client's name with an empty password.
    let secret = (!secret.is_empty()).then(|| Secret::new(secret));
    Some(Presented { id: decoded(id)?, secret, in_header: true })
}

fn decoded(text: &str) -> Option<String> {
    if text.contains(['&', '=']) {
        return Some(text.to_owned());
    }
    // As the value of a pair, so that there is one decoder in the house.
    let mut pairs = pairs_of(format!("v={text}").as_bytes()).ok()?;
    pairs.pop().map(|(_, value)| value)
}

/// One answer for an unknown application, a wrong secret, and a missing one.
fn invalid_client(in_header: bool) -> OauthFailure {
    let error = Error::new(&codes::UNAUTHENTICATED).detail("The application could not be authenticated.");
    let failure = OauthFailure::named("invalid_client", error);
    if in_header { failure.challenge(BASIC) } else { failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(pair: &str) -> String {
        format!("Basic {}", STANDARD.encode(pair))
    }

    #[test]
    fn both_halves_are_decoded() {
        let presented = basic(&encoded("app%5F1:se+cr%3Aet")).unwrap();
        assert_eq!(presented.id, "app_1");
        assert_eq!(presented.secret.unwrap().expose(), "se cr:et");
        assert!(basic(&encoded("app_1:")).unwrap().secret.is_none());
        assert!(basic(&encoded("app_1:%zz")).is_none());
        for wrong in ["Basic", "Basic !", "Bearer x", &encoded("no colon")] {
            assert!(basic(wrong).is_none(), "{wrong}");
        }
    }
}
