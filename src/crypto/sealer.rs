//! What seals the columns of one organization: the newest of its data keys, and those before it to read with.
//!
//! A sealed value says which version of the key it was made with, so that a key can be replaced while the
//! organization is served: from one moment on everything is sealed with the new one, and what is there already can be
//! read until it is sealed anew. Version 1 has the layout of [`super::aead`] alone, which every file of before has;
//! a later one is preceded by a 2 and its number, and bound to it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use super::aead::AeadKey;
use super::seal::DataKey;
use crate::base::{Error, OrganizationId, Result, codes};

/// The first byte of a value that says the version of its key.
const VERSIONED: u8 = 2;

/// The data keys of one organization, by their versions.
#[derive(Clone)]
pub struct DataKeys {
    /// What seals from now on.
    pub newest: (u32, DataKey),
    /// What only opens.
    pub older: Vec<(u32, DataKey)>,
}

/// Seals and opens columns of one organization.
pub struct Sealer {
    organization: [u8; 16],
    keys: RwLock<Arc<Keys>>,
}

struct Keys {
    newest: (u32, AeadKey),
    older: Vec<(u32, AeadKey)>,
}

impl Keys {
    fn of(keys: &DataKeys) -> Arc<Self> {
        let prepared = |(version, key): &(u32, DataKey)| {
            (*version, AeadKey::new(&Zeroizing::new(key.derive("seal columns, version 1"))))
        };
        Arc::new(Self { newest: prepared(&keys.newest), older: keys.older.iter().map(prepared).collect() })
    }
}

impl Sealer {
    /// With the first and only key.
    #[must_use]
    pub fn new(organization: OrganizationId, key: &DataKey) -> Self {
        Self::of(organization, &DataKeys { newest: (1, key.clone()), older: Vec::new() })
    }

    #[must_use]
    pub fn of(organization: OrganizationId, keys: &DataKeys) -> Self {
        Self { organization: organization.bits().to_be_bytes(), keys: RwLock::new(Keys::of(keys)) }
    }

    /// From now on with these, for everybody who has this sealer.
    pub fn renew(&self, keys: &DataKeys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Keys::of(keys);
    }

    /// The version that seals.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.keys().newest.0
    }

    /// `row` is the row's key as text; whoever changes it has to seal again.
    #[must_use]
    pub fn seal(&self, table: &'static str, column: &'static str, row: &str, plaintext: &[u8]) -> Vec<u8> {
        let keys = self.keys();
        let (version, key) = &keys.newest;
        let place: [&[u8]; 4] = [&self.organization, table.as_bytes(), column.as_bytes(), row.as_bytes()];
        if *version == 1 {
            return key.seal(&place, plaintext);
        }
        let number = version.to_be_bytes();
        let sealed = key.seal(&[place[0], place[1], place[2], place[3], &number], plaintext);
        [&[VERSIONED][..], &number, &sealed].concat()
    }

    /// Fails if the value was changed, or belongs to another organization, table, column or row; with a code of its
    /// own where the key that made it is not there any more.
    pub fn open(
        &self,
        table: &'static str,
        column: &'static str,
        row: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        let (version, inner) = split(sealed);
        let keys = self.keys();
        let Some(key) = keys.find(version) else {
            return Err(Error::new(&codes::DATA_KEY_DESTROYED)
                .because(format!("{table}.{column} of {row} was sealed with version {version}")));
        };
        let place: [&[u8]; 4] = [&self.organization, table.as_bytes(), column.as_bytes(), row.as_bytes()];
        let opened = if version == 1 {
            key.open(&place, inner)
        } else {
            key.open(&[place[0], place[1], place[2], place[3], &version.to_be_bytes()], inner)
        };
        opened.ok_or_else(|| Error::internal(format!("the sealed value {table}.{column} of {row} cannot be opened")))
    }

    /// Refuses a value whose key is not there any more. Whether it opens is not looked at.
    pub fn require_key_of(&self, sealed: &[u8]) -> Result<()> {
        let (version, _) = split(sealed);
        match self.keys().find(version) {
            Some(_) => Ok(()),
            None => Err(Error::new(&codes::DATA_KEY_DESTROYED).because(format!("it is version {version}"))),
        }
    }

    /// The value sealed with the newest key; nothing if it is already.
    pub fn reseal(
        &self,
        table: &'static str,
        column: &'static str,
        row: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        if split(sealed).0 == self.version() {
            return Ok(None);
        }
        let opened = self.open(table, column, row, sealed)?;
        Ok(Some(self.seal(table, column, row, &opened)))
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Keys {
    fn find(&self, version: u32) -> Option<&AeadKey> {
        std::iter::once(&self.newest).chain(&self.older).find(|(known, _)| *known == version).map(|(_, key)| key)
    }
}

/// The version of the key that made a value, and what it made.
fn split(sealed: &[u8]) -> (u32, &[u8]) {
    if let Some((&VERSIONED, rest)) = sealed.split_first()
        && let Some((number, inner)) = rest.split_first_chunk::<4>()
    {
        return (u32::from_be_bytes(*number), inner);
    }
    (1, sealed)
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer[secret]")
    }
}

