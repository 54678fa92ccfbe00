//! Secrets at rest and in a browser's hands: keys, what they wrap, and what they seal.
//!
//! The master key of the deployment wraps one data key an organization; a data key seals the columns
//! of that organization's file. A sealed value is bound to its place by associated data, so that a
//! row copied to another table, column, row or organization cannot be opened there.

use std::fmt;

use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::aead::AeadKey;
use super::{certain, hash, random};
use crate::base::{Error, Result};

/// HKDF-SHA256 (RFC 5869): one key for each purpose, of which none tells anything about another.
fn derive(key: &[u8; 32], purpose: &str) -> [u8; 32] {
    let mut derived = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"bulkhead").extract(key);
    let info = [purpose.as_bytes()];
    certain(extracted.expand(&info, hmac::HMAC_SHA256).and_then(|okm| okm.fill(&mut derived)));
    derived
}

/// The key of one organization's file, or of the deployment. Never used itself, only derived from.
#[derive(Clone)]
pub struct DataKey(Zeroizing<[u8; 32]>);

impl DataKey {
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(random::bytes())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The key itself; each call is a place to look at in a review.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: &'static str) -> [u8; 32] {
        derive(&self.0, purpose)
    }

    /// Tells whether a key that comes back from elsewhere is this one, under this name, and nothing else of it.
    #[must_use]
    pub fn check_value(&self, name: &str) -> [u8; 16] {
        let derived = Zeroizing::new(derive(&self.0, &format!("check of the data key {name}")));
        let mut value = [0; 16];
        value.copy_from_slice(&derived[..16]);
        value
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey[secret]")
    }
}

/// The operator's key, kept outside the data directory: it wraps data keys and does nothing else.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(random::bytes())
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads 64 hexadecimal digits, or 32 bytes in base64 (either alphabet, padded or not); white
    /// space around it is of no account, since it often comes from a file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut bytes = Zeroizing::new([0; 32]);
        if text.len() == 64 {
            hex::decode_to_slice(text, bytes.as_mut_slice()).ok()?;
        } else {
            let unpadded = text.strip_suffix('=').unwrap_or(text);
            let decoded = STANDARD_NO_PAD.decode(unpadded).or_else(|_| URL_SAFE_NO_PAD.decode(unpadded)).ok()?;
            let decoded = Zeroizing::new(decoded);
            bytes = Zeroizing::new(decoded.as_slice().try_into().ok()?);
        }
        Some(Self(bytes))
    }

    /// 64 hexadecimal digits, for the file that the operator keeps.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0.as_slice()))
    }

    /// Eight hexadecimal digits that tell master keys apart and reveal nothing of them.
    #[must_use]
    pub fn id(&self) -> String {
        hex::encode(&hash::sha256(&derive(&self.0, "name of a master key"))[..4])
    }

    /// Wraps the data key called `name`, usually the organization's id.
    #[must_use]
    pub fn wrap(&self, name: &str, key: &DataKey) -> Vec<u8> {
        self.wrapping().seal(&[b"data key", name.as_bytes()], key.expose())
    }

    /// Fails for another master key, another name and a changed text alike.
    pub fn unwrap(&self, name: &str, wrapped: &[u8]) -> Result<DataKey> {
        let opened = self.wrapping().open(&[b"data key", name.as_bytes()], wrapped);
        opened.and_then(|key| key.as_slice().try_into().ok().map(DataKey::from_bytes)).ok_or_else(|| {
            Error::internal(format!("the data key of {name} cannot be opened with the master key {}", self.id()))
        })
    }

    fn wrapping(&self) -> AeadKey {
        AeadKey::new(&Zeroizing::new(derive(&self.0, "wrap data keys, version 1")))
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey[{}]", self.id())
    }
}

/// State that travels through a browser: it can be neither read nor changed there, only sent back.
/// It can be sent back twice, though; what must happen once needs a row.
pub struct TokenBox(AeadKey);

impl TokenBox {
    /// Far above any state that we make, far below what would be worth a parser's time.
    const LONGEST: usize = 8 * 1024;

    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self(AeadKey::new(&Zeroizing::new(key)))
    }

    /// As base64url without padding, for a URL, a form or a cookie.
    #[must_use]
    pub fn seal(&self, purpose: &'static str, plaintext: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(self.0.seal(&[b"token", purpose.as_bytes()], plaintext))
    }

    /// `None` for anything that was not sealed for this purpose with this key.
    #[must_use]
    pub fn open(&self, purpose: &'static str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        if text.len() > Self::LONGEST {
            return None;
        }
        self.0.open(&[b"token", purpose.as_bytes()], &URL_SAFE_NO_PAD.decode(text).ok()?)
    }
}

