//! Applications: the SaaS team's apps, registered once for the deployment, usable in every organization.
//!
//! It owns the catalog's table `application` and the [`Book`], a copy in memory that organizations'
//! handlers may look things up in: they never see the catalog itself.

pub mod http;
mod register;
mod store;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use url::Url;

pub use register::{Change, NewApplication, change, create, delete, require, rotate_secret};
pub use store::{all, get, insert, list, set_secret, update};

use crate::base::error::FieldError;
use crate::base::{ApplicationId, Credential, CredentialKind, Error, Result, Timestamp, codes, text};
use crate::crypto::{Algorithm, hash};

/// Whether the app can keep a secret, as on a server, or not, as in a browser or on a device (RFC 6749
/// section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    Confidential,
    Public,
}

/// A registered application; its id is the `client_id`.
#[derive(Debug, Clone)]
pub struct Application {
    pub id: ApplicationId,
    pub name: String,
    pub r#type: Type,
    pub secret_hash: Option<[u8; 32]>,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    pub id_token_signed_response_alg: Algorithm,
    pub deleted: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Application {
    /// Refuses what cannot be registered, all problems at once.
    pub fn check(&self) -> Result<()> {
        let mut problems = Vec::new();
        let mut problem = |field: String, code, message: &'static str| {
            problems.push(FieldError { field: field.into(), code, message: message.into() });
        };
        if !text::is_name(&self.name, 120) {
            problem("name".into(), "invalid", "Use 1 to 120 characters.");
        }
        if self.redirect_uris.is_empty() {
            problem("redirect_uris".into(), "required", "Register at least one redirect address.");
        }
        for (field, uris) in
            [("redirect_uris", &self.redirect_uris), ("post_logout_redirect_uris", &self.post_logout_redirect_uris)]
        {
            if uris.len() > 50 {
                problem(field.into(), "too_many", "Register at most 50 addresses.");
            }
            for (at, uri) in uris.iter().enumerate() {
                if let Some(message) = defect_of_redirect(uri, self.r#type) {
                    problem(format!("{field}[{at}]"), "invalid", message);
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::new(&codes::VALIDATION_FAILED).with_fields(problems)) }
    }

    /// Compared character by character (RFC 9700 section 2.1); the port of a loopback address is the
    /// one thing a native app cannot know beforehand (RFC 8252 section 7.3).
    #[must_use]
    pub fn allows_redirect(&self, uri: &str) -> bool {
        self.redirect_uris.iter().any(|registered| registered == uri || is_same_loopback(registered, uri))
    }

    #[must_use]
    pub fn allows_post_logout_redirect(&self, uri: &str) -> bool {
        self.post_logout_redirect_uris.iter().any(|registered| registered == uri)
    }

    /// Whether `secret` is this application's; in constant time.
    #[must_use]
    pub fn has_secret(&self, secret: &str) -> bool {
        let sent = Credential::parse(CredentialKind::ClientSecret, secret);
        match (sent, &self.secret_hash) {
            (Some(sent), Some(known)) => hash::equal(&hash::credential_hash(&sent), known),
            _ => false,
        }
    }
}

fn defect_of_redirect(uri: &str, kind: Type) -> Option<&'static str> {
    let Ok(url) = Url::parse(uri) else { return Some("This is not an absolute address.") };
    if uri.len() > 2000 || uri.contains('#') || uri.contains('*') || uri.chars().any(|c| c.is_control() || c == ' ') {
        return Some("Use an absolute address without fragment, wildcard or blank.");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("An address with a user name is not allowed.");
    }
    match url.scheme() {
        "https" => None,
        "http" if is_loopback(&url) => None,
        "http" => Some("Use https; plain http is for loopback addresses only."),
        "javascript" | "data" | "vbscript" | "file" | "blob" | "about" => Some("This scheme is not allowed."),
        // A private-use scheme of a native app is a reversed domain name (RFC 8252 section 7.1).
        scheme if kind == Type::Public && scheme.contains('.') => None,
        _ => Some("Use https, http on loopback, or a scheme such as com.example.app for a public application."),
    }
}

