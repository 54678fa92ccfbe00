//! Who wraps data keys: a master key that we have, from a file or the environment, or somebody outside who has one and
//! never shows it.
//!
//! One of them wraps. Others that are configured still unwrap what they wrapped before, so that one can be left for
//! another. There is no way around: a key that cannot be unwrapped by whoever wrapped it is not had at all.

mod command;
pub mod file;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::base::{Clock, Error, Result, Secret, Timestamp, codes};
use crate::crypto::{DataKey, MasterKey};
use crate::outbound::{KeyService, Trouble};

/// The longest answer of a provider.
const LONGEST: usize = 64 * 1024;
/// The longest wrapped key that is kept.
const LONGEST_WRAPPED: usize = 16 * 1024;
/// Requests to an external provider at the same moment.
const AT_ONCE: usize = 8;
/// How long one that did not answer is not asked again, so that nobody waits for it in vain.
const SILENCE: Duration = Duration::from_secs(1);
/// When whoever was refused may try again.
const COME_BACK: Duration = Duration::from_secs(5);
/// The layout of a key that an external provider wrapped: this byte, 16 bytes of check, its text.
const OUTSIDE: u8 = 1;
const HEAD: usize = 17;

/// Where the master key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    File,
    Env,
    Command,
    Http,
}

impl Provider {
    const fn prefix(self) -> Option<&'static str> {
        match self {
            Self::File | Self::Env => None,
            Self::Command => Some("command:"),
            Self::Http => Some("http:"),
        }
    }
}

/// What a keyring works with.
pub struct Settings {
    /// Who wraps.
    pub provider: Provider,
    /// Master keys that we have, the current one first; none where somebody outside has it.
    pub keys: Vec<MasterKey>,
    /// Master keys that only unwrap what they wrapped before.
    pub others: Vec<MasterKey>,
    /// The file that they are in, if it is ours to change.
    pub file: Option<PathBuf>,
    /// A program and its arguments; empty for none.
    pub command: Vec<String>,
    pub service: Option<KeyService>,
    /// What an external provider is asked to wrap with; empty for what it chooses.
    pub key_id: String,
    pub timeout: Duration,
    /// How many organizations' keys are remembered.
    pub cached: usize,
    /// How long a key is remembered that somebody outside unwrapped.
    pub remember: Duration,
}

impl From<MasterKey> for Settings {
    fn from(key: MasterKey) -> Self {
        Self {
            provider: Provider::Env,
            keys: vec![key],
            others: Vec::new(),
            file: None,
            command: Vec::new(),
            service: None,
            key_id: String::new(),
            timeout: Duration::from_secs(5),
            cached: 10_000,
            remember: Duration::from_secs(600),
        }
    }
}

/// How the provider does.
#[derive(Debug, Clone, Default)]
pub struct Health {
    pub calls: u64,
    pub failures: u64,
    /// When it last failed, and how.
    pub last_error: Option<(Timestamp, String)>,
}

pub(super) struct Providers {
    pub kind: Provider,
    local: RwLock<Vec<MasterKey>>,
    /// These are in no file of ours, and never come into one.
    others: Vec<MasterKey>,
    file: Option<PathBuf>,
    command: Vec<String>,
    service: Option<KeyService>,
    key_id: String,
    timeout: Duration,
    clock: Clock,
    gate: Semaphore,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    health: Health,
    silent_until: Option<Instant>,
    /// The key that an external provider has wrapped with last.
    current: Option<String>,
}

/// `version` tells apart what may come later.
#[derive(Serialize)]
struct Request<'a> {
    version: u8,
    operation: &'a str,
    key_id: &'a str,
    context: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<&'a str>,
}

#[derive(Deserialize)]
struct Wrapped {
    key_id: String,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Unwrapped {
    plaintext: Secret,
}

impl Providers {
    pub fn new(settings: Settings, clock: Clock) -> Self {
        Self {
            kind: settings.provider,
            local: RwLock::new(settings.keys),
            others: settings.others,
            file: settings.file,
            command: settings.command,
            service: settings.service,
            key_id: settings.key_id,
            timeout: settings.timeout,
            clock,
            gate: Semaphore::new(AT_ONCE),
            seen: Mutex::default(),
        }
    }

