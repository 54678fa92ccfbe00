//! A whole deployment in one process, with its clock in the hand, and the people and programs who use it.
//!
//! Everything goes through the router that the server mounts: what a test sees is what a client sees.

mod answer;
mod api;
mod app;
mod browser;
mod page;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::process::patience;
use crate::wire::PATIENCE;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use bulkhead::app::App;
use bulkhead::base::{Clock, Timestamp};
use bulkhead::config::Config;
use bulkhead::router::Peer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

pub use answer::Answer;
pub use api::Api;
pub use app::{Registered, Tokens};
pub use browser::Browser;
pub use page::text_between;

/// The deployment's host; organizations are one label in front of it.
pub const HOST: &str = "localhost:8080";
/// Good enough for everybody, and the same for everybody, so that only the organization can tell people apart.
pub const PASSWORD: &str = "violet-harbour-anvil-27";

const START: Timestamp = Timestamp::from_millis(1_764_000_000_000);

pub struct World {
    app: Option<App>,
    service: Router,
    control: Router,
    pub clock: Clock,
    directory: TempDir,
    settings: Vec<(String, String)>,
    operator_key: String,
    read_mails: Mutex<HashSet<PathBuf>>,
    schema: &'static [&'static str],
}

/// Where a request seems to come from, and what it carries.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: String,
    pub host: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub peer: IpAddr,
}

impl Call {
    pub fn new(method: &str, host: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            peer: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = serde_json::to_vec(body).unwrap();
        self.header("content-type", "application/json")
    }

    pub fn form(mut self, fields: &[(&str, &str)]) -> Self {
        self.body = encoded(fields).into_bytes();
        self.header("content-type", "application/x-www-form-urlencoded")
    }
}

