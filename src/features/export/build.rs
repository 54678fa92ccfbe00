//! Making an archive: a snapshot, stripped; a manifest, signed; one compressed file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::digest::{Beside, Digested, digest_of};
use super::format::{
    AuditHead, DATABASE, FORMAT, FileDigest, MANIFEST, Manifest, Named, README, SECRETS, SECRETS_FORMAT, SIGNATURE,
    SIGNATURE_TYPE, Secrets, SecretsDocument, Signed, readme,
};
use super::shelf::remove;
use super::store;
use crate::base::{Error, Result, Timestamp, codes};
use crate::crypto::envelope::{self, Lock};
use crate::crypto::hash;
use crate::crypto::{Sealer, SigningKey};
use crate::features::{audit, organization};
use crate::sqlite::{Private, TenantDb};
use crate::tenants::{MIGRATIONS, Tenant};

/// Pages of SQLite hold digests, which cannot be compressed, and rows that resemble each other, for which any level
/// will do: zstd's own default, 3, takes five times as long and saves one part in eleven.
const LEVEL: i32 = -3;
/// Threads that compress, behind the one that reads; each has at the most a few pieces.
const HANDS: u32 = 2;
/// What one of them compresses at once, in bytes: with zstd's own 2 MiB the last would work for long alone.
const PIECE: u32 = 512 << 10;

/// What an archive is made with.
pub(super) struct Recipe<'a> {
    pub key: &'a SigningKey,
    pub lock: Option<&'a Lock>,
    pub now: Timestamp,
    pub most_bytes: u64,
}

/// Builds the archive at `target` with `workshop`, an empty private folder, for what lies between. Neither is left
/// behind where it fails.
pub(super) async fn build(tenant: &Tenant, recipe: &Recipe<'_>, workshop: &Path, target: &Path) -> Result<FileDigest> {
    let built = match tenant.private_copy(&workshop.join("copy.sqlite"), recipe.most_bytes).await {
        Ok(Some(copy)) => tokio::task::block_in_place(|| pack(copy, tenant.sealer(), recipe, workshop, target)),
        Ok(None) => Err(Error::new(&codes::EXPORT_TOO_LARGE)),
        Err(error) => Err(error),
    };
    tokio::task::block_in_place(|| {
        remove(workshop);
        if built.is_err() {
            remove(target);
        }
    });
    built
}

fn pack(
    copy: Private<TenantDb>,
    sealer: &Sealer,
    recipe: &Recipe<'_>,
    workshop: &Path,
    target: &Path,
) -> Result<FileDigest> {
    let (inside, secrets) = strip(&copy, sealer, recipe)?;
    let content = copy.content(&workshop.join(DATABASE))?;
    let kind = match recipe.lock {
        None => Secrets::Omitted,
        Some(Lock::Passphrase(_)) => Secrets::Passphrase,
        Some(Lock::Recipient(_)) => Secrets::Age,
    };
    let readme = readme(&inside.organization, recipe.now, kind).into_bytes();
    let mut files = BTreeMap::from([(README.to_owned(), digest_of(&readme))]);
    if let Some(secrets) = &secrets {
        files.insert(SECRETS.to_owned(), digest_of(secrets));
    }

    let unwritten = |error| failed("cannot write", target, error);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let file = file.map_err(|error| failed("cannot make", target, error))?;
    let mut tar = tar::Builder::new(compressor(Digested::of(file)).map_err(unwritten)?);
    // First, because it is read only once: what the manifest says of it is known when it has been written.
    let mut digest = Beside::new()?;
    let header = header_of(DATABASE, recipe.now, content.size()?).map_err(unwritten)?;
    tar.get_mut().write_all(header.as_bytes()).map_err(unwritten)?;
    content.each_piece(|piece| {
        digest.update(piece)?;
        tar.get_mut().write_all(piece).map_err(unwritten)
    })?;
    files.insert(DATABASE.to_owned(), digest.finish()?);

    let manifest = Manifest {
        format: FORMAT.to_owned(),
        created_at: recipe.now,
        product_version: env!("CARGO_PKG_VERSION").to_owned(),
        schema_version: MIGRATIONS.len(),
        organization: inside.organization.clone(),
        counts: inside.counts,
        files,
        audit: inside.audit,
        secrets: kind,
        signing_key: recipe.key.jwk(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).map_err(unwritable)?;
    let signed = Signed {
        format: FORMAT.to_owned(),
        organization_id: inside.organization.id,
        manifest_sha256: hex::encode(hash::sha256(&manifest)),
    };
    let signature = recipe.key.sign(SIGNATURE_TYPE, &signed)?;

    let secrets = secrets.as_deref().map(|secrets| (SECRETS, secrets));
    let texts = [(README, readme.as_slice()), (MANIFEST, &manifest), (SIGNATURE, signature.as_bytes())];
    for (name, text) in secrets.into_iter().chain(texts) {
        append(&mut tar, name, recipe.now, text).map_err(unwritten)?;
    }
    let written = tar.into_inner().and_then(zstd::stream::write::Encoder::finish).map_err(unwritten)?;
    let (file, finished) = written.finish();
    file.sync_all().map_err(unwritten)?;
    Ok(finished)
}

fn compressor<W: Write>(to: W) -> std::io::Result<zstd::stream::write::Encoder<'static, W>> {
    let mut encoder = zstd::stream::write::Encoder::new(to, LEVEL)?;
    // So that a bit that has flipped on somebody's disk is noticed before it is unpacked.
    encoder.include_checksum(true)?;
    encoder.multithread(HANDS)?;
    encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(PIECE))?;
    Ok(encoder)
}

struct Inside {
    organization: Named,
    counts: BTreeMap<String, u64>,
    audit: AuditHead,
}

/// Takes the secrets out of the copy, sealed if they are wanted.
fn strip(copy: &Private<TenantDb>, sealer: &Sealer, recipe: &Recipe<'_>) -> Result<(Inside, Option<Vec<u8>>)> {
    let (inside, secrets) = copy.write(recipe.now, |db| {
        let secrets = recipe.lock.map(|_| store::secrets(db, sealer)).transpose()?;
        store::strip(db)?;
        let row = organization::get(db)?;
        let (sequence, hash) = audit::head(db)?;
        let inside = Inside {
            organization: Named { id: row.id, slug: row.slug.to_string(), name: row.name },
            counts: store::counts(db)?.into_iter().map(|(table, count)| (table.to_owned(), count)).collect(),
            audit: AuditHead { sequence, hash },
        };
        Ok((inside, secrets))
    })?;
    let organization_id = inside.organization.id;
    let sealed = match (recipe.lock, secrets) {
        (Some(lock), Some(secrets)) => {
            let document = SecretsDocument { format: SECRETS_FORMAT.to_owned(), organization_id, secrets };
            let text = Zeroizing::new(serde_json::to_vec(&document).map_err(unwritable)?);
            Some(envelope::seal(lock, &text)?)
        }
        _ => None,
    };
    Ok((inside, sealed))
}

fn append(tar: &mut tar::Builder<impl Write>, name: &str, at: Timestamp, content: &[u8]) -> std::io::Result<()> {
    tar.append(&header_of(name, at, content.len() as u64)?, content)
}

fn header_of(name: &str, at: Timestamp, size: u64) -> std::io::Result<tar::Header> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(at.seconds()).unwrap_or(0));
    header.set_entry_type(tar::EntryType::Regular);
    header.set_cksum();
    Ok(header)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::internal("a part of an export could not be written").source(error)
}

pub(super) fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::internal(format!("{what} {}", path.display())).source(error)
}
