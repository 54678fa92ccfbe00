//! Pages on the deployment's own host.

use askama::Template;

use super::{FormState, Frame, When, initial};

/// The fixed text around a short name in an organization's address: ("", ".example.com") or
/// ("example.com/o/", "").
#[derive(Debug, Clone, Default)]
pub struct Address {
    pub before: String,
    pub after: String,
}

/// `GET /`. Field: `organization` (a GET form to `/find`).
#[derive(Debug, Template)]
#[template(path = "landing.html")]
pub struct Landing {
    pub frame: Frame,
    pub form: FormState,
    pub address: Address,
    /// Whether anyone may create an organization.
    pub sign_up: bool,
    pub mailbox: Option<String>,
}

/// An authorization request that names no organization. Field: `organization` (a GET form to itself).
#[derive(Debug, Template)]
#[template(path = "choose_organization.html")]
pub struct ChooseOrganization {
    pub frame: Frame,
    pub form: FormState,
    /// Where the choice is sent.
    pub action: String,
    /// The request's own parameters, to be sent again with the choice.
    pub hidden: Vec<(String, String)>,
    pub app_name: Option<String>,
    pub address: Address,
    /// Those that this browser was signed in to before; may be empty.
    pub choices: Vec<Choice>,
}

/// One organization to choose.
#[derive(Debug, Clone)]
pub struct Choice {
    /// What `organization` is set to.
    pub value: String,
    pub label: String,
    pub address: Option<String>,
}

impl Choice {
    fn initial(&self) -> String {
        initial(&self.label)
    }
}

/// `GET /sign-up`. Field: `email`.
#[derive(Debug, Template)]
#[template(path = "sign_up_email.html")]
pub struct SignUpEmail {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
}

/// `GET /sign-up/code`. Field: `code`.
#[derive(Debug, Template)]
#[template(path = "sign_up_code.html")]
pub struct SignUpCode {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub email: Option<String>,
    pub valid_minutes: u32,
    pub mailbox: Option<String>,
}

/// `GET /sign-up/organization`. Fields: `name`, `slug`, `full_name`, `password`.
#[derive(Debug, Template)]
#[template(path = "sign_up_organization.html")]
pub struct SignUpOrganization {
    pub frame: Frame,
    pub csrf: String,
    pub form: FormState,
    pub address: Address,
    /// The address that was proven in the step before.
    pub email: Option<String>,
    pub password_hint: String,
}

/// `GET /mailbox`: mail that a development server keeps to itself.
#[derive(Debug, Template)]
#[template(path = "mailbox.html")]
pub struct Mailbox {
    pub frame: Frame,
    /// Newest first.
    pub messages: Vec<MailboxMessage>,
}

#[derive(Debug, Clone)]
pub struct MailboxMessage {
    pub to: String,
    pub subject: String,
    pub text: String,
    /// Shown in large type if the message carries one.
    pub code: Option<String>,
    pub sent: When,
}
