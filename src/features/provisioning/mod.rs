//! Making and administering organizations: the one feature that holds both the catalog and the files.
//!
//! It keeps the two in step. Making one is a chain of steps each of which can be taken again or undone
//! (`tenants::create` has the order); a change of a name goes to the catalog first, because only the
//! catalog knows whether it is free, and is put back there if the file cannot follow; of two changes at the
//! same moment what the catalog says counts (`names`, [`agree`]). Operators' acts are recorded in the
//! operators' log and in the organization's own.

pub mod check;
mod creation;
pub mod http;
mod names;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use creation::{NewOrganization, Owner, create, enter, not_in_the_catalog, recover, undo};
pub use names::{add_host, remove_host};

use crate::backup::{Source, ledger};
use crate::base::{Error, ExternalId, OrganizationId, Replication, Result, Slug, codes};
use crate::catalog::{State, erasures, organizations};
use crate::fairness::Plan;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, Actor, By, Target};
use crate::features::organization::{self, Organization, Policy, Quotas};
use crate::features::session::{self, End};
use crate::sqlite::{CatalogDb, Read, Write};
use crate::tenants::Tenant;
use names::{agree_on_names, put_back, rename, take_names};

/// What of an organization is ciphertext on the disk and in every copy of its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Encryption {
    /// Secrets, each sealed in its column.
    #[default]
    Columns,
    /// Every page of the file, and the secrets inside as well. Only in builds with SQLCipher.
    File,
}

impl Encryption {
    #[must_use]
    pub fn of(tenant: &Tenant) -> Self {
        Self::of_file(tenant.is_encrypted())
    }

    #[must_use]
    pub const fn of_file(is_encrypted: bool) -> Self {
        if is_encrypted { Self::File } else { Self::Columns }
    }
}

/// What an administrator may change of an organization.
#[derive(Default)]
pub struct Change {
    pub name: Option<String>,
    pub slug: Option<Slug>,
    pub external_id: Option<Option<ExternalId>>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub accent: Option<Option<String>>,
    pub policy: Option<Policy>,
    /// Operators alone.
    pub quotas: Option<Quotas>,
    /// Operators alone.
    pub limits: Option<Plan>,
    /// Operators alone; nothing in it follows the deployment.
    pub replication: Option<Option<Replication>>,
}

impl Change {
    /// Whether it may make the organization's data larger by more than a trace.
    const fn adds_data(&self) -> bool {
        self.quotas.is_none() && self.limits.is_none() && self.metadata.is_some()
    }
}

/// Changes an organization; names in the catalog first.
pub async fn change(state: &DeploymentState, tenant: &Tenant, change: Change, by: &By) -> Result<Organization> {
    // The catalog must not go ahead of a file that cannot follow.
    tenant.require_open()?;
    let id = tenant.id();
    if state.catalog.read(|db| organizations::entry(db, id)).await?.is_none() {
        return Err(unknown());
    }
    let names_change = change.slug.is_some() || change.external_id.is_some();
    if change.replication == Some(Some(Replication::Object)) {
        match &state.backups {
            None => return Err(Error::new(&codes::BACKUP_NOT_CONFIGURED)),
            Some(backups) if backups.is_foreign() => return Err(Error::new(&codes::BACKUP_IS_LITESTREAMS)),
            Some(_) => {}
        }
    }
    // Everything is checked before the catalog is touched.
    let draft = tenant.read(|db| organization::get(db).map(|row| applied(row, &change))).await?;
    draft.check()?;
    let before = if names_change { Some(rename(state, id, &change, by).await?) } else { None };
    // Before the write, which is acknowledged as the organization's writes will be: what waits for the store has all of
    // it there, and a store that is lost keeps nobody from waiting no more.
    let replicated = change.replication.map(|own| tenant.replicate(own));
    // Also where the data takes up as much as it may: this is how the limit is raised.
    let written = tenant
        .write_beyond(|db| {
            if change.adds_data() {
                organization::require_bytes(db, &state.tenant.quotas)?;
            }
            let after = applied(organization::get(db)?, &change);
            organization::update(db, &after)?;
            audit::record(db, by, Act::new("organization.updated").on(named(&after)).with("fields", fields(&change)))?;
            organization::get(db)
        })
        .await;
    organization::changed(tenant);
    if let (Ok(after), true) = (&written, change.quotas.is_some()) {
        tenant.bound(after.quotas.bytes(&state.tenant.quotas));
    }
    match replicated {
        Some(before) if written.is_err() => drop(tenant.replicate(Some(before))),
        // Without them the file is of no use, and they are written once.
        Some(_) => [Source::Catalog, Source::Keyring].into_iter().for_each(|source| ledger::note(source, false)),
        None => {}
    }
    if let (Ok(after), true) = (&written, change.limits.is_some()) {
        tenant.limit(&after.limits);
    }
    let written = match (written, before) {
        (Err(error), Some(before)) => {
            put_back(state, &before, &change, by).await?;
            // Somebody else may have brought them to the file meanwhile.
            if let Err(error) = agree_on_names(state, tenant, by).await {
                tracing::warn!(organization = %id, ?error, "whether the file has the names of the catalog is not known");
            }
            Err(error)
        }
        (Ok(_), Some(_)) => agree_on_names(state, tenant, by).await,
        (written, None) => written,
    };
    state.directory.forget(id);
    written
}

/// Ends all sessions and refuses everybody until [`resume`]. Doing it again changes nothing.
pub async fn suspend(state: &DeploymentState, tenant: &Tenant, reason: &str, by: &By) -> Result<()> {
    tenant.require_open()?;
    mark_in_catalog(state, tenant.id(), true, by, |_| Ok(())).await?;
    mark_in_file(tenant, true, Some(reason), by).await?;
    agree(state, tenant, by).await
}

