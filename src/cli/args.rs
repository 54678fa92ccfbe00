//! What can be typed. The comments here are the help that people read.

use std::path::PathBuf;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use url::Url;

use crate::base::Secret;

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
    /// The directory of all organizations
    #[command(subcommand)]
    Catalog(CatalogCommand),
    /// The configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look for what is wrong with this machine and its deployment, and say what to do
    Doctor,
    /// Ask the server on this machine whether it is alive
    Healthcheck,
}

#[derive(Debug, Subcommand)]
pub(super) enum OrgCommand {
    /// Make an organization, with its first owner if there is to be one
    Create(CreateOrg),
    /// List organizations, newest first
    List(Limit),
    /// Show one organization
    Show(Org),
    /// Keep everybody out of an organization until it is resumed; nothing is lost
    Suspend {
        #[command(flatten)]
        org: Org,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Let a suspended organization back in
    Resume(Org),
    /// The audit log of an organization
    #[command(subcommand)]
    Audit(AuditCommand),
}

#[derive(Debug, Args)]
pub(super) struct CreateOrg {
    /// The name that people see
    #[arg(long)]
    pub name: String,
    /// The name in addresses, such as acme in acme.example.com [default: made from the name]
    #[arg(long)]
    pub slug: Option<String>,
    /// Your own id of this customer, accepted wherever ours is
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// The colour of its pages
    #[arg(long, value_name = "#RRGGBB")]
    pub accent: Option<String>,
    /// The e-mail address of its first owner
    #[arg(long, value_name = "E-MAIL")]
    pub owner_email: Option<String>,
    /// The owner's name
    #[arg(long, value_name = "NAME", requires = "owner_email")]
    pub owner_name: Option<String>,
    /// Read the owner's password from standard input; without it the owner sets one by "forgot password"
    #[arg(long, requires = "owner_email")]
    pub owner_password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Check that the log is complete and unchanged
    Verify(Org),
    /// List what happened, newest first
    List {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        limit: Limit,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// Add a person to an organization
    Create(CreateMember),
    /// List the members of an organization, newest first
    List {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        limit: Limit,
    },
    /// End all sessions of a member, and let them in no more
    Deactivate(Member),
    /// Let a deactivated member back in
    Reactivate(Member),
}

#[derive(Debug, Args)]
pub(super) struct CreateMember {
    #[command(flatten)]
    pub org: Org,
    #[arg(long, value_name = "E-MAIL")]
    pub email: String,
    #[arg(long)]
    pub name: Option<String>,
    /// owner, admin or member; may be repeated [default: member]
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// Read a password from standard input; without it the member is pending until they set one
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum AppCommand {
    /// Register an application, for all organizations
    Create(CreateApp),
    /// List applications, newest first
    List(Limit),
}

#[derive(Debug, Args)]
pub(super) struct CreateApp {
    #[arg(long)]
    pub name: String,
    /// An app that cannot keep a secret: in a browser, on a phone
    #[arg(long)]
    pub public: bool,
    /// Where people come back to after signing in; may be repeated
    #[arg(long = "redirect-uri", value_name = "URI", required = true)]
    pub redirect_uris: Vec<String>,
    /// Where people come back to after signing out; may be repeated
    #[arg(long = "post-logout-redirect-uri", value_name = "URI")]
    pub post_logout_redirect_uris: Vec<String>,
    /// How its ID tokens are signed [default: RS256]
    #[arg(long, value_name = "ALG")]
    pub alg: Option<Algorithm>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Algorithm {
    #[value(name = "RS256")]
    Rs256,
    #[value(name = "ES256")]
    Es256,
}

impl Algorithm {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make an API key; it is shown once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it may do, such as organizations:read; may be repeated
        #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', required = true)]
        scopes: Vec<String>,
        #[command(flatten)]
        of: KeyOf,
    },
    /// List API keys, newest first
    List {
        #[command(flatten)]
        of: KeyOf,
        #[command(flatten)]
        limit: Limit,
    },
    /// Make an API key useless, at once and for good
    Revoke {
        /// Its id, as `key list` shows it
        #[arg(value_parser = reference)]
        key: String,
        #[command(flatten)]
        of: KeyOf,
    },
}

/// Whose keys.
#[derive(Debug, Args)]
pub(super) struct KeyOf {
    /// A key of this organization, which reaches nothing else [default: of the deployment]
    #[arg(long, value_name = "ORG", value_parser = reference)]
    pub org: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum CatalogCommand {
    /// Compare the catalog with the files of the organizations
    Check,
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

/// An API key is sent there, so it must be a place that nobody can listen in on.
fn remote(text: &str) -> Result<Url, String> {
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
