//! What continuous backup takes: when nobody writes, a commit, and beside the stock litestream.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bulkhead::ltx::Decoder;

use crate::Bench;
use crate::care::has_everything;
use crate::fleet::{Fleet, Template};
use crate::meter::{Line, calm, cpu_of, descriptors_of, idle_cpu_of, median, memory_of, mib, percent, quantile, show};
use crate::process::Server;
use crate::tools::litestream;
use crate::wire::Client;

/// The longest that everything may take to be shipped once.
const PATIENCE: Duration = Duration::from_secs(720);

/// Many organizations that are all replicated, and nobody writes.
pub fn idle(bench: &mut Bench) -> Vec<Line> {
    let seconds = bench.amount(30, 3) as u64;
    let fleet = bench.fleet();
    let server = fleet.deployment().serve();
    calm(server.pid());
    let without = idle_cpu_of(server.pid(), seconds);
    server.stop();
    let replica = fleet.back_up();
    let server = fleet.deployment().serve();
    let (before, started) = (cpu_of(server.pid()), Instant::now());
    let complete = shipped(fleet, &server);
    let (taken, spent) = (started.elapsed(), cpu_of(server.pid()).saturating_sub(before));
    let count = fleet.len();
    let first = Line::plain(
        "the first copy of everything into a folder",
        format!(
            "{:.0} organizations a second, {} CPU each",
            count as f64 / taken.as_secs_f64(),
            show(spent / count as u32)
        ),
        if complete { "" } else { "it was not finished in the time that a run gives it" },
    );
    server.stop();
    if !complete {
        return vec![first];
    }
    // What was shipped long ago is not looked at any more, and so it is after a start.
    let server = fleet.deployment().serve();
    calm(server.pid());
    let with = idle_cpu_of(server.pid(), seconds);
    server.stop();
    fleet.set("BACKUP_URL", "");
    let _ = fs::remove_dir_all(replica);
    let what = format!("{count} organizations that replicate, and nobody writes");
    let line = Line::below(
        &what,
        percent(with),
        &format!("{} without replication", percent(without)),
        with * 100.0,
        1.0,
        "% of a core",
    );
    vec![first, line]
}

/// Until the store has everything.
fn shipped(fleet: &Fleet, server: &Server) -> bool {
    let (mark, started) = (fleet.deployment().data_dir().join("backup.json"), Instant::now());
    let mut told = Instant::now();
    while !has_everything(&mark) {
        if started.elapsed() > PATIENCE {
            return false;
        }
        if told.elapsed() > Duration::from_secs(15) {
            told = Instant::now();
            let state = crate::process::Operator::new(server, &fleet.operator_key).get("/v1/backup").unwrap().json();
            eprintln!("  {} wait to be shipped", state["waiting"]);
        }
        thread::sleep(Duration::from_millis(50));
    }
    true
}

/// How long a commit waits until it is in the store, and what a commit takes with and without it.
pub fn lag(bench: &mut Bench) -> Vec<Line> {
    let (count, seconds) = (bench.amount(500, 20), bench.amount(25, 3));
    let mut fleet = Fleet::make(count, &Template::newest());
    let server = fleet.deployment().serve();
    pace(&fleet, "warming up", 2);
    calm(server.pid());
    let without = pace_and_count(&fleet, &server, "without", seconds);
    server.stop();
    let replica = fleet.back_up();
    let server = fleet.deployment().serve();
    assert!(shipped(&fleet, &server), "the first copy takes too long");
    calm(server.pid());
    let with = pace_and_count(&fleet, &server, SHIPPED, seconds);
    // What was committed last arrives, also where it is late.
    calm(server.pid());
    let (lags, lost) = lags(&fleet, &replica, &with.commits);
    server.stop();
    assert_eq!(lost, 0, "commits that never arrived in the store");
    let (p50, p99) = (median(lags.clone()), quantile(lags, 0.99));
    let what = format!("from commit to store, p99, {count} organizations writing once a second");
    let text = |run: &Run| format!("{} CPU, {} over loopback", show(run.cpu), show(median(run.times.clone())));
    vec![
        Line::below(&what, show(p99), &format!("p50 {}", show(p50)), p99.as_secs_f64(), 2.0, "s"),
        Line::compared(
            &format!("a commit with replication, {:.0} of them a second", with.rate),
            text(&with),
            format!("{} without, {:.0} a second", text(&without), without.rate),
            with.cpu.as_secs_f64() / without.cpu.as_secs_f64(),
        ),
    ]
}

