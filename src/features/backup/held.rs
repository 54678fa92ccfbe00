//! What a legal hold asks of a recovery: a frozen organization comes back as the file that was frozen, to the bit, or
//! not at all. It stays frozen, so no event is written into it.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::replace::{Recovery, gone_since};
use crate::base::{Error, OrganizationId, Result, codes};
use crate::catalog::{Freeze, FreezeStage, freezes};
use crate::crypto::{Algorithm, PublicKey, hash, signing};
use crate::features::audit;
use crate::features::erasure::Head;
use crate::tenants::{Condition, FROZEN, FROZEN_HEAD, Held, KeptFile, Shut, UNFROZEN};

/// Where a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastWord {
    pub action: Option<String>,
    pub head: Head,
}

impl LastWord {
    fn is_frozen(&self) -> bool {
        self.action.as_deref() == Some(FROZEN)
    }

    /// Of a copy that stays as it is.
    pub fn of(recovery: &Recovery<'_>, id: OrganizationId, copy: &Path) -> Result<Self> {
        tokio::task::block_in_place(|| {
            recovery.tenants.look_into_copy(id, copy, |db| {
                Ok(Self { action: audit::newest_action(db)?, head: audit::head(db)?.into() })
            })
        })
    }
}

/// What a certificate of a freeze says of the file.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Certified {
    file: KeptFile,
    audit_head: Head,
}

/// What is known of a hold before the backup is asked.
#[derive(Debug, Clone)]
pub(super) enum Hold {
    /// The catalog knows of none.
    Unknown,
    /// The catalog has the certificate.
    Certified(Certified),
    /// By its own log alone, the end of which is known if that could be read.
    ByItsLog(Option<Head>),
}

/// Why the organization takes no writes. Refused where that is for another reason than a hold, where a freeze or a
/// release has not ended, and where the file of a held one is in order.
pub(super) async fn ask(recovery: &Recovery<'_>, id: OrganizationId) -> Result<Hold> {
    let mut shut = recovery.tenants.why_shut(id);
    if let Some(other @ (Shut::Leaving | Shut::Rewriting | Shut::Moved { .. })) = &shut {
        return Err(other.refusal());
    }
    // Also where nobody has opened it since the start, and the catalog is from before.
    if shut.is_none() {
        shut = recovery.tenants.why_shut_by_its_log(id).await?.filter(|shut| *shut == Shut::Frozen);
    }
    let frozen = recovery.catalog.read(|db| freezes::get(db, id)).await?;
    let hold = match &frozen {
        Some(freeze) if freeze.stage == FreezeStage::Frozen => certified(freeze).map(Hold::Certified),
        Some(_) => None,
        None if shut.is_none() => return Ok(Hold::Unknown),
        None => Some(Hold::ByItsLog(None)),
    };
    let hold = hold.ok_or_else(|| Shut::Frozen.refusal())?;
    let held = recovery.tenants.hold_still(id).await?;
    let is_certified = matches!(hold, Hold::Certified(_));
    Standing::Frozen { is_certified }.require_broken(&held).await?;
    if is_certified {
        return Ok(hold);
    }
    let read = held.read(|db| Ok((audit::newest_action(db)?, audit::head(db)?)));
    drop(held);
    let own = read.ok().map(|(action, head)| LastWord { action, head: head.into() }).filter(LastWord::is_frozen);
    Ok(Hold::ByItsLog(own.map(|own| own.head)))
}

/// What a hold makes of a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is none.
    Free,
    /// There was one, of which its own log, that is damaged, does not say that it was released.
    Released,
    /// The copy takes the place of the frozen file, and stays frozen; `is_certified` if the catalog says so.
    Frozen { is_certified: bool },
}

impl Standing {
    /// Holds the file for what is to take its place, unless the hold has become another one since it was judged.
    pub async fn hold(self, recovery: &Recovery<'_>, id: OrganizationId) -> Result<Held> {
        if self == Self::Free {
            return recovery.tenants.hold(id).await;
        }
        self.hold_still(recovery, id).await
    }

