//! `org encrypt`, `org decrypt` and `org rotate-file-key`.

use clap::Args;

use super::Org;

#[derive(Debug, Args)]
pub(in crate::cli) struct EncryptOrg {
    #[command(flatten)]
    pub org: Org,
    /// Delete what the backup and the organization's directory have from before, once the file is as it shall be; from
    /// then on no earlier moment can be restored
    #[arg(long)]
    pub delete_copies: bool,
    /// Say what it would take, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}
