//! An organization's whole file under a key of its own, under another one, or under none again, while everybody goes on
//! but for a moment.
//!
//! It owns the order of the steps; which keys there are, and that for a while two files are right, is the keyring's
//! ([`crate::keyring::FileKeys`]), and `tenants` writes the file anew and puts it in its place. The new key is on the
//! disk and in the backup before anything is under it. Then the file is written anew beside itself, which is thrown away
//! and done again as long as somebody writes; in the end writers wait for it. One rename makes the new one count, with
//! the event in its log that says so. When the backup has it, no other file is right any more. Before the rename a crash
//! leaves the file as it was, after it the new one; the next start undoes or completes the rest.
//!
//! Copies from before stay in the backup until they expire, or are deleted if that is asked for. It leaves alone what
//! was handed out: exports and files that somebody fetched. `docs/ENCRYPTION.md` is for those who choose.

pub mod http;
mod steps;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::backup::{Backups, Source};
use crate::base::time::length;
use crate::base::{Error, OrganizationId, Result, Timestamp, codes};
use crate::catalog::transfers::{self, Direction};
use crate::catalog::{erasures, freezes, organizations, placements};
use crate::features::DeploymentState;
use crate::features::audit::{self, Act, By};
use crate::features::keys::is_kept;
use crate::features::provisioning::{Encryption, impersonal};
use crate::keyring::{FileChange, FileKeys, FileStanding};
use crate::tenants::{Recast, Shut};

pub use steps::{Step, next};

use steps::{give_up, undo};

/// When what did not get further is tried again.
const AGAIN: Duration = length::minutes(1);
/// A clock may be set while nobody looks at it.
const LOOK: Duration = length::hours(1);
const DESTROYED: &str = "file_key.destroyed";

/// One file at a time, and what has become of those of this process; cheap to clone.
#[derive(Clone, Default)]
pub struct Desk(Arc<Inner>);

#[derive(Default)]
struct Inner {
    beginning: tokio::sync::Mutex<()>,
    at_work: tokio::sync::Mutex<()>,
    seen: Mutex<HashMap<OrganizationId, Seen>>,
    closed: AtomicBool,
}

/// What is known of a change besides what is in the keyring.
#[derive(Default)]
struct Seen {
    by: Option<By>,
    /// It is being written down: it may come to nothing yet, and no step of it is taken.
    is_beginning: bool,
    /// It was begun here, and whoever has begun it carries it out.
    is_ours: bool,
    /// It was begun here and its file is not in place yet. Otherwise the file is asked.
    is_ahead: bool,
    /// What is left of before is being deleted. The keyring says so as well, unless no key of before is left in it that
    /// could: then whatever is deleted last, the files in the directory, says what is yet to be done.
    is_clearing: bool,
    recast: Option<Recast>,
    tries: u32,
    is_carried_out: bool,
    bytes: u64,
    failure: Option<Arc<Error>>,
}

impl Seen {
    /// What outlives a change.
    fn rest(&self) -> Self {
        Self { is_carried_out: self.is_carried_out, ..Self::default() }
    }
}

impl Desk {
    /// No further step is taken; returns when the one under way has ended.
    pub async fn close(&self) {
        self.0.closed.store(true, Ordering::SeqCst);
        let _at_work = self.0.at_work.lock().await;
        let seen = std::mem::take(&mut *self.seen());
        // What is not in its place is thrown away by the next start.
        tokio::task::block_in_place(|| drop(seen));
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::SeqCst)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<OrganizationId, Seen>> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, id: OrganizationId, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(self.seen().entry(id).or_default())
    }
}

/// What a file is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    Be(Encryption),
    /// Ciphertext as before, under another key.
    NewKey,
}

/// What would be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It is so already, and nothing is left of before.
    Nothing,
    /// It is so already; copies from before are deleted.
    Clear,
    Rewrite {
        to: Encryption,
        bytes: u64,
    },
}

/// How a file is encrypted, and how far it is on its way to something else.
pub struct Standing {
    pub keys: FileKeys,
    pub bytes: u64,
    pub written: u64,
    /// Until when copies from before are in the backup.
    pub copies_until: Option<Timestamp>,
    /// Files in the organization's directory that are as the database was before.
    pub kept: Vec<String>,
    /// Why it did not get further, in this process.
    pub failure: Option<Arc<Error>>,
}

