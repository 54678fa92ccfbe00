//! What people see of the demo application: one page, signed in or not, without scripts.

use std::error::Error;

use askama::Template;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use chrono::DateTime;
use openidconnect::core::CoreErrorResponseType;
use openidconnect::{RequestTokenError, StandardErrorResponse};

use super::Session;

#[derive(Template, Default)]
#[template(
    ext = "html",
    source = r##"<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <title>{% if person.is_some() %}Your board · {% endif %}Kanban &amp; Co</title>
  <link rel="stylesheet" href="/style.css">
  <link rel="icon" href="data:,">
</head>
<body>
<header><a class="mark" href="/"><span aria-hidden="true"></span>Kanban &amp; Co</a><p>A demo application</p></header>
<main>
{% if let Some(problem) = problem %}<p class="problem" role="alert">{{ problem }}</p>{% endif %}
{% if let Some(person) = person %}
  <section class="card">
    <p class="eyebrow">Signed in at {{ person.organization }}</p>
    <h1>Hello {{ person.name }}</h1>
    <p class="muted">{{ person.issuer }} says so; this is what its tokens told the application.</p>
    <dl>{% for (claim, value) in person.claims %}
      <div><dt>{{ claim }}</dt><dd id="claim-{{ claim }}">{{ value }}</dd></div>{% endfor %}
    </dl>
    <div class="actions">
      {% if person.can_refresh %}<form method="post" action="/refresh">
        <button class="secondary">Refresh tokens</button></form>{% endif %}
      <form method="post" action="/sign-out"><button>Sign out</button></form>
    </div>
    <p class="muted" role="status">{% if person.refreshes == 1 %}Tokens refreshed once.
      {% else if person.refreshes > 1 %}Tokens refreshed {{ person.refreshes }} times.{% endif %}</p>
  </section>
{% else if problem.is_some() %}
  <p><a href="/">Back to the start</a></p>
{% else %}
  <h1>Boards for busy teams</h1>
  <p class="muted">Two ways to sign in, with the same OpenID Connect library. Which one an application takes
    depends on when it knows the person's organization.</p>
  <div class="ways">
    <form class="card" method="get" action="/sign-in">
      <h2>Sign in at one issuer for all</h2>
      <p class="muted">{{ issuer }} asks for the organization, unless it is named here.</p>
      <input type="hidden" name="at" value="deployment">
      <label for="one-organization">Organization <span class="muted">(optional)</span></label>
      <input id="one-organization" name="organization" placeholder="acme" autocomplete="organization"
        autocapitalize="none" spellcheck="false">
      <button>Sign in</button>
    </form>
    <form class="card" method="get" action="/sign-in">
      <h2>Sign in at the organization's own issuer</h2>
      <p class="muted">Its own address and its own keys, found by discovery.</p>
      <input type="hidden" name="at" value="organization">
      <label for="own-organization">Organization</label>
      <input id="own-organization" name="organization" placeholder="acme" autocomplete="organization"
        autocapitalize="none" spellcheck="false" required>
      <button>Sign in there</button>
    </form>
  </div>
{% endif %}
</main>
</body>
</html>
"##
)]
pub struct Page {
    problem: Option<String>,
    issuer: String,
    person: Option<Person>,
}

struct Person {
    name: String,
    organization: String,
    issuer: String,
    claims: Vec<(&'static str, String)>,
    can_refresh: bool,
    refreshes: u32,
}

impl Page {
    pub fn home(issuer: &str, session: Option<&Session>) -> Page {
        Page { problem: None, issuer: issuer.to_owned(), person: session.map(Person::of) }
    }
}

impl Person {
    fn of(session: &Session) -> Person {
        // As JSON, the claims can be shown without a line for each of the library's types.
        let mut known = serde_json::to_value(&session.claims).unwrap_or_default();
        let userinfo = serde_json::to_value(&session.userinfo).unwrap_or_default();
        for claim in ["name", "email"] {
            if known.get(claim).is_none() {
                known[claim] = userinfo[claim].clone();
            }
        }
        let text = |claim: &str| match &known[claim] {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            serde_json::Value::Array(items) => {
                Some(items.iter().filter_map(|i| i.as_str()).collect::<Vec<_>>().join(", "))
            }
            serde_json::Value::Number(n) if claim.ends_with("_time") => {
                let at = n.as_i64().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
                at.map(|at| at.format("%-d %B %Y, %H:%M:%S UTC").to_string())
            }
            other => Some(other.to_string()),
        };
        let shown = ["name", "email", "org_slug", "org_id", "roles", "amr", "sid", "auth_time", "sub"];
        Person {
            name: text("name").or_else(|| text("email")).unwrap_or_else(|| "there".to_owned()),
            organization: session.claims.additional_claims().org_slug.clone(),
            issuer: session.issuer.to_string(),
            claims: shown.into_iter().filter_map(|claim| Some((claim, text(claim)?))).collect(),
            can_refresh: session.refresh_token.is_some(),
            refreshes: session.refreshes,
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let policy = "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";
        match self.render() {
            Ok(html) => ([(CONTENT_SECURITY_POLICY, policy), (CACHE_CONTROL, "no-store")], Html(html)).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

pub async fn style() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("style.css"))
}

/// A sign-in that goes no further, told in a sentence.
pub struct Failure(String);

impl Failure {
    pub fn new(problem: impl ToString) -> Failure {
        Failure(problem.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, Page { problem: Some(self.0), ..Page::default() }).into_response()
    }
}

/// What the token endpoint answered, in its own words.
pub fn refused<E>(error: RequestTokenError<E, StandardErrorResponse<CoreErrorResponseType>>) -> Failure
where
    E: Error + 'static,
{
    match error {
        RequestTokenError::ServerResponse(answer) => Failure::new(format!(
            "The issuer refused: {} {}",
            answer.error().as_ref(),
            answer.error_description().map_or("", |description| description.as_str()),
        )),
        other => Failure::new(chain(&other)),
    }
}

/// An error with its causes, which the library leaves to `source()`.
pub fn chain(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told = format!("{told}: {error}");
        cause = error.source();
    }
    told
}
