//! The master key with somebody outside: what works, what is refused, and what goes on when they are silent.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bulkhead::app::App;
use bulkhead::base::{Clock, Timestamp};
use bulkhead::config::Config;
use bulkhead::crypto::{DataKey, MasterKey};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::process::patience;
use crate::world::World;

pub const TOKEN: &str = "a-token-for-the-key-service";
/// Keys of everybody outside in these tests.
const CACHE_SECONDS: u64 = 600;

/// How somebody outside behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    Silent,
    Refusing,
    /// Another key than the one that was wrapped.
    Wrong,
    Nonsense,
    Huge,
    /// Leads elsewhere.
    Redirect,
}

/// A key service on this machine: it wraps with a master key of its own, bound to the context.
pub struct Service {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    mood: Mutex<Mood>,
    /// The current one last.
    keys: Mutex<Vec<(String, MasterKey)>>,
    asked: Mutex<Vec<Value>>,
}

impl Service {
    fn start() -> Self {
        Self::over(None)
    }

    /// Over TLS, where there is an identity for it.
    pub fn over(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Arc::new(Inner {
            mood: Mutex::new(Mood::Good),
            keys: Mutex::new(vec![("kms-1".to_owned(), MasterKey::generate())]),
            asked: Mutex::default(),
        });
        let shared = Arc::clone(&inner);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let (shared, tls) = (Arc::clone(&shared), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(tls) => {
                        let secured = ServerConnection::new(tls).unwrap();
                        shared.serve(StreamOwned::new(secured, connection));
                    }
                    None => shared.serve(connection),
                });
            }
        });
        Self { port, inner }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1/", self.port)
    }

    fn set(&self, mood: Mood) {
        *self.inner.mood.lock().unwrap() = mood;
    }

    fn rotate(&self, id: &str) {
        self.inner.keys.lock().unwrap().push((id.to_owned(), MasterKey::generate()));
    }

    pub fn count(&self, operation: &str) -> usize {
        self.inner.asked.lock().unwrap().iter().filter(|request| request["operation"] == operation).count()
    }

    /// Whether nobody has asked it for anything.
    pub fn is_unasked(&self) -> bool {
        self.inner.asked.lock().unwrap().is_empty()
    }

    async fn world(&self) -> World {
        World::with(&[
            ("BULKHEAD_KEYS_PROVIDER", "http"),
            ("BULKHEAD_KEYS_URL", &self.url()),
            ("BULKHEAD_KEYS_TOKEN", TOKEN),
            ("BULKHEAD_KEYS_TIMEOUT_SECONDS", "10"),
            ("BULKHEAD_KEYS_CACHE_SECONDS", &CACHE_SECONDS.to_string()),
        ])
        .await
    }
}

impl Inner {
    fn serve(&self, mut connection: impl Read + Write) {
        while let Some((head, body)) = read_request(&mut connection) {
            let request: Value = serde_json::from_slice(&body).unwrap();
            self.asked.lock().unwrap().push(request.clone());
            let mood = *self.mood.lock().unwrap();
            let operation = request["operation"].as_str().unwrap();
            assert!(head.starts_with(&format!("POST /v1/{operation} HTTP/1.1")), "{head}");
            let (status, answer) = match mood {
                Mood::Silent => {
                    // For longer than anybody waits here.
                    std::thread::sleep(Duration::from_secs(90));
                    return;
                }
                _ if !head.to_lowercase().contains(&format!("authorization: bearer {TOKEN}")) => {
                    ("401 Unauthorized", "{}".to_owned())
                }
                Mood::Good => ("200 OK", self.answer(&request).to_string()),
                Mood::Refusing => ("403 Forbidden", json!({"error": "a secret word"}).to_string()),
                Mood::Wrong => ("200 OK", json!({"plaintext": STANDARD.encode([7; 32])}).to_string()),
                Mood::Nonsense => ("200 OK", "<html>".to_owned()),
                Mood::Huge => ("200 OK", format!("{{\"plaintext\": \"{}\"}}", "A".repeat(200_000))),
                Mood::Redirect => ("307 Temporary Redirect\r\nlocation: /elsewhere", String::new()),
            };
            let text = format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
                answer.len()
            );
            if connection.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &Value) -> Value {
        let keys = self.keys.lock().unwrap();
        let context = request["context"].as_str().unwrap();
        let bytes = |name: &str| STANDARD.decode(request[name].as_str().unwrap()).unwrap();
        if request["operation"] == "wrap" {
            let (id, master) = keys.last().unwrap();
            let key = DataKey::from_bytes(bytes("plaintext").try_into().unwrap());
            return json!({"key_id": id, "ciphertext": STANDARD.encode(master.wrap(context, &key))});
        }
        let (_, master) = keys.iter().find(|(id, _)| *id == request["key_id"]).unwrap();
        let key = master.unwrap(context, &bytes("ciphertext")).unwrap();
        json!({"plaintext": STANDARD.encode(key.expose())})
    }
}

