//! Putting the copy in the place of a file that is of no use any more.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::held::{self, LastWord, Standing};
use super::{Copy, Look, fetch, workshop};
use crate::backup::{Backups, Restored, Source, Target, Txid};
use crate::base::{Error, MemberId, OrganizationId, Result, Timestamp, codes};
use crate::catalog::{Catalog, transfers};
use crate::features::audit::{self, Act, By, Target as Subject};
use crate::features::erasure::member::erase_from_past;
use crate::features::keys::reseal;
use crate::features::session::{self, End};
use crate::sqlite::{mark_unread, sync_directory};
use crate::tenants::{Held, Shut, Tenants, last_word};

/// What was put in place, and where what was there is kept.
#[derive(Debug)]
pub struct Replacement {
    pub txid: Txid,
    pub as_of: Timestamp,
    /// A directory beside the database; nothing if there was no file at all.
    pub kept: Option<PathBuf>,
    /// It is held: what is in place is the frozen file, to the bit.
    pub is_frozen: bool,
}

/// What a recovery works with.
pub struct Recovery<'a> {
    pub backups: &'a Backups,
    pub tenants: &'a Tenants,
    pub catalog: &'a Catalog,
    /// The folder that copies are put together in.
    scratch: PathBuf,
    /// It had left, and has come back since.
    came_back: bool,
}

impl<'a> Recovery<'a> {
    pub async fn of(
        id: OrganizationId,
        backups: &'a Backups,
        tenants: &'a Tenants,
        catalog: &'a Catalog,
    ) -> Result<Self> {
        let came_back = catalog.read(|db| transfers::came_back(db, id)).await?;
        Ok(Self { backups, tenants, catalog, scratch: workshop(backups), came_back })
    }
}

/// Replaces a missing, damaged or foreign file by what the backup has. Refused for one in which every page is in
/// order: there a
/// restore keeps what was taken away since, which nobody can know of a broken one.
///
/// The copy is made ready beside it first, so a crash leaves either file in place, or none and the broken one
/// kept: then it is done again. What is frozen comes back as it was frozen, and stays so ([`held`]).
pub async fn replace(recovery: &Recovery<'_>, id: OrganizationId, target: Target, by: &By) -> Result<Replacement> {
    let Recovery { backups, tenants, .. } = *recovery;
    let Found { copy, restored, gone, standing } = find(recovery, id, target).await?;
    let as_of = Timestamp::from_utc(restored.timestamp);
    if matches!(standing, Standing::Frozen { .. }) {
        return put_frozen(recovery, id, standing, &copy, &restored).await;
    }
    // From before it was encrypted, decrypted or given another key.
    tokio::task::block_in_place(|| tenants.recast_copy(id, &copy.file()))?;
    // From here on nobody opens the file, so no data key is destroyed that the copy may need.
    let held = standing.hold(recovery, id).await?;
    if held.is_sound()? {
        return Err(Error::new(&codes::ORGANIZATION_READABLE));
    }
    if standing == Standing::Released {
        tenants.reopen(id);
    }
    // Its columns may be sealed with a data key from before a rotation; refused if that is gone for good.
    let keys = tenants.keys(id).await?;
    tokio::task::block_in_place(|| {
        tenants.write_copy(id, &copy.file(), |db| {
            reseal(db, keys.sealer())?;
            for member in &gone {
                erase_from_past(db, keys.sealer(), *member, by)?;
            }
            let sessions = session::end_all(db, End::OrganizationRestored)?;
            let (sequence, hash) = audit::head(db)?;
            let act = Act::new("organization.recovered")
                .on(Subject::new("organization", id))
                .with("txid", restored.txid.to_string())
                .with("as_of", as_of.to_string())
                .with("head_then", serde_json::json!({ "sequence": sequence, "hash": hash }))
                .with("sessions_ended", sessions);
            audit::record(db, by, act)
        })
    })?;
    let kept = tokio::task::block_in_place(|| swap(&held, &copy.file(), as_of))?;
    backups.start_over(Source::Organization(id)).await;
    drop(held);
    // Whoever was refused a moment ago because of the broken file need not be any longer.
    tenants.let_go(id);
    Ok(Replacement { txid: restored.txid, as_of, kept, is_frozen: false })
}

/// The same of a frozen file: not one bit of it is changed.
async fn put_frozen(
    recovery: &Recovery<'_>,
    id: OrganizationId,
    standing: Standing,
    copy: &Copy,
    restored: &Restored,
) -> Result<Replacement> {
    let (tenants, as_of) = (recovery.tenants, Timestamp::from_utc(restored.timestamp));
    let held = standing.hold(recovery, id).await?;
    standing.require_broken(&held).await?;
    // A catalog of before may not know of it.
    tenants.shut(id, Shut::Frozen);
    let kept = tokio::task::block_in_place(|| swap(&held, &copy.file(), as_of))?;
    recovery.backups.start_over(Source::Organization(id)).await;
    drop(held);
    tenants.let_go(id);
    Ok(Replacement { txid: restored.txid, as_of, kept, is_frozen: true })
}

