//! `org export`, `org verify-export` and `org import`.

use std::path::PathBuf;

use clap::Args;

use super::Org;

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportOrg {
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
pub(in crate::cli) struct VerifyExport {
    /// The archive
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The organization's public keys, as its sign-in address gives them at /oauth2/jwks, or one of them
    #[arg(long, value_name = "FILE")]
    pub public_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ImportOrg {
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
    /// Encrypt the whole file here; needs a server that was built with SQLCipher
    #[arg(long)]
    pub encrypted: bool,
    /// Check the archive and say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
}
