//! The side that an organization comes to.

use super::proof::Proof;
use super::waiver;
use crate::backup::Source;
use crate::base::{Error, ExternalId, HostName, OrganizationId, Result, Secret, Slug, TransferId, codes};
use crate::catalog::transfers::{self, Direction, LogEnd, Transfer, TransferStage};
use crate::catalog::{State, organizations};
use crate::crypto::envelope;
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By, Target};
use crate::features::import::{Arriving, Upload, Wanted, bring_in};
use crate::features::provisioning::{Encryption, impersonal, not_in_the_catalog};
use crate::tenants::{ARRIVING, Depth, Look};

const ARRIVAL: Direction = Direction::Arrival;
/// What the key is sealed for that opens the archive.
const PURPOSE: &str = "transfer identity";

/// What is to come, as the other side tells it.
pub struct Announced {
    pub transfer: TransferId,
    pub organization: OrganizationId,
    pub slug: Slug,
    pub external_id: Option<ExternalId>,
    pub hosts: Vec<HostName>,
    /// The other deployment's address.
    pub from: String,
    /// The JWK that its proofs verify with, as JSON.
    pub key: String,
    /// How large its file is there.
    pub bytes: Option<u64>,
    /// What its file is there, and is to be here.
    pub encryption: Encryption,
}

const OVER: &str = "This arrival was called off. Call the departure off as well, and begin another one.";
const SERVED: &str = "Its own log says that it is served here: show the proof again.";

pub async fn require(state: &DeploymentState, id: TransferId) -> Result<Transfer> {
    let found = state.catalog.read(|db| transfers::get(db, id, ARRIVAL)).await?;
    found.ok_or_else(|| Error::new(&codes::TRANSFER_NOT_FOUND))
}

/// Agrees to receive an organization, if nothing here is in its way. The same again gives the same arrival; one that was
/// said to be plain at first may still become ciphertext, as long as nothing of it is here.
pub async fn prepare(state: &DeploymentState, announced: Announced, by: &By) -> Result<Transfer> {
    let operator = impersonal(by);
    // Told before it takes no writes any more. The archive, what is in it, and the file of it lie here at the same time.
    let known = state.catalog.read(|db| transfers::get(db, announced.transfer, ARRIVAL)).await?;
    if known.is_none() {
        state.tenants.require_room_for(announced.bytes.unwrap_or(0).saturating_mul(3))?;
    }
    let is_here = known.is_none() && tokio::task::block_in_place(|| state.tenants.is_anywhere(announced.organization));
    let is_plain_so_far = |known: &Transfer| known.stage == TransferStage::Prepared && !known.encrypted;
    let turn = state.arrivals.of(announced.transfer);
    let _turn = if announced.encryption == Encryption::File && known.as_ref().is_none_or(is_plain_so_far) {
        state.tenants.require_encryption()?;
        // What is just being taken in becomes what was agreed upon before.
        Some(turn.lock().await)
    } else {
        None
    };
    let (identity, recipient) = envelope::generate();
    let identity = state.tenant.boxes.seal(PURPOSE, identity.expose().as_bytes());
    let id = announced.organization;
    state
        .catalog
        .write(|db| {
            if let Some(known) = transfers::get(db, announced.transfer, ARRIVAL)? {
                let is_same = known.organization_id == id && known.peer_key.as_deref() == Some(&announced.key);
                if !is_same {
                    return Err(Error::new(&codes::TRANSFER_CONFLICT));
                }
                if matches!(known.stage, TransferStage::Cancelling | TransferStage::Cancelled) {
                    return Err(Error::new(&codes::TRANSFER_STATE).detail(OVER));
                }
                if announced.encryption == Encryption::File && is_plain_so_far(&known) {
                    transfers::set_encrypted(db, known.id)?;
                    let act = Act::about("organization.arrival_prepared", id).with("transfer", known.id.to_string());
                    let act = act.with("from", known.peer.clone()).with("encryption", "file");
                    audit::record(db, &operator, act)?;
                    return Ok(Transfer { encrypted: true, ..known });
                }
                return Ok(known);
            }
            if transfers::open_of(db, id, ARRIVAL)?.is_some() {
                return Err(Error::new(&codes::TRANSFER_CONFLICT));
            }
            organizations::require_free(db, id, &announced.slug, announced.external_id.as_ref(), &announced.hosts)?;
            if is_here {
                return Err(not_in_the_catalog());
            }
            let made = Transfer {
                id: announced.transfer,
                organization_id: id,
                stage: TransferStage::Prepared,
                peer: announced.from.clone(),
                peer_key: Some(announced.key.clone()),
                recipient: Some(recipient.clone()),
                identity: Some(identity.clone()),
                slug: announced.slug.clone(),
                suspended: false,
                archive_sha256: None,
                log_end: None,
                proof: None,
                waiver_sha256: None,
                encrypted: announced.encryption == Encryption::File,
                created_at: db.now(),
            };
            transfers::insert(db, &made, ARRIVAL)?;
            let act = Act::about("organization.arrival_prepared", id).with("transfer", announced.transfer.to_string());
            audit::record(db, &operator, act.with("from", announced.from.clone()))?;
            Ok(made)
        })
        .await
}

