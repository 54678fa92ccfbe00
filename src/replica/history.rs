//! What a replica can give back.

use super::plan::{in_order, increments, snapshots};
use super::{Item, Replica, Result};
use crate::ltx::Txid;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// From here on every moment can be restored, except in `gaps`; transaction by transaction while level
    /// 0 holds them, later in steps of what was merged.
    pub oldest: Option<Point>,
    pub newest: Option<Point>,
    /// Oldest first.
    pub snapshots: Vec<Item>,
    /// Of the levels that hold something.
    pub levels: Vec<LevelUse>,
    pub bytes: u64,
    /// Transactions between `oldest` and the newest file that cannot be restored.
    pub gaps: Vec<Gap>,
    /// Where the clock was set back, oldest first.
    pub setbacks: Vec<Setback>,
}

/// Two transactions in their order, of which the second is dated earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    pub ahead: Point,
    pub behind: Point,
}

/// A clock that is set right by less than this was not wrong.
const CLOCKS_DIFFER: chrono::TimeDelta = chrono::TimeDelta::seconds(1);
/// Files of a bucket that are asked for their moments, each in a request of its own.
const MOST_ASKED: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    pub txid: Txid,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelUse {
    pub level: u8,
    pub files: usize,
    pub bytes: u64,
}

/// Both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Txid,
    pub to: Txid,
}

pub async fn history(replica: &Replica) -> Result<History> {
    let items = replica.list_all().await?;
    let (ends, gaps) = reach(&items);
    let mut uses: BTreeMap<u8, LevelUse> = BTreeMap::new();
    for item in &items {
        let level = uses.entry(item.level).or_insert(LevelUse { level: item.level, files: 0, bytes: 0 });
        level.files += 1;
        level.bytes += item.size;
    }
    let mut kept: Vec<Item> = snapshots(&items).cloned().collect();
    kept.sort_by_key(|item| item.name.max);
    let (mut oldest, mut newest) = (None, None);
    if let Some((first, last)) = ends {
        oldest = Some(point(replica, &items, first).await?);
        newest = Some(point(replica, &items, last).await?);
    }
    Ok(History {
        oldest,
        newest,
        snapshots: replica.date(kept).await?,
        levels: uses.into_values().collect(),
        bytes: items.iter().map(|item| item.size).sum(),
        gaps,
        setbacks: setbacks(&replica.date(dating(&items)).await?),
    })
}

/// What tells of the clock: all that holds transactions, or where each file has to be asked, the newest of those that
/// hold most.
fn dating(items: &[Item]) -> Vec<Item> {
    if items.iter().all(|item| item.dated) {
        return in_order(items).into_iter().cloned().collect();
    }
    let mut parts: Vec<&Item> = increments(items).collect();
    parts.sort_by_key(|item| (item.name.min, std::cmp::Reverse(item.name.max)));
    let mut reached = Txid(0);
    parts.retain(|item| {
        let goes_on = item.name.max > reached;
        reached = reached.max(item.name.max);
        goes_on
    });
    let rest = parts.len().saturating_sub(MOST_ASKED);
    parts.into_iter().skip(rest).cloned().collect()
}

fn setbacks(dated: &[Item]) -> Vec<Setback> {
    let point = |item: &Item| Point { txid: item.name.max, created_at: item.created_at };
    let between = |pair: &[Item]| match pair {
        [ahead, behind] if ahead.created_at - behind.created_at > CLOCKS_DIFFER => {
            Some(Setback { ahead: point(ahead), behind: point(behind) })
        }
        _ => None,
    };
    dated.windows(2).filter_map(between).collect()
}

/// Every point that can be restored without the files that are left out, oldest first.
pub async fn points(replica: &Replica, left_out: &[Item]) -> Result<Vec<Txid>> {
    let mut items = replica.list_all().await?;
    items.retain(|item| item.is_none_of(left_out));
    Ok(found(&items).points.into_iter().collect())
}

async fn point(replica: &Replica, items: &[Item], txid: Txid) -> Result<Point> {
    let ending: Vec<Item> = items.iter().filter(|item| item.name.max == txid).take(1).cloned().collect();
    let dated = replica.date(ending).await?;
    let created_at = dated.first().map(|item| item.created_at).unwrap_or_default();
    Ok(Point { txid, created_at })
}

/// What leads where.
struct Found<'a> {
    points: BTreeSet<Txid>,
    /// By the point they lead to: the lowest beginning.
    steps: BTreeMap<Txid, Txid>,
    /// Files that lead nowhere, since nothing leads to them.
    unused: Vec<&'a Item>,
}

fn found(items: &[Item]) -> Found<'_> {
    let mut points: BTreeSet<Txid> = snapshots(items).map(|item| item.name.max).collect();
    let mut parts: Vec<&Item> = increments(items).collect();
    // A file is of use if a point lies at its beginning or inside it; such a point ends before the file
    // does, so in this order it is known by then.
    parts.sort_by_key(|item| (item.name.max, item.name.min));
    let mut steps: BTreeMap<Txid, Txid> = BTreeMap::new();
    let mut unused: Vec<&Item> = Vec::new();
    for item in parts {
        let before = Txid(item.name.min.0.saturating_sub(1));
        if before == Txid(0) || points.range(before..item.name.max).next().is_some() {
            points.insert(item.name.max);
            let lowest = steps.entry(item.name.max).or_insert(item.name.min);
            *lowest = item.name.min.min(*lowest);
        } else {
            unused.push(item);
        }
    }
    Found { points, steps, unused }
}

