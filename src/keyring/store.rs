//! SQL of the keyring.

use crate::base::{KeyRotationId, Result, Timestamp};
use crate::sqlite::{KeyringDb, Read, Row, RowResult, Write, params};

/// A key as it is kept.
pub(super) struct Kept {
    pub name: String,
    pub version: u32,
    pub wrapped: Vec<u8>,
    pub by: String,
    pub created_at: Timestamp,
}

fn kept(row: &Row<'_>) -> RowResult<Kept> {
    Ok(Kept { name: row.get(0)?, version: row.get(1)?, wrapped: row.get(2)?, by: row.get(3)?, created_at: row.get(4)? })
}

/// All versions of a key, the newest first.
pub(super) fn versions(db: &Read<'_, KeyringDb>, name: &str) -> Result<Vec<Kept>> {
    db.all(
        "SELECT name, version, wrapped, master_key_id, created_at FROM data_key WHERE name = ? ORDER BY version DESC",
        params![name],
        kept,
    )
}

pub(super) fn is_there(db: &Read<'_, KeyringDb>, name: &str) -> Result<bool> {
    Ok(db.number("SELECT EXISTS (SELECT 1 FROM data_key WHERE name = ?)", params![name])? > 0)
}

/// The first version; changes nothing if there is one.
pub(super) fn insert_first(db: &Write<'_, KeyringDb>, name: &str, wrapped: &[u8], by: &str) -> Result<bool> {
    let stored = db.execute(
        "INSERT INTO data_key (name, version, wrapped, master_key_id, created_at)
         SELECT ?1, 1, ?2, ?3, ?4 WHERE NOT EXISTS (SELECT 1 FROM data_key WHERE name = ?1)",
        params![name, wrapped, by, db.now()],
    )?;
    Ok(stored > 0)
}

/// The version after `last`, which must be the newest: a key that was destroyed meanwhile does not come back.
pub(super) fn insert_next(db: &Write<'_, KeyringDb>, name: &str, last: u32, wrapped: &[u8], by: &str) -> Result<bool> {
    let stored = db.execute(
        "INSERT INTO data_key (name, version, wrapped, master_key_id, created_at)
         SELECT ?1, ?2 + 1, ?3, ?4, ?5 WHERE (SELECT max(version) FROM data_key WHERE name = ?1) = ?2",
        params![name, last, wrapped, by, db.now()],
    )?;
    db.execute(
        "UPDATE data_key SET replaced_at = ?3 WHERE name = ?1 AND version <= ?2 AND replaced_at IS NULL",
        params![name, last, db.now()],
    )?;
    Ok(stored > 0)
}

pub(super) fn delete_all(db: &Write<'_, KeyringDb>, name: &str) -> Result<usize> {
    db.execute("DELETE FROM data_key WHERE name = ?", params![name])
}

/// Versions below this one.
pub(super) fn delete_below(db: &Write<'_, KeyringDb>, name: &str, version: u32) -> Result<usize> {
    db.execute("DELETE FROM data_key WHERE name = ? AND version < ?", params![name, version])
}

/// What is known of one version of a file's key.
pub(super) struct FileVersion {
    pub version: u32,
    pub stage: String,
    pub clears: bool,
    pub replaced_at: Option<Timestamp>,
    pub settled_at: Option<Timestamp>,
}

/// The versions of a file's key, the newest first.
pub(super) fn file_versions(db: &Read<'_, KeyringDb>, name: &str) -> Result<Vec<FileVersion>> {
    db.all(
        "SELECT version, stage, clears, replaced_at, settled_at FROM data_key WHERE name = ? ORDER BY version DESC",
        params![name],
        |row| {
            Ok(FileVersion {
                version: row.get(0)?,
                stage: row.get(1)?,
                clears: row.get(2)?,
                replaced_at: row.get(3)?,
                settled_at: row.get(4)?,
            })
        },
    )
}

/// Those that a file may be under, or all of them, the newest first.
pub(super) fn file_keys(db: &Read<'_, KeyringDb>, name: &str, replaced: bool) -> Result<Vec<Kept>> {
    db.all(
        "SELECT name, version, wrapped, master_key_id, created_at FROM data_key
         WHERE name = ?1 AND (?2 OR replaced_at IS NULL) ORDER BY version DESC",
        params![name, replaced],
        kept,
    )
}

