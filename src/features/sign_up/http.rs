//! The pages of sign-up, and the arrival at the new organization's own address.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;

use super::{Handover, Ticket, VALID_MINUTES, begin, finish, is_proven, prove};
use crate::base::time::length;
use crate::base::{Email, Error, Kind, Secret, Slug, codes};
use crate::features::password::HINT;
use crate::features::password::http::after_sign_in;
use crate::features::session::http::{by_anonymous, rules, session_cookie};
use crate::features::{DEPLOYMENT, DeploymentState, TenantState, session};
use crate::outbound::Message;
use crate::tenants::Tenant;
use crate::web::cookie::{self, Purpose};
use crate::web::csrf::Csrf;
use crate::web::failure::Answer;
use crate::web::pages::{
    Address, FormState, Frame, Landing, NoticeKind, SignUpCode, SignUpEmail, SignUpOrganization, Welcome,
};
use crate::web::{Form, Place, Query, RequestInfo, frame, reply};

/// How long a person waits for the mail server, at the most.
const MAIL_PATIENCE: Duration = length::seconds(15);
const NOT_SENT: &str = "We could not send a code to this address just now. Check that it is right, and try again in a \
                        moment.";

/// Pages on the deployment's own host.
pub fn deployment_routes() -> Router<DeploymentState> {
    Router::new()
        .route("/", get(landing))
        .route("/find", get(find))
        .route("/sign-up", get(email_page).post(send_code))
        .route("/sign-up/code", get(code_page).post(check_code))
        .route("/sign-up/organization", get(organization_page).post(create))
}

/// The arrival, on the organization's host.
pub fn tenant_routes() -> Router<TenantState> {
    Router::new().route("/relay", get(welcome).post(arrive))
}

#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    organization: String,
}

#[derive(Deserialize)]
struct EmailTyped {
    #[serde(default)]
    email: String,
}

#[derive(Deserialize)]
struct CodeTyped {
    #[serde(default)]
    code: String,
}

#[derive(Deserialize)]
struct OrganizationTyped {
    #[serde(default)]
    name: String,
    #[serde(default)]
    slug: String,
    #[serde(default)]
    full_name: String,
    password: Option<Secret>,
}

#[derive(Deserialize)]
struct Arrival {
    #[serde(default)]
    token: String,
}

async fn landing(State(state): State<DeploymentState>) -> Response {
    reply::page(&draw_landing(&state, FormState::default()))
}

/// Leads to an organization's sign-in page by what people know of it: the name in its address.
async fn find(State(state): State<DeploymentState>, Query(found): Query<Found>) -> Answer {
    let typed = found.organization.trim().to_lowercase();
    let unknown = |message: &str| {
        let form = FormState::default().keep("organization", typed.clone()).wrong("organization", message.to_owned());
        Ok(reply::page_with_status(404, &draw_landing(&state, form)))
    };
    if typed.is_empty() {
        return unknown("Type the name in your organization's address.");
    }
    match state.directory.by_name(&typed).await {
        Ok(route) => Ok(reply::see_other(&format!("{}/sign-in", state.tenant.address.of_organization(route.slug())))),
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => unknown("We know no organization of that name."),
        Err(error) => Err(error.into()),
    }
}

async fn email_page(State(state): State<DeploymentState>, csrf: Csrf) -> Answer {
    if !state.sign_up.open {
        return Err(Error::new(&codes::SIGN_UP_CLOSED).into());
    }
    Ok(reply::page(&draw_email(csrf, FormState::default())))
}

async fn send_code(
    State(state): State<DeploymentState>,
    info: RequestInfo,
    csrf: Csrf,
    Form(typed): Form<EmailTyped>,
) -> Answer {
    let Some(email) = Email::parse(&typed.email) else {
        let form = FormState::default().keep("email", typed.email).wrong("email", "Type a full e-mail address.");
        return Ok(reply::page_with_status(422, &draw_email(csrf, form)));
    };
    state.tenant.limits.sign_up.check(&(DEPLOYMENT, info.network()))?;
    let mailbox = state.tenant.mac.mac("mailbox limit", &[email.normalized().as_bytes()]);
    state.tenant.limits.mailbox.check(&(DEPLOYMENT, mailbox))?;
    let (ticket, mail) = begin(&state, &email).await?;
    let message = Message { to: mail.to, subject: mail.subject, text: mail.text, code: mail.code };
    if !deliver(&state, &message).await {
        let form = FormState::default().keep("email", email.as_str()).tell(NoticeKind::Error, NOT_SENT);
        return Ok(reply::page_with_status(503, &draw_email(csrf, form)));
    }
    Ok(reply::with_cookie(reply::see_other("/sign-up/code"), &ticket_cookie(&state, &ticket)?))
}

