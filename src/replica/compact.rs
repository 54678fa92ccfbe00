//! Many small files into one: `Compactor.Compact` of litestream's compactor.go.

use super::{Body, Error, Item, Replica, Result, SNAPSHOT_LEVEL, Scratch, blocking, moment};
use crate::ltx::{self, Txid};
use futures::{StreamExt, TryStreamExt};
use std::path::Path;

/// The most files that are merged at once: each has an open reader with its buffers. What is left over
/// makes the next file.
const MOST: usize = 256;

/// What became of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compacted {
    /// The new file; nothing if there was nothing to merge.
    pub item: Option<Item>,
    /// Files that are not what they should be, with why. They are left out, as if they were lost.
    pub damaged: Vec<(Item, String)>,
}

/// Merges what `level - 1` has gained since the newest file of `level` into one more file of `level`.
/// Nothing is deleted; that is [`super::retain`]'s.
///
/// Only an unbroken run is merged. Behind a hole (which litestream answers with an error, for good) the
/// next call begins a new file, so that a lost file costs its own range and not every later one. A damaged
/// file is such a hole.
///
/// A whole database that waits alone stays where it is: a level up it would be the same bytes once more. It is merged
/// with whatever follows it.
///
/// Large contents pass through nameless files in `scratch`: it takes no more memory for large ones or many.
pub async fn compact(replica: &Replica, level: u8, scratch: &Path) -> Result<Compacted> {
    if level == 0 || level >= SNAPSHOT_LEVEL {
        return Err(Error::Configuration(format!("level {level} is not one that is merged into")));
    }
    let reached = replica.list(level).await?.iter().map(|item| item.name.max).max();
    let items = replica.list(level - 1).await?;
    let new = items.into_iter().filter(|item| reached.is_none_or(|reached| item.name.min > reached));
    let mut waiting: Vec<Item> = new.collect();
    let mut done = Compacted::default();
    if matches!(waiting.as_slice(), [only] if only.name.min == Txid::FIRST) {
        return Ok(done);
    }
    loop {
        let run = unbroken(&waiting);
        if run.is_empty() {
            return Ok(done);
        }
        match merge(replica, level, &run, scratch).await {
            Ok(item) => {
                done.item = Some(item);
                return Ok(done);
            }
            Err((Some(at), error)) => {
                // What comes before it, or else what comes behind it.
                let Some(item) = run.get(at).cloned() else { return Err(error) };
                done.damaged.push((item, error.to_string()));
                waiting = if at > 0 { run[..at].to_vec() } else { waiting.split_off(1) };
            }
            Err((None, error)) => return Err(error),
        }
    }
}

fn unbroken(items: &[Item]) -> Vec<Item> {
    let mut run: Vec<Item> = Vec::new();
    for item in items.iter().take(MOST) {
        if run.last().is_some_and(|last| last.name.max.next() != item.name.min) {
            break;
        }
        run.push(item.clone());
    }
    run
}

/// Fails with the place of the file in the run whose fault it is, if it is one's.
pub(super) async fn merge(
    replica: &Replica,
    level: u8,
    run: &[Item],
    scratch: &Path,
) -> Result<Item, (Option<usize>, Error)> {
    let bodies: Vec<Body> = futures::stream::iter(run.to_vec())
        .map(|item| async move { replica.fetch_within(&item, Scratch::one_of(scratch, run.len())).await })
        .buffered(8)
        .try_collect()
        .await
        .map_err(|error| (None, error))?;
    let (body, header) = blocking(|| {
        let mut inputs = Vec::new();
        for (at, (item, body)) in run.iter().zip(&bodies).enumerate() {
            // Names the file whose head is damaged; a fault further in is found below.
            replica.decode(item, body).map_err(|error| (Some(at), error))?;
            inputs.push(body.reader());
        }
        let (merged, header) = ltx::compact(inputs, Scratch::new(scratch))
            .map_err(|error| merge_error(replica, run, &bodies, scratch, error))?;
        Ok((merged.finish().map_err(|error| (None, Error::local(scratch, error)))?, header))
    })?;
    replica.put_same(level, header.file_name(), body, moment(&header)).await.map_err(|error| (None, error))
}

/// The merge does not say which input was at fault, so they are read once more.
fn merge_error(
    replica: &Replica,
    run: &[Item],
    bodies: &[Body],
    scratch: &Path,
    error: ltx::Error,
) -> (Option<usize>, Error) {
    for (at, (item, body)) in run.iter().zip(bodies).enumerate() {
        if let Err(error) = replica.verify(item, body) {
            return (Some(at), error);
        }
    }
    let names: Vec<String> = [run.first(), run.last()].into_iter().flatten().map(|item| replica.object(item)).collect();
    (None, Error::of_object(&names.join(" to "), scratch, error))
}
