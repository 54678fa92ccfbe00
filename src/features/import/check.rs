//! Whether an archive is whole, unchanged and one of ours. It needs the archive and nothing else: no server, no data
//! directory, no network. The CLI runs it for `verify-export`, and the server in a confined process for an import.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::Value;

use super::rows::{Fields, Line, TABLES};
use super::{store, unpack};
use crate::base::{AuditEventId, Error, Result, Timestamp, codes};
use crate::crypto::envelope::{self, Key};
use crate::crypto::signing::{self, peek};
use crate::crypto::{Algorithm, PublicKey, hash};
use crate::features::audit;
use crate::features::export;
use crate::features::export::format::{
    DATABASE, FORMAT, MANIFEST, Manifest, README, SECRETS, SECRETS_FORMAT, SIGNATURE, SIGNATURE_TYPE, SecretValue,
    Secrets, SecretsDocument, Signed,
};
use crate::sqlite::{Flaw, TenantDb, Untrusted};
use crate::tenants::MIGRATIONS;

/// What an archive may ask of us.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes of the database.
    pub unpacked: u64,
    /// Of all tables together.
    pub rows: u64,
}

impl Bounds {
    /// For somebody who looks at an archive on their own machine.
    pub const GENEROUS: Self = Self { unpacked: 1 << 40, rows: u64::MAX };
}

/// An archive that is whole, and what it says of itself.
pub struct Checked {
    pub manifest: Manifest,
    /// The `kid` of the key that signed it.
    pub signed_by: String,
    pub manifest_sha256: String,
    database: Untrusted<TenantDb>,
    sealed: Option<Vec<u8>>,
}

/// Unpacks `archive` into the empty `folder` and looks at everything. `trusted` is a JWK or a set of them (RFC 7517)
/// that was had from elsewhere; without it the signature shows that nothing was changed since, and not whose it is.
pub fn check(archive: &Path, folder: &Path, bounds: &Bounds, trusted: Option<&Value>) -> Result<Checked> {
    let found = unpack::unpack(archive, folder, bounds.unpacked)?;
    for name in [README, MANIFEST, SIGNATURE, DATABASE] {
        if !found.contains_key(name) {
            return Err(Error::new(&codes::IMPORT_INCOMPLETE).detail(format!("The archive has no {name}.")));
        }
    }
    let text = read(folder, MANIFEST)?;
    let manifest = manifest_of(&text)?;
    let manifest_sha256 = hex::encode(hash::sha256(&text));
    let signed_by = verify_signature(&manifest, &manifest_sha256, &read(folder, SIGNATURE)?, trusted)?;

    let described = |name: &&String| !matches!(name.as_str(), MANIFEST | SIGNATURE);
    if !found.keys().filter(described).eq(manifest.files.keys()) {
        return Err(invalid_manifest("it describes other files than there are"));
    }
    for (name, digest) in &manifest.files {
        if found.get(name) != Some(digest) {
            let detail = format!("{name} is not the file that was exported.");
            return Err(Error::new(&codes::IMPORT_DIGEST_MISMATCH).detail(detail));
        }
    }
    if (manifest.secrets == Secrets::Omitted) == found.contains_key(SECRETS) {
        return Err(invalid_manifest("it says otherwise about secrets than there is"));
    }

    let database = Untrusted::<TenantDb>::open(&folder.join(DATABASE), MIGRATIONS).map_err(flaw)?;
    if database.version() != manifest.schema_version {
        return Err(Error::new(&codes::IMPORT_STAMP_MISMATCH).detail("The file and the manifest name two versions."));
    }
    let looked = database.read(Timestamp::from_millis(0), |db| {
        let named = &manifest.organization;
        let Some((_, slug, name)) = store::stamp(db)?.filter(|(id, ..)| *id == named.id.to_string()) else {
            let detail = "The file is not that of the organization in the manifest.";
            return Err(Error::new(&codes::IMPORT_STAMP_MISMATCH).detail(detail));
        };
        // Whoever looks at an archive is told the manifest's, and whoever imports it gets the file's.
        if (&slug, &name) != (&named.slug, &named.name) {
            return Err(invalid_manifest("it calls the organization otherwise than its file does"));
        }
        let counts = export::counts(db)?;
        let same = counts.len() == manifest.counts.len()
            && counts.iter().all(|(table, count)| manifest.counts.get(*table) == Some(count));
        if !same {
            return Err(Error::new(&codes::IMPORT_COUNT_MISMATCH));
        }
        if counts.iter().map(|(_, count)| count).sum::<u64>() > bounds.rows {
            return Err(
                Error::new(&codes::IMPORT_TOO_LARGE).detail("The archive has more rows than this server takes.")
            );
        }
        let chain = audit::verify(db)?;
        if !chain.intact {
            let (at, reason) = (chain.broken_at.unwrap_or(0), chain.reason.unwrap_or_default());
            return Err(
                Error::new(&codes::IMPORT_AUDIT_BROKEN).detail(format!("Event {at} of the audit log: {reason}."))
            );
        }
        if (chain.events, &chain.head) != (manifest.audit.sequence, &manifest.audit.hash) {
            return Err(
                Error::new(&codes::IMPORT_AUDIT_BROKEN).detail("The audit log has another end than the manifest.")
            );
        }
        Ok(())
    });
    looked.map_err(|error| placed(error, &database))?;
    let sealed = found.contains_key(SECRETS).then(|| read(folder, SECRETS)).transpose()?;
    Ok(Checked { manifest, signed_by, manifest_sha256, database, sealed })
}

