//! Making an organization: the chain of steps, each of which can be taken again or undone, and what becomes of one
//! that was interrupted.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Encryption, impersonal, named};
use crate::base::{Email, Error, ExternalId, OrganizationId, Result, Secret, Slug, codes};
use crate::catalog::{NewEntry, State, organizations, transfers};
use crate::crypto::signing;
use crate::crypto::{Algorithm, Share, random};
use crate::fairness::Plan;
use crate::features::audit::{self, Act, By, Target};
use crate::features::member::{self, Member, NewMember, Role};
use crate::features::organization::{self, Organization, Policy, Quotas};
use crate::features::password::check_strength;
use crate::features::{DeploymentState, signing_key};
use crate::sqlite::{CatalogDb, Write};

/// How often it is tried to enter what is in place, each time for as long as a write waits for its turn.
const TRIES: u32 = 8;
/// And how long it rests in between.
const PAUSE: Duration = Duration::from_secs(1);

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
    let owner = match made {
        Ok(owner) => owner,
        Err(error) => {
            undo(state, id).await;
            return Err(error);
        }
    };
    enter(state, id, |db| {
        organizations::activate(db, id)?;
        audit::record(db, &impersonal(by), Act::about("organization.created", id)).map(drop)
    })
    .await?;
    Ok((organization, owner))
}

/// Enters what is in place as what it is to be from now on. For as long as the catalog only has no time for it, that is
/// tried again. Where it fails for good, whoever asked is told so, and all of it goes: the next start would take what
/// is in place for what a crash has interrupted, and complete it.
pub async fn enter(
    state: &DeploymentState,
    id: OrganizationId,
    row: impl Fn(&Write<'_, CatalogDb>) -> Result<()> + Send + Sync,
) -> Result<()> {
    let mut again = 1..TRIES;
    let entered = loop {
        match state.catalog.write(|db| row(db)).await {
            Err(error) if error.retry().is_some() && again.next().is_some() => {
                tracing::warn!(organization = %id, ?error, "what is in place could not be entered; it will be tried again");
                tokio::time::sleep(PAUSE).await;
            }
            ended => break ended,
        }
    };
    let entered = match entered {
        Err(error) => match state.catalog.read(|db| organizations::entry(db, id)).await {
            // A commit that was not seen to end may have got there all the same.
            Ok(Some(entry)) if entry.state != State::Creating => Ok(()),
            _ => {
                if let Err(error) = remove(state, id).await {
                    tracing::warn!(organization = %id, ?error, "what could not be entered is left to the next start");
                }
                Err(error)
            }
        },
        entered => entered,
    };
    state.directory.appeared();
    state.directory.forget(id);
    entered
}

/// Why an organization is not brought in whose directory is here, although the catalog knows nothing of it, which is from
/// before that: whoever brings it in anew is not to lose what is there.
pub fn not_in_the_catalog() -> Error {
    Error::new(&codes::ORGANIZATION_EXISTS).detail(
        "The catalog does not know it, but its directory is here: `bulkhead catalog rebuild` takes it in again.",
    )
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
            // What is left of one that was being taken away again would keep this id from ever being brought in.
            if state.tenants.has_directory(id) {
                state.tenants.hold(id).await?.remove_directory()?;
            }
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

/// Removes what was being made and has not come into its place. Where that fails, the next start does it.
pub async fn undo(state: &DeploymentState, id: OrganizationId) {
    // Whatever stands there is not this creation's, which takes it away itself, and is of no use without its key.
    if tokio::task::block_in_place(|| state.tenants.is_anywhere(id)) {
        return tracing::warn!(organization = %id, "what is in the place of a failed creation is left to the next start");
    }
    if let Err(error) = remove(state, id).await {
        tracing::warn!(organization = %id, ?error, "what a failed creation has left is left to the next start");
    }
}

async fn remove(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let entry = state.catalog.read(|db| organizations::entry(db, id)).await?;
    if !entry.is_some_and(|entry| entry.state == State::Creating) {
        return Ok(());
    }
    if state.tenants.has_directory(id) {
        let held = state.tenants.hold(id).await?;
        // Before anything else: with its file in place the next start would complete it, key or no key.
        held.remove_directory()?;
    }
    let discarded = state.tenants.discard(id).await;
    let abandoned = state.catalog.write(|db| organizations::abandon(db, id)).await;
    discarded.and(abandoned)
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
