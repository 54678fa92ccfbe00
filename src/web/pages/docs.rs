//! The API reference as a page: made from plain values, so that whoever reads the OpenAPI document
//! into them decides what is shown.

use askama::Template;

use super::Frame;

/// `GET /docs/api`. The heading is the frame's title.
#[derive(Debug, Template)]
#[template(path = "api_docs.html")]
pub struct ApiDocs {
    pub frame: Frame,
    pub version: String,
    /// Paragraphs; line breaks are kept.
    pub introduction: String,
    /// A first call to try, as a command.
    pub example: String,
    /// Address of the OpenAPI document.
    pub openapi: String,
    pub groups: Vec<DocGroup>,
}

/// Operations on one thing.
#[derive(Debug, Clone, Default)]
pub struct DocGroup {
    /// The anchor.
    pub id: String,
    pub title: String,
    pub description: String,
    pub operations: Vec<DocOperation>,
}

#[derive(Debug, Clone, Default)]
pub struct DocOperation {
    /// The anchor; unique on the page.
    pub id: String,
    pub method: String,
    pub path: String,
    pub summary: String,
    pub description: String,
    pub scopes: Vec<String>,
    pub parameters: Vec<DocField>,
    /// Fields of the request body.
    pub request: Vec<DocField>,
    pub request_example: Option<String>,
    pub responses: Vec<DocResponse>,
    pub response_example: Option<String>,
}

/// A parameter, or a field of a body.
#[derive(Debug, Clone, Default)]
pub struct DocField {
    pub name: String,
    /// `path`, `query` or `header`; `None` in a body.
    pub place: Option<String>,
    /// "string", "array of strings", ...
    pub kind: String,
    pub required: bool,
    pub description: String,
}

#[derive(Debug, Clone, Default)]
pub struct DocResponse {
    pub status: String,
    pub description: String,
    /// The `code`s that an error answer may carry.
    pub codes: Vec<String>,
}
