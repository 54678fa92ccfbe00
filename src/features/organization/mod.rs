//! The organization as it knows itself: name, colours, policy. One row of its own file.
//!
//! Its slug, external id, hosts and state are here as well as in the catalog: the file is the truth
//! from which the catalog can be rebuilt, the catalog is how the file is found. They are changed through
//! `provisioning`, which keeps both in step.

mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use store::{get, insert, update, used_bytes};

use crate::base::error::FieldError;
use crate::base::{Error, OrganizationId, Replication, Result, Slug, Timestamp, codes, text};
use crate::fairness::Plan;
use crate::sqlite::{Read, TenantDb};
use crate::tenants::Tenant;

/// The organization's row.
#[derive(Debug, Clone)]
pub struct Organization {
    pub id: OrganizationId,
    pub name: String,
    pub slug: Slug,
    pub external_id: Option<String>,
    pub hosts: Vec<String>,
    /// Slugs and external ids that it gave up: nobody else may have them.
    pub former_names: Vec<String>,
    pub suspended: bool,
    pub metadata: BTreeMap<String, String>,
    /// `#rrggbb`
    pub accent: Option<String>,
    pub policy: Policy,
    pub quotas: Quotas,
    /// What it may take of what all organizations share.
    pub limits: Plan,
    /// What a write has reached when it is acknowledged, as operators have set it.
    pub replication: Option<Replication>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What an organization has decided for itself; what is `None` follows the deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// A session ends after so many seconds without a sign of life. 300 to 31,622,400.
    #[serde(default)]
    pub session_idle_seconds: Option<u64>,
    /// A session ends after so many seconds, whatever happens. 300 to 31,622,400.
    #[serde(default)]
    pub session_absolute_seconds: Option<u64>,
    /// Wrong passwords in a row before a member is locked. 3 to 100.
    #[serde(default)]
    pub lockout_attempts: Option<u32>,
    /// How long a member stays locked, in seconds. 60 to 86,400.
    #[serde(default)]
    pub lockout_seconds: Option<u64>,
}

/// Limits that operators set for one organization; what is `None` follows the deployment, 0 is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Quotas {
    /// Bytes that its file may take up.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Members, whatever their status.
    #[serde(default)]
    pub max_members: Option<u64>,
}

/// The deployment's limits; 0 is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QuotaDefaults {
    pub max_bytes: u64,
    pub max_members: u64,
}

impl Quotas {
    /// What the data may take up; 0 is no limit.
    #[must_use]
    pub fn bytes(&self, defaults: &QuotaDefaults) -> u64 {
        self.max_bytes.unwrap_or(defaults.max_bytes)
    }

    /// How many members there may be; 0 is no limit.
    #[must_use]
    pub fn members(&self, defaults: &QuotaDefaults) -> u64 {
        self.max_members.unwrap_or(defaults.max_members)
    }
}

/// Refuses what adds data to an organization whose data takes up as much as it may. In the transaction that adds.
pub fn require_bytes(db: &Read<'_, TenantDb>, defaults: &QuotaDefaults) -> Result<()> {
    let (limit, used) = (get(db)?.quotas.bytes(defaults), used_bytes(db)?);
    if limit == 0 || used < limit {
        return Ok(());
    }
    Err(Error::new(&codes::QUOTA_BYTES_EXCEEDED)
        .detail(format!("The data of this organization takes up {used} bytes, and {limit} is the most.")))
}

/// The deployment's answers where an organization has none of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyDefaults {
    pub session_idle: Duration,
    pub session_absolute: Duration,
    pub session_absolute_max: Duration,
    pub lockout_attempts: u32,
    pub lockout: Duration,
}

/// The policy in force: the organization's own where it has one, within what the deployment allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub session_idle: Duration,
    pub session_absolute: Duration,
    pub lockout_attempts: u32,
    pub lockout: Duration,
}

