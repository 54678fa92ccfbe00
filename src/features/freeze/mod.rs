//! Freezing: an organization whose file does not change, for a legal hold, with a signed digest of it.
//!
//! It owns the catalog's rows of freezes ([`crate::catalog::freezes`]) and the order of the steps; that nothing is
//! written is seen to by `tenants` (its gate), for whoever asks. The event of the freeze is the last one of the
//! organization's own log, so the file itself says that it is frozen, also to a catalog that was made again from the
//! files. Each step can be taken again: a crash anywhere leaves a file that takes no writes, and the next start
//! completes what was begun. It leaves alone what is read: sessions and tokens are good as before.

pub mod certificate;
pub mod http;

use crate::backup::Source;
use crate::base::{ApiKeyId, Error, OrganizationId, Result, codes};
use crate::catalog::transfers::{self, Direction};
use crate::catalog::{Freeze, FreezeStage, erasures, freezes, organizations, placements};
use crate::crypto::Algorithm;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, Actor, By, Context};
use crate::features::backup::{Recovery, frozen_in_backup};
use crate::features::provisioning::impersonal;
use crate::features::signing_key::Holder;
use crate::sqlite::{CatalogDb, Read, Write};
use crate::tenants::{Depth, FROZEN, FROZEN_HEAD, Held, KeptFile, Look, Shut, UNFROZEN, last_word};

use certificate::{Certificate, Found};

/// Freezes an organization, and certifies what its file is then. The same again completes what was interrupted, and
/// changes nothing otherwise. A damaged file is not frozen: refused before anything is done, and undone where that is
/// found later.
pub async fn freeze(
    state: &DeploymentState,
    id: OrganizationId,
    reason: &str,
    requested_by: Option<ApiKeyId>,
    by: &By,
) -> Result<Freeze> {
    // Another program would go on writing into it.
    state.tenants.require_own_files()?;
    let operator = impersonal(by);
    state.catalog.read(|db| require_free(db, id)).await?;
    let before = find(state, id).await?;
    if before.is_none() {
        require_whole(state, id).await?;
    }
    state
        .catalog
        .write(|db| {
            require_free(db, id)?;
            if freezes::begin(db, id, reason, requested_by)? {
                audit::record(db, &operator, Act::about(FROZEN, id).with("reason", reason))?;
            }
            Ok(())
        })
        .await?;
    let freeze = require(state, id).await?;
    // It was begun some time ago, and the file may have been damaged since.
    let looked = if before.is_some_and(|before| before.stage == FreezeStage::Freezing) {
        require_whole(state, id).await
    } else {
        Ok(())
    };
    complete_or_undo(state, &freeze, looked, by).await
}

/// Refuses what is about to become something else.
fn require_free(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    organizations::require(db, id)?;
    if erasures::is_scheduled(db, id)? {
        return Err(Error::new(&codes::ERASURE_SCHEDULED));
    }
    if transfers::open_of(db, id, Direction::Departure)?.is_some() {
        return Err(Error::new(&codes::TRANSFER_CONFLICT));
    }
    if placements::relocation(db, id)?.is_some() {
        return Err(Error::new(&codes::RELOCATION_RUNNING));
    }
    Ok(())
}

/// Refuses a file that is missing or damaged anywhere: nobody could read what would be certified, and nothing could be
/// written that says so. Requests go on meanwhile.
async fn require_whole(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    // Its key may be away, or the disk: that says nothing of the file.
    if !look(state, id).await?.0 && state.tenants.hold_still(id).await?.is_damaged().await? {
        return Err(Error::new(&codes::FREEZE_FILE_DAMAGED));
    }
    Ok(())
}

/// Whether every page and index is in order, and the newest event of its log.
async fn look(state: &DeploymentState, id: OrganizationId) -> Result<(bool, Option<String>)> {
    Ok(match state.tenants.look(id, Depth::Full).await? {
        Look::Seen(seen) if seen.names.id == id => (seen.examination.damage.is_empty(), seen.names.newest_event),
        _ => (false, None),
    })
}

