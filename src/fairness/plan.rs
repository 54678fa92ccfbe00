//! How much one organization may take.

use serde::{Deserialize, Serialize};

use crate::base::error::FieldError;

/// What operators have set for one organization; what is `None` follows the deployment, 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = OrganizationLimits)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Requests a second that can be kept up. 0 to 1,000,000.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    pub requests_per_second: Option<u32>,
    /// Requests that may come at once; they are earned back at `requests_per_second`. 1 to 10,000,000.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10_000_000)]
    pub request_burst: Option<u32>,
    /// Requests that are answered at the same moment. 0 to 1,000,000.
    #[serde(default)]
    #[schema(maximum = 1_000_000)]
    pub concurrent_requests: Option<u32>,
    /// Passwords that are hashed at the same moment. 0 to 1,024.
    #[serde(default)]
    #[schema(maximum = 1024)]
    pub concurrent_hashes: Option<u32>,
    /// Passwords that wait to be hashed. 0 to 100,000.
    #[serde(default)]
    #[schema(maximum = 100_000)]
    pub queued_hashes: Option<u32>,
    /// Bytes that are written to its file in a minute. 0 to 1,125,899,906,842,624.
    #[serde(default)]
    #[schema(maximum = 1_125_899_906_842_624_u64)]
    pub written_bytes_per_minute: Option<u64>,
}

/// What an organization may take; 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = OrganizationLimitDefaults)]
pub struct Values {
    pub requests_per_second: u32,
    /// At least 1.
    pub request_burst: u32,
    pub concurrent_requests: u32,
    pub concurrent_hashes: u32,
    pub queued_hashes: u32,
    pub written_bytes_per_minute: u64,
}

impl Plan {
    /// What holds for the organization.
    #[must_use]
    pub fn over(&self, defaults: &Values) -> Values {
        Values {
            requests_per_second: self.requests_per_second.unwrap_or(defaults.requests_per_second),
            request_burst: self.request_burst.unwrap_or(defaults.request_burst),
            concurrent_requests: self.concurrent_requests.unwrap_or(defaults.concurrent_requests),
            concurrent_hashes: self.concurrent_hashes.unwrap_or(defaults.concurrent_hashes),
            queued_hashes: self.queued_hashes.unwrap_or(defaults.queued_hashes),
            written_bytes_per_minute: self.written_bytes_per_minute.unwrap_or(defaults.written_bytes_per_minute),
        }
    }

    /// What cannot be meant.
    #[must_use]
    pub fn problems(&self) -> Vec<FieldError> {
        let outside = |field: &'static str, value: Option<u64>, least: u64, most: u64| {
            value.filter(|value| !(least..=most).contains(value)).map(|_| FieldError {
                field: field.into(),
                code: "out_of_range",
                message: format!("Use {least} to {most}.").into(),
            })
        };
        [
            outside("limits.requests_per_second", self.requests_per_second.map(u64::from), 0, 1_000_000),
            outside("limits.request_burst", self.request_burst.map(u64::from), 1, 10_000_000),
            outside("limits.concurrent_requests", self.concurrent_requests.map(u64::from), 0, 1_000_000),
            outside("limits.concurrent_hashes", self.concurrent_hashes.map(u64::from), 0, 1024),
            outside("limits.queued_hashes", self.queued_hashes.map(u64::from), 0, 100_000),
            outside("limits.written_bytes_per_minute", self.written_bytes_per_minute, 0, 1 << 50),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
