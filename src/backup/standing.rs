//! Whose the store is, and what this data directory knows of it.
//!
//! `backup.json` in the data directory says which store has everything, and holds our right to each store that was
//! taken. The right lies nowhere else, so a directory that was put together from the store alone has none: it must
//! take the store over, and whoever had it notices and stops.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::rounds::unreadable;
use super::{Backups, Inner, told};
use crate::base::{Error, Result, Timestamp, codes};
use crate::crypto::random;
use crate::replica::{self, Claim, Owner, Store};
use crate::sqlite::place_file;

const FILE: &str = "backup.json";
/// For how long an answer is believed while something is shipped that nobody waits for.
const BELIEVED: Duration = Duration::from_secs(15);
/// How long after a location was taken over a file of the owner before may still appear.
const LAST_WORDS: Duration = Duration::from_secs(120);
/// How long a start waits for the store to say whose it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Standing {
    location: String,
    /// Whether that location has everything, but for what is marked in the files themselves.
    #[serde(default = "yes")]
    complete: bool,
    /// By location.
    #[serde(default)]
    rights: BTreeMap<String, Claim>,
    /// Those that no log tells of yet: a location is often taken over before there is a catalog.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adoptions: Vec<Adoption>,
}

/// That a location was taken over, for the operators' log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoption {
    /// Made for this one alone, so that it is told once.
    pub id: String,
    pub location: String,
    pub epoch: u64,
    /// Who had it, and in which epoch.
    pub deployment_before: Option<String>,
    pub epoch_before: Option<u64>,
    pub at: DateTime<Utc>,
    /// Whether the store has said so; without it, the command may have ended in between.
    done: bool,
}

/// What [`adopt`] has found and done.
pub struct Adopted {
    pub before: Option<Owner>,
    pub after: Owner,
    /// It belonged to this data directory already: nothing was changed.
    pub was_ours: bool,
}

const fn yes() -> bool {
    true
}

impl Standing {
    /// Nothing where there is none. One that cannot be read now is not missing: written anew, it would be without its
    /// rights, which lie nowhere else.
    pub fn read(data_dir: &Path) -> Result<Option<Self>> {
        let path = data_dir.join(FILE);
        let failed = |why: String| {
            Error::new(&codes::STORAGE_FAILED).because(format!("{} cannot be read: {why}", path.display()))
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.to_string()))
    }

    /// What is known of a location; nothing but old rights if it is another one.
    fn of(data_dir: &Path, location: &str) -> Result<Self> {
        Ok(match Self::read(data_dir)? {
            Some(known) if known.location == location => known,
            known => {
                let (rights, adoptions) = known.map(|known| (known.rights, known.adoptions)).unwrap_or_default();
                Self { location: location.to_owned(), complete: false, rights, adoptions }
            }
        })
    }

    fn write(&self, data_dir: &Path) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| Error::internal("backup.json").source(error))?;
        place_file(&data_dir.join(FILE), &bytes)
    }
}

/// Our right to the location, and whether we still have it.
pub struct Ownership {
    location: String,
    data_dir: PathBuf,
    /// How people call this deployment.
    deployment: String,
    known: Mutex<Known>,
    /// Held by whoever reads the file, changes it and writes it.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Known {
    /// The right, once the store has said that it is ours.
    right: Option<Claim>,
    since: Option<DateTime<Utc>>,
    checked: Option<Instant>,
    /// Why we have it no more.
    lost: Option<String>,
}

impl Ownership {
    #[must_use]
    pub fn new(location: &str, data_dir: &Path, deployment: &str) -> Self {
        Self {
            location: location.to_owned(),
            data_dir: data_dir.to_owned(),
            deployment: deployment.to_owned(),
            known: Mutex::default(),
            writing: Mutex::default(),
        }
    }

