//! F5. The command line: `serve`, what looks after a deployment, and what administers it.
//!
//! It owns arguments, exit codes and what is written to standard output and standard error. A command
//! on data is a request to the `/v1` API and nothing else, whether a server is running, is far away or
//! is stopped (`client.rs`), so that the rules hold however they are reached; no command opens a file
//! of the deployment by itself, but for `catalog rebuild`, without which no server might start. It leaves alone every rule, and every word that the API says.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong use of the command line, 130 interrupted by Ctrl-C.

mod app;
mod args;
mod audit;
mod backup;
mod catalog;
mod client;
mod config;
mod confirm;
mod doctor;
mod encryption;
mod erasure;
mod export;
mod failure;
mod fetch;
mod fleet;
mod healthcheck;
mod inspection;
mod key;
mod keys;
mod limits;
mod litestream;
mod log;
mod member;
mod moving;
mod org;
mod output;
mod password;
mod progress;
mod replication;
mod serve;
#[cfg(test)]
mod tests;
mod transfer;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, Options};
use client::{Client, Intent};
use failure::Failure;
use output::Output;

/// How a command ended that could be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It ran, and what it found is not good: `catalog check`, `org audit verify`, `doctor`.
    Bad,
}

type Outcome = Result<Verdict, Failure>;

/// How long a command that is interrupted may take to end by itself.
const HEARING: std::time::Duration = std::time::Duration::from_secs(10);

/// What every command works with.
struct Context {
    options: Options,
    output: Output,
}

impl Context {
    /// Runs one command on data, and gives the data back however it ends.
    async fn with_client<F>(&self, intent: Intent, command: F) -> Outcome
    where
        F: AsyncFnOnce(&Client) -> Outcome,
    {
        log::warnings(self.output.json);
        let client = Client::open(&self.options, intent).await?;
        let outcome = unless_interrupted(command(&client)).await;
        client.close().await;
        outcome
    }
}

/// Until it ends, or Ctrl-C ends it: then it is dropped, and with it what is half written.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let (heard, hears) = tokio::sync::oneshot::channel();
    let listener = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() && heard.send(()).is_ok() {
            // Whoever reads from a disk that does not answer hears nothing. A second Ctrl-C waits for nobody.
            let _ = tokio::time::timeout(HEARING, tokio::signal::ctrl_c()).await;
            std::process::exit(130);
        }
    });
    let ended = tokio::select! {
        ended = work => ended,
        Ok(()) = hears => Err(Failure::interrupted()),
    };
    // What is still to be closed has the rest of that time.
    if !matches!(&ended, Err(failure) if failure.is_interruption()) {
        listener.abort();
    }
    ended
}

/// Runs the command that `args` spells, the program's name first.
pub async fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error, &args),
    };
    let context = Context { output: Output { json: cli.options.json }, options: cli.options };
    match dispatch(&context, cli.command).await {
        Ok(Verdict::Good) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::FAILURE,
        Err(failure) => {
            context.output.complain(&failure);
            failure.exit_code()
        }
    }
}

/// Help is an answer, anything else is wrong use. Whoever asked for JSON reads nothing else, also where the rest of the
/// line makes no sense.
fn not_understood(error: &clap::Error, args: &[OsString]) -> ExitCode {
    let wants_json = args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--json");
    if wants_json && error.use_stderr() {
        let failure = Failure::wrong_use(error);
        Output { json: true }.complain(&failure);
        return failure.exit_code();
    }
    // Where to print it is gone only with the reader.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

async fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Serve => serve::serve(context).await,
        Command::Org(command) => org::run(context, command).await,
        Command::Member(command) => member::run(context, command).await,
        Command::App(command) => app::run(context, command).await,
        Command::Key(command) => key::run(context, command).await,
        Command::Audit(command) => audit::of_operators(context, command).await,
        Command::Keys(command) => keys::run(context, command).await,
        Command::Catalog(command) => catalog::run(context, command).await,
        Command::Fleet(command) => fleet::run(context, command).await,
        Command::Backup(command) => backup::run(context, command).await,
        Command::Litestream(command) => litestream::run(context, command),
        Command::Config(command) => config::run(context, command),
        Command::Doctor => doctor::run(context).await,
        Command::Healthcheck => healthcheck::run(context).await,
        Command::ImportCheck => export::check_import(),
    }
}

/// Says that the process cannot even begin; for `main`.
pub fn cannot_start(cause: &dyn std::fmt::Display) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: bulkhead cannot start on this machine: {cause}");
    ExitCode::FAILURE
}
