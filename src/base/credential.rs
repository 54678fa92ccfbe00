//! Opaque credentials that carry their organization: `bh_sk_…`.
//!
//! Layout after the prefix: 26 characters routing hint (the organization's id, or zeroes for the
//! deployment), 52 characters of secret (256 random bits), 7 characters of CRC-32 over all before.
//! The hint lets a request find its organization without a global table of secrets; the checksum
//! tells a typing mistake or a truncated copy apart without touching a disk, and lets scanners of
//! source code recognise a leaked key. Only SHA-256 of the whole text is ever stored.

use std::fmt;

use super::crockford;
use super::id::OrganizationId;
use super::secret::Secret;

const HINT: usize = 26;
const SECRET: usize = 52;
const CHECK: usize = 7;

/// What a credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// An API key, of the deployment or of one organization.
    ApiKey,
    /// A member's session.
    Session,
    /// An OAuth refresh token (RFC 6749 section 1.5).
    RefreshToken,
    /// An OAuth authorization code (RFC 6749 section 1.3.1).
    AuthorizationCode,
    /// A one-time hand-over of a fresh session to the organization's own address.
    Relay,
    /// An application's client secret.
    ClientSecret,
}

impl CredentialKind {
    pub const ALL: [Self; 6] =
        [Self::ApiKey, Self::Session, Self::RefreshToken, Self::AuthorizationCode, Self::Relay, Self::ClientSecret];

    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "bh_sk_",
            Self::Session => "bh_st_",
            Self::RefreshToken => "bh_rt_",
            Self::AuthorizationCode => "bh_ac_",
            Self::Relay => "bh_rl_",
            Self::ClientSecret => "bh_cs_",
        }
    }
}

/// A credential whose form and checksum are right; whether it is known is another question.
#[derive(Clone)]
pub struct Credential {
    kind: CredentialKind,
    organization: Option<OrganizationId>,
    text: Secret,
}

impl Credential {
    /// A new one; `random` comes from `crypto::random`, `None` is the deployment itself.
    #[must_use]
    pub fn mint(kind: CredentialKind, organization: Option<OrganizationId>, random: [u8; 32]) -> Self {
        let hint = organization.map_or_else(|| "0".repeat(HINT), OrganizationId::hint);
        let body = format!("{}{hint}{}", kind.prefix(), crockford::encode(&random));
        let text = format!("{body}{}", checksum(&body));
        Self { kind, organization, text: Secret::new(text) }
    }

    /// Recognises one of the wanted kind; anything else is `None`, whatever is wrong with it.
    #[must_use]
    pub fn parse(kind: CredentialKind, text: &str) -> Option<Self> {
        let rest = text.strip_prefix(kind.prefix())?;
        if rest.len() != HINT + SECRET + CHECK || !crockford::is_canonical(rest) {
            return None;
        }
        let (body, check) = text.split_at(text.len() - CHECK);
        if checksum(body) != check {
            return None;
        }
        let organization = OrganizationId::from_hint(&rest[..HINT])?;
        Some(Self {
            kind,
            organization: (organization.bits() != 0).then_some(organization),
            text: Secret::new(text.to_owned()),
        })
    }

    #[must_use]
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The organization named by the routing hint; `None` is the deployment.
    #[must_use]
    pub const fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    #[must_use]
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// The last four characters of the secret part, for lists: enough to tell keys apart, not to guess.
    #[must_use]
    pub fn suffix(&self) -> &str {
        let text = self.text.expose();
        &text[text.len() - CHECK - 4..text.len() - CHECK]
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[secret]", self.kind.prefix())
    }
}

fn checksum(body: &str) -> String {
    crockford::encode(&crc32fast::hash(body.as_bytes()).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::time::Timestamp;
    use super::*;

    fn organization() -> OrganizationId {
        OrganizationId::new(Timestamp::from_millis(1_764_000_000_000), [3; 10])
    }

    #[test]
    fn a_minted_credential_is_recognised_with_its_organization() {
        for kind in CredentialKind::ALL {
            let minted = Credential::mint(kind, Some(organization()), [9; 32]);
            let parsed = Credential::parse(kind, minted.expose()).unwrap();
            assert_eq!(parsed.organization(), Some(organization()));
            assert_eq!(parsed.suffix().len(), 4);
        }
        let deployment = Credential::mint(CredentialKind::ApiKey, None, [9; 32]);
        assert_eq!(Credential::parse(CredentialKind::ApiKey, deployment.expose()).unwrap().organization(), None);
    }

    #[test]
    fn another_kind_is_not_recognised() {
        let session = Credential::mint(CredentialKind::Session, Some(organization()), [9; 32]);
        assert!(Credential::parse(CredentialKind::RefreshToken, session.expose()).is_none());
    }

    #[test]
    fn every_single_changed_character_is_noticed() {
        let text = Credential::mint(CredentialKind::ApiKey, Some(organization()), [9; 32]).expose().to_owned();
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(Credential::parse(CredentialKind::ApiKey, &changed).is_none(), "position {at}");
        }
        assert!(Credential::parse(CredentialKind::ApiKey, &text[..text.len() - 1]).is_none());
        assert!(Credential::parse(CredentialKind::ApiKey, &text.to_uppercase()).is_none());
        assert!(Credential::parse(CredentialKind::ApiKey, "bh_sk_é").is_none());
    }
}
