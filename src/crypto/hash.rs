//! Fast hashes: for what is already unguessable (credentials), and keyed ones for what is not.

use std::fmt;

use aws_lc_rs::{constant_time, digest, hmac};

use crate::base::Credential;

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    array(digest::digest(&digest::SHA256, data).as_ref())
}

/// SHA-256 of everything that can be read, and how many bytes that were.
pub fn sha256_of(mut from: impl std::io::Read) -> std::io::Result<([u8; 32], u64)> {
    let (mut context, mut buffer, mut bytes) = (digest::Context::new(&digest::SHA256), vec![0; 64 << 10], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((array(context.finish().as_ref()), bytes)),
            count => {
                context.update(buffer.get(..count).unwrap_or_default());
                bytes += count as u64;
            }
        }
    }
}

/// SHA-256 of what comes piece by piece, such as a file.
pub struct Sha256(digest::Context);

impl Sha256 {
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// In hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        hex::encode(self.0.finish().as_ref())
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

/// What is stored of a credential: SHA-256 of its text. No salt and no work factor are needed, since
/// 256 random bits cannot be guessed.
#[must_use]
pub fn credential_hash(credential: &Credential) -> [u8; 32] {
    sha256(credential.expose().as_bytes())
}

/// Whether two byte strings are equal, in a time that depends on their lengths only.
#[must_use]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(a, b).is_ok()
}

/// A key for HMAC-SHA256 (RFC 2104): hashes of things that could be guessed, such as e-mail
/// addresses, and proofs that a value came from us, such as a CSRF token.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl MacKey {
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// `context` names the use, so that a value made for one use is worthless for another.
    #[must_use]
    pub fn mac(&self, context: &'static str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hmac = hmac::Context::with_key(&self.0);
        hmac.update(&frame(&[context.as_bytes()]));
        hmac.update(&frame(parts));
        array(hmac.sign().as_ref())
    }

    /// Whether `mac` is the one that [`MacKey::mac`] gives, in constant time.
    #[must_use]
    pub fn verify(&self, context: &'static str, parts: &[&[u8]], mac: &[u8]) -> bool {
        equal(&self.mac(context, parts), mac)
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey[secret]")
    }
}

/// Parts as one byte string, each after its length: `("ab", "c")` and `("a", "bc")` stay different.
pub(super) fn frame(parts: &[&[u8]]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
}

fn array(hash: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(hash);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::CredentialKind;

    #[test]
    fn sha256_is_the_standard_one() {
        // FIPS 180-2, appendix B.1
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex::encode(sha256(b"abc")), abc);
        let credential = Credential::mint(CredentialKind::ApiKey, None, [1; 32]);
        assert_eq!(credential_hash(&credential), sha256(credential.expose().as_bytes()));
    }

    #[test]
    fn parts_cannot_be_shifted_into_one_another() {
        let key = MacKey::new([7; 32]);
        let mac = key.mac("use", &[b"ab", b"c"]);
        assert!(key.verify("use", &[b"ab", b"c"], &mac));
        assert!(!key.verify("use", &[b"a", b"bc"], &mac));
        assert!(!key.verify("use", &[b"abc"], &mac));
        assert!(!key.verify("use", &[b"ab", b"c", b""], &mac));
        assert!(!key.verify("other use", &[b"ab", b"c"], &mac));
        assert!(!key.verify("use", &[b"ab", b"c"], &mac[..31]));
        assert!(!key.verify("use", &[b"ab", b"c"], b""));
        assert!(!MacKey::new([8; 32]).verify("use", &[b"ab", b"c"], &mac));
    }

    #[test]
    fn equality_is_of_the_whole() {
        assert!(equal(b"same", b"same"));
        assert!(!equal(b"same", b"sam"));
        assert!(!equal(b"same", b"samf"));
    }
}
