//! What the design promises, measured: each number beside its baseline, both in this run, in turns, because
//! machines differ and the neighbours of a machine come and go.
//!
//! The server is a process of its own with the settings that people start with, driven over loopback. The
//! table goes to standard output as Markdown, what is being done to standard error. `scripts/bench WORD`
//! runs the measurements whose name holds the word.
//!
//! `--organizations N` for another size than 100,000 where many are spoken of; `--quick` for small sizes and few
//! rounds, to see that everything still works; `--json` for programs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
#![allow(clippy::cast_sign_loss)]

mod care;
mod fleet;
mod load;
mod many;
mod meter;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/process.rs"]
mod process;
mod raw;
mod replication;
mod requests;
mod storage;
mod sweep;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/tools.rs"]
mod tools;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/wire.rs"]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

use fleet::{Fleet, Template};
use meter::Line;

/// How large everything is to be, and what several measurements need.
struct Bench {
    organizations: usize,
    quick: bool,
    fleet: Option<Fleet>,
}

impl Bench {
    /// The size that a measurement has, or the one that only shows that it works.
    const fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// As many organizations as are asked for, made when they are needed first.
    fn fleet(&mut self) -> &mut Fleet {
        self.fleet.get_or_insert_with(|| Fleet::make(self.organizations, &Template::newest()))
    }
}

type Measurement = (&'static str, fn(&mut Bench) -> Vec<Line>);

const ALL: [Measurement; 19] = [
    ("session check", |_| requests::session_check()),
    ("sign-in", |_| requests::sign_in()),
    ("latency under sign-ins", |_| requests::latency_under_sign_ins()),
    ("flood", load::flood),
    ("durable writes", load::durable_writes),
    ("creation", |_| storage::creation()),
    ("cold request", |_| storage::cold_request()),
    ("memory", |_| storage::memory()),
    ("restore", care::restore),
    ("export", care::export),
    ("erase", care::erase),
    ("migration", sweep::migration),
    ("replication lag", replication::lag),
    ("beside litestream", replication::beside_litestream),
    // With the many, which take long to make and much room.
    ("many: start", many::start),
    ("many: random access", many::random_access),
    ("many: skewed access", many::skewed_access),
    ("many: idle replication", replication::idle),
    ("many: removal", |bench| {
        bench.fleet = None;
        Vec::new()
    }),
];

/// What is asked for on the command line.
struct Options {
    bench: Bench,
    words: Vec<String>,
    json: bool,
}

impl Options {
    fn read() -> Self {
        let mut options =
            Self { bench: Bench { organizations: 100_000, quick: false, fleet: None }, words: Vec::new(), json: false };
        let (mut arguments, mut is_sized) = (std::env::args().skip(1), false);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--organizations" => {
                    options.bench.organizations = arguments.next().and_then(|n| n.parse().ok()).expect("how many");
                    is_sized = true;
                }
                "--only" => options.words.extend(arguments.next()),
                "--quick" => options.bench.quick = true,
                "--json" => options.json = true,
                // Cargo adds it.
                "--bench" => {}
                unknown if unknown.starts_with('-') => panic!("{unknown} is not known"),
                word => options.words.push(word.to_owned()),
            }
        }
        if options.bench.quick {
            meter::be_quick();
            if !is_sized {
                options.bench.organizations = 400;
            }
        }
        options
    }

    fn wants(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

fn main() -> ExitCode {
    let mut options = Options::read();
    let (started, mut failed) = (Instant::now(), 0);
    if !options.json {
        println!("| what | measured | baseline | ratio | promise | |");
        println!("|---|---|---|---|---|---|");
    }
    for (name, measure) in ALL {
        if !options.wants(name) {
            continue;
        }
        eprintln!("measuring: {name}");
        let began = Instant::now();
        // One that fails leaves the others their turn.
        match catch_unwind(AssertUnwindSafe(|| measure(&mut options.bench))) {
            Ok(lines) if options.json => lines.iter().for_each(|line| println!("{}", line.json())),
            Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
            Err(_) => {
                failed += 1;
                if !options.json {
                    println!("| {name} | **failed** | | | | |");
                }
            }
        }
        eprintln!("  {:.0?}", began.elapsed());
    }
    // Here, because it takes long: a directory of many files.
    options.bench.fleet = None;
    eprintln!("all of it took {:.0?}", started.elapsed());
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
