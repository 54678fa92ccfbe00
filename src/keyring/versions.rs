//! Another data key in the place of the one before, and the end of that one.
//!
//! The new version is on disk before anything is sealed with it. The one before stays, to read with, until the
//! organization's file needs it no more, and then for as long as a backup may. Whoever seals anew says when the file is done.

use super::Keyring;
use super::store::{self, DataRotation, Swept};
use crate::base::{Error, KeyRotationId, OrganizationId, Result, Timestamp, codes};

/// Versions that are no longer sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Those that are kept for backups.
    pub kept: i64,
    /// Since when the oldest of them.
    pub oldest: Option<Timestamp>,
    /// Organizations of which one may still be in use.
    pub unfinished: usize,
}

impl Keyring {
    /// Gives an organization a new data key, which seals from now on; returns the versions before and after.
    pub async fn add_version(&self, organization: OrganizationId) -> Result<(u32, u32)> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        let name = organization.to_string();
        let missing = || Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("its data key is not in the keyring");
        let kept = self.0.database.read(|db| store::versions(db, &name)).await?;
        let last = kept.first().ok_or_else(missing)?.version;
        let next = last.checked_add(1).ok_or_else(|| Error::internal("there are no more versions"))?;
        {
            let fresh = self.fresh(&name, next).await?;
            let stored =
                self.0.database.write(|db| store::insert_next(db, &name, last, &fresh.wrapped, &fresh.by)).await?;
            if !stored {
                return Err(missing());
            }
        }
        let found = self.find(&name).await;
        match found {
            Ok(Some((keys, is_here))) => {
                self.0.known.put(organization, keys, self.now(), is_here);
                Ok((last, next))
            }
            Ok(None) => Err(missing()),
            Err(error) => {
                // What is remembered does not know the new one, and whoever has the file open must not go on with it.
                self.0.known.expire(organization);
                Err(error)
            }
        }
    }

    /// The newest version of an organization's key.
    pub async fn newest_version(&self, organization: OrganizationId) -> Result<Option<u32>> {
        let name = organization.to_string();
        let kept = self.0.database.read(|db| store::versions(db, &name)).await?;
        Ok(kept.first().map(|key| key.version))
    }

    /// Nothing in the organization's file is sealed with a version below this one any more.
    pub async fn set_resealed(&self, organization: OrganizationId, below: u32) -> Result<()> {
        self.0.database.write(|db| store::set_resealed(db, &organization.to_string(), below)).await
    }

    /// Organizations of which an older version may still be in use: a rotation was interrupted.
    pub async fn unfinished(&self) -> Result<Vec<OrganizationId>> {
        let names = self.0.database.read(store::unfinished).await?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Organizations with versions that were replaced before this and that their files do not need.
    pub async fn replaced_before(&self, before: Timestamp) -> Result<Vec<(OrganizationId, u32)>> {
        let found = self.0.database.read(|db| store::replaced_before(db, before)).await?;
        Ok(found.into_iter().filter_map(|(name, version)| Some((name.parse().ok()?, version))).collect())
    }

    /// Destroys the versions up to this one, for good: what they sealed cannot be read any more, in any copy.
    pub async fn destroy_up_to(&self, organization: OrganizationId, version: u32) -> Result<usize> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        let name = organization.to_string();
        let below = version.saturating_add(1);
        let destroyed = self
            .0
            .database
            .write(|db| {
                // Never the one that seals.
                let newest = store::versions(db, &name)?.first().map_or(0, |key| key.version);
                store::delete_below(db, &name, below.min(newest))
            })
            .await?;
        let found = self.find(&name).await;
        match found {
            Ok(Some((keys, is_here))) => drop(self.0.known.put(organization, keys, self.now(), is_here)),
            _ => self.0.known.expire(organization),
        }
        self.0.database.fold().await?;
        Ok(destroyed)
    }

    /// What is kept of versions before the newest.
    pub async fn replaced(&self) -> Result<Replaced> {
        let (found, unfinished) =
            self.0.database.read(|db| Ok((store::replaced(db)?, store::unfinished(db)?.len()))).await?;
        Ok(Replaced { kept: found.0, oldest: found.1, unfinished })
    }

    /// How many organizations have a newest key from before this.
    pub async fn count_older_than(&self, before: Timestamp) -> Result<i64> {
        self.0.database.read(|db| store::count_older_than(db, before)).await
    }

    /// Begins to give new keys to all organizations whose keys are from before this.
    pub async fn begin_data_rotation(&self, id: KeyRotationId, before: Timestamp) -> Result<DataRotation> {
        self.0
            .database
            .write(|db| {
                let last = store::data_rotation(db)?;
                if last.is_some_and(|last| last.ended_at.is_none()) {
                    return Err(Error::new(&codes::KEY_ROTATION_RUNNING));
                }
                let rotation = DataRotation {
                    id,
                    before,
                    place: String::new(),
                    total: store::count_older_than(db, before)?,
                    done: 0,
                    skipped: 0,
                    failed: 0,
                    started_at: db.now(),
                    ended_at: None,
                    last_error: None,
                };
                store::insert_data_rotation(db, &rotation)?;
                Ok(rotation)
            })
            .await
    }

    /// The newest sweep.
    pub async fn data_rotation(&self) -> Result<Option<DataRotation>> {
        self.0.database.read(store::data_rotation).await
    }

    /// The organization that a sweep comes to next.
    pub async fn next_of(&self, rotation: &DataRotation) -> Result<Option<OrganizationId>> {
        let found = self.0.database.read(|db| store::older_than(db, rotation.before, &rotation.place, 1)).await?;
        Ok(found.first().and_then(|name| name.parse().ok()))
    }

    /// Notes how it went with one organization.
    pub async fn advance(&self, id: KeyRotationId, at: OrganizationId, swept: &Swept) -> Result<()> {
        self.0.database.write(|db| store::advance(db, id, &at.to_string(), swept)).await
    }

    pub async fn end_data_rotation(&self, id: KeyRotationId) -> Result<()> {
        self.0.database.write(|db| store::end_data_rotation(db, id)).await
    }
}
