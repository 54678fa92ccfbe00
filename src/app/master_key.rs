//! The master key: from the environment, from a file, made on the first run of the embedded default, or with somebody
//! outside who wraps for us.

use std::time::Duration;

use crate::base::{Error, Result};
use crate::config::{self, Config};
use crate::crypto::MasterKey;
use crate::keyring::provider::file;
use crate::keyring::{Provider, Settings};
use crate::outbound::{Bearer, KeyService};

/// Whom the configuration names. `auto` is the environment's key where there is one, else the file.
pub fn provider(config: &Config) -> Provider {
    match config.keys.provider {
        config::KeyProvider::Auto if config.keys.master_key.is_empty() => Provider::File,
        config::KeyProvider::Auto | config::KeyProvider::Env => Provider::Env,
        config::KeyProvider::File => Provider::File,
        config::KeyProvider::Command => Provider::Command,
        config::KeyProvider::Http => Provider::Http,
    }
}

/// Reads what there is to read; never makes a second master key where a keyring already depends on a first.
pub fn load(config: &Config) -> Result<Settings> {
    let provider = provider(config);
    let path = config.master_key_path();
    let mut given = from_environment(config)?.into_iter();
    let mut settings = Settings {
        provider,
        keys: Vec::new(),
        others: Vec::new(),
        file: None,
        command: config.keys.command.clone(),
        service: service(config)?,
        key_id: config.keys.key_id.clone(),
        timeout: Duration::from_secs(config.keys.timeout_seconds),
        cached: config.keys.cache_keys,
        remember: Duration::from_secs(config.keys.cache_seconds),
    };
    match provider {
        Provider::File => {
            if !path.exists() {
                let is_default = config.keys.master_key_file.as_os_str().is_empty();
                let first_run = !config.server.data_dir.join("keyring.sqlite").exists();
                if !(is_default && first_run) {
                    return Err(wrong(format!(
                        "The master key file {} is missing; without it nothing in the keyring can be unwrapped.",
                        path.display()
                    )));
                }
                file::make(&path)?;
                tracing::info!(path = %path.display(), "made a master key; keep a copy of it somewhere else");
            }
            settings.keys = file::read(&path)?;
            settings.file = Some(path);
        }
        // What is in the file is for what was wrapped before this provider was chosen.
        Provider::Env | Provider::Command | Provider::Http => {
            if provider == Provider::Env {
                settings.keys.extend(given.next());
            }
            if path.exists() {
                settings.others = file::read(&path)?;
            }
        }
    }
    settings.others.extend(given);
    Ok(settings)
}

fn from_environment(config: &Config) -> Result<Vec<MasterKey>> {
    let mut keys = Vec::new();
    for (name, value) in [
        ("BULKHEAD_KEYS_MASTER_KEY", &config.keys.master_key),
        ("BULKHEAD_KEYS_PREVIOUS_MASTER_KEY", &config.keys.previous_master_key),
    ] {
        if !value.is_empty() {
            let key = MasterKey::parse(value.expose());
            keys.push(key.ok_or_else(|| wrong(format!("{name} does not hold a key: 32 bytes in hex or base64.")))?);
        }
    }
    Ok(keys)
}

fn service(config: &Config) -> Result<Option<KeyService>> {
    if config.keys.url.is_empty() {
        return Ok(None);
    }
    let url = config.keys.url.parse().map_err(|_| wrong("keys.url is not an address.".to_owned()))?;
    let bearer = if !config.keys.token.is_empty() {
        Bearer::Token(config.keys.token.clone())
    } else if !config.keys.token_file.as_os_str().is_empty() {
        Bearer::File(config.keys.token_file.clone())
    } else {
        Bearer::None
    };
    let authorities = match config.keys.ca_file.as_path() {
        none if none.as_os_str().is_empty() => None,
        path => Some(
            std::fs::read(path)
                .map_err(|error| wrong(format!("keys.ca_file cannot be read: {}: {error}.", path.display())))?,
        ),
    };
    let timeout = Duration::from_secs(config.keys.timeout_seconds);
    let service = KeyService::new(url, bearer, authorities.as_deref(), timeout);
    service.map(Some).map_err(|error| match &authorities {
        // What reqwest says of a file is of no use to anybody.
        Some(_) if error.is(&crate::base::codes::VALIDATION_FAILED) => {
            wrong(format!("keys.ca_file does not hold certificates in PEM: {}.", config.keys.ca_file.display()))
        }
        _ => error,
    })
}

fn wrong(what: String) -> Error {
    Error::new(&crate::base::codes::INTERNAL).detail(what)
}
