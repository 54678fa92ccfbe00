//! What can be typed. The comments here are the help that people read.

mod app;
mod backup;
mod encryption;
mod export;
mod fleet;
mod key;
mod keys;
mod limits;
mod litestream;
mod member;
mod moving;
mod org;
mod transfer;

use std::path::PathBuf;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use url::Url;

use crate::base::{Secret, Timestamp};

pub(super) use app::{AppCommand, CreateApp};
pub(super) use backup::{BackupCommand, Fetch, Moment, ReplicationMode, RestoreOrg};
pub(super) use encryption::EncryptOrg;
pub(super) use export::{ExportOrg, ImportOrg, VerifyExport};
pub(super) use fleet::FleetCommand;
pub(super) use key::{KeyCommand, KeyOf};
pub(super) use keys::KeysCommand;
pub(super) use limits::LimitOrg;
pub(super) use litestream::LitestreamCommand;
pub(super) use member::{CreateMember, MemberCommand};
pub(super) use moving::{FreezeOrg, MoveOrg, VerifyFreeze};
pub(super) use org::{AuditCommand, Certificate, CreateOrg, EraseOrg, OrgCommand, QuotaOrg};
pub(super) use transfer::{PullOrg, PushOrg};

/// An identity service for B2B SaaS, with every customer organization in its own file.
///
/// Commands on data work on a running server, on the directory of a stopped one, and with --url on a
/// deployment elsewhere.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, propagate_version = true, max_term_width = 100)]
pub(super) struct Cli {
    #[command(flatten)]
    pub options: Options,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Options {
    /// The configuration file [default: bulkhead.toml, if there is one here]
    #[arg(long, global = true, env = "BULKHEAD_CONFIG", value_name = "FILE", help_heading = "Everywhere")]
    pub config: Option<PathBuf>,

    /// Print one JSON document; errors too, on standard error
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,

    /// Work on the deployment at this address instead of the one on this machine
    #[arg(long, global = true, env = "BULKHEAD_URL", value_name = "URL", value_parser = remote,
          help_heading = "Everywhere")]
    pub url: Option<Url>,

    /// Do not ask before what cannot be undone. It is asked on a terminal only
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub yes: bool,

    /// The API key for --url; better kept in the environment, where other users cannot see it
    #[arg(long, global = true, env = "BULKHEAD_API_KEY", value_name = "KEY", hide_env_values = true,
          value_parser = StringValueParser::new().map(Secret::new), help_heading = "Everywhere")]
    pub api_key: Option<Secret>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the service until it is told to stop
    Serve,
    /// Organizations: the customers, each in a file of its own
    #[command(subcommand)]
    Org(OrgCommand),
    /// Members: the people of an organization
    #[command(subcommand)]
    Member(MemberCommand),
    /// Applications that sign people in
    #[command(subcommand)]
    App(AppCommand),
    /// API keys, of the deployment or of one organization
    #[command(subcommand)]
    Key(KeyCommand),
    /// The operators' log: what was done to the deployment and to its organizations, and by whose key
    #[command(subcommand)]
    Audit(OperatorsLog),
    /// What everything is sealed with: the master key, and the data keys that it wraps
    #[command(subcommand)]
    Keys(KeysCommand),
    /// The directory of all organizations
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// The continuous backup
    #[command(subcommand)]
    Backup(BackupCommand),
    /// A stock litestream beside the server, instead of its own backup
    #[command(subcommand)]
    Litestream(LitestreamCommand),
    /// The care of all organizations' files
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look for what is wrong with this machine and its deployment, and say what to do
    Doctor,
    /// Ask the server on this machine whether it is alive
    Healthcheck,
    /// Look at an upload, in a process that the server starts
    #[command(hide = true)]
    ImportCheck,
}

#[derive(Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Compare the catalog with the files of the organizations
    Check,
    /// Make the catalog again from the files of the organizations; the server must be stopped
    ///
    /// Applications, operators' keys and their log are copied from the old catalog as far as it can be read, and the
    /// old one is kept. Run it with --dry-run first.
    Rebuild {
        /// Say what would come of it, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum OperatorsLog {
    /// Check that the log is complete and unchanged
    Verify,
    /// List what happened, newest first
    List(Limit),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Say everything that is wrong with the configuration
    Check,
    /// Show every setting as it stands, without secrets
    Show,
}

#[derive(Debug, Args)]
pub(super) struct Org {
    /// An organization: its id, slug or external id
    #[arg(value_name = "ORG", value_parser = reference)]
    pub org: String,
}

#[derive(Debug, Args)]
pub(super) struct Member {
    #[command(flatten)]
    pub org: Org,
    /// A member: the id or the e-mail address
    #[arg(value_name = "MEMBER", value_parser = reference)]
    pub member: String,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Limit {
    /// At most so many [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// A name that becomes part of a path. Dots alone would lead to another path: with them, a key meant for one
/// organization would become a key of the deployment.
fn reference(text: &str) -> Result<String, &'static str> {
    match text {
        "" | "." | ".." => Err("this names nothing"),
        text => Ok(text.to_owned()),
    }
}

/// A time as the API takes it.
fn time(text: &str) -> Result<String, &'static str> {
    let time: Result<Timestamp, _> = serde_json::from_value(text.into());
    time.map(|_| text.to_owned()).map_err(|_| "give a time such as 2026-11-22T09:30:00Z")
}

/// A transaction as the API takes it.
fn transaction(text: &str) -> Result<String, &'static str> {
    let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_one.then(|| text.to_ascii_lowercase()).ok_or("give the 16 hexadecimal digits that `org history` shows")
}

/// Either of them.
fn moment(text: &str) -> Result<String, &'static str> {
    transaction(text)
        .or_else(|_| time(text))
        .map_err(|_| "give a time such as 2026-11-22T09:30:00Z, or the 16 hexadecimal digits of a transaction")
}

/// An API key is sent there, so it must be a place that nobody can listen in on.
pub(super) fn remote(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "give an address such as https://id.example.com".to_owned())?;
    let local = match url.host() {
        Some(url::Host::Domain(host)) => host == "localhost" || host.ends_with(".localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => return Err("give an address with a host, such as https://id.example.com".to_owned()),
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if local => Ok(url),
        _ => Err("use https: an API key must not travel in the clear".to_owned()),
    }
}