/// The oldest and the newest point that can be restored, and what is missing between.
fn reach(items: &[Item]) -> (Option<(Txid, Txid)>, Vec<Gap>) {
    let oldest_snapshot = snapshots(items).map(|item| item.name.max).min();
    let Found { points, steps, unused } = found(items);
    let mut gaps = Vec::new();
    let mut gap = |from: Txid, next: Txid| {
        if next > from {
            gaps.push(Gap { from, to: Txid(next.0.saturating_sub(1)) });
        }
    };
    let mut ends: Option<(Txid, Txid)> = None;
    for &txid in &points {
        ends = match ends {
            None => Some((txid, txid)),
            Some((first, last)) if steps.get(&txid).is_some_and(|min| *min <= last.next()) => Some((first, txid)),
            // Below the oldest snapshot retention leaves the last file of a level as an island.
            Some(_) if oldest_snapshot.is_some_and(|oldest| txid <= oldest) => Some((txid, txid)),
            Some((first, last)) => {
                gap(last.next(), txid);
                Some((first, txid))
            }
        };
    }
    let last = ends.map_or(Txid(0), |(_, last)| last);
    if let Some(next) = unused.iter().filter(|item| item.name.max > last).map(|item| item.name.min).min() {
        gap(last.next(), next);
    }
    (ends, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::FileName;

    fn item(level: u8, min: u64, max: u64) -> Item {
        let created_at = DateTime::from_timestamp(i64::try_from(max).unwrap(), 0).unwrap();
        Item { level, name: FileName { min: Txid(min), max: Txid(max) }, size: 1, created_at, dated: true }
    }

    fn ends(items: &[Item]) -> Option<(u64, u64)> {
        reach(items).0.map(|(first, last)| (first.0, last.0))
    }

    fn gaps(items: &[Item]) -> Vec<(u64, u64)> {
        reach(items).1.iter().map(|gap| (gap.from.0, gap.to.0)).collect()
    }

    #[test]
    fn a_chain_and_its_gaps() {
        assert_eq!(ends(&[]), None);
        let chain = [item(0, 1, 1), item(0, 2, 2), item(0, 3, 3)];
        assert_eq!((ends(&chain), gaps(&chain)), (Some((1, 3)), vec![]));
        let merged = [item(1, 1, 10), item(1, 11, 20), item(0, 19, 19), item(0, 20, 20), item(0, 21, 21)];
        assert_eq!((ends(&merged), gaps(&merged)), (Some((10, 21)), vec![]));
        let lost = [item(1, 1, 10), item(1, 21, 30), item(9, 1, 30), item(0, 31, 31)];
        assert_eq!((ends(&lost), gaps(&lost)), (Some((30, 31)), vec![]));
        let lost = [item(9, 1, 10), item(1, 21, 30), item(9, 1, 30), item(0, 31, 31), item(0, 33, 33)];
        assert_eq!((ends(&lost), gaps(&lost)), (Some((10, 31)), vec![(11, 29), (32, 32)]));
        let headless = [item(1, 5, 10)];
        assert_eq!((ends(&headless), gaps(&headless)), (None, vec![(1, 4)]));
        let next_to = [item(0, 1, 1), item(9, 1, 2), item(0, 3, 3)];
        assert_eq!((ends(&next_to), gaps(&next_to)), (Some((2, 3)), vec![]));
    }

    #[test]
    fn a_clock_that_was_set_back_is_told_once() {
        let at = |level, min, max, seconds| Item {
            created_at: DateTime::from_timestamp(seconds, 0).unwrap(),
            ..item(level, min, max)
        };
        let items =
            [at(0, 1, 1, 10), at(0, 2, 2, 900), at(1, 1, 2, 900), at(0, 3, 3, 20), at(1, 3, 4, 30), at(0, 4, 4, 30)];
        let told = |items: &[Item]| -> Vec<_> {
            let found = setbacks(&dating(items));
            found.iter().map(|one| (one.ahead.txid.0, one.behind.txid.0)).collect()
        };
        assert_eq!(told(&items), [(2, 3)]);
        // Where each file has to be asked: those that hold most.
        let undated = items.clone().map(|item| Item { dated: false, ..item });
        assert_eq!(
            dating(&undated).iter().map(|item| (item.level, item.name.max.0)).collect::<Vec<_>>(),
            [(1, 2), (1, 4)]
        );
        assert_eq!(told(&undated), [(2, 4)]);
        assert!(told(&[at(0, 1, 1, 10), at(0, 2, 2, 9), at(0, 3, 3, 9)]).is_empty(), "a second is nothing");
        let many: Vec<Item> = (1..=1000).map(|txid| Item { dated: false, ..item(0, txid, txid) }).collect();
        assert_eq!(dating(&many).len(), MOST_ASKED);
        assert_eq!(dating(&many).last(), many.last());
    }

    #[test]
    fn what_retention_leaves_is_no_gap() {
        let kept = [item(3, 1, 5), item(2, 40, 45), item(9, 1, 50), item(1, 46, 55), item(0, 55, 55), item(0, 56, 56)];
        assert_eq!((ends(&kept), gaps(&kept)), (Some((50, 56)), vec![]));
    }
}
