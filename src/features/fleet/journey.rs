//! Organizations on their way, by the last word of their own files: what a catalog that is lost is to know of them.

use serde::Serialize;

use crate::base::{OrganizationId, Result, Timestamp, TransferId};
use crate::catalog::transfers::{Direction, LogEnd, Transfer, TransferStage};
use crate::features::audit;
use crate::sqlite::{Read, TenantDb};
use crate::tenants::{ARRIVING, DEPARTED, DEPARTING, Names};

/// One of them, as it is reported.
#[derive(Debug, Serialize)]
pub struct OnTheWay {
    pub organization_id: OrganizationId,
    pub transfer_id: TransferId,
    /// `arrival` or `departure`.
    pub direction: &'static str,
    pub state: &'static str,
}

impl OnTheWay {
    pub(super) fn of((direction, transfer): &(Direction, Transfer)) -> Self {
        Self {
            organization_id: transfer.organization_id,
            transfer_id: transfer.id,
            direction: direction.as_str(),
            state: transfer.stage.as_str(),
        }
    }
}

/// Whether the newest event of a file is one that this is about.
pub(super) fn is_on_its_way(names: &Names) -> bool {
    matches!(names.newest_event.as_deref(), Some(ARRIVING | DEPARTING | DEPARTED))
}

/// What the newest event tells. Of one that names no transfer nothing is known.
pub(super) fn of(db: &Read<'_, TenantDb>, names: &Names) -> Result<Option<(Direction, Transfer)>> {
    let (sequence, _) = audit::head(db)?;
    let mut newest = None;
    audit::each_after(db, sequence - 1, |event| {
        newest = Some(event);
        Ok(())
    })?;
    Ok(newest.and_then(|event| read(&event, names)))
}

fn read(event: &audit::Event, names: &Names) -> Option<(Direction, Transfer)> {
    let said = &event.payload.as_ref()?.metadata;
    let text = |key: &str| said.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (direction, stage, peer) = match event.action.as_str() {
        ARRIVING => (Direction::Arrival, TransferStage::Arrived, "from"),
        DEPARTING => (Direction::Departure, TransferStage::Leaving, "to"),
        DEPARTED => (Direction::Departure, TransferStage::Gone, "to"),
        _ => return None,
    };
    let sequence = said.get("archive_sequence").and_then(serde_json::Value::as_i64);
    let log_end = sequence.zip(text("archive_hash")).map(|(sequence, hash)| LogEnd { sequence, hash });
    let created_at: Timestamp = event.occurred_at;
    let transfer = Transfer {
        id: text("transfer")?.parse().ok()?,
        organization_id: names.id,
        stage,
        peer: text(peer)?,
        peer_key: text("key"),
        recipient: text("recipient"),
        identity: None,
        slug: names.slug.clone(),
        suspended: names.suspended,
        archive_sha256: text("archive_sha256"),
        log_end,
        proof: None,
        waiver_sha256: text("waiver_sha256"),
        // The file is what it is to be by now.
        encrypted: false,
        created_at,
    };
    Some((direction, transfer))
}
