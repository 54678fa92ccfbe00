//! How the place of replicas is talked to; its name is a value of the ground floor.

use std::fmt;
use std::time::Duration;

use super::Error;
pub use crate::base::location::{Location, WrongLocation};

impl From<WrongLocation> for Error {
    fn from(wrong: WrongLocation) -> Self {
        Self::Configuration(wrong.to_string())
    }
}

/// How to talk to a bucket. A folder needs none of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Of a store other than Amazon's: `https://minio.example.com:9000`.
    pub endpoint: Option<String>,
    /// `us-east-1` if absent, which stores without regions expect too.
    pub region: Option<String>,
    /// Without the two, what the machine is given: web identity, container or instance credentials.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// The bucket in the path and not in the host name. Most stores other than Amazon's need it.
    pub force_path_style: bool,
    /// Whether an endpoint may be plain `http://`.
    pub allow_http: bool,
    /// How long one call may stay without an answer, attempts included; for long transfers, how long
    /// the next piece of some 8 MiB may take.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            force_path_style: false,
            allow_http: false,
            timeout: Duration::from_secs(30),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("access_key_id", &self.access_key_id)
            .field("secret_access_key", &self.secret_access_key.as_ref().map(|_| "(redacted)"))
            .field("force_path_style", &self.force_path_style)
            .field("allow_http", &self.allow_http)
            .field("timeout", &self.timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        let settings = Settings { secret_access_key: Some("hunter2".into()), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