    /// The same for whoever only looks whether that could be.
    pub async fn hold_still(self, recovery: &Recovery<'_>, id: OrganizationId) -> Result<Held> {
        let held = recovery.tenants.hold_still(id).await?;
        let shut = recovery.tenants.why_shut(id);
        if let Some(other) = shut.filter(|shut| self == Self::Free || *shut != Shut::Frozen) {
            return Err(other.refusal());
        }
        let stage = recovery.catalog.read(|db| freezes::get(db, id)).await?.map(|freeze| freeze.stage);
        let is_same = match self {
            Self::Frozen { is_certified: true } => stage == Some(FreezeStage::Frozen),
            _ => stage.is_none(),
        };
        if is_same { Ok(held) } else { Err(Shut::Frozen.refusal()) }
    }

    /// Refuses a frozen file that is in order. Whether the disk does not give one that is certified for a moment or for
    /// good does not matter: only the same takes its place, to the bit.
    pub async fn require_broken(self, held: &Held) -> Result<()> {
        match held.condition().await? {
            Condition::Sound => Err(in_order()),
            Condition::Withheld(error) if self != (Self::Frozen { is_certified: true }) => Err(error),
            Condition::Damaged | Condition::Withheld(_) => Ok(()),
        }
    }
}

/// Tells what becomes of the copy. Refused where a hold asks for another one: `newest` is where the newest log of the
/// backup ends, if that can be told.
pub(super) async fn judge(
    recovery: &Recovery<'_>,
    hold: &Hold,
    (copy, word): (&Path, &LastWord),
    newest: Option<&LastWord>,
) -> Result<Standing> {
    let asked_for = match hold {
        Hold::Certified(certified) => {
            let file = tokio::task::block_in_place(|| std::fs::File::open(copy).and_then(hash::sha256_of));
            let (sha256, bytes) = file.map_err(|error| Error::internal("a copy cannot be read").source(error))?;
            if (hex::encode(sha256), bytes) != (certified.file.sha256.clone(), certified.file.bytes) {
                return Err(Error::new(&codes::FREEZE_NOT_IN_BACKUP));
            }
            Some(certified.audit_head.clone())
        }
        Hold::ByItsLog(Some(head)) => Some(head.clone()),
        // A catalog of before does not know of it. The newest of the backup does.
        Hold::ByItsLog(None) | Hold::Unknown => {
            newest.filter(|newest| newest.is_frozen()).map(|newest| newest.head.clone())
        }
    };
    let Some(asked_for) = asked_for else {
        // Shut by a log that nobody can read any more.
        return if matches!(hold, Hold::ByItsLog(_)) {
            Err(Error::new(&codes::FREEZE_NOT_IN_BACKUP))
        } else {
            Ok(Standing::Free)
        };
    };
    let is_certified = matches!(hold, Hold::Certified(_));
    // A damaged file that was released has no event of that in its own log.
    if !is_certified && is_released(recovery, &asked_for).await? {
        return Ok(Standing::Released);
    }
    if word.is_frozen() && word.head == asked_for {
        return Ok(Standing::Frozen { is_certified });
    }
    Err(Error::new(&codes::FREEZE_NOT_IN_BACKUP))
}

/// The hash of the freeze that the newest state of the backup ends with, if it was not taken back since. For a file
/// that says nothing any more.
pub async fn frozen_in_backup(recovery: &Recovery<'_>, id: OrganizationId) -> Result<Option<String>> {
    match gone_since(recovery, id).await? {
        (_, Some(newest)) if newest.is_frozen() && !is_released(recovery, &newest.head).await? => {
            Ok(Some(newest.head.hash))
        }
        _ => Ok(None),
    }
}

/// A held one whose file needs no recovery.
fn in_order() -> Error {
    Error::new(&codes::ORGANIZATION_FROZEN)
        .detail("This organization is frozen, and its file is in order: there is nothing to recover.")
}

/// Whether the operators' log says that this very freeze was taken back.
async fn is_released(recovery: &Recovery<'_>, head: &Head) -> Result<bool> {
    let head = Value::from(head.hash.as_str());
    recovery.catalog.read(|db| audit::is_said(db, UNFROZEN, FROZEN_HEAD, &head)).await
}

fn certified(freeze: &Freeze) -> Option<Certified> {
    let text = freeze.certificate.as_deref()?;
    let jwk: Value = serde_json::from_str(freeze.certificate_key.as_deref()?).ok()?;
    let key = PublicKey::from_jwk(jwk["kid"].as_str()?, Algorithm::ES256, &jwk).ok()?;
    signing::verify(text, &key, freezes::CERTIFICATE)
}
