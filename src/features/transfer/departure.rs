//! The side that an organization leaves.

use super::proof::Proof;
use super::{signer, signer_by, waiver};
use crate::base::{Error, OrganizationId, Result, TransferId, codes};
use crate::catalog::transfers::{self, Direction, LogEnd, Transfer, TransferStage};
use crate::catalog::{State, erasures, freezes, organizations, placements};
use crate::crypto::{Algorithm, envelope, random};
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::export;
use crate::features::provisioning::{Encryption, impersonal};
use crate::features::signing_key::Holder;
use crate::tenants::{DEPARTED, DEPARTING, Depth, FROZEN, Held, Look, Shut, last_word};

const DEPARTURE: Direction = Direction::Departure;
/// The event that takes a departure back.
const STAYING: &str = "organization.departure_cancelled";
/// The event that takes back that it has left: the other side never served it, and never will.
const RETURNED: &str = "organization.returned";
const HAS_LEFT: &str = "It has left; the other deployment is the one that has it.";

/// The departure of an organization that has not ended; one that has left keeps it for good.
pub async fn find(state: &DeploymentState, id: OrganizationId) -> Result<Option<Transfer>> {
    state.catalog.read(|db| transfers::open_of(db, id, DEPARTURE)).await
}

pub async fn require(state: &DeploymentState, id: OrganizationId) -> Result<Transfer> {
    find(state, id).await?.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))
}

/// By the id of the transfer: also of an organization that was erased here since. Its proof is all that the other side
/// can be made to serve it by.
pub async fn by_id(state: &DeploymentState, id: TransferId) -> Result<Transfer> {
    let found = state.catalog.read(|db| transfers::get(db, id, DEPARTURE)).await?;
    found.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))
}

/// As it may be seen. The proof is the end of it here, so it is not shown before the file says so too: a catalog of
/// before could let writers in again. The end of the log is what the arrival has to tell.
pub async fn as_shown(state: &DeploymentState, mut transfer: Transfer) -> Result<Transfer> {
    let id = transfer.organization_id;
    let has_left = transfer.stage == TransferStage::Gone
        && match state.tenants.look(id, Depth::Names).await? {
            Look::Seen(seen) => seen.names.newest_event.as_deref() == Some(DEPARTED),
            // It was erased since.
            Look::Missing => state.catalog.read(|db| organizations::entry(db, id)).await?.is_none(),
            _ => false,
        };
    if !has_left {
        transfer.proof = None;
    }
    Ok(transfer)
}

/// Agrees upon a departure; nothing is different yet. The same again gives the same one.
pub async fn prepare(state: &DeploymentState, id: OrganizationId, to: &str, by: &By) -> Result<Transfer> {
    if to == state.tenant.address.origin() {
        return Err(Error::new(&codes::TRANSFER_CONFLICT).detail("This is the deployment that it is at already."));
    }
    // A file that cannot be read is not sent either.
    if state.tenants.is_encrypted(id).await? && find(state, id).await?.is_none() {
        drop(state.tenants.open(&state.directory.by_id(id).await?).await?);
    }
    // Its own log knows more than a catalog out of a backup.
    if let Some(shut @ (Shut::Frozen | Shut::Moved { .. })) = state.tenants.why_shut_by_its_log(id).await?
        && find(state, id).await?.is_none()
    {
        return Err(shut.refusal());
    }
    let operator = impersonal(by);
    let transfer: TransferId = random::id(state.tenant.clock.now());
    let key = signer(state).await?.jwk().to_string();
    state
        .catalog
        .write(|db| {
            if let Some(open) = transfers::open_of(db, id, DEPARTURE)? {
                // Whoever has prepared another one decides about it first.
                return if open.peer == to { Ok(open) } else { Err(Error::new(&codes::TRANSFER_CONFLICT)) };
            }
            let entry = organizations::require(db, id)?;
            require_still(db, id)?;
            let made = Transfer {
                id: transfer,
                organization_id: id,
                stage: TransferStage::Prepared,
                peer: to.to_owned(),
                peer_key: Some(key),
                recipient: None,
                identity: None,
                slug: entry.slug,
                suspended: entry.state == State::Suspended,
                archive_sha256: None,
                log_end: None,
                proof: None,
                waiver_sha256: None,
                encrypted: false,
                created_at: db.now(),
            };
            transfers::insert(db, &made, DEPARTURE)?;
            let act = Act::about("organization.departure_prepared", id).with("transfer", transfer.to_string());
            audit::record(db, &operator, act.with("to", to))?;
            Ok(made)
        })
        .await
}