impl Checked {
    /// Writes the rows that an import takes over, one JSON document a line.
    pub fn write_rows(&self, to: &Path) -> Result<()> {
        let failed = |error: std::io::Error| Error::of_disk(&codes::INTERNAL, "rows could not be written", error);
        let mut file = BufWriter::new(fs::File::create_new(to).map_err(failed)?);
        self.database.read(Timestamp::from_millis(0), |db| {
            store::each(db, |table, row| {
                serde_json::to_writer(&mut file, &Line { table: table.to_owned(), row })
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"))
                    .map_err(failed)
            })
        })?;
        file.flush().map_err(failed)
    }

    /// The secrets, unsealed; `None` if there are none in the archive.
    pub fn secrets(&self, key: &Key) -> Result<Option<Vec<SecretValue>>> {
        let Some(sealed) = &self.sealed else { return Ok(None) };
        let locked = |detail: &'static str| Error::new(&codes::IMPORT_SECRETS_LOCKED).detail(detail);
        let opened = envelope::open(key, sealed, 64 << 20);
        let opened = opened.ok_or_else(|| locked("The secrets cannot be opened with this."))?;
        let document: Option<SecretsDocument> = serde_json::from_slice(&opened).ok();
        let document = document.filter(|document| {
            document.format == SECRETS_FORMAT && document.organization_id == self.manifest.organization.id
        });
        document.map(|document| Some(document.secrets)).ok_or_else(|| locked("The secrets are not of this archive."))
    }
}

/// Where a value is that could not be read, which is the archive's fault: as a cell, or, in the log, as what it has to be
/// to be verified.
fn placed(error: Error, database: &Untrusted<TenantDb>) -> Error {
    if !error.is(&codes::INTERNAL) {
        return error;
    }
    let looked = database.read(Timestamp::from_millis(0), |db| {
        store::each(db, |name, row| {
            let Some(table) = TABLES.iter().find(|table| table.name == name && name == "audit_event") else {
                return Ok(());
            };
            let mut event = Fields::new(table, row)?;
            event.integer()?;
            event.parsed::<AuditEventId>().map(drop)
        })
    });
    looked.err().unwrap_or(error)
}

fn manifest_of(text: &[u8]) -> Result<Manifest> {
    // The format first: a manifest of tomorrow may have another form.
    let any: Value = serde_json::from_slice(text).map_err(|error| invalid_manifest(&error.to_string()))?;
    if any["format"] != FORMAT {
        return Err(Error::new(&codes::IMPORT_FORMAT_UNKNOWN));
    }
    serde_json::from_slice(text).map_err(|error| invalid_manifest(&error.to_string()))
}

fn verify_signature(manifest: &Manifest, sha256: &str, jws: &[u8], trusted: Option<&Value>) -> Result<String> {
    let refuse = |detail: &'static str| Error::new(&codes::IMPORT_SIGNATURE_INVALID).detail(detail);
    let jws = std::str::from_utf8(jws).map_err(|_| refuse("The signature is no JWS."))?;
    let (head, _) = peek::<Value>(jws).ok_or_else(|| refuse("The signature is no JWS."))?;
    let kid = head.kid.ok_or_else(|| refuse("The signature names no key."))?;
    let jwk = match trusted {
        None => manifest.signing_key.clone(),
        Some(trusted) => {
            find(trusted, &kid).ok_or_else(|| refuse("It was signed with a key that is not among those given."))?
        }
    };
    let unusable = |_| refuse("The key is no public ES256 key.");
    let key = PublicKey::from_jwk(&kid, Algorithm::ES256, &jwk).map_err(unusable)?;
    let signed: Signed = signing::verify(jws, &key, SIGNATURE_TYPE)
        .ok_or_else(|| refuse("The signature is not of this manifest and this key."))?;
    let expected = Signed {
        format: FORMAT.to_owned(),
        organization_id: manifest.organization.id,
        manifest_sha256: sha256.to_owned(),
    };
    if signed == expected { Ok(kid) } else { Err(refuse("The manifest is not the one that was signed.")) }
}

/// The key by this name in a JWK Set, or the one JWK.
fn find(trusted: &Value, kid: &str) -> Option<Value> {
    match trusted["keys"].as_array() {
        Some(keys) => keys.iter().find(|key| key["kid"] == kid).cloned(),
        None => Some(trusted.clone()).filter(|key| key["kid"].is_null() || key["kid"] == kid),
    }
}

fn read(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    fs::read(&path).map_err(|error| Error::internal(format!("cannot read {}", path.display())).source(error))
}

fn invalid_manifest(why: &str) -> Error {
    Error::new(&codes::IMPORT_MANIFEST_INVALID).detail(format!("The manifest cannot be used: {why}."))
}

fn flaw(flaw: Flaw) -> Error {
    let (code, detail) = match flaw {
        Flaw::Shape(why) => (&codes::IMPORT_DATABASE_DAMAGED, format!("The database cannot be read: {why}.")),
        Flaw::Damage(why) => (&codes::IMPORT_DATABASE_DAMAGED, format!("The database is damaged: {why}.")),
        Flaw::Stamp(why) => (&codes::IMPORT_STAMP_MISMATCH, format!("The database is of another kind: {why}.")),
        Flaw::Schema(why) => (&codes::IMPORT_SCHEMA_MISMATCH, format!("The database is not ours: {why}.")),
        Flaw::Version(version) => (
            &codes::IMPORT_FORMAT_UNKNOWN,
            format!("The database has schema version {version}; this program knows 1 to {}.", MIGRATIONS.len()),
        ),
    };
    Error::new(code).detail(detail)
}
