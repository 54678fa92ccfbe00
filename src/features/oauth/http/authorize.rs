//! The authorization endpoint of an organization (RFC 6749 section 3.1), and the way back to the app.
//!
//! GET and POST do the same: check, seal, and send the browser to `/oauth2/continue`. A form posted from
//! an app's site comes without our cookies (`SameSite=Lax`); the redirect that follows has them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use super::issuer;
use crate::base::{Error, codes};
use crate::features::TenantState;
use crate::features::application::Application;
use crate::features::oauth::{self, AuthorizationRequest, Issuer, Parameters, Refusal, Scope, Step};
use crate::features::organization::{self, Organization};
use crate::features::session::SignedIn;
use crate::features::session::http::{CurrentSession, by_member};
use crate::tenants::Tenant;
use crate::web::csrf::Csrf;
use crate::web::extract::{RawForm, RawPairs};
use crate::web::failure::Answer;
use crate::web::pages::ConfirmAuthorize;
use crate::web::{Form, Place, Query, RequestInfo, frame, reply};

pub(super) async fn by_query(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    RawPairs(pairs): RawPairs,
) -> Answer {
    begin(&state, &tenant, &place, &Parameters::new(pairs)).await
}

pub(super) async fn by_form(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    RawForm(pairs): RawForm,
) -> Answer {
    begin(&state, &tenant, &place, &Parameters::new(pairs)).await
}

async fn begin(state: &TenantState, tenant: &Tenant, place: &Place, parameters: &Parameters) -> Answer {
    let trusted = oauth::trust(parameters, &state.applications)?;
    refuse_other_organization(parameters, &*organization::current(tenant).await?)?;
    let asked = oauth::asked_for(parameters, &trusted, issuer(place.issuer), tenant.clock().now());
    let sealed = asked.and_then(|asked| asked.pin(tenant.id()).seal(&state.boxes));
    Ok(reply::see_other(&match sealed {
        Ok(sealed) => continue_at(&place.base, &sealed),
        Err(refusal) => trusted.refuse(refusal, &place.issuer_url),
    }))
}

/// The address has said which organization is meant; a parameter may agree, and nothing else.
fn refuse_other_organization(parameters: &Parameters, here: &Organization) -> Result<(), Error> {
    let is_here = |name: &str| {
        name == here.id.to_string() || name == here.slug.as_str() || here.external_id.as_deref() == Some(name)
    };
    let named = parameters.pairs().iter().filter(|(name, _)| name == "organization" || name == "organization_id");
    let conflict = named.into_iter().any(|(_, value)| !is_here(value));
    if conflict { Err(Error::new(&codes::ORGANIZATION_CONFLICT)) } else { Ok(()) }
}

/// Where a sealed request goes on; `base` is what stands in front of an organization's pages.
pub(super) fn continue_at(base: &str, sealed: &str) -> String {
    oauth::answer(&format!("{base}/oauth2/continue"), &[("request", sealed)])
}

fn open(state: &TenantState, tenant: &Tenant, sealed: &str) -> Result<AuthorizationRequest, Error> {
    let valid_for = state.tokens.authorization_request;
    AuthorizationRequest::open(sealed, &state.boxes, tenant.id(), tenant.clock().now(), valid_for)
}

#[derive(Deserialize)]
pub(super) struct Resume {
    #[serde(default)]
    request: String,
}

/// `GET /oauth2/continue`: from the authorization endpoint, and again from the sign-in page.
pub(super) async fn resume(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    CurrentSession(signed_in): CurrentSession,
    Query(Resume { request }): Query<Resume>,
) -> Answer {
    let request = open(&state, &tenant, &request)?;
    // Only the form below may say that the person has agreed.
    let journey = Journey::new(&state, &tenant, &place, &info, request.not_answered());
    match journey.request.next(signed_in.as_ref()) {
        Step::Ask => journey.ask(&csrf, signed_in),
        step => journey.go_on(step, signed_in).await,
    }
}

#[derive(Deserialize)]
pub(super) struct Confirm {
    #[serde(default)]
    request: String,
    action: Action,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Action {
    Continue,
    Switch,
    Deny,
}

/// `POST /oauth2/confirm`: what the person answered.
pub(super) async fn confirm(
    State(state): State<TenantState>,
    tenant: Tenant,
    place: Place,
    info: RequestInfo,
    csrf: Csrf,
    CurrentSession(signed_in): CurrentSession,
    Form(Confirm { request, action }): Form<Confirm>,
) -> Answer {
    let mut request = open(&state, &tenant, &request)?;
    if matches!(action, Action::Switch) {
        request = request.with_another_account(tenant.clock().now());
    }
    let journey = Journey::new(&state, &tenant, &place, &info, request);
    let step = match action {
        Action::Continue => journey.request.next(signed_in.as_ref()),
        Action::Switch => Step::SignIn,
        Action::Deny => Step::Refuse(Refusal::ACCESS_DENIED),
    };
    // Somebody else signed in since the page was shown: they have not been asked.
    if step == Step::Ask { journey.ask(&csrf, signed_in) } else { journey.go_on(step, signed_in).await }
}

/// One request on its way back to the app.
struct Journey<'a> {
    state: &'a TenantState,
    tenant: &'a Tenant,
    place: &'a Place,
    info: &'a RequestInfo,
    request: AuthorizationRequest,
}