impl Policy {
    #[must_use]
    pub fn in_force(&self, defaults: &PolicyDefaults) -> Rules {
        let seconds = |own: Option<u64>, default: Duration| own.map_or(default, Duration::from_secs);
        let absolute = seconds(self.session_absolute_seconds, defaults.session_absolute);
        let absolute = absolute.min(defaults.session_absolute_max);
        Rules {
            session_idle: seconds(self.session_idle_seconds, defaults.session_idle).min(absolute),
            session_absolute: absolute,
            lockout_attempts: self.lockout_attempts.unwrap_or(defaults.lockout_attempts),
            lockout: seconds(self.lockout_seconds, defaults.lockout),
        }
    }

    fn problems(&self) -> Vec<FieldError> {
        let outside = |field: &'static str, value: Option<u64>, least: u64, most: u64| {
            value.filter(|value| !(least..=most).contains(value)).map(|_| FieldError {
                field: field.into(),
                code: "out_of_range",
                message: format!("Use {least} to {most}.").into(),
            })
        };
        [
            outside("policy.session_idle_seconds", self.session_idle_seconds, 300, 31_622_400),
            outside("policy.session_absolute_seconds", self.session_absolute_seconds, 300, 31_622_400),
            outside("policy.lockout_attempts", self.lockout_attempts.map(u64::from), 3, 100),
            outside("policy.lockout_seconds", self.lockout_seconds, 60, 86_400),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Organization {
    /// Refuses values that an organization cannot have, all at once.
    pub fn check(&self) -> Result<()> {
        let mut problems = self.policy.problems();
        problems.extend(self.limits.problems());
        if !text::is_name(&self.name, 120) {
            problems.push(FieldError {
                field: "name".into(),
                code: "invalid",
                message: "Use 1 to 120 characters.".into(),
            });
        }
        if self.accent.as_deref().is_some_and(|accent| !is_colour(accent)) {
            problems.push(FieldError {
                field: "accent".into(),
                code: "invalid",
                message: "Use a colour such as #0a7c66.".into(),
            });
        }
        let too_long = |(key, value): (&String, &String)| key.is_empty() || key.len() > 40 || value.len() > 500;
        if self.metadata.len() > 50 || self.metadata.iter().any(too_long) {
            problems.push(FieldError {
                field: "metadata".into(),
                code: "invalid",
                message: "Use at most 50 keys of 40 and values of 500 characters.".into(),
            });
        }
        if problems.is_empty() { Ok(()) } else { Err(Error::new(&codes::VALIDATION_FAILED).with_fields(problems)) }
    }
}

fn is_colour(text: &str) -> bool {
    text.len() == 7 && text.starts_with('#') && text[1..].bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The organization, kept in memory while its file is open.
pub async fn current(tenant: &Tenant) -> Result<std::sync::Arc<Organization>> {
    if let Some(known) = tenant.recall::<Organization>() {
        return Ok(known);
    }
    let organization = tenant.read(get).await?;
    Ok(tenant.remember(organization))
}

/// Call it after a commit that changed the row.
pub fn changed(tenant: &Tenant) {
    tenant.forget::<Organization>();
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: PolicyDefaults = PolicyDefaults {
        session_idle: Duration::from_secs(86_400),
        session_absolute: Duration::from_secs(604_800),
        session_absolute_max: Duration::from_secs(1_000_000),
        lockout_attempts: 5,
        lockout: Duration::from_secs(600),
    };

    #[test]
    fn an_organization_may_be_stricter_but_not_looser_than_the_deployment() {
        let rules = Policy::default().in_force(&DEFAULTS);
        assert_eq!((rules.session_idle.as_secs(), rules.session_absolute.as_secs()), (86_400, 604_800));
        let wide = Policy { session_absolute_seconds: Some(31_622_400), ..Policy::default() };
        assert_eq!(wide.in_force(&DEFAULTS).session_absolute.as_secs(), 1_000_000);
        let short = Policy { session_absolute_seconds: Some(300), ..Policy::default() };
        assert_eq!(short.in_force(&DEFAULTS).session_idle.as_secs(), 300);
    }
}