/// Waits until it is so.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = patience();
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl World {
    /// A deployment with the cheapest password hash and no rate limits.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same, with settings such as `("BULKHEAD_ORGANIZATIONS_SIGN_UP", "closed")`.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut all = vec![
            ("BULKHEAD_SERVER_DATA_DIR".to_owned(), directory.path().join("data").display().to_string()),
            ("BULKHEAD_SERVER_PUBLIC_URL".to_owned(), format!("http://{HOST}")),
            // Whatever else the machine does meanwhile.
            ("BULKHEAD_SERVER_REQUEST_TIMEOUT_SECONDS".to_owned(), PATIENCE.as_secs().to_string()),
            ("BULKHEAD_PASSWORD_MEMORY_KIB".to_owned(), "7168".to_owned()),
            ("BULKHEAD_PASSWORD_ITERATIONS".to_owned(), "1".to_owned()),
            // This process is the tests' own program.
            ("BULKHEAD_IMPORTS_CHECK_PROGRAM".to_owned(), env!("CARGO_BIN_EXE_bulkhead").to_owned()),
        ];
        // Every limit there is, whatever it is called.
        let defaults = Config::embedded().unwrap().show();
        for (limit, _) in defaults["rate_limits"].as_table().unwrap() {
            all.push((format!("BULKHEAD_RATE_LIMITS_{}", limit.to_uppercase()), "0".to_owned()));
        }
        for limit in ["REQUESTS_PER_SECOND", "CONCURRENT_REQUESTS", "QUEUED_HASHES", "WRITTEN_BYTES_PER_MINUTE"] {
            all.push((format!("BULKHEAD_LIMITS_{limit}"), "0".to_owned()));
        }
        all.extend(settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
        let clock = Clock::manual(START);
        let (app, service, control) = start(&all, &clock, bulkhead::tenants::MIGRATIONS).await;
        let mut world = Self {
            app: Some(app),
            service,
            control,
            clock,
            directory,
            settings: all,
            operator_key: String::new(),
            read_mails: Mutex::default(),
            schema: bulkhead::tenants::MIGRATIONS,
        };
        let made =
            world.local_operator("POST", "/v1/api_keys", Some(json!({"name": "operator", "scopes": ["*"]}))).await;
        made.expect(201).json()["secret"].as_str().unwrap().clone_into(&mut world.operator_key);
        world
    }

    pub fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Another schema of organizations' files from the next start on: a newer program.
    pub fn set_schema(&mut self, schema: &'static [&'static str]) {
        self.schema = schema;
    }

    /// Stops the server, lets `work` have its directory, and starts it again.
    pub async fn while_stopped<T>(&mut self, work: impl FnOnce(&Path) -> T) -> T {
        // The routers hold the files open.
        (self.service, self.control) = (Router::new(), Router::new());
        self.app.take().unwrap().stop().await;
        let value = work(&self.data_dir());
        let (app, service, control) = start(&self.settings, &self.clock, self.schema).await;
        (self.app, self.service, self.control) = (Some(app), service, control);
        value
    }

    /// Sends a request to the public service.
    pub async fn call(&self, call: Call) -> Answer {
        send(&self.service, call).await
    }

    /// The same as something that can run beside others.
    pub fn call_later(&self, call: Call) -> impl Future<Output = Answer> + Send + 'static {
        let service = self.service.clone();
        async move { send(&service, call).await }
    }

    /// Sends a request to the control socket.
    pub async fn local_operator(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let call = Call::new(method, HOST, path);
        send(&self.control, if let Some(body) = body { call.json(&body) } else { call }).await
    }

    /// The API with an operator's key that may do everything.
    pub fn operator(&self) -> Api<'_> {
        self.api(&self.operator_key)
    }

    pub fn operator_key(&self) -> &str {
        &self.operator_key
    }

    /// The API with this key.
    pub fn api(&self, key: &str) -> Api<'_> {
        Api::new(self, Some(key.to_owned()))
    }

    /// The API without any credential.
    pub fn stranger(&self) -> Api<'_> {
        Api::new(self, None)
    }

    /// A browser at an organization's own address.
    pub fn browser(&self, slug: &str) -> Browser<'_> {
        Browser::new(self, &host_of(slug))
    }

    /// A browser at the deployment's address.
    pub fn visitor(&self) -> Browser<'_> {
        Browser::new(self, HOST)
    }

    /// An organization with an owner who has the usual password; its id.
    pub async fn organization(&self, slug: &str) -> String {
        let owner = json!({"email": format!("owner@{slug}.test"), "password": PASSWORD});
        let body = json!({"name": slug, "slug": slug, "owner": owner});
        self.operator().post("/v1/organizations", &body).await.expect(201).id()
    }

    /// A member with the usual password; the id.
    pub async fn member(&self, slug: &str, email: &str) -> String {
        let body = json!({"email": email, "password": PASSWORD});
        self.operator().post(&format!("/v1/organizations/{slug}/members"), &body).await.expect(201).id()
    }

    /// A browser in which this person has just signed in.
    pub async fn signed_in(&self, slug: &str, email: &str) -> Browser<'_> {
        let mut browser = self.browser(slug);
        browser.sign_in(email, PASSWORD).await.expect(303);
        browser
    }

    /// A new key of an organization.
    pub async fn organization_key(&self, slug: &str, scopes: &[&str]) -> String {
        let body = json!({"name": "a program", "scopes": scopes});
        let made = self.operator().post(&format!("/v1/organizations/{slug}/api_keys"), &body).await;
        made.expect(201).json()["secret"].as_str().unwrap().to_owned()
    }

    /// The newest events of an organization's log, newest first.
    pub async fn events(&self, slug: &str) -> Vec<Value> {
        let page = self.operator().get(&format!("/v1/organizations/{slug}/audit_events?limit=100")).await;
        page.expect(200).json()["data"].as_array().unwrap().clone()
    }

    /// The code in the next message to this mailbox that was not read yet. Mail leaves after the answer, so it
    /// may take a moment.
    pub async fn mailbox_code(&self, email: &str) -> String {
        let deadline = patience();
        loop {
            if let Some(code) = self.next_code(email) {
                return code;
            }
            assert!(Instant::now() < deadline, "no message has come for {email}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// What an operator finds there, as soon as it is so: what was asked for may be carried out after the answer.
    pub async fn awaited(&self, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let deadline = patience();
        loop {
            let found = self.operator().get(path).await.expect(200).json();
            if is_so(&found) {
                return found;
            }
            assert!(Instant::now() < deadline, "{path}: it does not come to that: {found}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The same of a walk over all organizations, as soon as it has ended.
    pub async fn walked(&self, walks: &str, id: &str) -> Value {
        self.awaited(&format!("/v1/fleet/{walks}/{id}"), |walk| walk["state"] != "running").await
    }

    /// The same, without waiting.
    pub fn next_code(&self, email: &str) -> Option<String> {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(self.data_dir().join("mailbox")).ok()?.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut read = self.read_mails.lock().unwrap();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            let mail: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if mail["to"] == email && read.insert(path) {
                return mail["code"].as_str().map(str::to_owned);
            }
        }
        None
    }
}

pub fn host_of(slug: &str) -> String {
    format!("{slug}.{HOST}")
}

pub fn encoded(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

async fn start(settings: &[(String, String)], clock: &Clock, schema: &'static [&'static str]) -> (App, Router, Router) {
    let config = Config::load(None, settings.iter().cloned()).unwrap();
    let app = App::start_with_schema(config, clock.clone(), schema).await.unwrap();
    let (service, control) = (app.service(), app.control());
    (app, service, control)
}

async fn send(router: &Router, call: Call) -> Answer {
    let mut request = Request::builder().method(call.method.as_str()).uri(&call.path);
    // An empty host stands for a request that has none.
    if !call.host.is_empty() {
        request = request.header("host", &call.host);
    }
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let mut request = request.body(Body::from(call.body)).unwrap();
    request.extensions_mut().insert(Peer(call.peer));
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Answer {
        asked: format!("{} {}{}", call.method, call.host, call.path),
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
    }
}
