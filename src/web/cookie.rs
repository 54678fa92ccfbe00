//! Cookies: one an organization and purpose, never for a domain (RFC 6265 section 4.1).
//!
//! Over https the name has the prefix `__Host-`, which binds it to the exact host. On plain-http
//! localhost browsers refuse that prefix, so it is left out there and nowhere else.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum_extra::extract::cookie::{Cookie, SameSite};

use crate::base::OrganizationId;

/// What a cookie is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A member's session in one organization.
    Session(OrganizationId),
    /// Binds forms to this browser.
    Csrf,
    /// A recovery of one organization's member on its way.
    Recovery(OrganizationId),
    /// A sign-up on its way.
    SignUp,
}

/// The name of the cookie.
#[must_use]
pub fn name(purpose: Purpose, secure: bool) -> String {
    let prefix = if secure { "__Host-" } else { "" };
    match purpose {
        Purpose::Session(organization) => format!("{prefix}bh_session_{}", organization.hint()),
        Purpose::Csrf => format!("{prefix}bh_csrf"),
        Purpose::Recovery(organization) => format!("{prefix}bh_recovery_{}", organization.hint()),
        Purpose::SignUp => format!("{prefix}bh_signup"),
    }
}

/// The value that the browser sent, if it sent exactly one: two cookies of one name are a sign of
/// somebody else's hand.
#[must_use]
pub fn read(headers: &HeaderMap, purpose: Purpose, secure: bool) -> Option<String> {
    let wanted = name(purpose, secure);
    let mut found = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == wanted);
    let (_, first) = found.next()?;
    found.next().is_none().then(|| first.to_owned())
}

/// The text of a `Set-Cookie`; without a lifetime it ends with the browser.
#[must_use]
pub fn set(purpose: Purpose, secure: bool, value: &str, lifetime: Option<Duration>) -> String {
    let cookie = Cookie::build((name(purpose, secure), value.to_owned()))
        .path("/")
        .secure(secure)
        .http_only(true)
        .same_site(SameSite::Lax);
    let age = lifetime.map(|lifetime| format!("; Max-Age={}", lifetime.as_secs()));
    format!("{}{}", cookie.build(), age.unwrap_or_default())
}

/// The text of a `Set-Cookie` that removes it.
#[must_use]
pub fn clear(purpose: Purpose, secure: bool) -> String {
    set(purpose, secure, "", Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_to_the_host_over_https() {
        let text = set(Purpose::Csrf, true, "x", None);
        for part in ["__Host-bh_csrf=x", "HttpOnly", "SameSite=Lax", "Secure", "Path=/"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("Domain"));
        assert!(!set(Purpose::Csrf, false, "x", None).contains("Secure"));
    }

    #[test]
    fn a_doubled_cookie_is_no_cookie() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, "bh_csrf=a; bh_csrf=b".parse().unwrap());
        assert_eq!(read(&headers, Purpose::Csrf, false), None);
        headers.insert(header::COOKIE, "other=1; bh_csrf=a".parse().unwrap());
        assert_eq!(read(&headers, Purpose::Csrf, false).as_deref(), Some("a"));
    }
}
