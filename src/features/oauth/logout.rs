//! A sign-out that an application asks for (OpenID Connect RP-Initiated Logout 1.0).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::answer;
use super::{IdHint, Parameters};
use crate::base::time::length;
use crate::base::{Error, OrganizationId, Result, SessionId, Timestamp, codes};
use crate::crypto::TokenBox;
use crate::features::application::Book;

const SEAL: &str = "sign_out_request";
const VALID_FOR: Duration = length::hours(1);
const LONGEST_STATE: usize = 2048;

/// What is to end, and where to go then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignOutRequest {
    organization: OrganizationId,
    /// The session that the application's ID token names.
    pub session: Option<SessionId>,
    /// A registered address, with the application's `state`.
    pub return_to: Option<String>,
    /// What the application is called.
    pub application: Option<String>,
    created_at: Timestamp,
}

impl SignOutRequest {
    /// `hint` is the ID token, verified; one that is not genuine counts as not sent, so that the person
    /// is asked.
    pub fn new(
        parameters: &Parameters,
        hint: Option<&IdHint>,
        book: &Book,
        organization: OrganizationId,
        now: Timestamp,
    ) -> Result<Self> {
        let invalid = |detail: &'static str| Error::new(&codes::MALFORMED_REQUEST).detail(detail);
        if parameters.repeated().is_some() {
            return Err(invalid("A parameter was sent more than once."));
        }
        let application = match (parameters.get("client_id"), hint) {
            (Some(sent), Some(hint)) if hint.aud.to_string() != sent => {
                return Err(invalid("The ID token is of another app."));
            }
            (Some(sent), _) => Some(book.find(sent).ok_or_else(|| invalid("The app is not registered here."))?),
            (None, Some(hint)) => book.get(hint.aud),
            (None, None) => None,
        };
        let return_to = match (parameters.get("post_logout_redirect_uri"), &application) {
            (None, _) => None,
            (Some(uri), Some(application)) if application.allows_post_logout_redirect(uri) => {
                Some(with_state(uri, parameters.get("state"))?)
            }
            (Some(_), _) => return Err(Error::new(&codes::REDIRECT_URI_MISMATCH)),
        };
        Ok(Self {
            organization,
            session: hint.map(|hint| hint.sid),
            return_to,
            application: application.map(|application| application.name.clone()),
            created_at: now,
        })
    }

    /// For the way through the page that asks.
    pub fn seal(&self, boxes: &TokenBox) -> Result<String> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::internal("a sign-out request could not be written").source(error))?;
        Ok(boxes.seal(SEAL, &text))
    }

    /// What comes back must be ours, not too old, and of this organization.
    pub fn open(text: &str, boxes: &TokenBox, organization: OrganizationId, now: Timestamp) -> Result<Self> {
        let opened = boxes.open(SEAL, text).and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let expired = || Error::new(&codes::MALFORMED_REQUEST).detail("This sign-out request is not valid any more.");
        let request = opened.filter(|request| now.since(request.created_at) <= VALID_FOR).ok_or_else(expired)?;
        if request.organization != organization {
            return Err(Error::new(&codes::ORGANIZATION_CONFLICT));
        }
        Ok(request)
    }
}

fn with_state(uri: &str, state: Option<&str>) -> Result<String> {
    match state {
        Some(state) if state.len() > LONGEST_STATE => {
            Err(Error::new(&codes::MALFORMED_REQUEST).detail("state is too long."))
        }
        Some(state) => Ok(answer(uri, &[("state", state)])),
        None => Ok(answer(uri, &[])),
    }
}
