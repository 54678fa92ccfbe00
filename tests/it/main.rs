//! Every test that needs more than one room, in one binary.
// Clippy knows a test by its attribute; the helpers beside it are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod architecture;
mod cli;
