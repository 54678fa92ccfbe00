//! The archive: one tar, compressed with zstd, with these members and no others (docs/EXPORT.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::{OrganizationId, Slug, Timestamp};

/// What the manifest says first. Another layout gets another number.
pub const FORMAT: &str = "bulkhead-export/1";
/// The format of what is sealed in [`SECRETS`].
pub const SECRETS_FORMAT: &str = "bulkhead-export-secrets/1";
/// The `typ` of the signature: it is no token of any other kind.
pub const SIGNATURE_TYPE: &str = "bulkhead-export+jwt";

pub const README: &str = "README.txt";
pub const MANIFEST: &str = "manifest.json";
pub const SIGNATURE: &str = "manifest.jws";
pub const DATABASE: &str = "organization.sqlite";
pub const SECRETS: &str = "secrets.age";

/// What is done with the secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Secrets {
    /// They are left out.
    Omitted,
    /// Sealed with a passphrase.
    Passphrase,
    /// Sealed for the holder of an age key.
    Age,
}

impl Secrets {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Omitted => "omitted",
            Self::Passphrase => "passphrase",
            Self::Age => "age",
        }
    }
}

/// What is in an archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: String,
    pub created_at: Timestamp,
    pub product_version: String,
    /// The number of the last migration of the file.
    pub schema_version: usize,
    pub organization: Named,
    /// Rows of each table.
    pub counts: BTreeMap<String, u64>,
    /// The other members of the archive.
    pub files: BTreeMap<String, FileDigest>,
    pub audit: AuditHead,
    pub secrets: Secrets,
    /// The public half of the key that signed (RFC 7517).
    pub signing_key: Value,
}

/// Whose archive it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub id: OrganizationId,
    pub slug: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    pub size: u64,
    /// In hexadecimal.
    pub sha256: String,
}

/// The newest event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditHead {
    pub sequence: i64,
    /// In hexadecimal.
    pub hash: String,
}

/// What the organization's key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    pub format: String,
    pub organization_id: OrganizationId,
    pub manifest_sha256: String,
}

/// Values that the database was stripped of.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsDocument {
    pub format: String,
    pub organization_id: OrganizationId,
    pub secrets: Vec<SecretValue>,
}

/// One value and where it belongs.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretValue {
    pub table: String,
    pub column: String,
    /// The row's id.
    pub row: String,
    /// In base64 (RFC 4648 section 4).
    pub value: String,
}

/// The name of the file that people get: `bulkhead-export-acme-20261122T093000Z.tar.zst`.
#[must_use]
pub fn file_name(slug: &Slug, at: Timestamp) -> String {
    let time: String = at.to_string().chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
    format!("bulkhead-export-{slug}-{time}Z.tar.zst")
}

/// For the customer, who may never have heard of us.
#[must_use]
pub fn readme(organization: &Named, at: Timestamp, secrets: Secrets) -> String {
    let about_secrets = match secrets {
        Secrets::Omitted => {
            "Secrets are left out: password hashes, the private halves of signing keys, hashes of API keys."
        }
        Secrets::Passphrase => "Secrets are in secrets.age, sealed with a passphrase: age --decrypt secrets.age",
        Secrets::Age => "Secrets are in secrets.age, sealed for a key: age --decrypt --identity KEY secrets.age",
    };
    format!(
        "{name}\nExport of {at}\n\n\
         This is everything that the sign-in service holds about this organization ({id}).\n\n\
         organization.sqlite   the data; any SQLite tool opens it\n\
         manifest.json         what is in here, with a digest of each file\n\
         manifest.jws          the signature of manifest.json\n\n\
         To read it, for example:\n\
         \x20 sqlite3 organization.sqlite \"SELECT email, name, status, roles FROM v_members\"\n\
         \x20 sqlite3 organization.sqlite \"SELECT occurred_at, action, actor_name FROM v_audit\"\n\n\
         The views are meant for reading and keep their names and columns: v_organization, v_members,\n\
         v_sessions, v_grants, v_api_keys, v_audit. The tables behind them may change.\n\n\
         To check that it is whole and unchanged, without any server:\n\
         \x20 bulkhead org verify-export ARCHIVE --public-key JWKS\n\
         where JWKS is what the organization's sign-in address gave at /oauth2/jwks.\n\n\
         {about_secrets}\n\
         Sessions are a list of who was signed in; nobody can use them to sign in. Codes, tokens and\n\
         undelivered mail are never exported.\n",
        name = organization.name,
        id = organization.id,
    )
}
