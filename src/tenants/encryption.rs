//! Organizations whose whole file is ciphertext: who holds the key of one, and for how long.
//!
//! The key is held while the file is open, held or looked at, and copies of the file can be opened as long. How files
//! are made and read with it is `sqlite`'s; that a copy of pages never holds plain text follows from there.

use super::look::{Depth, Look, look_at};
use super::open_files::Tenants;
use super::path;
use super::tenant::Tenant;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::sqlite::{CAN_ENCRYPT, Database, TenantDb, Unlocked, is_damage, unlock};

impl Tenants {
    /// Holds the key of an organization's file; nothing for one that is plain.
    pub(super) async fn unlock(&self, id: OrganizationId) -> Result<Option<Unlocked>> {
        // A build that could not use it does without it: then the file is no database, and [`Tenants::named`] says why.
        if CAN_ENCRYPT { Ok(self.0.keyring.file_key(id).await?.map(unlock)) } else { Ok(None) }
    }

    /// The same for whoever goes on without it, such as an erasure, or whoever looks at copies.
    pub async fn unlock_if_possible(&self, id: OrganizationId) -> Option<Unlocked> {
        self.unlock(id).await.unwrap_or_else(|error| {
            tracing::debug!(organization = %id, ?error, "the key of a file cannot be had");
            None
        })
    }

    /// Holds the key of a file that is to be made.
    pub(super) async fn new_key(&self, id: OrganizationId) -> Result<Unlocked> {
        self.require_encryption()?;
        self.0.keyring.create_file_key(id).await?;
        self.unlock(id).await?.ok_or_else(|| Error::internal("the key of a file vanished"))
    }

    /// Why a file could not be opened: to a build without SQLCipher, ciphertext is no database.
    pub(super) async fn named(&self, id: OrganizationId, error: Error) -> Error {
        let is_foreign = !CAN_ENCRYPT && is_damage(&error);
        if is_foreign && self.0.keyring.holds_file_key(id).await.unwrap_or(false) {
            return Error::new(&codes::ORGANIZATION_ENCRYPTED);
        }
        error
    }

    /// Looks at a file that is not open for requests.
    pub(super) async fn look_from_the_side(&self, id: OrganizationId, depth: Depth) -> Result<Look> {
        let _key = match self.unlock(id).await {
            Ok(key) => key,
            // Nothing is wrong with the file: whoever has its key does not answer.
            Err(error) if error.is(&codes::KEY_UNAVAILABLE) => return Err(error),
            Err(error) => return Ok(Look::Unreadable(error.cause().unwrap_or_else(|| error.to_string()))),
        };
        let (file, now) = (path::file(&self.root_of(id), id), self.0.clock.now());
        let look = tokio::task::block_in_place(|| look_at(&file, depth, now, self.schema_version()))?;
        match look {
            Look::Unreadable(_) if !CAN_ENCRYPT && self.is_encrypted(id).await.unwrap_or(false) => {
                Ok(Look::Foreign("the file is encrypted as a whole, and this build cannot read it".to_owned()))
            }
            look => Ok(look),
        }
    }

    /// Refuses to make an encrypted file where that cannot be done, before anything else is.
    pub fn require_encryption(&self) -> Result<()> {
        if !CAN_ENCRYPT {
            return Err(Error::new(&codes::FILE_ENCRYPTION_UNAVAILABLE));
        }
        self.require_own_files().map_err(|_| {
            Error::new(&codes::FILE_ENCRYPTION_UNAVAILABLE)
                .detail("A stock litestream looks after the files of this deployment, and could not open this one.")
        })
    }

    /// Whether the organization's file was made as ciphertext, also where this build cannot read it.
    pub async fn is_encrypted(&self, id: OrganizationId) -> Result<bool> {
        self.0.keyring.holds_file_key(id).await
    }
}

/// Refuses a plain file where there has to be ciphertext: somebody has put it there.
pub(super) fn require_ciphertext(database: &Database<TenantDb>, key: Option<&Unlocked>) -> Result<()> {
    if key.is_none() || database.is_ciphertext()? {
        return Ok(());
    }
    Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("its file has to be encrypted as a whole, and is plain"))
}

impl Tenant {
    /// Whether the whole file is ciphertext.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.file_key.is_some()
    }
}
