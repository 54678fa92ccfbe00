//! F2. What lies in a replica, and where: putting LTX files into a folder or an S3 bucket, listing,
//! merging and expiring them, and restoring a database from them.
//!
//! It owns the layout, which is Litestream 0.5's, so that the stock `litestream restore` reads what is
//! here and the other way round (design STORAGE 3.2): `<path>/ltx/<level>/<min>-<max>.ltx` in a folder,
//! `<path>/<level as 4 hex digits>/<min>-<max>.ltx` in a bucket. Level 0 holds what was committed, levels
//! 1 to 3 the same merged into longer stretches, level 9 whole snapshots.
//!
//! One writer a location: [`Owner`] says which, and [`Replica::put`] never replaces a file, so that a writer that was
//! declared dead cannot rewrite history.
//!
//! It leaves alone: SQLite connections and WAL files, what an organization is, schedules and clocks (`now`
//! is an argument), and the file format, which is [`crate::ltx`]'s.

mod begin;
mod bucket;
mod compact;
mod errands;
mod error;
mod folder;
mod history;
mod item;
mod location;
mod owner;
mod plan;
mod restore;
mod retain;
mod scratch;
mod store;

pub use begin::begin_at;
pub use compact::{Compacted, compact};
pub use error::{Cause, Error, Result};
pub use history::{Gap, History, LevelUse, Point, Setback, history, points};
pub use item::{Item, SNAPSHOT_LEVEL};
pub use location::{Location, Settings, WrongLocation};
pub use owner::{Claim, Owner};
pub use plan::{PlanError, Target, plan};
pub use restore::{Restored, restore, restore_checked, restore_without, steps};
pub use retain::{Retained, Rules, next_expiry, retain};
pub use scratch::{Body, BodyReader, Scratch};
pub use store::{Destroyed, Replica, Store};

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::base::Timestamp;
use crate::ltx::Header;

/// When the last transaction of a file was committed.
#[must_use]
pub fn moment(header: &Header) -> DateTime<Utc> {
    Timestamp::from_millis(header.timestamp_ms).to_utc()
}

/// Runs what blocks on the disk or the CPU. `block_in_place` keeps the other tasks of a multi-threaded
/// runtime going and panics on any other, so there the work is simply done.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Gives a finished temporary file its name, without ever replacing a file: `link` fails where `rename`
/// would overwrite. File systems without hard links (FAT, some network mounts) get a check and a rename.
fn publish(temporary: &Path, name: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, name) {
        Ok(()) => fs::remove_file(temporary)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(_) => {
            if name.symlink_metadata().is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            fs::rename(temporary, name)?;
        }
    }
    sync_parent(name)
}

/// Makes the entries of the directory that holds `path` last.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Makes a directory and those above it, for the owner alone, so that they last.
fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut missing: Vec<PathBuf> = Vec::new();
    for ancestor in path.ancestors() {
        if ancestor.as_os_str().is_empty() || ancestor.is_dir() {
            break;
        }
        missing.push(ancestor.to_path_buf());
    }
    for directory in missing.iter().rev() {
        match fs::DirBuilder::new().mode(0o700).create(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    // Only now, and the last one first: what a journal has to write for all of them it then writes once.
    missing.iter().try_for_each(|directory| sync_parent(directory))
}

/// Removes the file when dropped, unless it was published.
struct Discard(Option<PathBuf>);

impl Discard {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Discard {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // Nothing can be done about a failure here; the name is one that no reader looks at.
            let _ = fs::remove_file(path);
        }
    }
}
