//! What may go: `EnforceSnapshotRetention`, `EnforceRetentionByTXID` and `EnforceL0Retention` of
//! litestream's compactor.go.

use super::plan::{in_order, snapshots};
use super::{Item, Replica, Result, SNAPSHOT_LEVEL};
use crate::ltx::Txid;
use chrono::{DateTime, Utc};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a file of level 0 stays although level 1 has it. Litestream: 5 minutes.
    pub l0_after: Duration,
    /// How far back a restore reaches. Litestream: 24 hours.
    pub snapshots: Duration,
    /// Whether that promise is kept to the letter, by keeping one snapshot more: the newest of those that
    /// are too old. Litestream does not, so right after a daily snapshot its replica reaches back to that
    /// snapshot only.
    pub whole_window: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { l0_after: Duration::from_secs(5 * 60), snapshots: Duration::from_secs(24 * 3600), whole_window: true }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retained {
    pub deleted: Vec<Item>,
    /// Below it nothing is promised.
    pub oldest_snapshot: Option<Txid>,
}

/// Deletes what `rules` no longer promise. It may be interrupted anywhere and run again: snapshots go
/// first, so that a point is refused from then on and never restored from half of its files.
///
/// Ages are those of the list: in a bucket since a file was stored, which is never too short.
pub async fn retain(replica: &Replica, rules: Rules, now: DateTime<Utc>) -> Result<Retained> {
    let items = replica.list_all().await?;
    let (oldest_snapshot, expired) = choose(&items, rules, now);
    for part in &expired {
        replica.delete(part).await?;
    }
    replica.sweep(before(now, Duration::from_secs(24 * 3600))).await?;
    Ok(Retained { deleted: expired.into_iter().flatten().collect(), oldest_snapshot })
}

/// When [`retain`] would have something to delete for the first time, if nothing is added until then.
#[must_use]
pub fn next_expiry(items: &[Item], rules: Rules, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let later = |item: &Item| {
        let age = match item.level {
            0 => rules.l0_after,
            SNAPSHOT_LEVEL => rules.snapshots,
            _ => return None,
        };
        item.created_at.checked_add_signed(chrono::Duration::from_std(age).ok()? + chrono::Duration::milliseconds(1))
    };
    let mut moments: Vec<DateTime<Utc>> = items.iter().filter_map(later).map(|moment| moment.max(now)).collect();
    moments.sort();
    moments.dedup();
    moments.into_iter().find(|moment| choose(items, rules, *moment).1.iter().any(|part| !part.is_empty()))
}