    /// Changes the file; nobody else of this process does in between.
    fn change<T>(&self, change: impl FnOnce(&mut Standing) -> T) -> Result<T> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut standing = Standing::of(&self.data_dir, &self.location)?;
        let value = change(&mut standing);
        standing.write(&self.data_dir)?;
        Ok(value)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a data directory was backed up before: what it holds is to be gone on with.
#[must_use]
pub fn was_backed_up(data_dir: &Path) -> bool {
    // One that cannot be looked at is there.
    data_dir.join(FILE).try_exists().unwrap_or(true)
}

/// Forgets that the store has everything: from now on another program looks after it. Blocking.
pub fn leave(data_dir: &Path) -> Result<()> {
    match Standing::read(data_dir)? {
        Some(known) => Standing { complete: false, ..known }.write(data_dir),
        None => Ok(()),
    }
}

/// Whether a data directory has the right of the owner of a location, if it has one. Blocking.
pub fn is_ours(data_dir: &Path, location: &str, owner: Option<&Owner>) -> Result<bool> {
    let Some(owner) = owner else { return Ok(false) };
    Ok(Standing::of(data_dir, location)?.rights.get(location) == Some(&owner.right))
}

/// Takes a location over from whoever has it, for the deployment of this data directory. Everything is shipped once
/// more at the next start, which also tells of it in the operators' log. What is ours already stays as it is.
pub async fn adopt(
    store: &Store,
    data_dir: &Path,
    location: &str,
    deployment: &str,
    now: Timestamp,
) -> Result<Adopted> {
    let before = store.owner().await.map_err(told)?;
    if let Some(owner) = &before
        && is_ours(data_dir, location, Some(owner))?
    {
        return Ok(Adopted { after: owner.clone(), before, was_ours: true });
    }
    let epoch = before.as_ref().map_or(1, |owner| owner.right.epoch.saturating_add(1));
    let owner = owner(epoch, deployment, now);
    let mut standing = Standing::of(data_dir, location)?;
    standing.complete = false;
    standing.rights.insert(location.to_owned(), owner.right.clone());
    // Of a try that came to nothing.
    standing.adoptions.retain(|known| known.location != location || known.epoch != epoch);
    standing.adoptions.push(Adoption {
        id: hex::encode(random::bytes::<8>()),
        location: location.to_owned(),
        epoch,
        deployment_before: before.as_ref().map(|owner| owner.deployment.clone()),
        epoch_before: before.as_ref().map(|owner| owner.right.epoch),
        at: owner.since,
        done: false,
    });
    // First, so that what was made at the store is never without its owner.
    standing.write(data_dir)?;
    let after = store.take(&owner).await.map_err(told)?;
    if after.right != owner.right {
        return Err(told(belongs_to(&after)));
    }
    if let Some(last) = standing.adoptions.last_mut() {
        last.done = true;
    }
    standing.write(data_dir)?;
    Ok(Adopted { before, after, was_ours: false })
}

fn owner(epoch: u64, deployment: &str, now: Timestamp) -> Owner {
    let claim = hex::encode(random::bytes::<16>());
    Owner { right: Claim { epoch, claim }, deployment: deployment.to_owned(), since: now.to_utc() }
}

fn belongs_to(owner: &Owner) -> replica::Error {
    replica::Error::Superseded(format!("backup.url belongs to another deployment: {}", owner.described()))
}

impl Backups {
    /// Refuses to start on a location that is somebody else's. One that does not answer is asked again before the
    /// first file is shipped.
    pub async fn require_location(&self) -> Result<()> {
        match tokio::time::timeout(PATIENCE, self.0.require_owner_now()).await {
            Ok(Err(error @ replica::Error::Superseded(_))) => Err(told(error)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "whose the store of the backup is will be asked later");
                Ok(())
            }
            Ok(Ok(())) => Ok(()),
            Err(_) => {
                tracing::warn!("the store of the backup does not answer; whose it is will be asked later");
                Ok(())
            }
        }
    }

