//! Another master key: every key of the ring is wrapped anew, a few at a time, while all are in use.
//!
//! The data keys themselves stay what they are, so nobody notices. What has been done is read off the rows: each says
//! who wrapped it. The new key is on disk before anything is wrapped by it, and one before leaves its file only when no
//! row refers to it and its time has come.

use std::time::Duration;

use super::store::{self, MasterRotation};
use super::{Keyring, Provider, label};
use crate::base::{Error, KeyRotationId, Result, codes};
use crate::crypto::MasterKey;

/// Keys that are wrapped anew in one transaction.
const BATCH: u32 = 32;

/// What a rotation would do.
#[derive(Debug, Clone)]
pub struct MasterPlan {
    /// The key that wraps now; an outside provider may not have told it yet.
    pub from: Option<String>,
    /// The key that will; nothing where it is yet to be made.
    pub to: Option<String>,
    /// Keys to be wrapped anew.
    pub total: i64,
}

/// Who wraps what.
#[derive(Debug, Clone)]
pub struct MasterStatus {
    pub provider: Provider,
    pub current: Option<String>,
    /// Master keys that wrap something or are held, with how many keys they wrap and whether they can unwrap them.
    pub keys: Vec<(String, i64, bool)>,
    pub rotation: Option<MasterRotation>,
    /// Keys that the rotation has not come to.
    pub left: i64,
}

impl Keyring {
    /// What a rotation would do. An outside provider is asked for its current key.
    pub async fn plan_master_rotation(&self) -> Result<MasterPlan> {
        let providers = &self.0.providers;
        let from = providers.current();
        let (to, total) = if providers.makes_keys() {
            tokio::task::block_in_place(|| providers.check_writable())?;
            (None, self.0.database.read(|db| store::count_not_by(db, "")).await?)
        } else {
            let to = providers.require_current().await?;
            let total = self.0.database.read(|db| store::count_not_by(db, &to)).await?;
            (Some(to), total)
        };
        Ok(MasterPlan { from, to, total })
    }

    /// Begins a rotation. The new key is made by [`Keyring::rewrap`], which can be begun again at any time.
    pub async fn begin_master_rotation(&self, id: KeyRotationId, retire_now: bool) -> Result<MasterRotation> {
        let plan = self.plan_master_rotation().await?;
        if plan.total == 0 && !self.0.providers.makes_keys() {
            let detail = match self.0.providers.kind {
                Provider::Env => {
                    "Every data key is wrapped by the current master key. To change it, set BULKHEAD_KEYS_MASTER_KEY to \
                     a new one and BULKHEAD_KEYS_PREVIOUS_MASTER_KEY to this one, restart, and rotate then."
                }
                _ => "Every data key is wrapped by the provider's current key. Change it there first.",
            };
            return Err(Error::new(&codes::KEY_ROTATION_NOT_NEEDED).detail(detail));
        }
        self.0
            .database
            .write(|db| {
                if let Some(last) = store::master_rotation(db)?.filter(|last| last.retired_at.is_none()) {
                    let detail = if last.ended_at.is_some() {
                        format!("{} is done, and the key before is kept for backups until its time has come.", last.id)
                    } else {
                        format!("{} is running already.", last.id)
                    };
                    return Err(Error::new(&codes::KEY_ROTATION_RUNNING).detail(detail));
                }
                // An empty target is one that is yet to be made.
                let target = plan.to.as_deref().unwrap_or_default();
                store::insert_master_rotation(db, id, target, retire_now, plan.total)?;
                store::master_rotation(db)?.ok_or_else(|| Error::internal("a rotation vanished"))
            })
            .await
    }

    /// The newest rotation.
    pub async fn master_rotation(&self) -> Result<Option<MasterRotation>> {
        self.0.database.read(store::master_rotation).await
    }

