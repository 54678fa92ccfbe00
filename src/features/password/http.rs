//! The sign-in page, and signing out.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

use super::{Outcome, sign_in};
use crate::base::{Email, Secret, codes};
use crate::features::session::http::{
    CurrentSession, by_anonymous, by_member, clear_session_cookie, rules, session_cookie,
};
use crate::features::session::{self, End};
use crate::features::{DEPLOYMENT, TenantState};
use crate::tenants::Tenant;
use crate::web::csrf::Csrf;
use crate::web::failure::Answer;
use crate::web::pages::{FormState, MISMATCH, NoticeKind, SignIn, SignedOut};
use crate::web::{Form, Place, Query, RequestInfo, frame, reply};

pub fn routes() -> Router<TenantState> {
    Router::new()
        .route("/", get(home))
        .route("/sign-in", get(page).post(attempt))
        .route("/sign-out", post(sign_out))
        .route("/signed-out", get(signed_out))
}

#[derive(Deserialize)]
struct Asked {
    request: Option<String>,
    login_hint: Option<String>,
}

#[derive(Deserialize)]
struct Typed {
    #[serde(default)]
    email: String,
    #[serde(default = "nothing")]
    password: Secret,
    request: Option<String>,
}

fn nothing() -> Secret {
    Secret::new(String::new())
}

async fn home(place: Place, current: CurrentSession) -> Response {
    reply::see_other(&place.path(if current.0.is_some() { "/account" } else { "/sign-in" }))
}

async fn page(
    State(state): State<TenantState>,
    place: Place,
    csrf: Csrf,
    current: CurrentSession,
    Query(asked): Query<Asked>,
) -> Response {
    // Whoever is signed in and was not sent here by an app has nothing to do here.
    if current.0.is_some() && asked.request.is_none() {
        return reply::see_other(&place.path("/account"));
    }
    let form = FormState::default().keep("email", asked.login_hint.unwrap_or_default());
    reply::page(&draw(&state, &place, csrf, form, asked.request))
}

async fn attempt(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    current: CurrentSession,
    Form(typed): Form<Typed>,
) -> Answer {
    state.limits.sign_in.check(&(tenant.id(), info.network()))?;
    state.limits.sign_in_anywhere.check(&(DEPLOYMENT, info.network()))?;
    let mut form = FormState::default().keep("email", typed.email.trim());
    if typed.email.trim().is_empty() {
        form = form.wrong("email", "Type your e-mail address.");
    }
    if typed.password.is_empty() {
        form = form.wrong("password", "Type your password.");
    }
    if form.failed() {
        return Ok(reply::page_with_status(422, &draw(&state, &place, csrf, form, typed.request)));
    }
    let (rules, email, by) = (rules(&state, &tenant).await?, Email::parse(&typed.email), by_anonymous(&info));
    match sign_in(&tenant, &state.hasher, &rules, email.as_ref(), typed.password, &by).await? {
        Outcome::SignedIn(signed_in, token) => {
            if let Some(old) = current.0 {
                let by = by_member(&info, &signed_in);
                tenant.write_beyond(|db| session::end(db, old.session.id, End::SignedInAgain, &by)).await?;
            }
            metrics::counter!("bulkhead_sign_ins_total", "outcome" => "success").increment(1);
            let next = after_sign_in(&place, typed.request.as_deref());
            Ok(reply::with_cookie(reply::see_other(&next), &session_cookie(&state, &tenant, &token, &rules)))
        }
        Outcome::Refused => {
            metrics::counter!("bulkhead_sign_ins_total", "outcome" => "failure").increment(1);
            let form = form.tell(NoticeKind::Error, MISMATCH);
            Ok(reply::page_with_status(
                codes::SIGN_IN_FAILED.kind.status(),
                &draw(&state, &place, csrf, form, typed.request),
            ))
        }
    }
}

/// Where a fresh session leads: back to the waiting app, or to the account. Only ever to a page of ours:
/// where the app wants to be is sealed in the request, never taken from the address.
#[must_use]
pub fn after_sign_in(place: &Place, request: Option<&str>) -> String {
    match request {
        Some(request) => {
            let request: String = url::form_urlencoded::byte_serialize(request.as_bytes()).collect();
            place.path(&format!("/oauth2/continue?request={request}"))
        }
        None => place.path("/account"),
    }
}

#[derive(Deserialize)]
struct Nothing {}

async fn sign_out(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    current: CurrentSession,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    if let Some(signed_in) = current.0 {
        let by = by_member(&info, &signed_in);
        tenant.write_beyond(|db| session::end(db, signed_in.session.id, End::SignedOut, &by)).await?;
    }
    let page = reply::see_other(&place.path("/signed-out"));
    Ok(reply::with_cookie(page, &clear_session_cookie(&state, &tenant)))
}

async fn signed_out(place: Place) -> Response {
    reply::page(&SignedOut { frame: frame::of(&place, "Signed out") })
}

fn draw(state: &TenantState, place: &Place, csrf: Csrf, form: FormState, request: Option<String>) -> SignIn {
    let app_name = request.as_deref().and_then(|request| state.waiting_application(request));
    SignIn { frame: frame::of(place, "Sign in"), csrf: csrf.token, form, request, app_name }
}
