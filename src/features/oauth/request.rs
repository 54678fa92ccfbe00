//! An authorization request: from parameters to something that can be trusted on its way through a browser.
//!
//! Three steps. [`trust`] finds the application and its redirect address; what fails before is told on a
//! page, never by a redirect. [`asked_for`] checks the rest; what fails is told to the application. The
//! result is pinned to one organization and sealed, and nothing that is sent later can change it.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Issuer, Scopes};
use crate::base::{ApplicationId, Error, OrganizationId, Result, SessionId, Timestamp, codes};
use crate::crypto::TokenBox;
use crate::features::application::{Application, Book};
use crate::features::session::SignedIn;

/// The purpose of the seal.
const SEAL: &str = "authorization_request";
/// Of `state` and `nonce`, which we give back, in bytes.
const LONGEST_VALUE: usize = 2048;
const LONGEST_HINT: usize = 320;
/// Of the whole, sealed: it has to fit into an address.
const LONGEST_SEALED: usize = 7 * 1024;

/// Parameters as sent. One without a value counts as not sent (RFC 6749 section 3.1).
#[derive(Debug, Clone)]
pub struct Parameters(Vec<(String, String)>);

impl Parameters {
    #[must_use]
    pub fn new(mut pairs: Vec<(String, String)>) -> Self {
        pairs.retain(|(_, value)| !value.is_empty());
        Self(pairs)
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first name that came more than once.
    #[must_use]
    pub fn repeated(&self) -> Option<&str> {
        let earlier = |at: usize, name: &str| self.0[..at].iter().any(|(known, _)| known == name);
        self.0.iter().enumerate().find(|(at, (name, _))| earlier(*at, name)).map(|(_, (name, _))| name.as_str())
    }

    #[must_use]
    pub fn is_repeated(&self, name: &str) -> bool {
        self.0.iter().filter(|(known, _)| known == name).count() > 1
    }

    #[must_use]
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// A refusal that the application is told, by the names of RFC 6749 section 4.1.2.1 and OpenID Connect
/// Core section 3.1.2.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub error: &'static str,
    pub description: &'static str,
}

impl Refusal {
    pub const ACCESS_DENIED: Self = Self { error: "access_denied", description: "The person did not agree." };
    pub const LOGIN_REQUIRED: Self = Self { error: "login_required", description: "The person has to sign in." };
    pub const INTERACTION_REQUIRED: Self =
        Self { error: "interaction_required", description: "The person has to choose an organization." };

    const fn invalid(description: &'static str) -> Self {
        Self { error: "invalid_request", description }
    }
}

/// Where an answer may be sent.
#[derive(Debug, Clone)]
pub struct Trusted {
    pub application: Arc<Application>,
    pub redirect_uri: String,
    /// Given back in every answer.
    pub state: Option<String>,
}

impl Trusted {
    /// The address that tells the application of a refusal; `iss` by RFC 9207.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal, iss: &str) -> String {
        refusal_to(&self.redirect_uri, self.state.as_deref(), refusal, iss)
    }
}

/// The application, and a redirect address that it has registered.
pub fn trust(parameters: &Parameters, book: &Book) -> Result<Trusted> {
    let invalid = |detail: &'static str| Error::new(&codes::AUTHORIZATION_REQUEST_INVALID).detail(detail);
    if ["client_id", "redirect_uri"].iter().any(|name| parameters.is_repeated(name)) {
        return Err(invalid("The app named itself or its redirect address more than once."));
    }
    let client_id = parameters.get("client_id").ok_or_else(|| invalid("The app did not say which one it is."))?;
    let application = book.find(client_id).ok_or_else(|| invalid("The app is not registered here."))?;
    let redirect_uri =
        parameters.get("redirect_uri").ok_or_else(|| invalid("The app did not say where to return to."))?;
    if !application.allows_redirect(redirect_uri) {
        return Err(Error::new(&codes::REDIRECT_URI_MISMATCH));
    }
    let state = parameters.get("state").filter(|state| is_fit(state) && !parameters.is_repeated("state"));
    Ok(Trusted { application, redirect_uri: redirect_uri.to_owned(), state: state.map(str::to_owned) })
}

/// What the application asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub issuer: Issuer,
    pub client_id: ApplicationId,
    pub redirect_uri: String,
    pub scopes: Scopes,
    pub state: Option<String>,
    pub nonce: Option<String>,
    pub code_challenge: String,
    pub login_hint: Option<String>,
    /// `prompt=none`: no page may be shown.
    pub silent: bool,
    /// `prompt=login` or `max_age`: an older sign-in is not enough. Counted from the request, or a
    /// `max_age` of 0 could never be met.
    pub signed_in_since: Option<Timestamp>,
    /// `prompt=select_account`: whoever did not sign in just now is asked whether it is them.
    pub select_account: bool,
    /// `prompt=consent`: asked in any case.
    pub consent: bool,
    pub created_at: Timestamp,
}