fn is_loopback(url: &Url) -> bool {
    matches!(url.host_str(), Some(host) if host == "localhost" || host.ends_with(".localhost") || host == "127.0.0.1" || host == "[::1]")
}

fn is_same_loopback(registered: &str, uri: &str) -> bool {
    let (Ok(mut one), Ok(mut other)) = (Url::parse(registered), Url::parse(uri)) else { return false };
    let literal = |url: &Url| matches!(url.host_str(), Some("127.0.0.1" | "[::1]")) && url.scheme() == "http";
    // Only literals, not the name localhost, and only if nothing but the port differs in the text.
    let spelled = other.as_str() == uri;
    literal(&one)
        && literal(&other)
        && spelled
        && one.set_port(None).is_ok()
        && other.set_port(None).is_ok()
        && one == other
}

/// All applications in memory; cheap to clone. There are few of them, and every sign-in needs one.
#[derive(Clone, Default)]
pub struct Book(Arc<RwLock<HashMap<ApplicationId, Arc<Application>>>>);

impl Book {
    /// A registered application that was not deleted.
    #[must_use]
    pub fn get(&self, id: ApplicationId) -> Option<Arc<Application>> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&id).filter(|application| !application.deleted).cloned()
    }

    /// By `client_id` as sent; a malformed one is simply unknown.
    #[must_use]
    pub fn find(&self, client_id: &str) -> Option<Arc<Application>> {
        client_id.parse().ok().and_then(|id| self.get(id))
    }

    /// What an application is called, even if it was deleted since.
    #[must_use]
    pub fn name(&self, id: ApplicationId) -> Option<String> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&id).map(|application| application.name.clone())
    }

    /// Takes over what was committed to the catalog.
    pub fn put(&self, application: Application) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(application.id, Arc::new(application));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn application(uris: &[&str], kind: Type) -> Application {
        Application {
            id: ApplicationId::from_bits(1),
            name: "App".into(),
            r#type: kind,
            secret_hash: None,
            redirect_uris: uris.iter().map(|&uri| uri.to_owned()).collect(),
            post_logout_redirect_uris: Vec::new(),
            id_token_signed_response_alg: Algorithm::RS256,
            deleted: false,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn redirects_match_to_the_character() {
        let app = application(&["https://app.example.com/cb"], Type::Confidential);
        assert!(app.allows_redirect("https://app.example.com/cb"));
        for other in [
            "https://app.example.com/cb/",
            "https://app.example.com/cb?x=1",
            "https://APP.example.com/cb",
            "https://app.example.com:443/cb",
            "https://app.example.com/CB",
            "https://app.example.com/cb#",
            "https://app.example.com/./cb",
            "https://app.example.com@evil.test/cb",
            "http://app.example.com/cb",
            "",
        ] {
            assert!(!app.allows_redirect(other), "{other}");
        }
    }

    #[test]
    fn only_the_port_of_a_loopback_literal_may_differ() {
        let app = application(&["http://127.0.0.1/cb", "http://localhost:3000/cb"], Type::Public);
        assert!(app.allows_redirect("http://127.0.0.1:49152/cb"));
        for other in
            ["http://127.0.0.1:1/other", "http://localhost:4000/cb", "https://127.0.0.1/cb", "http://127.0.0.1:1/./cb"]
        {
            assert!(!app.allows_redirect(other), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_registered() {
        for uri in [
            "",
            "/cb",
            "http://app.example.com/cb",
            "https://a.test/#x",
            "https://*.a.test/",
            "javascript:alert(1)",
            "https://u:p@a.test/",
            "myapp:/cb",
            "data:text/html,x",
        ] {
            assert!(application(&[uri], Type::Public).check().is_err(), "{uri}");
        }
        for uri in ["https://a.test/cb?x=1", "http://localhost:3000/cb", "com.example.app:/cb"] {
            assert!(application(&[uri], Type::Public).check().is_ok(), "{uri}");
        }
        assert!(application(&["com.example.app:/cb"], Type::Confidential).check().is_err());
    }
}