pub async fn resume(state: &DeploymentState, tenant: &Tenant, by: &By) -> Result<()> {
    tenant.require_open()?;
    let id = tenant.id();
    let refuse_scheduled = |db: &Read<'_, CatalogDb>| match erasures::is_scheduled(db, id)? {
        true => Err(Error::new(&codes::ERASURE_SCHEDULED)),
        false => organizations::entry(db, id),
    };
    // Resuming what is not suspended must not sign anybody out.
    if state.catalog.read(refuse_scheduled).await?.is_none_or(|entry| entry.state != State::Active) {
        mark_in_file(tenant, false, None, by).await?;
        mark_in_catalog(state, id, false, by, |db| refuse_scheduled(db).map(drop)).await?;
    }
    agree(state, tenant, by).await
}

/// Of two who want different things at the same moment, one may have been the last in the catalog and the other in the
/// file. What the catalog says counts, and the file follows. Whoever has marked either looks here afterwards, so that
/// the last one of them sees what all have left.
pub async fn agree(state: &DeploymentState, tenant: &Tenant, by: &By) -> Result<()> {
    loop {
        let entry = state.catalog.read(|db| organizations::entry(db, tenant.id())).await?;
        let Some(wanted) = entry.map(|entry| entry.state == State::Suspended) else { return Ok(()) };
        if tenant.read(organization::get).await?.suspended == wanted {
            return Ok(());
        }
        mark_in_file(tenant, wanted, None, by).await?;
    }
}

const fn suspension(suspended: bool) -> &'static str {
    if suspended { "organization.suspended" } else { "organization.resumed" }
}

/// Closing: the catalog first, so that nobody gets in while those who are in are sent out. Opening: the
/// file first. Wherever a crash comes in between, sessions from before the suspension are gone when the
/// organization is open again. `also` is what else is true from that moment on.
pub async fn mark_in_catalog(
    state: &DeploymentState,
    id: OrganizationId,
    suspended: bool,
    by: &By,
    also: impl FnOnce(&Write<'_, CatalogDb>) -> Result<()>,
) -> Result<()> {
    let wanted = if suspended { State::Suspended } else { State::Active };
    state
        .catalog
        .write(|db| {
            also(db)?;
            if organizations::entry(db, id)?.is_some_and(|entry| entry.state != wanted) {
                organizations::set_state(db, id, wanted)?;
                let act = Act::about(suspension(suspended), id);
                audit::record(db, &impersonal(by), act)?;
            }
            Ok(())
        })
        .await?;
    state.directory.forget(id);
    Ok(())
}

/// `reason` is for the organization's own log: free text may name people, and the catalog holds none.
pub async fn mark_in_file(tenant: &Tenant, suspended: bool, reason: Option<&str>, by: &By) -> Result<()> {
    tenant
        .write_beyond(|db| {
            let mut organization = organization::get(db)?;
            let ended = session::end_all(db, End::OrganizationSuspended)?;
            if organization.suspended != suspended || ended > 0 {
                organization.suspended = suspended;
                organization::update(db, &organization)?;
                let mut act = Act::new(suspension(suspended)).on(named(&organization)).with("sessions_ended", ended);
                if let Some(reason) = reason {
                    act = act.with("reason", reason);
                }
                audit::record(db, by, act)?;
            }
            Ok(())
        })
        .await?;
    organization::changed(tenant);
    Ok(())
}

fn applied(mut organization: Organization, change: &Change) -> Organization {
    if let Some(name) = &change.name {
        name.trim().clone_into(&mut organization.name);
    }
    let slug = change.slug.clone().unwrap_or_else(|| organization.slug.clone());
    let external_id = match &change.external_id {
        Some(external_id) => external_id.as_ref().map(|external_id| external_id.as_str().to_owned()),
        None => organization.external_id.clone(),
    };
    take_names(&mut organization, slug, external_id);
    if let Some(metadata) = &change.metadata {
        organization.metadata.clone_from(metadata);
    }
    if let Some(accent) = &change.accent {
        organization.accent = accent.as_ref().map(|accent| accent.to_ascii_lowercase());
    }
    if let Some(policy) = &change.policy {
        organization.policy = policy.clone();
    }
    if let Some(quotas) = change.quotas {
        organization.quotas = quotas;
    }
    if let Some(limits) = change.limits {
        organization.limits = limits;
    }
    if let Some(replication) = change.replication {
        organization.replication = replication;
    }
    organization
}

fn fields(change: &Change) -> Vec<&'static str> {
    [
        ("name", change.name.is_some()),
        ("slug", change.slug.is_some()),
        ("external_id", change.external_id.is_some()),
        ("metadata", change.metadata.is_some()),
        ("accent", change.accent.is_some()),
        ("policy", change.policy.is_some()),
        ("quotas", change.quotas.is_some()),
        ("limits", change.limits.is_some()),
        ("replication", change.replication.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, changed)| changed.then_some(name))
    .collect()
}

/// The catalog's log holds no personal data: who signed up, and from where, is in the file's own log.
#[must_use]
pub fn impersonal(by: &By) -> By {
    let is_person = !matches!(by.actor.r#type.as_str(), "operator" | "system" | "api_key");
    let actor = if is_person { Actor::anonymous() } else { by.actor.clone() };
    By { actor, context: audit::Context::default(), request_id: by.request_id.clone() }
}

fn named(organization: &Organization) -> Target {
    Target::new("organization", organization.id).named(organization.name.clone())
}

fn unknown() -> Error {
    Error::new(&codes::ORGANIZATION_NOT_FOUND)
}
