//! One way to the API, over three roads: HTTPS to a deployment elsewhere, the control socket of a
//! server on this machine, or the API itself in this process when no server owns the directory.
//!
//! Files are never opened behind a running server's back: the directory is locked by whoever runs the
//! API on it, and who does not get the lock goes through the socket.

mod transfer;

use std::path::Path;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tower::ServiceExt;

use super::args::Options;
use super::config;
use super::failure::Failure;
use crate::app::App;
use crate::base::{Clock, Secret, codes};
use crate::config::Config;

const USER_AGENT: &str = concat!("bulkhead-cli/", env!("CARGO_PKG_VERSION"));
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than any request is allowed to take on the other side.
const ANSWER: Duration = Duration::from_mins(1);
/// For what a server takes its time for.
pub(super) const LONG: Duration = Duration::from_mins(60);
const SOCKET: &str = "control.sock";
/// A server that is starting, or another command that works without one, is waited for: 10 seconds.
const WAIT: Duration = Duration::from_millis(100);
const MOST_WAITS: u32 = 100;
const OWNED: &str = "It may be starting or stopping (try again in a moment), or belong to another user.";
/// The largest page of a list that the API gives.
const PAGE: u64 = 100;
/// Far above any answer of the API.
const LONGEST_ANSWER: usize = 64 << 20;

/// Whether a command may be the first one on a new directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// It makes something, and so may make the deployment with it.
    Create,
    /// It looks or changes: without a deployment there is nothing.
    Use,
}

/// The API of one deployment.
pub(super) struct Client(Road);

enum Road {
    Http { client: reqwest::Client, origin: String, key: Option<Secret> },
    InProcess { app: Box<App>, router: axum::Router },
}

impl Client {
    pub async fn open(options: &Options, intent: Intent) -> Result<Self, Failure> {
        if let Some(url) = &options.url {
            let Some(key) = &options.api_key else {
                return Err(Failure::usage(
                    "--url needs an API key: give it in the environment as BULKHEAD_API_KEY, or with --api-key",
                ));
            };
            return Self::remote(url.as_str(), key.clone());
        }
        Self::local(config::load(options)?, intent).await
    }

    /// The deployment of this machine, whether it runs or not.
    pub async fn local(config: Config, intent: Intent) -> Result<Self, Failure> {
        let data_dir = config.server.data_dir.clone();
        if intent == Intent::Use && !data_dir.exists() {
            let detail = format!("There is no data directory at {}.", data_dir.display());
            return Err(Failure::new("no_deployment", detail).advise(
                "Name the right one (server.data_dir in the file of --config, or BULKHEAD_SERVER_DATA_DIR); \
                 `bulkhead serve` makes a new one.",
            ));
        }
        let mut waits = 0;
        loop {
            if App::is_owned(&data_dir) {
                if UnixStream::connect(data_dir.join(SOCKET)).await.is_ok() {
                    return Self::socket(&data_dir);
                }
            } else {
                match App::start(config.clone(), Clock::system()).await {
                    Ok(app) => {
                        let router = app.control();
                        return Ok(Self(Road::InProcess { app: Box::new(app), router }));
                    }
                    // Somebody was faster.
                    Err(error) if error.is(&codes::OVERLOADED) || App::is_owned(&data_dir) => {}
                    Err(error) => {
                        let advice =
                            "`bulkhead doctor` looks for what is wrong with the data directory and this machine.";
                        return Err(Failure::of_server(&error).advise(advice));
                    }
                }
            }
            if waits == MOST_WAITS {
                let detail =
                    format!("A process owns {} and does not answer on its control socket.", data_dir.display());
                return Err(Failure::new("unreachable", detail).advise(OWNED));
            }
            waits += 1;
            tokio::time::sleep(WAIT).await;
        }
    }

    pub fn remote(url: &str, key: Secret) -> Result<Self, Failure> {
        let client = builder().build().map_err(|error| cannot_connect(url, &error))?;
        Ok(Self(Road::Http { client, origin: url.trim_end_matches('/').to_owned(), key: Some(key) }))
    }

    fn socket(data_dir: &Path) -> Result<Self, Failure> {
        let path = data_dir.join(SOCKET);
        let client = builder()
            .unix_socket(path.as_path())
            // Nothing is encrypted on the way, so the machine's certificates need not be read.
            .tls_certs_only([])
            .build()
            .map_err(|error| cannot_connect(&path.display().to_string(), &error))?;
        Ok(Self(Road::Http { client, origin: "http://localhost".to_owned(), key: None }))
    }

