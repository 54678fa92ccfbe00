//! `key`.

use clap::{Args, Subcommand};

use super::{Limit, reference};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeyCommand {
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
pub(in crate::cli) struct KeyOf {
    /// A key of this organization, which reaches nothing else [default: of the deployment]
    #[arg(long, value_name = "ORG", value_parser = reference)]
    pub org: Option<String>,
}
