//! Passwords on the way in: from standard input only, since arguments can be read by every user of the
//! machine and stay in the shell's history.

use std::io::{self, BufRead, IsTerminal, Read};

use zeroize::Zeroizing;

use super::failure::Failure;
use super::output::note;
use crate::base::Secret;

/// Longer than any password that is accepted.
const LONGEST: u64 = 4096;

pub(super) fn from_stdin() -> Result<Secret, Failure> {
    let input = io::stdin().lock();
    if input.is_terminal() {
        note("Password, then Enter (it can be seen as you type; pipe it in to avoid that): ");
        return read(&mut first_line(input)?.as_bytes());
    }
    read(&mut { input })
}

fn first_line(mut input: impl BufRead) -> Result<Zeroizing<String>, Failure> {
    let mut line = Zeroizing::new(String::new());
    input.read_line(&mut line).map_err(|error| unreadable(&error))?;
    Ok(line)
}

pub(super) fn read(input: &mut dyn Read) -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    input.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > LONGEST {
        return Err(Failure::usage("what came on standard input is too long to be a password"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::usage("the password on standard input is not text"))?;
    // The end of the line belongs to the shell, every other blank to the password.
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Failure::usage("a password or passphrase was expected on standard input, and there was none"));
    }
    Ok(Secret::new(text.to_owned()))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::usage(format!("standard input cannot be read: {error}"))
}
