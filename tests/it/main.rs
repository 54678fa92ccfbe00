//! Every test that needs more than one room, in one binary.
#![allow(clippy::unchecked_time_subtraction, reason = "a test that gets its times wrong should fail")]
// Clippy knows a test by its attribute; the helpers beside it are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod api_keys;
mod architecture;
mod at_rest;
mod audit;
mod backup;
mod bad_input;
mod cli;
mod crash;
mod crowd;
mod erasure;
mod erasure_of_members;
mod export;
mod files;
mod fleet;
mod fleet_migrate;
mod fleet_rebuild;
mod fleet_room;
mod idempotency;
mod import;
mod isolation;
mod lifecycle;
mod ltx;
mod members;
mod organizations;
mod post_office;
mod privacy;
mod process;
mod races;
mod recovery;
mod replica;
mod sessions;
mod sign_in;
mod sign_up;
mod tools;
mod wire;
mod world;
