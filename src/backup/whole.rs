//! Copies in which every page is in order.
//!
//! What was shipped of a damaged file is what the replica should have, so its checksums say nothing: it is found when it
//! is put together and looked at. A snapshot of such a file hides what the files before it still lead to, so one that is
//! damaged itself is left out where others lead to the same point. Where none do, it is looked for the newest point
//! before that is whole. That one is named, and never given in the place of what was asked for.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::{Backups, Restored, Source, Target, Txid, told};
use crate::base::error::WholePoint;
use crate::base::time::length;
use crate::base::{Error, Result, Timestamp, codes};
use crate::replica::{self, Item, Replica, restore_without};
use crate::sqlite::remove_wal;

/// How many copies are put together at the most to find one that is whole, and for how long another one is begun.
const MOST: u32 = 32;
const PATIENCE: Duration = length::minutes(2);

/// What a try has shown.
enum Tried<T> {
    Whole(T),
    Damaged,
    /// There was neither time nor leave for another one.
    Untried,
}

impl Backups {
    /// Builds a database as it was, at a path where nothing is. `check`, which may block, refuses what is not whole as
    /// `backup_damaged`; the error names the newest point before for which it did not.
    pub async fn restore_whole(
        &self,
        source: Source,
        target: Target,
        out: &Path,
        check: impl Fn(&Path) -> Result<()>,
    ) -> Result<Restored> {
        let Refused { error, mut search, end } = match self.by_any_way(source, target, out, &check).await? {
            Ok(restored) => return Ok(restored),
            Err(refused) => refused,
        };
        let found = match end {
            Ok(end) => search.before(end).await,
            Err(error) => Err(error),
        };
        clear(out)?;
        // What the store or the disk did not do says nothing of the copy.
        let point = found.unwrap_or_else(|error| {
            tracing::warn!(%source, ?error, "which points are whole could not be looked at");
            None
        });
        let more = match &point {
            Some(point) => {
                format!("The newest before it that was found whole is transaction {} of {}.", point.txid, point.at)
            }
            None => "None before it was found whole.".to_owned(),
        };
        let detail = format!("{} {more}", error.public_detail());
        Err(point.into_iter().fold(error.detail(detail), Error::or_whole))
    }

    /// The same for whoever wants no other point.
    pub async fn restore_only_whole(
        &self,
        source: Source,
        target: Target,
        out: &Path,
        check: impl Fn(&Path) -> Result<()>,
    ) -> Result<Restored> {
        match self.by_any_way(source, target, out, &check).await? {
            Ok(restored) => Ok(restored),
            Err(refused) => clear(out).and(Err(refused.end.err().unwrap_or(refused.error))),
        }
    }

    /// By the shortest way, or by another one where that leads to a copy that is damaged.
    async fn by_any_way<'a, C: Fn(&Path) -> Result<()>>(
        &self,
        source: Source,
        target: Target,
        out: &'a Path,
        check: &'a C,
    ) -> Result<Result<Restored, Refused<'a, C>>> {
        let error = match self.checked(source, target, out, check).await {
            Err(error) if error.is(&codes::BACKUP_DAMAGED) => error,
            outcome => return outcome.map(Ok),
        };
        let mut search = self.search(source, out, check)?;
        let end = match search.by_another_way(source, target).await {
            Ok(Ok(restored)) => return Ok(Ok(restored)),
            Ok(Err(end)) => Ok(end),
            Err(other) => Err(other),
        };
        Ok(Err(Refused { error, search, end }))
    }

    async fn checked(
        &self,
        source: Source,
        target: Target,
        out: &Path,
        check: &impl Fn(&Path) -> Result<()>,
    ) -> Result<Restored> {
        let restored = self.restore(source, target, out).await?;
        tokio::task::block_in_place(|| check(out)).map(|()| restored)
    }

    fn search<'a, C>(&self, source: Source, out: &'a Path, check: &'a C) -> Result<Search<'a, C>> {
        let (left_out, sound) = (Vec::new(), Vec::new());
        let until = Instant::now() + PATIENCE;
        Ok(Search { replica: self.replica_of(source)?, out, check, left_out, sound, tries: MOST, until })
    }
}

/// No way leads to a copy that is whole.
struct Refused<'a, C> {
    error: Error,
    search: Search<'a, C>,
    /// Which point that is, or why no other way could be tried.
    end: Result<Txid>,
}

struct Search<'a, C> {
    replica: Replica,
    /// Where copies are put together; nothing is left there but one that is whole.
    out: &'a Path,
    check: &'a C,
    /// Beginnings that are damaged themselves, and such as are not.
    left_out: Vec<Item>,
    sound: Vec<Item>,
    tries: u32,
    until: Instant,
}

