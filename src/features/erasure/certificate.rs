//! The certificate of an erasure: a compact JWS (RFC 7515) by the deployment's key, which says what was destroyed,
//! when and at whose request, and what may remain outside.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Findings, Head};
use crate::base::{ApiKeyId, Error, OrganizationId, Result, Timestamp};
use crate::catalog::Erasure;
use crate::crypto::{Algorithm, PublicKey, SigningKey, signing};
use crate::keyring::WrappedKey;
use crate::tenants::KeptFile;

/// The `typ` of the JWS: no token of ours passes for a certificate, and no certificate for a token.
pub const TYPE: &str = "erasure-certificate+jwt";
const FORMAT: &str = "bulkhead.erasure-certificate";
const VERSION: u32 = 1;

/// What it says.
#[derive(Debug, Serialize, Deserialize)]
pub struct Certificate {
    pub format: String,
    pub version: u32,
    /// The deployment.
    pub iss: String,
    pub organization_id: OrganizationId,
    pub slug: String,
    pub requested_at: Timestamp,
    /// The operator's key; null: by somebody with access to the machine.
    pub requested_by: Option<ApiKeyId>,
    pub erased_at: Timestamp,
    pub destroyed: Destroyed,
    /// The newest event of its audit log, before; null if it could not be read.
    pub audit_head: Option<Head>,
    /// Slugs and external ids that nobody else can have.
    pub names_kept_back: usize,
    pub may_remain: Vec<Remainder>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Destroyed {
    /// The key that opened every sealed column, in whatever copy.
    pub data_key: Option<WrappedKey>,
    pub files: Vec<KeptFile>,
    /// Null if there was no backup.
    pub replica: Option<ReplicaGone>,
    /// Rows of the catalog, by table.
    pub catalog_rows: BTreeMap<String, i64>,
}

/// What was deleted of the replica.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReplicaGone {
    pub objects: u64,
    pub bytes: u64,
}

/// Something that an erasure does not reach.
#[derive(Debug, Serialize, Deserialize)]
pub struct Remainder {
    pub what: String,
    pub until: String,
}

/// Whatever else is known of: `docs/ERASURE.md` says the same at length.
const MAY_REMAIN: [(&str, &str); 7] = [
    (
        "e-mails that were sent, webhooks that were delivered, tokens and data that apps were given",
        "their holders delete them",
    ),
    (
        "copies that somebody made: exports, copies of the data directory, organizations made of its backup",
        "their holders delete them",
    ),
    ("copies of keyring.sqlite made elsewhere, which still hold the wrapped data key", "they age out or are deleted"),
    (
        "earlier versions of deleted objects, where the bucket keeps versions",
        "a lifecycle rule of the bucket removes them",
    ),
    ("copies of catalog.sqlite and its replica: the organization's id, names and hosts, no content", "they age out"),
    ("the operators' log and this tombstone: the organization's id and names, no content", "for good"),
    ("answers to requests with an Idempotency-Key, sealed with the deployment's key", "24 hours after the request"),
];

/// Writes and signs it.
pub(super) fn write(
    erasure: &Erasure,
    names_kept_back: usize,
    issuer: &str,
    erased_at: Timestamp,
    signer: &SigningKey,
) -> Result<String> {
    let unreadable = |error| Error::internal("what an erasure found cannot be read").source(error);
    let found: Findings = serde_json::from_str(erasure.findings.as_deref().unwrap_or_default()).map_err(unreadable)?;
    let replica = serde_json::from_str(erasure.replica.as_deref().unwrap_or("null")).map_err(unreadable)?;
    let catalog_rows = serde_json::from_str(erasure.catalog_rows.as_deref().unwrap_or("{}")).map_err(unreadable)?;
    let remainder = |(what, until): (&str, &str)| Remainder { what: what.to_owned(), until: until.to_owned() };
    let certificate = Certificate {
        format: FORMAT.to_owned(),
        version: VERSION,
        iss: issuer.to_owned(),
        organization_id: erasure.organization_id,
        slug: erasure.slug.to_string(),
        requested_at: erasure.requested_at,
        requested_by: erasure.requested_by,
        erased_at,
        destroyed: Destroyed { data_key: found.data_key, files: found.files, replica, catalog_rows },
        audit_head: found.audit_head,
        names_kept_back,
        may_remain: MAY_REMAIN.map(remainder).into(),
    };
    signer.sign(TYPE, &certificate)
}

/// What a certificate says, if one of these keys has signed it: a JWKS, or a single JWK. No deployment is needed.
#[must_use]
pub fn verify(text: &str, keys: &Value) -> Option<Value> {
    let (head, _) = signing::peek::<Value>(text)?;
    let kid = head.kid?;
    let listed = keys["keys"].as_array().map_or_else(|| std::slice::from_ref(keys), Vec::as_slice);
    let jwk = listed.iter().find(|jwk| jwk["kid"] == kid.as_str())?;
    let key = PublicKey::from_jwk(&kid, Algorithm::ES256, jwk).ok()?;
    let says: Value = signing::verify(text, &key, TYPE)?;
    (says["format"] == FORMAT && says["version"] == VERSION).then_some(says)
}
