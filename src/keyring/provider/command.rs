//! A program of the operator's that wraps and unwraps: one process a request.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::outbound::Trouble;

/// What is read of its words for the log.
const WORDS: u64 = 4096;

/// What the program answers on its standard output, at most `limit` bytes; otherwise what went wrong, without anything
/// secret. It and whatever it has started are killed when the time is over.
pub(super) async fn ask(
    argv: &[String],
    request: Zeroizing<Vec<u8>>,
    timeout: Duration,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let (program, args) = argv.split_first().ok_or_else(|| Trouble::silent("no program is named"))?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Our own secrets are none of its business; what its own tools need (paths, regions, credentials) is.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("BULKHEAD_")) {
        command.env_remove(name);
    }
    let mut child = command.spawn().map_err(|error| Trouble::silent(format!("it cannot be started: {error}")))?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
        return Err(Trouble::silent("it has no pipes"));
    };
    let work = async {
        let write = async {
            // One that needs no more than it has read may close it.
            let _ = stdin.write_all(&request).await;
            drop(stdin);
        };
        let read = async {
            let mut answer = Zeroizing::new(Vec::with_capacity(limit + 1));
            let read = stdout.take(limit as u64 + 1).read_to_end(&mut answer).await;
            read.map(|_| answer)
        };
        let listen = async {
            let mut words = Vec::new();
            let mut stderr = stderr;
            let _ = (&mut stderr).take(WORDS).read_to_end(&mut words).await;
            // The rest is read too, or it would wait for us.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            words
        };
        let talk = async {
            let ((), answer) = tokio::join!(write, read);
            answer
        };
        tokio::pin!(listen, talk);
        let mut words = None;
        // An answer without end is not waited for until it ends.
        let answer = loop {
            tokio::select! {
                answer = &mut talk => break answer,
                heard = &mut listen, if words.is_none() => words = Some(heard),
            }
        };
        let answer = answer.map_err(|error| Trouble::refused(format!("its answer cannot be read: {error}")))?;
        if answer.len() > limit {
            return Err(Trouble::refused("its answer is too large"));
        }
        let words = match words {
            Some(words) => words,
            None => listen.await,
        };
        let status = child.wait().await.map_err(|error| Trouble::refused(format!("its end is not known: {error}")))?;
        if status.success() {
            return Ok(answer);
        }
        tracing::warn!(%program, words = %readable(&words), "the program of the key provider has failed");
        Err(Trouble::refused(match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with exit code {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it failed".to_owned(),
        }))
    };
    let done = tokio::time::timeout(timeout, work).await;
    let done = done.unwrap_or_else(|_| Err(Trouble::silent("it did not answer in time")));
    // One that has ended has no id any more, and nobody else's shall be killed.
    if let (Err(_), Some(group), Some(_)) = (&done, group, child.id()) {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    done
}

/// What it said, without what could be a key: long runs of hexadecimal or base64.
fn readable(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let mut said = String::new();
    for word in text.split_whitespace() {
        if !said.is_empty() {
            said.push(' ');
        }
        let is_of_a_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '-' | '_' | '=');
        let longest = word.split(|c| !is_of_a_key(c)).map(str::len).max().unwrap_or(0);
        if longest >= 24 {
            said.push_str("[left out]");
        } else {
            said.extend(word.chars().filter(|c| !c.is_control()));
        }
        if said.len() > 500 {
            said.push('…');
            break;
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn nothing_that_could_be_a_key_is_repeated() {
        let key = "q83vEjRWeJq83vEjRWeJq83vEjRWeJq83vEjRWeJq80=";
        let said = readable(format!("cannot wrap\n\x1b[31m{{\"plaintext\":\"{key}\"}} now: denied").as_bytes());
        assert_eq!(said, "cannot wrap [left out] now: denied");
    }
}