fn read_request(connection: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let length =
                head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.unwrap_or(0);
            while bytes.len() < end + 4 + length {
                let read = connection.read(&mut piece).ok().filter(|read| *read > 0)?;
                bytes.extend_from_slice(&piece[..read]);
            }
            return Some((head, bytes[end + 4..end + 4 + length].to_vec()));
        }
        let read = connection.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
}

async fn jwks(world: &World, slug: &str) -> crate::world::Answer {
    world.browser(slug).get("/oauth2/jwks").await
}

/// A provider that was silent is not asked for a second.
async fn comes_back(world: &World, slug: &str) {
    let deadline = patience();
    while jwks(world, slug).await.status != 200 {
        assert!(Instant::now() < deadline, "it does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_wraps_one_key_after_the_other_and_never_shows_its_own() {
    let service = Service::start();
    let mut world = service.world().await;
    let id = world.organization("acme").await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!((&state["provider"], &state["current_key_id"]), (&json!("http"), &json!("http:kms-1")), "{state}");
    // Nothing is relied on before it was had back once.
    assert_eq!((service.count("wrap"), service.count("unwrap")), (2, 4));
    assert!(!world.data_dir().join("master.key").exists());
    let contexts: Vec<String> = {
        let asked = service.inner.asked.lock().unwrap();
        asked.iter().map(|request| request["context"].as_str().unwrap().to_owned()).collect()
    };
    assert!(contexts.contains(&id) && contexts.contains(&"deployment".to_owned()), "{contexts:?}");
    world.while_stopped(|_| ()).await;
    world.signed_in("acme", "owner@acme.test").await;
    let before = service.count("unwrap");
    for _ in 0..5 {
        world.signed_in("acme", "owner@acme.test").await;
    }
    assert_eq!(service.count("unwrap"), before, "it is asked for what is remembered");
    world.clock.advance(Duration::from_secs(CACHE_SECONDS));
    jwks(&world, "acme").await.expect(200);
    assert_eq!(service.count("unwrap"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_provider_an_organization_is_refused_when_its_key_is_too_old_and_no_other() {
    let service = Service::start();
    let world = service.world().await;
    world.organization("acme").await;
    jwks(&world, "acme").await.expect(200);
    world.clock.advance(Duration::from_secs(CACHE_SECONDS / 2));
    world.organization("young").await;
    jwks(&world, "young").await.expect(200);
    for mood in [Mood::Silent, Mood::Refusing, Mood::Wrong, Mood::Nonsense, Mood::Huge, Mood::Redirect] {
        service.set(Mood::Good);
        comes_back(&world, "acme").await;
        comes_back(&world, "young").await;
        // Both are remembered: nobody is asked.
        world.clock.advance(Duration::from_secs(CACHE_SECONDS));
        jwks(&world, "acme").await.expect(200);
        world.clock.advance(Duration::from_secs(CACHE_SECONDS / 2));
        jwks(&world, "young").await.expect(200);
        service.set(mood);
        world.clock.advance(Duration::from_secs(CACHE_SECONDS / 2 - 1));
        jwks(&world, "acme").await.expect(200);
        world.clock.advance(Duration::from_secs(1));
        // Now one of them is too old.
        for path in ["/oauth2/jwks", "/sign-in"] {
            let refused = world.browser("acme").get(path).await.expect(503);
            assert!(refused.header("retry-after").is_some(), "{mood:?}");
        }
        let refused = world.operator().get("/v1/organizations/acme/members").await;
        let refused = refused.expect_problem(503, "key_unavailable");
        assert!(!refused.text().contains("secret word") && !refused.text().contains("127.0.0.1"), "{refused:?}");
        jwks(&world, "young").await.expect(200);
        world.signed_in("young", "owner@young.test").await;
        let state = world.operator().get("/v1/keys").await.expect(200).json();
        let reason = state["last_error"]["reason"].as_str().unwrap();
        let wanted = match mood {
            Mood::Silent => "in time",
            Mood::Refusing => "status 403",
            Mood::Wrong => "another key",
            Mood::Nonsense => "not what was asked for",
            Mood::Huge => "too large",
            Mood::Redirect => "status 307",
            Mood::Good => unreachable!(),
        };
        assert!(reason.contains(wanted), "{mood:?}: {reason}");
        assert!(!state.to_string().contains(TOKEN) && !state.to_string().contains("secret word"), "{state}");
        // A new organization has no key, so there is none: nothing is half made.
        let name = format!("new-{mood:?}").to_lowercase();
        let made = world.operator().post("/v1/organizations", &json!({"name": name, "slug": name})).await;
        made.expect_problem(503, "key_unavailable");
        world.operator().get(&format!("/v1/organizations/{name}")).await.expect_problem(404, "organization_not_found");
    }
    service.set(Mood::Good);
    comes_back(&world, "acme").await;
    let check = world.operator().get("/v1/catalog/check").await.expect(200).json();
    assert_eq!(check["problems"], json!([]), "{check}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_provider_fails_and_says_so() {
    let service = Service::start();
    let mut world = service.world().await;
    world.organization("acme").await;
    let settings: Vec<(String, String)> = [
        ("BULKHEAD_KEYS_PROVIDER", "http".to_owned()),
        ("BULKHEAD_KEYS_URL", service.url()),
        ("BULKHEAD_KEYS_TOKEN", TOKEN.to_owned()),
        ("BULKHEAD_KEYS_TIMEOUT_SECONDS", "10".to_owned()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let copy = tempfile::tempdir().unwrap();
    let ring = copy.path().join("keyring.sqlite");
    world.while_stopped(|data| fs::copy(data.join("keyring.sqlite"), &ring).unwrap()).await;
    for mood in [Mood::Silent, Mood::Wrong, Mood::Refusing] {
        service.set(mood);
        let mut config = Config::load(None, settings.iter().cloned()).unwrap();
        config.server.data_dir = copy.path().to_owned();
        let started = App::start(config, Clock::manual(Timestamp::from_millis(1_764_000_000_000))).await;
        let refused = started.err().unwrap();
        assert_eq!(refused.code().name, "key_unavailable", "{mood:?}");
        assert!(refused.public_detail().contains("The deployment's own key cannot be unwrapped"), "{refused:?}");
    }
    // A token that the service does not know is as good as none.
    service.set(Mood::Good);
    let mut config = Config::load(None, settings.iter().cloned()).unwrap();
    config.server.data_dir = copy.path().to_owned();
    config.keys.token = bulkhead::base::Secret::new("another".to_owned());
    let clock = Clock::manual(Timestamp::from_millis(1_764_000_000_000));
    let deadline = patience();
    loop {
        let refused = App::start(config.clone(), clock.clone()).await.err().unwrap();
        if refused.cause().unwrap().contains("status 401") {
            break;
        }
        assert!(Instant::now() < deadline, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_goes_over_to_a_service_and_follows_its_keys() {
    let service = Service::start();
    let mut world = World::new().await;
    world.organization("acme").await;
    let old = fs::read_to_string(world.data_dir().join("master.key")).unwrap();
    for (name, value) in [
        ("BULKHEAD_KEYS_PROVIDER", "http".to_owned()),
        ("BULKHEAD_KEYS_URL", service.url()),
        ("BULKHEAD_KEYS_TOKEN", TOKEN.to_owned()),
        ("BULKHEAD_KEYS_TIMEOUT_SECONDS", "60".to_owned()),
    ] {
        world.set(name, &value);
    }
    world.while_stopped(|_| ()).await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!((&state["provider"], &state["current_key_id"]), (&json!("http"), &Value::Null), "{state}");
    for round in 1..=2 {
        if round == 2 {
            service.rotate("kms-2");
        }
        world.operator().post("/v1/keys/master_rotations", &json!({})).await.expect(202);
        let deadline = patience();
        let state = loop {
            let state = world.operator().get("/v1/keys").await.expect(200).json();
            if state["master_rotation"]["state"] == "done" {
                break state;
            }
            assert!(Instant::now() < deadline, "{state}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(state["current_key_id"], format!("http:kms-{round}"), "{state}");
        let wrapping = state["master_keys"].as_array().unwrap().iter().filter(|key| key["data_keys"] != 0).count();
        assert_eq!(wrapping, 1, "{state}");
        world
            .operator()
            .post("/v1/keys/master_rotations", &json!({}))
            .await
            .expect_problem(409, "key_rotation_not_needed");
        world.while_stopped(|data| drop(fs::remove_file(data.join("master.key")))).await;
        world.signed_in("acme", "owner@acme.test").await;
    }
    // Back again: the file's key wraps, the service unwraps what it wrapped.
    let data = world.data_dir();
    world.set("BULKHEAD_KEYS_PROVIDER", "file");
    world
        .while_stopped(|_| {
            fs::write(data.join("master.key"), old).unwrap();
            fs::set_permissions(data.join("master.key"), fs::Permissions::from_mode(0o600)).unwrap();
        })
        .await;
    world.signed_in("acme", "owner@acme.test").await;
    world.operator().post("/v1/organizations/acme/data_key_rotations", &json!({})).await.expect(200);
    world.signed_in("acme", "owner@acme.test").await;
}

/// A program that wraps by turning the text around; the file beside it tells how it behaves.
fn program(directory: &std::path::Path) -> (PathBuf, PathBuf) {
    let (path, mood) = (directory.join("kms"), directory.join("mood"));
    let script = r#"#!/bin/sh
read -r line
mood=$(cat "$1")
[ -n "$BULKHEAD_KEYS_CACHE_SECONDS" ] && exit 9
case "$mood" in
  fail) echo "denied: $line" >&2; exit 3 ;;
  hang) sleep 300; exit 0 ;;
  huge) yes | head -c 300000; exit 0 ;;
  wrong) echo '{"plaintext":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="}'; exit 0 ;;
  nonsense) echo 'hello'; exit 0 ;;
esac
field() { printf %s "$line" | sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/"; }
case "$line" in
  *'"operation":"wrap"'*) printf '{"key_id":"%s","ciphertext":"%s"}\n' "$(field key_id)" "$(field plaintext)" ;;
  *) printf '{"plaintext":"%s"}\n' "$(field ciphertext)" ;;
esac
"#;
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(&mood, "good").unwrap();
    (path, mood)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_wraps_and_whatever_it_does_wrong_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (path, mood) = program(directory.path());
    let mut world = World::with(&[
        ("BULKHEAD_KEYS_PROVIDER", "command"),
        ("BULKHEAD_KEYS_COMMAND", &format!("{},{}", path.display(), mood.display())),
        ("BULKHEAD_KEYS_KEY_ID", "alias/bulkhead"),
        ("BULKHEAD_KEYS_TIMEOUT_SECONDS", "30"),
        ("BULKHEAD_KEYS_CACHE_SECONDS", "60"),
    ])
    .await;
    world.organization("acme").await;
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert_eq!(state["current_key_id"], "command:alias/bulkhead", "{state}");
    world.while_stopped(|_| ()).await;
    world.signed_in("acme", "owner@acme.test").await;
    for (what, reason) in [
        ("fail", "exit code 3"),
        ("wrong", "another key"),
        ("nonsense", "not what was asked for"),
        ("huge", "too large"),
        ("hang", "in time"),
    ] {
        fs::write(&mood, what).unwrap();
        jwks(&world, "acme").await.expect(200);
        world.clock.advance(Duration::from_secs(60));
        let refused = world.operator().get("/v1/organizations/acme/members").await;
        refused.expect_problem(503, "key_unavailable");
        let state = world.operator().get("/v1/keys").await.expect(200).json();
        assert!(state["last_error"]["reason"].as_str().unwrap().contains(reason), "{what}: {state}");
        fs::write(&mood, "good").unwrap();
        comes_back(&world, "acme").await;
    }
    fs::remove_file(&path).unwrap();
    world.clock.advance(Duration::from_secs(60));
    world.operator().get("/v1/organizations/acme/members").await.expect_problem(503, "key_unavailable");
    let state = world.operator().get("/v1/keys").await.expect(200).json();
    assert!(state["last_error"]["reason"].as_str().unwrap().contains("cannot be started"), "{state}");
}
