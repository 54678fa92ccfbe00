//! The steps of a file on its way to another key, in their order. Each can be taken again: how far it has come is read
//! off the keyring and the file itself.

use std::time::Duration;

use super::{Seen, own_backups, require_still};
use crate::backup::Source;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::backup::{Copy, workshop};
use crate::features::provisioning::impersonal;
use crate::keyring::{FileChange, FileKeys, FileStanding};
use crate::tenants::{Held, Recast};

/// How often a file is written anew while others write to it; after that they wait.
const BESIDE: u32 = 3;
/// How often at all, and how long it is waited for whoever works with the file for long.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

/// A step that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The file was written anew beside itself.
    Write,
    /// Somebody has written to it since, or works with it: once more.
    Again,
    /// The new one is in its place.
    Switch,
    /// No other file is right any more.
    Settle,
    /// Copies from before are deleted.
    Clear,
}

/// Takes the next step; nothing if there is none.
pub async fn next(state: &DeploymentState, id: OrganizationId) -> Result<Option<Step>> {
    let _at_work = state.encryptions.0.at_work.lock().await;
    if state.encryptions.is_closed() {
        return Ok(None);
    }
    let change = state.tenants.file_keys_known(id).await?.change;
    // Asked after that: whoever begins says so first.
    let (is_beginning, is_clearing) = state.encryptions.note(id, |seen| (seen.is_beginning, seen.is_clearing));
    if is_beginning {
        return Ok(None);
    }
    if change.map_or(is_clearing, |change| change.is_clearing) {
        clear(state, id).await?;
        return Ok(Some(Step::Clear));
    }
    let Some(change) = change else { return Ok(None) };
    let (is_ahead, recast) = state.encryptions.note(id, |seen| (seen.is_ahead, seen.recast.take()));
    if !is_ahead {
        // After a crash, or a failure of which it is not known how far it has come.
        if patiently(state, id).await?.is_under(change.target)? {
            settle(state, id, change).await?;
            return Ok(Some(Step::Settle));
        }
        state.encryptions.note(id, |seen| seen.is_ahead = true);
    }
    match recast {
        None => write(state, id, change).await.map(|()| Some(Step::Write)),
        Some(recast) => switch(state, id, change, recast).await.map(Some),
    }
}

async fn write(state: &DeploymentState, id: OrganizationId, change: FileChange) -> Result<()> {
    let tries = state.encryptions.note(id, |seen| {
        seen.tries += 1;
        seen.tries
    });
    if tries == BESIDE + 1 {
        state.tenants.shut_for_recast(id)?;
    }
    let tenant = state.tenants.open(&state.directory.by_id(id).await?).await?;
    let recast = state.tenants.recast(tenant, change.target).await?;
    state.encryptions.note(id, |seen| seen.recast = Some(recast));
    Ok(())
}

async fn switch(state: &DeploymentState, id: OrganizationId, change: FileChange, recast: Recast) -> Result<Step> {
    let tries = state.encryptions.note(id, |seen| seen.tries);
    let ready = match recast.hold().await {
        Ok(Some(ready)) => ready,
        Ok(None) if tries < TRIES => return Ok(Step::Again),
        Err(error) if error.retry().is_some() && tries < TRIES => {
            tokio::time::sleep(PAUSE).await;
            return Ok(Step::Again);
        }
        Ok(None) => return Err(Error::new(&codes::ORGANIZATION_BUSY).because("it is written to all the time")),
        Err(error) => return Err(error),
    };
    // Whatever began meanwhile waits for the file, or has not closed it yet.
    require_still(state, id).await?;
    let by = state.encryptions.note(id, |seen| {
        seen.is_ahead = false;
        seen.by.clone().unwrap_or_else(By::system)
    });
    let act = act_of(state.tenants.file_keys_known(id).await?, id, change);
    let held = ready.put(|db| audit::record(db, &by, act).map(drop))?;
    // Whoever ships may wait for the file. That it is another one stands beside it already.
    drop(held);
    if let Some(backups) = own_backups(state) {
        backups.start_over(Source::Organization(id)).await;
    }
    state.tenants.reopen_after_recast(id);
    Ok(Step::Switch)
}

/// The event of the organization's own log and of the operators'.
fn act_of(keys: FileKeys, id: OrganizationId, change: FileChange) -> Act {
    let action = match (keys.standing, change.target) {
        (_, None) => "organization.decrypted",
        (FileStanding::Ciphertext(_), Some(_)) => "file_key.rotated",
        _ => "organization.encrypted",
    };
    Act::about(action, id).with("file_key_version", change.target)
}

