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
    /// The continuous backup
    #[command(subcommand)]
    Backup(BackupCommand),
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
    /// Give back what deleted rows have left in an organization's file
    ///
    /// Reads go on meanwhile, writes wait. It needs room for the file twice more on the disk.
    Compact(Org),
    /// Limit what an organization may take up; what is left out follows the deployment
    Quota {
        #[command(flatten)]
        org: Org,
        /// Bytes that its data may take up; 0 for no limit
        #[arg(long, value_name = "N")]
        max_bytes: Option<u64>,
        /// Members that it may have; 0 for no limit
        #[arg(long, value_name = "N")]
        max_members: Option<u64>,
    },
    /// The audit log of an organization
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write everything that an organization has into one signed file
    Export(ExportOrg),
    /// Check that an export is whole and unchanged; needs no server
    VerifyExport(VerifyExport),
    /// Make an organization of an export
    Import(ImportOrg),
    /// Show which moments of an organization can be restored
    History(Org),
    /// Say what differs between two moments of an organization
    Diff {
        #[command(flatten)]
        org: Org,
        /// The earlier moment: a time (2026-11-22T09:30:00Z) or a transaction (16 hexadecimal digits)
        #[arg(long, value_name = "MOMENT")]
        from: String,
        /// The later one [default: now]
        #[arg(long, value_name = "MOMENT")]
        to: Option<String>,
    },
    /// Erase an organization for good, after some days in which it can be called off
    Erase(EraseOrg),
    /// Show the certificate of an erasure, or check one without any deployment
    Certificate(Certificate),
    /// Make an organization what it was at an earlier moment; what was revoked since stays revoked
    Restore(RestoreOrg),
    /// Put what the backup has in the place of a file that is missing or cannot be read
    Recover {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        moment: Moment,
    },
}

#[derive(Debug, Args)]
pub(super) struct EraseOrg {
    #[command(flatten)]
    pub org: Org,
    /// At once: it cannot be called off then
    #[arg(long, conflicts_with_all = ["after_days", "cancel"])]
    pub now: bool,
    /// How many days it can still be called off, 0 to 90 [default: 7]
    #[arg(long, value_name = "N", conflicts_with = "cancel", value_parser = clap::value_parser!(u16).range(0..=90))]
    pub after_days: Option<u16>,
    /// Why, for the organization's own log, with which it is erased
    #[arg(long, value_name = "TEXT", conflicts_with = "cancel")]
    pub reason: Option<String>,
    /// Say what would be destroyed, and change nothing
    #[arg(long, conflicts_with_all = ["now", "cancel"])]
    pub dry_run: bool,
    /// Call a scheduled erasure off
    #[arg(long)]
    pub cancel: bool,
}

#[derive(Debug, Args)]
pub(super) struct Certificate {
    /// The id of the organization
    #[arg(value_name = "ORG_ID", value_parser = reference)]
    pub id: String,
    /// Check this certificate instead of showing one; no deployment is needed
    #[arg(long, value_name = "FILE", requires = "jwks")]
    pub verify: Option<PathBuf>,
    /// The deployment's public keys: a file, or the address of its JWKS
    #[arg(long, value_name = "FILE|URL", requires = "verify")]
    pub jwks: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct RestoreOrg {
    #[command(flatten)]
    pub org: Org,
    #[command(flatten)]
    pub moment: Moment,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A moment of the past; without either, the newest that was shipped.
#[derive(Debug, Args)]
pub(super) struct Moment {
    /// As it was at this time, such as 2026-11-22T09:30:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "txid")]
    pub at: Option<String>,
    /// As it was after this transaction, in 16 hexadecimal digits
    #[arg(long, value_name = "TXID")]
    pub txid: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupCommand {
    /// Show how far the backup has come
    Status,
    /// Write databases out of the backup into files; needs the configuration, no server and no directory
    Fetch(Fetch),
}

#[derive(Debug, Args)]
pub(super) struct Fetch {
    /// An organization's id, `catalog` or `keyring`
    #[arg(value_name = "WHAT", conflicts_with = "whole", required_unless_present = "whole")]
    pub what: Option<String>,
    /// The whole deployment: keyring, catalog and every organization that it names
    #[arg(long)]
    pub whole: bool,
    /// The file to write, or with --whole the directory; nothing is ever overwritten
    #[arg(long, value_name = "PATH")]
    pub to: PathBuf,
    #[command(flatten)]
    pub moment: Moment,
    /// Say what would be fetched, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportOrg {
    #[command(flatten)]
    pub org: Org,
    /// The file to write; it must not be there yet
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
    /// Include the secrets (password hashes, keys), sealed with a passphrase from standard input
    #[arg(long)]
    pub passphrase_stdin: bool,
    /// Include the secrets, sealed for the holder of an age key
    #[arg(long, value_name = "AGE1...", conflicts_with = "passphrase_stdin")]
    pub recipient: Option<String>,
    /// Say what would be exported, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct VerifyExport {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The organization's public keys, as its sign-in address gives them at /oauth2/jwks, or one of them
    #[arg(long, value_name = "FILE")]
    pub public_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ImportOrg {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The name in addresses [default: the one that it had]
    #[arg(long)]
    pub slug: Option<String>,
    /// Make another organization of it, beside the one that it came from
    #[arg(long)]
    pub new_id: bool,
    /// Open the secrets with a passphrase from standard input
    #[arg(long)]
    pub passphrase_stdin: bool,
    /// Open the secrets with the age key in this file
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_stdin")]
    pub identity: Option<PathBuf>,
    /// Check the archive and say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
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
    /// Delete a member, and take what the audit log says of them out of it
    Erase(Member),
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
pub(super) enum FleetCommand {
    /// Check every organization's file, and look for files that nobody owns
    ///
    /// It runs in the server, a few files at a time, and goes on there if this command is interrupted.
    Check {
        /// Compare every index with its table as well; takes several times as long
        #[arg(long)]
        full: bool,
        /// Set aside what cannot be used
        #[arg(long)]
        quarantine: bool,
    },
    /// How many organizations there are of what, and the largest
    Stats {
        /// How many of the largest to name
        #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=1000))]
        top: u16,
    },
    /// Set an organization's file aside: it answers nobody until it is released
    Quarantine {
        #[command(flatten)]
        org: Org,
        /// Why, for operators; it is kept in the catalog, so name no people
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Let an organization that was set aside back in
    Release(Org),
    /// Bring every organization's file to the newest schema
    ///
    /// Without it, each is migrated when it is opened. One that fails is left as it was and set aside; the rest go on.
    Migrate {
        /// Only this share of those that are older, such as 1%, and one at the least
        #[arg(long, value_name = "PERCENT", value_parser = percent, conflicts_with = "status")]
        canary: Option<f64>,
        /// Wait for you after the first that fails
        #[arg(long, conflicts_with = "status")]
        pause_on_error: bool,
        /// Try it on copies, and change nothing
        #[arg(long, conflicts_with = "status")]
        dry_run: bool,
        /// Say how many are older, and what became of the newest migration
        #[arg(long)]
        status: bool,
    },
    /// Put an organization back to what it was before a migration that took something away
    ///
    /// What was written since stays in a file beside it. The organization is set aside: once it is released, it is
    /// migrated again.
    Rollback(Org),
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

/// `1%` or `0.5`.
fn percent(text: &str) -> Result<f64, &'static str> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "give a share such as 1%")?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err("give more than 0% and at most 100%") }
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