impl fmt::Debug for TokenBox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenBox[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sealer;
    use super::*;
    use crate::base::OrganizationId;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    fn organization(n: u128) -> OrganizationId {
        OrganizationId::from_bits(n)
    }

    #[test]
    fn a_column_opens_in_its_own_place_only() {
        let key = DataKey::generate();
        let sealer = Sealer::new(organization(1), &key);
        let sealed = sealer.seal("signing_key", "private", "sig_1", b"secret");
        assert_eq!(sealer.open("signing_key", "private", "sig_1", &sealed).unwrap().as_slice(), b"secret");

        assert!(sealer.open("other", "private", "sig_1", &sealed).is_err());
        assert!(sealer.open("signing_key", "other", "sig_1", &sealed).is_err());
        assert!(sealer.open("signing_key", "private", "sig_2", &sealed).is_err());
        // The border between column and row cannot be moved.
        assert!(sealer.open("signing_key", "privates", "ig_1", &sealed).is_err());
        assert!(Sealer::new(organization(2), &key).open("signing_key", "private", "sig_1", &sealed).is_err());
        let other = Sealer::new(organization(1), &DataKey::generate());
        assert!(other.open("signing_key", "private", "sig_1", &sealed).is_err());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let sealer = Sealer::new(organization(1), &DataKey::generate());
        let sealed = sealer.seal("t", "c", "r", b"secret");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open("t", "c", "r", &changed).is_err(), "byte {at}");
            assert!(sealer.open("t", "c", "r", &sealed[..at]).is_err(), "length {at}");
        }
        assert_ne!(sealed, sealer.seal("t", "c", "r", b"secret"), "a nonce was used twice");
        assert!(sealer.open("t", "c", "r", &sealer.seal("t", "c", "r", b"")).unwrap().is_empty());
    }

    #[test]
    fn a_master_key_is_read_in_every_usual_form() {
        let bytes = [0xfb; 32];
        let key = MasterKey::from_bytes(bytes);
        let forms = [
            key.to_text().to_string(),
            hex::encode_upper(bytes),
            STANDARD.encode(bytes),
            STANDARD_NO_PAD.encode(bytes),
            URL_SAFE.encode(bytes),
            format!("  {}\n", URL_SAFE_NO_PAD.encode(bytes)),
        ];
        for form in forms {
            assert_eq!(MasterKey::parse(&form).map(|key| key.id()), Some(key.id()), "{form}");
        }
        for wrong in ["", "00", &"g".repeat(64), &"0".repeat(63), &STANDARD.encode([0; 31]), &STANDARD.encode([0; 33])]
        {
            assert!(MasterKey::parse(wrong).is_none(), "{wrong}");
        }
        assert_eq!(key.id().len(), 8);
        assert!(!key.to_text().contains(&key.id()));
    }

    #[test]
    fn a_data_key_is_unwrapped_under_its_name_by_its_master_key() {
        let (master, key) = (MasterKey::generate(), DataKey::generate());
        let wrapped = master.wrap("org_1", &key);
        assert_eq!(master.unwrap("org_1", &wrapped).unwrap().expose(), key.expose());
        assert!(master.unwrap("org_2", &wrapped).is_err());
        assert!(MasterKey::generate().unwrap("org_1", &wrapped).is_err());
        assert!(master.unwrap("org_1", &wrapped[1..]).is_err());
    }

    #[test]
    fn keys_differ_by_purpose_and_are_not_printed() {
        let key = DataKey::from_bytes([5; 32]);
        assert_ne!(key.derive("a"), key.derive("b"));
        assert_eq!(key.derive("a"), DataKey::from_bytes([5; 32]).derive("a"));
        assert_eq!(format!("{key:?}"), "DataKey[secret]");
    }

    #[test]
    fn a_token_serves_one_purpose() {
        let tokens = TokenBox::new([3; 32]);
        let text = tokens.seal("sign-up", b"state");
        assert_eq!(tokens.open("sign-up", &text).unwrap().as_slice(), b"state");
        assert!(tokens.open("recovery", &text).is_none());
        assert!(TokenBox::new([4; 32]).open("sign-up", &text).is_none());
        assert!(tokens.open("sign-up", "").is_none());
        assert!(tokens.open("sign-up", "not base64!").is_none());
        assert!(tokens.open("sign-up", &format!("{text}=")).is_none());
        let long = tokens.seal("sign-up", &[0; TokenBox::LONGEST]);
        assert!(tokens.open("sign-up", &long).is_none());
    }
}
