//! Pages on an organization's own address.

use askama::Template;

use super::{FormState, Frame, Link, When, initial, request_query};

/// `GET /sign-in`. Fields: `email`, `password`.
#[derive(Debug, Template)]
#[template(path = "sign_in.html")]
pub struct SignIn {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    /// The sealed request of a waiting application, carried along.
    pub request: Option<String>,
    /// "to continue to …".
    pub app_name: Option<String>,
}

impl SignIn {
    /// Whoever is known already only types the password.
    fn cursor(&self) -> &'static str {
        if self.form.value("email").is_empty() { "email" } else { "password" }
    }
}

/// `GET /recovery`. Field: `email`.
#[derive(Debug, Template)]
#[template(path = "recovery_email.html")]
pub struct RecoveryEmail {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub request: Option<String>,
}

/// `GET /recovery/code`. Field: `code`. Says the same whether or not the address is known.
#[derive(Debug, Template)]
#[template(path = "recovery_code.html")]
pub struct RecoveryCode {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub request: Option<String>,
    /// What was typed on the page before, if it is still known.
    pub email: Option<String>,
    pub valid_minutes: u32,
    /// Address of the local mailbox, where mail goes nowhere else.
    pub mailbox: Option<String>,
}

/// `GET /recovery/password`. Field: `password`.
#[derive(Debug, Template)]
#[template(path = "recovery_password.html")]
pub struct RecoveryPassword {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub request: Option<String>,
    /// For password managers, and to say whose password it is.
    pub email: Option<String>,
    /// What a password must be: "At least 8 characters. …".
    pub password_hint: String,
}

/// `GET /account`. Fields: `current_password`, `new_password`.
#[derive(Debug, Template)]
#[template(path = "account.html")]
pub struct Account {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub email: String,
    /// The profile, in order; leave out what is not known.
    pub details: Vec<Detail>,
    pub roles: Vec<String>,
    /// The reader's own session first.
    pub sessions: Vec<SessionRow>,
    /// Address of the next page of sessions.
    pub more_sessions: Option<String>,
    pub password_hint: String,
    /// Whether the reader may export the organization.
    pub may_export: bool,
}

/// `GET /account/export`. Field: `password`.
#[derive(Debug, Template)]
#[template(path = "export.html")]
pub struct ExportPage {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub email: String,
    /// Newest first.
    pub exports: Vec<ExportRow>,
}

/// One export that can be fetched, or will be.
#[derive(Debug, Clone)]
pub struct ExportRow {
    pub id: String,
    /// What was wrong with the password that it was asked for with.
    pub problem: Option<String>,
    pub file_name: String,
    pub made: When,
    pub until: When,
    /// In words; `None` until it is ready.
    pub size: Option<String>,
    pub failed: bool,
}

/// One line of a profile.
#[derive(Debug, Clone)]
pub struct Detail {
    pub label: String,
    pub value: String,
}

impl Detail {
    #[must_use]
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self { label: label.into(), value: value.into() }
    }
}

/// One session of the reader.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// In text, for the address of its revocation.
    pub id: String,
    /// "Firefox on Linux".
    pub device: String,
    pub ip_address: Option<String>,
    pub signed_in: When,
    pub last_seen: When,
    /// The one that this page was asked with.
    pub current: bool,
}

/// `GET /oauth2/authorize` with a session at hand: who continues, and to what.
#[derive(Debug, Template)]
#[template(path = "confirm_authorize.html")]
pub struct ConfirmAuthorize {
    pub frame: Frame,
    pub csrf: String,
    /// The sealed authorization request.
    pub request: String,
    pub app_name: String,
    pub email: String,
    pub name: Option<String>,
    /// What the application learns, in words: "Your name". Empty leaves the list out.
    pub shares: Vec<String>,
}

impl ConfirmAuthorize {
    fn initial(&self) -> String {
        initial(self.name.as_deref().unwrap_or(&self.email))
    }
}

/// `GET /relay`: a fresh owner arrives at the organization's own address, and says so.
#[derive(Debug, Template)]
#[template(path = "welcome.html")]
pub struct Welcome {
    pub frame: Frame,
    pub csrf: String,
    pub organization: String,
    pub email: String,
    /// The sealed hand-over.
    pub token: String,
}

/// `GET /oauth2/logout` that has to be asked back.
#[derive(Debug, Template)]
#[template(path = "confirm_logout.html")]
pub struct ConfirmLogout {
    pub frame: Frame,
    pub csrf: String,
    /// The sealed sign-out request, if an application made one.
    pub request: Option<String>,
    pub app_name: Option<String>,
    pub email: Option<String>,
}

/// After signing out, with nowhere else to return to.
#[derive(Debug, Template)]
#[template(path = "signed_out.html")]
pub struct SignedOut {
    pub frame: Frame,
}

/// Any refusal, on either sort of host. The heading is the frame's title.
#[derive(Debug, Template)]
#[template(path = "error.html")]
pub struct ErrorPage {
    pub frame: Frame,
    /// What happened and what to do about it, in the reader's words.
    pub message: String,
    /// Where to go from here; the first is the primary one.
    pub next: Vec<Link>,
    /// For whoever helps.
    pub code: String,
    pub request_id: Option<String>,
}

/// Pages that a waiting application's request travels through.
macro_rules! carries_request {
    ($($page:ty),+) => {$(
        impl $page {
            fn query(&self) -> String {
                request_query(self.request.as_deref())
            }
        }
    )+};
}

carries_request!(SignIn, RecoveryEmail, RecoveryCode);
