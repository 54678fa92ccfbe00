//! Every page as a plain struct: a handler fills the fields, askama renders `templates/`.
//!
//! Owns what people see (templates, words, the form model). Knows no feature, no store and no axum:
//! the fields are text, so that a page can be rendered in a test without a server. Markup in a value
//! is escaped by askama everywhere. Nothing here uses inline script or style, so the strict
//! Content-Security-Policy holds.

mod deployment;
mod docs;
mod form;
mod tenant;
#[cfg(test)]
mod tests;

pub use askama::Template;

pub use deployment::{
    Address, Choice, ChooseOrganization, Landing, Mailbox, MailboxMessage, SignUpCode, SignUpEmail, SignUpOrganization,
};
pub use docs::{ApiDocs, DocField, DocGroup, DocOperation, DocResponse};
pub use form::{FormState, Notice, NoticeKind, Problem};
pub use tenant::{
    Account, ConfirmAuthorize, ConfirmLogout, Detail, ErrorPage, ExportPage, ExportRow, RecoveryCode, RecoveryEmail,
    RecoveryPassword, SessionRow, SignIn, SignedOut, Welcome,
};

use super::assets;

/// What stands over the three pages of sign-up.
pub const SIGN_UP_STEPS: [&str; 3] = ["E-mail", "Code", "Organization"];

/// Refusing a sign-in says the same for a wrong password and for an unknown address.
pub const MISMATCH: &str = "That e-mail and password don't match.";

/// What surrounds the contents of every page.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Of the document and, on error pages, the heading.
    pub title: String,
    /// The display name; `None` on the deployment's own pages.
    pub organization: Option<String>,
    /// Prefix of every link and form action: "" or `/o/acme`.
    pub base: String,
    /// BCP 47: `en`.
    pub lang: String,
    /// Addresses of the stylesheet and the script.
    pub css: String,
    pub js: String,
    /// Address of the organization's colours; "" when it has none of its own.
    pub theme: String,
}

impl Frame {
    /// A page of the deployment itself, in English and in the product's own colours.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            organization: None,
            base: String::new(),
            lang: "en".to_owned(),
            css: assets::css_path().to_owned(),
            js: assets::js_path().to_owned(),
            theme: String::new(),
        }
    }

    /// A page of an organization, whose name comes first.
    #[must_use]
    pub fn of(title: impl Into<String>, organization: impl Into<String>, base: impl Into<String>) -> Self {
        Self { organization: Some(organization.into()), base: base.into(), ..Self::new(title) }
    }

    #[must_use]
    pub fn themed(mut self, address: impl Into<String>) -> Self {
        self.theme = address.into();
        self
    }

    /// Stands in for a logo.
    #[must_use]
    pub fn monogram(&self) -> String {
        initial(self.organization.as_deref().unwrap_or("B"))
    }

    #[must_use]
    pub fn dir(&self) -> &'static str {
        match self.lang.split('-').next() {
            Some("ar" | "fa" | "he" | "ur") => "rtl",
            _ => "ltr",
        }
    }
}

/// An instant for people: `text` in UTC ("22 Nov 2026, 14:05 UTC"), which the script puts into the
/// reader's zone, and `iso` exactly (RFC 3339).
#[derive(Debug, Clone, Default)]
pub struct When {
    pub iso: String,
    pub text: String,
}

/// Somewhere to go next.
#[derive(Debug, Clone)]
pub struct Link {
    pub href: String,
    pub label: String,
}

impl Link {
    #[must_use]
    pub fn new(href: impl Into<String>, label: impl Into<String>) -> Self {
        Self { href: href.into(), label: label.into() }
    }
}

/// The first letter or digit, upper-case; a dot when there is none.
fn initial(name: &str) -> String {
    name.chars().find(|c| c.is_alphanumeric()).map_or_else(|| "·".to_owned(), |c| c.to_uppercase().collect())
}

/// `?request=…` when an application waits for the outcome, so that no link loses it.
fn request_query(request: Option<&str>) -> String {
    request.map_or_else(String::new, |request| {
        let encoded: String = url::form_urlencoded::byte_serialize(request.as_bytes()).collect();
        format!("?request={encoded}")
    })
}
