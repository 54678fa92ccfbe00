//! Going back: what an organization was at an earlier moment, how it differs from now, and making it so again.
//!
//! It owns the rules of a restore in place. The past is not put in the place of the present as a file: it is
//! applied to the live file in one transaction, so that nobody sees a half of it, requests go on, and what must not
//! come back does not. Time is taken seriously: sessions and grants end, keys that were revoked stay revoked, members
//! who lost access stay without it, nobody gets a role or a password back that was taken from them, what was to
//! be sent is not sent twice, and the audit log goes on from where it is. What it leaves alone: how the past is had
//! (`backup`), and the catalog, since names and state of an organization are not part of what goes back.

mod difference;
pub mod http;
mod replace;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use chrono::DateTime;

pub use difference::{Difference, FieldChange, between};
pub use replace::{Replacement, replace};

use crate::backup::{Backups, History, Source, Target, Txid};
use crate::base::{Error, Result, Timestamp, codes};
use crate::crypto::random;
use crate::features::api_key::{self, ApiKey};
use crate::features::audit::{self, Act, By, Target as Subject};
use crate::features::member::{self, Member, Role, Status};
use crate::features::organization::{self, Organization};
use crate::features::session::{self, End};
use crate::sqlite::{Read, TenantDb, Write};
use crate::tenants::{Tenant, Tenants};

/// What an organization is at one moment, as far as it can go back there.
#[derive(Debug, Clone)]
pub struct Facts {
    pub organization: Organization,
    pub members: Vec<Member>,
    pub keys: Vec<ApiKey>,
    /// Ids of members who were erased: they are never brought back.
    pub erased: HashSet<String>,
    /// The end of its audit log.
    pub head: (i64, String),
}

/// A point of the past, and what was then.
#[derive(Debug)]
pub struct Past {
    pub txid: Txid,
    pub as_of: Timestamp,
    pub facts: Facts,
}

/// What a restore did, or would do.
#[derive(Debug)]
pub struct Restoration {
    pub txid: Txid,
    pub as_of: Timestamp,
    /// From what is now to what then is.
    pub changes: Vec<Difference>,
    /// What was not brought back, and why not.
    pub withheld: Vec<Withheld>,
    pub sessions_ended: usize,
    /// The point just before: restoring it undoes the restore, but for what ended.
    pub previous: Option<Txid>,
}

/// Something that stays as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withheld {
    pub kind: &'static str,
    pub id: String,
    pub name: String,
    /// A stable word: `deactivated_since`, `deleted_since`, `roles_reduced_since`, `password_changed_since`, ...
    pub reason: &'static str,
}

impl Facts {
    pub fn of(db: &Read<'_, TenantDb>) -> Result<Self> {
        Ok(Self {
            organization: organization::get(db)?,
            members: member::all(db)?,
            keys: api_key::all(db)?,
            erased: audit::erased_members(db)?,
            head: audit::head(db)?,
        })
    }
}

/// The moment of a point, as a target of the replica.
#[must_use]
pub fn at(time: Timestamp) -> Target {
    Target::Time(DateTime::from_timestamp_millis(time.millis()).unwrap_or_default())
}

/// What can be had back; what was committed a moment ago included.
pub async fn history(backups: &Backups, tenant: &Tenant) -> Result<History> {
    backups.history(Source::Organization(tenant.id())).await
}

/// An organization as it was.
pub async fn past(
    backups: &Backups,
    tenants: &Tenants,
    tenant: &Tenant,
    target: Target,
    scratch: &Path,
) -> Result<Past> {
    let copy = Copy::new(scratch)?;
    let restored = backups.restore(Source::Organization(tenant.id()), target, &copy.file()).await?;
    let facts = tokio::task::block_in_place(|| tenants.read_copy(tenant.id(), &copy.file(), Facts::of))?;
    Ok(Past { txid: restored.txid, as_of: Timestamp::from_millis(restored.timestamp.timestamp_millis()), facts })
}

/// What applying the past would change, without doing it.
pub async fn rehearse(tenant: &Tenant, past: &Past) -> Result<Restoration> {
    let now = tenant.read(Facts::of).await?;
    let (then, withheld) = merged(&now, &past.facts);
    let changes = between(&now, &then);
    Ok(Restoration { txid: past.txid, as_of: past.as_of, changes, withheld, sessions_ended: 0, previous: None })
}

/// Makes the organization what it was, in one transaction.
pub async fn restore(backups: &Backups, tenant: &Tenant, past: &Past, by: &By) -> Result<Restoration> {
    // What is now must be there to come back to.
    let source = Source::Organization(tenant.id());
    backups.ship_now(source).await?;
    let previous = backups.progress(source).and_then(|progress| progress.txid);
    let restoration = tenant.write(|db| apply(db, past, previous, by)).await?;
    organization::changed(tenant);
    backups.ship_now(source).await?;
    Ok(restoration)
}