    /// Locations that were taken over for this data directory, and of which no log tells yet.
    #[must_use]
    pub fn adoptions(&self) -> Vec<Adoption> {
        let ownership = &self.0.ownership;
        let right = ownership.known().right.clone();
        let standing = Standing::read(&ownership.data_dir).unwrap_or_else(|error| {
            // The next start tells of them.
            tracing::warn!(?error, "whether the store was taken over is not looked at");
            None
        });
        let mut adoptions = standing.map(|known| known.adoptions).unwrap_or_default();
        // The command may have been killed before the store had it. Then this start has made up for it, if it could: the
        // right that the store has confirmed is the one that was taken, and not an older one.
        let is_here = |known: &Adoption| {
            known.location == ownership.location && right.as_ref().is_some_and(|right| right.epoch == known.epoch)
        };
        adoptions.retain(|known| known.done || is_here(known));
        adoptions
    }

    /// A log tells of these.
    pub fn adoptions_told(&self, told: &[Adoption]) -> Result<()> {
        self.0.ownership.change(|standing| {
            standing.adoptions.retain(|known| told.iter().all(|told| told.id != known.id));
        })
    }

    /// Why nothing is shipped any more, if somebody took the location over.
    #[must_use]
    pub fn superseded(&self) -> Option<String> {
        self.0.ownership.known().lost.clone()
    }
}

impl Inner {
    /// Before something is shipped.
    pub(super) async fn require_owner(&self) -> replica::Result<()> {
        {
            let known = self.ownership.known();
            if known.lost.is_none() && known.checked.is_some_and(|checked| checked.elapsed() < BELIEVED) {
                return Ok(());
            }
        }
        self.require_owner_now().await
    }

    /// Asks the store.
    pub(super) async fn require_owner_now(&self) -> replica::Result<()> {
        let right = {
            let known = self.ownership.known();
            if let Some(lost) = &known.lost {
                return Err(replica::Error::Superseded(lost.clone()));
            }
            known.right.clone()
        };
        let asked = Instant::now();
        let outcome = match right {
            Some(right) => match self.store.successor(&right).await? {
                Some(other) => Err(belongs_to(&other)),
                None => Ok(None),
            },
            None => self.first_owner().await.map(Some),
        };
        let mut known = self.ownership.known();
        match outcome {
            Ok(first) => {
                known.checked = Some(asked);
                if let Some(first) = first {
                    known.since = Some(first.since);
                    known.right = Some(first.right);
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, replica::Error::Superseded(_)) {
                    tracing::error!(%error, "nothing is backed up any more");
                    known.lost = Some(error.to_string());
                }
                Err(error)
            }
        }
    }

    /// Shows our right, or takes a location that nobody has.
    async fn first_owner(&self) -> replica::Result<Owner> {
        let ownership = &self.ownership;
        let standing = Standing::of(&ownership.data_dir, &ownership.location).map_err(unreadable)?;
        let right = match standing.rights.get(&ownership.location).cloned() {
            Some(right) => right,
            None => {
                if let Some(other) = self.store.owner().await? {
                    return Err(belongs_to(&other));
                }
                let new = owner(1, &ownership.deployment, self.clock.now()).right;
                // Of two who ask at once, one takes it, for both.
                let take =
                    |standing: &mut Standing| standing.rights.entry(ownership.location.clone()).or_insert(new).clone();
                ownership.change(take).map_err(unreadable)?
            }
        };
        let mine = Owner { right, ..owner(1, &ownership.deployment, self.clock.now()) };
        let there = self.store.take(&mine).await?;
        if there.right != mine.right {
            return Err(belongs_to(&there));
        }
        match self.store.successor(&mine.right).await? {
            Some(other) => Err(belongs_to(&other)),
            None => Ok(there),
        }
    }

    /// Whether a file that is not ours may be the last one of whoever had the location before.
    pub(super) fn may_be_last_words(&self) -> bool {
        let now = self.clock.now().to_utc();
        let known = self.ownership.known();
        let is_new = known.since.is_some_and(|since| (now - since).to_std().is_ok_and(|age| age < LAST_WORDS));
        is_new && known.right.as_ref().is_some_and(|right| right.epoch > 1)
    }

    /// Whether the location has everything.
    pub(super) fn is_complete(&self) -> Result<bool> {
        Ok(Standing::of(&self.ownership.data_dir, &self.ownership.location)?.complete)
    }

    pub(super) fn completed(&self) -> Result<()> {
        self.ownership.change(|standing| standing.complete = true)
    }
}
