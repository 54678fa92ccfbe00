//! The instruments: processor time of a process, medians, and lines of the table.

use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Ticks a second in /proc (proc(5), USER_HZ): the same on every Linux.
const TICKS: f64 = 100.0;

/// One line of the table.
pub struct Line {
    pub what: String,
    pub measured: String,
    pub baseline: String,
    pub ratio: Option<f64>,
    pub promise: Option<Promise>,
}

/// What the design says of a number, and whether it is so.
pub struct Promise {
    text: String,
    kept: bool,
}

impl Line {
    /// A ratio that may be `most`.
    pub fn ratio(what: &str, measured: String, baseline: String, ratio: f64, most: f64) -> Self {
        let promise = Promise { text: format!("≤ {most}"), kept: ratio <= most };
        Self { what: what.to_owned(), measured, baseline, ratio: Some(ratio), promise: Some(promise) }
    }

    /// A ratio that is to be `least`, such as that of two rates.
    pub fn at_least(what: &str, measured: String, baseline: String, ratio: f64, least: f64) -> Self {
        let promise = Promise { text: format!("≥ {least}"), kept: ratio >= least };
        Self { promise: Some(promise), ..Self::ratio(what, measured, baseline, ratio, least) }
    }

    /// A number that is to stay below `limit`, and is no ratio.
    pub fn below(what: &str, measured: String, baseline: &str, value: f64, limit: f64, unit: &str) -> Self {
        let promise = Promise { text: format!("< {limit} {unit}"), kept: value < limit };
        Self { promise: Some(promise), ..Self::plain(what, measured, baseline) }
    }

    /// A ratio of which nothing is promised.
    pub fn compared(what: &str, measured: String, baseline: String, ratio: f64) -> Self {
        Self { promise: None, ..Self::ratio(what, measured, baseline, ratio, ratio) }
    }

    /// A number that is printed and not promised as a ratio.
    pub fn plain(what: &str, measured: String, baseline: &str) -> Self {
        Self { what: what.to_owned(), measured, baseline: baseline.to_owned(), ratio: None, promise: None }
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "what": self.what,
            "measured": self.measured,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "promise": self.promise.as_ref().map(|promise| &promise.text),
            "kept": self.promise.as_ref().map(|promise| promise.kept),
        })
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, measured, baseline) = (&self.what, &self.measured, &self.baseline);
        let ratio = self.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
        write!(f, "| {what} | {measured} | {baseline} | {ratio} | ")?;
        match &self.promise {
            Some(promise) => write!(f, "{} | {} |", promise.text, if promise.kept { "kept" } else { "**missed**" }),
            None => write!(f, "| |"),
        }
    }
}

/// User and system time that a process has used, all threads together, to 10 ms.
pub fn cpu_of(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name in parentheses may hold anything; the fields count from behind it.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = [fields[11], fields[12]].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    Duration::from_secs_f64(ticks / TICKS)
}

/// Resident memory of a process, in bytes.
pub fn memory_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// The part of a core that a process takes over a while in which nobody asks it for anything.
pub fn idle_cpu_of(pid: u32, seconds: u64) -> f64 {
    let (before, started) = (cpu_of(pid), Instant::now());
    thread::sleep(Duration::from_secs(seconds));
    cpu_of(pid).saturating_sub(before).as_secs_f64() / started.elapsed().as_secs_f64()
}

/// Waits until a process has nothing left to do that it does by itself; two minutes at the most.
pub fn calm(pid: u32) {
    let calm = (0..60).any(|_| idle_cpu_of(pid, 2) < 0.03);
    if !calm {
        eprintln!("  the process does not come to rest");
    }
}

/// Descriptors that a process holds.
pub fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What a process spends on each of `count` runs.
pub fn cpu_each(pid: u32, count: u32, mut work: impl FnMut()) -> Duration {
    let before = cpu_of(pid);
    for _ in 0..count {
        work();
    }
    cpu_of(pid).saturating_sub(before) / count
}

/// How long each of `count` runs takes.
pub fn times(count: usize, mut work: impl FnMut(usize)) -> Vec<Duration> {
    (0..count)
        .map(|n| {
            let started = Instant::now();
            work(n);
            started.elapsed()
        })
        .collect()
}

/// The value below which this part of all values lies.
pub fn quantile(mut values: Vec<Duration>, part: f64) -> Duration {
    values.sort_unstable();
    values[((values.len() - 1) as f64 * part).round() as usize]
}

pub fn median(values: Vec<Duration>) -> Duration {
    quantile(values, 0.5)
}

static QUICK: AtomicBool = AtomicBool::new(false);

/// Few rounds from now on: to see that everything still works.
pub fn be_quick() {
    QUICK.store(true, Ordering::Relaxed);
}

/// So many rounds, or few of them.
pub fn rounds_of(rounds: u32) -> u32 {
    if QUICK.load(Ordering::Relaxed) { rounds.min(2) } else { rounds }
}

/// Rounds in which both sides take turns: the medians of both, and of the ratio within a round.
#[derive(Default)]
pub struct Rounds {
    pub measured: Vec<Duration>,
    pub baseline: Vec<Duration>,
}

impl Rounds {
    /// The side that goes first changes, so that neither always follows the other.
    pub fn run(rounds: u32, mut measured: impl FnMut() -> Duration, mut baseline: impl FnMut() -> Duration) -> Self {
        let mut all = Self::default();
        for round in 0..rounds_of(rounds) {
            let (ours, theirs) = if round % 2 == 0 {
                let ours = measured();
                (ours, baseline())
            } else {
                let theirs = baseline();
                (measured(), theirs)
            };
            eprintln!("  {} against {}", show(ours), show(theirs));
            all.measured.push(ours);
            all.baseline.push(theirs);
        }
        all
    }

    pub fn ratio(&self) -> f64 {
        let pairs = self.measured.iter().zip(&self.baseline);
        middle(pairs.map(|(measured, baseline)| measured.as_secs_f64() / baseline.as_secs_f64()).collect())
    }

    pub fn line(self, what: &str, baseline: &str, promise: f64) -> Line {
        let ratio = self.ratio();
        let (measured, base) = (show(median(self.measured)), show(median(self.baseline)));
        Line::ratio(what, measured, format!("{base} {baseline}"), ratio, promise)
    }
}

/// The median of numbers.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn show(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1000.0) }
}

pub fn kib(bytes: u64) -> String {
    format!("{:.0} KiB", bytes as f64 / 1024.0)
}

pub fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / 1_048_576.0)
}

pub fn percent(part: f64) -> String {
    format!("{:.2} % of a core", part * 100.0)
}

pub fn per_second(rate: f64) -> String {
    format!("{rate:.0} a second")
}
