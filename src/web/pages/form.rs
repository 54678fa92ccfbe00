//! A form between two answers: what was typed, what is wrong with it, what just happened.

use std::collections::BTreeMap;

use crate::base::error::FieldError;

/// The state of one form. Errors are told at the top and at the field; what was typed survives.
#[derive(Debug, Clone, Default)]
pub struct FormState {
    /// What was typed, by field. Secrets are never put here (and [`FormState::keep`] refuses them).
    pub values: BTreeMap<&'static str, String>,
    /// What is wrong, by field.
    pub errors: BTreeMap<&'static str, String>,
    /// What happened that belongs to no field.
    pub notice: Option<Notice>,
}

/// Something to tell the reader above the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    Info,
    Success,
    Warning,
    Error,
}

/// One line of the summary: the field to go to, and what is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem<'a> {
    pub field: &'a str,
    pub message: &'a str,
}

/// Every field of every page in reading order, so that the summary and the focus follow the page.
const READING_ORDER: [&str; 9] =
    ["organization", "name", "slug", "full_name", "email", "code", "password", "current_password", "new_password"];

/// Fields whose contents never come back in a page.
const SECRETS: [&str; 4] = ["password", "current_password", "new_password", "code"];

impl FormState {
    /// Remembers what was typed.
    #[must_use]
    pub fn keep(mut self, field: &'static str, value: impl Into<String>) -> Self {
        if !SECRETS.contains(&field) {
            self.values.insert(field, value.into());
        }
        self
    }

    /// Marks a field as wrong; the first thing said of it stays.
    #[must_use]
    pub fn wrong(mut self, field: &'static str, message: impl Into<String>) -> Self {
        self.errors.entry(field).or_insert_with(|| message.into());
        self
    }

    /// Takes over what a rule found. Errors of fields that are on no page become the notice, so that
    /// nothing is refused without a word.
    #[must_use]
    pub fn wrong_fields(mut self, errors: &[FieldError]) -> Self {
        for error in errors {
            let field = READING_ORDER.iter().find(|known| **known == error.field);
            self = match field {
                Some(field) => self.wrong(field, error.message.clone()),
                None => self.tell(NoticeKind::Error, error.message.clone()),
            };
        }
        self
    }

    #[must_use]
    pub fn tell(mut self, kind: NoticeKind, text: impl Into<String>) -> Self {
        self.notice = Some(Notice { kind, text: text.into() });
        self
    }

    #[must_use]
    pub fn value(&self, field: &str) -> &str {
        self.values.get(field).map_or("", String::as_str)
    }

    #[must_use]
    pub fn error(&self, field: &str) -> Option<&str> {
        self.errors.get(field).map(String::as_str)
    }

    #[must_use]
    pub fn has_error(&self, field: &str) -> bool {
        self.errors.contains_key(field)
    }

    #[must_use]
    pub fn failed(&self) -> bool {
        !self.errors.is_empty()
    }

    /// What is wrong, in the order in which the fields stand on the page.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem<'_>> {
        let known = READING_ORDER.iter().filter_map(|field| self.errors.get_key_value(field));
        let others = self.errors.iter().filter(|(field, _)| !READING_ORDER.contains(field));
        known.chain(others).map(|(field, message)| Problem { field, message }).collect()
    }

    /// Whether the cursor belongs into this field: the first wrong one, else the page's own choice.
    #[must_use]
    pub fn focus(&self, field: &str, chosen: &str) -> bool {
        self.problems().first().map_or(chosen, |problem| problem.field) == field
    }

    /// For the field partial: e-mail addresses want their own keyboard.
    #[must_use]
    pub fn is_email(&self, kind: &str) -> bool {
        kind == "email"
    }
}

impl NoticeKind {
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Success => "success",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }

    /// Whether a screen reader interrupts (`alert`) or waits (`status`).
    #[must_use]
    pub const fn role(self) -> &'static str {
        match self {
            Self::Info | Self::Success => "status",
            Self::Warning | Self::Error => "alert",
        }
    }
}