/// What must not be going on beside it.
fn require_still(db: &crate::sqlite::Read<'_, crate::sqlite::CatalogDb>, id: OrganizationId) -> Result<()> {
    if erasures::is_scheduled(db, id)? {
        return Err(Error::new(&codes::ERASURE_SCHEDULED));
    }
    if freezes::get(db, id)?.is_some() {
        return Err(Error::new(&codes::ORGANIZATION_FROZEN));
    }
    if placements::relocation(db, id)?.is_some() {
        return Err(Error::new(&codes::RELOCATION_RUNNING));
    }
    Ok(())
}

/// Whom the archive is for.
pub struct Recipient<'a> {
    /// `age1…`.
    pub recipient: &'a str,
    /// What a waiver of theirs is known by.
    pub waiver_sha256: &'a str,
    /// What they make of it.
    pub encryption: Encryption,
}

/// Closes the file to writers and makes the archive. The same again gives the same archive, or for another recipient
/// another one. What has left already is as it was.
pub async fn leave(state: &DeploymentState, id: OrganizationId, to: &Recipient<'_>, by: &By) -> Result<Transfer> {
    let invalid =
        |field, message: &'static str| Err(Error::new(&codes::VALIDATION_FAILED).field(field, "invalid", message));
    let recipient = to.recipient;
    if !envelope::is_recipient(recipient) {
        return invalid("recipient", "This is no age recipient.");
    }
    if to.waiver_sha256.len() != 64 || !to.waiver_sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return invalid("waiver_sha256", "This is no SHA-256 in hexadecimal.");
    }
    let transfer = require(state, id).await?;
    if transfer.stage == TransferStage::Gone {
        shut(state, &transfer).await?;
        note_departed(state, &transfer, by).await?;
        return Ok(transfer);
    }
    if let Some(shut @ (Shut::Frozen | Shut::Moved { .. })) = state.tenants.why_shut_by_its_log(id).await? {
        return Err(shut.refusal());
    }
    // Asked again although it was told before: the other side, or whoever carries things, may be older than that.
    if to.encryption != Encryption::File && state.tenants.is_encrypted(id).await? {
        return Err(Error::new(&codes::ENCRYPTED_NOT_TRANSFERRED));
    }
    let route = state.directory.by_id(id).await?;
    // Before the gate closes: a first key would have to be written.
    let key = {
        let tenant = state.tenants.open(&route).await?;
        let keys = Holder::Organization(&tenant).keys_for(&[Algorithm::ES256], &state.tenant.key_stock).await?;
        keys.signer(Algorithm::ES256, state.tenant.clock.now()).cloned()
    };
    let key = key.ok_or_else(|| Error::internal("the organization has no key to sign with"))?;
    let operator = impersonal(by);
    state
        .catalog
        .write(|db| {
            let open = transfers::open_of(db, id, DEPARTURE)?.filter(|open| open.id == transfer.id);
            match open.map(|open| open.stage) {
                Some(TransferStage::Prepared) => {
                    require_still(db, id)?;
                    transfers::advance(db, (transfer.id, DEPARTURE), TransferStage::Prepared, TransferStage::Leaving)?;
                    let act = Act::about(DEPARTING, id).with("transfer", transfer.id.to_string());
                    audit::record(db, &operator, act)?;
                }
                Some(TransferStage::Leaving) => {}
                _ => return Err(Error::new(&codes::TRANSFER_STATE)),
            }
            transfers::set_recipient(db, transfer.id, recipient, to.waiver_sha256)
        })
        .await?;
    shut(state, &transfer).await?;
    {
        // Who is in the middle of a write has ended it when the file can be held.
        let held = state.tenants.hold_still(id).await?;
        // Called off meanwhile: nothing would ever take this event back.
        require_at(state, &transfer, TransferStage::Leaving).await?;
        let action = held.read(audit::newest_action)?;
        if let Some(shut @ (Shut::Frozen | Shut::Moved { .. })) = last_word(action.as_deref()) {
            // By a catalog from before that. Its last word is not to be talked over.
            let (from, to) = (TransferStage::Leaving, TransferStage::Cancelled);
            state.catalog.write(|db| transfers::advance(db, (transfer.id, DEPARTURE), from, to).map(drop)).await?;
            state.tenants.shut(id, shut.clone());
            return Err(shut.refusal());
        }
        // Whoever has called off another one may have opened it just before it was held.
        shut(state, &transfer).await?;
        if action.as_deref() != Some(DEPARTING) {
            let act =
                Act::about(DEPARTING, id).with("transfer", transfer.id.to_string()).with("to", transfer.peer.clone());
            held.write(|db| audit::record(db, by, act))?;
        }
    }
    let transfer = require(state, id).await?;
    let (shelf, name) = (&state.tenant.exports, transfer.id.to_string());
    if transfer.archive_sha256.is_some() && shelf.transfer(&name).exists() {
        return Ok(transfer);
    }
    let tenant = state.tenants.open(&route).await?;
    let end = tenant.read(audit::head).await?;
    let made = export::for_transfer(shelf, &tenant, &key, recipient.to_owned(), &name).await;
    let noted = match made {
        Ok((_, sha256)) => {
            let end = LogEnd { sequence: end.0, hash: end.1 };
            note_archive(state, &transfer, recipient, &sha256, &end).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = noted {
        // Whoever has called it off meanwhile has taken away what there was of the archive then, not what came after.
        // Somebody else's recipient has an archive of the same name, which stays.
        let now = find(state, id).await?;
        if !now.is_some_and(|now| now.id == transfer.id && now.stage == TransferStage::Leaving) {
            tokio::task::block_in_place(|| shelf.forget_transfer(&name));
        }
        return Err(error);
    }
    require(state, id).await
}

/// Closes the file to writers, and to everybody once it has left, as the catalog says at that moment. It is done in the
/// catalog's turn to write: whoever takes the departure back has done so before, and it is refused and the file stays
/// open, or does it afterwards, and opens it again. So no file is left shut by a departure that is over.
pub async fn shut(state: &DeploymentState, transfer: &Transfer) -> Result<()> {
    let id = transfer.organization_id;
    state
        .catalog
        .write(|db| {
            let now = transfers::get(db, transfer.id, DEPARTURE)?.map(|now| now.stage);
            match (now, state.tenants.why_shut(id)) {
                (Some(TransferStage::Leaving), None | Some(Shut::Rewriting)) => {
                    state.tenants.shut(id, Shut::Leaving);
                }
                (Some(TransferStage::Leaving), Some(_)) => {}
                (Some(TransferStage::Gone), _) => {
                    state.tenants.shut(id, Shut::Moved { to: transfer.peer.clone() });
                }
                _ => return Err(Error::new(&codes::TRANSFER_STATE)),
            }
            Ok(())
        })
        .await
}

/// Refuses what the departure is not at any more. Whoever holds the file keeps it from being taken back meanwhile.
async fn require_at(state: &DeploymentState, transfer: &Transfer, stage: TransferStage) -> Result<()> {
    let now = find(state, transfer.organization_id).await?;
    if now.is_some_and(|now| now.id == transfer.id && now.stage == stage) {
        return Ok(());
    }
    Err(Error::new(&codes::TRANSFER_STATE))
}

/// What was made of a departure that still goes on.
async fn note_archive(
    state: &DeploymentState,
    transfer: &Transfer,
    recipient: &str,
    sha256: &str,
    end: &LogEnd,
) -> Result<()> {
    state
        .catalog
        .write(|db| {
            let open = transfers::open_of(db, transfer.organization_id, DEPARTURE)?;
            // It may have been called off, or somebody else was faster with another recipient.
            let is_same = |open: &Transfer| {
                open.id == transfer.id
                    && open.stage == TransferStage::Leaving
                    && open.recipient.as_deref() == Some(recipient)
            };
            if !open.as_ref().is_some_and(is_same) {
                return Err(Error::new(&codes::TRANSFER_STATE));
            }
            transfers::set_archive(db, transfer.id, sha256, end)
        })
        .await
}

/// Where the archive lies.
pub async fn archive(state: &DeploymentState, id: OrganizationId) -> Result<std::path::PathBuf> {
    let transfer = require(state, id).await?;
    let path = state.tenant.exports.transfer(&transfer.id.to_string());
    match transfer.archive_sha256 {
        Some(_) if path.exists() => Ok(path),
        _ => {
            Err(Error::new(&codes::TRANSFER_STATE).detail("There is no archive of this transfer; have it made again."))
        }
    }
}

/// The point of no return, in one transaction: what has arrived there is what was sent, so it has left. The same again
/// gives the same proof.
pub async fn complete(
    state: &DeploymentState,
    id: OrganizationId,
    archive_sha256: &str,
    end: &LogEnd,
    by: &By,
) -> Result<Transfer> {
    let key = require(state, id).await?.peer_key.unwrap_or_default();
    let signer = signer_by(state, &key).await?;
    let operator = impersonal(by);
    let gone = state
        .catalog
        .write(|db| {
            let open = transfers::open_of(db, id, DEPARTURE)?;
            let open = open.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))?;
            let is_same = open.archive_sha256.as_deref() == Some(archive_sha256) && open.log_end.as_ref() == Some(end);
            match open.stage {
                TransferStage::Leaving | TransferStage::Gone if !is_same => Err(Error::new(&codes::TRANSFER_MISMATCH)),
                TransferStage::Gone if open.proof.is_some() => Ok(open),
                // Also one that only its file called gone, by a catalog from before.
                TransferStage::Leaving | TransferStage::Gone => {
                    transfers::advance(db, (open.id, DEPARTURE), TransferStage::Leaving, TransferStage::Gone)?;
                    let proof = Proof::new(open.id, id, archive_sha256, end).sign(&signer)?;
                    transfers::set_proof(db, open.id, &proof)?;
                    let act = Act::about(DEPARTED, id).with("transfer", open.id.to_string());
                    audit::record(db, &operator, act.with("to", open.peer.clone()))?;
                    transfers::open_of(db, id, DEPARTURE)?.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))
                }
                _ => Err(Error::new(&codes::TRANSFER_STATE)),
            }
        })
        .await?;
    shut(state, &gone).await?;
    note_departed(state, &gone, by).await?;
    state.tenants.let_go(id);
    state.directory.forget(id);
    // It is there; what was on the way is of no use to anybody.
    tokio::task::block_in_place(|| state.tenant.exports.forget_transfer(&gone.id.to_string()));
    Ok(gone)
}