fn before(now: DateTime<Utc>, age: Duration) -> DateTime<Utc> {
    chrono::Duration::from_std(age).ok().and_then(|age| now.checked_sub_signed(age)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// When each of these was made, in the order of their transactions. What is dated in the future comes from a clock that
/// was ahead: it was made no later than what follows it, and no later than now. Otherwise it would be young for as long
/// as that clock was ahead, and keep all that is behind it.
fn made(items: &[&Item], now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let mut latest = now;
    let mut moments: Vec<DateTime<Utc>> = items
        .iter()
        .rev()
        .map(|item| {
            if item.created_at <= now {
                latest = item.created_at;
            }
            latest
        })
        .collect();
    moments.reverse();
    moments
}

/// Dates what is dated in the future as what follows it, as far as that can be told.
pub(super) fn settle(items: &mut [Item], now: DateTime<Utc>) {
    if items.iter().all(|item| item.created_at <= now) {
        return;
    }
    let order = in_order(items);
    let moments = made(&order, now);
    let known: Vec<(Txid, DateTime<Utc>)> = order.iter().map(|item| item.name.max).zip(moments).collect();
    for item in items.iter_mut().filter(|item| item.created_at > now) {
        // A snapshot is followed by what comes after its last transaction.
        let is_own = item.level != SNAPSHOT_LEVEL;
        let after =
            |(txid, _): &&(Txid, DateTime<Utc>)| if is_own { *txid >= item.name.max } else { *txid > item.name.max };
        item.created_at = known.iter().find(after).map_or(now, |(_, made)| *made);
    }
}

/// The oldest snapshot that stays, and what goes, in the order in which it goes.
fn choose(items: &[Item], rules: Rules, now: DateTime<Utc>) -> (Option<Txid>, [Vec<Item>; 3]) {
    let mut kept: Vec<&Item> = snapshots(items).collect();
    kept.sort_by_key(|item| item.name.max);
    let cutoff = before(now, rules.snapshots);
    let first_young = made(&kept, now).iter().position(|made| *made >= cutoff).unwrap_or(kept.len());
    let anchor = if rules.whole_window { first_young.saturating_sub(1) } else { first_young };
    let first_kept = anchor.min(kept.len().saturating_sub(1));
    let old_snapshots: Vec<Item> = kept.iter().take(first_kept).copied().cloned().collect();
    let oldest = kept.get(first_kept).map(|item| item.name.max);

    let mut merged = Vec::new();
    for level in 1..SNAPSHOT_LEVEL {
        let newest = items.iter().filter(|item| item.level == level).map(|item| item.name.max).max();
        merged.extend(items.iter().filter(|item| {
            item.level == level && Some(item.name.max) != newest && oldest.is_some_and(|oldest| item.name.max < oldest)
        }));
    }

    let mut raw: Vec<&Item> = items.iter().filter(|item| item.level == 0).collect();
    raw.sort_by_key(|item| item.name);
    let made = made(&raw, now);
    // Litestream finds its own position by the newest of them (`calcPos`), and starts again at 1 without it.
    raw.pop();
    let cutoff = before(now, rules.l0_after);
    let reached = items.iter().filter(|item| item.level == 1).map(|item| item.name.max).max();
    let raw = raw.into_iter().zip(made).take_while(|(_, made)| *made <= cutoff).map(|(raw, _)| raw).filter(|raw| {
        // Litestream compares with the end of level 1 alone. Where level 1 has a hole, level 0 is all there is.
        let within = |item: &Item| item.name.min <= raw.name.min && raw.name.max <= item.name.max;
        reached.is_some_and(|reached| raw.name.max <= reached)
            && (oldest.is_some_and(|oldest| raw.name.max < oldest)
                || items.iter().any(|item| (1..SNAPSHOT_LEVEL).contains(&item.level) && within(item)))
    });
    let raw = raw.cloned().collect();
    (oldest, [old_snapshots, merged.into_iter().cloned().collect(), raw])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::FileName;

    const HOUR: i64 = 3600;

    fn item(level: u8, min: u64, max: u64, at: i64) -> Item {
        let created_at = DateTime::from_timestamp(at, 0).unwrap();
        Item { level, name: FileName { min: Txid(min), max: Txid(max) }, size: 1, created_at, dated: true }
    }

    fn gone(items: &[Item], rules: Rules, now: i64) -> Vec<(u8, u64, u64)> {
        let (_, parts) = choose(items, rules, DateTime::from_timestamp(now, 0).unwrap());
        parts.iter().flatten().map(|item| (item.level, item.name.min.0, item.name.max.0)).collect()
    }

    #[test]
    fn level_0_goes_once_merged_and_old_but_never_the_newest() {
        let mut items: Vec<Item> =
            (1..=10).map(|txid| item(0, txid, txid, i64::try_from(txid).unwrap() * 60)).collect();
        assert!(gone(&items, Rules::default(), 100 * HOUR).is_empty());
        items.push(item(1, 1, 8, 480));
        assert_eq!(gone(&items, Rules::default(), 600), (1..=5).map(|t| (0, t, t)).collect::<Vec<_>>());
        assert_eq!(gone(&items, Rules::default(), HOUR), (1..=8).map(|t| (0, t, t)).collect::<Vec<_>>());
        items.push(item(1, 9, 10, 600));
        assert_eq!(gone(&items, Rules::default(), HOUR), (1..=9).map(|t| (0, t, t)).collect::<Vec<_>>());
    }

    #[test]
    fn the_next_expiry_is_known_beforehand() {
        let day = 24 * HOUR;
        let next = |items: &[Item], now| {
            let now = DateTime::from_timestamp(now, 0).unwrap();
            next_expiry(items, Rules::default(), now).map(|moment| moment.timestamp())
        };
        let mut items = vec![item(9, 1, 10, 0), item(9, 1, 20, day), item(0, 20, 20, day)];
        // The older one is the beginning of the window until the newer one is.
        assert_eq!(next(&items, day), Some(2 * day));
        assert_eq!(next(&items[1..], 90 * day), None, "the newest state stays");
        items.extend([item(1, 1, 22, 2 * day), item(0, 21, 21, 2 * day), item(0, 22, 22, 2 * day)]);
        assert_eq!(next(&items, 2 * day), Some(2 * day), "now");
        let (_, parts) = choose(&items, Rules::default(), DateTime::from_timestamp(2 * day + 1, 0).unwrap());
        let left: Vec<Item> = items.iter().filter(|item| !parts.concat().contains(item)).cloned().collect();
        assert_eq!(next(&left, 2 * day + 1), Some(2 * day + 300));
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_dated_keeps_nothing_behind_it() {
        let (day, year) = (24 * HOUR, 365 * 24 * HOUR);
        let snapshots = [item(9, 1, 10, 0), item(9, 1, 20, year), item(9, 1, 30, 2 * day), item(9, 1, 40, 4 * day)];
        // As old as what follows it: when that is the beginning of the window, it goes with all before it.
        let now = 4 * day + HOUR;
        assert_eq!(gone(&snapshots, Rules::default(), now), [(9, 1, 10), (9, 1, 20)]);
        // Nothing follows it: it may have been made just now, and the one before it is the beginning of the window.
        assert!(gone(&snapshots[..2], Rules::default(), now).is_empty());
        // One of the past is as old as it says, whatever follows it.
        let wrong = [item(9, 1, 10, 3 * day), item(9, 1, 20, 4 * day), item(9, 1, 30, -year)];
        assert!(gone(&wrong, Rules::default(), 4 * day + HOUR).is_empty());
        // And so on level 0.
        let mut raw: Vec<Item> = (1..=6).map(|t| item(0, t, t, if t == 2 { year } else { 60 })).collect();
        raw.push(item(1, 1, 6, 60));
        assert_eq!(gone(&raw, Rules::default(), HOUR), (1..=5).map(|t| (0, t, t)).collect::<Vec<_>>());
        raw.truncate(2);
        raw.push(item(1, 1, 2, 60));
        assert_eq!(gone(&raw, Rules::default(), HOUR), [(0, 1, 1)]);
    }

    #[test]
    fn what_is_dated_in_the_future_was_made_by_the_time_of_what_follows_it() {
        let now = DateTime::from_timestamp(100, 0).unwrap();
        let mut items = [
            item(0, 1, 1, 10),
            item(0, 2, 2, 5000),
            item(1, 1, 2, 5000),
            item(9, 1, 2, 5010),
            item(0, 3, 3, 30),
            item(0, 4, 4, 6000),
            item(9, 1, 4, 6000),
        ];
        settle(&mut items, now);
        let seconds = items.each_ref().map(|item| item.created_at.timestamp());
        assert_eq!(seconds, [10, 30, 30, 30, 30, 100, 100]);
    }

    #[test]
    fn level_0_stays_where_level_1_has_a_hole() {
        let mut items: Vec<Item> = (1..=10).map(|txid| item(0, txid, txid, 0)).collect();
        items.extend([item(1, 1, 3, 0), item(1, 6, 9, 0)]);
        let expected: Vec<_> = [1, 2, 3, 6, 7, 8, 9].map(|t| (0, t, t)).into();
        assert_eq!(gone(&items, Rules::default(), HOUR), expected);
    }

    #[test]
    fn snapshots_go_by_age_and_take_what_is_below_with_them() {
        let day = 24 * HOUR;
        let items = [
            item(9, 1, 10, 0),
            item(9, 1, 20, day),
            item(9, 1, 30, 2 * day),
            item(1, 1, 10, 0),
            item(1, 11, 20, day),
            item(1, 21, 25, day + HOUR),
            item(1, 26, 31, 2 * day),
            item(2, 1, 10, 0),
            item(2, 11, 15, HOUR),
            item(0, 32, 32, 2 * day),
        ];
        let now = 2 * day + HOUR;
        let litestream = Rules { whole_window: false, ..Rules::default() };
        assert_eq!(
            gone(&items, litestream, now),
            [(9, 1, 10), (9, 1, 20), (1, 1, 10), (1, 11, 20), (1, 21, 25), (2, 1, 10)]
        );
        // The whole of the last 24 hours takes the snapshot before them.
        assert_eq!(gone(&items, Rules::default(), now), [(9, 1, 10), (1, 1, 10), (2, 1, 10)]);
        // The newest stays whatever its age.
        let late = 90 * day;
        assert_eq!(gone(&items[..3], litestream, late), [(9, 1, 10), (9, 1, 20)]);
        assert_eq!(gone(&items[..3], Rules::default(), late), [(9, 1, 10), (9, 1, 20)]);
        assert!(gone(&items[3..], litestream, late).is_empty(), "without a snapshot the chain is all there is");
    }
}