/// What the backup has for the place of a file.
struct Found {
    copy: Copy,
    restored: Restored,
    /// Members who were erased since.
    gone: Vec<MemberId>,
    standing: Standing,
}

/// Fetches it, and refuses what has left, and what a hold does not allow.
async fn find(recovery: &Recovery<'_>, id: OrganizationId, target: Target) -> Result<Found> {
    recovery.tenants.require_own_files()?;
    // A file on a volume that is away is not missing.
    recovery.tenants.require_volume(id)?;
    let hold = held::ask(recovery, id).await?;
    let copy = Copy::new(&recovery.scratch)?;
    let restored = fetch((recovery.backups, recovery.tenants), id, target, &copy.file(), Look::Full).await?;
    let word = LastWord::of(recovery, id, &copy.file())?;
    require_staying(recovery, &word)?;
    // A catalog of before does not know that it has left. The newest of the backup does, whatever is asked for, and it
    // knows who was erased since, and whether it is frozen.
    let (gone, newest) =
        if target == Target::Latest { (Vec::new(), Some(word.clone())) } else { gone_since(recovery, id).await? };
    let standing = held::judge(recovery, &hold, (&copy.file(), &word), newest.as_ref()).await?;
    Ok(Found { copy, restored, gone, standing })
}

/// Who was erased by the newest of what the backup has, and where its log ends. However damaged that may be: it is
/// only asked.
pub(super) async fn gone_since(
    recovery: &Recovery<'_>,
    id: OrganizationId,
) -> Result<(Vec<MemberId>, Option<LastWord>)> {
    let Recovery { backups, tenants, .. } = *recovery;
    let (newest, source) = (Copy::new(&recovery.scratch)?, Source::Organization(id));
    let whole = |copy: &Path| tenants.require_whole_copy(id, copy, false);
    let had = match backups.restore_only_whole(source, Target::Latest, &newest.file(), whole).await {
        Err(error) if error.is(&codes::BACKUP_DAMAGED) => backups.restore(source, Target::Latest, &newest.file()).await,
        had => had,
    };
    let asked = had.and_then(|_| {
        let word = LastWord::of(recovery, id, &newest.file())?;
        require_staying(recovery, &word)?;
        Ok(word)
    });
    let known = |error: Error| {
        if error.is(&codes::BACKUP_NOT_FOUND) || error.is(&codes::BACKUP_DAMAGED) {
            // What is not there, or not whole, tells nobody anything however often it is asked.
            tracing::warn!(organization = %id, ?error, "whether it or a member has left since is not looked at");
            return Ok(());
        }
        // It may be there, and be read by the next try: nobody comes back because the store was away for a moment.
        Err(error)
    };
    let word = match asked {
        Ok(word) => word,
        Err(error) => return known(error).map(|()| (Vec::new(), None)),
    };
    let erased = tokio::task::block_in_place(|| tenants.read_copy(id, &newest.file(), audit::erased_members));
    let erased = erased.or_else(|error| known(error).map(|()| HashSet::new()))?;
    Ok((erased.iter().filter_map(|id| id.parse().ok()).collect(), Some(word)))
}

/// Refuses an organization whose own log says that it has left for another deployment.
fn require_staying(recovery: &Recovery<'_>, word: &LastWord) -> Result<()> {
    match last_word(word.action.as_deref()) {
        Some(moved @ Shut::Moved { .. }) if !recovery.came_back => Err(moved.refusal()),
        _ => Ok(()),
    }
}

/// What [`replace`] would put there, refused where that would be. Nothing is.
pub async fn rehearse_replacement(recovery: &Recovery<'_>, id: OrganizationId, target: Target) -> Result<Replacement> {
    let Found { restored, standing, .. } = find(recovery, id, target).await?;
    let is_frozen = matches!(standing, Standing::Frozen { .. });
    let held = standing.hold_still(recovery, id).await?;
    if is_frozen {
        standing.require_broken(&held).await?;
    } else if held.is_sound()? {
        return Err(Error::new(&codes::ORGANIZATION_READABLE));
    }
    Ok(Replacement { txid: restored.txid, as_of: Timestamp::from_utc(restored.timestamp), kept: None, is_frozen })
}

fn swap(held: &Held, copy: &Path, as_of: Timestamp) -> Result<Option<PathBuf>> {
    let directory = held.directory();
    let failed = |path: &Path, error| Error::internal(format!("cannot replace {}", path.display())).source(error);
    fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
    // First, so that whoever ships reads all of the new file also where this process ends in the middle: it has no WAL.
    // And where there is no room even for that, nothing was moved.
    mark_unread(&held.file())?;
    let aside = directory.join(format!("broken-{}", as_of.millis()));
    let mut kept = None;
    for suffix in ["", "-wal", "-shm"] {
        let name = format!("db.sqlite{suffix}");
        let path = directory.join(&name);
        if path.exists() {
            fs::create_dir_all(&aside).map_err(|error| failed(&aside, error))?;
            fs::rename(&path, aside.join(&name)).map_err(|error| failed(&path, error))?;
            kept = Some(aside.clone());
        }
    }
    fs::rename(copy, held.file()).map_err(|error| failed(&held.file(), error))?;
    sync_directory(&directory)?;
    Ok(kept)
}
