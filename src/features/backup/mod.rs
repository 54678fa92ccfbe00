//! Going back: what an organization was at an earlier moment, how it differs from now, and making it so again.
//!
//! It owns the rules of a restore in place. The past is not put in the place of the present as a file: it is
//! applied to the live file in one transaction, so that nobody sees a half of it, requests go on, and what must not
//! come back does not. Time is taken seriously: sessions and grants end, keys that were revoked stay revoked, members
//! who lost access stay without it, nobody gets a role or a password back that was taken from them, what was to
//! be sent is not sent twice, and the audit log goes on from where it is. What it leaves alone: how the past is had
//! (`backup`), and the catalog, since names and state of an organization are not part of what goes back.

mod difference;
mod held;
pub mod http;
mod replace;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

pub use difference::{Difference, FieldChange, between};
pub use held::frozen_in_backup;
pub use replace::{Recovery, Replacement, rehearse_replacement, replace};

use crate::backup::{Backups, History, Restored, Source, Target, Txid};
use crate::base::{Error, OrganizationId, Result, Timestamp, codes};
use crate::crypto::random;
use crate::features::DeploymentState;
use crate::features::api_key::{self, ApiKey};
use crate::features::audit::{self, Act, Actor, By, Context, Target as Subject};
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
    /// Who got access back that was taken since, and what had taken it; only where that was asked for.
    pub reinstated: Vec<Withheld>,
    pub sessions_ended: usize,
    /// The point just before: restoring it undoes the restore, but for what ended.
    pub previous: Option<Txid>,
}

/// What becomes of access that was taken from members since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It stays taken: whoever took it may have had a reason.
    AsNow,
    /// It is given back, with the password of then to whoever was deleted: what took it was the mistake to undo.
    /// Who was erased stays gone, and sessions and keys stay ended in either case.
    AsThen,
}

/// Something that stays as it is now, or that would have.
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

    /// The same without those who were erased since: nobody is told of them any more.
    #[must_use]
    pub fn without(&self, erased: &HashSet<String>) -> Self {
        let mut rest = self.clone();
        rest.members.retain(|member| !erased.contains(&member.id.to_string()));
        rest
    }
}

/// The moment of a point, as a target of the replica.
#[must_use]
pub fn at(time: Timestamp) -> Target {
    Target::Time(time.to_utc())
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
    let restored = fetch((backups, tenants), tenant.id(), target, &copy.file(), Look::Pages).await?;
    let facts = tokio::task::block_in_place(|| tenants.read_copy(tenant.id(), &copy.file(), Facts::of))?;
    Ok(Past { txid: restored.txid, as_of: Timestamp::from_utc(restored.timestamp), facts })
}

/// How closely a copy is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// At its pages.
    Pages,
    /// And whether every index fits its table: for what takes the place of a file.
    Full,
}

/// Builds an organization's file as it was: whole, or not at all. Where that cannot be, it is told what can.
pub async fn fetch(
    (backups, tenants): (&Backups, &Tenants),
    id: OrganizationId,
    target: Target,
    out: &Path,
    look: Look,
) -> Result<Restored> {
    let source = Source::Organization(id);
    let check = |copy: &Path| tenants.require_whole_copy(id, copy, look == Look::Full);
    match backups.restore_whole(source, target, out, check).await {
        Err(error) if error.is(&codes::BACKUP_NOT_FOUND) => {
            let Ok(History { oldest: Some(oldest), newest: Some(newest), .. }) = backups.history(source).await else {
                return Err(error);
            };
            let detail = format!(
                "{} It reaches from {} (transaction {}) to {} (transaction {}).",
                error.public_detail(),
                Timestamp::from_utc(oldest.created_at),
                oldest.txid,
                Timestamp::from_utc(newest.created_at),
                newest.txid,
            );
            Err(Error::new(&codes::BACKUP_NOT_FOUND).detail(detail))
        }
        other => other,
    }
}