pub async fn standing(state: &DeploymentState, id: OrganizationId) -> Result<Standing> {
    let mut keys = state.tenants.file_keys_known(id).await?;
    let (bytes, failure, is_clearing) =
        state.encryptions.note(id, |seen| (seen.bytes, seen.failure.clone(), seen.is_clearing));
    if is_clearing && keys.change.is_none() {
        keys.change = Some(FileChange { target: None, is_clearing: true, clears: true });
    }
    let is_ahead = keys.change.is_some_and(|change| !change.is_clearing);
    let written = if is_ahead { state.tenants.recast_bytes(id) } else { 0 };
    let until = keys.settled_at.map(|at| at.plus(state.keys.times().data_keys));
    let has_copies = state.backups.is_some() && !keys.is_cleared;
    let copies_until = until.filter(|until| has_copies && *until > state.tenant.clock.now());
    let kept = state.tenants.under_other_keys(id).await?;
    Ok(Standing { keys, bytes, written, copies_until, kept, failure })
}

/// What that would take; refuses what cannot be.
pub async fn plan(state: &DeploymentState, id: OrganizationId, aim: Aim, clears: bool) -> Result<Plan> {
    state.tenants.require_encryption()?;
    let keys = state.tenants.file_keys_known(id).await?;
    if keys.change.is_some() || state.encryptions.note(id, |seen| seen.is_clearing) {
        return Err(Error::new(&codes::FILE_CHANGE_RUNNING));
    }
    let is_ciphertext = keys.standing != FileStanding::Plain;
    let to = match aim {
        Aim::NewKey if !is_ciphertext => return Err(Error::new(&codes::FILE_NOT_ENCRYPTED)),
        Aim::NewKey => Encryption::File,
        Aim::Be(wanted) if (wanted == Encryption::File) == is_ciphertext => {
            let is_left = keys.settled_at.is_some() && !keys.is_cleared;
            let is_left = is_left || !state.tenants.under_other_keys(id).await?.is_empty();
            return Ok(if clears && is_left { Plan::Clear } else { Plan::Nothing });
        }
        Aim::Be(wanted) => wanted,
    };
    require_still(state, id).await?;
    Ok(Plan::Rewrite { to, bytes: state.tenants.require_room_for_recast(id)? })
}

/// What must not be going on beside it.
async fn require_still(state: &DeploymentState, id: OrganizationId) -> Result<()> {
    if let Some(shut) = state.tenants.why_shut(id).filter(|shut| *shut != Shut::Rewriting) {
        return Err(shut.refusal());
    }
    state
        .catalog
        .read(|db| {
            organizations::require(db, id)?;
            if erasures::is_scheduled(db, id)? {
                return Err(Error::new(&codes::ERASURE_SCHEDULED));
            }
            if freezes::get(db, id)?.is_some() {
                return Err(Error::new(&codes::ORGANIZATION_FROZEN));
            }
            if placements::relocation(db, id)?.is_some() {
                return Err(Error::new(&codes::RELOCATION_RUNNING));
            }
            if transfers::open_of(db, id, Direction::Departure)?.is_some() {
                return Err(Error::new(&codes::TRANSFER_CONFLICT));
            }
            Ok(())
        })
        .await
}

/// Writes down what the file is to become. [`carry_out`] makes it so.
pub async fn begin(state: &DeploymentState, id: OrganizationId, aim: Aim, clears: bool, by: &By) -> Result<Plan> {
    let _beginning = state.encryptions.0.beginning.lock().await;
    let plan = plan(state, id, aim, clears).await?;
    let bytes = match plan {
        Plan::Nothing => return Ok(plan),
        Plan::Clear => 0,
        Plan::Rewrite { bytes, .. } => bytes,
    };
    // First, so that nobody else takes it up before all of this is done.
    let is_ahead = plan != Plan::Clear;
    let by_whom = Some(by.clone());
    let seen = Seen { by: by_whom, is_beginning: true, is_ours: true, is_ahead, bytes, ..Seen::default() };
    let seen = Seen { is_clearing: plan == Plan::Clear, ..seen };
    state.encryptions.note(id, |known| *known = Seen { is_carried_out: known.is_carried_out, ..seen });
    let begun = write_down(state, id, aim, (plan, clears), by).await;
    state.encryptions.note(id, |seen| match begun.is_ok() {
        true => seen.is_beginning = false,
        false => *seen = seen.rest(),
    });
    begun.map(|()| plan)
}

async fn write_down(
    state: &DeploymentState,
    id: OrganizationId,
    aim: Aim,
    (plan, clears): (Plan, bool),
    by: &By,
) -> Result<()> {
    let ring = state.keys.ring();
    let act = match plan {
        Plan::Nothing => return Ok(()),
        Plan::Clear => {
            ring.clear_file_copies(id).await?;
            Act::about("organization.history_deletion_started", id)
        }
        Plan::Rewrite { to, .. } => {
            // A file that cannot be read is not written anew, and gets no key.
            drop(state.tenants.open(&state.directory.by_id(id).await?).await?);
            match to {
                Encryption::File => drop(ring.announce_file_key(id, clears).await?),
                Encryption::Columns => ring.withdraw_file_key(id, clears).await?,
            }
            // Nothing comes under a key that a lost disk would take with it.
            if let Some(backups) = own_backups(state)
                && let Err(error) = backups.ship_now(Source::Keyring).await
            {
                ring.keep_file_key(id).await?;
                return Err(error);
            }
            let act = Act::about("organization.encryption_started", id).with("clears", clears);
            act.with("to", word(to)).with("new_key", aim == Aim::NewKey)
        }
    };
    state.catalog.write(|db| audit::record(db, &impersonal(by), act).map(drop)).await
}