impl<'a> Journey<'a> {
    const fn new(
        state: &'a TenantState,
        tenant: &'a Tenant,
        place: &'a Place,
        info: &'a RequestInfo,
        request: AuthorizationRequest,
    ) -> Self {
        Self { state, tenant, place, info, request }
    }

    async fn go_on(&self, step: Step, signed_in: Option<SignedIn>) -> Answer {
        match (step, signed_in) {
            (Step::Issue, Some(signed_in)) => self.issue(&signed_in).await,
            (Step::Refuse(refusal), _) => self.refuse(refusal),
            _ => self.sign_in(),
        }
    }

    async fn issue(&self, signed_in: &SignedIn) -> Answer {
        let application = self.application()?;
        let mut by = by_member(self.info, signed_in);
        by.context.application_id = Some(application.id.to_string());
        let (session, lifetime) = (signed_in.session.id, self.state.tokens.authorization_code);
        let code =
            self.tenant.write(|db| oauth::authorize(db, &self.request, session, &application, lifetime, &by)).await?;
        match code {
            Some(code) => Ok(reply::see_other(&self.request.grant(code.expose(), self.iss()))),
            None => self.sign_in(),
        }
    }

    fn refuse(&self, refusal: Refusal) -> Answer {
        self.application()?;
        Ok(reply::see_other(&self.request.refuse(refusal, self.iss())))
    }

    fn sign_in(&self) -> Answer {
        self.application()?;
        if self.request.asked().silent {
            return self.refuse(Refusal::LOGIN_REQUIRED);
        }
        let sealed = self.sealed(&self.request)?;
        let mut pairs = vec![("request", sealed.as_str())];
        pairs.extend(self.request.asked().login_hint.as_deref().map(|hint| ("login_hint", hint)));
        Ok(reply::see_other(&oauth::answer(&self.place.path("/sign-in"), &pairs)))
    }

    fn ask(&self, csrf: &Csrf, signed_in: Option<SignedIn>) -> Answer<Response> {
        let Some(SignedIn { session, member }) = signed_in else { return self.sign_in() };
        let application = self.application()?;
        let title = format!("Continue to {}", application.name);
        Ok(reply::page(&ConfirmAuthorize {
            frame: frame::of(self.place, &title),
            csrf: csrf.token.clone(),
            request: self.sealed(&self.request.clone().shown_to(session.id))?,
            app_name: application.name.clone(),
            email: member.email.as_str().to_owned(),
            name: member.name,
            shares: self.shares(),
        }))
    }

    /// What the application learns, in words.
    fn shares(&self) -> Vec<String> {
        let scopes = &self.request.asked().scopes;
        [
            (scopes.has(Scope::Profile), "Your name"),
            (scopes.has(Scope::Email), "Your e-mail address"),
            (true, "Your organization and your role in it"),
        ]
        .into_iter()
        .filter(|(shared, _)| *shared)
        .map(|(_, words)| words.to_owned())
        .collect()
    }

    /// Still registered, with this address? Both may have changed while the person signed in.
    fn application(&self) -> Result<Arc<Application>, Error> {
        let asked = self.request.asked();
        let application = self.state.applications.get(asked.client_id);
        let application = application.ok_or_else(|| Error::new(&codes::AUTHORIZATION_REQUEST_INVALID))?;
        if application.allows_redirect(&asked.redirect_uri) {
            Ok(application)
        } else {
            Err(Error::new(&codes::REDIRECT_URI_MISMATCH))
        }
    }

    fn sealed(&self, request: &AuthorizationRequest) -> Result<String, Error> {
        let too_long = |refusal: Refusal| Error::new(&codes::AUTHORIZATION_REQUEST_INVALID).detail(refusal.description);
        request.seal(&self.state.boxes).map_err(too_long)
    }

    /// The issuer that the application has asked.
    fn iss(&self) -> &str {
        match self.request.asked().issuer {
            Issuer::Organization => &self.place.url,
            Issuer::Deployment => self.state.address.origin(),
        }
    }
}
