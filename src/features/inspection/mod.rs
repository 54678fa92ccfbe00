//! Looking at the past without touching the present: an organization as it was, beside the live one as an
//! organization of its own, or as a file to read.
//!
//! It owns what such a copy may have in it. Both forms are made of a private copy out of the backup, from which
//! everything that opens something is taken first, and every member who was erased since. A copy that is an
//! organization has a new id, names of its own and nobody who is signed in; it is suspended until an operator resumes
//! it, and it says in its name, its metadata and its audit log what it is. It is made by the steps of any new
//! organization, so a crash leaves all of it or nothing. It leaves alone how the past is had (`backup`) and which rows
//! may be in a new file (`import`).

pub mod http;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backup::{Backups, Target as Point, Txid};
use crate::base::time::length;
use crate::base::{Error, MemberId, OrganizationId, Result, Slug, Timestamp, codes};
use crate::catalog::{NewEntry, State, organizations};
use crate::crypto::{Algorithm, random, signing};
use crate::features::audit::{self, Act, By, Target};
use crate::features::backup::{Copy, Look, fetch, workshop};
use crate::features::erasure::member::erase_from_copy;
use crate::features::export;
use crate::features::import::{self, Destination, Taken};
use crate::features::organization::{self, Organization};
use crate::features::provisioning::{enter, impersonal, undo};
use crate::features::{DeploymentState, member, signing_key};
use crate::sqlite::{Private, TenantDb, require_room};
use crate::tenants::Tenant;

/// Past states that are put together or handed out at the same moment: each keeps a core and a disk busy, and takes
/// up the room of its organization.
const AT_ONCE: usize = 2;
/// When whoever was refused may try again.
const COME_BACK: Duration = length::seconds(5);
/// The longest name of an organization.
const LONGEST_NAME: usize = 120;
/// How many entries the metadata of an organization may have.
const MOST_METADATA: usize = 50;

/// Who may have a past state put together; cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Desk {
    /// A place, for as long as it is held. Refusing at once is kinder than a disk that fills up.
    pub fn place(&self) -> Result<OwnedSemaphorePermit> {
        let refused = |_| {
            Error::new(&codes::OVERLOADED)
                .detail(format!("{AT_ONCE} past states are being put together already. Try again in a moment."))
                .retry_after(COME_BACK)
        };
        Arc::clone(&self.0).try_acquire_owned().map_err(refused)
    }
}

/// A past state, private, and fit to be looked at.
pub struct Prepared {
    copy: Copy,
    pub txid: Txid,
    pub as_of: Timestamp,
    pub name: String,
    pub members: u64,
    pub audit_events: u64,
    /// Members who were there then and were erased since: they are not in it.
    pub erased_members: u64,
    /// The end of the audit log of that time.
    pub head: (i64, String),
    pub bytes: u64,
}

/// An organization that was made of the past of another.
pub struct Copied {
    pub id: OrganizationId,
    pub slug: Slug,
    pub name: String,
    pub taken: Taken,
}

/// Builds the past state, and takes out of it what nobody may have back.
pub async fn prepare(
    state: &DeploymentState,
    backups: &Backups,
    tenant: &Tenant,
    point: Point,
    by: &By,
) -> Result<Prepared> {
    let copy = Copy::new(&workshop(backups))?;
    let restored = fetch((backups, &state.tenants), tenant.id(), point, &copy.file(), Look::Pages).await?;
    let gone: Vec<MemberId> =
        tenant.scan(audit::erased_members).await?.iter().filter_map(|id| id.parse().ok()).collect();
    let as_of = Timestamp::from_utc(restored.timestamp);
    tokio::task::block_in_place(move || {
        let bytes = size_of(&copy.file())?;
        // What is taken out goes through a WAL, and what is handed out is written anew.
        require_room(&copy.file(), bytes.saturating_mul(2))?;
        let found = state.tenants.write_copy(tenant.id(), &copy.file(), |db| {
            let head = audit::head(db)?;
            export::strip(db)?;
            let mut erased = 0;
            for id in &gone {
                erased += u64::from(erase_from_copy(db, *id, by)?);
            }
            Ok((head, erased, organization::get(db)?.name, member::count(db)?, audit::head(db)?.0))
        })?;
        let (head, erased_members, name, members, events) = found;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let (members, audit_events) = (number(members), number(events));
        Ok(Prepared { copy, txid: restored.txid, as_of, name, members, audit_events, erased_members, head, bytes })
    })
}

/// The past state as one file that any SQLite can open, which nobody else can find any more: it goes with the last
/// one who has it open. In the organization's log before the first byte leaves.
pub async fn file_of(tenant: &Tenant, prepared: Prepared, by: &By) -> Result<(File, u64)> {
    tenant
        .write_beyond(|db| audit::record(db, by, told("organization.snapshot_downloaded", tenant.id(), &prepared)))
        .await?;
    tokio::task::block_in_place(|| {
        let clean = prepared.copy.file().with_extension("clean");
        Private::<TenantDb>::open(&prepared.copy.file())?.finish(&clean)?;
        let opened = File::open(&clean).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| unreadable(&clean, error))?;
        Ok((file, bytes))
    })
}

