//! The names that lead to an organization: in the catalog first, because only the catalog knows whether one is free,
//! and in the file, from which the catalog can be made again.
//!
//! Two who change them at the same moment may come to the file in another order than to the catalog. What the catalog
//! says counts: whoever has written to the file looks at the catalog afterwards, and writes again where it says something
//! else by now. So the last one of them leaves both the same.

use super::{Change, impersonal, unknown};
use crate::base::{Error, ExternalId, HostName, OrganizationId, Result, Slug, codes};
use crate::catalog::{Entry, organizations};
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::organization::{self, Organization};
use crate::tenants::Tenant;

/// Leads a custom host to the organization.
pub async fn add_host(state: &DeploymentState, tenant: &Tenant, host: &HostName, by: &By) -> Result<()> {
    tenant.require_open()?;
    let (id, address) = (tenant.id(), &state.tenant.address);
    if host == address.host() || host.label_before(address.host()).is_some() {
        return Err(Error::new(&codes::HOST_TAKEN).detail("The deployment's own names cannot be custom hosts."));
    }
    let act = Act::about("organization.host_added", id).with("host", host.as_str());
    let (hosts, is_new) = state
        .catalog
        .write(|db| {
            let is_new = !organizations::hosts(db, id)?.iter().any(|known| known == host.as_str());
            organizations::add_host(db, id, host)?;
            audit::record(db, &impersonal(by), act.clone())?;
            Ok((organizations::hosts(db, id)?, is_new))
        })
        .await?;
    state.directory.appeared();
    write_hosts(state, tenant, hosts, (act, is_new), by).await
}

pub async fn remove_host(state: &DeploymentState, tenant: &Tenant, host: &HostName, by: &By) -> Result<()> {
    tenant.require_open()?;
    let id = tenant.id();
    let act = Act::about("organization.host_removed", id).with("host", host.as_str());
    let hosts = state
        .catalog
        .write(|db| {
            if !organizations::remove_host(db, id, host)? {
                return Err(Error::new(&codes::NOT_FOUND).detail("This organization has no such host."));
            }
            audit::record(db, &impersonal(by), act.clone())?;
            organizations::hosts(db, id)
        })
        .await?;
    state.directory.forget(id);
    write_hosts(state, tenant, hosts, (act, true), by).await
}

/// Copies the catalog's list of hosts into the file. The act is in the file's log if it was one (`is_new`), or if the
/// file did not say so yet.
async fn write_hosts(
    state: &DeploymentState,
    tenant: &Tenant,
    mut hosts: Vec<String>,
    (act, mut is_new): (Act, bool),
    by: &By,
) -> Result<()> {
    let mut act = Some(act);
    loop {
        let said = act.take();
        // The catalog has it already: the file must not stay behind.
        tenant
            .write_beyond(|db| {
                let mut organization = organization::get(db)?;
                let differs = organization.hosts != hosts;
                if differs {
                    organization.hosts.clone_from(&hosts);
                    organization::update(db, &organization)?;
                }
                match said {
                    Some(act) if differs || is_new => audit::record(db, by, act).map(drop),
                    _ => Ok(()),
                }
            })
            .await?;
        organization::changed(tenant);
        is_new = false;
        let now = state.catalog.read(|db| organizations::hosts(db, tenant.id())).await?;
        if now == hosts {
            return Ok(());
        }
        hosts = now;
    }
}

/// Gives the organization the names that it is to have, in the catalog; what it had before.
pub(super) async fn rename(state: &DeploymentState, id: OrganizationId, change: &Change, by: &By) -> Result<Entry> {
    let names = |entry: &Entry| {
        let slug = change.slug.clone().unwrap_or_else(|| entry.slug.clone());
        // What is not to be changed is what it is now, whatever it was when somebody looked last.
        let external_id = change.external_id.clone().unwrap_or_else(|| parsed(entry));
        (slug, external_id)
    };
    set_names(state, id, names, by).await
}

/// Gives it those back that it had before, unless somebody else has changed them since.
pub(super) async fn put_back(state: &DeploymentState, before: &Entry, change: &Change, by: &By) -> Result<()> {
    let names = |entry: &Entry| {
        let slug = if change.slug.as_ref() == Some(&entry.slug) { before } else { entry }.slug.clone();
        let external_id = if change.external_id == Some(parsed(entry)) { parsed(before) } else { parsed(entry) };
        (slug, external_id)
    };
    set_names(state, before.id, names, by).await.map(drop)
}

async fn set_names(
    state: &DeploymentState,
    id: OrganizationId,
    names: impl FnOnce(&Entry) -> (Slug, Option<ExternalId>),
    by: &By,
) -> Result<Entry> {
    let before = state
        .catalog
        .write(|db| {
            let before = organizations::entry(db, id)?.ok_or_else(unknown)?;
            let (slug, external_id) = names(&before);
            organizations::rename(db, id, &slug, external_id.as_ref())?;
            let act = Act::about("organization.renamed", id);
            audit::record(db, &impersonal(by), act.with("slug", slug.as_str()))?;
            Ok(before)
        })
        .await?;
    state.directory.forget(id);
    Ok(before)
}

fn parsed(entry: &Entry) -> Option<ExternalId> {
    entry.external_id.as_deref().and_then(ExternalId::parse)
}

/// Brings the file to the names that the catalog has; its row as it is then.
pub(super) async fn agree_on_names(state: &DeploymentState, tenant: &Tenant, by: &By) -> Result<Organization> {
    loop {
        let row = tenant.read(organization::get).await?;
        let entry = state.catalog.read(|db| organizations::entry(db, tenant.id())).await?;
        let Some(entry) = entry.filter(|entry| (&entry.slug, &entry.external_id) != (&row.slug, &row.external_id))
        else {
            return Ok(row);
        };
        tenant
            .write_beyond(|db| {
                let mut row = organization::get(db)?;
                take_names(&mut row, entry.slug, entry.external_id);
                organization::update(db, &row)?;
                let act = Act::new("organization.updated").on(super::named(&row));
                audit::record(db, by, act.with("fields", vec!["slug", "external_id"]))
            })
            .await?;
        organization::changed(tenant);
    }
}

/// What led to it before leads nowhere else, also by what the file says.
pub(super) fn take_names(organization: &mut Organization, slug: Slug, external_id: Option<String>) {
    let before = [Some(organization.slug.to_string()), organization.external_id.take()];
    (organization.slug, organization.external_id) = (slug, external_id);
    let gone = |name: &String| *name != *organization.slug.as_str() && organization.external_id.as_ref() != Some(name);
    let gone: Vec<String> = before.into_iter().flatten().filter(gone).collect();
    for name in gone {
        if !organization.former_names.contains(&name) {
            organization.former_names.push(name);
        }
    }
}
