//! Whose a location is: one deployment at a time writes there.
//!
//! At the root lie objects `owner/<epoch as 16 hex digits>.json`, each made once and never changed: the newest names
//! the owner. They are made on the condition that there is none of that name, so of two that want a location only one
//! gets it. Whoever takes it over makes the next one, and who was the owner finds it there.

use super::{Error, Result, Store};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

const FOLDER: &str = "owner";

/// The right to write to a location, as the owner keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Counts the owners of the location.
    pub epoch: u64,
    /// Known to the owner's data directory and the location alone.
    pub claim: String,
}

/// What lies at the location.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    #[serde(flatten)]
    pub right: Claim,
    /// The address of the deployment, for people.
    pub deployment: String,
    pub since: DateTime<Utc>,
}

impl Owner {
    /// How messages name somebody else.
    #[must_use]
    pub fn described(&self) -> String {
        let since = self.since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        format!("{} since {since} (epoch {})", self.deployment, self.right.epoch)
    }
}

impl Store {
    /// The newest owner; nothing where nobody ever was.
    pub async fn owner(&self) -> Result<Option<Owner>> {
        let names = self.names(FOLDER).await?;
        let epochs = names.iter().filter_map(|name| epoch_of(name));
        match epochs.max() {
            Some(epoch) => self.owner_in(epoch).await,
            None => Ok(None),
        }
    }

    /// Whoever took the location over from `right`, if somebody did: one small question.
    pub async fn successor(&self, right: &Claim) -> Result<Option<Owner>> {
        match self.owner_in(right.epoch.saturating_add(1)).await? {
            // It may not have been the last.
            Some(next) => Ok(self.owner().await?.or(Some(next))),
            None => Ok(None),
        }
    }

    /// Takes the location in the epoch of `owner`, if nobody has that; tells who has it in the end.
    pub async fn take(&self, owner: &Owner) -> Result<Owner> {
        let bytes = serde_json::to_vec_pretty(owner).map_err(|error| Error::Configuration(error.to_string()))?;
        match self.create(&name_of(owner.right.epoch), bytes.into()).await {
            Ok(()) => Ok(owner.clone()),
            // Ours as well, where the answer to an earlier try was lost.
            Err(Error::AlreadyExists { object }) => {
                self.owner_in(owner.right.epoch).await?.ok_or(Error::NotFound { object })
            }
            Err(error) => Err(error),
        }
    }

    async fn owner_in(&self, epoch: u64) -> Result<Option<Owner>> {
        let name = name_of(epoch);
        match self.read(&name).await? {
            Some(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::damaged(name, error)),
            None => Ok(None),
        }
    }
}

fn name_of(epoch: u64) -> String {
    format!("{FOLDER}/{epoch:016x}.json")
}

fn epoch_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}