/// What the title of a member begins with that says in which second it was written.
const SHIPPED: &str = "written in second ";

/// Who committed, in which second of the run, and when that was acknowledged.
type Commit = (usize, usize, Duration);

/// What came of a while in which everybody wrote.
struct Run {
    commits: Vec<Commit>,
    times: Vec<Duration>,
    cpu: Duration,
    rate: f64,
}

fn pace_and_count(fleet: &Fleet, server: &Server, what: &str, seconds: usize) -> Run {
    let (before, started) = (cpu_of(server.pid()), Instant::now());
    let (commits, times) = pace(fleet, what, seconds);
    let rate = commits.len() as f64 / started.elapsed().as_secs_f64();
    // What is shipped behind the last commits belongs to them.
    thread::sleep(Duration::from_secs(2));
    let cpu = cpu_of(server.pid()).saturating_sub(before) / u32::try_from(commits.len()).unwrap();
    Run { commits, times, cpu, rate }
}

/// Each organization writes once a second, one after the other within it.
fn pace(fleet: &Fleet, what: &str, seconds: usize) -> (Vec<Commit>, Vec<Duration>) {
    const CLIENTS: usize = 8;
    let (count, started) = (fleet.len(), Instant::now());
    let work = |first: usize| {
        let mut client = Client::new(fleet.deployment().port);
        let (mut commits, mut times) = (Vec::new(), Vec::new());
        for second in 0..seconds {
            for n in (first..count).step_by(CLIENTS) {
                let due = Duration::from_secs_f64(second as f64 + n as f64 / count as f64);
                thread::sleep(due.saturating_sub(started.elapsed()));
                let request = fleet.write(n, &format!("{what}{second:05}"));
                let asked = Instant::now();
                let answer = client.send_bytes(&request).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                times.push(asked.elapsed());
                commits.push((n, second, since_1970()));
            }
        }
        (commits, times)
    };
    thread::scope(|scope| {
        let hands: Vec<_> = (0..CLIENTS).map(|first| scope.spawn(move || work(first))).collect();
        let all: Vec<_> = hands.into_iter().map(|hand| hand.join().unwrap()).collect();
        let (commits, times): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (commits.concat(), times.concat())
    })
}

/// For each commit, how much later a file that has it, or one after it, stood in the store under its name, which is the
/// time of change of the file; and how many are in no file.
fn lags(fleet: &Fleet, replica: &Path, commits: &[Commit]) -> (Vec<Duration>, usize) {
    let shipped: Vec<Vec<(usize, Duration)>> = fleet
        .files()
        .iter()
        .map(|file| {
            let place = replica.join(file.strip_prefix(fleet.deployment().data_dir()).unwrap()).join("ltx/0");
            let files = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
            let mut found: Vec<(usize, Duration)> = files
                .filter_map(|path| {
                    let found = fs::metadata(&path).unwrap();
                    let at = Duration::new(found.ctime().cast_unsigned(), found.ctime_nsec() as u32);
                    Some((last_second_in(&path)?, at))
                })
                .collect();
            found.sort_by_key(|(_, at)| *at);
            found
        })
        .collect();
    let lag = |(n, second, at): &Commit| {
        let first = shipped[*n].iter().find(|(last, _)| last >= second)?;
        Some(first.1.saturating_sub(*at))
    };
    let found: Vec<Duration> = commits.iter().filter_map(lag).collect();
    let lost = commits.len() - found.len();
    (found, lost)
}

