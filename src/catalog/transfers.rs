//! Organizations on their way to or from another deployment: the fence between the two. One statement a function,
//! inside the caller's transaction.

use crate::base::{OrganizationId, Result, Slug, Timestamp, TransferId};
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// Which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Departure,
    Arrival,
}

impl Direction {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Departure => "departure",
            Self::Arrival => "arrival",
        }
    }
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferStage {
    /// Agreed upon; nothing is different yet.
    Prepared,
    /// Departure: it takes no writes; that can be called off.
    Leaving,
    /// Departure: it takes no writes for good.
    Gone,
    /// Arrival: it is here, and nobody is led to it.
    Arrived,
    /// Arrival: it is served here.
    Active,
    /// It is called off, and what that leaves behind is being cleared up.
    Cancelling,
    Cancelled,
}

impl TransferStage {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
            Self::Arrived => "arrived",
            Self::Active => "active",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "leaving" => Self::Leaving,
            "gone" => Self::Gone,
            "arrived" => Self::Arrived,
            "active" => Self::Active,
            "cancelling" => Self::Cancelling,
            "cancelled" => Self::Cancelled,
            _ => Self::Prepared,
        }
    }
}

/// The end of an audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    pub sequence: i64,
    /// In hexadecimal.
    pub hash: String,
}

/// A transfer as it stands.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub id: TransferId,
    pub organization_id: OrganizationId,
    pub stage: TransferStage,
    /// The other deployment.
    pub peer: String,
    pub peer_key: Option<String>,
    pub recipient: Option<String>,
    /// Sealed.
    pub identity: Option<String>,
    pub slug: Slug,
    pub suspended: bool,
    pub archive_sha256: Option<String>,
    pub log_end: Option<LogEnd>,
    /// Arrival, and departure that has ended: the proof that it has left. Departure that is taken back: the waiver.
    pub proof: Option<String>,
    /// Departure: what a waiver of the other deployment is known by.
    pub waiver_sha256: Option<String>,
    /// Arrival: its file here is to be ciphertext as a whole.
    pub encrypted: bool,
    pub created_at: Timestamp,
}

/// By its id.
pub fn get(db: &Read<'_, CatalogDb>, id: TransferId, direction: Direction) -> Result<Option<Transfer>> {
    db.one(
        "SELECT id, organization_id, state, peer, peer_key, recipient, identity, slug, archive_sha256, audit_sequence,
                audit_hash, proof, created_at, suspended, waiver_sha256, encrypted
         FROM transfer WHERE id = ? AND direction = ?",
        params![id, direction.as_str()],
        from_row,
    )
}

/// The one that has not ended; one that has left never does.
pub fn open_of(db: &Read<'_, CatalogDb>, id: OrganizationId, direction: Direction) -> Result<Option<Transfer>> {
    db.one(
        "SELECT id, organization_id, state, peer, peer_key, recipient, identity, slug, archive_sha256, audit_sequence,
                audit_hash, proof, created_at, suspended, waiver_sha256, encrypted
         FROM transfer WHERE organization_id = ? AND direction = ?
           AND state IN ('prepared', 'leaving', 'gone', 'arrived', 'cancelling')",
        params![id, direction.as_str()],
        from_row,
    )
}

/// All that have not ended, for the start of the process.
pub fn open(db: &Read<'_, CatalogDb>, direction: Direction) -> Result<Vec<Transfer>> {
    db.all(
        "SELECT id, organization_id, state, peer, peer_key, recipient, identity, slug, archive_sha256, audit_sequence,
                audit_hash, proof, created_at, suspended, waiver_sha256, encrypted
         FROM transfer WHERE direction = ? AND state IN ('prepared', 'leaving', 'gone', 'arrived', 'cancelling')",
        params![direction.as_str()],
        from_row,
    )
}

/// Whether it has left before, and was taken back: copies of its file may still say that it has left.
pub fn came_back(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<bool> {
    let found = db.number(
        "SELECT count(*) FROM transfer
         WHERE organization_id = ? AND direction = 'departure' AND state = 'cancelled' AND proof IS NOT NULL",
        params![id],
    )?;
    Ok(found > 0)
}

/// How far each arrival of an organization has come that there ever was. An organization that is `creating` and has
/// any is not an ordinary one: nothing but a proof makes it active.
pub fn arrivals_of(db: &Read<'_, CatalogDb>, id: OrganizationId) -> Result<Vec<TransferStage>> {
    db.all("SELECT state FROM transfer WHERE organization_id = ? AND direction = 'arrival'", params![id], |row| {
        Ok(TransferStage::parse(&row.get::<_, String>(0)?))
    })
}

pub fn insert(db: &Write<'_, CatalogDb>, transfer: &Transfer, direction: Direction) -> Result<()> {
    db.execute(
        "INSERT INTO transfer (id, organization_id, direction, state, peer, peer_key, recipient, identity, slug,
                               encrypted, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            transfer.id,
            transfer.organization_id,
            direction.as_str(),
            transfer.stage.as_str(),
            transfer.peer,
            transfer.peer_key,
            transfer.recipient,
            transfer.identity,
            transfer.slug,
            transfer.encrypted,
            transfer.created_at
        ],
    )?;
    Ok(())
}

/// The file of an arrival is to be ciphertext, as was not said at first.
pub fn set_encrypted(db: &Write<'_, CatalogDb>, id: TransferId) -> Result<()> {
    db.execute("UPDATE transfer SET encrypted = 1 WHERE id = ? AND direction = 'arrival'", params![id])?;
    Ok(())
}

