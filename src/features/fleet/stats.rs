//! How many organizations there are of what, and how large they are.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::base::{OrganizationId, Result, Slug};
use crate::catalog::care::{self, Quarantine};
use crate::catalog::placements;
use crate::features::DeploymentState;

/// Quarantined organizations that are named.
const NAMED: u32 = 100;
/// Files whose sizes are looked up between two reads of the catalog.
const BATCH: u32 = 512;

/// All organizations in numbers.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Stats {
    /// Always `fleet_stats`.
    pub object: &'static str,
    pub organizations: u64,
    /// How many are `active`, `suspended`, ...
    pub by_state: BTreeMap<String, i64>,
    /// How many have each schema version.
    pub by_schema_version: BTreeMap<String, i64>,
    /// The version that new organizations have.
    pub schema_version: i64,
    /// How many are on each volume; `local` is the data directory itself.
    pub by_volume: BTreeMap<String, i64>,
    /// What all files take up, WALs included.
    pub bytes: u64,
    /// Organizations whose file is not where it should be.
    pub without_file: u64,
    /// The largest first.
    pub largest: Vec<Size>,
    /// Files that are open, and how many may be.
    pub open: usize,
    pub capacity: usize,
    /// Those that are set aside; the first hundred.
    pub quarantined: Vec<Quarantine>,
}

/// What one organization takes up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, utoipa::ToSchema)]
pub struct Size {
    pub bytes: u64,
    pub organization_id: OrganizationId,
    pub slug: Slug,
}

/// Counts and measures; `top` is how many of the largest are named. Looks at the size of each file and opens none.
pub async fn stats(state: &DeploymentState, top: usize) -> Result<Stats> {
    let by_volume = state.catalog.scan(placements::by_volume).await?;
    let (by_state, by_version, quarantined) = state
        .catalog
        .scan(|db| Ok((care::by_state(db)?, care::by_schema_version(db)?, care::quarantined(db, NAMED)?)))
        .await?;
    let (mut bytes, mut without_file, mut largest) = (0, 0, Vec::new());
    let mut after = String::new();
    loop {
        let batch = state.catalog.read(|db| care::after(db, &after, BATCH)).await?;
        let Some(last) = batch.last() else { break };
        after = last.id.to_string();
        tokio::task::block_in_place(|| {
            for entry in batch {
                let Some(size) = state.tenants.bytes(entry.id) else {
                    without_file += 1;
                    continue;
                };
                bytes += size;
                largest.push(Size { bytes: size, organization_id: entry.id, slug: entry.slug });
            }
        });
        largest.sort_unstable_by(|one: &Size, other| other.cmp(one));
        largest.truncate(top);
        tokio::task::yield_now().await;
    }
    let (open, capacity) = state.tenants.usage();
    Ok(Stats {
        object: "fleet_stats",
        organizations: by_state.iter().map(|(_, count)| u64::try_from(*count).unwrap_or(0)).sum(),
        by_state: by_state.into_iter().collect(),
        by_schema_version: by_version.into_iter().map(|(version, count)| (version.to_string(), count)).collect(),
        schema_version: state.tenants.schema_version(),
        by_volume: by_volume.into_iter().collect(),
        bytes,
        without_file,
        largest,
        open,
        capacity,
        quarantined,
    })
}
