//! Imports: an archive from this or another deployment becomes an organization here.
//!
//! An upload is somebody else's file. It is looked at in a process of its own (`confine.rs`, `check.rs`), which hands
//! rows over as text; this process judges every value again (`take.rs`) and writes them into a fresh file, by the same
//! steps as any new organization: claim, create, activate. The uploaded file itself is never opened here and never
//! adopted, and until the last step nothing of it can be found. It leaves the format to `export`.

mod check;
mod confine;
pub mod http;
mod rows;
mod store;
mod take;
mod transfer;
mod unpack;

pub use check::{Bounds, Checked, check};
pub use confine::{Checker, Limits, SUBCOMMAND, run_check};
pub use take::Taken;
pub use transfer::{Destination, transfer};

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use confine::{ARCHIVE, ROWS, Spool, Verdict};
use take::Plan;

use crate::base::{Error, ExternalId, ImportId, OrganizationId, Result, Secret, Slug, TransferId, codes};
use crate::catalog::{NewEntry, State, organizations};
use crate::crypto::{Algorithm, random, signing};
use crate::features::audit::{self, Act, By, Target};
use crate::features::export::format::{AuditHead, Manifest};
use crate::features::organization::Organization;
use crate::features::provisioning::{Encryption, enter, impersonal, not_in_the_catalog, undo};
use crate::features::{DeploymentState, signing_key};
use crate::tenants::MIGRATIONS;

/// What is to become of an archive.
#[derive(Debug, Default)]
pub struct Wanted {
    /// `None` is the one in the archive.
    pub slug: Option<Slug>,
    /// Whether it becomes another organization, beside the one that it came from.
    pub new_id: bool,
    /// Look, and change nothing.
    pub dry_run: bool,
    /// A passphrase or an age key for the secrets.
    pub key: Option<Secret>,
    pub encryption: Encryption,
    /// It arrives from another deployment: nobody is led to it until that has let go of it.
    pub arriving: Option<Arriving>,
}

/// An organization that another deployment sends. All of it is in its file's last word, so that a catalog that is lost
/// can be made again.
#[derive(Debug, Clone)]
pub struct Arriving {
    pub transfer: TransferId,
    /// The archive must be of this one.
    pub organization: OrganizationId,
    /// The other deployment's address.
    pub from: String,
    /// The JWK that its proof verifies with, as JSON.
    pub key: Option<String>,
    /// Whom the archive was sealed for.
    pub recipient: Option<String>,
    /// Of the archive as it was sent, in hexadecimal.
    pub archive_sha256: String,
}

