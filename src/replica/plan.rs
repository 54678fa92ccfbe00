//! Which files make a database as it was: `CalcRestorePlan` of litestream's replica.go.

use super::{Item, SNAPSHOT_LEVEL};
use crate::ltx::{FileName, Txid};
use chrono::{DateTime, SecondsFormat, Utc};

/// The point to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Latest,
    /// As it was when this transaction was committed.
    Txid(Txid),
    /// As it was just before this moment: what was committed at the very moment is left out.
    Time(DateTime<Utc>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    #[error("the replica holds no backup")]
    Empty,
    #[error("that is before the oldest point that can be restored: transaction {txid} of {}", rfc3339(created_at))]
    TooOld { txid: Txid, created_at: DateTime<Utc> },
    #[error("that is after the newest transaction of the replica: {newest}")]
    TooNew { newest: Txid },
    /// Litestream calls it "non-contiguous ltx files".
    #[error("the replica has a gap: transactions {from} to {to} are missing")]
    Gap { from: Txid, to: Txid },
    /// Both may be right: the clock was ahead before, or behind afterwards.
    #[error(
        "the clock was set back between transaction {ahead} ({}) and transaction {behind} ({}), so it cannot be told by \
         time what was committed before that moment; ask for a transaction: up to {} nothing is dated later, and {last} \
         is the last that is dated earlier",
        rfc3339(ahead_at), rfc3339(behind_at), Txid(later.0.saturating_sub(1))
    )]
    ClockWentBack {
        ahead: Txid,
        ahead_at: DateTime<Utc>,
        behind: Txid,
        behind_at: DateTime<Utc>,
        /// The first that is dated later than what was asked for.
        later: Txid,
        /// The last that is dated earlier.
        last: Txid,
    },
    /// Its own file has expired; the neighbours are the ends of `into`.
    #[error("transaction {txid} can no longer be restored alone: it was merged into {into}")]
    Merged { txid: Txid, into: FileName },
}

/// The files to apply, in their order: the newest snapshot that is not past the target, then whatever
/// reaches furthest without a hole, until nothing does. For `Target::Time` the items must be dated.
///
/// Where the clock has only gone forward, this is what litestream does. Of a clock that was set back litestream knows
/// nothing, and stops quietly before the first file that is dated later; here such a time is refused.
pub fn plan(items: &[Item], target: Target) -> Result<Vec<Item>, PlanError> {
    if let Target::Time(time) = target
        && let Some(unclear) = unclear(items, time)
    {
        return Err(unclear);
    }
    let allowed = |item: &Item| match target {
        Target::Latest => true,
        Target::Txid(txid) => item.name.max <= txid,
        Target::Time(time) => item.created_at < time,
    };
    let mut chosen = Vec::new();
    let mut reached = Txid(0);
    if let Some(snapshot) = snapshots(items).filter(|item| allowed(item)).max_by_key(|item| item.name.max) {
        reached = snapshot.name.max;
        chosen.push(snapshot.clone());
    }
    let mut increments: Vec<&Item> = increments(items).collect();
    increments.sort_by_key(|item| item.name.min);
    let mut waiting = increments.iter().copied().filter(|item| allowed(item)).peekable();
    let mut best: Option<&Item> = None;
    while !matches!(target, Target::Txid(txid) if reached >= txid) {
        while let Some(item) = waiting.next_if(|item| item.name.min <= reached.next()) {
            if best.is_none_or(|best| better(best, item)) {
                best = Some(item);
            }
        }
        match best.take().filter(|item| item.name.max > reached) {
            None => break,
            Some(item) => {
                reached = item.name.max;
                chosen.push(item.clone());
            }
        }
    }
    if chosen.is_empty() {
        return Err(no_beginning(items));
    }
    // What follows has no counterpart in litestream for a time (it stops quietly before a hole) and is one
    // undivided "not available" for a transaction.
    let follower = increments.iter().find(|item| item.name.min <= reached.next() && item.name.max > reached);
    let beyond = waiting.peek().map(|item| item.name.min);
    match target {
        Target::Txid(txid) if reached < txid => Err(match (follower, newest(items)) {
            (_, newest) if txid > newest => PlanError::TooNew { newest },
            (Some(follower), _) => PlanError::Merged { txid, into: follower.name },
            (None, _) => hole(items, &chosen, reached, beyond.unwrap_or(txid.next())),
        }),
        Target::Latest => match beyond {
            Some(beyond) if follower.is_none() => Err(hole(items, &chosen, reached, beyond)),
            _ => Ok(chosen),
        },
        // A time that a merged file or a snapshot straddles gives the state before that file: coarse, not wrong. It
        // is a hole if no file at all goes on from here and later ones are there: what is missing may have been
        // committed before that time.
        Target::Time(_) => match increments.iter().map(|item| item.name.min).find(|min| *min > reached.next()) {
            Some(later) if follower.is_none() && (beyond.is_some() || !is_bridged(items, reached, later)) => {
                Err(hole(items, &chosen, reached, beyond.unwrap_or(later)))
            }
            _ => Ok(chosen),
        },
        Target::Txid(_) => Ok(chosen),
    }
}

