//! Making and administering organizations: the one feature that holds both the catalog and the files.
//!
//! It keeps the two in step. Making one is a chain of steps each of which can be taken again or undone
//! (`tenants::create` has the order); a change of a name goes to the catalog first, because only the
//! catalog knows whether it is free, and is put back there if the file cannot follow. Operators' acts
//! are recorded in the operators' log and in the organization's own.

pub mod check;
pub mod http;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::backup::{Source, ledger};
use crate::base::{Email, Error, ExternalId, HostName, OrganizationId, Replication, Result, Secret, Slug, codes};
use crate::catalog::{NewEntry, State, erasures, organizations, transfers};
use crate::crypto::signing;
use crate::crypto::{Algorithm, Share, random};
use crate::fairness::Plan;
use crate::features::audit::{self, Act, Actor, By, Target};
use crate::features::member::{self, Member, NewMember, Role};
use crate::features::organization::{self, Organization, Policy, Quotas};
use crate::features::password::check_strength;
use crate::features::session::{self, End};
use crate::features::{DeploymentState, signing_key};
use crate::sqlite::{CatalogDb, Read, Write};
use crate::tenants::Tenant;

/// What a new organization is to be.
pub struct NewOrganization {
    pub name: String,
    /// Proposed from the name when absent.
    pub slug: Option<Slug>,
    pub external_id: Option<ExternalId>,
    pub metadata: BTreeMap<String, String>,
    pub accent: Option<String>,
    pub policy: Policy,
    pub owner: Option<Owner>,
    /// The keyed hash of the founder's address, when somebody signed up.
    pub founder: Option<[u8; 32]>,
    pub encryption: Encryption,
}

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

/// The first member.
pub struct Owner {
    pub email: Email,
    pub name: Option<String>,
    pub password: Option<Secret>,
    /// Whether the mailbox was proven.
    pub verified: bool,
}

/// Makes an organization, whole or not at all.
pub async fn create(state: &DeploymentState, new: NewOrganization, by: &By) -> Result<(Organization, Option<Member>)> {
    if new.encryption == Encryption::File {
        state.tenants.require_encryption()?;
    }
    let id: OrganizationId = random::id(state.tenant.clock.now());
    let slug = match &new.slug {
        // Told before the password is hashed; the claim below makes sure.
        Some(slug) if !state.directory.is_free(slug.as_str()).await? => return Err(organizations::slug_taken(slug)),
        Some(slug) => slug.clone(),
        None => free_slug(state, &new.name).await?,
    };
    let now = state.tenant.clock.now();
    let organization = Organization {
        id,
        name: new.name.trim().to_owned(),
        slug: slug.clone(),
        external_id: new.external_id.as_ref().map(|external_id| external_id.as_str().to_owned()),
        hosts: Vec::new(),
        former_names: Vec::new(),
        quotas: Quotas::default(),
        limits: Plan::default(),
        replication: None,
        suspended: false,
        metadata: new.metadata,
        accent: new.accent.map(|accent| accent.to_ascii_lowercase()),
        policy: new.policy,
        created_at: now,
        updated_at: now,
    };
    organization.check()?;
    let owner = prepare_owner(state, new.owner, &organization.name).await?;
    let key = signing::generate(Algorithm::ES256)?;

    let entry = NewEntry {
        id,
        slug,
        external_id: new.external_id,
        schema_version: state.tenants.schema_version(),
        founder: new.founder.map(|mac| (mac, state.sign_up.max_per_email)),
    };
    let claim = state.catalog.write(|db| organizations::claim(db, &entry)).await?;
    let made = state
        .tenants
        .create_as(&claim, new.encryption == Encryption::File, |db, sealer| {
            organization::insert(db, &organization)?;
            signing_key::seed(db, sealer, &key)?;
            let mut act = Act::new("organization.created").on(named(&organization));
            if new.encryption == Encryption::File {
                act = act.with("encryption", "file");
            }
            audit::record(db, by, act)?;
            let Some(owner) = owner else { return Ok(None) };
            let owner = member::create(db, owner)?;
            let act = Act::new("member.created").on(Target::new("member", owner.id).named(owner.display()));
            audit::record(db, by, act.with("roles", "owner"))?;
            Ok(Some(owner))
        })
        .await;
    match made {
        Ok(owner) => {
            state
                .catalog
                .write(|db| {
                    organizations::activate(db, id)?;
                    audit::record(db, &impersonal(by), Act::about("organization.created", id))
                })
                .await?;
            state.directory.appeared();
            Ok((organization, owner))
        }
        Err(error) => {
            undo(state, id).await;
            Err(error)
        }
    }
}