/// When the backup has the new file, no other one is right any more: a machine that is lost before comes back with
/// whichever of them the backup has.
async fn settle(state: &DeploymentState, id: OrganizationId, change: FileChange) -> Result<()> {
    state.tenants.reopen_after_recast(id);
    state.tenants.discard_recast(id)?;
    if state.tenants.has_kept_copies(id)? {
        patiently(state, id).await?.recast_kept(change.target).await?;
    }
    if let Some(backups) = own_backups(state) {
        backups.ship_now(Source::Organization(id)).await?;
    }
    let by = state.encryptions.note(id, |seen| seen.by.clone().unwrap_or_else(By::system));
    let act = act_of(state.tenants.file_keys_known(id).await?, id, change);
    state.catalog.write(|db| audit::record(db, &impersonal(&by), act).map(drop)).await?;
    // Before another one may begin.
    state.encryptions.note(id, |seen| *seen = Seen { by: seen.by.take(), is_ours: change.clears, ..seen.rest() });
    state.keys.ring().settle_file_key(id, change.target, change.clears).await?;
    metrics::counter!("bulkhead_files_recast_total").increment(1);
    Ok(())
}

/// Deletes what is left of before: copies in the backup that are older than the first under the key that the file is
/// under now, files in the directory, and keys that nothing needs then. The files last: where no key of before is left,
/// they alone say that there is something to be deleted.
async fn clear(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let mut gone = (0, 0);
    if let Some(backups) = own_backups(state) {
        let source = Source::Organization(id);
        let copy = Copy::new(&workshop(backups))?;
        let kept = match state.tenants.file_keys_known(id).await?.standing {
            // Plain it may have been before as well: nothing tells those copies from what it is now.
            FileStanding::Plain => None,
            _ => {
                let is_own = state.tenants.tells_own(id).await?;
                backups.forget_before_own(source, &copy.file(), is_own).await?
            }
        };
        let destroyed = match kept {
            Some(destroyed) => destroyed,
            // What the file is now is nowhere in it.
            None => {
                let destroyed = backups.destroy(source).await?;
                backups.start_over(source).await;
                backups.ship_now(source).await?;
                destroyed
            }
        };
        gone = (destroyed.count, destroyed.bytes);
    }
    let files = {
        let held = patiently(state, id).await?;
        let files = state.tenants.under_other_keys(id).await?;
        held.remove_others(&files)?;
        files.len()
    };
    let by = state.encryptions.note(id, |seen| seen.by.clone().unwrap_or_else(By::system));
    let act = Act::about("organization.history_deleted", id).with("files", files);
    let act = act.with("objects", gone.0).with("bytes", gone.1);
    state.catalog.write(|db| audit::record(db, &impersonal(&by), act).map(drop)).await?;
    state.encryptions.note(id, |seen| *seen = seen.rest());
    let ring = state.keys.ring();
    ring.destroy_file_keys_up_to(id, u32::MAX).await?;
    ring.file_copies_cleared(id).await
}

/// Before the new file is in place: throws it away. After it: nothing, it is gone on from there.
pub(super) async fn give_up(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    let _at_work = state.encryptions.0.at_work.lock().await;
    let recast = state.encryptions.note(id, |seen| {
        (seen.is_ahead, seen.is_ours, seen.is_clearing, seen.tries) = (false, false, false, 0);
        seen.recast.take()
    });
    tokio::task::block_in_place(|| drop(recast));
    state.tenants.reopen_after_recast(id);
    let Some(change) = state.tenants.file_keys_known(id).await?.change else { return Ok(()) };
    undo(state, id, change).await.map(drop)
}

/// Tells whether there was something to be undone.
pub(super) async fn undo(state: &DeploymentState, id: OrganizationId, change: FileChange) -> Result<bool> {
    if change.is_clearing || patiently(state, id).await?.is_under(change.target)? {
        return Ok(false);
    }
    state.tenants.discard_recast(id)?;
    state.keys.ring().keep_file_key(id).await?;
    Ok(true)
}

/// Whoever works with the file for long is waited for.
async fn patiently(state: &DeploymentState, id: OrganizationId) -> Result<Held> {
    for _ in 1..TRIES {
        match state.tenants.hold_still(id).await {
            Err(error) if error.retry().is_some() => tokio::time::sleep(PAUSE).await,
            held => return held,
        }
    }
    state.tenants.hold_still(id).await
}
