//! `litestream`: a stock litestream beside the server.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum LitestreamCommand {
    /// Print a configuration for `litestream replicate -config`, made of this deployment's own
    ///
    /// For `backup.mode = "litestream"`: the server then leaves its files to it. Keys of a bucket are not printed;
    /// litestream reads LITESTREAM_ACCESS_KEY_ID and LITESTREAM_SECRET_ACCESS_KEY.
    Config {
        /// Where it replicates to [default: backup.url]
        #[arg(long, value_name = "URL")]
        replica: Option<String>,
    },
}