/// Completes or throws away what a crash left half done; at start, before the first request.
pub async fn recover(state: &DeploymentState) -> Result<()> {
    for id in state.catalog.read(organizations::half_done).await? {
        // One that another deployment sends is served when that has let go of it, and not before.
        if !state.catalog.read(|db| transfers::arrivals_of(db, id)).await?.is_empty() {
            continue;
        }
        if state.tenants.is_in_place(id) {
            state.catalog.write(|db| organizations::activate(db, id)).await?;
            match_suspension(state, id).await;
            tracing::info!(organization = %id, "completed an organization that a crash had interrupted");
        } else {
            state.tenants.discard(id).await?;
            state.catalog.write(|db| organizations::abandon(db, id)).await?;
            tracing::info!(organization = %id, "removed an organization that a crash had interrupted");
        }
    }
    Ok(())
}

/// One that was brought in may have been suspended where it came from, and is so here.
async fn match_suspension(state: &DeploymentState, id: OrganizationId) {
    let suspended = async {
        let tenant = state.tenants.open(&state.directory.by_id(id).await?).await?;
        if tenant.read(organization::get).await?.suspended {
            state.catalog.write(|db| organizations::set_state(db, id, State::Suspended)).await?;
            state.directory.forget(id);
        }
        Ok::<_, Error>(())
    };
    if let Err(error) = suspended.await {
        tracing::warn!(organization = %id, ?error, "whether a completed organization is suspended is not known");
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
    let before = state.catalog.read(|db| organizations::entry(db, id)).await?.ok_or_else(unknown)?;
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
    if names_change {
        rename(state, id, &draft.slug, draft.external_id.as_deref(), by).await?;
    }
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
    if written.is_err() && names_change {
        rename(state, id, &before.slug, before.external_id.as_deref(), by).await?;
    }
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

/// Leads a custom host to the organization.
pub async fn add_host(state: &DeploymentState, tenant: &Tenant, host: &HostName, by: &By) -> Result<()> {
    tenant.require_open()?;
    let (id, address) = (tenant.id(), &state.tenant.address);
    if host == address.host() || host.label_before(address.host()).is_some() {
        return Err(Error::new(&codes::HOST_TAKEN).detail("The deployment's own names cannot be custom hosts."));
    }
    state.catalog.write(|db| organizations::add_host(db, id, host)).await?;
    state.directory.appeared();
    write_hosts(state, tenant, Act::new("organization.host_added").with("host", host.as_str()), by).await
}

pub async fn remove_host(state: &DeploymentState, tenant: &Tenant, host: &HostName, by: &By) -> Result<()> {
    tenant.require_open()?;
    let id = tenant.id();
    if !state.catalog.write(|db| organizations::remove_host(db, id, host)).await? {
        return Err(Error::new(&codes::NOT_FOUND).detail("This organization has no such host."));
    }
    state.directory.forget(id);
    write_hosts(state, tenant, Act::new("organization.host_removed").with("host", host.as_str()), by).await
}

/// Copies the catalog's list of hosts into the file, from which the catalog could be rebuilt.
async fn write_hosts(state: &DeploymentState, tenant: &Tenant, act: Act, by: &By) -> Result<()> {
    let id = tenant.id();
    let act = act.on(Target::new("organization", id));
    let hosts = state
        .catalog
        .write(|db| {
            audit::record(db, &impersonal(by), act.clone())?;
            organizations::hosts(db, id)
        })
        .await?;
    // The catalog has it already: the file must not stay behind.
    tenant
        .write_beyond(|db| {
            let mut organization = organization::get(db)?;
            if organization.hosts != hosts {
                organization.hosts = hosts;
                organization::update(db, &organization)?;
                audit::record(db, by, act)?;
            }
            Ok(())
        })
        .await?;
    organization::changed(tenant);
    Ok(())
}

async fn rename(
    state: &DeploymentState,
    id: OrganizationId,
    slug: &Slug,
    external_id: Option<&str>,
    by: &By,
) -> Result<()> {
    let external_id = external_id.and_then(ExternalId::parse);
    state
        .catalog
        .write(|db| {
            organizations::rename(db, id, slug, external_id.as_ref())?;
            let act = Act::about("organization.renamed", id);
            audit::record(db, &impersonal(by), act.with("slug", slug.as_str()))
        })
        .await?;
    state.directory.forget(id);
    Ok(())
}

/// The password is checked and hashed before anything is reserved.
async fn prepare_owner(state: &DeploymentState, owner: Option<Owner>, organization: &str) -> Result<Option<NewMember>> {
    let Some(owner) = owner else { return Ok(None) };
    let password_hash = match owner.password {
        Some(password) => {
            check_strength("password", &password, &owner.email, owner.name.as_deref(), organization)?;
            Some(state.tenant.hasher.hash(Share::of_nobody(), password).await?)
        }
        None => None,
    };
    Ok(Some(NewMember {
        email: owner.email,
        name: owner.name.filter(|name| !name.trim().is_empty()),
        username: None,
        phone: None,
        title: None,
        roles: vec![Role::Owner],
        password_hash,
        email_verified: owner.verified,
    }))
}

pub async fn undo(state: &DeploymentState, id: OrganizationId) {
    let discarded = state.tenants.discard(id).await;
    let abandoned = state.catalog.write(|db| organizations::abandon(db, id)).await;
    if let Err(error) = discarded.and(abandoned) {
        tracing::warn!(organization = %id, ?error, "a failed creation will be cleared up at the next start");
    }
}

/// A slug made from the name, with a number behind it if the plain one is taken.
async fn free_slug(state: &DeploymentState, name: &str) -> Result<Slug> {
    let proposed = Slug::propose(name).or_else(|| Slug::parse(&format!("org-{}", random::digits(6))));
    let proposed = proposed.ok_or_else(|| Error::internal("no slug could be proposed"))?;
    for attempt in 1..50 {
        let candidate =
            if attempt == 1 { Some(proposed.clone()) } else { Slug::parse(&format!("{proposed}-{attempt}")) };
        if let Some(candidate) = candidate
            && state.directory.is_free(candidate.as_str()).await?
        {
            return Ok(candidate);
        }
    }
    Err(Error::new(&codes::SLUG_TAKEN).field("slug", "taken", "Choose a slug; those made from the name are taken."))
}

fn applied(mut organization: Organization, change: &Change) -> Organization {
    if let Some(name) = &change.name {
        name.trim().clone_into(&mut organization.name);
    }
    let before = [Some(organization.slug.to_string()), organization.external_id.clone()];
    if let Some(slug) = &change.slug {
        organization.slug = slug.clone();
    }
    if let Some(external_id) = &change.external_id {
        organization.external_id = external_id.as_ref().map(|external_id| external_id.as_str().to_owned());
    }
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
    let gone = |name: &String| *name != *organization.slug.as_str() && organization.external_id.as_ref() != Some(name);
    let gone: Vec<String> = before.into_iter().flatten().filter(gone).collect();
    for name in gone {
        if !organization.former_names.contains(&name) {
            organization.former_names.push(name);
        }
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
