//! Asking before what cannot be undone.

use std::io::{self, BufRead, IsTerminal};

use super::output::note;
use super::{Context, Failure};

impl Context {
    /// Whoever sits at a terminal types `name`, or nothing is done. A program has thought of it before, and nobody
    /// could answer it.
    pub fn confirm(&self, what_happens: &str, name: &str) -> Result<(), Failure> {
        let is_attended = io::stdin().is_terminal() && io::stderr().is_terminal();
        if self.options.yes || self.output.json || !is_attended {
            return Ok(());
        }
        note(&format!("{what_happens}\nType {name} to go on: "));
        let mut typed = String::new();
        let read = io::stdin().lock().read_line(&mut typed);
        read.map_err(|error| Failure::usage(format!("standard input cannot be read: {error}")))?;
        if typed.trim() == name {
            return Ok(());
        }
        Err(Failure::new("not_confirmed", "Nothing was done.").advise("--yes does not ask."))
    }

    /// For what works on this machine's own files or configuration: an address would be of no effect.
    pub fn refuse_url(&self, command: &str, works_on: &str) -> Result<(), Failure> {
        if self.options.url.is_some() {
            return Err(Failure::usage(format!("{command} works on {works_on}, not on --url")));
        }
        Ok(())
    }
}
