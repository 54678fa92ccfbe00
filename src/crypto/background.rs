//! Threads for work that burns a processor for tens of milliseconds at a time.

use std::thread::Builder;

use crate::base::{Error, Result};

/// Starts a thread that yields to everything else in the process.
pub(super) fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    Builder::new()
        .name(name)
        .spawn(move || {
            lower_priority();
            work();
        })
        .map(drop)
        .map_err(|error| Error::internal("cannot start a background thread").source(error))
}

/// Runs one piece of work on such a thread. It is done to its end even if nobody waits for it any more.
pub async fn apart<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (done, answer) = tokio::sync::oneshot::channel();
    spawn(name.to_owned(), move || {
        let _ = done.send(work());
    })?;
    answer.await.map_err(|error| Error::internal("a background thread has ended early").source(error))
}

/// POSIX gives the nice value to the process, but Linux to each thread (setpriority(2), "C
/// library/kernel differences"), so that this slows the calling thread only. It is what keeps other
/// requests fast while every core is hashing a password.
#[cfg(target_os = "linux")]
fn lower_priority() {
    // Refused only in odd sandboxes; the work is right without it, and merely less polite.
    let _ = rustix::process::nice(10);
}

/// Elsewhere it would slow the whole process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}
