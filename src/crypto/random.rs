//! The one place that makes random bits, from the operating system by way of AWS-LC.

use aws_lc_rs::rand;

use super::certain;
use crate::base::{Credential, CredentialKind, Id, IdKind, OrganizationId, Timestamp, crockford};

/// `N` unpredictable bytes.
#[allow(clippy::disallowed_methods, reason = "the one place of randomness")]
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    certain(rand::fill(&mut bytes));
    bytes
}

/// A new id of the moment `now`.
#[must_use]
pub fn id<K: IdKind>(now: Timestamp) -> Id<K> {
    Id::new(now, bytes())
}

/// A new opaque credential with 256 random bits; `None` is one of the deployment.
#[must_use]
pub fn credential(kind: CredentialKind, organization: Option<OrganizationId>) -> Credential {
    Credential::mint(kind, organization, bytes())
}

/// A code of `n` decimal digits, each equally likely.
#[must_use]
pub fn digits(n: usize) -> String {
    std::iter::repeat_with(bytes::<16>)
        .flatten()
        // 256 is not a multiple of ten: without this, 0 to 5 would come more often.
        .filter(|byte| *byte < 250)
        .map(|byte| char::from(b'0' + byte % 10))
        .take(n)
        .collect()
}

/// 160 random bits as 32 characters that are safe in a URL, a cookie and a header.
#[must_use]
pub fn token() -> String {
    crockford::encode(&bytes::<20>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::MemberId;

    #[test]
    fn codes_have_the_length_asked_for_and_use_every_digit() {
        for n in [0, 6, 17, 100] {
            assert_eq!(digits(n).len(), n);
        }
        let many = digits(20_000);
        for digit in '0'..='9' {
            let count = many.chars().filter(|c| *c == digit).count();
            assert!((1_700..2_300).contains(&count), "{digit} came {count} times");
        }
    }

    #[test]
    fn nothing_comes_twice() {
        let now = Timestamp::from_millis(1_764_000_000_000);
        assert_ne!(bytes::<16>(), bytes::<16>());
        assert_ne!(id::<crate::base::id::MemberKind>(now), id(now));
        assert_ne!(token(), token());
        assert_eq!(token().len(), 32);
        let member: MemberId = id(now);
        assert!(member.to_string().starts_with("mem_"));
    }

    #[test]
    fn credentials_carry_their_organization() {
        let organization: OrganizationId = id(Timestamp::from_millis(1));
        let minted = credential(CredentialKind::Session, Some(organization));
        let parsed = Credential::parse(CredentialKind::Session, minted.expose()).unwrap();
        assert_eq!(parsed.organization(), Some(organization));
    }
}