    /// Wraps a key under a name; what is kept, and whose key it is wrapped by.
    pub async fn wrap(&self, name: &str, key: &DataKey) -> Result<(Vec<u8>, String)> {
        if self.kind.prefix().is_none() {
            let first = self.local().first().cloned();
            let master = first.ok_or_else(|| Error::internal("there is no master key"))?;
            return Ok((master.wrap(name, key), master.id()));
        }
        let plaintext = Zeroizing::new(STANDARD.encode(key.expose()));
        let request = Request {
            version: 1,
            operation: "wrap",
            key_id: &self.key_id,
            context: name,
            plaintext: Some(&plaintext),
            ciphertext: None,
        };
        let answer = self.ask(self.kind, "wrap", &request).await?;
        let answer: Wrapped =
            serde_json::from_slice(&answer).map_err(|_| self.failed("its answer is not what was asked for"))?;
        let ciphertext = STANDARD.decode(&answer.ciphertext).ok();
        let ciphertext = ciphertext.filter(|text| !text.is_empty() && text.len() <= LONGEST_WRAPPED);
        let is_id = (1..=200).contains(&answer.key_id.len()) && answer.key_id.bytes().all(|b| b.is_ascii_graphic());
        let (Some(ciphertext), true) = (ciphertext, is_id) else {
            return Err(self.failed("its answer is not what was asked for"));
        };
        let id = format!("{}{}", self.kind.prefix().unwrap_or_default(), answer.key_id);
        let wrapped = [&[OUTSIDE][..], &key.check_value(name), &ciphertext].concat();
        // Before anything relies on it: what cannot be had back would be lost with our copy.
        self.unwrap(name, &wrapped, &id).await?;
        self.seen().current = Some(id.clone());
        Ok((wrapped, id))
    }

    /// The key that was wrapped under this name.
    pub async fn unwrap(&self, name: &str, wrapped: &[u8], by: &str) -> Result<DataKey> {
        let outside = [Provider::Command, Provider::Http]
            .into_iter()
            .find_map(|kind| Some((kind, by.strip_prefix(kind.prefix().unwrap_or_default())?)));
        let Some((kind, key_id)) = outside else { return self.unwrap_here(name, wrapped, by) };
        let Some((&[OUTSIDE, ref check @ ..], ciphertext)) = wrapped.split_first_chunk::<HEAD>() else {
            return Err(unusable("it was changed, or moved here from elsewhere".to_owned()));
        };
        let ciphertext = STANDARD.encode(ciphertext);
        let request = Request {
            version: 1,
            operation: "unwrap",
            key_id,
            context: name,
            plaintext: None,
            ciphertext: Some(&ciphertext),
        };
        let answer = self.ask(kind, "unwrap", &request).await?;
        let answer: Unwrapped =
            serde_json::from_slice(&answer).map_err(|_| self.failed("its answer is not what was asked for"))?;
        let bytes = STANDARD.decode(answer.plaintext.expose()).map(Zeroizing::new);
        let bytes: Option<[u8; 32]> = bytes.ok().and_then(|bytes| bytes.as_slice().try_into().ok());
        let key = bytes.map(DataKey::from_bytes).filter(|key| key.check_value(name) == *check);
        key.ok_or_else(|| self.failed("it answered with another key than the one that was wrapped"))
    }

    fn unwrap_here(&self, name: &str, wrapped: &[u8], by: &str) -> Result<DataKey> {
        let keys = self.local();
        let Some(master) = keys.iter().chain(&self.others).find(|key| key.id() == by) else {
            let ours: Vec<String> = keys.iter().chain(&self.others).map(MasterKey::id).collect();
            let ours = if ours.is_empty() { "none".to_owned() } else { ours.join(", ") };
            return Err(unusable(format!("it was wrapped by another master key ({by}; this server has {ours})")));
        };
        let key = master.unwrap(name, wrapped);
        key.map_err(|_| unusable("it was changed, or moved here from elsewhere".to_owned()))
    }

    /// Whether a key that was wrapped by this one can be unwrapped without asking anybody.
    pub fn is_here(by: &str) -> bool {
        ![Provider::Command, Provider::Http].iter().any(|kind| kind.prefix().is_some_and(|own| by.starts_with(own)))
    }

    /// Whether what was wrapped by this one can be unwrapped at all.
    pub fn has(&self, by: &str) -> bool {
        if by.starts_with("command:") {
            !self.command.is_empty()
        } else if by.starts_with("http:") {
            self.service.is_some()
        } else {
            self.local().iter().chain(&self.others).any(|key| key.id() == by)
        }
    }

    /// The key that wraps, as far as it is known: an external provider tells it with its first answer.
    pub fn current(&self) -> Option<String> {
        match self.kind.prefix() {
            None => self.local().first().map(MasterKey::id),
            Some(_) => self.seen().current.clone(),
        }
    }

