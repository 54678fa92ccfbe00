//! Typed, time-ordered identifiers: `org_01jd…`, `mem_01jd…`.
//!
//! 128 bits in the layout of UUID version 7 (RFC 9562 section 5.7): 48 bits of milliseconds, then
//! random bits. In text a prefix names the kind, so that an id in a log or in a mistaken request says
//! what it is. Ids are public: knowing one gives nothing.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::crockford;
use super::time::Timestamp;

/// What an id names; the prefix of its text.
pub trait IdKind: 'static {
    const PREFIX: &'static str;
}

/// An identifier of kind `K`.
pub struct Id<K>(u128, PhantomData<fn() -> K>);

macro_rules! ids {
    ($($(#[$doc:meta])* $alias:ident = $kind:ident $prefix:literal;)*) => {$(
        #[doc(hidden)]
        pub enum $kind {}
        impl IdKind for $kind { const PREFIX: &'static str = $prefix; }
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

ids! {
    /// A customer organization; also the name of its file and the routing hint in its credentials.
    OrganizationId = OrganizationKind "org";
    /// A person in one organization.
    MemberId = MemberKind "mem";
    /// A signed-in browser or device of a member.
    SessionId = SessionKind "session";
    /// An app of the SaaS team that signs people in; its `client_id`.
    ApplicationId = ApplicationKind "app";
    /// What one authorization gave to one application: the family of its refresh tokens.
    GrantId = GrantKind "grant";
    /// The public half of an API key.
    ApiKeyId = ApiKeyKind "key";
    /// A token-signing key; the `kid` of a JWT.
    SigningKeyId = SigningKeyKind "sig";
    /// One line of an audit log.
    AuditEventId = AuditEventKind "evt";
    /// A message that waits to leave the file.
    OutboxId = OutboxKind "out";
    /// A walk over all organizations.
    FleetJobId = FleetJobKind "job";
    /// An organization on its way to another deployment; the same on both sides.
    TransferId = TransferKind "transfer";
    /// An archive of everything that an organization has.
    ExportId = ExportKind "exp";
    /// An archive that is being received.
    ImportId = ImportKind "imp";
    /// A rotation of the master key, or of data keys.
    KeyRotationId = KeyRotationKind "rot";
    /// A sign-up that has not become an organization yet.
    SignUpId = SignUpKind "signup";
}

impl<K: IdKind> Id<K> {
    /// An id of the moment `at`; `random` comes from `crypto::random`.
    #[must_use]
    pub fn new(at: Timestamp, random: [u8; 10]) -> Self {
        let mut bytes = [0_u8; 16];
        bytes[..6].copy_from_slice(&at.millis().max(0).to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(u128::from_be_bytes(bytes), PhantomData)
    }

    /// The bits, for a path or a hash.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// From bits that came from [`Id::bits`].
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits, PhantomData)
    }

    /// The text, without an allocation.
    #[must_use]
    pub fn text(self) -> IdText {
        const { assert!(K::PREFIX.len() <= 8, "IdText has no room for a longer prefix") };
        let (prefix, digits) = (K::PREFIX.as_bytes(), crockford::digits_of(self.0));
        let mut text = IdText { bytes: [b'_'; IdText::LONGEST], length: prefix.len() + 1 + digits.len() };
        text.bytes[..prefix.len()].copy_from_slice(prefix);
        text.bytes[prefix.len() + 1..text.length].copy_from_slice(&digits);
        text
    }

    /// The 26 characters without the prefix: the routing hint in credentials.
    #[must_use]
    pub fn hint(self) -> String {
        crockford::encode_u128(self.0)
    }

    /// The inverse of [`Id::hint`].
    #[must_use]
    pub fn from_hint(hint: &str) -> Option<Self> {
        crockford::decode_u128(hint).map(Self::from_bits)
    }
}

impl<K: IdKind> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// The text of an id, in place.
pub struct IdText {
    bytes: [u8; Self::LONGEST],
    length: usize,
}

impl IdText {
    /// Prefixes have eight characters at the most.
    const LONGEST: usize = 8 + 1 + 26;

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// The text was not an id of the wanted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct NotAnId;

impl<K: IdKind> FromStr for Id<K> {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let rest = text.strip_prefix(K::PREFIX).and_then(|rest| rest.strip_prefix('_'));
        rest.and_then(Self::from_hint).ok_or(NotAnId)
    }
}

impl<K: IdKind> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<K: IdKind> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text().as_str())
    }
}

impl<'de, K: IdKind> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|_| de::Error::custom(format_args!("expected an id that begins with {}_", K::PREFIX)))
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> Hash for Id<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back_and_no_other_kind() {
        let id = OrganizationId::new(Timestamp::from_millis(1_764_000_000_000), [7; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().starts_with("org_01"));
        assert_eq!(id.to_string().replace("org_", "mem_").parse::<OrganizationId>(), Err(NotAnId));
        assert_eq!(id.to_string().to_uppercase().parse::<OrganizationId>(), Err(NotAnId));
    }

    #[test]
    fn later_ids_sort_later() {
        let early = MemberId::new(Timestamp::from_millis(1), [0xff; 10]);
        let late = MemberId::new(Timestamp::from_millis(2), [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
    }
}
