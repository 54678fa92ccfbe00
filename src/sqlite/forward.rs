//! Bringing a file that is not open here to the newest schema, on one connection: opening one takes longer than most
//! steps of a schema do.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::database::{Backup, checkpoint};
use super::handle::{Kind, Read};
use super::open::{Mode, check_stamp, migrate, open};
use super::still::{mark_unread, unfolded, wal_of};
use crate::base::{Error, Result, Timestamp};

/// Migrates a file if it is older, once `may` has looked at it as it is and at its schema version. When this returns
/// `Ok`, what was done is on the disk; where nobody reads the WAL, it is in the file, and there is no WAL. Requests may
/// open the file meanwhile: each step is one transaction, and is taken once. Blocking.
pub fn bring_forward<K: Kind>(
    path: &Path,
    migrations: &[&'static str],
    now: Timestamp,
    backup: &Backup,
    may: impl FnOnce(&Read<'_, K>, i64) -> Result<()>,
) -> Result<()> {
    let connection = open(path, Mode::Write)?;
    let version = check_stamp::<K>(&connection)?;
    may(&Read::new(&connection, now), version.into())?;
    if usize::try_from(version).is_ok_and(|version| version == migrations.len()) {
        // Requests may be at it. What a crash kept from being folded is theirs to fold, and is on the disk from here on.
        return sync_wal(path);
    }
    match backup {
        // Whoever ships the WAL folds it.
        Backup::Wal(written) => {
            migrate::<K>(&connection, migrations)?;
            written();
            Ok(())
        }
        Backup::Foreign => migrate::<K>(&connection, migrations),
        Backup::None | Backup::Later => {
            // One wait for the disk instead of two: nobody is told of this before it is folded, and folding syncs the
            // WAL before the file. Who writes meanwhile syncs the same WAL (sqlite.org/pragma.html#pragma_synchronous).
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            migrate::<K>(&connection, migrations)?;
            if matches!(backup, Backup::Later) {
                mark_unread(path)?;
            }
            fold(&connection, path)
        }
    }
}

/// Leaves one file, or at the least what is on the disk.
fn fold(connection: &Connection, path: &Path) -> Result<()> {
    // Whoever waits for readers here keeps writers waiting.
    connection.busy_timeout(Duration::ZERO)?;
    checkpoint(connection);
    if unfolded(path)? > 0 {
        // Somebody reads it, and whoever writes to the file next folds it.
        return sync_wal(path);
    }
    // There is nothing to fold any more; closing removes the WAL and its index, if nobody else has them open.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    Ok(())
}

/// The WAL carries no locks, so opening it is harmless.
fn sync_wal(path: &Path) -> Result<()> {
    match File::open(wal_of(path)).and_then(|wal| wal.sync_data()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::internal(format!("cannot sync the WAL of {}", path.display())).source(error))
        }
        _ => Ok(()),
    }
}
