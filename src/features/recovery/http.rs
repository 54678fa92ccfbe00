//! The pages of recovery: address, code, new password.

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;

use super::{Ticket, VALID_MINUTES, begin, expired, finish, prove, proven};
use crate::base::{Email, Error, Kind, Secret, codes};
use crate::features::TenantState;
use crate::features::organization;
use crate::features::password::http::after_sign_in;
use crate::features::password::{HINT, check_strength};
use crate::features::session::http::{by_anonymous, session_cookie};
use crate::tenants::Tenant;
use crate::web::cookie::{self, Purpose};
use crate::web::csrf::Csrf;
use crate::web::failure::Answer;
use crate::web::pages::{FormState, NoticeKind, RecoveryCode, RecoveryEmail, RecoveryPassword};
use crate::web::{Form, Place, Query, RequestInfo, frame, reply};

pub fn routes() -> Router<TenantState> {
    Router::new()
        .route("/recovery", get(email_page).post(send_code))
        .route("/recovery/code", get(code_page).post(check_code))
        .route("/recovery/password", get(password_page).post(set_password))
}

#[derive(Deserialize)]
struct Asked {
    request: Option<String>,
    login_hint: Option<String>,
    again: Option<String>,
}

#[derive(Deserialize)]
struct EmailTyped {
    #[serde(default)]
    email: String,
    request: Option<String>,
}

#[derive(Deserialize)]
struct CodeTyped {
    #[serde(default)]
    code: String,
    request: Option<String>,
}

#[derive(Deserialize)]
struct PasswordTyped {
    password: Option<Secret>,
    request: Option<String>,
}

async fn email_page(place: Place, csrf: Csrf, Query(asked): Query<Asked>) -> Response {
    let mut form = FormState::default().keep("email", asked.login_hint.unwrap_or_default());
    if asked.again.is_some() {
        form = form.tell(NoticeKind::Warning, "This has expired. Ask for a new code.");
    }
    reply::page(&RecoveryEmail {
        frame: frame::of(&place, "Get a code"),
        csrf: csrf.token,
        form,
        request: asked.request,
    })
}

async fn send_code(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    Form(typed): Form<EmailTyped>,
) -> Answer {
    let Some(email) = Email::parse(&typed.email) else {
        let form = FormState::default().keep("email", typed.email).wrong("email", "Type a full e-mail address.");
        let frame = frame::of(&place, "Get a code");
        let page = RecoveryEmail { frame, csrf: csrf.token, form, request: typed.request };
        return Ok(reply::page_with_status(422, &page));
    };
    state.limits.recovery.check(&(tenant.id(), info.network()))?;
    let mailbox = state.mac.mac("mailbox limit", &[email.normalized().as_bytes()]);
    // Over the limit of one mailbox the answer is the usual one, and no mail is sent: nobody can use up
    // a member's mails to keep them out, or to learn whether they are a member.
    let quiet = state.limits.mailbox.check(&(tenant.id(), mailbox)).is_err();
    let organization = organization::current(&tenant).await?;
    let ticket = begin(&tenant, &state.mac, &organization, &place.url, &email, quiet, &by_anonymous(&info)).await?;
    let next = with_request(&place.path("/recovery/code"), typed.request.as_deref());
    Ok(reply::with_cookie(reply::see_other(&next), &ticket_cookie(&state, &tenant, &ticket)?))
}

async fn code_page(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    csrf: Csrf,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    let Some(ticket) = ticket_of(&state, &tenant, &headers) else {
        return start_again(&place, asked.request.as_deref());
    };
    reply::page(&draw_code(&state, &place, csrf, FormState::default(), asked.request, &ticket))
}

