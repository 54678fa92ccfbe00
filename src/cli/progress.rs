//! How far a long operation is: one line that changes on a terminal, a line now and then in a pipe.

use std::fmt::Write as _;
use std::io::{IsTerminal, stderr};
use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;
use super::output::note;

/// In a pipe, nobody waits for each step.
const EVERY: Duration = Duration::from_secs(5);
/// On a terminal, nobody reads faster.
const BLINK: Duration = Duration::from_millis(100);

const SECOND: Duration = Duration::from_secs(1);

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Organizations,
    Bytes,
}

/// Written to standard error; nothing with `--json`.
pub(super) struct Progress {
    what: &'static str,
    unit: Unit,
    began: Instant,
    /// Done when it began here: a walk may have gone on before.
    from: Option<u64>,
    told: Option<Instant>,
    /// What was waited for when it was told last.
    awaited: &'static str,
    is_terminal: bool,
    quiet: bool,
}

impl Progress {
    pub fn new(what: &'static str, unit: Unit, quiet: bool) -> Self {
        let (began, is_terminal) = (Instant::now(), stderr().is_terminal());
        Self { what, unit, began, from: None, told: None, awaited: "", is_terminal, quiet }
    }

    /// So many are done of so many; 0 where that is not known.
    pub fn at(&mut self, done: u64, total: u64) {
        let from = *self.from.get_or_insert(done);
        let line = |elapsed| line(self.what, self.unit, done, total, done.saturating_sub(from), elapsed);
        let is_due = self.told.is_none_or(|told| told.elapsed() >= if self.is_terminal { BLINK } else { EVERY });
        // The last one of all is always told: it says how long it took.
        if self.quiet || !(is_due || done == total) || (done == 0 && total == 0) {
            return;
        }
        let line = line(self.began.elapsed());
        self.told = Some(Instant::now());
        self.say(&line);
    }

    /// Something of which nothing can be counted: says what is waited for, when that is another thing and now and then.
    /// What is over in a moment is not told.
    pub fn waiting_for(&mut self, what: &'static str) {
        let pause = if self.is_terminal { SECOND } else { EVERY };
        let is_due = self.awaited != what || self.told.is_none_or(|told| told.elapsed() >= pause);
        if self.quiet || !is_due || self.began.elapsed() < SECOND {
            return;
        }
        (self.told, self.awaited) = (Some(Instant::now()), what);
        self.say(&format!("{}: {what}, {} so far", self.what, spoken(self.began.elapsed())));
    }

    /// Takes the changing line away before anything else is said.
    pub fn end(&mut self) {
        if self.is_terminal && !self.quiet && self.told.take().is_some() {
            note("\r\x1b[K");
        }
    }

    /// Nothing is said, since a program reads what comes out.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    fn say(&self, line: &str) {
        note(&if self.is_terminal { format!("\r\x1b[K{line}") } else { format!("{line}\n") });
    }
}

/// Takes the changing line away, however it ended.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Something of which only the one that does it knows how far it is: says that it goes on, and since when.
pub(super) async fn waiting<T>(
    what: &'static str,
    quiet: bool,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut progress = Progress::new(what, Unit::Organizations, quiet);
    let mut work = std::pin::pin!(work);
    let pause = if progress.is_terminal { SECOND } else { EVERY };
    loop {
        match tokio::time::timeout(pause, &mut work).await {
            Ok(ended) => return ended,
            Err(_) if quiet => {}
            Err(_) => {
                progress.told = Some(Instant::now());
                progress.say(&format!("{what}: {} so far", spoken(progress.began.elapsed())));
            }
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(what: &str, unit: Unit, done: u64, total: u64, here: u64, elapsed: Duration) -> String {
    let rate = here as f64 / elapsed.as_secs_f64().max(0.001);
    let count = |count: u64| match unit {
        Unit::Organizations => count.to_string(),
        Unit::Bytes => bytes(count as f64),
    };
    let mut line = format!("{what}: {}", count(done));
    if total > 0 {
        let _ = write!(line, " of {}", count(total));
    }
    if here > 0 && elapsed >= Duration::from_secs(1) {
        let _ = match unit {
            Unit::Organizations => write!(line, ", {rate:.0} a second"),
            Unit::Bytes => write!(line, ", {} a second", bytes(rate)),
        };
        if total > 0 {
            let left = Duration::from_secs_f64((total.saturating_sub(done) as f64 / rate).min(1e9));
            let _ = write!(line, ", {} left", spoken(left));
        }
    }
    line
}

fn bytes(count: f64) -> String {
    match count {
        count if count < 1024.0 => format!("{count:.0} B"),
        count if count < 1_048_576.0 => format!("{:.0} KiB", count / 1024.0),
        count if count < 1_073_741_824.0 => format!("{:.1} MiB", count / 1_048_576.0),
        count => format!("{:.2} GiB", count / 1_073_741_824.0),
    }
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
        let of = |done, total, here| line("checked", Unit::Organizations, done, total, here, Duration::from_secs(2));
        assert_eq!(of(300, 1000, 100), "checked: 300 of 1000, 50 a second, 14 s left");
        assert_eq!(of(0, 1000, 0), "checked: 0 of 1000");
        // Where the end is not known, there is no time left.
        assert_eq!(of(300, 0, 100), "checked: 300, 50 a second");
        let loaded = line("downloaded", Unit::Bytes, 3 << 20, 9 << 20, 2 << 20, Duration::from_secs(2));
        assert_eq!(loaded, "downloaded: 3.0 MiB of 9.0 MiB, 1.0 MiB a second, 6 s left");
        assert_eq!(spoken(Duration::from_secs(600)), "10 min");
    }
}
