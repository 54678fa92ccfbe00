//! The instruments: processor time of a process, medians, and lines of the table.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// Ticks a second in /proc (proc(5), USER_HZ): the same on every Linux.
const TICKS: f64 = 100.0;

/// One line of the table.
pub struct Line {
    pub what: String,
    pub measured: String,
    pub baseline: String,
    pub ratio: Option<f64>,
    /// The most that the ratio may be.
    pub promise: Option<f64>,
}

impl Line {
    pub fn ratio(what: &str, measured: String, baseline: String, ratio: f64, promise: f64) -> Self {
        Self { what: what.to_owned(), measured, baseline, ratio: Some(ratio), promise: Some(promise) }
    }

    /// A number that is printed and not promised as a ratio.
    pub fn plain(what: &str, measured: String, baseline: &str) -> Self {
        Self { what: what.to_owned(), measured, baseline: baseline.to_owned(), ratio: None, promise: None }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, measured, baseline) = (&self.what, &self.measured, &self.baseline);
        write!(f, "| {what} | {measured} | {baseline} | ")?;
        match (self.ratio, self.promise) {
            (Some(ratio), Some(promise)) => {
                let verdict = if ratio <= promise { "kept" } else { "**missed**" };
                write!(f, "{ratio:.2} | {promise} | {verdict} |")
            }
            (Some(ratio), None) => write!(f, "{ratio:.2} | | |"),
            _ => write!(f, "| | |"),
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
        for round in 0..rounds {
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
        let mut ratios: Vec<f64> = self
            .measured
            .iter()
            .zip(&self.baseline)
            .map(|(measured, baseline)| measured.as_secs_f64() / baseline.as_secs_f64())
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    }

    pub fn line(self, what: &str, baseline: &str, promise: f64) -> Line {
        let ratio = self.ratio();
        let (measured, base) = (show(median(self.measured)), show(median(self.baseline)));
        Line::ratio(what, measured, format!("{base} {baseline}"), ratio, promise)
    }
}

pub fn show(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    if micros < 1000.0 { format!("{micros:.1} µs") } else { format!("{:.2} ms", micros / 1000.0) }
}

pub fn kib(bytes: u64) -> String {
    format!("{:.0} KiB", bytes as f64 / 1024.0)
}
