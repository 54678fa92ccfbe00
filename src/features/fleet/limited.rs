//! Which organizations were limited lately, so that others were not slowed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::{OrganizationId, Result, Slug, Timestamp, codes};
use crate::fairness::{Values, Which};
use crate::features::DeploymentState;

/// Who was limited since the server was started.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Limited {
    /// Always `fleet_limited`.
    pub object: &'static str,
    /// When counting began: the last start of the server.
    pub since: Timestamp,
    /// What an organization may take that operators have set nothing else for; 0 is no limit.
    pub defaults: Values,
    /// The hundred that were limited last, the last one first.
    pub data: Vec<LimitedOrganization>,
    /// Refusals of those before them, by limit.
    pub others: BTreeMap<&'static str, u64>,
}

/// One organization that was limited.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LimitedOrganization {
    pub organization_id: OrganizationId,
    /// Nothing if it is gone.
    pub slug: Option<Slug>,
    pub limits: Vec<LimitHit>,
}

/// A limit that was reached.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LimitHit {
    /// `requests`, `concurrency`, `hashing` or `writes`.
    pub limit: &'static str,
    /// How often something was refused because of it.
    pub refused: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// Looks into memory alone; no file is opened.
pub async fn limited(state: &DeploymentState) -> Result<Limited> {
    let fairness = state.tenants.fairness();
    let (list, others) = fairness.limited().list();
    let mut data = Vec::with_capacity(list.len());
    for one in list {
        let slug = match state.directory.by_id(one.organization).await {
            Ok(route) => Some(route.slug().clone()),
            Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => None,
            Err(error) => return Err(error),
        };
        let limits = one.counts.iter().map(|count| LimitHit {
            limit: count.which.as_str(),
            refused: count.refused,
            first_at: count.first_at,
            last_at: count.last_at,
        });
        data.push(LimitedOrganization { organization_id: one.organization, slug, limits: limits.collect() });
    }
    Ok(Limited {
        object: "fleet_limited",
        since: fairness.limited().since(),
        defaults: *fairness.defaults(),
        data,
        others: Which::ALL.iter().map(|which| which.as_str()).zip(others).collect(),
    })
}