/// Tries once, and says whether the mail is out. A second try would be made while the same person waits, at
/// a server that has just refused; they know better when to ask again.
async fn deliver(state: &DeploymentState, message: &Message) -> bool {
    let delivered = match tokio::time::timeout(MAIL_PATIENCE, state.mailer.deliver(message)).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::warn!(?error, "the code of a sign-up could not be sent");
            false
        }
        Err(_) => {
            tracing::warn!("the code of a sign-up could not be sent: the mail server took too long");
            false
        }
    };
    let label = if delivered { "delivered" } else { "failed" };
    metrics::counter!("bulkhead_deliveries_total", "outcome" => label).increment(1);
    delivered
}

async fn code_page(State(state): State<DeploymentState>, csrf: Csrf, headers: HeaderMap) -> Response {
    let Some(ticket) = ticket_of(&state, &headers) else { return reply::see_other("/sign-up") };
    reply::page(&draw_code(&state, csrf, FormState::default(), &ticket))
}

async fn check_code(
    State(state): State<DeploymentState>,
    info: RequestInfo,
    csrf: Csrf,
    headers: HeaderMap,
    Form(typed): Form<CodeTyped>,
) -> Answer {
    let Some(ticket) = ticket_of(&state, &headers) else { return Ok(reply::see_other("/sign-up")) };
    state.tenant.limits.code.check(&(DEPLOYMENT, info.network()))?;
    match prove(&state, &ticket, &typed.code).await {
        Ok(()) => Ok(reply::see_other("/sign-up/organization")),
        Err(error) if error.is(&codes::CODE_INCORRECT) => {
            let form = FormState::default().wrong("code", error.public_detail().to_owned());
            Ok(reply::page_with_status(422, &draw_code(&state, csrf, form, &ticket)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn organization_page(State(state): State<DeploymentState>, csrf: Csrf, headers: HeaderMap) -> Answer {
    match ticket_of(&state, &headers) {
        Some(ticket) if is_proven(&state, &ticket).await? => {
            Ok(reply::page(&draw_organization(&state, csrf, FormState::default(), &ticket)))
        }
        _ => Ok(reply::see_other("/sign-up")),
    }
}

async fn create(
    State(state): State<DeploymentState>,
    info: RequestInfo,
    csrf: Csrf,
    headers: HeaderMap,
    Form(typed): Form<OrganizationTyped>,
) -> Answer {
    let Some(ticket) = ticket_of(&state, &headers) else { return Ok(reply::see_other("/sign-up")) };
    state.tenant.limits.code.check(&(DEPLOYMENT, info.network()))?;
    let form = FormState::default()
        .keep("name", typed.name.clone())
        .keep("slug", typed.slug.clone())
        .keep("full_name", typed.full_name.clone());
    let slug = match typed.slug.trim() {
        "" => None,
        text => match Slug::parse(text) {
            Some(slug) => Some(slug),
            None => {
                let form = form.wrong("slug", "Use 2 to 63 lower-case letters, digits and inner hyphens.");
                return Ok(reply::page_with_status(422, &draw_organization(&state, csrf, form, &ticket)));
            }
        },
    };
    let full_name = Some(typed.full_name).filter(|name| !name.trim().is_empty());
    let password = typed.password.unwrap_or_else(|| Secret::new(String::new()));
    match finish(&state, &ticket, typed.name, slug, full_name, password, &by_anonymous(&info)).await {
        Ok((slug, handover)) => hand_over(&state, &slug, &handover),
        Err(error) if matches!(error.kind(), Kind::Invalid | Kind::Conflict) && !error.fields().is_empty() => {
            let status = error.kind().status();
            let form = form.wrong_fields(error.fields());
            Ok(reply::page_with_status(status, &draw_organization(&state, csrf, form, &ticket)))
        }
        Err(error) => Err(error.into()),
    }
}

fn hand_over(state: &DeploymentState, slug: &Slug, handover: &Handover) -> Answer {
    let text = serde_json::to_vec(handover)
        .map_err(|error| Error::internal("a hand-over could not be written").source(error))?;
    let sealed = state.tenant.boxes.seal("handover", &text);
    let next = format!("{}/relay?token={sealed}", state.tenant.address.of_organization(slug));
    let ended = cookie::clear(Purpose::SignUp, state.tenant.address.is_secure());
    Ok(reply::with_cookie(reply::see_other(&next), &ended))
}

/// Shows a fresh owner where they have arrived. A link alone signs nobody in: somebody else could have
/// sent it.
async fn welcome(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    csrf: Csrf,
    current: session::http::CurrentSession,
    Query(arrival): Query<Arrival>,
) -> Response {
    if current.0.is_some() {
        return reply::see_other(&after_sign_in(&place, None));
    }
    match handover_of(&state, &arrival.token).filter(|handover| handover.is_for(&tenant)) {
        Some(handover) => reply::page(&Welcome {
            frame: frame::of(&place, "Welcome"),
            csrf: csrf.token,
            organization: place.display_name.clone(),
            email: handover.email,
            token: arrival.token,
        }),
        None => reply::see_other(&place.path("/sign-in")),
    }
}

/// Takes a fresh owner in. A browser that is signed in here already keeps its own session, so that
/// nobody can be moved into another person's.
async fn arrive(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    current: session::http::CurrentSession,
    Form(arrival): Form<Arrival>,
) -> Answer {
    if current.0.is_some() {
        return Ok(reply::see_other(&after_sign_in(&place, None)));
    }
    let sign_in = reply::see_other(&place.path("/sign-in"));
    let Some(handover) = handover_of(&state, &arrival.token) else { return Ok(sign_in) };
    let (rules, by) = (rules(&state, &tenant).await?, by_anonymous(&info));
    let started = tenant.write(|db| super::arrive(db, &tenant, &handover, &rules, &by)).await?;
    Ok(match started {
        Some(token) => {
            let page = reply::see_other(&after_sign_in(&place, None));
            reply::with_cookie(page, &session_cookie(&state, &tenant, &token, &rules))
        }
        None => sign_in,
    })
}

fn handover_of(state: &TenantState, token: &str) -> Option<Handover> {
    serde_json::from_slice(&state.boxes.open("handover", token)?).ok()
}

fn ticket_cookie(state: &DeploymentState, ticket: &Ticket) -> Result<String, Error> {
    let text =
        serde_json::to_vec(ticket).map_err(|error| Error::internal("a ticket could not be written").source(error))?;
    let sealed = state.tenant.boxes.seal("sign_up", &text);
    Ok(cookie::set(Purpose::SignUp, state.tenant.address.is_secure(), &sealed, None))
}

fn ticket_of(state: &DeploymentState, headers: &HeaderMap) -> Option<Ticket> {
    let sealed = cookie::read(headers, Purpose::SignUp, state.tenant.address.is_secure())?;
    serde_json::from_slice(&state.tenant.boxes.open("sign_up", &sealed)?).ok()
}

fn address(state: &DeploymentState) -> Address {
    let (before, after) = state.tenant.address.around_slug();
    Address { before, after }
}

fn draw_landing(state: &DeploymentState, form: FormState) -> Landing {
    Landing {
        frame: Frame::new("Find your organization"),
        form,
        address: address(state),
        sign_up: state.sign_up.open,
        mailbox: state.tenant.mailbox_url(),
    }
}

fn draw_email(csrf: Csrf, form: FormState) -> SignUpEmail {
    SignUpEmail { frame: Frame::new("Create your organization"), csrf: csrf.token, form }
}

fn draw_code(state: &DeploymentState, csrf: Csrf, form: FormState, ticket: &Ticket) -> SignUpCode {
    SignUpCode {
        frame: Frame::new("Type the code"),
        csrf: csrf.token,
        form,
        email: Some(ticket.email.as_str().to_owned()),
        valid_minutes: VALID_MINUTES,
        mailbox: state.tenant.mailbox_url(),
    }
}

fn draw_organization(state: &DeploymentState, csrf: Csrf, form: FormState, ticket: &Ticket) -> SignUpOrganization {
    SignUpOrganization {
        frame: Frame::new("Name your organization"),
        csrf: csrf.token,
        form,
        address: address(state),
        email: Some(ticket.email.as_str().to_owned()),
        password_hint: HINT.to_owned(),
    }
}