/// Completes a freeze, or undoes it where the file is found damaged on the way: nobody could ever complete it, and it
/// would keep out whoever is to replace the file.
async fn complete_or_undo(state: &DeploymentState, freeze: &Freeze, looked: Result<()>, by: &By) -> Result<Freeze> {
    let error = match looked {
        Ok(()) => match complete(state, freeze, by).await {
            Err(error) if freeze.stage == FreezeStage::Freezing => error,
            done => return done,
        },
        Err(error) => error,
    };
    let held = match state.tenants.hold_still(freeze.organization_id).await {
        Ok(held) if held.is_damaged().await.unwrap_or(false) => held,
        _ => return Err(error),
    };
    // Somebody else may have completed or released it meanwhile.
    let begun = find(state, freeze.organization_id).await?.filter(|now| now.stage == FreezeStage::Freezing);
    if begun.is_none() {
        return Err(error);
    }
    tracing::warn!(organization = %freeze.organization_id, ?error, "a freeze is undone: the file is damaged");
    undo(state, &held, begun, by).await?;
    Err(Error::new(&codes::FREEZE_FILE_DAMAGED).source(error))
}

/// Takes back what was begun, in its own log as well if that takes it.
async fn undo(state: &DeploymentState, held: &Held, begun: Option<Freeze>, by: &By) -> Result<()> {
    let id = held.organization();
    let frozen_head = frozen_head(&own_word(held), begun.as_ref());
    state.catalog.write(|db| freezes::begin_release(db, id)).await?;
    if let Err(error) = tell(held, by).await {
        tracing::warn!(organization = %id, ?error, "a damaged file does not say that its freeze was undone");
    }
    forget(state, held, (Released::Damaged, frozen_head), by).await
}

/// How the release of an organization has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// Its own log says so.
    Told,
    /// Its file is damaged, so only the operators' log does. It can be replaced now.
    Damaged,
}

