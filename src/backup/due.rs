//! When a database that rests is looked at again: its old copies expire although nothing is shipped.
//!
//! A journal in the data directory, one line a change, so that a start knows of every database without asking the
//! store for any: `<due in milliseconds> <database>`, where 0 is "never again". A line that a crash cut off is no line.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Source;
use crate::base::time::length;
use crate::base::{Result, Timestamp};
use crate::sqlite::place_file;

const FILE: &str = "backup-due.log";
/// When whoever was taken is due again, if nobody says otherwise: after a failure.
const AGAIN: Duration = length::hours(1);
/// The journal is written anew when it has so many lines more than there are databases, and twice as many.
const SLACK: usize = 1000;

/// What is due when.
pub(super) struct Due {
    path: PathBuf,
    agenda: Mutex<Agenda>,
}

#[derive(Default)]
struct Agenda {
    by_source: HashMap<Source, i64>,
    order: BTreeSet<(i64, Source)>,
    lines: usize,
    file: Option<File>,
    /// There was no journal.
    is_new: bool,
}

impl Due {
    /// Reads the journal, if there is one.
    pub fn load(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        let mut agenda = Agenda::default();
        match std::fs::read(&path) {
            Ok(bytes) => {
                for line in String::from_utf8_lossy(&bytes).split_inclusive('\n') {
                    let fields = line.strip_suffix('\n').and_then(|line| line.split_once(' '));
                    if let Some((due, source)) = fields
                        && let (Ok(due), Some(source)) = (due.parse(), Source::parse(source))
                    {
                        agenda.set(source, Some(due).filter(|due| *due > 0));
                    }
                    agenda.lines += 1;
                }
            }
            Err(_) => agenda.is_new = true,
        }
        Self { path, agenda: Mutex::new(agenda) }
    }

    /// Whether nothing was ever planned here.
    pub fn is_new(&self) -> bool {
        self.agenda().is_new
    }

    /// It is looked at then, or earlier if that was planned.
    pub fn by(&self, source: Source, due: Timestamp) {
        if self.agenda().by_source.get(&source).is_none_or(|planned| *planned > due.millis()) {
            self.plan(source, Some(due));
        }
    }

    /// It is looked at then and not before, or never again.
    pub fn plan(&self, source: Source, due: Option<Timestamp>) {
        let mut agenda = self.agenda();
        let due = due.map(|due| due.millis().max(1));
        if agenda.by_source.get(&source).copied() == due {
            return;
        }
        agenda.set(source, due);
        agenda.is_new = false;
        let line = format!("{} {source}\n", due.unwrap_or(0));
        let written = match agenda.lines > 2 * agenda.by_source.len() + SLACK {
            true => self.rewrite(&mut agenda),
            false => self.append(&mut agenda, &line),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "when copies expire could not be written down");
        }
    }

    /// Whatever is planned for later than `latest`, which nobody plans with the right time, is due when `then` says.
    pub fn bring_forward(&self, latest: Timestamp, then: impl Fn(Source) -> Timestamp) {
        loop {
            let last = self.agenda().order.last().copied();
            match last {
                Some((due, source)) if due > latest.millis() => self.plan(source, Some(then(source).min(latest))),
                _ => return,
            }
        }
    }

    /// The first that is due, taken for now.
    pub fn take(&self, now: Timestamp) -> Option<Source> {
        let mut agenda = self.agenda();
        let (due, source) = agenda.order.first().copied()?;
        if due > now.millis() {
            return None;
        }
        agenda.set(source, Some(now.plus(AGAIN).millis()));
        Some(source)
    }

    fn append(&self, agenda: &mut Agenda, line: &str) -> Result<(), crate::base::Error> {
        let failed = |error| crate::base::Error::internal(self.path.display().to_string()).source(error);
        let file = match &mut agenda.file {
            Some(file) => file,
            none => {
                let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path);
                none.insert(opened.map_err(failed)?)
            }
        };
        agenda.lines += 1;
        file.write_all(line.as_bytes()).map_err(failed)
    }

    fn rewrite(&self, agenda: &mut Agenda) -> Result<()> {
        let mut text = String::new();
        for (due, source) in &agenda.order {
            let _ = writeln!(text, "{due} {source}");
        }
        agenda.file = None;
        place_file(&self.path, text.as_bytes())?;
        agenda.lines = agenda.order.len();
        Ok(())
    }

    fn agenda(&self) -> MutexGuard<'_, Agenda> {
        self.agenda.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agenda {
    fn set(&mut self, source: Source, due: Option<i64>) {
        let before = match due {
            Some(due) => self.by_source.insert(source, due),
            None => self.by_source.remove(&source),
        };
        if let Some(before) = before {
            self.order.remove(&(before, source));
        }
        if let Some(due) = due {
            self.order.insert((due, source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::OrganizationId;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn what_was_planned_is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let of = |n| Source::Organization(OrganizationId::from_bits(n));
        let due = Due::load(directory.path());
        assert!(due.is_new());
        due.by(of(1), at(1000));
        due.by(of(1), at(2000));
        due.plan(of(2), Some(at(500)));
        due.plan(Source::Catalog, Some(at(100)));
        due.plan(Source::Catalog, None);
        // A line that a crash cut off.
        let mut file = OpenOptions::new().append(true).open(directory.path().join(FILE)).unwrap();
        file.write_all(b"700 catal").unwrap();
        let due = Due::load(directory.path());
        assert!(!due.is_new());
        assert_eq!(due.take(at(400)), None);
        assert_eq!(due.take(at(1500)), Some(of(2)));
        assert_eq!(due.take(at(1500)), Some(of(1)));
        assert_eq!(due.take(at(1500)), None, "it was taken");
        // Nobody said when next: after a restart at the latest.
        assert_eq!(Due::load(directory.path()).take(at(1500)), Some(of(2)));
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_planned_is_brought_forward() {
        let directory = tempfile::tempdir().unwrap();
        let of = |n| Source::Organization(OrganizationId::from_bits(n));
        let due = Due::load(directory.path());
        for (n, at_millis) in [(1, 500), (2, 90_000), (3, 90_001)] {
            due.plan(of(n), Some(at(at_millis)));
        }
        due.bring_forward(at(1000), |_| at(700));
        // After a start as well.
        let due = Due::load(directory.path());
        assert_eq!([due.take(at(600)), due.take(at(600))], [Some(of(1)), None]);
        assert_eq!([due.take(at(700)), due.take(at(700)), due.take(at(700))], [Some(of(2)), Some(of(3)), None]);
    }

    #[test]
    fn the_journal_stays_short() {
        let directory = tempfile::tempdir().unwrap();
        let due = Due::load(directory.path());
        for n in 0..10_000 {
            due.plan(Source::Keyring, Some(at(n + 1)));
        }
        assert!(std::fs::read_to_string(directory.path().join(FILE)).unwrap().lines().count() < 2 * SLACK);
        assert_eq!(Due::load(directory.path()).take(at(10_000)), Some(Source::Keyring));
        assert_eq!(Due::load(directory.path()).take(at(9_999)), None);
    }
}
