//! The proof that an organization has left: a compact JWS (RFC 7515) by the key of the deployment that it leaves. It
//! is made in the transaction after which that deployment never takes a write of it again.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{Error, OrganizationId, Result, TransferId, codes};
use crate::catalog::transfers::LogEnd;
use crate::crypto::{Algorithm, PublicKey, SigningKey, signing};

/// The `typ` of the JWS: it is no token and no certificate of another kind.
pub const TYPE: &str = "departure-proof+jwt";
const FORMAT: &str = "bulkhead.departure-proof/1";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub format: String,
    pub transfer_id: TransferId,
    pub organization_id: OrganizationId,
    pub archive_sha256: String,
    pub audit_sequence: i64,
    pub audit_hash: String,
}

impl Proof {
    pub(super) fn new(id: TransferId, organization: OrganizationId, archive_sha256: &str, end: &LogEnd) -> Self {
        Self {
            format: FORMAT.to_owned(),
            transfer_id: id,
            organization_id: organization,
            archive_sha256: archive_sha256.to_owned(),
            audit_sequence: end.sequence,
            audit_hash: end.hash.clone(),
        }
    }

    pub(super) fn sign(&self, signer: &SigningKey) -> Result<String> {
        signer.sign(TYPE, self)
    }

    /// Refuses a text that does not say exactly this, or was not signed with this key (a JWK, as JSON).
    pub(super) fn require(&self, text: &str, key: &str) -> Result<()> {
        let read = || {
            let jwk: Value = serde_json::from_str(key).ok()?;
            let (head, _) = signing::peek::<Value>(text)?;
            let kid = head.kid?;
            if jwk["kid"] != kid.as_str() {
                return None;
            }
            let key = PublicKey::from_jwk(&kid, Algorithm::ES256, &jwk).ok()?;
            signing::verify::<Self>(text, &key, TYPE)
        };
        if read().as_ref() == Some(self) { Ok(()) } else { Err(Error::new(&codes::TRANSFER_PROOF_INVALID)) }
    }
}
