//! The account page.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde::Deserialize;

use crate::base::{Error, Kind, Secret, SessionId, codes};
use crate::features::member::Role;
use crate::features::organization;
use crate::features::password::{self, HINT};
use crate::features::session::http::{Required, by_member, clear_session_cookie};
use crate::features::session::{self, End, Session, SignedIn};
use crate::features::{DEPLOYMENT, TenantState};
use crate::tenants::Tenant;
use crate::web::csrf::Csrf;
use crate::web::failure::Answer;
use crate::web::pages::{Account, Detail, FormState, NoticeKind, SessionRow};
use crate::web::{Form, Path, Place, Query, RequestInfo, frame, reply};

pub fn routes() -> Router<TenantState> {
    Router::new()
        .route("/account", get(page))
        .route("/account/password", post(change_password))
        .route("/account/sessions/{session}/revoke", post(revoke))
}

#[derive(Deserialize)]
struct Asked {
    done: Option<String>,
}

#[derive(Deserialize)]
struct Passwords {
    current_password: Option<Secret>,
    new_password: Option<Secret>,
}

#[derive(Deserialize)]
struct SessionPath {
    session: SessionId,
}

#[derive(Deserialize)]
struct Nothing {}

async fn page(
    tenant: Tenant,
    place: Place,
    csrf: Csrf,
    Required(signed_in): Required,
    Query(asked): Query<Asked>,
) -> Answer {
    let form = match asked.done.as_deref() {
        Some("password") => {
            FormState::default().tell(NoticeKind::Success, "Your password was changed. Your other sessions have ended.")
        }
        Some("session") => FormState::default().tell(NoticeKind::Success, "That session has ended."),
        _ => FormState::default(),
    };
    draw(&tenant, &place, csrf, form, &signed_in).await.map(|page| reply::page(&page))
}

async fn change_password(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    Required(signed_in): Required,
    Form(typed): Form<Passwords>,
) -> Answer {
    state.limits.sign_in.check(&(tenant.id(), info.network()))?;
    state.limits.sign_in_anywhere.check(&(DEPLOYMENT, info.network()))?;
    let empty = || Secret::new(String::new());
    let (current, new) = (typed.current_password.unwrap_or_else(empty), typed.new_password.unwrap_or_else(empty));
    let organization = organization::current(&tenant).await?;
    let (rules, by) = (organization.policy.in_force(&state.policy), by_member(&info, &signed_in));
    match password::change(&tenant, &state.hasher, &rules, &organization, &signed_in, current, new, &by).await {
        Ok(_) => Ok(reply::see_other(&place.path("/account?done=password"))),
        Err(error) if error.kind() == Kind::Invalid => {
            let form = FormState::default().wrong_fields(error.fields());
            let page = draw(&tenant, &place, csrf, form, &signed_in).await?;
            Ok(reply::page_with_status(422, &page))
        }
        Err(error) if error.is(&codes::UNAUTHENTICATED) => Ok(reply::see_other(&place.path("/sign-in"))),
        Err(error) => Err(error.into()),
    }
}

async fn revoke(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    Required(signed_in): Required,
    Path(path): Path<SessionPath>,
    Form(Nothing {}): Form<Nothing>,
) -> Answer {
    let by = by_member(&info, &signed_in);
    tenant
        .write_beyond(|db| {
            // Only the reader's own: another member's session is as unknown as none.
            match session::get(db, path.session)? {
                Some(session) if session.member_id == signed_in.member.id => {
                    session::end(db, path.session, End::RevokedByMember, &by)
                }
                _ => Err(Error::new(&codes::SESSION_NOT_FOUND)),
            }
        })
        .await?;
    if path.session == signed_in.session.id {
        let page = reply::see_other(&place.path("/signed-out"));
        return Ok(reply::with_cookie(page, &clear_session_cookie(&state, &tenant)));
    }
    Ok(reply::see_other(&place.path("/account?done=session")))
}

async fn draw(
    tenant: &Tenant,
    place: &Place,
    csrf: Csrf,
    form: FormState,
    signed_in: &SignedIn,
) -> Result<Account, crate::web::Failure> {
    let member = &signed_in.member;
    let mut sessions = tenant.read(|db| session::list_of_member(db, member.id)).await?;
    sessions.sort_by_key(|session| session.id != signed_in.session.id);
    let detail = |label: &str, value: &Option<String>| value.as_ref().map(|value| Detail::new(label, value.clone()));
    let details = [
        detail("Name", &member.name),
        Some(Detail::new("E-mail", member.email.as_str())),
        detail("User name", &member.username),
        detail("Phone", &member.phone),
        detail("Title", &member.title),
    ];
    Ok(Account {
        frame: frame::of(place, "Your account"),
        csrf: csrf.token,
        form,
        email: member.email.as_str().to_owned(),
        details: details.into_iter().flatten().collect(),
        roles: member.roles.iter().map(|role| format!("{role:?}")).collect(),
        sessions: sessions.iter().map(|session| row(session, signed_in)).collect(),
        more_sessions: None,
        password_hint: HINT.to_owned(),
        may_export: member.roles.contains(&Role::Owner),
    })
}

fn row(session: &Session, signed_in: &SignedIn) -> SessionRow {
    SessionRow {
        id: session.id.to_string(),
        device: frame::device(session.user_agent.as_deref()),
        ip_address: session.ip_address.clone(),
        signed_in: frame::when(session.created_at),
        last_seen: frame::when(session.last_seen_at),
        current: session.id == signed_in.session.id,
    }
}