    /// The key that wraps. An external provider is asked with a key that nothing was sealed with.
    pub async fn require_current(&self) -> Result<String> {
        if self.kind.prefix().is_none() {
            return self.current().ok_or_else(|| Error::internal("there is no master key"));
        }
        Ok(self.wrap("probe", &DataKey::generate()).await?.1)
    }

    /// The ids of the master keys that we have, the one that wraps first; each once.
    pub fn held(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for id in self.local().iter().chain(&self.others).map(MasterKey::id) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    /// Whether new master keys are ours to make.
    pub fn makes_keys(&self) -> bool {
        self.kind == Provider::File && self.file.is_some()
    }

    /// Whether a new master key could be kept. Blocking.
    pub fn check_writable(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), |path| file::check_writable(path))
    }

    /// A new master key that wraps from now on; the ones before stay. On disk when this returns. Blocking.
    pub fn adopt(&self, key: &MasterKey) -> Result<()> {
        let mut keys = vec![key.clone()];
        keys.extend(self.local().iter().cloned());
        self.put(keys)
    }

    /// Forgets every master key but these; tells whether there were others. Blocking.
    pub fn keep_only(&self, wanted: &[String]) -> Result<bool> {
        let (kept, gone): (Vec<_>, Vec<_>) = self.local().iter().cloned().partition(|key| wanted.contains(&key.id()));
        if gone.is_empty() || kept.is_empty() {
            return Ok(false);
        }
        self.put(kept).map(|()| true)
    }

    fn put(&self, keys: Vec<MasterKey>) -> Result<()> {
        let path = self.file.as_ref().filter(|_| self.makes_keys());
        let path = path.ok_or_else(|| Error::internal("the master keys are not ours to change"))?;
        // Held until it is on disk: nothing is wrapped by a key that a crash could take away.
        let mut local = self.local.write().unwrap_or_else(PoisonError::into_inner);
        file::replace(path, &keys)?;
        *local = keys;
        Ok(())
    }

    pub fn health(&self) -> Health {
        self.seen().health.clone()
    }

    async fn ask(&self, kind: Provider, operation: &'static str, request: &Request<'_>) -> Result<Zeroizing<Vec<u8>>> {
        if self.seen().silent_until.is_some_and(|until| Instant::now() < until) {
            return Err(unavailable("the key provider has just failed"));
        }
        let text = serde_json::to_vec(request).map(Zeroizing::new);
        let text = text.map_err(|error| Error::internal("a request could not be written").source(error))?;
        let answer = tokio::time::timeout(self.timeout * 2, async {
            // Whoever has waited in vain for a turn has waited long enough.
            let _turn = self.gate.acquire().await.map_err(|_| Trouble::silent("it is closed"))?;
            match (kind, &self.service) {
                (Provider::Command, _) if !self.command.is_empty() => {
                    command::ask(&self.command, text, self.timeout, LONGEST).await
                }
                (Provider::Http, Some(service)) => service.ask(operation, text, LONGEST).await,
                _ => Err(Trouble::silent("it is not configured")),
            }
        });
        let answer = answer.await.unwrap_or_else(|_| Err(Trouble::silent("it did not answer in time")));
        let outcome = if answer.is_ok() { "ok" } else { "failed" };
        metrics::counter!("bulkhead_key_provider_requests_total", "operation" => operation, "outcome" => outcome)
            .increment(1);
        {
            let mut seen = self.seen();
            seen.health.calls += 1;
            let is_silent = answer.as_ref().is_err_and(|trouble| trouble.is_silent);
            seen.silent_until = is_silent.then(|| Instant::now() + SILENCE);
        }
        answer.map_err(|trouble| self.failed(&trouble.why))
    }

    /// Remembers and says why a key was not had.
    fn failed(&self, why: &str) -> Error {
        tracing::warn!(provider = %self.kind, why, "the key provider was of no use");
        let mut seen = self.seen();
        seen.health.failures += 1;
        seen.health.last_error = Some((self.clock.now(), why.to_owned()));
        unavailable(why)
    }

    fn local(&self) -> std::sync::RwLockReadGuard<'_, Vec<MasterKey>> {
        self.local.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(why: &str) -> Error {
    Error::new(&codes::KEY_UNAVAILABLE).because(format!("the key provider: {why}")).retry_after(COME_BACK)
}

fn unusable(why: String) -> Error {
    Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("its data key cannot be unwrapped: {why}"))
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Env => "env",
            Self::Command => "command",
            Self::Http => "http",
        })
    }
}