/// The version after `last`, which must be the newest, or 0 for none.
pub(super) fn insert_coming(
    db: &Write<'_, KeyringDb>,
    name: &str,
    last: u32,
    (wrapped, by): (&[u8], &str),
    clears: bool,
) -> Result<bool> {
    let stored = db.execute(
        "INSERT INTO data_key (name, version, wrapped, master_key_id, created_at, stage, clears)
         SELECT ?1, ?2 + 1, ?3, ?4, ?5, 'coming', ?6
         WHERE coalesce((SELECT max(version) FROM data_key WHERE name = ?1), 0) = ?2",
        params![name, last, wrapped, by, db.now(), clears],
    )?;
    Ok(stored > 0)
}

pub(super) fn set_going(db: &Write<'_, KeyringDb>, name: &str, clears: bool) -> Result<()> {
    let sql = "UPDATE data_key SET stage = 'going', clears = ? WHERE name = ? AND replaced_at IS NULL";
    db.execute(sql, params![clears, name]).map(drop)
}

/// The version that counts from here on, or none.
pub(super) fn settle(db: &Write<'_, KeyringDb>, name: &str, on: Option<u32>, clears: bool) -> Result<()> {
    db.execute(
        "UPDATE data_key SET
                settled_at = CASE WHEN stage = 'settled' THEN settled_at ELSE ?3 END,
                replaced_at = CASE WHEN version IS ?2 THEN NULL ELSE coalesce(replaced_at, ?3) END,
                resealed_at = CASE WHEN version IS ?2 THEN NULL ELSE coalesce(resealed_at, ?3) END,
                stage = 'settled', clears = 0
         WHERE name = ?1",
        params![name, on, db.now()],
    )?;
    if clears { set_clearing(db, name) } else { Ok(()) }
}

/// What was to come has come to nothing, and what was to go stays.
pub(super) fn unsettle(db: &Write<'_, KeyringDb>, name: &str) -> Result<()> {
    db.execute("DELETE FROM data_key WHERE name = ? AND stage = 'coming'", params![name])?;
    let sql = "UPDATE data_key SET stage = 'settled', clears = 0 WHERE name = ? AND stage = 'going'";
    db.execute(sql, params![name]).map(drop)
}

pub(super) fn set_clearing(db: &Write<'_, KeyringDb>, name: &str) -> Result<()> {
    db.execute(
        "UPDATE data_key SET stage = 'clearing', clears = 1
         WHERE name = ?1 AND version = (SELECT max(version) FROM data_key WHERE name = ?1)",
        params![name],
    )
    .map(drop)
}

pub(super) fn set_cleared(db: &Write<'_, KeyringDb>, name: &str) -> Result<()> {
    db.execute("UPDATE data_key SET stage = 'settled' WHERE name = ? AND stage = 'clearing'", params![name]).map(drop)
}

/// Names of keys of files that are on their way.
pub(super) fn in_motion(db: &Read<'_, KeyringDb>) -> Result<Vec<String>> {
    db.all("SELECT DISTINCT name FROM data_key WHERE stage <> 'settled' ORDER BY name", [], |row| row.get(0))
}

/// Replaced versions up to this one.
pub(super) fn delete_replaced(db: &Write<'_, KeyringDb>, name: &str, version: u32) -> Result<usize> {
    let sql = "DELETE FROM data_key WHERE name = ? AND version <= ? AND replaced_at IS NOT NULL";
    db.execute(sql, params![name, version])
}

/// Nothing in the organization's file is sealed with a version below this one any more.
pub(super) fn set_resealed(db: &Write<'_, KeyringDb>, name: &str, below: u32) -> Result<()> {
    db.execute(
        "UPDATE data_key SET resealed_at = ? WHERE name = ? AND version < ? AND resealed_at IS NULL",
        params![db.now(), name, below],
    )?;
    Ok(())
}

/// Names of which an older version may still be in use.
pub(super) fn unfinished(db: &Read<'_, KeyringDb>) -> Result<Vec<String>> {
    db.all(
        "SELECT DISTINCT name FROM data_key WHERE replaced_at IS NOT NULL AND resealed_at IS NULL ORDER BY name",
        [],
        |row| row.get(0),
    )
}

