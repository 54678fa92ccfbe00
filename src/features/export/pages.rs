//! Exports for an organization's owners, on the account page. A session alone is not enough, neither to have one made
//! nor to fetch it: the password is asked for each time.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde::Deserialize;

use super::{State as ExportState, http};
use crate::base::{Error, ExportId, Kind, Secret, codes};
use crate::features::member::Role;
use crate::features::session::SignedIn;
use crate::features::session::http::{Required, by_member};
use crate::features::{DEPLOYMENT, TenantState, export, password};
use crate::tenants::Tenant;
use crate::web::csrf::Csrf;
use crate::web::failure::Answer;
use crate::web::pages::{ExportPage, ExportRow, FormState, NoticeKind};
use crate::web::{Failure, Form, Path, Place, Query, RequestInfo, frame, reply};

pub fn routes() -> Router<TenantState> {
    Router::new().route("/account/export", get(page).post(begin)).route("/account/export/{export}/content", post(fetch))
}

#[derive(Deserialize)]
struct Asked {
    done: Option<String>,
}

#[derive(Deserialize)]
struct Confirmation {
    password: Option<Secret>,
}

#[derive(Deserialize)]
struct ExportPath {
    export: ExportId,
}

async fn page(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    csrf: Csrf,
    Required(signed_in): Required,
    Query(asked): Query<Asked>,
) -> Answer {
    require_owner(&signed_in)?;
    let form = match asked.done.as_deref() {
        Some("begun") => FormState::default()
            .tell(NoticeKind::Success, "Your export is being made. Load this page again in a moment to download it."),
        _ => FormState::default(),
    };
    Ok(reply::page(&draw(&state, &tenant, &place, csrf, form, &signed_in, None)))
}

async fn begin(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    Required(signed_in): Required,
    Form(typed): Form<Confirmation>,
) -> Answer {
    require_owner(&signed_in)?;
    let begun = async {
        confirm(&state, &tenant, &info, &signed_in, typed).await?;
        let by = by_member(&info, &signed_in);
        export::request(&state.exports, &tenant, &state.key_stock, None, &by).await
    };
    match begun.await {
        Ok(_) => Ok(reply::see_other(&place.path("/account/export?done=begun"))),
        Err(error) => told(&state, &tenant, &place, csrf, &signed_in, error, None),
    }
}

async fn fetch(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    Required(signed_in): Required,
    Path(path): Path<ExportPath>,
    Form(typed): Form<Confirmation>,
) -> Answer {
    require_owner(&signed_in)?;
    let taken = async {
        confirm(&state, &tenant, &info, &signed_in, typed).await?;
        let by = by_member(&info, &signed_in);
        let (export, archive) = export::take(&state.exports, &tenant, path.export, &by, false).await?;
        http::stream(&export, &archive).await
    };
    match taken.await {
        Ok(download) => Ok(download),
        Err(error) => told(&state, &tenant, &place, csrf, &signed_in, error, Some(path.export)),
    }
}

/// Everything about everybody is in it.
fn require_owner(signed_in: &SignedIn) -> Result<(), Failure> {
    if signed_in.member.roles.contains(&Role::Owner) {
        return Ok(());
    }
    Err(Error::new(&codes::FORBIDDEN).detail("Only an owner can export the organization.").into())
}

async fn confirm(
    state: &TenantState,
    tenant: &Tenant,
    info: &RequestInfo,
    signed_in: &SignedIn,
    typed: Confirmation,
) -> Result<(), Error> {
    state.limits.sign_in.check(&(tenant.id(), info.network()))?;
    state.limits.sign_in_anywhere.check(&(DEPLOYMENT, info.network()))?;
    let organization = crate::features::organization::current(tenant).await?;
    let rules = organization.policy.in_force(&state.policy);
    let password = typed.password.unwrap_or_else(|| Secret::new(String::new()));
    password::confirm(tenant, &state.hasher, &rules, signed_in, password, &by_member(info, signed_in)).await
}

/// What a person can put right is told on the page: beside the form, or beside the export that was asked for.
fn told(
    state: &TenantState,
    tenant: &Tenant,
    place: &Place,
    csrf: Csrf,
    signed_in: &SignedIn,
    error: Error,
    asked: Option<ExportId>,
) -> Answer {
    let wrong = asked.zip(error.fields().iter().find(|wrong| wrong.field == "password"));
    let wrong = wrong.map(|(id, wrong)| (id, wrong.message.to_string()));
    let form = match error.kind() {
        Kind::Invalid if wrong.is_some() => FormState::default(),
        Kind::Invalid => FormState::default().wrong_fields(error.fields()),
        Kind::Conflict => FormState::default().tell(NoticeKind::Error, error.public_detail().to_owned()),
        _ => return Err(error.into()),
    };
    let page = draw(state, tenant, place, csrf, form, signed_in, wrong);
    Ok(reply::page_with_status(error.kind().status(), &page))
}

fn draw(
    state: &TenantState,
    tenant: &Tenant,
    place: &Place,
    csrf: Csrf,
    form: FormState,
    signed_in: &SignedIn,
    wrong: Option<(ExportId, String)>,
) -> ExportPage {
    let exports = state.exports.list(tenant.id(), state.clock.now());
    // What was sealed for an operator is the operator's.
    let own = exports.into_iter().filter(|export| export.secrets == super::format::Secrets::Omitted);
    let rows = own.map(|export| ExportRow {
        id: export.id.to_string(),
        problem: wrong.as_ref().filter(|(id, _)| *id == export.id).map(|(_, problem)| problem.clone()),
        file_name: export.file_name,
        made: frame::when(export.created_at),
        until: frame::when(export.expires_at),
        size: export.size.map(in_words),
        failed: export.state == ExportState::Failed,
    });
    ExportPage {
        frame: frame::of(place, "Export"),
        csrf: csrf.token,
        form,
        email: signed_in.member.email.as_str().to_owned(),
        exports: rows.collect(),
    }
}

fn in_words(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{} KiB", bytes.div_ceil(1 << 10))
    } else {
        format!("{} MiB", bytes.div_ceil(1 << 20))
    }
}
