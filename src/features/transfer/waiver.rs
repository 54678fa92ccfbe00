//! The waiver: what the target of a transfer shows once it will never serve the organization under it, so that a source
//! that has let go can take it back.
//!
//! It is a secret of the target that the source knows by its digest from before it leaves. Nothing but the target's own
//! key makes it, whatever becomes of its catalog, and it is shown only when nothing of the arrival is there any more.

use crate::catalog::transfers::{Transfer, TransferStage};
use crate::crypto::hash;
use crate::features::DeploymentState;

const PURPOSE: &str = "arrival waiver";

/// Of one arrival, and of no other by the same id: each has a recipient of its own.
fn secret_of(state: &DeploymentState, arrival: &Transfer) -> Option<String> {
    let recipient = arrival.recipient.as_deref()?;
    let (id, organization) = (arrival.id.to_string(), arrival.organization_id.to_string());
    let parts = [id.as_bytes(), organization.as_bytes(), recipient.as_bytes()];
    Some(hex::encode(state.tenant.mac.mac(PURPOSE, &parts)))
}

/// What the source is told beforehand.
pub(super) fn digest(state: &DeploymentState, arrival: &Transfer) -> Option<String> {
    secret_of(state, arrival).map(|secret| hex::encode(hash::sha256(secret.as_bytes())))
}

/// The waiver, if there is nothing left that could be served.
pub(super) fn of(state: &DeploymentState, arrival: &Transfer) -> Option<String> {
    if arrival.stage == TransferStage::Cancelled { secret_of(state, arrival) } else { None }
}

/// Whether this is the waiver for a departure.
pub(super) fn is_of(departure: &Transfer, waiver: &str) -> bool {
    let digest = hex::encode(hash::sha256(waiver.as_bytes()));
    departure.waiver_sha256.as_deref().is_some_and(|known| hash::equal(known.as_bytes(), digest.as_bytes()))
}
