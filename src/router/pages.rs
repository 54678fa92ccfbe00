//! Pages and files that belong to no feature: assets, health, the mailbox, the API's documentation.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::{Front, documentation};
use crate::base::{Error, codes};
use crate::features::{DeploymentState, TenantState};
use crate::web::failure::Answer;
use crate::web::pages::{Frame, Mailbox, MailboxMessage};
use crate::web::{Path, Place, assets, frame, reply};

/// Stylesheets and scripts carry a hash in their name, so they may be kept for ever.
pub async fn asset(Path(name): Path<String>) -> Answer {
    let (content_type, bytes) = assets::find(&name).ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    Ok(([(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")], bytes)
        .into_response())
}

/// The organization's colours.
pub async fn theme(place: Place, State(_): State<TenantState>) -> Response {
    let css = assets::theme_css(place.accent.as_deref());
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8"), (header::CACHE_CONTROL, "public, max-age=86400")], css)
        .into_response()
}

/// Whether the process is alive.
pub async fn healthy() -> &'static str {
    "ok\n"
}

/// Whether it can serve: the catalog answers.
pub async fn ready(State(front): State<Front>) -> Response {
    match front.0.directory.is_free("readyz").await {
        Ok(_) => "ready\n".into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the catalog does not answer\n").into_response(),
    }
}

/// Mail that a deployment on localhost keeps to itself. Only for this machine, by its own address.
pub async fn mailbox(State(state): State<DeploymentState>, headers: HeaderMap) -> Answer {
    if headers.contains_key("x-forwarded-for") {
        return Err(Error::new(&codes::NOT_FOUND).into());
    }
    let mailbox = state.mailer.mailbox().ok_or_else(|| Error::new(&codes::NOT_FOUND))?;
    let stored = mailbox.list(50).await?;
    let messages = stored.into_iter().map(|mail| MailboxMessage {
        to: mail.to,
        subject: mail.subject,
        text: mail.text,
        code: mail.code,
        sent: frame::when(mail.sent_at),
    });
    Ok(reply::page(&Mailbox { frame: Frame::new("Local mailbox"), messages: messages.collect() }))
}

/// The OpenAPI document and a page to read it.
pub fn api_documentation(document: utoipa::openapi::OpenApi) -> Router {
    let html = Arc::new(documentation::page(&document));
    Router::new()
        .route("/openapi.json", get(move || async move { Json(document) }))
        .route("/docs/api", get(move || async move { reply::page(&*html) }))
}