    /// Wraps everything anew that is not wrapped by the rotation's key, until it `is_over`; tells whether it came to its
    /// end. Can be ended anywhere, and goes on from there.
    pub async fn rewrap(&self, rotation: &MasterRotation, is_over: impl Fn() -> bool) -> Result<bool> {
        let target = self.target_of(rotation).await?;
        let (mut place, mut failed) = ((String::new(), 0), None);
        loop {
            if is_over() {
                return Ok(false);
            }
            let batch = self.0.database.read(|db| store::not_by(db, &target, &place, BATCH)).await?;
            let Some(last) = batch.last() else { break };
            place = (last.name.clone(), last.version);
            let mut wrapped = Vec::with_capacity(batch.len());
            for kept in batch {
                let name = label(&kept.name, kept.version);
                // One that cannot be unwrapped keeps the others from nothing but the end.
                match self.unwrap(&kept).await {
                    Ok(key) => {
                        let (bytes, by) = self.0.providers.wrap(&name, &key).await?;
                        if by != target {
                            return Err(Error::new(&codes::KEY_UNAVAILABLE)
                                .because(format!("the provider changed its key meanwhile, to {by}")));
                        }
                        wrapped.push((kept, bytes));
                    }
                    Err(error) => failed = Some((name, error)),
                }
            }
            self.0
                .database
                .write(|db| {
                    wrapped.iter().try_for_each(|(kept, bytes)| store::rewrap(db, kept, bytes, &target).map(drop))
                })
                .await?;
            tokio::task::yield_now().await;
        }
        match failed {
            Some((name, error)) => {
                Err(Error::internal(format!("the data key of {name} cannot be unwrapped")).source(error))
            }
            None => Ok(true),
        }
    }

    /// The key that a rotation leads to; made now, if it is ours to make and was not yet.
    async fn target_of(&self, rotation: &MasterRotation) -> Result<String> {
        let providers = &self.0.providers;
        if !providers.makes_keys() {
            let current = providers.require_current().await?;
            if current != rotation.target {
                self.0.database.write(|db| store::set_target(db, rotation.id, &current)).await?;
            }
            return Ok(current);
        }
        // It is in the file before it wraps anything: one that is not there has wrapped nothing, and another will do.
        if providers.current().as_ref() == Some(&rotation.target) {
            return Ok(rotation.target.clone());
        }
        let key = MasterKey::generate();
        let id = key.id();
        self.0.database.write(|db| store::set_target(db, rotation.id, &id)).await?;
        tokio::task::block_in_place(|| providers.adopt(&key))?;
        Ok(id)
    }

    /// Ends a rotation of which nothing is left to do; the keys before may leave their file after `keep`. Tells whether
    /// it has ended.
    pub async fn end_master_rotation(&self, rotation: &MasterRotation, keep: Duration) -> Result<bool> {
        let ended = self
            .0
            .database
            .write(|db| {
                let now = store::master_rotation(db)?.filter(|now| now.id == rotation.id);
                let Some(now) = now else { return Ok(false) };
                // A new organization may have come in between, wrapped by the key before.
                if store::count_not_by(db, &now.target)? > 0 {
                    return Ok(false);
                }
                let keep = if now.retire_now { Duration::ZERO } else { keep };
                store::end_master_rotation(db, now.id, db.now().plus(keep))?;
                Ok(true)
            })
            .await?;
        if ended && let Err(error) = self.0.database.fold().await {
            // What the key before wrapped is overwritten; a reader may keep it in the WAL a little longer.
            tracing::warn!(?error, "the WAL of the keyring could not be folded after a rotation");
        }
        Ok(ended)
    }

    /// Takes the keys before out of their file. Not while one of them is needed: then the rotation goes on, and it is
    /// told that nothing was taken. Blocking on the file.
    pub async fn retire(&self, rotation: &MasterRotation) -> Result<bool> {
        // What was wrapped by one of them is in the ring now, or will be wrapped by another.
        let _none_on_its_way = self.0.wrapping.write().await;
        if self.0.providers.makes_keys() {
            // A key was made while the rotation came to its end.
            if self.0.database.read(|db| store::count_not_by(db, &rotation.target)).await? > 0 {
                self.0.database.write(|db| store::reopen(db, rotation.id)).await?;
                return Ok(false);
            }
            tokio::task::block_in_place(|| self.0.providers.keep_only(std::slice::from_ref(&rotation.target)))?;
        }
        self.0.database.write(|db| store::set_retired(db, rotation.id)).await?;
        Ok(true)
    }

    /// Lets the keys before go as soon as nothing here refers to them.
    pub async fn retire_soon(&self, rotation: &MasterRotation) -> Result<()> {
        self.0.database.write(|db| store::retire_now(db, rotation.id)).await
    }

