//! What the design promises, measured: each number beside its baseline, both in this run, in turns, because
//! machines differ and the neighbours of a machine come and go.
//!
//! The server is a process of its own with the settings that people start with, driven over loopback. The
//! table goes to standard output as Markdown, what is being done to standard error. `scripts/bench WORD`
//! runs the measurements whose name holds the word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod meter;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/process.rs"]
mod process;
mod requests;
mod storage;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/wire.rs"]
mod wire;

use meter::Line;

type Measurement = (&'static str, fn() -> Vec<Line>);

const ALL: [Measurement; 7] = [
    ("session check", requests::session_check),
    ("sign-in", requests::sign_in),
    ("latency under sign-ins", requests::latency_under_sign_ins),
    ("creation", storage::creation),
    ("cold request", storage::cold_request),
    ("memory", storage::memory),
    ("start", storage::start),
];

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let chosen = ALL.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|word| name.contains(word)));
    println!("| what | measured | baseline | ratio | promise | |");
    println!("|---|---|---|---|---|---|");
    for (name, measure) in chosen {
        eprintln!("measuring: {name}");
        for line in measure() {
            println!("{line}");
        }
    }
    println!();
    println!(
        "Medians over rounds in which both sides take turns. CPU is user and system time of the server's process."
    );
}