impl fmt::Debug for DataKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKeys[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(newest: u32, all: &[DataKey]) -> DataKeys {
        let numbered = |n: u32| (n, all[n as usize - 1].clone());
        DataKeys { newest: numbered(newest), older: (1..newest).map(numbered).collect() }
    }

    #[test]
    fn what_an_older_key_sealed_opens_until_that_key_is_gone() {
        let all = [DataKey::generate(), DataKey::generate(), DataKey::generate()];
        let organization = OrganizationId::from_bits(7);
        let sealer = Sealer::of(organization, &keys(1, &all));
        let place = ("outbox", "payload", "out_1");
        let first = sealer.seal(place.0, place.1, place.2, b"secret");
        // As every file of before has it.
        assert_eq!(first[0], 1);
        sealer.renew(&keys(2, &all));
        assert_eq!(sealer.open(place.0, place.1, place.2, &first).unwrap().as_slice(), b"secret");
        let second = sealer.reseal(place.0, place.1, place.2, &first).unwrap().unwrap();
        assert_eq!(second[..5], [2, 0, 0, 0, 2]);
        assert!(sealer.reseal(place.0, place.1, place.2, &second).unwrap().is_none());

        let without_first = DataKeys { newest: (2, all[1].clone()), older: Vec::new() };
        sealer.renew(&without_first);
        assert_eq!(sealer.open(place.0, place.1, place.2, &second).unwrap().as_slice(), b"secret");
        let refused = sealer.open(place.0, place.1, place.2, &first).unwrap_err();
        assert!(refused.is(&codes::DATA_KEY_DESTROYED), "{refused:?}");
        assert!(sealer.require_key_of(&first).unwrap_err().is(&codes::DATA_KEY_DESTROYED));
        assert!(sealer.require_key_of(&second).is_ok());
    }

    #[test]
    fn a_value_is_bound_to_its_version_too() {
        let (key, organization) = (DataKey::generate(), OrganizationId::from_bits(7));
        let both = DataKeys { newest: (3, key.clone()), older: vec![(2, key.clone()), (1, key)] };
        let sealer = Sealer::of(organization, &both);
        let sealed = sealer.seal("a", "b", "c", b"secret");
        assert!(sealer.open("a", "b", "c", &sealed).is_ok());
        let mut other = sealed.clone();
        other[4] = 2;
        assert!(sealer.open("a", "b", "c", &other).is_err());
        assert!(sealer.open("a", "b", "c", &sealed[5..]).is_err());
        for cut in 0..sealed.len() {
            assert!(sealer.open("a", "b", "c", &sealed[..cut]).is_err(), "{cut}");
        }
    }
}
