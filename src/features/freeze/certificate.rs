//! The certificate of a freeze: a compact JWS (RFC 7515) by the deployment's key, which says what the organization's
//! file is, to the bit, and where its audit log ends.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{ApiKeyId, OrganizationId, Result, Timestamp};
use crate::catalog::{Freeze, freezes};
use crate::crypto::{Algorithm, PublicKey, SigningKey, signing};
use crate::features::erasure::Head;
use crate::tenants::KeptFile;

/// The `typ` of the JWS: no token of ours passes for a certificate, and no certificate for a token.
pub const TYPE: &str = freezes::CERTIFICATE;
const FORMAT: &str = "bulkhead.freeze-certificate";
const VERSION: u32 = 1;

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    pub format: String,
    pub version: u32,
    /// The deployment.
    pub iss: String,
    pub organization_id: OrganizationId,
    /// For operators; it names no people.
    pub reason: String,
    /// The operator's key; null: by somebody with access to the machine.
    pub requested_by: Option<ApiKeyId>,
    pub frozen_at: Timestamp,
    pub certified_at: Timestamp,
    /// The database as one file, its WAL folded into it.
    pub file: KeptFile,
    /// The newest event of its audit log, which is the freeze itself.
    pub audit_head: Head,
    /// The transaction of the replica that has all of it; null without a backup that could be reached.
    pub txid: Option<String>,
}

/// What a look at a frozen file has shown.
#[derive(Debug, Clone)]
pub struct Found {
    pub file: KeptFile,
    pub head: Head,
    pub txid: Option<String>,
    pub at: Timestamp,
}

/// Writes and signs it.
pub(super) fn write(freeze: &Freeze, found: Found, issuer: &str, signer: &SigningKey) -> Result<String> {
    let certificate = Certificate {
        format: FORMAT.to_owned(),
        version: VERSION,
        iss: issuer.to_owned(),
        organization_id: freeze.organization_id,
        reason: freeze.reason.clone(),
        requested_by: freeze.requested_by,
        frozen_at: freeze.since,
        certified_at: found.at,
        file: found.file,
        audit_head: found.head,
        txid: found.txid,
    };
    signer.sign(TYPE, &certificate)
}

/// What a certificate says, if one of these keys has signed it: a JWKS, or a single JWK. No deployment is needed.
#[must_use]
pub fn verify(text: &str, keys: &Value) -> Option<Certificate> {
    let (head, _) = signing::peek::<Value>(text)?;
    let kid = head.kid?;
    let listed = keys["keys"].as_array().map_or_else(|| std::slice::from_ref(keys), Vec::as_slice);
    let jwk = listed.iter().find(|jwk| jwk["kid"] == kid.as_str())?;
    let key = PublicKey::from_jwk(&kid, Algorithm::ES256, jwk).ok()?;
    let says: Certificate = signing::verify(text, &key, TYPE)?;
    (says.format == FORMAT && says.version == VERSION).then_some(says)
}
