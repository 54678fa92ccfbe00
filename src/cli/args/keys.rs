//! `keys`: the master key, and the data keys that it wraps.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum KeysCommand {
    /// Who wraps the keys of all organizations, and whether a rotation is under way
    Status,
    /// Wrap every data key anew: by a new master key, or by the one that is configured now
    ///
    /// With the master key in a file, a new one is made. In the environment, set the new one and the one before, and
    /// restart first; a program or service is asked for its current key. It runs in the server, and goes on there if
    /// this command is interrupted.
    RotateMaster {
        /// Let the master keys before leave their file as soon as nothing here needs them; earlier states of the
        /// keyring's backup are given up with them
        #[arg(long)]
        retire_now: bool,
        /// Say what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give organizations new data keys, one after the other
    ///
    /// It runs in the server, and goes on there if this command is interrupted. For one organization: bulkhead org
    /// rotate-key.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    RotateData {
        /// All of them
        #[arg(long, group = "which")]
        all: bool,
        /// Those whose key is older than so many days
        #[arg(long, value_name = "DAYS", group = "which", value_parser = clap::value_parser!(u16).range(1..))]
        older_than: Option<u16>,
        /// Say how many that are, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}