/// From one stage to the next; returns false if it is in another one than that.
pub fn advance(
    db: &Write<'_, CatalogDb>,
    (id, direction): (TransferId, Direction),
    from: TransferStage,
    to: TransferStage,
) -> Result<bool> {
    let set = db.execute(
        "UPDATE transfer SET state = ?3, ended_at = CASE WHEN ?3 IN ('gone', 'active', 'cancelled') THEN ?4 END
         WHERE id = ?1 AND state = ?2 AND direction = ?5",
        params![id, from.as_str(), to.as_str(), db.now(), direction.as_str()],
    )?;
    Ok(set > 0)
}

/// Whom a departure's archive is sealed for, and what a waiver of theirs is known by. Of another recipient there is no
/// archive yet.
pub fn set_recipient(db: &Write<'_, CatalogDb>, id: TransferId, recipient: &str, waiver_sha256: &str) -> Result<()> {
    db.execute(
        "UPDATE transfer SET archive_sha256 = CASE WHEN recipient IS ?2 THEN archive_sha256 END, recipient = ?2,
                             waiver_sha256 = ?3
         WHERE id = ?1",
        params![id, recipient, waiver_sha256],
    )?;
    Ok(())
}

/// Which archive it is about.
pub fn set_archive(db: &Write<'_, CatalogDb>, id: TransferId, sha256: &str, end: &LogEnd) -> Result<()> {
    db.execute(
        "UPDATE transfer SET archive_sha256 = ?2, audit_sequence = ?3, audit_hash = ?4 WHERE id = ?1",
        params![id, sha256, end.sequence, end.hash],
    )?;
    Ok(())
}

pub fn set_proof(db: &Write<'_, CatalogDb>, id: TransferId, proof: &str) -> Result<()> {
    db.execute("UPDATE transfer SET proof = ? WHERE id = ?", params![proof, id])?;
    Ok(())
}

/// It is here; what opened the archive is of no use any more.
pub fn received(db: &Write<'_, CatalogDb>, id: TransferId, suspended: bool) -> Result<()> {
    db.execute("UPDATE transfer SET identity = NULL, suspended = ? WHERE id = ?", params![suspended, id])?;
    Ok(())
}

/// An arrival that was called off: no archive is ever opened for it.
pub fn forget_identity(db: &Write<'_, CatalogDb>, id: TransferId) -> Result<()> {
    db.execute("UPDATE transfer SET identity = NULL WHERE id = ? AND direction = 'arrival'", params![id])?;
    Ok(())
}

/// Enters one as the last word of an organization's own file tells of it, where this catalog knows less.
pub fn enter_found(db: &Write<'_, CatalogDb>, found: &Transfer, direction: Direction) -> Result<()> {
    let known = open_of(db, found.organization_id, direction)?;
    if let Some(known) = known {
        // A file that has left has left, whatever the catalog said a while ago.
        if found.stage == TransferStage::Gone && known.stage != TransferStage::Gone {
            db.execute(
                "UPDATE transfer SET state = 'gone', proof = NULL, waiver_sha256 = coalesce(?2, waiver_sha256),
                                     ended_at = ?3
                 WHERE id = ?1",
                params![known.id, found.waiver_sha256, db.now()],
            )?;
        }
        return Ok(());
    }
    // One that the catalog knows to be over is over: what it has left is cleared up at the next start.
    if get(db, found.id, direction)?.is_some() {
        return Ok(());
    }
    insert(db, found, direction)?;
    db.execute(
        "UPDATE transfer SET suspended = ?2, archive_sha256 = ?3, audit_sequence = ?4, audit_hash = ?5,
                             waiver_sha256 = ?6, ended_at = CASE WHEN state = 'gone' THEN ?7 END
         WHERE id = ?1",
        params![
            found.id,
            found.suspended,
            found.archive_sha256,
            found.log_end.as_ref().map(|end| end.sequence),
            found.log_end.as_ref().map(|end| end.hash.clone()),
            found.waiver_sha256,
            db.now()
        ],
    )?;
    Ok(())
}

/// An arrival whose file says that it is served here has become active, also where the catalog did not get to it.
pub fn settle_arrival(db: &Write<'_, CatalogDb>, id: OrganizationId) -> Result<()> {
    db.execute(
        "UPDATE transfer SET state = 'active', ended_at = ?2
         WHERE organization_id = ?1 AND direction = 'arrival' AND state = 'arrived'",
        params![id, db.now()],
    )?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> RowResult<Transfer> {
    let (sequence, hash): (Option<i64>, Option<String>) = (row.get(9)?, row.get(10)?);
    Ok(Transfer {
        id: row.get(0)?,
        organization_id: row.get(1)?,
        stage: TransferStage::parse(&row.get::<_, String>(2)?),
        peer: row.get(3)?,
        peer_key: row.get(4)?,
        recipient: row.get(5)?,
        identity: row.get(6)?,
        slug: row.get(7)?,
        archive_sha256: row.get(8)?,
        log_end: sequence.zip(hash).map(|(sequence, hash)| LogEnd { sequence, hash }),
        proof: row.get(11)?,
        created_at: row.get(12)?,
        suspended: row.get(13)?,
        waiver_sha256: row.get(14)?,
        encrypted: row.get(15)?,
    })
}
