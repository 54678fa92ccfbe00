//! Where log lines go: standard error, so that standard output holds answers only.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Of a server, as configured.
pub(super) fn of_server(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for eyes, not for files.
    let lines = tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal()).with_env_filter(filter);
    // A second call, from a test in the same process, changes nothing.
    let _ = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
        LogFormat::Text => lines.with_target(false).try_init(),
    };
}

/// Of a command that runs the API in this process: what people should hear of, and nothing that would
/// stand between a program and its one document.
pub(super) fn warnings(json: bool) {
    if !json {
        let lines = tracing_subscriber::fmt().with_writer(stderr).with_ansi(stderr().is_terminal());
        let _ = lines.with_env_filter(EnvFilter::new("warn")).without_time().with_target(false).try_init();
    }
}
