//! The program as it runs in production: a process of its own on a directory of its own, spoken to over
//! loopback.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bulkhead::base::OrganizationId;
use serde_json::{Value, json};

use crate::wire::{Answer, Client, PATIENCE, Request};

pub const PASSWORD: &str = "violet-harbour-anvil-27";
/// The host of the deployment; organizations are below it.
pub const HOST: &str = "localhost";
const SCOPES: &str = "organizations:read,organizations:write,members:read,members:write,sessions:read,sessions:write,\
                      applications:read,applications:write,audit:read,keys:read,keys:write,exports:read,exports:write,backups:read";

/// A data directory with the settings that go with it.
pub struct Deployment {
    pub directory: tempfile::TempDir,
    pub port: u16,
    settings: Vec<(String, String)>,
}

impl Deployment {
    /// Cheap passwords, no rate limits: all clients of a test have one address.
    pub fn new() -> Self {
        let deployment = Self { directory: tempfile::tempdir().unwrap(), port: free_port(), settings: Vec::new() };
        deployment.with("PASSWORD_MEMORY_KIB", 7168).with("PASSWORD_ITERATIONS", 1)
    }

    /// A setting by the name of its variable without the prefix, such as `FILES_MAX_OPEN`.
    pub fn with(mut self, setting: &str, value: impl ToString) -> Self {
        self.settings.push((format!("BULKHEAD_{setting}"), value.to_string()));
        self
    }

    /// A variable of the environment that is no setting.
    pub fn with_variable(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn url(&self) -> String {
        format!("http://{HOST}:{}", self.port)
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command
            .args(args)
            // No settings but these, and no file beside the directory.
            .env_clear()
            .current_dir(self.directory.path())
            .env("BULKHEAD_SERVER_DATA_DIR", self.data_dir())
            .env("BULKHEAD_SERVER_LISTEN", format!("127.0.0.1:{}", self.port))
            .env("BULKHEAD_SERVER_METRICS_LISTEN", "")
            .env("BULKHEAD_SERVER_PUBLIC_URL", self.url())
            // Whatever else the machine does meanwhile.
            .env("BULKHEAD_SERVER_REQUEST_TIMEOUT_SECONDS", PATIENCE.as_secs().to_string())
            .env("BULKHEAD_SERVER_HEADER_TIMEOUT_SECONDS", PATIENCE.as_secs().to_string())
            .stdin(Stdio::null());
        for limit in ["SIGN_IN_PER_MINUTE", "CODE_PER_MINUTE", "RECOVERY_PER_HOUR", "TOKEN_PER_MINUTE"].iter().chain(&[
            "SIGN_UP_PER_HOUR",
            "MAIL_PER_HOUR",
            "API_PER_MINUTE",
        ]) {
            command.env(format!("BULKHEAD_RATE_LIMITS_{limit}"), "0");
        }
        for limit in ["REQUESTS_PER_SECOND", "CONCURRENT_REQUESTS", "QUEUED_HASHES", "WRITTEN_BYTES_PER_MINUTE"] {
            command.env(format!("BULKHEAD_LIMITS_{limit}"), "0");
        }
        command.envs(self.settings.iter().cloned());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// The document that a command prints, whatever its verdict.
    pub fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], args].concat());
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{args:?}: {ran:?}"))
    }

    /// A key with every scope, made on the spot.
    pub fn operator_key(&self) -> String {
        let made = self.json(&["key", "create", "--name", "test", "--scope", SCOPES]);
        made["secret"].as_str().unwrap().to_owned()
    }

    /// The server, and an operator of it with that key.
    pub fn started(&self) -> (Server, Operator, String) {
        let key = self.operator_key();
        let server = self.serve();
        let operator = Operator::new(&server, &key);
        (server, operator, key)
    }

    /// Starts the server and waits until it says that it is ready.
    pub fn serve(&self) -> Server {
        let log = self.directory.path().join("server.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let started = Instant::now();
        let child = self.command(&["serve"]).stdout(Stdio::null()).stderr(file).spawn().unwrap();
        let mut server = Server { child: Some(child), port: self.port, log, ready_after: Duration::ZERO };
        while !matches!(server.client().send(&Request::get(HOST, "/readyz")), Ok(answer) if answer.status == 200) {
            let ended = server.child.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the server ended ({ended:?}):\n{}", server.log());
            assert!(started.elapsed() < PATIENCE, "the server is not ready:\n{}", server.log());
            thread::sleep(Duration::from_millis(5));
        }
        server.ready_after = started.elapsed();
        server
    }

    /// Where an organization's directory stands.
    pub fn place(&self, organization: &str) -> PathBuf {
        let id: OrganizationId = organization.parse().unwrap();
        let uuid = uuid::Uuid::from_u128(id.bits());
        let bytes = uuid.as_bytes();
        let shard = self.data_dir().join(format!("orgs/{:02x}/{:02x}", bytes[15], bytes[14]));
        shard.join(uuid.to_string())
    }

    pub fn file(&self, organization: &str) -> PathBuf {
        self.place(organization).join("db.sqlite")
    }
}

/// A running `bulkhead serve`; killed when dropped.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    log: PathBuf,
    /// From the start of the process to the first 200 of `/readyz`.
    pub ready_after: Duration,
}