/// Versions that were replaced before this, of files in which nothing needs them; the newest of each name.
pub(super) fn replaced_before(db: &Read<'_, KeyringDb>, before: Timestamp) -> Result<Vec<(String, u32)>> {
    db.all(
        "SELECT name, max(version) FROM data_key
         WHERE replaced_at IS NOT NULL AND replaced_at <= ? AND resealed_at IS NOT NULL GROUP BY name ORDER BY name",
        params![before],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Versions that are kept for backups, and since when the oldest of them.
pub(super) fn replaced(db: &Read<'_, KeyringDb>) -> Result<(i64, Option<Timestamp>)> {
    let found = db.one("SELECT count(*), min(replaced_at) FROM data_key WHERE replaced_at IS NOT NULL", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })?;
    Ok(found.unwrap_or((0, None)))
}

/// How many keys each master key wraps.
pub(super) fn by_master(db: &Read<'_, KeyringDb>) -> Result<Vec<(String, i64)>> {
    db.all("SELECT master_key_id, count(*) FROM data_key GROUP BY master_key_id ORDER BY master_key_id", [], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

pub(super) fn count_not_by(db: &Read<'_, KeyringDb>, master: &str) -> Result<i64> {
    db.number("SELECT count(*) FROM data_key WHERE master_key_id <> ?", params![master])
}

/// Keys behind this place that another master key wraps.
pub(super) fn not_by(db: &Read<'_, KeyringDb>, master: &str, after: &(String, u32), limit: u32) -> Result<Vec<Kept>> {
    db.all(
        "SELECT name, version, wrapped, master_key_id, created_at FROM data_key
         WHERE master_key_id <> ? AND (name, version) > (?, ?) ORDER BY name, version LIMIT ?",
        params![master, after.0, after.1, limit],
        kept,
    )
}

/// Another wrapping of the same key, if it is still the one that was read.
pub(super) fn rewrap(db: &Write<'_, KeyringDb>, was: &Kept, wrapped: &[u8], by: &str) -> Result<usize> {
    db.execute(
        "UPDATE data_key SET wrapped = ?, master_key_id = ? WHERE name = ? AND version = ? AND wrapped = ?",
        params![wrapped, by, was.name, was.version, was.wrapped],
    )
}

/// The next organizations behind this name whose newest key is older than that.
pub(super) fn older_than(db: &Read<'_, KeyringDb>, before: Timestamp, after: &str, limit: u32) -> Result<Vec<String>> {
    db.all(
        "SELECT name FROM data_key WHERE name > ?2 AND name GLOB 'org_*' AND name NOT GLOB '*/*' AND replaced_at IS NULL AND created_at < ?1
         ORDER BY name LIMIT ?3",
        params![before, after, limit],
        |row| row.get(0),
    )
}

pub(super) fn count_older_than(db: &Read<'_, KeyringDb>, before: Timestamp) -> Result<i64> {
    db.number(
        "SELECT count(*) FROM data_key
         WHERE name GLOB 'org_*' AND name NOT GLOB '*/*' AND replaced_at IS NULL AND created_at < ?",
        params![before],
    )
}

pub(super) fn insert_master_rotation(
    db: &Write<'_, KeyringDb>,
    id: KeyRotationId,
    target: &str,
    retire_now: bool,
    total: i64,
) -> Result<()> {
    db.execute(
        "INSERT INTO master_rotation (id, target, retire_now, total, started_at) VALUES (?, ?, ?, ?, ?)",
        params![id, target, retire_now, total, db.now()],
    )?;
    Ok(())
}

/// A rotation of the master key.
#[derive(Debug, Clone)]
pub struct MasterRotation {
    pub id: KeyRotationId,
    /// The master key that everything is wrapped by in the end.
    pub target: String,
    pub retire_now: bool,
    /// Keys to be wrapped anew when it began.
    pub total: i64,
    pub started_at: Timestamp,
    /// When every key was wrapped by the target.
    pub ended_at: Option<Timestamp>,
    /// When the ones before may leave their file.
    pub retire_at: Option<Timestamp>,
    pub retired_at: Option<Timestamp>,
    pub last_error: Option<String>,
}

/// The newest one.
pub(super) fn master_rotation(db: &Read<'_, KeyringDb>) -> Result<Option<MasterRotation>> {
    db.one(
        "SELECT id, target, retire_now, total, started_at, ended_at, retire_at, retired_at, last_error
         FROM master_rotation ORDER BY retired_at IS NOT NULL, rowid DESC LIMIT 1",
        [],
        |row| {
            Ok(MasterRotation {
                id: row.get(0)?,
                target: row.get(1)?,
                retire_now: row.get(2)?,
                total: row.get(3)?,
                started_at: row.get(4)?,
                ended_at: row.get(5)?,
                retire_at: row.get(6)?,
                retired_at: row.get(7)?,
                last_error: row.get(8)?,
            })
        },
    )
}

pub(super) fn set_target(db: &Write<'_, KeyringDb>, id: KeyRotationId, target: &str) -> Result<()> {
    db.execute("UPDATE master_rotation SET target = ? WHERE id = ?", params![target, id])?;
    Ok(())
}

pub(super) fn set_master_error(db: &Write<'_, KeyringDb>, id: KeyRotationId, error: Option<&str>) -> Result<()> {
    db.execute("UPDATE master_rotation SET last_error = ? WHERE id = ?", params![error, id])?;
    Ok(())
}

pub(super) fn end_master_rotation(db: &Write<'_, KeyringDb>, id: KeyRotationId, retire_at: Timestamp) -> Result<()> {
    db.execute(
        "UPDATE master_rotation SET ended_at = ?, retire_at = ?, last_error = NULL WHERE id = ? AND ended_at IS NULL",
        params![db.now(), retire_at, id],
    )?;
    Ok(())
}

/// It was not at its end after all.
pub(super) fn reopen(db: &Write<'_, KeyringDb>, id: KeyRotationId) -> Result<()> {
    db.execute(
        "UPDATE master_rotation SET ended_at = NULL, retire_at = NULL WHERE id = ? AND retired_at IS NULL",
        params![id],
    )?;
    Ok(())
}

pub(super) fn retire_now(db: &Write<'_, KeyringDb>, id: KeyRotationId) -> Result<()> {
    db.execute(
        "UPDATE master_rotation SET retire_now = 1, retire_at = CASE WHEN ended_at IS NULL THEN NULL ELSE ? END
         WHERE id = ?",
        params![db.now(), id],
    )?;
    Ok(())
}

pub(super) fn set_retired(db: &Write<'_, KeyringDb>, id: KeyRotationId) -> Result<()> {
    db.execute("UPDATE master_rotation SET retired_at = ? WHERE id = ?", params![db.now(), id])?;
    Ok(())
}

/// A sweep that gives organizations new data keys.
#[derive(Debug, Clone)]
pub struct DataRotation {
    pub id: KeyRotationId,
    /// Keys made before this are replaced.
    pub before: Timestamp,
    pub place: String,
    pub total: i64,
    pub done: i64,
    /// Those that somebody wants to stay as they are.
    pub skipped: i64,
    pub failed: i64,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub last_error: Option<String>,
}

pub(super) fn insert_data_rotation(db: &Write<'_, KeyringDb>, rotation: &DataRotation) -> Result<()> {
    db.execute(
        "INSERT INTO data_rotation (id, before, place, total, done, skipped, failed, started_at)
         VALUES (?, ?, '', ?, 0, 0, 0, ?)",
        params![rotation.id, rotation.before, rotation.total, rotation.started_at],
    )?;
    Ok(())
}

/// The newest one.
pub(super) fn data_rotation(db: &Read<'_, KeyringDb>) -> Result<Option<DataRotation>> {
    db.one(
        "SELECT id, before, place, total, done, skipped, failed, started_at, ended_at, last_error
         FROM data_rotation ORDER BY ended_at IS NOT NULL, rowid DESC LIMIT 1",
        [],
        |row| {
            Ok(DataRotation {
                id: row.get(0)?,
                before: row.get(1)?,
                place: row.get(2)?,
                total: row.get(3)?,
                done: row.get(4)?,
                skipped: row.get(5)?,
                failed: row.get(6)?,
                started_at: row.get(7)?,
                ended_at: row.get(8)?,
                last_error: row.get(9)?,
            })
        },
    )
}

/// How a sweep went with one organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swept {
    Done,
    /// Somebody wants it to stay as it is; why.
    Skipped(String),
    /// What kept it from getting a new key.
    Failed(String),
}

/// One organization further.
pub(super) fn advance(db: &Write<'_, KeyringDb>, id: KeyRotationId, place: &str, swept: &Swept) -> Result<()> {
    let (done, skipped, failed, why) = match swept {
        Swept::Done => (1, 0, 0, None),
        Swept::Skipped(why) => (0, 1, 0, Some(why)),
        Swept::Failed(why) => (0, 0, 1, Some(why)),
    };
    db.execute(
        "UPDATE data_rotation SET place = ?2, done = done + ?3, skipped = skipped + ?4, failed = failed + ?5,
                last_error = coalesce(?6, last_error) WHERE id = ?1",
        params![id, place, done, skipped, failed, why],
    )?;
    Ok(())
}

pub(super) fn end_data_rotation(db: &Write<'_, KeyringDb>, id: KeyRotationId) -> Result<()> {
    db.execute("UPDATE data_rotation SET ended_at = ? WHERE id = ?", params![db.now(), id])?;
    Ok(())
}
