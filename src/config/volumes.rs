//! Volumes as they are written: `["fast=/srv/fast", "slow=/srv/slow"]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Value;

use super::setting::Setting;

/// Directories by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Volumes(pub BTreeMap<String, PathBuf>);

/// Whether this can be the name of a volume; the data directory's own is `local`.
pub(super) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=32).contains(&text.len()) && text.bytes().all(fits) && text != "local"
}

impl Volumes {
    fn of<'t>(texts: impl Iterator<Item = Option<&'t str>>) -> Option<Self> {
        let mut volumes = BTreeMap::new();
        for text in texts {
            let (name, path) = text?.trim().split_once('=')?;
            // Twice the same name would be one of them silently.
            if path.is_empty() || volumes.insert(name.to_owned(), PathBuf::from(path)).is_some() {
                return None;
            }
        }
        Some(Self(volumes))
    }
}

impl Setting for Volumes {
    const WANTED: &'static str = "a list of names and paths, like [\"fast=/srv/fast\", \"slow=/srv/slow\"]";

    fn from_toml(value: &Value) -> Option<Self> {
        Self::of(value.as_array()?.iter().map(Value::as_str))
    }

    fn from_text(text: &str) -> Option<Self> {
        Self::of(text.split(',').filter(|part| !part.trim().is_empty()).map(Some))
    }

    fn show(&self) -> Value {
        self.0.iter().map(|(name, path)| format!("{name}={}", path.display())).collect::<Vec<_>>().into()
    }
}