async fn check_code(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    headers: HeaderMap,
    Form(typed): Form<CodeTyped>,
) -> Answer {
    let Some(ticket) = ticket_of(&state, &tenant, &headers) else {
        return Ok(start_again(&place, typed.request.as_deref()));
    };
    state.limits.code.check(&(tenant.id(), info.network()))?;
    match prove(&tenant, &state.mac, &ticket, &typed.code, &by_anonymous(&info)).await {
        Ok(()) => Ok(reply::see_other(&with_request(&place.path("/recovery/password"), typed.request.as_deref()))),
        Err(error) if error.is(&codes::CODE_INCORRECT) => {
            let form = FormState::default().wrong("code", error.public_detail().to_owned());
            Ok(reply::page_with_status(422, &draw_code(&state, &place, csrf, form, typed.request, &ticket)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn password_page(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    csrf: Csrf,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Answer {
    let Some(ticket) = ticket_of(&state, &tenant, &headers) else {
        return Ok(start_again(&place, asked.request.as_deref()));
    };
    if tenant.read(|db| proven(db, &ticket)).await?.is_none() {
        return Ok(start_again(&place, asked.request.as_deref()));
    }
    Ok(reply::page(&draw_password(&place, csrf, FormState::default(), asked.request, &ticket)))
}

async fn set_password(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    headers: HeaderMap,
    Form(typed): Form<PasswordTyped>,
) -> Answer {
    let Some(ticket) = ticket_of(&state, &tenant, &headers) else {
        return Ok(start_again(&place, typed.request.as_deref()));
    };
    let password = typed.password.unwrap_or_else(|| Secret::new(String::new()));
    match recover(&state, &tenant, &ticket, password, &info).await {
        Ok(cookies) => {
            let next = reply::see_other(&after_sign_in(&place, typed.request.as_deref()));
            Ok(cookies.iter().fold(next, |page, cookie| reply::with_cookie(page, cookie)))
        }
        Err(error) if error.kind() == Kind::Invalid && !error.fields().is_empty() => {
            let form = FormState::default().wrong_fields(error.fields());
            Ok(reply::page_with_status(422, &draw_password(&place, csrf, form, typed.request, &ticket)))
        }
        Err(error) if error.is(&codes::CODE_INCORRECT) => Ok(start_again(&place, typed.request.as_deref())),
        Err(error) => Err(error.into()),
    }
}

async fn recover(
    state: &TenantState,
    tenant: &Tenant,
    ticket: &Ticket,
    password: Secret,
    info: &RequestInfo,
) -> Result<[String; 2], Error> {
    let organization = organization::current(tenant).await?;
    let member = tenant.read(|db| proven(db, ticket)).await?.ok_or_else(expired)?;
    check_strength("password", &password, &member.email, member.name.as_deref(), &organization.name)?;
    let hash = tenant.hash(&state.hasher, password).await?;
    let rules = organization.policy.in_force(&state.policy);
    let by = by_anonymous(info);
    let (_, _, token) = tenant.write(|db| finish(db, tenant, ticket, &hash, &rules, &by)).await?;
    let ended = cookie::clear(Purpose::Recovery(tenant.id()), state.address.is_secure());
    Ok([session_cookie(state, tenant, &token, &rules), ended])
}

fn ticket_cookie(state: &TenantState, tenant: &Tenant, ticket: &Ticket) -> Result<String, Error> {
    let text =
        serde_json::to_vec(ticket).map_err(|error| Error::internal("a ticket could not be written").source(error))?;
    let purpose = Purpose::Recovery(tenant.id());
    Ok(cookie::set(purpose, state.address.is_secure(), &state.boxes.seal("recovery", &text), None))
}

fn ticket_of(state: &TenantState, tenant: &Tenant, headers: &HeaderMap) -> Option<Ticket> {
    let sealed = cookie::read(headers, Purpose::Recovery(tenant.id()), state.address.is_secure())?;
    let ticket: Ticket = serde_json::from_slice(&state.boxes.open("recovery", &sealed)?).ok()?;
    (ticket.organization == tenant.id()).then_some(ticket)
}

fn start_again(place: &Place, request: Option<&str>) -> Response {
    let path = with_request(&place.path("/recovery"), request);
    let joint = if path.contains('?') { '&' } else { '?' };
    reply::see_other(&format!("{path}{joint}again=1"))
}

fn with_request(path: &str, request: Option<&str>) -> String {
    match request {
        Some(request) => {
            let request: String = url::form_urlencoded::byte_serialize(request.as_bytes()).collect();
            format!("{path}?request={request}")
        }
        None => path.to_owned(),
    }
}

fn draw_code(
    state: &TenantState,
    place: &Place,
    csrf: Csrf,
    form: FormState,
    request: Option<String>,
    ticket: &Ticket,
) -> RecoveryCode {
    RecoveryCode {
        frame: frame::of(place, "Type the code"),
        csrf: csrf.token,
        form,
        request,
        email: Some(ticket.email.clone()),
        valid_minutes: VALID_MINUTES,
        mailbox: state.mailbox_url(),
    }
}

fn draw_password(
    place: &Place,
    csrf: Csrf,
    form: FormState,
    request: Option<String>,
    ticket: &Ticket,
) -> RecoveryPassword {
    RecoveryPassword {
        frame: frame::of(place, "Choose a password"),
        csrf: csrf.token,
        form,
        request,
        email: Some(ticket.email.clone()),
        password_hint: HINT.to_owned(),
    }
}