/// Checks everything that is told to the application if it is wrong.
pub fn asked_for(parameters: &Parameters, trusted: &Trusted, issuer: Issuer, now: Timestamp) -> Result<Asked, Refusal> {
    if parameters.repeated().is_some() {
        return Err(Refusal::invalid("A parameter was sent more than once."));
    }
    refuse_unsupported(parameters)?;
    for name in ["state", "nonce"] {
        if parameters.get(name).is_some_and(|value| !is_fit(value)) {
            return Err(Refusal::invalid("state or nonce is too long or has control characters."));
        }
    }
    let login_hint = parameters.get("login_hint");
    if login_hint.is_some_and(|hint| hint.len() > LONGEST_HINT) {
        return Err(Refusal::invalid("login_hint is too long."));
    }
    let prompt = Prompt::parse(parameters.get("prompt").unwrap_or(""))?;
    let oldest = match parameters.get("max_age") {
        Some(text) => Some(now.minus(max_age(text)?)),
        None => None,
    };
    Ok(Asked {
        issuer,
        client_id: trusted.application.id,
        redirect_uri: trusted.redirect_uri.clone(),
        scopes: Scopes::parse(parameters.get("scope").unwrap_or("")),
        state: trusted.state.clone(),
        nonce: parameters.get("nonce").map(str::to_owned),
        code_challenge: code_challenge(parameters)?,
        login_hint: login_hint.map(str::to_owned),
        silent: prompt.none,
        signed_in_since: if prompt.login { Some(now) } else { oldest },
        select_account: prompt.select_account,
        consent: prompt.consent,
        created_at: now,
    })
}

fn refuse_unsupported(parameters: &Parameters) -> Result<(), Refusal> {
    for (name, error) in [
        ("request", "request_not_supported"),
        ("request_uri", "request_uri_not_supported"),
        ("registration", "registration_not_supported"),
    ] {
        if parameters.get(name).is_some() {
            return Err(Refusal { error, description: "Send the parameters one by one." });
        }
    }
    match parameters.get("response_type") {
        Some("code") => {}
        Some(_) => return Err(Refusal { error: "unsupported_response_type", description: "Use response_type code." }),
        None => return Err(Refusal::invalid("response_type is missing.")),
    }
    if parameters.get("response_mode").is_some_and(|mode| mode != "query") {
        return Err(Refusal::invalid("Use response_mode query."));
    }
    Ok(())
}

/// PKCE is required of every application (RFC 9700 section 2.1.1), `plain` protects nothing.
fn code_challenge(parameters: &Parameters) -> Result<String, Refusal> {
    // Without a method it would be `plain` (RFC 7636 section 4.3).
    if parameters.get("code_challenge_method") != Some("S256") {
        return Err(Refusal::invalid("Use PKCE: code_challenge with code_challenge_method S256."));
    }
    let challenge = parameters.get("code_challenge").unwrap_or("");
    // 43 characters are a SHA-256 in base64url; nothing else could ever be met.
    let fits = challenge.len() == 43
        && challenge.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if fits { Ok(challenge.to_owned()) } else { Err(Refusal::invalid("code_challenge is not of method S256.")) }
}

#[derive(Default)]
struct Prompt {
    none: bool,
    login: bool,
    select_account: bool,
    consent: bool,
}

impl Prompt {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut prompt = Self::default();
        for word in text.split_ascii_whitespace() {
            match word {
                "none" => prompt.none = true,
                "login" => prompt.login = true,
                "select_account" => prompt.select_account = true,
                "consent" => prompt.consent = true,
                _ => return Err(Refusal::invalid("prompt has an unknown value.")),
            }
        }
        if prompt.none && (prompt.login || prompt.select_account || prompt.consent) {
            return Err(Refusal::invalid("prompt=none cannot be combined."));
        }
        Ok(prompt)
    }
}

fn max_age(text: &str) -> Result<Duration, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = text.parse::<u32>().ok().filter(|_| digits);
    seconds.map(|seconds| Duration::from_secs(seconds.into())).ok_or(Refusal::invalid("max_age is not a number."))
}

fn is_fit(value: &str) -> bool {
    value.len() <= LONGEST_VALUE && !value.chars().any(char::is_control)
}

impl Asked {
    /// The one organization that this request is for from now on.
    #[must_use]
    pub fn pin(self, organization: OrganizationId) -> AuthorizationRequest {
        AuthorizationRequest { organization, asked: self, shown_to: None }
    }
}

/// A checked request, pinned to one organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationRequest {
    organization: OrganizationId,
    #[serde(flatten)]
    asked: Asked,
    /// The session that the page with the question was shown to.
    shown_to: Option<SessionId>,
}

