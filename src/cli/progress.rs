//! How far a long operation is: one line that changes on a terminal, a line now and then in a pipe.

use std::fmt::Write as _;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use tokio::time::Instant;

use super::output::note;

/// In a pipe, nobody waits for each step.
const EVERY: Duration = Duration::from_secs(10);

/// Written to standard error; nothing with `--json`.
pub(super) struct Progress {
    what: &'static str,
    began: Instant,
    /// Done when it began here: a walk may have gone on before.
    from: Option<i64>,
    told: Option<Instant>,
    is_terminal: bool,
    quiet: bool,
}

impl Progress {
    pub fn new(what: &'static str, quiet: bool) -> Self {
        let (began, is_terminal) = (Instant::now(), stderr().is_terminal());
        Self { what, began, from: None, told: None, is_terminal, quiet }
    }

    /// So many are done of so many.
    pub fn at(&mut self, done: i64, total: i64) {
        let from = *self.from.get_or_insert(done);
        let is_due = self.is_terminal || self.told.is_none_or(|told| told.elapsed() >= EVERY);
        if self.quiet || !is_due || total == 0 {
            return;
        }
        self.told = Some(Instant::now());
        let line = line(self.what, done, total, done - from, self.began.elapsed());
        note(&if self.is_terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
    }

    /// Takes the changing line away.
    pub fn end(&self) {
        if self.is_terminal && !self.quiet && self.told.is_some() {
            note("\r\x1b[K");
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(what: &str, done: i64, total: i64, here: i64, elapsed: Duration) -> String {
    let rate = here as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!("{what}: {done} of {total}");
    if here > 0 && elapsed >= Duration::from_secs(1) {
        let left = Duration::from_secs_f64(((total - done).max(0) as f64 / rate).min(1e9));
        let _ = write!(line, ", {rate:.0} a second, {} left", spoken(left));
    }
    line
}

fn spoken(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left_are_of_what_was_done_here() {
        assert_eq!(
            line("checked", 300, 1000, 100, Duration::from_secs(2)),
            "checked: 300 of 1000, 50 a second, 14 s left"
        );
        assert_eq!(line("checked", 0, 1000, 0, Duration::from_secs(2)), "checked: 0 of 1000");
        assert_eq!(spoken(Duration::from_secs(600)), "10 min");
    }
}
