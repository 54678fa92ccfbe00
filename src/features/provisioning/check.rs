//! `catalog check`: whether the directory, the keyring and the files say the same.

use std::time::Duration;

use serde::Serialize;

use crate::base::{OrganizationId, Result, codes};
use crate::catalog::transfers::{self, TransferStage};
use crate::catalog::{Entry, State, organizations};
use crate::features::signing_key::Holder;
use crate::features::{DeploymentState, organization};
use crate::tenants::Tenant;

/// What was looked at and what was found.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CatalogCheck {
    /// Always `catalog_check`.
    pub object: &'static str,
    pub ok: bool,
    /// Organizations that were looked at.
    pub organizations: u64,
    pub problems: Vec<CheckProblem>,
}

/// One thing that is not as it should be, and what to do about it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct CheckProblem {
    pub organization_id: Option<OrganizationId>,
    pub problem: String,
    pub advice: String,
}

/// Walks the whole directory, opening every file once.
pub async fn check(state: &DeploymentState) -> Result<CatalogCheck> {
    let mut problems: Vec<CheckProblem> = Vec::new();
    for line in state.catalog.quick_check().await? {
        problems.push(CheckProblem {
            organization_id: None,
            problem: format!("the catalog's file is damaged: {line}"),
            advice: "Stop the server and restore catalog.sqlite from a backup.".into(),
        });
    }
    let mut ids = Vec::new();
    state
        .catalog
        .scan(|db| {
            organizations::each(db, |entry| {
                ids.push(entry.id);
                Ok(())
            })
        })
        .await?;
    let (mut again, mut disagree) = (Vec::new(), false);
    for id in &ids {
        if let Some((problem, _)) = look_at(state, *id).await? {
            disagree |= problem.starts_with(DISAGREE);
            again.push(*id);
        }
    }
    // Catalog and file are not read in the same moment: it may have been renamed or erased in between.
    if disagree {
        tokio::time::sleep(SECOND).await;
    }
    for id in again {
        if let Some((problem, advice)) = look_at(state, id).await? {
            problems.push(CheckProblem { organization_id: Some(id), problem, advice: advice.into() });
        }
    }
    Ok(CatalogCheck { object: "catalog_check", ok: problems.is_empty(), organizations: ids.len() as u64, problems })
}

async fn look_at(state: &DeploymentState, id: OrganizationId) -> Result<Option<(String, &'static str)>> {
    let Some(entry) = state.catalog.read(|db| organizations::entry(db, id)).await? else { return Ok(None) };
    if entry.state == State::Creating {
        // One that has arrived from another deployment waits for its proof.
        let arrivals = state.catalog.read(|db| transfers::arrivals_of(db, entry.id)).await?;
        if arrivals.contains(&TransferStage::Arrived) {
            return Ok(None);
        }
        return Ok(Some((
            "its creation has not finished".into(),
            "Restart the server: it completes or removes what a crash left.",
        )));
    }
    if !state.tenants.has_key(entry.id).await? {
        return Ok(Some((
            "its data key is not in the keyring".into(),
            "Restore keyring.sqlite from a backup; without the key the sealed columns cannot be read.",
        )));
    }
    let route = match state.directory.by_id(entry.id).await {
        Ok(route) => route,
        Err(error) if error.is(&codes::ORGANIZATION_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = match state.tenants.open(&route).await {
        Ok(tenant) => look_inside(state, &entry, &tenant).await,
        // It is served elsewhere, and what stays here is nobody's.
        Err(error) if error.is(&codes::ORGANIZATION_MOVED) => return Ok(None),
        Err(error) if error.is(&codes::ORGANIZATION_QUARANTINED) => {
            let advice = "`bulkhead fleet stats` says why; `bulkhead fleet release ORG` lets it back in.";
            return Ok(Some(("it has been set aside".into(), advice)));
        }
        Err(error) => Err(error),
    };
    // Whatever goes wrong with one file is said of that file, and the walk goes on.
    Ok(found.unwrap_or_else(|error| {
        let reason = error.cause().unwrap_or_else(|| error.to_string());
        Some((format!("its file cannot be used: {reason}"), RESTORE))
    }))
}

/// How long whoever changes catalog and file has for the second of them.
const SECOND: Duration = Duration::from_secs(1);
const DISAGREE: &str = "the catalog and the file disagree about:";
const RESTORE: &str = "`bulkhead org recover ORG` puts back what the backup has.";

async fn look_inside(
    state: &DeploymentState,
    entry: &Entry,
    tenant: &Tenant,
) -> Result<Option<(String, &'static str)>> {
    let damage = tenant.quick_check().await?;
    if let Some(line) = damage.first() {
        return Ok(Some((format!("its file is damaged: {line}"), RESTORE)));
    }
    if let Err(error) = Holder::Organization(tenant).keys().await {
        let reason = error.cause().unwrap_or_else(|| error.to_string());
        return Ok(Some((
            format!("its signing keys cannot be used: {reason}"),
            "Restore this organization's directory from a backup, or replace the keys with POST \
             /v1/organizations/{org}/signing_keys/rotation and \"immediately\": true, for each algorithm.",
        )));
    }
    let own = tenant.read(organization::get).await?;
    let hosts = state.catalog.read(|db| organizations::hosts(db, entry.id)).await?;
    let differs = [
        ("slug", own.slug != entry.slug),
        ("external id", own.external_id != entry.external_id),
        ("state", own.suspended != (entry.state == State::Suspended)),
        ("hosts", own.hosts != hosts),
    ];
    let names: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|&(name, _)| name).collect();
    Ok((!names.is_empty()).then(|| {
        (
            format!("{DISAGREE} {}", names.join(", ")),
            "Set the wanted value again with PATCH /v1/organizations/{org} or the CLI: both are written.",
        )
    }))
}
