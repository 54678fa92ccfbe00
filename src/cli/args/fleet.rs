//! `fleet`: the care of all files.

use clap::Subcommand;

use super::Org;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FleetCommand {
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
    /// Which organizations have reached their limits since the server was started
    Limited,
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

/// `1%` or `0.5`.
fn percent(text: &str) -> Result<f64, &'static str> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "give a share such as 1%")?;
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err("give more than 0% and at most 100%") }
}