fn apply(db: &Write<'_, TenantDb>, past: &Past, previous: Option<Txid>, by: &By) -> Result<Restoration> {
    let now = Facts::of(db)?;
    let (then, withheld) = merged(&now, &past.facts);
    let changes = between(&now, &then);
    // Before anybody moves or goes: an address must be free for whoever had it then.
    for member in &now.members {
        if !then.members.iter().any(|kept| kept.id == member.id) {
            member::delete(db, member.id)?;
        }
    }
    for member in now.members.iter().filter(|member| then.members.iter().any(|kept| kept.id == member.id)) {
        member::park_email(db, member.id)?;
    }
    for member in &then.members {
        if now.members.iter().any(|known| known.id == member.id) {
            member::update(db, &Member { updated_at: db.now(), ..member.clone() })?;
        } else {
            member::insert(db, member)?;
        }
    }
    for key in then.keys.iter().filter(|key| key.revoked_at.is_some()) {
        api_key::revoke(db, key.id, by)?;
    }
    organization::update(db, &then.organization)?;
    if member::count_active_owners(db)? == 0 {
        return Err(Error::new(&codes::LAST_OWNER)
            .detail("Then nobody would own the organization: the owners of that time have lost their access since."));
    }
    let sessions_ended = session::end_all(db, End::OrganizationRestored)?;
    let head = |(sequence, hash): &(i64, String)| serde_json::json!({ "sequence": sequence, "hash": hash });
    let act = Act::new("organization.restored")
        .on(Subject::new("organization", now.organization.id).named(then.organization.name.clone()))
        .with("txid", past.txid.to_string())
        .with("as_of", past.as_of.to_string())
        .with("previous_txid", previous.map(|txid| txid.to_string()))
        .with("head_then", head(&past.facts.head))
        .with("head_before", head(&now.head))
        .with("changes", changes.len())
        .with("withheld", withheld.len())
        .with("sessions_ended", sessions_ended);
    audit::record(db, by, act)?;
    Ok(Restoration { txid: past.txid, as_of: past.as_of, changes, withheld, sessions_ended, previous })
}

/// What will be: the past, without what was taken away since.
fn merged(now: &Facts, past: &Facts) -> (Facts, Vec<Withheld>) {
    let mut withheld = Vec::new();
    let may_be = |then: &&Member| !now.erased.contains(&then.id.to_string());
    let members = past.members.iter().filter(may_be).map(|then| member_of(then, now, &mut withheld)).collect();
    let keys = now
        .keys
        .iter()
        .map(|key| {
            let mut key = key.clone();
            match past.keys.iter().find(|then| then.id == key.id) {
                // Made since: it was not there then.
                None => key.revoked_at = key.revoked_at.or(Some(key.created_at)),
                Some(then) if then.revoked_at.is_none() && key.revoked_at.is_some() => {
                    withheld.push(Withheld {
                        kind: "api_key",
                        id: key.id.to_string(),
                        name: key.name.clone(),
                        reason: "revoked_since",
                    });
                }
                Some(_) => {}
            }
            key
        })
        .collect();
    let organization = Organization {
        name: past.organization.name.clone(),
        metadata: past.organization.metadata.clone(),
        accent: past.organization.accent.clone(),
        policy: past.organization.policy.clone(),
        // Where it is found and whether it may be used is the catalog's to say.
        ..now.organization.clone()
    };
    (Facts { organization, members, keys, erased: now.erased.clone(), head: now.head.clone() }, withheld)
}

/// A member of the past as they may be today.
fn member_of(then: &Member, now: &Facts, withheld: &mut Vec<Withheld>) -> Member {
    let mut keep = |reason| {
        withheld.push(Withheld { kind: "member", id: then.id.to_string(), name: then.display().to_owned(), reason });
    };
    let Some(today) = now.members.iter().find(|member| member.id == then.id) else {
        // The person comes back to the list, and an administrator decides whether they come in.
        keep("deleted_since");
        return Member { status: Status::Inactive, password_hash: None, password_set_at: None, ..then.clone() };
    };
    let mut member = Member {
        password_hash: today.password_hash.clone(),
        password_set_at: today.password_set_at,
        failed_attempts: today.failed_attempts,
        locked_until: today.locked_until,
        ..then.clone()
    };
    if today.password_hash != then.password_hash {
        keep("password_changed_since");
    }
    if today.status != Status::Active && then.status == Status::Active {
        member.status = today.status;
        keep("deactivated_since");
    }
    let allowed: Vec<Role> = then.roles.iter().filter(|role| has(today, **role)).copied().collect();
    if allowed.len() < then.roles.len() {
        keep("roles_reduced_since");
        member.roles = if allowed.is_empty() { vec![Role::Member] } else { allowed };
    }
    member
}

/// Whether a member has at least the rights of a role.
fn has(member: &Member, role: Role) -> bool {
    let rank = |role: Role| match role {
        Role::Owner => 2,
        Role::Admin => 1,
        Role::Member => 0,
    };
    member.roles.iter().any(|own| rank(*own) >= rank(role))
}

/// A directory for one copy, gone with it.
struct Copy(PathBuf);

impl Copy {
    fn new(scratch: &Path) -> Result<Self> {
        let name = hex::encode(random::bytes::<8>());
        let directory = scratch.join(name);
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::internal(format!("cannot make {}", directory.display())).source(error))?;
        Ok(Self(directory))
    }

    fn file(&self) -> PathBuf {
        self.0.join("db.sqlite")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "a restored copy could not be removed");
        }
    }
}
