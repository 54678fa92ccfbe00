//! A replica without what was before its database was written anew, such as under another key. What was shipped since
//! stays as it is: going back does not end because something older is to be gone.

use std::path::Path;

use super::whole::clear;
use super::{Backups, Destroyed, Source, Target, Txid, told};
use crate::base::{Error, Result, codes};
use crate::replica::{begin_at, points};

impl Backups {
    /// Deletes every copy from before the first one that `is_own`, which is shown databases at `place`, where nothing
    /// is, and may block; all that follow that one are taken to be such as well. Nothing is deleted where none is.
    pub async fn forget_before_own(
        &self,
        source: Source,
        place: &Path,
        is_own: impl Fn(&Path) -> Result<bool>,
    ) -> Result<Option<Destroyed>> {
        let entry = self.0.states.take(source);
        // Nothing is merged meanwhile, and nothing expires. What is shipped is newer than all of this.
        let _turn = entry.tending.lock().await;
        self.0.require_owner_now().await.map_err(told)?;
        let replica = self.replica_of(source)?;
        let mut search = Search::among(points(&replica, &[]).await.map_err(told)?);
        while let Some(point) = search.next() {
            let mut looked = self.look_at(source, point, place, &is_own).await;
            if looked.as_ref().is_err_and(is_lost) {
                // Once more: what went away in the middle of it looks like damage.
                looked = self.look_at(source, point, place, &is_own).await;
            }
            match looked {
                Ok(is_own) => search.note(is_own),
                // It cannot be had back, so nothing is lost with it, and it says nothing of the others.
                Err(error) if is_lost(&error) => search.skip(),
                Err(error) => return Err(error),
            }
        }
        let Some(first) = search.first() else { return Ok(None) };
        let deleted = begin_at(&replica, first, self.scratch()).await.map_err(told)?;
        let mut state = entry.state.lock().await;
        for item in &deleted {
            state.damaged.remove(&(item.level, item.name));
        }
        let objects: Vec<(String, u64)> = deleted.iter().map(|item| (replica.object(item), item.size)).collect();
        let bytes = objects.iter().map(|(_, size)| size).sum();
        Ok(Some(Destroyed { count: objects.len(), bytes, objects }))
    }

    async fn look_at(
        &self,
        source: Source,
        point: Txid,
        place: &Path,
        is_own: &impl Fn(&Path) -> Result<bool>,
    ) -> Result<bool> {
        let restored = self.restore(source, Target::Txid(point), place).await;
        let is_own = restored.and_then(|_| tokio::task::block_in_place(|| is_own(place)));
        clear(place)?;
        is_own
    }
}

/// Whether it cannot be had back.
fn is_lost(error: &Error) -> bool {
    error.is(&codes::BACKUP_DAMAGED) || error.is(&codes::BACKUP_NOT_FOUND)
}

/// The oldest of some points that is as all after it are, found by looking at few of them: first at the newest.
struct Search {
    /// Oldest first.
    points: Vec<Txid>,
    /// So many at the beginning are not.
    others: usize,
    /// The oldest that is known to be.
    own: Option<usize>,
}

impl Search {
    const fn among(points: Vec<Txid>) -> Self {
        Self { points, others: 0, own: None }
    }

    fn at(&self) -> Option<usize> {
        match self.own {
            None => self.points.len().checked_sub(1).filter(|last| *last >= self.others),
            Some(own) => (self.others < own).then(|| self.others.midpoint(own)),
        }
    }

    /// The point to look at next; nothing when it is known.
    fn next(&self) -> Option<Txid> {
        self.at().and_then(|at| self.points.get(at).copied())
    }

    fn note(&mut self, is_own: bool) {
        match self.at() {
            Some(at) if is_own => self.own = Some(at),
            Some(at) => self.others = at + 1,
            None => {}
        }
    }

    /// That one cannot be looked at.
    fn skip(&mut self) {
        if let Some(at) = self.at() {
            self.points.remove(at);
            self.own = self.own.map(|own| own - 1);
        }
    }

    fn first(&self) -> Option<Txid> {
        self.own.and_then(|own| self.points.get(own).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first of points 1 to `count` from which on all are its own, where some cannot be looked at.
    fn first(count: u64, from: u64, lost: &[u64]) -> (Option<u64>, usize) {
        let (mut search, mut looks) = (Search::among((1..=count).map(Txid).collect()), 0);
        while let Some(Txid(point)) = search.next() {
            looks += 1;
            if lost.contains(&point) {
                search.skip();
            } else {
                search.note(point >= from);
            }
        }
        (search.first().map(|txid| txid.0), looks)
    }

    #[test]
    fn only_what_is_from_before_is_forgotten() {
        assert_eq!(first(0, 1, &[]), (None, 0));
        // None is its own: nothing is deleted for the sake of what is not there.
        assert_eq!(first(100, 101, &[]), (None, 1));
        // All are: there is nothing from before.
        assert_eq!(first(100, 1, &[]).0, Some(1));
        for count in [1, 2, 3, 50, 10_000] {
            for from in 1..=count.min(50) {
                let (found, looks) = first(count, from, &[]);
                assert_eq!(found, Some(from), "{from} of {count}");
                assert!(looks <= 15, "{looks} looks among {count}");
            }
        }
        // What is lost is passed over, wherever it is.
        assert_eq!(first(100, 40, &[100, 99, 50, 40, 41, 39]).0, Some(42));
        assert_eq!(first(3, 1, &[1, 2, 3]).0, None);
    }
}