/// Takes the archive in. The organization is here then, and nobody is led to it. What has arrived already is as it was.
pub async fn receive(
    state: &DeploymentState,
    id: TransferId,
    upload: Upload,
    sha256: String,
    by: &By,
) -> Result<Transfer> {
    // Whoever calls it off meanwhile waits for the end of this, and then throws away what it has made.
    let turn = state.arrivals.of(id);
    let _turn = turn.lock().await;
    let transfer = require(state, id).await?;
    match transfer.stage {
        TransferStage::Prepared => {}
        TransferStage::Arrived | TransferStage::Active => return Ok(transfer),
        _ => return Err(Error::new(&codes::TRANSFER_STATE)),
    }
    let opened = transfer.identity.as_deref().and_then(|text| state.tenant.boxes.open(PURPOSE, text));
    let identity = opened.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let identity = identity.ok_or_else(|| Error::internal("the key of an arrival cannot be opened"))?;
    let wanted = Wanted {
        slug: Some(transfer.slug.clone()),
        key: Some(Secret::new(identity)),
        encryption: Encryption::of_file(transfer.encrypted),
        arriving: Some(Arriving {
            transfer: id,
            organization: transfer.organization_id,
            from: transfer.peer.clone(),
            key: transfer.peer_key.clone(),
            recipient: transfer.recipient.clone(),
            archive_sha256: sha256.clone(),
        }),
        ..Wanted::default()
    };
    let done = bring_in(state, upload, wanted, by).await?;
    let end = LogEnd { sequence: done.manifest.audit.sequence, hash: done.manifest.audit.hash.clone() };
    let operator = impersonal(by);
    let noted = state
        .catalog
        .write(|db| {
            // It may have been called off meanwhile.
            if !transfers::advance(db, (id, ARRIVAL), TransferStage::Prepared, TransferStage::Arrived)? {
                return Err(Error::new(&codes::TRANSFER_STATE));
            }
            transfers::received(db, id, done.suspended)?;
            transfers::set_archive(db, id, &sha256, &end)?;
            let act = Act::about("organization.arrived", transfer.organization_id).with("transfer", id.to_string());
            audit::record(db, &operator, act).map(drop)
        })
        .await;
    if let Err(error) = noted {
        // Nobody is led to it, and the next start would throw it away as well.
        discard(state, transfer.organization_id).await?;
        return Err(error);
    }
    require(state, id).await
}

/// Serves it, once the other side has proven that it does not any more. The same again changes nothing.
pub async fn activate(state: &DeploymentState, id: TransferId, proof: &str, by: &By) -> Result<Transfer> {
    let turn = state.arrivals.of(id);
    let _turn = turn.lock().await;
    let transfer = require(state, id).await?;
    let organization = transfer.organization_id;
    let (Some(sha256), Some(end), Some(key)) = (&transfer.archive_sha256, &transfer.log_end, &transfer.peer_key) else {
        return Err(Error::new(&codes::TRANSFER_STATE));
    };
    Proof::new(id, organization, sha256, end).require(proof, key)?;
    if transfer.stage == TransferStage::Arrived {
        // The file first: with its last word taken back it is served by nobody, until the catalog says so.
        let held = state.tenants.hold_still(organization).await?;
        if held.read(audit::newest_action)?.as_deref() == Some(ARRIVING) {
            let act = Act::about("organization.activated", organization).on(Target::new("transfer", id));
            held.write(|db| audit::record(db, by, act.with("from", transfer.peer.clone())))?;
        }
        // Whoever has opened it before this has found its last word, and remembers that. Once the catalog leads to it,
        // there may be another reason why it is shut.
        state.tenants.reopen(organization);
    }
    let operator = impersonal(by);
    let is_new = state
        .catalog
        .write(|db| {
            if !transfers::advance(db, (id, ARRIVAL), TransferStage::Arrived, TransferStage::Active)? {
                return Ok(false);
            }
            transfers::set_proof(db, id, proof)?;
            organizations::activate(db, organization)?;
            if transfer.suspended {
                organizations::set_state(db, organization, State::Suspended)?;
            }
            let act = Act::about("organization.activated", organization).with("transfer", id.to_string());
            audit::record(db, &operator, act.with("from", transfer.peer.clone()))?;
            Ok(true)
        })
        .await?;
    state.directory.appeared();
    state.directory.forget(organization);
    let transfer = require(state, id).await?;
    if transfer.stage != TransferStage::Active {
        return Err(Error::new(&codes::TRANSFER_STATE));
    }
    if let (true, Some(backups)) = (is_new, &state.backups)
        && let Err(error) = backups.ship_now(Source::Organization(organization)).await
    {
        tracing::warn!(%organization, ?error, "what has arrived is not in the backup yet");
    }
    Ok(transfer)
}

