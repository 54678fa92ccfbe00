//! Making an archive: a snapshot, stripped; a manifest, signed; one compressed file.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::format::{
    AuditHead, DATABASE, FORMAT, FileDigest, MANIFEST, Manifest, Named, README, SECRETS, SECRETS_FORMAT, SIGNATURE,
    SIGNATURE_TYPE, Secrets, SecretsDocument, Signed, readme,
};
use super::store;
use crate::base::{Error, Result, Timestamp, codes};
use crate::crypto::envelope::{self, Lock};
use crate::crypto::hash;
use crate::crypto::{Sealer, SigningKey};
use crate::features::{audit, organization};
use crate::sqlite::{Private, TenantDb};
use crate::tenants::{MIGRATIONS, Tenant};

/// Pages of SQLite hold digests, which cannot be compressed, and rows that resemble each other, for which any level
/// will do: zstd's own default, 3, takes four times as long and saves one part in fifteen.
const LEVEL: i32 = -1;

/// What an archive is made with.
pub(super) struct Recipe<'a> {
    pub key: &'a SigningKey,
    pub lock: Option<&'a Lock>,
    pub now: Timestamp,
    pub most_bytes: u64,
}

/// The finished file.
pub(super) struct Finished {
    pub size: u64,
    pub sha256: String,
}

/// Builds the archive at `target` with `workshop`, an empty private folder, for what lies between.
pub(super) async fn build(tenant: &Tenant, recipe: &Recipe<'_>, workshop: &Path, target: &Path) -> Result<Finished> {
    let copy = workshop.join("copy.sqlite");
    tenant.snapshot_to(&copy).await?;
    tokio::task::block_in_place(|| {
        let size = fs::metadata(&copy).map_err(|error| failed("cannot look at", &copy, error))?.len();
        if size > recipe.most_bytes {
            return Err(Error::new(&codes::EXPORT_TOO_LARGE));
        }
        pack(tenant.sealer(), recipe, workshop, target)
    })
}

fn pack(sealer: &Sealer, recipe: &Recipe<'_>, workshop: &Path, target: &Path) -> Result<Finished> {
    let database = workshop.join(DATABASE);
    let (inside, secrets) = strip(sealer, recipe, &workshop.join("copy.sqlite"), &database)?;
    let kind = match recipe.lock {
        None => Secrets::Omitted,
        Some(Lock::Passphrase(_)) => Secrets::Passphrase,
        Some(Lock::Recipient(_)) => Secrets::Age,
    };
    let readme = readme(&inside.organization, recipe.now, kind).into_bytes();
    let mut files =
        BTreeMap::from([(README.to_owned(), digest_of(&readme)), (DATABASE.to_owned(), digest_of_file(&database)?)]);
    if let Some(secrets) = &secrets {
        files.insert(SECRETS.to_owned(), digest_of(secrets));
    }
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

    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target);
    let file = file.map_err(|error| failed("cannot make", target, error))?;
    let written: std::io::Result<Finished> = (|| {
        let file = Digested { file, digest: hash::Sha256::new(), size: 0 };
        let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
        // So that a bit that has flipped on somebody's disk is noticed before it is unpacked.
        encoder.include_checksum(true)?;
        let mut tar = tar::Builder::new(encoder);
        append(&mut tar, README, recipe.now, readme.len() as u64, readme.as_slice())?;
        append(&mut tar, MANIFEST, recipe.now, manifest.len() as u64, manifest.as_slice())?;
        append(&mut tar, SIGNATURE, recipe.now, signature.len() as u64, signature.as_bytes())?;
        if let Some(secrets) = &secrets {
            append(&mut tar, SECRETS, recipe.now, secrets.len() as u64, secrets.as_slice())?;
        }
        let database = File::open(&database)?;
        append(&mut tar, DATABASE, recipe.now, database.metadata()?.len(), database)?;
        let Digested { file, digest, size } = tar.into_inner()?.finish()?;
        file.sync_all()?;
        Ok(Finished { size, sha256: digest.finish() })
    })();
    written.map_err(|error| failed("cannot write", target, error))
}

/// A file whose digest is known when it has been written, without reading it again.
struct Digested {
    file: File,
    digest: hash::Sha256,
    size: u64,
}

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.digest.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

struct Inside {
    organization: Named,
    counts: BTreeMap<String, u64>,
    audit: AuditHead,
}

/// Takes the secrets out of the copy, sealed if they are wanted, and writes what is left to `database`.
fn strip(sealer: &Sealer, recipe: &Recipe<'_>, copy: &Path, database: &Path) -> Result<(Inside, Option<Vec<u8>>)> {
    let private = Private::<TenantDb>::open(copy)?;
    let (inside, secrets) = private.write(recipe.now, |db| {
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
    private.finish(database)?;
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

fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    at: Timestamp,
    size: u64,
    content: impl Read,
) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(at.seconds()).unwrap_or(0));
    header.set_entry_type(tar::EntryType::Regular);
    tar.append_data(&mut header, name, content)
}

fn digest_of(bytes: &[u8]) -> FileDigest {
    FileDigest { size: bytes.len() as u64, sha256: hex::encode(hash::sha256(bytes)) }
}

fn digest_of_file(path: &Path) -> Result<FileDigest> {
    let read = File::open(path).and_then(hash::sha256_of);
    let (digest, size) = read.map_err(|error| failed("cannot read", path, error))?;
    Ok(FileDigest { size, sha256: hex::encode(digest) })
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::internal("a part of an export could not be written").source(error)
}

pub(super) fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::internal(format!("{what} {}", path.display())).source(error)
}