impl Server {
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What all servers of this directory have said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: nothing in the process gets to do anything any more.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, as a supervisor does it first.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// The exit code, once it has ended.
    pub fn wait(&mut self) -> Option<i32> {
        until("the server ends", || self.child.as_mut().unwrap().try_wait().unwrap().is_some());
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub fn stop(mut self) {
        self.terminate();
        assert_eq!(self.wait(), Some(0), "{}", self.log());
    }

    /// Descriptors that the process holds, by what they lead to.
    pub fn descriptors(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap();
        entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whoever holds a key of the deployment.
pub struct Operator {
    pub client: Client,
    pub key: String,
}

impl Operator {
    pub fn new(server: &Server, key: &str) -> Self {
        Self { client: server.client(), key: key.to_owned() }
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.client.send(&Request::get(HOST, path).bearer(&self.key))
    }

    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Answer> {
        self.client.send(&Request::new("POST", HOST, path).bearer(&self.key).json(body))
    }

    pub fn call(&mut self, method: &'static str, path: &str, body: &Value) -> io::Result<Answer> {
        self.client.send(&Request::new(method, HOST, path).bearer(&self.key).json(body))
    }

    /// An organization with an owner who can sign in; its id.
    pub fn organization(&mut self, slug: &str) -> String {
        let owner = json!({ "email": owner_of(slug), "password": PASSWORD });
        let body = json!({ "name": format!("Company {slug}"), "slug": slug, "owner": owner });
        let made = self.post("/v1/organizations", &body).unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["id"].as_str().unwrap().to_owned()
    }

    /// What `catalog check` finds: (organization, problem).
    pub fn problems(deployment: &Deployment) -> Vec<(Option<String>, String)> {
        let check = deployment.json(&["catalog", "check"]);
        let problems = check["problems"].as_array().unwrap().iter();
        problems
            .map(|problem| {
                let organization = problem["organization_id"].as_str().map(str::to_owned);
                (organization, problem["problem"].as_str().unwrap().to_owned())
            })
            .collect()
    }

    /// Files that are open now.
    pub fn open_files(&mut self) -> u64 {
        self.get("/v1/status").unwrap().json()["organizations"]["open"].as_u64().unwrap()
    }
}

pub fn owner_of(slug: &str) -> String {
    format!("owner@{slug}.test")
}

/// The host of an organization.
pub fn host_of(slug: &str) -> String {
    format!("{slug}.{HOST}")
}

/// Somebody at a browser, on one host.
pub struct Person {
    pub client: Client,
    host: String,
    cookies: Vec<String>,
    csrf: Option<String>,
}

impl Person {
    pub fn at(server: &Server, host: &str) -> Self {
        Self { client: server.client(), host: host.to_owned(), cookies: Vec::new(), csrf: None }
    }

    /// The cookies as they are sent.
    pub fn cookies(&self) -> String {
        self.cookies.join("; ")
    }

    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        let answer = self.client.send(&Request::get(&self.host, path).cookie(&self.cookies()))?;
        Ok(self.keep(answer))
    }

    /// Fills in a form: the page is fetched for its token when there is none yet.
    pub fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> io::Result<Answer> {
        if self.csrf.is_none() {
            let page = self.get(path)?;
            self.csrf = page.csrf();
        }
        let answer = self.client.send(&self.form(path, fields))?;
        Ok(self.keep(answer))
    }

    /// The request of [`Person::submit`], to be sent by whoever wants to.
    pub fn form(&self, path: &str, fields: &[(&str, &str)]) -> Request {
        let csrf = self.csrf.as_deref().unwrap_or_default();
        Request::new("POST", &self.host, path).cookie(&self.cookies()).form(&[&[("csrf", csrf)], fields].concat())
    }

    /// Signs in and returns the session's cookie; the browser forgets it, and can sign in again.
    pub fn sign_in(&mut self, email: &str) -> io::Result<String> {
        let answer = self.submit("/sign-in", &[("email", email), ("password", PASSWORD)])?;
        assert_eq!(answer.status, 303, "{}", answer.text());
        let session = answer.cookies().find(|cookie| cookie.starts_with("bh_session_")).unwrap().to_owned();
        self.cookies.retain(|cookie| *cookie != session);
        Ok(session)
    }

    fn keep(&mut self, answer: Answer) -> Answer {
        for cookie in answer.cookies() {
            let name = cookie.split('=').next().unwrap_or_default();
            self.cookies.retain(|known| known.split('=').next() != Some(name));
            self.cookies.push(cookie.to_owned());
        }
        answer
    }
}

/// Whether a session's cookie is good: the session check.
pub fn session_check(host: &str, cookie: &str) -> Request {
    Request::get(host, "/v1/session").cookie(cookie)
}

/// The newest code that was mailed to an address.
pub fn mailed_code(data_dir: &Path, email: &str) -> Option<String> {
    let mut messages: Vec<PathBuf> =
        fs::read_dir(data_dir.join("mailbox")).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    messages.sort_unstable();
    messages.iter().rev().find_map(|path| {
        let message: Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (message["to"] == email).then(|| message["code"].as_str().map(str::to_owned))?
    })
}

/// Overwrites the page in which a table begins, in a database that nobody has open. It still opens.
pub fn scribble_over(file: &Path, table: &str) {
    let page: i64 = {
        let connection = rusqlite::Connection::open(file).unwrap();
        connection.query_row("SELECT rootpage FROM sqlite_schema WHERE name = ?", [table], |row| row.get(0)).unwrap()
    };
    let file = File::options().write(true).open(file).unwrap();
    let at = u64::try_from(page - 1).unwrap() * 4096;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0xff; 4096], at).unwrap();
}

/// When to stop waiting.
pub fn patience() -> Instant {
    Instant::now() + PATIENCE
}

/// Waits until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = patience();
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Below the range that the system gives to clients, so that a restart finds its port free. Each is given out once in
/// one process, where tests run beside each other as well.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() * 37 % 12_000).unwrap();
    let mut ports = (0..12_000).map(|_| 18_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000) % 12_000);
    ports.find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()).expect("no port is free")
}