    /// Notes what keeps a rotation from going on, or that nothing does.
    pub async fn note_master_error(&self, id: KeyRotationId, error: Option<&str>) -> Result<()> {
        self.0.database.write(|db| store::set_master_error(db, id, error)).await
    }

    /// Who wraps what.
    pub async fn master_status(&self) -> Result<MasterStatus> {
        let providers = &self.0.providers;
        let (wrapped, rotation) =
            self.0.database.read(|db| Ok((store::by_master(db)?, store::master_rotation(db)?))).await?;
        let mut keys: Vec<(String, i64, bool)> = wrapped
            .iter()
            .map(|(id, count)| (id.clone(), *count, providers.has(id)))
            .chain(
                providers
                    .held()
                    .into_iter()
                    .filter(|id| !wrapped.iter().any(|(own, _)| own == id))
                    .map(|id| (id, 0, true)),
            )
            .collect();
        let current = providers.current().or_else(|| {
            // What wrapped last, until the provider tells.
            let outside = wrapped.iter().filter(|(id, _)| !super::Providers::is_here(id));
            outside.max_by_key(|(_, count)| *count).map(|(id, _)| id.clone())
        });
        keys.sort_by_key(|(id, ..)| (Some(id) != current.as_ref(), id.clone()));
        let left = match &rotation {
            Some(rotation) if rotation.ended_at.is_none() => {
                wrapped.iter().filter(|(id, _)| *id != rotation.target).map(|(_, count)| count).sum()
            }
            _ => 0,
        };
        Ok(MasterStatus { provider: providers.kind, current, keys, rotation, left })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Keyring, Settings};
    use super::*;
    use crate::base::{Clock, OrganizationId, Timestamp};
    use crate::crypto::random;
    use crate::keyring::provider::file;
    use crate::sqlite::Backup;
    use std::path::Path;

    fn open(directory: &Path) -> Keyring {
        let path = directory.join("master.key");
        if !path.exists() {
            file::make(&path).unwrap();
        }
        let keys = file::read(&path).unwrap();
        let first = keys.first().unwrap().clone();
        let settings = Settings { provider: Provider::File, keys, file: Some(path), ..Settings::from(first) };
        Keyring::open(directory, settings, Clock::manual(Timestamp::from_seconds(1)), Backup::None).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_master_key_stays_for_what_it_has_wrapped_a_moment_ago() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let ring = open(directory.path());
        let organization = OrganizationId::from_bits(7);
        let name = organization.to_string();
        let id: KeyRotationId = random::id(Timestamp::from_seconds(1));
        // Somebody makes an organization: its key is wrapped, and not in the ring yet.
        let fresh = ring.fresh(&name, 1).await.unwrap();
        let rotation = ring.begin_master_rotation(id, true).await.unwrap();
        assert!(ring.rewrap(&rotation, || false).await.unwrap());
        let rotation = ring.master_rotation().await.unwrap().unwrap();
        assert!(ring.end_master_rotation(&rotation, Duration::ZERO).await.unwrap());
        // Everything that can be seen is wrapped by the new one. The one before stays all the same.
        let other = ring.clone();
        let retiring = tokio::spawn({
            let rotation = rotation.clone();
            async move { other.retire(&rotation).await }
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((retiring.is_finished(), file::read(&path).unwrap().len()), (false, 2));
        ring.0.database.write(|db| store::insert_first(db, &name, &fresh.wrapped, &fresh.by)).await.unwrap();
        drop(fresh);
        assert!(!retiring.await.unwrap().unwrap(), "it is needed");
        assert_eq!(file::read(&path).unwrap().len(), 2);
        // The rotation goes on, and comes to its end with this one too.
        let rotation = ring.master_rotation().await.unwrap().unwrap();
        assert!(rotation.ended_at.is_none() && rotation.retired_at.is_none());
        assert!(ring.rewrap(&rotation, || false).await.unwrap());
        assert!(ring.end_master_rotation(&rotation, Duration::ZERO).await.unwrap());
        assert!(ring.retire(&rotation).await.unwrap());
        assert_eq!(file::read(&path).unwrap().len(), 1);
        drop(ring);
        // With what is in the file now.
        open(directory.path()).keys(organization).await.unwrap();
    }
}
