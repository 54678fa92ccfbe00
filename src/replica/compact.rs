//! Many small files into one: `Compactor.Compact` of litestream's compactor.go.

use super::{Error, Item, Replica, Result, SNAPSHOT_LEVEL, Scratch, blocking};
use crate::ltx::{self, Header};
use chrono::DateTime;
use futures::{StreamExt, TryStreamExt};
use std::path::Path;

/// The most files that are merged at once: each has an open reader with its buffers. What is left over
/// makes the next file.
const MOST: usize = 1024;

/// Merges what `level - 1` has gained since the newest file of `level` into one more file of `level`.
/// `None` if there is nothing. Nothing is deleted; that is [`super::retain`]'s.
///
/// Only an unbroken run is merged. Behind a hole (which litestream answers with an error, for good) the
/// next call begins a new file, so that a lost file costs its own range and not every later one.
///
/// Large contents pass through nameless files in `scratch`.
pub async fn compact(replica: &Replica, level: u8, scratch: &Path) -> Result<Option<Item>> {
    if level == 0 || level >= SNAPSHOT_LEVEL {
        return Err(Error::Configuration(format!("level {level} is not one that is merged into")));
    }
    let reached = replica.list(level).await?.iter().map(|item| item.name.max).max();
    let mut run: Vec<Item> = Vec::new();
    for item in replica.list(level - 1).await? {
        let next = run.last().map(|last| last.name.max.next());
        if reached.is_some_and(|reached| item.name.min <= reached) {
            continue;
        }
        if run.len() == MOST || next.is_some_and(|next| next != item.name.min) {
            break;
        }
        run.push(item);
    }
    if run.is_empty() {
        return Ok(None);
    }
    let bodies: Vec<_> = futures::stream::iter(run.clone())
        .map(|item| async move { replica.fetch(&item, scratch).await })
        .buffered(8)
        .try_collect()
        .await?;
    let (body, header) = blocking(|| {
        let mut inputs = Vec::new();
        for (item, body) in run.iter().zip(&bodies) {
            // Names the file whose head is damaged; a fault further in is found below.
            replica.decode(item, body)?;
            inputs.push(body.reader());
        }
        let (merged, header) = ltx::compact(inputs, Scratch::new(scratch))
            .map_err(|error| merge_error(replica, &run, &bodies, scratch, error))?;
        Ok::<_, Error>((merged.finish().map_err(|error| Error::local(scratch, error))?, header))
    })?;
    let timestamp = DateTime::from_timestamp_millis(header.timestamp_ms).unwrap_or_default();
    Ok(Some(replica.put_same(level, header.file_name(), body, timestamp).await?))
}

/// The merge does not say which input was at fault, so they are read once more.
fn merge_error(replica: &Replica, run: &[Item], bodies: &[super::Body], scratch: &Path, error: ltx::Error) -> Error {
    for (item, body) in run.iter().zip(bodies) {
        if let Err(error) = verify(replica, item, body) {
            return error;
        }
    }
    let names: Vec<String> = [run.first(), run.last()].into_iter().flatten().map(|item| replica.object(item)).collect();
    Error::of_object(&names.join(" to "), scratch, error)
}

fn verify(replica: &Replica, item: &Item, body: &super::Body) -> Result<Header> {
    let damaged = |error: ltx::Error| Error::damaged(replica.object(item), error);
    let mut decoder = replica.decode(item, body)?;
    let header = *decoder.header();
    let mut page = Vec::new();
    while decoder.next_page(&mut page).map_err(damaged)?.is_some() {}
    decoder.finish().map_err(damaged)?;
    Ok(header)
}