impl Arriving {
    fn last_word(&self, end: &AuditHead) -> Act {
        Act::about(crate::tenants::ARRIVING, self.organization)
            .with("transfer", self.transfer.to_string())
            .with("from", self.from.as_str())
            .with("key", self.key.as_deref().unwrap_or_default())
            .with("recipient", self.recipient.as_deref().unwrap_or_default())
            .with("archive_sha256", self.archive_sha256.as_str())
            .with("archive_sequence", end.sequence)
            .with("archive_hash", end.hash.as_str())
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Imported {
    pub id: OrganizationId,
    pub slug: Slug,
    pub dry_run: bool,
    pub manifest: Manifest,
    pub signed_by: String,
    pub taken: Taken,
    /// Whether it is suspended where it comes from.
    pub suspended: bool,
    /// What the archive has and the organization here does not, in words.
    pub left_out: Vec<&'static str>,
}

/// An upload that is being received.
pub struct Upload {
    spool: Spool,
}

impl Upload {
    /// Where its bytes go.
    #[must_use]
    pub fn archive(&self) -> PathBuf {
        self.spool.path(ARCHIVE)
    }
}

/// A private place for an upload.
pub fn receive(state: &DeploymentState) -> Result<Upload> {
    let id: ImportId = random::id(state.tenant.clock.now());
    Ok(Upload { spool: state.imports.spool(&id.to_string())? })
}

/// Makes an organization of an upload, whole or not at all.
pub async fn bring_in(state: &DeploymentState, upload: Upload, wanted: Wanted, by: &By) -> Result<Imported> {
    if wanted.encryption == Encryption::File {
        state.tenants.require_encryption()?;
    }
    let verdict = state.imports.check(&upload.spool, wanted.key.as_ref()).await?;
    if wanted.arriving.as_ref().is_some_and(|arriving| arriving.organization != verdict.manifest.organization.id) {
        return Err(Error::new(&codes::TRANSFER_MISMATCH).detail("The archive is of another organization."));
    }
    let plan = plan(state, &verdict, &wanted)?;
    let entry = NewEntry {
        id: plan.id,
        slug: plan.slug.clone(),
        external_id: None,
        schema_version: i64::try_from(MIGRATIONS.len()).unwrap_or(0),
        founder: None,
    };
    refuse_taken(state, &entry).await?;
    if wanted.dry_run {
        return dry_run(&upload, &plan, verdict);
    }
    create(state, &upload, (&plan, wanted.arriving.as_ref(), wanted.encryption), entry, verdict, by).await
}

fn plan(state: &DeploymentState, verdict: &Verdict, wanted: &Wanted) -> Result<Plan> {
    let from = &verdict.manifest.organization;
    let named = || Slug::parse(&from.slug).ok_or_else(|| rows::invalid("organization", "slug"));
    let secrets = verdict.secrets.clone().unwrap_or_default();
    Ok(Plan {
        id: if wanted.new_id { random::id(state.tenant.clock.now()) } else { from.id },
        from: from.id,
        slug: wanted.slug.clone().map_or_else(named, Ok)?,
        secrets: take::secrets_of(&secrets)?,
        now: state.tenant.clock.now(),
    })
}

/// Told before anything is made; the claim makes sure.
async fn refuse_taken(state: &DeploymentState, entry: &NewEntry) -> Result<()> {
    if state.catalog.read(|db| organizations::entry(db, entry.id)).await?.is_some() {
        return Err(Error::new(&codes::ORGANIZATION_EXISTS));
    }
    if state.catalog.read(|db| crate::catalog::erasures::is_gone(db, entry.id)).await? {
        return Err(Error::new(&codes::ORGANIZATION_ERASED));
    }
    if tokio::task::block_in_place(|| state.tenants.is_anywhere(entry.id)) {
        return Err(not_in_the_catalog());
    }
    match state.directory.is_free(entry.slug.as_str()).await? {
        true => Ok(()),
        false => Err(organizations::slug_taken(&entry.slug)),
    }
}

/// The same judging of every value, into nothing.
fn dry_run(upload: &Upload, plan: &Plan, verdict: Verdict) -> Result<Imported> {
    let mut taken = Taken::default();
    tokio::task::block_in_place(|| {
        take::each(rows_of(upload)?, plan, |row| {
            taken.count(&row);
            Ok(())
        })
    })?;
    Ok(report(plan, verdict, taken, true))
}

async fn create(
    state: &DeploymentState,
    upload: &Upload,
    (plan, arriving, encryption): (&Plan, Option<&Arriving>, Encryption),
    mut entry: NewEntry,
    verdict: Verdict,
    by: &By,
) -> Result<Imported> {
    let key = signing::generate(Algorithm::ES256)?;
    // The name space of the catalog is asked before the file is made, so the row is read ahead.
    let own = tokio::task::block_in_place(|| take::organization(rows_of(upload)?, plan))?;
    entry.external_id = own.external_id.as_deref().and_then(ExternalId::parse);
    let claim = state
        .catalog
        .write(|db| {
            // A second import of the same archive may have been faster.
            match organizations::entry(db, entry.id)? {
                Some(_) => Err(Error::new(&codes::ORGANIZATION_EXISTS)),
                None => organizations::claim(db, &entry),
            }
        })
        .await?;
    let made = state
        .tenants
        .create_as(&claim, encryption == Encryption::File, |db, sealer| {
            let mut taken = Taken::default();
            take::each(rows_of(upload)?, plan, |row| {
                taken.count(&row);
                take::insert(db, sealer, row)
            })?;
            let chain = audit::verify(db)?;
            let head = AuditHead { sequence: chain.events, hash: chain.head };
            if !chain.intact || head != verdict.manifest.audit {
                return Err(Error::new(&codes::IMPORT_AUDIT_BROKEN));
            }
            // Where no key came along, the organization signs with one of its own.
            signing_key::seed(db, sealer, &key)?;
            let (sequence, hash) = audit::head(db)?;
            let act = imported(plan, &own, &verdict)
                .with("archive_head", head_of(&verdict.manifest.audit))
                .with("chain_head", head_of(&AuditHead { sequence, hash }))
                .with("members", taken.members);
            let act = match arriving {
                Some(arriving) => act.with("transfer", arriving.transfer.to_string()),
                None => act,
            };
            audit::record(db, by, act)?;
            if let Some(arriving) = arriving {
                // Until the other side has proven that it has let go.
                audit::record(db, by, arriving.last_word(&verdict.manifest.audit))?;
            }
            Ok(taken)
        })
        .await;
    let taken = match made {
        Ok(taken) => taken,
        Err(error) => {
            undo(state, plan.id).await;
            return Err(error);
        }
    };
    // Whoever sent it says when it is served.
    if arriving.is_some() {
        return Ok(Imported { suspended: own.suspended, ..report(plan, verdict, taken, false) });
    }
    enter(state, plan.id, |db| {
        organizations::activate(db, plan.id)?;
        if own.suspended {
            organizations::set_state(db, plan.id, State::Suspended)?;
        }
        let act = Act::about("organization.imported", plan.id);
        audit::record(db, &impersonal(by), act.with("from", plan.from.to_string())).map(drop)
    })
    .await?;
    Ok(report(plan, verdict, taken, false))
}

fn imported(plan: &Plan, own: &Organization, verdict: &Verdict) -> Act {
    Act::new("organization.imported")
        .on(Target::new("organization", plan.id).named(own.name.clone()))
        .with("from", plan.from.to_string())
        .with("exported_at", verdict.manifest.created_at.to_string())
        .with("manifest_sha256", verdict.manifest_sha256.clone())
        .with("signed_by", verdict.signed_by.clone())
}

fn head_of(head: &AuditHead) -> serde_json::Value {
    serde_json::json!({ "sequence": head.sequence, "hash": head.hash })
}

fn rows_of(upload: &Upload) -> Result<BufReader<File>> {
    let path = upload.spool.path(ROWS);
    let opened = File::open(&path).map(BufReader::new);
    opened.map_err(|error| Error::new(&codes::IMPORT_CHECK_FAILED).because(error.to_string()))
}

fn report(plan: &Plan, verdict: Verdict, taken: Taken, dry_run: bool) -> Imported {
    let mut left_out = vec!["sessions and grants: people and apps sign in again", "custom hosts: add them again"];
    if verdict.secrets.is_none() {
        left_out.push("passwords: members set one by “forgot password”");
    }
    if taken.signing_keys == 0 {
        left_out.push("signing keys: a new one was made, so apps that keep keys fetch them again");
    }
    if taken.api_keys == 0 && verdict.manifest.counts.get("api_key").is_some_and(|count| *count > 0) {
        left_out.push("API keys: make new ones");
    }
    if plan.id != plan.from {
        left_out.push("the external id: it belongs to the organization that the archive came from");
    }
    Imported {
        id: plan.id,
        slug: plan.slug.clone(),
        dry_run,
        manifest: verdict.manifest,
        signed_by: verdict.signed_by,
        taken,
        suspended: false,
        left_out,
    }
}

/// What a row of the organization itself becomes here.
fn at_home(mut row: Organization, plan: &Plan) -> Organization {
    row.id = plan.id;
    row.slug = plan.slug.clone();
    // Their names lead to where they came from; here they are claimed one by one.
    row.hosts = Vec::new();
    if plan.id != plan.from {
        row.external_id = None;
    }
    row.updated_at = plan.now;
    row
}

/// The organization's own rules for its row.
fn check_row(row: &Organization) -> Result<()> {
    row.check().map_err(|_| rows::invalid("organization", "row"))
}
