//! The settings of a deployment: defaults, then a TOML file, then the environment.
//!
//! Owns every setting's name, type, default and sanity rules, and reports every problem at once, so that an operator
//! fixes a file in one go. Knows `base` only; what the values mean is decided by the rooms that `app` hands them to.
//! Leaves alone: reading keys from disk, opening anything, and the clock.
//!
//! `sections.rs` is the list of settings, `setting.rs` how one value is read and shown, `check.rs` the rules between
//! values, `problem.rs` what the operator is told.

mod check;
mod problem;
mod sections;
mod setting;
#[cfg(test)]
mod tests;
mod volumes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::base::HostName;

pub use problem::{Problem, Problems};
pub use sections::{
    Addressing, Backup, BackupMode, Config, Files, KeyProvider, Keys, Limits, Lockout, Log, LogFormat, Mail,
    MailTransport, Organizations, Password, RateLimits, Replicated, Server, Sessions, SignUp, SmtpTls, Tokens,
};

/// What every environment variable of Bulkhead begins with.
const PREFIX: &str = "BULKHEAD_";

/// Variables that are options of the command line rather than settings of the service.
const COMMAND_LINE: [&str; 3] = ["BULKHEAD_CONFIG", "BULKHEAD_URL", "BULKHEAD_API_KEY"];

impl Config {
    /// Reads the file (if there is one) and lays the environment over it.
    ///
    /// `BULKHEAD_<SECTION>_<KEY>` overrides `key` of `[section]`; lists are separated by commas.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let file = path.map_or_else(toml::Table::new, |path| read_file(path, &mut problems));
        let env: BTreeMap<String, String> =
            env.filter(|(name, _)| name.starts_with(PREFIX) && !COMMAND_LINE.contains(&name.as_str())).collect();
        Self::from_parts(file, env, problems)
    }

    /// The embedded defaults, changed by nothing.
    pub fn embedded() -> Result<Self, Problems> {
        Self::load(None, std::iter::empty())
    }

    fn from_parts(
        file: toml::Table,
        env: BTreeMap<String, String>,
        mut problems: Vec<Problem>,
    ) -> Result<Self, Problems> {
        let in_file = file.get("keys").and_then(toml::Value::as_table).map_or_else(Vec::new, |keys| {
            ["master_key", "previous_master_key"].into_iter().filter(|name| keys.contains_key(*name)).collect()
        });
        let config = Self::read(setting::Source::new(file, env), &mut problems);
        for name in in_file {
            let variable = name.to_ascii_uppercase();
            problems.push(Problem::new(
                format!("keys.{name}"),
                format!(
                    "is read from the environment only: set BULKHEAD_KEYS_{variable}, or keep the key in a file of its \
                     own and name it in keys.master_key_file"
                ),
            ));
        }
        check::check(&config, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) }
    }

    /// Where the master key is kept when it is not in the environment.
    #[must_use]
    pub fn master_key_path(&self) -> PathBuf {
        if self.keys.master_key_file.as_os_str().is_empty() {
            self.server.data_dir.join("master.key")
        } else {
            self.keys.master_key_file.clone()
        }
    }

    /// Whether mail may be read by whoever reaches this process: never beyond this machine.
    #[must_use]
    pub fn serves_mailbox(&self) -> bool {
        self.mail.transport == MailTransport::Mailbox && self.server.listen.ip().is_loopback()
    }
}

impl Server {
    /// The host of `public_url`, in canonical form; checked to be there when the configuration was read.
    #[must_use]
    pub fn host(&self) -> Option<HostName> {
        self.public_url.host_str().and_then(HostName::parse)
    }

    /// `public_url` without a trailing slash: the deployment's issuer and the front of every link.
    #[must_use]
    pub fn origin(&self) -> String {
        self.public_url.origin().ascii_serialization()
    }

    /// Whether `public_url` points to this machine: the only case in which plain http is accepted.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self.public_url.host() {
            Some(url::Host::Domain(host)) => host == "localhost" || host.ends_with(".localhost"),
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }

    /// Whether cookies can be `Secure` and carry the `__Host-` prefix.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.public_url.scheme() == "https"
    }

    /// Whether headers about the client are to be believed from this neighbour.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        // A dual-stack listener sees IPv4 neighbours as mapped IPv6 addresses.
        let address = address.to_canonical();
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> toml::Table {
    let name = path.display().to_string();
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(Problem::new(name, format!("cannot be read ({error}); give another file with --config")));
            return toml::Table::new();
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            // Not the error's own rendering: it quotes the line, and the line may hold a password.
            let offset = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
            problems.push(Problem::new(name, format!("is not TOML at line {line}; correct the syntax of that line")));
            toml::Table::new()
        }
    }
}
