//! Keys of whole files, for organizations whose file is ciphertext.
//!
//! Each stands in the ring as one more key, under the name of its organization and `/file`: it is wrapped, wrapped
//! anew and destroyed like all others. It is never replaced by another one: every page of the file and of its backups
//! would have to be.

use super::{Keyring, store};
use crate::base::{OrganizationId, Result};
use crate::crypto::DataKey;
use crate::sqlite::FileKey;

/// What it is called in the ring.
pub(super) fn name(organization: OrganizationId) -> String {
    format!("{organization}/file")
}

impl Keyring {
    /// Makes the key of a file that is to be ciphertext; the same one again if a crash came in between.
    pub async fn create_file_key(&self, organization: OrganizationId) -> Result<()> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        self.create_first(&name(organization)).await
    }

    /// The key of the organization's file. Nothing: the file is not ciphertext.
    pub async fn file_key(&self, organization: OrganizationId) -> Result<Option<FileKey>> {
        if !self.holds_file_key(organization).await? {
            return Ok(None);
        }
        let found = self.find(&name(organization)).await?;
        Ok(found.map(|(keys, _)| of(&keys.newest.1)))
    }

    /// Whether there is one. Nobody is asked to unwrap it.
    pub async fn holds_file_key(&self, organization: OrganizationId) -> Result<bool> {
        self.0.database.read(|db| store::is_there(db, &name(organization))).await
    }
}

/// The key that SQLCipher is given, and the salt that the file begins with: neither tells anything of the other.
fn of(key: &DataKey) -> FileKey {
    let salt = key.derive("salt of a file, version 1");
    let mut beginning = [0; 16];
    beginning.copy_from_slice(&salt[..16]);
    FileKey::new(key.derive("encrypt a file, version 1").into(), beginning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_name_is_no_organizations() {
        let id = OrganizationId::from_bits(7);
        assert!(name(id).parse::<OrganizationId>().is_err());
        assert_eq!(format!("{:?}", of(&DataKey::generate())), "FileKey[secret]");
    }
}
