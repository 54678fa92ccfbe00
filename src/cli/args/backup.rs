//! `backup`, and the moments of the past that it has.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{Org, time, transaction};

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreOrg {
    #[command(flatten)]
    pub org: Org,
    #[command(flatten)]
    pub moment: Moment,
    /// Leave it as it is, and make a suspended organization of that moment beside it, with this slug
    #[arg(long = "as", value_name = "SLUG", conflicts_with = "output")]
    pub beside: Option<String>,
    /// Leave it as it is, and write that moment to this new file, for any SQLite to read
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Also give members back what was taken from them since: to undo a mistaken deletion or deactivation
    #[arg(long, conflicts_with_all = ["beside", "output"])]
    pub reinstate: bool,
    /// Say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A moment of the past; without either, the newest that was shipped.
#[derive(Debug, Args)]
pub(in crate::cli) struct Moment {
    /// As it was at this time, such as 2026-11-22T09:30:00Z
    #[arg(long, value_name = "TIME", conflicts_with = "txid", value_parser = time)]
    pub at: Option<String>,
    /// As it was after this transaction, in 16 hexadecimal digits
    #[arg(long, value_name = "TXID", value_parser = transaction)]
    pub txid: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BackupCommand {
    /// Show how far the backup has come
    Status,
    /// Take the store over from a deployment that is gone for good; the server must be stopped
    ///
    /// It is then the store of the data directory of this configuration. The other deployment, should it still run,
    /// notices and ships nothing any more.
    Adopt {
        /// Say who has the store, and take nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Write databases out of the backup into files; needs the configuration, no server and no directory
    Fetch(Fetch),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Fetch {
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

/// What a write must have reached before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum ReplicationMode {
    Local,
    Object,
    Default,
}
