//! Exports: everything that an organization has, in one signed file that needs no server to be read or checked.
//!
//! It owns the folder `exports/` and the format of the archive (`format.rs`), which `import` reads. Making one takes a
//! snapshot while everybody goes on, strips it of what opens something, and signs what is left with the
//! organization's own key. It leaves alone who may ask (`http.rs` for programs, `pages.rs` for owners).

mod build;
mod digest;
pub mod format;
pub mod http;
pub mod pages;
mod shelf;
mod store;

pub use shelf::{Export, Rules, Shelf, State};
pub use store::{counts, strip};

use std::path::PathBuf;

use format::Secrets;

use crate::base::{Error, ExportId, Result, codes};
use crate::crypto::envelope::Lock;
use crate::crypto::{Algorithm, KeyStock, random};
use crate::features::audit::{self, Act, By};
use crate::features::organization;
use crate::features::signing_key::Holder;
use crate::tenants::Tenant;

/// Begins an export and comes back at once; the archive is built beside everything else. It is in the audit log before
/// anything is read, so that nothing leaves the house without a line.
pub async fn request(shelf: &Shelf, tenant: &Tenant, stock: &KeyStock, lock: Option<Lock>, by: &By) -> Result<Export> {
    let now = tenant.clock().now();
    let slug = organization::current(tenant).await?.slug.clone();
    let keys = Holder::Organization(tenant).keys_for(&[Algorithm::ES256], stock).await?;
    let key = keys.signer(Algorithm::ES256, now).cloned();
    let key = key.ok_or_else(|| Error::internal("the organization has no key to sign with"))?;
    let export = Export {
        id: random::id(now),
        organization_id: tenant.id(),
        state: State::Building,
        secrets: match &lock {
            None => Secrets::Omitted,
            Some(Lock::Passphrase(_)) => Secrets::Passphrase,
            Some(Lock::Recipient(_)) => Secrets::Age,
        },
        file_name: format::file_name(&slug, now),
        size: None,
        sha256: None,
        failure: None,
        created_at: now,
        expires_at: now.plus(shelf.rules().keep),
    };
    let mut building = tokio::task::block_in_place(|| shelf.begin(export))?;
    let export = building.export.clone();
    let recorded = tenant
        .write(|db| {
            let act = Act::about("organization.exported", tenant.id());
            audit::record(db, by, act.with("export_id", export.id.to_string()).with("secrets", export.secrets.as_str()))
        })
        .await;
    if let Err(error) = recorded {
        building.export.state = State::Failed;
        shelf.write(&building.export)?;
        shelf.remove(export.organization_id, export.id, now)?;
        return Err(error);
    }
    let (shelf, tenant) = (shelf.clone(), tenant.clone());
    tokio::spawn(async move {
        let built = make(&shelf, &tenant, &building.export, &key, lock.as_ref()).await;
        let ended = match built {
            Ok(finished) => Export {
                state: State::Ready,
                size: Some(finished.size),
                sha256: Some(finished.sha256),
                ..building.export.clone()
            },
            Err(error) => {
                tracing::error!(organization = %tenant.id(), ?error, "an export could not be made");
                Export { state: State::Failed, failure: Some(error.code().name.to_owned()), ..building.export.clone() }
            }
        };
        if let Err(error) = tokio::task::block_in_place(|| shelf.write(&ended)) {
            tracing::error!(organization = %tenant.id(), ?error, "an export could not be noted");
        }
    });
    Ok(export)
}

async fn make(
    shelf: &Shelf,
    tenant: &Tenant,
    export: &Export,
    key: &crate::crypto::SigningKey,
    lock: Option<&Lock>,
) -> Result<format::FileDigest> {
    let _hand = shelf.hands().acquire().await.map_err(|_| Error::new(&codes::OVERLOADED))?;
    let (workshop, archive) = shelf.workshop(export)?;
    let recipe = build::Recipe { key, lock, now: export.created_at, most_bytes: shelf.rules().most_bytes };
    build::build(tenant, &recipe, &workshop, &archive).await
}

/// The archive of an organization that takes no writes, with its secrets, for the holder of an age key: for a
/// transfer to another deployment. Made anew each time it is asked for; `key` signs it.
pub async fn for_transfer(
    shelf: &Shelf,
    tenant: &Tenant,
    key: &crate::crypto::SigningKey,
    recipient: String,
    name: &str,
) -> Result<(PathBuf, String)> {
    let _hand = shelf.hands().acquire().await.map_err(|_| Error::new(&codes::OVERLOADED))?;
    let target = shelf.transfer(name);
    let workshop = shelf.transfer_workshop(name);
    tokio::task::block_in_place(|| {
        shelf.forget_transfer(name);
        std::fs::create_dir_all(&workshop).map_err(|error| build::failed("cannot make", &workshop, error))
    })?;
    let lock = Lock::Recipient(recipient);
    let now = tenant.clock().now();
    let recipe = build::Recipe { key, lock: Some(&lock), now, most_bytes: shelf.rules().most_bytes };
    let built = build::build(tenant, &recipe, &workshop, &target).await?;
    Ok((target, built.sha256))
}

/// The finished archive, for whoever takes it away: noted before the first byte leaves. One with secrets was made for
/// the operators, who alone may have it made.
pub async fn take(shelf: &Shelf, tenant: &Tenant, id: ExportId, by: &By, has_all: bool) -> Result<(Export, PathBuf)> {
    let found = shelf.archive(tenant.id(), id, tenant.clock().now())?;
    if found.0.secrets != Secrets::Omitted && !has_all {
        return Err(
            Error::new(&codes::FORBIDDEN).detail("An export with secrets is downloaded with an operator's key only.")
        );
    }
    tenant
        .write(|db| {
            let act = Act::about("organization.export_downloaded", tenant.id());
            audit::record(db, by, act.with("export_id", id.to_string()))
        })
        .await?;
    Ok(found)
}

/// Throws an archive away before its time.
pub async fn remove(shelf: &Shelf, tenant: &Tenant, id: ExportId, by: &By) -> Result<()> {
    shelf.remove(tenant.id(), id, tenant.clock().now())?;
    tenant
        .write_beyond(|db| {
            let act = Act::about("organization.export_deleted", tenant.id());
            audit::record(db, by, act.with("export_id", id.to_string())).map(drop)
        })
        .await
}
