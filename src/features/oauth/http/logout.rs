//! Signing out at an application's wish (OpenID Connect RP-Initiated Logout 1.0).

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use crate::base::Error;
use crate::features::TenantState;
use crate::features::oauth::{self, IdHint, Issuer, Parameters, SignOutRequest, Speaker};
use crate::features::session::http::{CurrentSession, by_member, clear_session_cookie};
use crate::features::session::{self, End, SignedIn};
use crate::tenants::Tenant;
use crate::web::csrf::Csrf;
use crate::web::extract::{RawForm, RawPairs};
use crate::web::failure::Answer;
use crate::web::pages::{ConfirmLogout, SignedOut};
use crate::web::{Form, IssuerKind, Place, RequestInfo, frame, reply};

/// A form posted from an app's site comes without our cookies (`SameSite=Lax`); the redirect has them.
pub(super) async fn by_form(place: Place, RawForm(pairs): RawForm) -> Response {
    let base = if place.issuer == IssuerKind::Deployment { &place.url } else { &place.base };
    again_at(base, &pairs)
}

/// The same request once more; `base` is what stands in front of an organization's pages.
fn again_at(base: &str, pairs: &[(String, String)]) -> Response {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    reply::see_other(&oauth::answer(&format!("{base}/oauth2/logout"), &pairs))
}

/// Ends the session at once if the application proves with an ID token that it is the one meant; asks
/// the person otherwise, or any link could sign them out.
pub(super) async fn by_query(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    CurrentSession(signed_in): CurrentSession,
    RawPairs(pairs): RawPairs,
) -> Answer {
    if place.issuer == IssuerKind::Deployment {
        // The session's cookie is with the organization's own address.
        return Ok(again_at(&place.url, &pairs));
    }
    let parameters = Parameters::new(pairs);
    let hint = hint(&state, &tenant, &place, &parameters).await?;
    let now = tenant.clock().now();
    let request = SignOutRequest::new(&parameters, hint.as_ref(), &state.applications, tenant.id(), now)?;
    match signed_in {
        Some(signed_in) if request.session == Some(signed_in.session.id) => {
            end(&state, &tenant, &place, &info, &signed_in, request.return_to).await
        }
        Some(signed_in) => Ok(reply::page(&ConfirmLogout {
            frame: frame::of(&place, "Sign out"),
            csrf: csrf.token,
            request: Some(request.seal(&state.boxes)?),
            app_name: request.application,
            email: Some(signed_in.member.email.as_str().to_owned()),
        })),
        None => Ok(signed_out(&place, request.return_to)),
    }
}

#[derive(Deserialize)]
pub(super) struct Confirm {
    request: Option<String>,
}

/// `POST /oauth2/logout/confirm`
pub(super) async fn confirm(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    CurrentSession(signed_in): CurrentSession,
    Form(Confirm { request }): Form<Confirm>,
) -> Answer {
    let now = tenant.clock().now();
    let request = request.map(|text| SignOutRequest::open(&text, &state.boxes, tenant.id(), now)).transpose()?;
    let return_to = request.and_then(|request| request.return_to);
    match signed_in {
        Some(signed_in) => end(&state, &tenant, &place, &info, &signed_in, return_to).await,
        None => Ok(signed_out(&place, return_to)),
    }
}

async fn end(
    state: &TenantState,
    tenant: &Tenant,
    place: &Place,
    info: &RequestInfo,
    signed_in: &SignedIn,
    return_to: Option<String>,
) -> Answer {
    let by = by_member(info, signed_in);
    tenant.write_beyond(|db| session::end(db, signed_in.session.id, End::SignedOut, &by)).await?;
    let response = signed_out(place, return_to);
    Ok(reply::with_cookie(response, &clear_session_cookie(state, tenant)))
}

fn signed_out(place: &Place, return_to: Option<String>) -> Response {
    match return_to {
        Some(address) => reply::see_other(&address),
        None => reply::page(&SignedOut { frame: frame::of(place, "Signed out") }),
    }
}

/// The ID token that the application sent, of either issuer: those of the deployment's end up here, too,
/// because the session is here.
async fn hint(
    state: &TenantState,
    tenant: &Tenant,
    place: &Place,
    parameters: &Parameters,
) -> Result<Option<IdHint>, Error> {
    let Some(jwt) = parameters.get("id_token_hint") else { return Ok(None) };
    for (kind, issuer, url) in [
        (IssuerKind::Organization, Issuer::Organization, place.url.as_str()),
        (IssuerKind::Deployment, Issuer::Deployment, state.address.origin()),
    ] {
        let keys = state.keys(tenant, kind).keys().await?;
        let speaker = Speaker { issuer, url, organization: tenant.id(), slug: &place.slug };
        if let Some(hint) = oauth::read_id_token_hint(jwt, &keys, &speaker, tenant.clock().now()) {
            return Ok(Some(hint));
        }
    }
    Ok(None)
}