/// The last event of the file that stays behind, written before anybody is shown the proof: a catalog of before, taken
/// from a backup, cannot let writers in again.
async fn note_departed(state: &DeploymentState, gone: &Transfer, by: &By) -> Result<()> {
    let id = gone.organization_id;
    let held = state.tenants.hold_still(id).await?;
    // Taken back meanwhile: it may be on its way again, which is another one.
    require_at(state, gone, TransferStage::Gone).await?;
    if held.read(audit::newest_action)?.as_deref() == Some(DEPARTING) {
        let act = Act::about(DEPARTED, id).with("transfer", gone.id.to_string()).with("to", gone.peer.clone());
        let act = act.with("waiver_sha256", gone.waiver_sha256.as_deref().unwrap_or_default());
        held.write(|db| audit::record(db, by, act))?;
    }
    Ok(())
}

/// Calls it off, as long as it has not left: from here on no proof of this transfer can come to be.
pub async fn cancel(state: &DeploymentState, id: OrganizationId, by: &By) -> Result<()> {
    let operator = impersonal(by);
    // Held to the end: whoever opens it before writers are let in might get a copy of it.
    let held = state.tenants.hold_still(id).await?;
    let action = last_action(&held);
    // By its own log it has left; the catalog is older than that. Nothing is to be changed then.
    if action.as_deref() == Some(DEPARTED) {
        return Err(Error::new(&codes::TRANSFER_STATE).detail(HAS_LEFT));
    }
    let cancelled = state
        .catalog
        .write(|db| {
            let Some(open) = transfers::open_of(db, id, DEPARTURE)? else { return Ok(None) };
            match open.stage {
                TransferStage::Prepared | TransferStage::Leaving => {
                    transfers::advance(db, (open.id, DEPARTURE), open.stage, TransferStage::Cancelling)?;
                    let act = Act::about(STAYING, id).with("transfer", open.id.to_string());
                    audit::record(db, &operator, act)?;
                }
                TransferStage::Cancelling => {}
                _ => return Err(Error::new(&codes::TRANSFER_STATE).detail(HAS_LEFT)),
            }
            Ok(Some(open))
        })
        .await?;
    // One that only its own log calls leaving stays as well: its catalog was lost on the way.
    if cancelled.is_none() && last_word(action.as_deref()) != Some(Shut::Leaving) {
        return Err(Error::new(&codes::TRANSFER_NOT_FOUND));
    }
    stay(state, held, cancelled.as_ref(), by).await
}