/// Throws away what is not served. Of one that has arrived nobody here knows whether the other side has let go of it, so
/// whoever wants that says so (`give_up`). From here on it is never served here, and the waiver says that to the other
/// side, which can take it back.
pub async fn cancel(state: &DeploymentState, id: TransferId, give_up: bool, by: &By) -> Result<Transfer> {
    let turn = state.arrivals.of(id);
    let _turn = turn.lock().await;
    let transfer = require(state, id).await?;
    let organization = transfer.organization_id;
    if transfer.stage == TransferStage::Arrived && give_up {
        refuse_served(state, organization).await?;
    }
    let operator = impersonal(by);
    state
        .catalog
        .write(|db| {
            let stage = transfers::get(db, id, ARRIVAL)?.map(|known| known.stage);
            match stage {
                Some(TransferStage::Arrived) if !give_up => Err(Error::new(&codes::TRANSFER_UNSETTLED)),
                Some(stage @ (TransferStage::Prepared | TransferStage::Arrived)) => {
                    // By a catalog that does not know of the arrival's end.
                    if organizations::entry(db, organization)?.is_some_and(|entry| entry.state != State::Creating) {
                        return Err(Error::new(&codes::TRANSFER_STATE).detail(SERVED));
                    }
                    transfers::advance(db, (id, ARRIVAL), stage, TransferStage::Cancelling)?;
                    transfers::forget_identity(db, id)?;
                    let act = Act::about("organization.arrival_cancelled", organization);
                    let act = act.with("transfer", id.to_string()).with("had_arrived", stage == TransferStage::Arrived);
                    audit::record(db, &operator, act).map(drop)
                }
                Some(TransferStage::Cancelling | TransferStage::Cancelled) => Ok(()),
                _ => Err(Error::new(&codes::TRANSFER_STATE)),
            }
        })
        .await?;
    if transfer.stage != TransferStage::Cancelled {
        clear(state, &transfer).await?;
    }
    require(state, id).await
}

/// The file may know more than the catalog: a proof that was shown has won.
async fn refuse_served(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    if let Look::Seen(seen) = state.tenants.look_at_rest(id, Depth::Names).await?
        && seen.names.newest_event.as_deref() != Some(ARRIVING)
    {
        return Err(Error::new(&codes::TRANSFER_STATE).detail(SERVED));
    }
    Ok(())
}

/// What the other side is told beforehand, and, once nothing is left here, the waiver itself.
pub fn waiver(state: &DeploymentState, arrival: &Transfer) -> (Option<String>, Option<String>) {
    (waiver::digest(state, arrival), waiver::of(state, arrival))
}

async fn clear(state: &DeploymentState, transfer: &Transfer) -> Result<()> {
    discard(state, transfer.organization_id).await?;
    let (from, to) = (TransferStage::Cancelling, TransferStage::Cancelled);
    state.catalog.write(|db| transfers::advance(db, (transfer.id, ARRIVAL), from, to).map(drop)).await
}

/// Removes what an arrival has brought that nobody is led to.
async fn discard(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let entry = state.catalog.read(|db| organizations::entry(db, id)).await?;
    if !entry.is_some_and(|entry| entry.state == State::Creating) {
        return Ok(());
    }
    // Somebody may have looked into it, and found its last word.
    state.tenants.reopen(id);
    let held = state.tenants.hold(id).await?;
    held.destroy_key().await?;
    held.remove_directory()?;
    drop(held);
    state.tenants.discard(id).await?;
    state.catalog.write(|db| organizations::abandon(db, id)).await
}

/// What was being taken in when the process ended is thrown away: it is sent again.
pub(super) async fn recover(state: &DeploymentState) -> Result<()> {
    for id in state.catalog.read(organizations::half_done).await? {
        let stages = state.catalog.read(|db| transfers::arrivals_of(db, id)).await?;
        // One that has arrived waits for its proof; one without any arrival is made here; one that was served is not to
        // be thrown away by any catalog.
        let keep = |stage: &TransferStage| matches!(stage, TransferStage::Arrived | TransferStage::Active);
        if stages.is_empty() || stages.iter().any(keep) {
            continue;
        }
        if let Err(error) = discard(state, id).await {
            tracing::error!(organization = %id, ?error, "an arrival that was interrupted is not cleared up");
        }
    }
    for transfer in state.catalog.read(|db| transfers::open(db, ARRIVAL)).await? {
        if transfer.stage == TransferStage::Cancelling
            && let Err(error) = clear(state, &transfer).await
        {
            tracing::error!(organization = %transfer.organization_id, ?error, "an arrival is not cleared up");
        }
    }
    Ok(())
}