/// What a request needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The application is told.
    Refuse(Refusal),
    /// A sign-in, or a newer one.
    SignIn,
    /// The person is asked whether to go on.
    Ask,
    /// A code.
    Issue,
}

impl AuthorizationRequest {
    #[must_use]
    pub const fn organization(&self) -> OrganizationId {
        self.organization
    }

    #[must_use]
    pub const fn asked(&self) -> &Asked {
        &self.asked
    }

    /// For the way through the browser.
    pub fn seal(&self, boxes: &TokenBox) -> Result<String, Refusal> {
        let text = serde_json::to_vec(self).map_err(|_| Refusal::invalid("The request cannot be kept."))?;
        let sealed = boxes.seal(SEAL, &text);
        if sealed.len() > LONGEST_SEALED { Err(Refusal::invalid("The request is too long.")) } else { Ok(sealed) }
    }

    /// What comes back must be ours, not older than `valid_for`, and of this organization.
    pub fn open(
        text: &str,
        boxes: &TokenBox,
        organization: OrganizationId,
        now: Timestamp,
        valid_for: Duration,
    ) -> Result<Self> {
        let invalid = |detail: &'static str| Error::new(&codes::AUTHORIZATION_REQUEST_INVALID).detail(detail);
        let opened = boxes.open(SEAL, text).and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let request = opened
            .ok_or_else(|| invalid("This sign-in request is not one of ours. Go back to the app and start again."))?;
        if request.organization != organization {
            return Err(Error::new(&codes::ORGANIZATION_CONFLICT));
        }
        if now.since(request.asked.created_at) > valid_for {
            return Err(invalid("This sign-in request has expired. Go back to the app and start again."));
        }
        Ok(request)
    }

    /// What is needed next, with whoever is signed in.
    #[must_use]
    pub fn next(&self, signed_in: Option<&SignedIn>) -> Step {
        let asked = &self.asked;
        let recent = |auth_time: Timestamp| asked.signed_in_since.is_none_or(|since| auth_time >= since);
        match signed_in.map(|signed_in| &signed_in.session).filter(|session| recent(session.auth_time)) {
            None if asked.silent => Step::Refuse(Refusal::LOGIN_REQUIRED),
            None => Step::SignIn,
            Some(session) if self.shown_to == Some(session.id) => Step::Issue,
            Some(_) if asked.consent => Step::Ask,
            Some(session) if asked.select_account && session.auth_time < asked.created_at => Step::Ask,
            Some(_) => Step::Issue,
        }
    }

    /// The request for the page that asks: agreeing there counts for this session only.
    #[must_use]
    pub fn shown_to(mut self, session: SessionId) -> Self {
        self.shown_to = Some(session);
        self
    }

    /// Not shown to anybody, whatever the seal says.
    #[must_use]
    pub fn not_answered(mut self) -> Self {
        self.shown_to = None;
        self
    }

    /// Somebody else wants to sign in: the session at hand is no longer enough.
    #[must_use]
    pub fn with_another_account(mut self, now: Timestamp) -> Self {
        self.asked.signed_in_since = Some(now);
        self.asked.login_hint = None;
        self.shown_to = None;
        self
    }

    /// The address that hands the application its code.
    #[must_use]
    pub fn grant(&self, code: &str, iss: &str) -> String {
        let mut pairs = vec![("code", code)];
        pairs.extend(self.asked.state.as_deref().map(|state| ("state", state)));
        pairs.push(("iss", iss));
        answer(&self.asked.redirect_uri, &pairs)
    }

    /// The address that tells the application of a refusal.
    #[must_use]
    pub fn refuse(&self, refusal: Refusal, iss: &str) -> String {
        refusal_to(&self.asked.redirect_uri, self.asked.state.as_deref(), refusal, iss)
    }
}

fn refusal_to(redirect_uri: &str, state: Option<&str>, refusal: Refusal, iss: &str) -> String {
    let mut pairs = vec![("error", refusal.error), ("error_description", refusal.description)];
    pairs.extend(state.map(|state| ("state", state)));
    pairs.push(("iss", iss));
    answer(redirect_uri, &pairs)
}

/// A registered address with an answer added to its query, which is kept to the character.
#[must_use]
pub fn answer(redirect_uri: &str, pairs: &[(&str, &str)]) -> String {
    let between = match redirect_uri.split_once('?') {
        _ if pairs.is_empty() => "",
        None => "?",
        Some((_, query)) if query.is_empty() || query.ends_with('&') => "",
        Some(_) => "&",
    };
    let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    // A header takes ASCII only.
    let ascii = url::form_urlencoded::byte_serialize;
    let address: String = redirect_uri
        .chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { ascii(c.to_string().as_bytes()).collect() })
        .collect();
    format!("{address}{between}{query}")
}
