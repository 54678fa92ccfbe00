//! Secrets that leave the house in a file: sealed with age (age-encryption.org/v1), for a passphrase or for the holder
//! of a key, so that they can be opened with other tools as well.

use std::io::{Read, Write};

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use zeroize::Zeroizing;

use crate::base::{Error, Result, Secret};

/// 2^17 with r = 8: 128 MiB (OWASP Password Storage Cheat Sheet).
const WORK_FACTOR: u8 = 17;
/// What we agree to spend on opening one, whoever wrote it: 256 MiB.
const MOST_WORK: u8 = 18;
/// How a key begins that opens what was sealed for an `age1…`.
const IDENTITY: &str = "AGE-SECRET-KEY-1";

/// For whom it is sealed.
#[derive(Debug, Clone)]
pub enum Lock {
    Passphrase(Secret),
    /// `age1…`
    Recipient(String),
}

/// What opens it: a passphrase, or a key in the form `AGE-SECRET-KEY-1…`.
#[derive(Debug, Clone)]
pub enum Key {
    Passphrase(Secret),
    Identity(Secret),
}

impl Key {
    /// Whichever of the two the text is; a key may stand in a file with comments, as age-keygen writes it.
    #[must_use]
    pub fn parse(text: &Secret) -> Self {
        let key = text.expose().lines().map(str::trim).find(|line| line.starts_with(IDENTITY));
        match key {
            Some(key) => Self::Identity(Secret::new(key.to_owned())),
            None => Self::Passphrase(text.clone()),
        }
    }
}

/// A new key, and whom something is sealed for that it opens.
#[must_use]
pub fn generate() -> (Secret, String) {
    use age::secrecy::ExposeSecret;
    let identity = x25519::Identity::generate();
    (Secret::new(identity.to_string().expose_secret().to_owned()), identity.to_public().to_string())
}

/// Whether this is an `age1…` that something can be sealed for.
#[must_use]
pub fn is_recipient(text: &str) -> bool {
    text.parse::<x25519::Recipient>().is_ok()
}

/// Takes about a second for a passphrase, on the thread where it is called.
pub fn seal(lock: &Lock, plaintext: &[u8]) -> Result<Vec<u8>> {
    let failed = |what: String| Error::internal(format!("secrets could not be sealed: {what}"));
    let encryptor = match lock {
        Lock::Passphrase(passphrase) => {
            let mut recipient = scrypt::Recipient::new(SecretString::from(passphrase.expose().to_owned()));
            recipient.set_work_factor(WORK_FACTOR);
            Encryptor::with_recipients(std::iter::once(&recipient as &dyn Recipient))
        }
        Lock::Recipient(recipient) => {
            let recipient: x25519::Recipient = recipient.parse().map_err(|what: &str| failed(what.to_owned()))?;
            Encryptor::with_recipients(std::iter::once(&recipient as &dyn Recipient))
        }
    };
    let mut sealed = Vec::with_capacity(plaintext.len() + 1024);
    let mut writer = encryptor
        .map_err(|error| failed(error.to_string()))?
        .wrap_output(&mut sealed)
        .map_err(|error| failed(error.to_string()))?;
    writer.write_all(plaintext).and_then(|()| writer.finish().map(drop)).map_err(|error| failed(error.to_string()))?;
    Ok(sealed)
}

/// `None` for the wrong key, for what was changed, and for more than `most` bytes.
#[must_use]
pub fn open(key: &Key, sealed: &[u8], most: usize) -> Option<Zeroizing<Vec<u8>>> {
    let decryptor = Decryptor::new_buffered(sealed).ok()?;
    let identity: Box<dyn Identity> = match key {
        Key::Passphrase(passphrase) => {
            let mut identity = scrypt::Identity::new(SecretString::from(passphrase.expose().to_owned()));
            identity.set_max_work_factor(MOST_WORK);
            Box::new(identity)
        }
        Key::Identity(text) => Box::new(text.expose().parse::<x25519::Identity>().ok()?),
    };
    let reader = decryptor.decrypt(std::iter::once(identity.as_ref())).ok()?;
    let mut opened = Zeroizing::new(Vec::new());
    reader.take(most as u64 + 1).read_to_end(&mut opened).ok()?;
    (opened.len() <= most).then_some(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_for_whom_it_was_sealed_and_for_nobody_else() {
        let identity = x25519::Identity::generate();
        let text = {
            use age::secrecy::ExposeSecret;
            Secret::new(format!("# created: today\n{}\n", identity.to_string().expose_secret()))
        };
        let sealed = seal(&Lock::Recipient(identity.to_public().to_string()), b"secret").unwrap();
        assert_eq!(open(&Key::parse(&text), &sealed, 100).unwrap().as_slice(), b"secret");
        assert!(open(&Key::parse(&text), &sealed, 5).is_none(), "more than was agreed to");
        assert!(open(&Key::Passphrase(Secret::new("another".to_owned())), &sealed, 100).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&Key::parse(&text), &changed, 100).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_passphrase_opens_what_it_sealed() {
        let right = Secret::new("violet harbour anvil".to_owned());
        let sealed = seal(&Lock::Passphrase(right.clone()), b"secret").unwrap();
        assert_eq!(open(&Key::parse(&right), &sealed, 100).unwrap().as_slice(), b"secret");
        assert!(open(&Key::parse(&Secret::new("violet harbour".to_owned())), &sealed, 100).is_none());
        assert!(!is_recipient("nonsense") && !is_recipient(""));
    }
}
