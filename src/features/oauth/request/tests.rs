//! What a request may say, and what becomes of it.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::features::oauth::tests::{HOUR, REDIRECT, START, asked, book, organization, parameters};

#[track_caller]
fn refused(changed: &[(&str, Option<&str>)], error: &str) {
    assert_eq!(asked(changed).unwrap_err().error, error, "{changed:?}");
}

#[test]
fn what_is_told_on_a_page() {
    for changed in [
        ("client_id", None),
        ("client_id", Some("")),
        ("client_id", Some("app_00000000000000000000000009")),
        ("redirect_uri", None),
        ("redirect_uri", Some("https://app.example.com/cb/")),
    ] {
        assert!(trust(&parameters(&[changed]), &book()).is_err(), "{changed:?}");
    }
    let mut doubled = parameters(&[]).pairs().to_vec();
    doubled.push(("redirect_uri".into(), REDIRECT.into()));
    assert!(trust(&Parameters::new(doubled), &book()).is_err());
}

#[test]
fn what_is_told_to_the_application() {
    for (name, value, error) in [
        ("response_type", None, "invalid_request"),
        ("response_type", Some("code token"), "unsupported_response_type"),
        ("response_mode", Some("fragment"), "invalid_request"),
        ("request", Some("x"), "request_not_supported"),
        ("request_uri", Some("https://x.test/"), "request_uri_not_supported"),
        ("registration", Some("{}"), "registration_not_supported"),
        ("code_challenge", None, "invalid_request"),
        ("code_challenge", Some("short"), "invalid_request"),
        ("code_challenge_method", None, "invalid_request"),
        ("code_challenge_method", Some("plain"), "invalid_request"),
        ("prompt", Some("none login"), "invalid_request"),
        ("prompt", Some("create"), "invalid_request"),
        ("max_age", Some("-1"), "invalid_request"),
        ("max_age", Some("+1"), "invalid_request"),
        ("max_age", Some("soon"), "invalid_request"),
        ("nonce", Some("a\u{7}"), "invalid_request"),
    ] {
        refused(&[(name, value)], error);
    }
    refused(&[("state", Some(&"x".repeat(2049)))], "invalid_request");
    refused(&[("login_hint", Some(&"x".repeat(321)))], "invalid_request");
    let mut doubled = parameters(&[]).pairs().to_vec();
    doubled.push(("organization".into(), "one".into()));
    doubled.push(("organization".into(), "two".into()));
    let doubled = Parameters::new(doubled);
    let trusted = trust(&doubled, &book()).unwrap();
    assert!(asked_for(&doubled, &trusted, Issuer::Organization, START).is_err());
}

#[test]
fn answers_keep_the_registered_address() {
    let iss = "https://acme.example.com";
    let request = asked(&[]).unwrap();
    assert_eq!(request.grant("c&d", iss), format!("{REDIRECT}?code=c%26d&state=st&iss=https%3A%2F%2Facme.example.com"));
    let refused = request.refuse(Refusal::ACCESS_DENIED, iss);
    assert!(refused.starts_with(&format!("{REDIRECT}?error=access_denied&")) && refused.contains("&state=st&iss="));
    assert_eq!(answer("https://a.test/?x=1", &[("code", "1")]), "https://a.test/?x=1&code=1");
    assert_eq!(answer("com.example.app:/cb?", &[("code", "1")]), "com.example.app:/cb?code=1");
    assert_eq!(answer("https://a.test/bye", &[]), "https://a.test/bye");
}

#[test]
fn a_sealed_request_is_of_one_organization_and_one_hour() {
    let boxes = TokenBox::new([1; 32]);
    let request = asked(&[("max_age", Some("60")), ("login_hint", Some("ada@example.com"))]).unwrap();
    let sealed = request.seal(&boxes).unwrap();
    let open = |text: &str, organization, now| AuthorizationRequest::open(text, &boxes, organization, now, HOUR);
    assert_eq!(open(&sealed, organization(), START).unwrap(), request);
    assert!(open(&sealed, OrganizationId::from_bits(8), START).unwrap_err().is(&codes::ORGANIZATION_CONFLICT));
    assert!(open(&sealed, organization(), START.plus(HOUR * 2)).is_err());
    assert!(open(&sealed[1..], organization(), START).is_err());
    assert!(open("", organization(), START).is_err());
    // The sign-in page says which application is waiting.
    let text: Value = serde_json::from_slice(&boxes.open("authorization_request", &sealed).unwrap()).unwrap();
    assert_eq!(text["client_id"], ApplicationId::from_bits(1).to_string());
}

#[test]
fn an_answer_that_would_not_fit_into_an_address_is_refused_early() {
    let boxes = TokenBox::new([1; 32]);
    let (state, nonce) = ("\"".repeat(2048), "\\".repeat(2048));
    let request = asked(&[("state", Some(&state)), ("nonce", Some(&nonce))]).unwrap();
    assert!(request.seal(&boxes).is_err());
    let (state, nonce) = ("s".repeat(2048), "n".repeat(2048));
    let request = asked(&[("state", Some(&state)), ("nonce", Some(&nonce))]).unwrap();
    let sealed = request.seal(&boxes).unwrap();
    AuthorizationRequest::open(&sealed, &boxes, organization(), START, HOUR).unwrap();
}

proptest! {
    #[test]
    fn whatever_is_sent_is_answered(pairs in proptest::collection::vec(("[a-z_]{0,12}", ".{0,40}"), 0..8)) {
        let mut all = parameters(&[]).pairs().to_vec();
        all.extend(pairs);
        let parameters = Parameters::new(all);
        if let Ok(trusted) = trust(&parameters, &book()) {
            let refusal = asked_for(&parameters, &trusted, Issuer::Deployment, START).err();
            let address = trusted.refuse(refusal.unwrap_or(Refusal::LOGIN_REQUIRED), "https://example.com");
            prop_assert!(address.starts_with("https://app.example.com/cb?error=") && address.is_ascii());
        }
    }
}
