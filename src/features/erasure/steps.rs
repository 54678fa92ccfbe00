//! The steps of an erasure, in their order. Each can be taken again, and each is followed by the next one also
//! after a crash: what has been done is read off what is there, not off a note that could be ahead of it or behind.

use std::collections::BTreeSet;

use super::certificate::{self, ReplicaGone};
use super::{Findings, require};
use crate::backup::Source;
use crate::base::{Error, OrganizationId, Result};
use crate::catalog::{Erasure, Stage, erasures};
use crate::crypto::Algorithm;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::signing_key::Holder;

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing leads to the organization any more; its names and its id are kept back for ever.
    Close,
    /// Written down what there is, with digests.
    Examine,
    /// From here on nothing that was sealed can be read, in any copy.
    DestroyKey,
    RemoveFiles,
    RemoveReplica,
    Certify,
}

impl Step {
    /// As the API calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Examine => "examine",
            Self::DestroyKey => "destroy_key",
            Self::RemoveFiles => "remove_files",
            Self::RemoveReplica => "remove_backup",
            Self::Certify => "certify",
        }
    }
}

/// Keys that this process has destroyed to the last trace, of organizations that are being erased. The keyring's
/// replica is replaced after that, and once for all of them: it is as large as the keys of all organizations.
#[derive(Default)]
pub struct Keys {
    /// The replica may still hold these.
    destroyed: BTreeSet<OrganizationId>,
    /// It has been replaced since these were destroyed.
    left_replica: BTreeSet<OrganizationId>,
}

impl Keys {
    fn is_destroyed(&self, id: OrganizationId) -> bool {
        self.destroyed.contains(&id) || self.left_replica.contains(&id)
    }
}

/// Takes the next step of an erasure, whether its time has come or not; nothing if there is none. One at a time in
/// the whole deployment.
pub async fn next(state: &DeploymentState, id: OrganizationId) -> Result<Option<Step>> {
    next_of(state, id, Part::All).await
}

/// How far an erasure is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Up to where the backups are reached.
    AtHome,
    All,
}

/// The next step within a part of an erasure.
pub(super) async fn next_of(state: &DeploymentState, id: OrganizationId, part: Part) -> Result<Option<Step>> {
    let mut keys = state.erasures.turn().await;
    if state.erasures.is_closed() {
        return Ok(None);
    }
    let erasure = require(state, id).await?;
    // What is not there cannot be removed, and must not be certified as gone.
    state.tenants.require_volume(id)?;
    let Some(step) = ahead_of(state, &erasure).await? else { return Ok(None) };
    if part == Part::AtHome && matches!(step, Step::RemoveReplica | Step::Certify) {
        return Ok(None);
    }
    match step {
        Step::Close => close(state, id).await?,
        Step::Examine => examine(state, id).await?,
        Step::DestroyKey => {
            state.tenants.hold(id).await?.destroy_key().await?;
            keys.destroyed.insert(id);
        }
        Step::RemoveFiles => state.tenants.hold(id).await?.remove_directory()?,
        Step::RemoveReplica => remove_replica(state, id, &mut keys).await?,
        Step::Certify => certify(state, id).await?,
    }
    Ok(Some(step))
}

/// The step that an erasure is at.
pub(super) async fn ahead_of(state: &DeploymentState, erasure: &Erasure) -> Result<Option<Step>> {
    let id = erasure.organization_id;
    Ok(Some(match erasure.stage {
        Stage::Cancelled | Stage::Erased => return Ok(None),
        Stage::Scheduled => Step::Close,
        Stage::Erasing if erasure.findings.is_none() => Step::Examine,
        Stage::Erasing if state.tenants.wrapped_key(id).await?.is_some() => Step::DestroyKey,
        Stage::Erasing if state.tenants.has_directory(id) => Step::RemoveFiles,
        Stage::Erasing if erasure.replica.is_none() => Step::RemoveReplica,
        Stage::Erasing => Step::Certify,
    }))
}

async fn close(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    state
        .catalog
        .write(|db| {
            // Somebody may have called it off a moment ago.
            if !erasures::is_scheduled(db, id)? {
                return Ok(());
            }
            erasures::close(db, id, &json(&erasures::rows_of(db, id)?)?)?;
            audit::record(db, &By::system(), Act::about("organization.erasure_begun", id))?;
            Ok(())
        })
        .await?;
    state.directory.forget(id);
    Ok(())
}

/// A file that cannot be read is erased all the same.
async fn examine(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let held = state.tenants.hold(id).await?;
    let audit_head = match held.read(audit::head) {
        Ok(head) => Some(head.into()),
        Err(error) => {
            tracing::warn!(organization = %id, ?error, "the audit log of an organization that is erased cannot be read");
            None
        }
    };
    let found = Findings { data_key: state.tenants.wrapped_key(id).await?, files: held.files()?, audit_head };
    let found = json(&found)?;
    state.catalog.write(|db| erasures::set_findings(db, id, &found)).await
}

/// The one place where an erasure reaches the backups.
async fn remove_replica(state: &DeploymentState, id: OrganizationId, keys: &mut Keys) -> Result<()> {
    let held = state.tenants.hold(id).await?;
    // A crash may have come before the key's last trace was overwritten, or before the removal was on disk.
    if !keys.is_destroyed(id) {
        held.destroy_key().await?;
        keys.destroyed.insert(id);
    }
    held.remove_directory()?;
    // Archives that wait to be fetched; while the file is held, none is being made.
    tokio::task::block_in_place(|| state.tenant.exports.forget(id))?;
    let gone = match &state.backups {
        Some(backups) => {
            let destroyed = backups.destroy(Source::Organization(id)).await?;
            // It holds the destroyed key as well, unless it was replaced since.
            if !keys.left_replica.contains(&id) {
                backups.renew_keyring().await?;
                keys.left_replica.append(&mut keys.destroyed);
            }
            Some(ReplicaGone { objects: destroyed.count as u64, bytes: destroyed.bytes })
        }
        None => None,
    };
    let gone = json(&gone)?;
    state.catalog.write(|db| erasures::set_replica(db, id, &gone)).await?;
    keys.destroyed.remove(&id);
    keys.left_replica.remove(&id);
    Ok(())
}

/// The end and its certificate are one transaction: there is never one without the other, nor two.
async fn certify(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let holder = Holder::Deployment(&state.tenant.deployment_keys);
    let keys = holder.keys_for(&[Algorithm::ES256], &state.tenant.key_stock).await?;
    let signer = keys.signer(Algorithm::ES256, state.tenant.clock.now());
    let signer = signer.ok_or_else(|| Error::internal("the deployment has no key that signs by ES256"))?;
    let issuer = state.tenant.address.origin();
    state
        .catalog
        .write(|db| {
            let erasing = |erasure: &Erasure| erasure.stage == Stage::Erasing;
            let Some(erasure) = erasures::get(db, id)?.filter(erasing) else { return Ok(()) };
            let names = erasures::kept_names(db, id)?.len();
            let text = certificate::write(&erasure, names, issuer, db.now(), signer)?;
            erasures::finish(db, id, &text, &signer.jwk().to_string())?;
            audit::record(db, &By::system(), Act::about("organization.erased", id))?;
            Ok(())
        })
        .await?;
    state.tenants.forget(id);
    metrics::counter!("bulkhead_organizations_erased_total").increment(1);
    Ok(())
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("a column could not be written").source(error))
}