    /// One request: the answer's document (null if it has none), or why there is no such answer.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        self.call_within(method, path, body, ANSWER).await
    }

    /// The same, for what may take as long as an organization is large.
    pub async fn call_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        patience: Duration,
    ) -> Result<Value, Failure> {
        let (status, answer) = match &self.0 {
            Road::Http { client, origin, key } => {
                let mut request = client.request(method, format!("{origin}{path}")).timeout(patience);
                if let Some(key) = key {
                    request = request.bearer_auth(key.expose());
                }
                if let Some(body) = &body {
                    request = request.json(body);
                }
                let place = if key.is_some() { origin.as_str() } else { "the control socket of the running server" };
                let response = request.send().await.map_err(|error| cannot_connect(place, &error))?;
                let status = response.status().as_u16();
                (status, response.bytes().await.map_err(|error| cannot_connect(place, &error))?)
            }
            Road::InProcess { router, .. } => {
                let mut request = Request::builder()
                    .method(method)
                    .uri(path)
                    .header(header::HOST, "localhost")
                    .header(header::USER_AGENT, USER_AGENT);
                if body.is_some() {
                    request = request.header(header::CONTENT_TYPE, "application/json");
                }
                let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
                let request = request.body(body).map_err(|error| Failure::usage(error.to_string()))?;
                let Ok(response) = router.clone().oneshot(request).await;
                let status = response.status().as_u16();
                let bytes = to_bytes(response.into_body(), LONGEST_ANSWER).await;
                (status, bytes.map_err(|error| Failure::new("unreadable_answer", error.to_string()))?)
            }
        };
        judge(status, &answer)
    }

    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Result<Value, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// A list with all its pages, or as many objects as `limit` wants.
    pub async fn list(&self, path: &str, limit: Option<u64>) -> Result<Value, Failure> {
        let (mut data, mut after) = (Vec::new(), None::<String>);
        loop {
            let wanted = limit.map_or(PAGE, |limit| limit.saturating_sub(data.len() as u64).min(PAGE));
            let cursor = after.as_deref().map_or_else(String::new, |id| format!("&after={}", segment(id)));
            let mut page = self.get(&format!("{path}?limit={wanted}{cursor}")).await?;
            let next = page["list_metadata"]["after"].as_str().map(str::to_owned);
            if let Value::Array(objects) = page["data"].take() {
                data.extend(objects);
            }
            let enough = limit.is_some_and(|limit| data.len() as u64 >= limit);
            // A cursor that does not move would be followed for ever.
            if next.is_none() || enough || next == after {
                return Ok(
                    json!({ "object": "list", "data": data, "list_metadata": { "before": null, "after": next } }),
                );
            }
            after = next;
        }
    }

    /// Lets go of the directory, after what was begun has ended.
    pub async fn close(self) {
        if let Road::InProcess { app, .. } = self.0 {
            app.stop().await;
        }
    }
}

/// A document that anybody may read, such as the public keys of a deployment.
pub(super) async fn fetch(url: &url::Url) -> Result<Value, Failure> {
    let cannot = |error: reqwest::Error| cannot_connect(url.as_str(), &error);
    let client = builder().build().map_err(cannot)?;
    let response = client.get(url.clone()).send().await.map_err(cannot)?;
    let status = response.status().as_u16();
    judge(status, &response.bytes().await.map_err(cannot)?)
}

/// The path of an organization in the API, and what is below it.
pub(super) fn organization(org: &str, below: &str) -> String {
    format!("/v1/organizations/{}{below}", segment(org))
}

/// Text as one segment of a path (RFC 3986 section 2.3).
pub(super) fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[allow(clippy::disallowed_methods, reason = "the command line calls the operator's own deployment, where they say")]
fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT)
        .timeout(ANSWER)
        // A key is for the address that it was given for.
        .redirect(reqwest::redirect::Policy::none())
}

pub(super) fn judge(status: u16, answer: &[u8]) -> Result<Value, Failure> {
    let document = serde_json::from_slice::<Value>(answer).ok();
    match (status, document) {
        (200..=299, Some(document)) => Ok(document),
        (200..=299, None) if answer.is_empty() => Ok(Value::Null),
        (400..=599, Some(problem)) if problem["code"].is_string() => Err(Failure::answer(status, problem)),
        (300..=399, _) => Err(not_the_api(status, "leads elsewhere", "Give the address itself with --url.")),
        _ => Err(not_the_api(status, "is none of the API's", "Is --url the address of a Bulkhead deployment?")),
    }
}

fn not_the_api(status: u16, what: &str, advice: &str) -> Failure {
    let mut failure = Failure::new("unexpected_answer", format!("The answer (status {status}) {what}.")).advise(advice);
    failure.status = status;
    failure
}

/// The outer text repeats the address; the innermost cause is what helps.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn cannot_connect(place: &str, error: &reqwest::Error) -> Failure {
    let detail = format!("No answer from {place}: {}.", innermost(error));
    Failure::new("unreachable", detail).advise(if place.starts_with("http") {
        "Check the address, and that the deployment is running."
    } else {
        OWNED
    })
}