/// Tells in the operators' log that the store was taken over, which was done while there was no server and maybe no
/// catalog either. Once: a start that is killed in between finds it there.
pub async fn note_adoptions(state: &DeploymentState, backups: &Backups) -> Result<()> {
    const ACTION: &str = "backup.adopted";
    let adoptions = backups.adoptions();
    if adoptions.is_empty() {
        return Ok(());
    }
    // Whoever may do it on this machine, as for every command without a key.
    let by = By {
        actor: Actor::operator(None, Some("local operator")),
        context: Context::default(),
        request_id: "cli".to_owned(),
    };
    state
        .catalog
        .write(|db| {
            for adoption in &adoptions {
                if audit::has_happened(db, ACTION, "adoption", &adoption.id.as_str().into())? {
                    continue;
                }
                let act = Act::new(ACTION)
                    .on(Subject::new("backup", &adoption.location))
                    .with("adoption", adoption.id.as_str())
                    .with("adopted_at", Timestamp::from_utc(adoption.at).to_string())
                    .with("epoch", adoption.epoch)
                    .with("epoch_before", adoption.epoch_before)
                    .with("deployment_before", adoption.deployment_before.clone());
                audit::record(db, &by, act)?;
            }
            Ok(())
        })
        .await?;
    tokio::task::block_in_place(|| backups.adoptions_told(&adoptions))
}

/// The folder below which past states are put together, on the file system of the data directory.
#[must_use]
pub fn workshop(backups: &Backups) -> PathBuf {
    backups.scratch().join("restoring")
}

/// Throws away what a process that was killed has left there. Blocking; at start, before the first request.
pub fn clear_workshop(data_dir: &Path) -> Result<()> {
    let workshop = data_dir.join("restoring");
    match std::fs::remove_dir_all(&workshop) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("cannot clear {}", workshop.display())).source(error))
        }
        _ => Ok(()),
    }
}

/// What applying the past would change, without doing it.
pub async fn rehearse(tenant: &Tenant, past: &Past, access: Access) -> Result<Restoration> {
    let now = tenant.read(Facts::of).await?;
    let (then, kept) = merged(&now, &past.facts, access);
    Ok(Restoration {
        txid: past.txid,
        as_of: past.as_of,
        changes: between(&now, &then),
        withheld: kept.withheld,
        reinstated: kept.reinstated,
        sessions_ended: 0,
        previous: None,
    })
}

/// Makes the organization what it was, in one transaction.
pub async fn restore(backups: &Backups, tenant: &Tenant, past: &Past, access: Access, by: &By) -> Result<Restoration> {
    // What is now must be there to come back to.
    let source = Source::Organization(tenant.id());
    backups.ship_now(source).await?;
    let previous = backups.progress(source).and_then(|progress| progress.txid);
    let restoration = tenant.write(|db| apply(db, past, access, previous, by)).await?;
    organization::changed(tenant);
    backups.ship_now(source).await?;
    Ok(restoration)
}

fn apply(
    db: &Write<'_, TenantDb>,
    past: &Past,
    access: Access,
    previous: Option<Txid>,
    by: &By,
) -> Result<Restoration> {
    let now = Facts::of(db)?;
    let had_owner = member::count_active_owners(db)? > 0;
    let (then, Kept { withheld, reinstated }) = merged(&now, &past.facts, access);
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
        if let Some(known) = now.members.iter().find(|known| known.id == member.id) {
            member::update(db, &Member { updated_at: db.now(), ..member.clone() })?;
            if let (None, Some(hash)) = (&known.password_hash, &member.password_hash) {
                member::set_password(db, member.id, hash)?;
            }
        } else {
            member::insert(db, member)?;
        }
    }
    for key in then.keys.iter().filter(|key| key.revoked_at.is_some()) {
        api_key::revoke(db, key.id, by)?;
    }
    organization::update(db, &then.organization)?;
    // One whose owner has not come yet has none to lose.
    if had_owner && member::count_active_owners(db)? == 0 {
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
        .with("reinstated", reinstated.len())
        .with("sessions_ended", sessions_ended);
    audit::record(db, by, act)?;
    for one in &reinstated {
        let target = Subject::new("member", &one.id).named(one.name.clone());
        audit::record(db, by, Act::new("member.reinstated").on(target).with("taken_by", one.reason))?;
    }
    Ok(Restoration { txid: past.txid, as_of: past.as_of, changes, withheld, reinstated, sessions_ended, previous })
}

