//! What a file was before a step of its schema that takes something away.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::open::sync_directory;
use super::snapshot::copy;
use crate::base::{Error, Result};

/// How a step begins that is kept a copy before.
const DESTRUCTIVE: &str = "-- destructive";

/// Keeps a copy of the file beside it, if this step of the schema takes something away. Whole or not at all; one
/// that is there already is of an earlier try, before which nothing was changed.
pub(super) fn keep_before(connection: &Connection, version: i32, step: &str) -> Result<()> {
    if !step.starts_with(DESTRUCTIVE) {
        return Ok(());
    }
    let Some(path) = connection.path().map(Path::new) else { return Ok(()) };
    let kept = path.with_file_name(format!("before-{:04}.sqlite", version + 1));
    if kept.exists() {
        return Ok(());
    }
    let making = kept.with_extension("making");
    let _ = std::fs::remove_file(&making);
    copy(path, &making)?;
    std::fs::File::open(&making)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(&making, &kept))
        .map_err(|error| Error::internal(format!("cannot keep {}", kept.display())).source(error))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// The copies that were kept of a file, by the version that each has, oldest first.
pub fn kept_before(path: &Path) -> Result<Vec<(i64, PathBuf)>> {
    let directory = path.parent().unwrap_or(path);
    let failed = |error| Error::internal(format!("cannot list {}", directory.display())).source(error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix("before-")?.strip_suffix(".sqlite"));
        if let Some(step) = step.and_then(|step| step.parse::<i64>().ok()) {
            found.push((step - 1, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// A copy of a file that may be in use, as it is at one moment; `to` must not exist. Blocking.
pub fn copy_file(from: &Path, to: &Path) -> Result<()> {
    copy(from, to)
}
