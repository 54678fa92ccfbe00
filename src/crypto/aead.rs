//! AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, the primitive under every seal.
//!
//! Layout: one byte of format version, 12 bytes of nonce, the ciphertext, 16 bytes of tag. Random
//! nonces allow 2^32 seals a key, which is far more than one organization's rows or a day's forms.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::hash::frame;
use super::{certain, random};

const VERSION: u8 = 1;
const HEAD: usize = 1 + NONCE_LEN;

pub(super) struct AeadKey(LessSafeKey);

impl AeadKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(LessSafeKey::new(certain(UnboundKey::new(&AES_256_GCM, key))))
    }

    /// `context` is not in the result, but without the same context it cannot be opened.
    pub(super) fn seal(&self, context: &[&[u8]], plaintext: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut sealed = Vec::with_capacity(HEAD + plaintext.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plaintext);
        let (nonce, context) = (Nonce::assume_unique_for_key(nonce), Aad::from(frame(context)));
        let tag = certain(self.0.seal_in_place_separate_tag(nonce, context, &mut sealed[HEAD..]));
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    pub(super) fn open(&self, context: &[&[u8]], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (head, body) = sealed.split_at_checked(HEAD)?;
        let (&version, nonce) = head.split_first()?;
        if version != VERSION {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plaintext = Zeroizing::new(body.to_vec());
        let length = self.0.open_in_place(nonce, Aad::from(frame(context)), &mut plaintext).ok()?.len();
        plaintext.truncate(length);
        Some(plaintext)
    }
}
