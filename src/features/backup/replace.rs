//! Putting the copy in the place of a file that is of no use any more.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Copy, Look, fetch};
use crate::backup::{Backups, Restored, Source, Target, Txid};
use crate::base::{Error, MemberId, OrganizationId, Result, Timestamp, codes};
use crate::features::audit::{self, Act, By, Target as Subject};
use crate::features::erasure::member::erase_from_past;
use crate::features::keys::reseal;
use crate::features::session::{self, End};
use crate::sqlite::sync_directory;
use crate::tenants::{Held, Shut, Tenants, last_word};

/// What was put in place, and where what was there is kept.
#[derive(Debug)]
pub struct Replacement {
    pub txid: Txid,
    pub as_of: Timestamp,
    /// A directory beside the database; nothing if there was no file at all.
    pub kept: Option<PathBuf>,
}

/// Replaces a missing, damaged or foreign file by what the backup has. Refused for one in which every page is in
/// order: there a
/// restore keeps what was taken away since, which nobody can know of a broken one.
///
/// The copy is made ready beside it first, so a crash leaves either file in place, or none and the broken one
/// kept: then it is done again.
pub async fn replace(
    backups: &Backups,
    tenants: &Tenants,
    id: OrganizationId,
    target: Target,
    (scratch, came_back): (&Path, bool),
    by: &By,
) -> Result<Replacement> {
    tenants.require_own_files()?;
    // What has moved away does not come back by another way; what is frozen is released first.
    tenants.require_open(id)?;
    let source = Source::Organization(id);
    let Found { copy, restored, gone } = find(backups, tenants, id, target, (scratch, came_back)).await?;
    let as_of = Timestamp::from_utc(restored.timestamp);
    // From before it was encrypted, decrypted or given another key.
    tokio::task::block_in_place(|| tenants.recast_copy(id, &copy.file()))?;
    // From here on nobody opens the file, so no data key is destroyed that the copy may need.
    let held = tenants.hold(id).await?;
    if held.is_sound()? {
        return Err(Error::new(&codes::ORGANIZATION_READABLE));
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
    backups.start_over(source).await;
    drop(held);
    // Whoever was refused a moment ago because of the broken file need not be any longer.
    tenants.let_go(id);
    Ok(Replacement { txid: restored.txid, as_of, kept })
}

/// What the backup has for the place of a file.
struct Found {
    copy: Copy,
    restored: Restored,
    /// Members who were erased since.
    gone: Vec<MemberId>,
}

/// Fetches it, and refuses what has left.
async fn find(
    backups: &Backups,
    tenants: &Tenants,
    id: OrganizationId,
    target: Target,
    (scratch, came_back): (&Path, bool),
) -> Result<Found> {
    let copy = Copy::new(scratch)?;
    let restored = fetch((backups, tenants), id, target, &copy.file(), Look::Full).await?;
    if !came_back {
        require_staying(tenants, id, &copy.file())?;
    }
    // A catalog of before does not know that it has left. The newest of the backup does, whatever is asked for, and it
    // knows who was erased since.
    let gone = if target == Target::Latest {
        Vec::new()
    } else {
        gone_since(backups, tenants, id, (scratch, came_back)).await?
    };
    Ok(Found { copy, restored, gone })
}

/// Who was erased by the newest of what the backup has. However damaged that may be: it is only asked.
async fn gone_since(
    backups: &Backups,
    tenants: &Tenants,
    id: OrganizationId,
    (scratch, came_back): (&Path, bool),
) -> Result<Vec<MemberId>> {
    let (newest, source) = (Copy::new(scratch)?, Source::Organization(id));
    let whole = |copy: &Path| tenants.require_whole_copy(id, copy, false);
    let had = match backups.restore_only_whole(source, Target::Latest, &newest.file(), whole).await {
        Err(error) if error.is(&codes::BACKUP_DAMAGED) => backups.restore(source, Target::Latest, &newest.file()).await,
        had => had,
    };
    let asked = had.and_then(|_| {
        if !came_back {
            require_staying(tenants, id, &newest.file())?;
        }
        tokio::task::block_in_place(|| tenants.read_copy(id, &newest.file(), audit::erased_members))
    });
    match asked {
        Ok(erased) => Ok(erased.iter().filter_map(|id| id.parse().ok()).collect()),
        // What is not there, or not whole, tells nobody anything however often it is asked.
        Err(error) if error.is(&codes::BACKUP_NOT_FOUND) || error.is(&codes::BACKUP_DAMAGED) => {
            tracing::warn!(organization = %id, ?error, "whether it or a member has left since is not looked at");
            Ok(Vec::new())
        }
        // It may be there, and be read by the next try: nobody comes back because the store was away for a moment.
        Err(error) => Err(error),
    }
}

/// Refuses an organization whose own log says that it has left for another deployment.
fn require_staying(tenants: &Tenants, id: OrganizationId, copy: &Path) -> Result<()> {
    let action = tokio::task::block_in_place(|| tenants.read_copy(id, copy, audit::newest_action))?;
    match last_word(action.as_deref()) {
        Some(moved @ Shut::Moved { .. }) => Err(moved.refusal()),
        _ => Ok(()),
    }
}

/// What [`replace`] would put there, refused where that would be. Nothing is.
pub async fn rehearse_replacement(
    backups: &Backups,
    tenants: &Tenants,
    id: OrganizationId,
    target: Target,
    workplace: (&Path, bool),
) -> Result<Replacement> {
    tenants.require_own_files()?;
    tenants.require_open(id)?;
    let Found { restored, .. } = find(backups, tenants, id, target, workplace).await?;
    if tenants.hold(id).await?.is_sound()? {
        return Err(Error::new(&codes::ORGANIZATION_READABLE));
    }
    Ok(Replacement { txid: restored.txid, as_of: Timestamp::from_utc(restored.timestamp), kept: None })
}

fn swap(held: &Held, copy: &Path, as_of: Timestamp) -> Result<Option<PathBuf>> {
    let directory = held.directory();
    let failed = |path: &Path, error| Error::internal(format!("cannot replace {}", path.display())).source(error);
    fs::create_dir_all(&directory).map_err(|error| failed(&directory, error))?;
    let aside = directory.join(format!("broken-{}", as_of.millis()));
    let mut kept = None;
    for suffix in ["", "-wal", "-shm", "-unread"] {
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
