//! `org push`, `org pull`: an organization to another deployment.

use std::path::PathBuf;

use clap::Args;
use url::Url;

use super::{Org, remote};

#[derive(Debug, Args)]
pub(in crate::cli) struct PushOrg {
    #[command(flatten)]
    pub org: Org,
    /// The address of the deployment that it goes to
    #[arg(long, value_name = "URL", value_parser = remote, required_unless_present = "cancel")]
    pub to: Option<Url>,
    /// A file with an API key of that deployment
    #[arg(long, value_name = "FILE", required_unless_present = "cancel")]
    pub to_key_file: Option<PathBuf>,
    /// Call it off, as long as it has not left
    #[arg(long)]
    pub cancel: bool,
    /// Ask both sides whether it could be done, and change nothing that matters
    #[arg(long, conflicts_with = "cancel")]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PullOrg {
    #[command(flatten)]
    pub org: Org,
    /// The address of the deployment that it comes from
    #[arg(long, value_name = "URL", value_parser = remote)]
    pub from: Url,
    /// A file with an API key of that deployment
    #[arg(long, value_name = "FILE")]
    pub from_key_file: PathBuf,
    /// Call it off, as long as it has not left
    #[arg(long)]
    pub cancel: bool,
    /// Ask both sides whether it could be done, and change nothing that matters
    #[arg(long, conflicts_with = "cancel")]
    pub dry_run: bool,
}