/// Releases it. The same again completes what was interrupted. What fails leaves it frozen, but for a damaged file:
/// whoever is to replace it has to be let in first.
pub async fn release(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<Released> {
    if find(state, id).await?.is_none() {
        let is_free = match state.tenants.why_shut(id) {
            // Requests go on meanwhile.
            None => matches!(look(state, id).await?, (true, newest) if newest.as_deref() != Some(FROZEN)),
            Some(shut) => shut != Shut::Frozen,
        };
        if is_free {
            return Err(Error::new(&codes::FREEZE_NOT_FOUND));
        }
    }
    // Held to the end: whoever opens it before writers are let in might get a copy of it.
    let held = state.tenants.hold_still(id).await?;
    let (before, own) = (find(state, id).await?, own_word(&held));
    let mut frozen_head = frozen_head(&own, before.as_ref());
    // One that only its own log calls frozen is released as well, and one of which nothing but the backup says so.
    let is_known = before.is_some() || frozen_head.is_some() || state.tenants.why_shut(id) == Some(Shut::Frozen);
    if !is_known {
        frozen_head = if held.is_damaged().await? { in_backup(state, id).await? } else { None };
        if frozen_head.is_none() {
            return Err(Error::new(&codes::FREEZE_NOT_FOUND));
        }
    }
    // Before its own log is told: a crash, or a catalog that takes no write after that, leaves this to be completed by
    // the next start, or by the same again.
    state.catalog.write(|db| freezes::begin_release(db, id)).await?;
    match tell(&held, by).await {
        Ok(released) => forget(state, &held, (released, frozen_head), by).await.map(|()| released),
        Err(error) => {
            let stage = before.map(|before| before.stage);
            state.catalog.write(|db| freezes::call_off_release(db, id, stage)).await?;
            Err(error)
        }
    }
}

/// The newest event of its own log, and its hash.
fn own_word(held: &Held) -> Result<(Option<String>, String)> {
    held.read(|db| Ok((audit::newest_action(db)?, audit::head(db)?.1)))
}

/// The hash of the event that froze it: a copy of a damaged file ends there, whether it was released or not.
fn frozen_head(own: &Result<(Option<String>, String)>, freeze: Option<&Freeze>) -> Option<String> {
    if let Some(certified) = freeze.and_then(certified) {
        return Some(certified.audit_head.hash);
    }
    let (_, hash) = own.as_ref().ok().filter(|(action, _)| action.as_deref() == Some(FROZEN))?;
    Some(hash.clone())
}

/// The same as the backup has it.
async fn in_backup(state: &DeploymentState, id: OrganizationId) -> Result<Option<String>> {
    let Some(backups) = &state.backups else { return Ok(None) };
    let recovery = Recovery::of(id, backups, &state.tenants, &state.catalog).await?;
    frozen_in_backup(&recovery, id).await
}

/// What the certificate of a freeze says.
fn certified(freeze: &Freeze) -> Option<Certificate> {
    let key: serde_json::Value = serde_json::from_str(freeze.certificate_key.as_deref()?).ok()?;
    certificate::verify(freeze.certificate.as_deref()?, &key)
}

pub async fn find(state: &DeploymentState, id: OrganizationId) -> Result<Option<Freeze>> {
    state.catalog.read(|db| freezes::get(db, id)).await
}

async fn require(state: &DeploymentState, id: OrganizationId) -> Result<Freeze> {
    find(state, id).await?.ok_or_else(|| Error::new(&codes::FREEZE_NOT_FOUND))
}

/// Before the first request: what is frozen takes no writes, and what was interrupted is completed. A file that cannot
/// be used keeps the others from nothing.
pub async fn recover(state: &DeploymentState) -> Result<()> {
    let all = state.catalog.read(freezes::all).await?;
    for freeze in &all {
        state.tenants.shut(freeze.organization_id, Shut::Frozen);
    }
    for freeze in all {
        let id = freeze.organization_id;
        let done = match freeze.stage {
            FreezeStage::Frozen => continue,
            FreezeStage::Freezing => {
                let looked = require_whole(state, id).await;
                complete_or_undo(state, &freeze, looked, &By::system()).await.map(drop)
            }
            FreezeStage::Releasing => end(state, &freeze, &By::system()).await,
        };
        match done {
            Ok(()) => tracing::info!(organization = %id, "completed a freeze, or its release"),
            Err(error) if error.is(&codes::FREEZE_FILE_DAMAGED) => {
                tracing::error!(organization = %id, "its file is damaged, so it is not frozen any more");
            }
            Err(error) => tracing::error!(organization = %id, ?error, "it takes no writes, and was not certified"),
        }
    }
    Ok(())
}

/// Closes the file to writers, writes the last event, certifies.
async fn complete(state: &DeploymentState, freeze: &Freeze, by: &By) -> Result<Freeze> {
    let id = freeze.organization_id;
    let freeze = shut(state, id).await?;
    if freeze.stage == FreezeStage::Frozen {
        return Ok(freeze);
    }
    let (txid, since) = {
        let held = state.tenants.hold_still(id).await?;
        // Released meanwhile: nothing would ever take this event back. Or somebody else has completed it.
        let freeze = shut(state, id).await?;
        if freeze.stage == FreezeStage::Frozen {
            return Ok(freeze);
        }
        let action = held.read(audit::newest_action)?;
        // By a catalog from before it left. Its last word is not to be talked over.
        if let Some(shut @ (Shut::Leaving | Shut::Moved { .. })) = last_word(action.as_deref()) {
            let forget = |db: &Write<'_, CatalogDb>| freezes::begin_release(db, id).and(freezes::end_release(db, id));
            state.catalog.write(forget).await?;
            state.tenants.shut(id, shut.clone());
            return Err(shut.refusal());
        }
        if action.as_deref() != Some(FROZEN) {
            let act = Act::about(FROZEN, id).with("reason", freeze.reason.as_str());
            held.write(|db| audit::record(db, &author(&freeze, by), act))?;
        }
        drop(held);
        (shipped(state, id).await, freeze.since)
    };
    let signer = signer(state).await?;
    // Held until it is written down: what is certified is what the file is.
    let held = state.tenants.hold_still(id).await?;
    let freeze = shut(state, id).await?;
    if freeze.stage == FreezeStage::Frozen {
        return Ok(freeze);
    }
    let (file, head, action) = (held.digest()?, held.read(audit::head)?, held.read(audit::newest_action)?);
    // Released, and frozen once more by somebody else, or about to be.
    if action.as_deref() != Some(FROZEN) || freeze.since != since {
        return Err(released_meanwhile());
    }
    let issuer = state.tenant.address.origin();
    state
        .catalog
        .write(|db| {
            let found = Found { file, head: head.into(), txid, at: db.now() };
            let text = certificate::write(&freeze, found, issuer, &signer)?;
            freezes::certify(db, id, &text, &signer.jwk().to_string()).map(drop)
        })
        .await?;
    drop(held);
    require(state, id).await
}

/// Closes the file to writers as the catalog says at that moment, which is returned. It is done in the catalog's turn to
/// write: whoever releases it has begun that before, and it is refused, or does so afterwards, and opens it again. So no
/// file is left shut by a freeze that is over, and nobody is told of one.
pub async fn shut(state: &DeploymentState, id: OrganizationId) -> Result<Freeze> {
    state
        .catalog
        .write(|db| match freezes::get(db, id)? {
            Some(freeze) if freeze.stage != FreezeStage::Releasing => {
                state.tenants.shut(id, Shut::Frozen);
                Ok(freeze)
            }
            Some(_) => Err(Error::new(&codes::FREEZE_NOT_FOUND).detail("This organization is being released.")),
            None => Err(released_meanwhile()),
        })
        .await
}

fn released_meanwhile() -> Error {
    Error::new(&codes::FREEZE_NOT_FOUND).detail("This organization was released meanwhile.")
}

/// Whoever asked for it; after a crash nobody asks any more, and it is known whose key it was.
fn author(freeze: &Freeze, by: &By) -> By {
    let asked = freeze.requested_by.filter(|_| by.actor.r#type == "system");
    asked.map_or_else(
        || by.clone(),
        |key| By {
            actor: Actor::operator(Some(key.to_string()), None),
            context: Context::default(),
            request_id: by.request_id.clone(),
        },
    )
}

/// The transaction at which the replica has all of it. A store that does not answer keeps nobody from freezing.
async fn shipped(state: &DeploymentState, id: OrganizationId) -> Option<String> {
    let backups = state.backups.as_ref()?;
    let source = Source::Organization(id);
    if let Err(error) = backups.ship_now(source).await {
        tracing::warn!(organization = %id, ?error, "a frozen file has not arrived in the backup yet");
        return None;
    }
    backups.progress(source).and_then(|progress| progress.txid).map(|txid| txid.to_string())
}

/// After a crash: writes the event that takes it back, then forgets the freeze, then lets writers in.
async fn end(state: &DeploymentState, freeze: &Freeze, by: &By) -> Result<()> {
    let held = state.tenants.hold_still(freeze.organization_id).await?;
    let frozen_head = frozen_head(&own_word(&held), Some(freeze));
    let released = tell(&held, by).await?;
    forget(state, &held, (released, frozen_head), by).await
}

/// Writes the event that takes it back into its own log, where that can be.
async fn tell(held: &Held, by: &By) -> Result<Released> {
    let written = held.read(audit::newest_action).and_then(|newest| match newest.as_deref() {
        Some(FROZEN) => held.write(|db| audit::record(db, by, Act::about(UNFROZEN, held.organization())).map(drop)),
        _ => Ok(()),
    });
    let Err(error) = written else { return Ok(Released::Told) };
    // A disk that is full, or a key that cannot be had, is no damage: the same again does it once that is over.
    if !held.is_damaged().await.unwrap_or(false) {
        return Err(error);
    }
    tracing::warn!(organization = %held.organization(), ?error, "a damaged file was released without a word in it");
    Ok(Released::Damaged)
}

/// Ends it in the catalog, with its event in the operators' log, and lets writers in.
async fn forget(
    state: &DeploymentState,
    held: &Held,
    (released, mut frozen_head): (Released, Option<String>),
    by: &By,
) -> Result<()> {
    let (id, operator) = (held.organization(), impersonal(by));
    // So that what the backup has of it is known to be released.
    if frozen_head.is_none() && released == Released::Damaged {
        frozen_head = in_backup(state, id).await.unwrap_or_else(|error| {
            tracing::warn!(organization = %id, ?error, "whether the backup calls a released organization frozen is not known");
            None
        });
    }
    let act = Act::about(UNFROZEN, id).with(FROZEN_HEAD, frozen_head);
    let act = if released == Released::Damaged { act.with("file", "damaged") } else { act };
    state
        .catalog
        .write(|db| {
            freezes::end_release(db, id)?;
            audit::record(db, &operator, act)?;
            // In the catalog's turn, so that whoever freezes it anew closes it after this. It may have left, by its own
            // log or since. Where this is not committed, its own log has taken the freeze back all the same.
            if matches!(state.tenants.why_shut(id), None | Some(Shut::Frozen)) {
                state.tenants.reopen(id);
            }
            Ok(())
        })
        .await
}

/// What the file is now, beside what the certificate says.
pub struct Comparison {
    pub now: Found,
    pub certified: Certificate,
}

impl Comparison {
    /// Whether not one bit is different.
    #[must_use]
    pub fn is_identical(&self) -> bool {
        self.now.file.sha256 == self.certified.file.sha256
            && self.now.file.bytes == self.certified.file.bytes
            && self.now.head == self.certified.audit_head
    }
}

/// Reads the file again and compares it with its certificate.
pub async fn compare(state: &DeploymentState, id: OrganizationId) -> Result<Comparison> {
    let freeze = require(state, id).await?;
    let certified = certified(&freeze).ok_or_else(|| {
        Error::new(&codes::FREEZE_NOT_FOUND)
            .detail("It takes no writes, and has not been certified yet: freeze it again.")
    })?;
    let held = state.tenants.hold_still(id).await?;
    let now =
        Found { file: held.digest()?, head: held.read(audit::head)?.into(), txid: None, at: state.tenant.clock.now() };
    Ok(Comparison { now, certified })
}

/// A copy of the frozen file at a path where nothing is.
pub async fn copy(state: &DeploymentState, id: OrganizationId, to: &std::path::Path) -> Result<KeptFile> {
    let freeze = require(state, id).await?;
    if freeze.stage != FreezeStage::Frozen {
        return Err(Error::new(&codes::FREEZE_NOT_FOUND).detail("It has not been certified yet: freeze it again."));
    }
    let held = state.tenants.hold_still(id).await?;
    let found = held.digest()?;
    held.copy_to(to)?;
    Ok(found)
}

async fn signer(state: &DeploymentState) -> Result<crate::crypto::SigningKey> {
    let holder = Holder::Deployment(&state.tenant.deployment_keys);
    let keys = holder.keys_for(&[Algorithm::ES256], &state.tenant.key_stock).await?;
    let signer = keys.signer(Algorithm::ES256, state.tenant.clock.now()).cloned();
    signer.ok_or_else(|| Error::internal("the deployment has no key that signs by ES256"))
}
