//! A later beginning, for whoever may keep nothing of what was before.

use std::path::Path;

use super::compact::merge;
use super::plan::{Target, plan};
use super::{Error, Item, Replica, Result, SNAPSHOT_LEVEL};
use crate::ltx::Txid;

/// Makes this point the oldest of the replica: a snapshot of it, and no file that ends before. Returns the files that
/// were deleted; what follows can be restored as it could be. It may be interrupted anywhere and run again.
///
/// Files that begin before it and end behind it stay. They hold nothing of before if the whole database was written at
/// this point: of each page, they have the newest copy.
pub async fn begin_at(replica: &Replica, point: Txid, scratch: &Path) -> Result<Vec<Item>> {
    let items = replica.list_all().await?;
    let older: Vec<Item> = items.iter().filter(|item| item.name.max < point).cloned().collect();
    if older.is_empty() {
        return Ok(older);
    }
    let mut usable = items;
    loop {
        let steps = plan(&usable, Target::Txid(point))?;
        let made = match steps.as_slice() {
            [only] if only.level == SNAPSHOT_LEVEL => {
                let body = replica.fetch(only, scratch).await?;
                replica.verified(only, &body).map(drop).map_err(|error| (Some(0), error))
            }
            steps => merge(replica, SNAPSHOT_LEVEL, steps, scratch).await.map(drop),
        };
        match made {
            Ok(()) => break,
            // Others may lead there.
            Err((Some(at), Error::Damaged { .. })) if at < steps.len() => usable.retain(|item| *item != steps[at]),
            Err((_, error)) => return Err(error),
        }
    }
    replica.delete(&older).await?;
    Ok(older)
}
