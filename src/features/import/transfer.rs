//! From one file of ours into another: a past state becomes an organization of its own.
//!
//! The rows are those that an import takes over, judged by the same rules, so that there is one list of what may be
//! in a new organization's file. Nothing that opens something comes along: no password, no key of any kind.

use std::collections::HashMap;

use super::rows::Line;
use super::store;
use super::take::{self, Judged, Plan, Taken};
use crate::base::{OrganizationId, Result, Slug, Timestamp};
use crate::crypto::Sealer;
use crate::features::organization::Organization;
use crate::sqlite::{Read, TenantDb, Write};

/// What the rows become.
#[derive(Debug, Clone)]
pub struct Destination {
    pub id: OrganizationId,
    /// Whose rows they are.
    pub from: OrganizationId,
    pub slug: Slug,
    pub now: Timestamp,
}

/// Copies every row that a new organization may have. `shape` has the last word on the organization's own.
pub fn transfer(
    from: &Read<'_, TenantDb>,
    db: &Write<'_, TenantDb>,
    sealer: &Sealer,
    to: &Destination,
    shape: impl Fn(Organization) -> Organization,
) -> Result<Taken> {
    let plan = Plan { id: to.id, from: to.from, slug: to.slug.clone(), secrets: HashMap::new(), now: to.now };
    let mut taken = Taken::default();
    store::each(from, |table, row| {
        let judged = match take::judge(Line { table: table.to_owned(), row }, &plan)? {
            None => return Ok(()),
            Some(Judged::Organization(row)) => Judged::Organization(Box::new(shape(*row))),
            Some(judged) => judged,
        };
        taken.count(&judged);
        take::insert(db, sealer, judged)
    })?;
    Ok(taken)
}