/// Refuses a slug that is taken, before anything is put together; the claim makes sure.
pub async fn require_free(state: &DeploymentState, slug: &Slug) -> Result<()> {
    if state.directory.is_free(slug.as_str()).await? { Ok(()) } else { Err(organizations::slug_taken(slug)) }
}

/// The past state as an organization of its own, suspended: whole or not at all.
pub async fn beside(
    state: &DeploymentState,
    tenant: &Tenant,
    prepared: &Prepared,
    slug: Slug,
    by: &By,
) -> Result<Copied> {
    let (now, from) = (state.tenant.clock.now(), tenant.id());
    let key = signing::generate(Algorithm::ES256)?;
    let entry = NewEntry {
        id: random::id(now),
        slug: slug.clone(),
        external_id: None,
        schema_version: state.tenants.schema_version(),
        founder: None,
    };
    let id = entry.id;
    let claim = state.catalog.write(|db| organizations::claim(db, &entry)).await?;
    let to = Destination { id, from, slug: slug.clone(), now };
    let act = |action| told(action, from, prepared).with("copy", id.to_string());
    // Nothing is taken away without a line, also where a crash comes in between.
    let noted = tenant.write_beyond(|db| audit::record(db, by, act("organization.copied"))).await;
    let made = match noted {
        Err(error) => Err(error),
        Ok(_) => {
            state
                .tenants
                .create_as(&claim, tenant.is_encrypted(), |db, sealer| {
                    let taken = state.tenants.read_copy(from, &prepared.copy.file(), |past| {
                        import::transfer(past, db, sealer, &to, |row| marked(row, prepared, from))
                    })?;
                    signing_key::seed(db, sealer, &key)?;
                    let row = organization::get(db)?;
                    let born =
                        told("organization.made_of_backup", id, prepared).with("restored_from", from.to_string());
                    audit::record(db, by, born)?;
                    Ok((taken, row.name))
                })
                .await
        }
    };
    let entered = match made {
        Ok(made) => enter(state, id, |db| {
            organizations::activate(db, id)?;
            // In the same step: there is no moment at which anybody could sign in.
            organizations::set_state(db, id, State::Suspended)?;
            audit::record(db, &impersonal(by), act("organization.copied")).map(drop)
        })
        .await
        .map(|()| made),
        Err(error) => {
            undo(state, id).await;
            Err(error)
        }
    };
    let (taken, name) = match entered {
        Ok(made) => made,
        Err(error) => {
            let failed = Act::failed("organization.copied").on(Target::new("organization", from));
            let failed = failed.with("copy", id.to_string()).with("why", error.code().name);
            if let Err(unsaid) = tenant.write_beyond(|db| audit::record(db, by, failed)).await {
                tracing::warn!(organization = %from, ?unsaid, "that a copy could not be made is not in its log");
            }
            return Err(error);
        }
    };
    Ok(Copied { id, slug, name, taken })
}

fn told(action: &'static str, on: OrganizationId, prepared: &Prepared) -> Act {
    let (sequence, hash) = &prepared.head;
    Act::new(action)
        .on(Target::new("organization", on))
        .with("txid", prepared.txid.to_string())
        .with("as_of", prepared.as_of.to_string())
        .with("head_then", serde_json::json!({ "sequence": sequence, "hash": hash }))
        .with("erased_members", prepared.erased_members)
}

/// The organization's own row in the copy. It leads nowhere that the live one does, and cannot be taken for it.
fn marked(mut row: Organization, prepared: &Prepared, from: OrganizationId) -> Organization {
    row.suspended = true;
    row.name = name_of(&row.name, prepared.as_of);
    let marks = [
        ("restored_from", from.to_string()),
        ("restored_txid", prepared.txid.to_string()),
        ("restored_as_of", prepared.as_of.to_string()),
    ];
    // What is the customer's own goes first where there is no room for both; the log says it in any case.
    let room = MOST_METADATA.saturating_sub(row.metadata.len());
    for (key, value) in marks.into_iter().take(room) {
        row.metadata.insert(key.to_owned(), value);
    }
    row
}

/// `Acme (as of 2026-11-20T10:00:00.000Z)`, with as much of the name as there is room for.
fn name_of(name: &str, as_of: Timestamp) -> String {
    let suffix = format!(" (as of {as_of})");
    let room = LONGEST_NAME - suffix.chars().count();
    let name: String = name.chars().take(room).collect();
    format!("{}{suffix}", name.trim_end())
}

fn size_of(path: &Path) -> Result<u64> {
    std::fs::metadata(path).map(|found| found.len()).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::internal(format!("cannot read {}", path.display())).source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_what_it_is_however_long_its_name() {
        let as_of = Timestamp::from_millis(1_763_632_800_000);
        assert_eq!(name_of("Acme", as_of), "Acme (as of 2025-11-20T10:00:00.000Z)");
        let long = name_of(&"é".repeat(120), as_of);
        assert_eq!(long.chars().count(), LONGEST_NAME);
        assert!(long.ends_with("(as of 2025-11-20T10:00:00.000Z)"));
    }

    #[test]
    fn only_so_many_at_once() {
        let desk = Desk::default();
        let places: Vec<_> = (0..AT_ONCE).map(|_| desk.place().unwrap()).collect();
        assert!(desk.place().unwrap_err().is(&codes::OVERLOADED));
        drop(places);
        assert!(desk.place().is_ok());
    }
}
