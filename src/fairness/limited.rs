//! Who was limited lately: for operators, and for metrics.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::time::length;
use crate::base::{Clock, OrganizationId, Timestamp};

/// Organizations that are told apart. Whoever was limited longest ago makes room for another, and counts among the
/// others from then on.
const NAMED: usize = 100;
/// Between two lines in the log about the same limit of the same organization.
const QUIET: Duration = length::minutes(1);
/// Lines in the log in a minute, over all organizations.
const LINES: u32 = 100;

/// A limit of one organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Requests,
    Concurrency,
    Hashing,
    Writes,
}

impl Which {
    pub const ALL: [Self; 4] = [Self::Requests, Self::Concurrency, Self::Hashing, Self::Writes];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Concurrency => "concurrency",
            Self::Hashing => "hashing",
            Self::Writes => "writes",
        }
    }
}

/// How often something was refused by one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    pub which: Which,
    pub refused: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

/// An organization that was limited, and by which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitedOrganization {
    pub organization: OrganizationId,
    pub counts: Vec<Count>,
}

/// The table. It is looked at only where something was refused.
pub struct Limited {
    clock: Clock,
    since: Timestamp,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    named: HashMap<OrganizationId, [Option<Entry>; 4]>,
    /// Refusals of all that have made room.
    others: [u64; 4],
    /// The minute that is counted, and the lines that were written in it.
    lines: (u64, u32),
}

#[derive(Clone, Copy)]
struct Entry {
    refused: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    /// When the log was told last, and how many there were then.
    told: Option<(Duration, u64)>,
}

impl Limited {
    pub(super) fn new(clock: Clock) -> Self {
        Self { since: clock.now(), clock, table: Mutex::default() }
    }

    /// When counting began.
    #[must_use]
    pub const fn since(&self) -> Timestamp {
        self.since
    }

    /// Whoever is named, limited last first; and how often others were refused, by limit.
    #[must_use]
    pub fn list(&self) -> (Vec<LimitedOrganization>, [u64; 4]) {
        let table = self.table();
        let mut list: Vec<LimitedOrganization> = table
            .named
            .iter()
            .map(|(&organization, entries)| LimitedOrganization { organization, counts: counts_of(entries) })
            .collect();
        let last = |one: &LimitedOrganization| one.counts.iter().map(|count| count.last_at).max();
        list.sort_by(|one, other| last(other).cmp(&last(one)).then(one.organization.cmp(&other.organization)));
        (list, table.others)
    }

    /// The same in the text format of Prometheus. A series ends when its organization makes room for another, so
    /// that there are never more than a few hundred.
    #[must_use]
    pub fn exposition(&self) -> String {
        let (list, others) = self.list();
        let mut text = "# HELP bulkhead_limited_total What was refused because of a limit of one organization.\n\
                        # TYPE bulkhead_limited_total counter\n"
            .to_owned();
        let mut line = |organization: &str, which: Which, refused: u64| {
            let which = which.as_str();
            let labels = format!("{{organization=\"{organization}\",limit=\"{which}\"}}");
            let _ = writeln!(text, "bulkhead_limited_total{labels} {refused}");
        };
        for one in list {
            let organization = one.organization.to_string();
            one.counts.iter().for_each(|count| line(&organization, count.which, count.refused));
        }
        Which::ALL.into_iter().zip(others).for_each(|(which, refused)| line("other", which, refused));
        text
    }

    pub(super) fn note(&self, organization: OrganizationId, which: Which) {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let told = {
            let mut table = self.table();
            if !table.named.contains_key(&organization) && table.named.len() >= NAMED {
                table.make_room();
            }
            let minute = elapsed.as_secs() / 60;
            if table.lines.0 != minute {
                table.lines = (minute, 0);
            }
            let may_tell = table.lines.1 < LINES;
            let entry = table.named.entry(organization).or_default()[which as usize].get_or_insert(Entry {
                refused: 0,
                first_at: now,
                last_at: now,
                told: None,
            });
            entry.refused += 1;
            entry.last_at = now;
            let is_due = entry.told.is_none_or(|(at, _)| elapsed.saturating_sub(at) >= QUIET);
            let told = (is_due && may_tell).then(|| {
                let before = entry.told.map_or(0, |(_, refused)| refused);
                entry.told = Some((elapsed, entry.refused));
                entry.refused - before
            });
            table.lines.1 += u32::from(told.is_some());
            told
        };
        if let Some(refused) = told {
            tracing::warn!(%organization, limit = which.as_str(), refused, "an organization is limited");
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Counts whoever was limited longest ago among the others.
    fn make_room(&mut self) {
        let last = |entries: &[Option<Entry>; 4]| entries.iter().flatten().map(|entry| entry.last_at).max();
        let oldest = self.named.iter().min_by_key(|(id, entries)| (last(entries), **id)).map(|(id, _)| *id);
        let Some(entries) = oldest.and_then(|id| self.named.remove(&id)) else { return };
        for (others, entry) in self.others.iter_mut().zip(entries) {
            *others += entry.map_or(0, |entry| entry.refused);
        }
    }
}

fn counts_of(entries: &[Option<Entry>; 4]) -> Vec<Count> {
    let of = |(which, entry): (Which, &Option<Entry>)| {
        entry.map(|entry| Count { which, refused: entry.refused, first_at: entry.first_at, last_at: entry.last_at })
    };
    Which::ALL.into_iter().zip(entries).filter_map(of).collect()
}