/// Takes one step after the other to the end. What fails before the new file is in place is undone.
pub async fn carry_out(state: &DeploymentState, id: OrganizationId) {
    loop {
        if state.encryptions.note(id, |seen| std::mem::replace(&mut seen.is_carried_out, true)) {
            return;
        }
        let is_good = to_its_end(state, id).await;
        state.encryptions.note(id, |seen| seen.is_carried_out = false);
        // Another one may have begun just now, and have found somebody at work.
        let is_left = state.tenants.file_keys_known(id).await.is_ok_and(|keys| keys.change.is_some());
        let is_left = is_left && !state.encryptions.note(id, |seen| seen.is_beginning);
        if !is_good || !is_left || state.encryptions.is_closed() {
            return;
        }
    }
}

async fn to_its_end(state: &DeploymentState, id: OrganizationId) -> bool {
    loop {
        match next(state, id).await {
            Ok(None) => return true,
            Ok(Some(step)) => tracing::info!(organization = %id, ?step, "bringing a file under another key"),
            Err(error) => {
                tracing::error!(organization = %id, ?error, "a file could not be brought under another key");
                state.encryptions.note(id, |seen| seen.failure = Some(Arc::new(error)));
                if let Err(error) = give_up(state, id).await {
                    tracing::error!(organization = %id, ?error, "what that has left is looked at again");
                }
                return false;
            }
        }
    }
}

/// Before the first request: what a crash has left half done. What is in place is completed later, by [`round`].
pub async fn recover(state: &DeploymentState) -> Result<()> {
    for id in state.keys.ring().changing_file_keys().await? {
        let Some(change) = state.tenants.file_keys_known(id).await?.change else { continue };
        match undo(state, id, change).await {
            Ok(true) => tracing::info!(organization = %id, "its file stays under the key that it was under"),
            Ok(false) => {}
            Err(error) => tracing::error!(organization = %id, ?error, "it is not known which key its file is under"),
        }
    }
    Ok(())
}

/// Goes on with what was interrupted, and destroys keys that no backup within reach needs any more. Tells how long it
/// is until there may be more.
pub async fn round(state: &DeploymentState) -> Duration {
    match all(state).await {
        Ok(true) => LOOK,
        Ok(false) => AGAIN,
        Err(error) => {
            tracing::error!(?error, "the keys of files could not be looked after; it will be tried again");
            AGAIN
        }
    }
}

/// Tells whether nothing is left to do.
async fn all(state: &DeploymentState) -> Result<bool> {
    let ring = state.keys.ring();
    for id in ring.changing_file_keys().await? {
        if !state.encryptions.note(id, |seen| seen.is_ours) {
            carry_out(state, id).await;
        }
    }
    let before = state.tenant.clock.now().minus(state.keys.times().data_keys);
    let mut is_good = true;
    for (id, version) in ring.file_keys_replaced_before(before).await? {
        if let Err(error) = destroy(state, id, version).await {
            tracing::warn!(organization = %id, ?error, "a replaced key of a file could not be destroyed yet");
            is_good &= is_kept(&error);
        }
    }
    Ok(is_good && ring.changing_file_keys().await?.is_empty())
}

async fn destroy(state: &DeploymentState, id: OrganizationId, version: u32) -> Result<()> {
    let tenant = state.tenants.open(&state.directory.by_id(id).await?).await?;
    tenant
        .write_beyond(|db| {
            if audit::has_happened(db, DESTROYED, "up_to", &version.into())? {
                return Ok(());
            }
            audit::record(db, &By::system(), Act::about(DESTROYED, id).with("up_to", version)).map(drop)
        })
        .await?;
    state.keys.ring().destroy_file_keys_up_to(id, version).await.map(drop)
}

/// A backup that this server makes.
fn own_backups(state: &DeploymentState) -> Option<&Backups> {
    state.backups.as_ref().filter(|backups| !backups.is_foreign())
}

/// As the API calls it.
const fn word(encryption: Encryption) -> &'static str {
    match encryption {
        Encryption::Columns => "columns",
        Encryption::File => "file",
    }
}