/// The last second that a file of the store has something of.
fn last_second_in(path: &Path) -> Option<usize> {
    let mut decoder = Decoder::new(BufReader::new(File::open(path).unwrap())).unwrap();
    let (mut page, mut last) = (Vec::new(), None);
    while decoder.next_page(&mut page).unwrap().is_some() {
        for window in page.windows(SHIPPED.len() + 5).filter(|window| window.starts_with(SHIPPED.as_bytes())) {
            let digits = std::str::from_utf8(&window[SHIPPED.len()..]).ok();
            last = last.max(digits.and_then(|digits| digits.parse().ok()));
        }
    }
    last
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// The same number of files under one `litestream replicate` and under one server.
pub fn beside_litestream(bench: &mut Bench) -> Vec<Line> {
    let (count, seconds) = (bench.amount(1000, 20), bench.amount(20, 3) as u64);
    let mut fleet = Fleet::make(count, &Template::newest());
    let theirs = replicate(&fleet, seconds);
    fleet.back_up();
    let server = fleet.deployment().serve();
    assert!(shipped(&fleet, &server), "the first copy takes too long");
    // Half a minute later come the first merge and the first snapshot of each.
    thread::sleep(Duration::from_secs(if seconds > 10 { 35 } else { 0 }));
    calm(server.pid());
    let just_shipped = state_of(server.pid(), seconds);
    server.stop();
    let server = fleet.deployment().serve();
    calm(server.pid());
    let at_rest = state_of(server.pid(), seconds);
    server.stop();
    let baseline = theirs.map_or("no litestream here".to_owned(), |theirs| format!("{theirs} `litestream replicate`"));
    vec![
        Line::plain(&format!("{count} files replicating, all of them open since"), just_shipped, &baseline),
        Line::plain(&format!("{count} files replicating, none asked for since the start"), at_rest, &baseline),
    ]
}

fn state_of(pid: u32, seconds: u64) -> String {
    let idle = idle_cpu_of(pid, seconds);
    format!("{}, {} descriptors, {}", mib(memory_of(pid)), descriptors_of(pid), percent(idle))
}

/// What the stock litestream takes for the same files once it has copied all of them.
fn replicate(fleet: &Fleet, seconds: u64) -> Option<String> {
    if litestream().arg("version").output().is_err() {
        eprintln!("  left out: there is no litestream; scripts/setup --test installs it");
        return None;
    }
    let directory = fleet.deployment().directory.path();
    let (config, replicas) = (directory.join("litestream.yml"), directory.join("theirs"));
    // It writes into them.
    let copies: Vec<PathBuf> = (0..fleet.len()).map(|n| directory.join(format!("watched/{n}/db.sqlite"))).collect();
    for (file, copy) in fleet.files().iter().zip(&copies) {
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
    let mut text = "dbs:\n".to_owned();
    for (n, file) in copies.iter().enumerate() {
        let replica = replicas.join(n.to_string());
        let (file, replica) = (file.display(), replica.display());
        let _ = write!(text, "  - path: {file}\n    replica:\n      type: file\n      path: {replica}\n");
    }
    fs::write(&config, text).unwrap();
    let log = File::create(directory.join("litestream.log")).unwrap();
    let child = litestream()
        .args(["replicate", "-config"])
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    let process = Process(child.unwrap());
    let started = Instant::now();
    while !(0..copies.len()).all(|n| replicas.join(n.to_string()).join("ltx/0").exists()) {
        assert!(started.elapsed() < Duration::from_secs(180), "litestream does not get through its files");
        thread::sleep(Duration::from_millis(200));
    }
    thread::sleep(Duration::from_secs(if seconds > 10 { 35 } else { 1 }));
    let state = state_of(process.0.id(), seconds);
    drop(process);
    for directory in ["watched", "theirs"].map(|name| directory.join(name)) {
        let _ = fs::remove_dir_all(directory);
    }
    Some(state)
}

/// Ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
