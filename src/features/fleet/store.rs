//! SQL of walks over all organizations, and of what they have found. In the catalog.

use super::{Finding, Found, Job, JobState, Kind};
use crate::base::{FleetJobId, Result};
use crate::sqlite::{CatalogDb, Read, Row, RowResult, Write, params};

/// Jobs of one kind that are kept.
const KEPT: i64 = 20;

pub fn insert(db: &Write<'_, CatalogDb>, job: &Job) -> Result<()> {
    db.execute(
        "INSERT INTO fleet_job (id, kind, options, state, total, created_at) VALUES (?, ?, ?, ?, ?, ?)",
        params![job.id, job.kind.as_str(), job.options, job.state.as_str(), job.total, job.created_at],
    )?;
    db.execute(
        "DELETE FROM fleet_job WHERE kind = ?1 AND state <> 'running' AND id NOT IN
           (SELECT id FROM fleet_job WHERE kind = ?1 ORDER BY id DESC LIMIT ?2)",
        params![job.kind.as_str(), KEPT],
    )?;
    Ok(())
}

pub fn get(db: &Read<'_, CatalogDb>, id: FleetJobId, kind: Kind) -> Result<Option<Job>> {
    db.one(
        "SELECT id, kind, options, state, place, total, done, created_at, ended_at,
                (SELECT count(*) FROM fleet_finding WHERE job_id = fleet_job.id)
         FROM fleet_job WHERE id = ? AND kind = ?",
        params![id, kind.as_str()],
        from_row,
    )
}

pub fn running(db: &Read<'_, CatalogDb>) -> Result<Vec<Job>> {
    db.all(
        "SELECT id, kind, options, state, place, total, done, created_at, ended_at, 0
         FROM fleet_job WHERE state = 'running'",
        [],
        from_row,
    )
}

/// The newest of a kind.
pub fn newest(db: &Read<'_, CatalogDb>, kind: Kind) -> Result<Option<Job>> {
    db.one(
        "SELECT id, kind, options, state, place, total, done, created_at, ended_at,
                (SELECT count(*) FROM fleet_finding WHERE job_id = fleet_job.id)
         FROM fleet_job WHERE kind = ? ORDER BY id DESC LIMIT 1",
        params![kind.as_str()],
        from_row,
    )
}

/// How far a walk has come.
pub fn advance(db: &Write<'_, CatalogDb>, id: FleetJobId, place: &str, done: i64) -> Result<()> {
    db.execute("UPDATE fleet_job SET place = ?, done = done + ? WHERE id = ?", params![place, done, id])?;
    Ok(())
}

pub fn set_state(db: &Write<'_, CatalogDb>, id: FleetJobId, state: JobState) -> Result<()> {
    db.execute(
        "UPDATE fleet_job SET state = ?1, ended_at = CASE WHEN ?1 = 'running' THEN NULL ELSE ?2 END WHERE id = ?3",
        params![state.as_str(), db.now(), id],
    )?;
    Ok(())
}

pub fn add(db: &Write<'_, CatalogDb>, id: FleetJobId, found: &Found) -> Result<()> {
    db.execute(
        "INSERT INTO fleet_finding (job_id, sequence, organization_id, code, problem, advice)
         SELECT ?1, coalesce(max(sequence), 0) + 1, ?2, ?3, ?4, ?5 FROM fleet_finding WHERE job_id = ?1",
        params![id, found.organization_id, found.code, found.problem, found.advice],
    )?;
    Ok(())
}

/// What was found after this one, so many at the most.
pub fn findings(db: &Read<'_, CatalogDb>, id: FleetJobId, after: i64, limit: u32) -> Result<Vec<Finding>> {
    db.all(
        "SELECT sequence, organization_id, code, problem, advice FROM fleet_finding
         WHERE job_id = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        params![id, after, limit],
        |row| {
            Ok(Finding {
                sequence: row.get(0)?,
                organization_id: row.get(1)?,
                code: row.get(2)?,
                problem: row.get(3)?,
                advice: row.get(4)?,
            })
        },
    )
}

fn from_row(row: &Row<'_>) -> RowResult<Job> {
    Ok(Job {
        id: row.get(0)?,
        kind: Kind::parse(&row.get::<_, String>(1)?),
        options: row.get(2)?,
        state: JobState::parse(&row.get::<_, String>(3)?),
        place: row.get(4)?,
        total: row.get(5)?,
        done: row.get(6)?,
        created_at: row.get(7)?,
        ended_at: row.get(8)?,
        findings: row.get(9)?,
    })
}
