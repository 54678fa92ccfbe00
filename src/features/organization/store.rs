//! SQL of the organization's own row.

use super::{Organization, Quotas};
use crate::base::{Error, Replication, Result};
use crate::sqlite::{Read, Row, RowResult, TenantDb, Write, params};

/// The row; every file has it, or it would not have been opened.
pub fn get(db: &Read<'_, TenantDb>) -> Result<Organization> {
    db.once(
        "SELECT id, name, slug, external_id, hosts, state, metadata, accent, policy, created_at, updated_at, former_names,
                max_bytes, max_members, limits, replication
         FROM organization",
        [],
        from_row,
    )?
    .ok_or_else(|| Error::internal("the file has no organization"))
}

/// Stamps and fills a new file.
pub fn insert(db: &Write<'_, TenantDb>, organization: &Organization) -> Result<()> {
    db.execute(
        "INSERT INTO organization (singleton, id, name, slug, external_id, hosts, state, metadata, accent, policy,
                                   created_at, updated_at, former_names, max_bytes, max_members, limits,
                                   replication)
         VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            organization.id,
            organization.name,
            organization.slug,
            organization.external_id,
            json(&organization.hosts)?,
            state(organization),
            json(&organization.metadata)?,
            organization.accent,
            json(&organization.policy)?,
            organization.created_at,
            organization.updated_at,
            json(&organization.former_names)?,
            bound(organization.quotas.max_bytes),
            bound(organization.quotas.max_members),
            json(&organization.limits)?,
            organization.replication.map(Replication::as_str)
        ],
    )?;
    Ok(())
}

pub fn update(db: &Write<'_, TenantDb>, organization: &Organization) -> Result<()> {
    db.execute(
        "UPDATE organization SET name = ?, slug = ?, external_id = ?, hosts = ?, state = ?, metadata = ?, accent = ?,
                                 policy = ?, updated_at = ?, former_names = ?, max_bytes = ?, max_members = ?,
                                 limits = ?, replication = ?",
        params![
            organization.name,
            organization.slug,
            organization.external_id,
            json(&organization.hosts)?,
            state(organization),
            json(&organization.metadata)?,
            organization.accent,
            json(&organization.policy)?,
            db.now(),
            json(&organization.former_names)?,
            bound(organization.quotas.max_bytes),
            bound(organization.quotas.max_members),
            json(&organization.limits)?,
            organization.replication.map(Replication::as_str)
        ],
    )?;
    Ok(())
}

fn state(organization: &Organization) -> &'static str {
    if organization.suspended { "suspended" } else { "active" }
}

/// Bytes that rows and indexes take up; pages that are free do not count, since they are used again.
pub fn used_bytes(db: &Read<'_, TenantDb>) -> Result<u64> {
    let used = db.number(
        "SELECT (p.page_count - f.freelist_count) * s.page_size
         FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s",
        [],
    )?;
    Ok(u64::try_from(used).unwrap_or(0))
}

/// A column holds no more than an `i64`, which is as good as no limit.
fn bound(limit: Option<u64>) -> Option<i64> {
    limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("a column could not be written").source(error))
}

fn from_row(row: &Row<'_>) -> RowResult<Organization> {
    let parsed = |at: usize| row.get::<_, String>(at);
    Ok(Organization {
        id: row.get(0)?,
        name: row.get(1)?,
        slug: row.get(2)?,
        external_id: row.get(3)?,
        hosts: serde_json::from_str(&parsed(4)?).unwrap_or_default(),
        suspended: parsed(5)? == "suspended",
        metadata: serde_json::from_str(&parsed(6)?).unwrap_or_default(),
        accent: row.get(7)?,
        policy: serde_json::from_str(&parsed(8)?).unwrap_or_default(),
        created_at: row.get(9)?,
        updated_at: row.get(10)?,
        former_names: serde_json::from_str(&parsed(11)?).unwrap_or_default(),
        quotas: Quotas {
            max_bytes: row.get::<_, Option<i64>>(12)?.and_then(|limit| u64::try_from(limit).ok()),
            max_members: row.get::<_, Option<i64>>(13)?.and_then(|limit| u64::try_from(limit).ok()),
        },
        limits: serde_json::from_str(&parsed(14)?).unwrap_or_default(),
        replication: row.get::<_, Option<String>>(15)?.as_deref().and_then(Replication::parse),
    })
}