/// The newest event. One that cannot be read says nothing: the catalog's word counts, and the backup has the rest.
fn last_action(held: &Held) -> Option<String> {
    held.read(audit::newest_action)
        .inspect_err(|error| tracing::warn!(organization = %held.organization(), ?error, "its own log is not read"))
        .ok()
        .flatten()
}

/// Takes back what has left, if the other side shows that it will never serve it.
pub async fn take_back(state: &DeploymentState, id: OrganizationId, shown: &str, by: &By) -> Result<()> {
    let transfer = require(state, id).await?;
    if !waiver::is_of(&transfer, shown) {
        return Err(Error::new(&codes::TRANSFER_WAIVER_INVALID));
    }
    let operator = impersonal(by);
    let held = state.tenants.hold_still(id).await?;
    let returned = state
        .catalog
        .write(|db| {
            let open = transfers::open_of(db, id, DEPARTURE)?.filter(|open| open.id == transfer.id);
            let open = open.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))?;
            if open.stage != TransferStage::Cancelling {
                transfers::advance(db, (open.id, DEPARTURE), open.stage, TransferStage::Cancelling)?;
                let act = Act::about(RETURNED, id).with("transfer", open.id.to_string());
                audit::record(db, &operator, act.with("from", open.peer.clone()))?;
            }
            // Kept, so that a start after a crash knows that it may.
            transfers::set_proof(db, open.id, shown)?;
            transfers::get(db, open.id, DEPARTURE)?.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))
        })
        .await?;
    stay(state, held, Some(&returned), by).await
}