/// What the past does not decide alone.
#[derive(Default)]
struct Kept {
    withheld: Vec<Withheld>,
    reinstated: Vec<Withheld>,
}

/// What will be: the past, without what was taken away since.
fn merged(now: &Facts, past: &Facts, access: Access) -> (Facts, Kept) {
    let mut kept = Kept::default();
    let may_be = |then: &&Member| !now.erased.contains(&then.id.to_string());
    let members = past.members.iter().filter(may_be).map(|then| member_of(then, now, access, &mut kept)).collect();
    let keys = now
        .keys
        .iter()
        .map(|key| {
            let mut key = key.clone();
            match past.keys.iter().find(|then| then.id == key.id) {
                // Made since: it was not there then.
                None => key.revoked_at = key.revoked_at.or(Some(key.created_at)),
                Some(then) if then.revoked_at.is_none() && key.revoked_at.is_some() => {
                    kept.withheld.push(Withheld {
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
    (Facts { organization, members, keys, erased: now.erased.clone(), head: now.head.clone() }, kept)
}

/// A member of the past as they may be today.
fn member_of(then: &Member, now: &Facts, access: Access, kept: &mut Kept) -> Member {
    let note = |list: &mut Vec<Withheld>, reason| {
        list.push(Withheld { kind: "member", id: then.id.to_string(), name: then.display().to_owned(), reason });
    };
    let gives_back = access == Access::AsThen;
    // What was taken from them: it stays so, or is given back.
    let list = if gives_back { &mut kept.reinstated } else { &mut kept.withheld };
    let Some(today) = now.members.iter().find(|member| member.id == then.id) else {
        note(list, "deleted_since");
        return if gives_back {
            Member { failed_attempts: 0, locked_until: None, ..then.clone() }
        } else {
            // The person comes back to the list, and an administrator decides whether they come in.
            Member { status: Status::Inactive, password_hash: None, password_set_at: None, ..then.clone() }
        };
    };
    let mut member = Member {
        password_hash: today.password_hash.clone(),
        password_set_at: today.password_set_at,
        failed_attempts: today.failed_attempts,
        locked_until: today.locked_until,
        ..then.clone()
    };
    // Whoever is pending comes in by way of their mailbox, so it is access as well.
    let has_lost = match today.status {
        Status::Active => false,
        Status::Pending => then.status == Status::Active,
        Status::Inactive => then.status != Status::Inactive,
    };
    if has_lost {
        note(list, "deactivated_since");
        if !gives_back {
            member.status = today.status;
        }
    }
    let allowed: Vec<Role> = then.roles.iter().filter(|role| has(today, **role)).copied().collect();
    if allowed.len() < then.roles.len() {
        note(list, "roles_reduced_since");
        if !gives_back {
            member.roles = if allowed.is_empty() { vec![Role::Member] } else { allowed };
        }
    }
    if gives_back && today.password_hash.is_none() {
        // An earlier restore may have brought them back without one.
        (member.password_hash, member.password_set_at) = (then.password_hash.clone(), then.password_set_at);
    } else if today.password_hash != then.password_hash {
        // A newer password is the person's own doing, whoever asks for the restore.
        note(&mut kept.withheld, "password_changed_since");
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
pub struct Copy(PathBuf);

impl Copy {
    pub fn new(scratch: &Path) -> Result<Self> {
        let name = hex::encode(random::bytes::<8>());
        let directory = scratch.join(name);
        std::fs::create_dir_all(&directory)
            .map_err(|error| Error::internal(format!("cannot make {}", directory.display())).source(error))?;
        Ok(Self(directory))
    }

    #[must_use]
    pub fn file(&self) -> PathBuf {
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
