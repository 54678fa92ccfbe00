//! `org limit`: what an organization may take of what all share.

use clap::Args;

use super::Org;

#[derive(Debug, Args)]
pub(in crate::cli) struct LimitOrg {
    #[command(flatten)]
    pub org: Org,
    /// Requests a second that can be kept up; 0 for no limit
    #[arg(long, value_name = "N")]
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once
    #[arg(long, value_name = "N")]
    pub request_burst: Option<u32>,
    /// Requests that are answered at the same moment; 0 for no limit
    #[arg(long, value_name = "N")]
    pub concurrent_requests: Option<u32>,
    /// Passwords that are hashed at the same moment; 0 for no limit
    #[arg(long, value_name = "N")]
    pub concurrent_hashes: Option<u32>,
    /// Passwords that wait to be hashed; 0 for no limit
    #[arg(long, value_name = "N")]
    pub queued_hashes: Option<u32>,
    /// Bytes that are written to its file in a minute; 0 for no limit
    #[arg(long, value_name = "N")]
    pub written_bytes_per_minute: Option<u64>,
    /// Follow the deployment in all of them again
    #[arg(long, conflicts_with_all = ["requests_per_second", "request_burst", "concurrent_requests",
          "concurrent_hashes", "queued_hashes", "written_bytes_per_minute"])]
    pub default: bool,
}
