//! `org freeze`, `org move`: keeping an organization's file as it is, and taking it elsewhere.

use std::path::PathBuf;

use clap::Args;

use super::Org;

#[derive(Debug, Args)]
pub(in crate::cli) struct FreezeOrg {
    #[command(flatten)]
    pub org: Org,
    /// Why, for operators and the organization's own log; name no people in it
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["show", "verify", "fetch"])]
    pub reason: Option<String>,
    /// Show the freeze and its certificate, and change nothing
    #[arg(long, conflicts_with_all = ["reason", "verify", "fetch"])]
    pub show: bool,
    /// Read the file again and compare it with its certificate
    #[arg(long, conflicts_with_all = ["reason", "fetch"])]
    pub verify: bool,
    /// Write a copy of the frozen file here, as the certificate describes it
    #[arg(long, value_name = "FILE", conflicts_with = "reason")]
    pub fetch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyFreeze {
    /// The certificate, or what `org freeze --json` has printed
    #[arg(value_name = "CERTIFICATE")]
    pub certificate: PathBuf,
    /// The file, as `org freeze --fetch` wrote it
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The deployment's public keys, as it gives them at /oauth2/jwks, or one of them
    #[arg(long, value_name = "FILE")]
    pub public_key: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MoveOrg {
    #[command(flatten)]
    pub org: Org,
    /// The volume: its name or directory, as in files.volumes; "local" for the data directory
    #[arg(long, value_name = "DIR|NAME")]
    pub to: String,
    /// Say what it would take, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
