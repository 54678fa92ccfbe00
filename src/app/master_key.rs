//! The master key: from the environment, from a file, or made on the first run of the embedded default.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::base::{Error, Result};
use crate::config::Config;
use crate::crypto::MasterKey;

/// Reads it; never makes a second one where a keyring already depends on a first.
pub fn load(config: &Config) -> Result<MasterKey> {
    if !config.keys.master_key.is_empty() {
        return MasterKey::parse(config.keys.master_key.expose())
            .ok_or_else(|| wrong("BULKHEAD_KEYS_MASTER_KEY does not hold a key: 32 bytes in hex or base64"));
    }
    let path = config.master_key_path();
    if !path.exists() {
        let is_default = config.keys.master_key_file.as_os_str().is_empty();
        let first_run = !config.server.data_dir.join("keyring.sqlite").exists();
        if !(is_default && first_run) {
            return Err(wrong(&format!(
                "the master key file {} is missing; without it nothing in the keyring can be unwrapped",
                path.display()
            )));
        }
        make(&path)?;
        tracing::info!(path = %path.display(), "made a master key; keep a copy of it somewhere else");
    }
    let mode = fs::metadata(&path).map(|metadata| metadata.permissions().mode() & 0o777);
    if mode.is_ok_and(|mode| mode & 0o077 != 0) {
        return Err(wrong(&format!("others can read the master key file {}: set its mode to 0600", path.display())));
    }
    let text = fs::read_to_string(&path)
        .map_err(|error| Error::internal(format!("cannot read {}", path.display())).source(error))?;
    MasterKey::parse(text.trim())
        .ok_or_else(|| wrong(&format!("{} does not hold a key: 32 bytes in hex or base64", path.display())))
}

fn make(path: &Path) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot write {}", path.display())).source(error);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let key = MasterKey::generate();
    writeln!(file, "{}", key.to_text().as_str()).and_then(|()| file.sync_all()).map_err(failed)
}

fn wrong(what: &str) -> Error {
    let mut text = what.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Error::new(&crate::base::codes::INTERNAL).detail(format!("{text}."))
}