/// Takes the last event back, then lets writers in; not into one that was frozen since, by a catalog that knows nothing
/// of that.
async fn stay(state: &DeploymentState, held: Held, transfer: Option<&Transfer>, by: &By) -> Result<()> {
    let id = held.organization();
    let is_waived =
        transfer.is_some_and(|known| known.proof.as_deref().is_some_and(|shown| waiver::is_of(known, shown)));
    match last_action(&held).as_deref() {
        Some(DEPARTED) if is_waived => held.write(|db| audit::record(db, by, Act::about(RETURNED, id)).map(drop))?,
        Some(DEPARTING) => held.write(|db| audit::record(db, by, Act::about(STAYING, id)).map(drop))?,
        Some(FROZEN) => {}
        // It has arrived here and waits for its proof, or has left by a catalog that is not there any more.
        action if last_word(action).is_some() => return Err(Error::new(&codes::TRANSFER_STATE)),
        _ => {}
    }
    if let Some(transfer) = transfer {
        tokio::task::block_in_place(|| state.tenant.exports.forget_transfer(&transfer.id.to_string()));
        let (from, to) = (TransferStage::Cancelling, TransferStage::Cancelled);
        state.catalog.write(|db| transfers::advance(db, (transfer.id, DEPARTURE), from, to).map(drop)).await?;
    }
    match last_word(last_action(&held).as_deref()) {
        Some(shut) => state.tenants.shut(id, shut),
        None => state.tenants.reopen(id),
    }
    state.directory.forget(id);
    drop(held);
    Ok(())
}

pub(super) async fn recover(state: &DeploymentState) -> Result<()> {
    for transfer in state.catalog.read(|db| transfers::open(db, DEPARTURE)).await? {
        let id = transfer.organization_id;
        let done = match transfer.stage {
            TransferStage::Leaving => {
                state.tenants.shut(id, Shut::Leaving);
                Ok(())
            }
            // Of one that was erased since there is nothing to be kept shut.
            TransferStage::Gone if state.catalog.read(|db| organizations::entry(db, id)).await?.is_none() => Ok(()),
            // Where its file does not say so yet, nobody has been shown the proof.
            TransferStage::Gone => {
                state.tenants.shut(id, Shut::Moved { to: transfer.peer.clone() });
                Ok(())
            }
            TransferStage::Cancelling => {
                state.tenants.shut(id, Shut::Leaving);
                match state.tenants.hold_still(id).await {
                    Ok(held) => stay(state, held, Some(&transfer), &By::system()).await,
                    Err(error) => Err(error),
                }
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(organization = %id, ?error, "a departure that was interrupted is not cleared up");
        }
    }
    Ok(())
}