impl<C: Fn(&Path) -> Result<()>> Search<'_, C> {
    /// A point of which one copy was refused, by other files; or which point that is, where none lead there.
    async fn by_another_way(&mut self, source: Source, target: Target) -> Result<Result<Restored, Txid>> {
        let steps = replica::steps(&self.replica, target, &[]).await.map_err(told)?;
        let end = steps.last().map_or(Txid(0), |item| item.name.max);
        let Tried::Whole(restored) = self.at(end, true).await? else { return Ok(Err(end)) };
        let left_out = self.left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        tracing::warn!(%source, left_out, "a point was restored without a copy that is damaged");
        Ok(Ok(restored))
    }

    /// The newest that is whole.
    async fn before(&mut self, end: Txid) -> Result<Option<WholePoint>> {
        let mut points = replica::points(&self.replica, &self.left_out).await.map_err(told)?;
        points.retain(|point| *point < end);
        let (mut order, mut found) = (Order::of(points.len()), None);
        while let Some((at, point)) = order.next().and_then(|at| Some((at, *points.get(at)?))) {
            match self.at(point, false).await? {
                Tried::Untried => break,
                Tried::Damaged => order.note(at, false),
                Tried::Whole(Restored { txid, timestamp, .. }) => {
                    order.note(at, true);
                    found = Some(WholePoint { txid: txid.to_string(), at: Timestamp::from_utc(timestamp) });
                }
            }
        }
        Ok(found)
    }

    /// One point, by whichever beginning leads to it. `is_refused`: by the first of them, it was tried already.
    async fn at(&mut self, point: Txid, mut is_refused: bool) -> Result<Tried<Restored>> {
        loop {
            if !std::mem::take(&mut is_refused) {
                let tried = self.once(point).await?;
                if !matches!(tried, Tried::Damaged) {
                    return Ok(tried);
                }
            }
            let target = Target::Txid(point);
            let Ok(steps) = replica::steps(&self.replica, target, &self.left_out).await else {
                return Ok(Tried::Damaged);
            };
            let Some(beginning) = steps.first().filter(|first| !self.sound.contains(first)) else {
                return Ok(Tried::Damaged);
            };
            // Alone it is the same copy that was refused.
            if steps.len() > 1 {
                match self.once(beginning.name.max).await? {
                    Tried::Damaged => {}
                    Tried::Untried => return Ok(Tried::Untried),
                    Tried::Whole(_) => {
                        self.sound.push(beginning.clone());
                        return Ok(Tried::Damaged);
                    }
                }
            }
            self.left_out.push(beginning.clone());
        }
    }

    /// Puts one copy together and looks at it.
    async fn once(&mut self, point: Txid) -> Result<Tried<Restored>> {
        if self.tries == 0 || Instant::now() >= self.until {
            return Ok(Tried::Untried);
        }
        self.tries -= 1;
        clear(self.out)?;
        let restored = restore_without(&self.replica, Target::Txid(point), self.out, &self.left_out).await;
        let outcome = restored
            .map_err(told)
            .and_then(|restored| tokio::task::block_in_place(|| (self.check)(self.out)).map(|()| restored));
        match outcome {
            Ok(restored) => Ok(Tried::Whole(restored)),
            // It may have been merged, or have expired, meanwhile.
            Err(error) if error.is(&codes::BACKUP_DAMAGED) || error.is(&codes::BACKUP_NOT_FOUND) => Ok(Tried::Damaged),
            Err(error) => Err(error),
        }
    }
}

/// Removes a copy that is of no use.
pub(super) fn clear(copy: &Path) -> Result<()> {
    let removed = tokio::task::block_in_place(|| match std::fs::remove_file(copy) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => remove_wal(copy),
    });
    removed.map_err(|error| {
        Error::new(&codes::STORAGE_FAILED).because(format!("cannot remove {}", copy.display())).source(error)
    })
}

/// Which of so many points to try next: from the newest on in ever longer strides, then back to the oldest that is known
/// to be damaged. Whatever has damaged one has mostly damaged all that follow.
struct Order {
    /// The oldest that is damaged; the one after the last, before any was tried.
    damaged: usize,
    /// The newest that is whole.
    whole: Option<usize>,
    stride: usize,
}

impl Order {
    const fn of(count: usize) -> Self {
        Self { damaged: count, whole: None, stride: 1 }
    }

    const fn next(&self) -> Option<usize> {
        match self.whole {
            None if self.damaged == 0 => None,
            None => Some(self.damaged.saturating_sub(self.stride)),
            Some(whole) if self.damaged - whole > 1 => Some(whole.midpoint(self.damaged)),
            Some(_) => None,
        }
    }

    const fn note(&mut self, at: usize, is_whole: bool) {
        if is_whole {
            self.whole = Some(at);
        } else {
            (self.damaged, self.stride) = (at, self.stride.saturating_mul(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found among so many of which these are whole, and how many were tried.
    fn search(count: usize, most: usize, is_whole: impl Fn(usize) -> bool) -> (Option<usize>, usize) {
        let (mut order, mut tries) = (Order::of(count), 0);
        while let Some(at) = order.next().filter(|_| tries < most) {
            assert!(at < count);
            tries += 1;
            order.note(at, is_whole(at));
        }
        (order.whole, tries)
    }

    #[test]
    fn the_newest_whole_one_is_found_without_trying_them_all() {
        assert_eq!(search(0, 32, |_| true), (None, 0));
        assert_eq!(search(100, 32, |_| true), (Some(99), 1));
        assert_eq!(search(100, 32, |_| false).0, None);
        for count in [1, 2, 3, 100, 10_000] {
            for last in [0, count / 3, count - 1] {
                let (found, tries) = search(count, 32, |at| at <= last);
                assert_eq!(found, Some(last), "{last} of {count}");
                assert!(tries <= 28, "{tries} for {last} of {count}");
            }
        }
        // Whatever the order, only one that is whole is named, and the best there is when no more may be tried.
        let (found, _) = search(1000, 32, |at| at % 7 == 3);
        assert!(found.is_some_and(|at| at % 7 == 3), "{found:?}");
        let (found, tries) = search(1000, 12, |at| at < 200);
        assert!(found.is_some_and(|at| at < 200) && tries == 12, "{found:?} after {tries}");
        assert_eq!(search(1000, 3, |at| at < 200), (None, 3));
    }
}