/// Why it cannot be told what was committed before `time`: something that is dated later is followed by something that
/// is dated earlier. Snapshots say nothing of that, since they are dated when they are taken.
fn unclear(items: &[Item], time: DateTime<Utc>) -> Option<PlanError> {
    let order = in_order(items);
    let later = order.iter().position(|item| item.created_at >= time)?;
    let rest = order.get(later..)?;
    let (pair, last) = (
        rest.windows(2).rev().find_map(|pair| match pair {
            [ahead, behind] if ahead.created_at >= time && behind.created_at < time => Some((*ahead, *behind)),
            _ => None,
        }),
        rest.iter().rev().find(|item| item.created_at < time),
    );
    let ((ahead, behind), last, later) = (pair?, last?, rest.first()?);
    // The same transaction in files of two levels is no sign of anything.
    (last.name.max > later.name.max).then_some(PlanError::ClockWentBack {
        ahead: ahead.name.max,
        ahead_at: ahead.created_at,
        behind: behind.name.max,
        behind_at: behind.created_at,
        later: later.name.min,
        last: last.name.max,
    })
}

/// What holds transactions, in their order.
pub(super) fn in_order(items: &[Item]) -> Vec<&Item> {
    let mut order: Vec<&Item> = increments(items).collect();
    order.sort_by_key(|item| (item.name.max, item.name.min));
    order
}

fn rfc3339(moment: &DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Whether a snapshot leads from `reached` to the increment that begins at `later`.
fn is_bridged(items: &[Item], reached: Txid, later: Txid) -> bool {
    snapshots(items).any(|item| item.name.max > reached && item.name.max.next() >= later)
}

pub(super) fn snapshots(items: &[Item]) -> impl Iterator<Item = &Item> {
    items.iter().filter(|item| item.level == SNAPSHOT_LEVEL && item.name.min == Txid::FIRST)
}

pub(super) fn increments(items: &[Item]) -> impl Iterator<Item = &Item> {
    items.iter().filter(|item| item.level < SNAPSHOT_LEVEL)
}

fn newest(items: &[Item]) -> Txid {
    items.iter().map(|item| item.name.max).max().unwrap_or(Txid(0))
}

/// `restoreCandidateBetter`: furthest, then widest, then most merged, then oldest.
fn better(current: &Item, next: &Item) -> bool {
    let rank = |item: &Item| (item.name.max, std::cmp::Reverse(item.name.min), item.level);
    match rank(next).cmp(&rank(current)) {
        std::cmp::Ordering::Equal => next.created_at < current.created_at,
        order => order.is_gt(),
    }
}

/// Why no file can be the first one.
fn no_beginning(items: &[Item]) -> PlanError {
    let whole = items.iter().filter(|item| item.name.min == Txid::FIRST).min_by_key(|item| item.name.max);
    match (whole, items.iter().map(|item| item.name.min).min()) {
        (Some(first), _) => PlanError::TooOld { txid: first.name.max, created_at: first.created_at },
        (None, None) => PlanError::Empty,
        (None, Some(first)) => PlanError::Gap { from: Txid::FIRST, to: Txid(first.0.saturating_sub(1)) },
    }
}

/// Why nothing leads from `reached` to `next`. Below the oldest snapshot that is how retention leaves a
/// replica: the last file of a level stays behind as an island.
fn hole(items: &[Item], chosen: &[Item], reached: Txid, next: Txid) -> PlanError {
    let oldest = snapshots(items).min_by_key(|item| item.name.max);
    match oldest {
        Some(oldest) if oldest.name.max > reached && chosen.iter().all(|item| item.level != SNAPSHOT_LEVEL) => {
            PlanError::TooOld { txid: oldest.name.max, created_at: oldest.created_at }
        }
        _ => PlanError::Gap { from: reached.next(), to: Txid(next.0.saturating_sub(1)) },
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
