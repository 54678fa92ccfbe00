//! The frame of a page at a place, and the page of a refusal.

use chrono::DateTime;

use super::pages::{ErrorPage, Frame, Link, When};
use super::place::Place;
use crate::base::{Error, Kind, Timestamp, codes};

/// The frame of an organization's page.
#[must_use]
pub fn of(place: &Place, title: &str) -> Frame {
    let frame = Frame::of(title, place.display_name.clone(), place.base.clone());
    match &place.accent {
        Some(accent) => frame.themed(format!("{}/theme.css?v={}", place.base, accent.trim_start_matches('#'))),
        None => frame,
    }
}

/// An instant for people.
#[must_use]
pub fn when(at: Timestamp) -> When {
    let text = DateTime::from_timestamp_millis(at.millis()).map(|time| time.format("%-d %b %Y, %H:%M UTC").to_string());
    When { iso: at.to_string(), text: text.unwrap_or_default() }
}

/// "Firefox on Linux", as far as a user agent tells.
#[must_use]
pub fn device(user_agent: Option<&str>) -> String {
    let Some(agent) = user_agent else { return "Unknown device".to_owned() };
    let find =
        |names: &[(&str, &'static str)]| names.iter().find(|(sign, _)| agent.contains(sign)).map(|&(_, name)| name);
    let browser = find(&[
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
        ("curl/", "curl"),
    ]);
    let system = find(&[
        ("Windows", "Windows"),
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Mac OS X", "macOS"),
        ("Linux", "Linux"),
    ]);
    match (browser, system) {
        (Some(browser), Some(system)) => format!("{browser} on {system}"),
        (Some(one), None) | (None, Some(one)) => one.to_owned(),
        (None, None) => "Unknown device".to_owned(),
    }
}

/// The page of a refusal: what happened, and what to do next.
#[must_use]
pub fn error_page(place: Option<&Place>, error: &Error, request_id: &str) -> ErrorPage {
    let title = match error.kind() {
        Kind::NotFound if error.is(&codes::ORGANIZATION_NOT_FOUND) => "No organization here",
        Kind::NotFound => "Nothing here",
        Kind::Internal => "Something went wrong",
        Kind::Unavailable => "Not available right now",
        Kind::TooMany => "A moment, please",
        Kind::Conflict if error.is(&codes::ORGANIZATION_FROZEN) => "This can only be read at the moment",
        Kind::Misdirected => "Moved to another address",
        Kind::Forbidden if error.is(&codes::CSRF_FAILED) => "This page has expired",
        Kind::Forbidden => "Not allowed",
        _ => "This request cannot be used",
    };
    let next = match (place, error.kind()) {
        (_, Kind::Internal | Kind::Unavailable | Kind::TooMany) => Vec::new(),
        _ if error.is(&codes::ORGANIZATION_SUSPENDED) => Vec::new(),
        _ if error.is(&codes::ORGANIZATION_FROZEN) || error.kind() == Kind::Misdirected => Vec::new(),
        (Some(place), _) => vec![Link::new(place.path("/"), "Go to the sign-in page")],
        (None, _) => vec![Link::new("/", "Go to the start page")],
    };
    ErrorPage {
        frame: place.map_or_else(|| Frame::new(title), |place| of(place, title)),
        message: error.public_detail().to_owned(),
        next,
        code: error.code().name.to_owned(),
        request_id: Some(request_id.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::device;

    #[test]
    fn devices_in_words() {
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
        assert_eq!(device(Some(firefox)), "Firefox on Linux");
        assert_eq!(device(Some("thing")), "Unknown device");
    }
}
