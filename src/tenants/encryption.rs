//! Organizations whose whole file is ciphertext: who holds the keys of one, and for how long.
//!
//! Keys are held while the file is open, held or looked at, and copies of the file can be opened as long. How files
//! are made and read with them is `sqlite`'s; that a copy of pages never holds plain text follows from there.

use std::fs;
use std::path::Path;

use super::look::{Depth, Look, look_at};
use super::open_files::Tenants;
use super::path;
use super::tenant::Tenant;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::keyring::{FileKeys, FileStanding};
use crate::sqlite::{
    CAN_ENCRYPT, Database, FileKey, TenantDb, Unlocked, is_damage, recast, remove_wal, salt_in, unlock,
};

/// While this exists, an organization's file can be opened, whichever of its keys it is under.
#[derive(Debug, Default)]
pub struct Keys(Vec<(u32, Unlocked)>);

impl Keys {
    fn hold(keys: Vec<(u32, FileKey)>) -> Self {
        Self(keys.into_iter().map(|(version, key)| (version, unlock(key))).collect())
    }

    /// The one that a new file is made under.
    pub(super) fn newest(&self) -> Result<&Unlocked> {
        self.0.first().map(|(_, key)| key).ok_or_else(|| Error::internal("the key of a file vanished"))
    }

    /// That of one version.
    pub(super) fn of(&self, version: u32) -> Result<&Unlocked> {
        let found = self.0.iter().find(|(known, _)| *known == version);
        found.map(|(_, key)| key).ok_or_else(|| Error::internal("a version of a file's key is not there"))
    }

    /// The version that a file is under which begins so.
    pub(super) fn with(&self, salt: [u8; 16]) -> Option<u32> {
        self.0.iter().find(|(_, key)| key.salt() == salt).map(|(version, _)| *version)
    }
}

impl Tenants {
    /// Holds the keys of an organization's file; none for one that is plain.
    pub(super) async fn unlock(&self, id: OrganizationId) -> Result<Keys> {
        // A build that could not use them does without: then the file is no database, and [`Tenants::named`] says why.
        if CAN_ENCRYPT { self.0.keyring.file_keys(id).await.map(Keys::hold) } else { Ok(Keys::default()) }
    }

    /// The same with those that only copies of before are under.
    pub(super) async fn unlock_copies(&self, id: OrganizationId) -> Result<Keys> {
        if CAN_ENCRYPT { self.0.keyring.file_keys_of_copies(id).await.map(Keys::hold) } else { Ok(Keys::default()) }
    }

    /// The same for whoever goes on without them, such as an erasure.
    pub async fn unlock_if_possible(&self, id: OrganizationId) -> Keys {
        self.unlock(id).await.unwrap_or_else(|error| {
            tracing::debug!(organization = %id, ?error, "the keys of a file cannot be had");
            Keys::default()
        })
    }

    /// What the file has to be, for whoever holds its keys already.
    pub(super) async fn standing_with(&self, id: OrganizationId, keys: &Keys) -> Result<FileStanding> {
        if keys.0.is_empty() { Ok(FileStanding::Plain) } else { self.0.keyring.file_standing(id).await }
    }

    /// Holds the key of a file that is to be made.
    pub(super) async fn new_key(&self, id: OrganizationId) -> Result<Keys> {
        self.require_encryption()?;
        self.0.keyring.create_file_key(id).await?;
        self.unlock(id).await
    }

    /// Why a file could not be opened: to a build without SQLCipher, ciphertext is no database.
    pub(super) async fn named(&self, id: OrganizationId, error: Error) -> Error {
        let is_foreign = !CAN_ENCRYPT && is_damage(&error);
        if is_foreign && self.is_encrypted(id).await.unwrap_or(false) {
            return Error::new(&codes::ORGANIZATION_ENCRYPTED);
        }
        error
    }

    /// Looks at a file that is not open for requests.
    pub(super) async fn look_from_the_side(&self, id: OrganizationId, depth: Depth) -> Result<Look> {
        let _keys = match self.unlock(id).await {
            Ok(keys) => keys,
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

    /// Whether the organization's file is ciphertext, also where this build cannot read it.
    pub async fn is_encrypted(&self, id: OrganizationId) -> Result<bool> {
        Ok(self.0.keyring.file_standing(id).await? != FileStanding::Plain)
    }

    /// What is known of the keys of its file.
    pub async fn file_keys_known(&self, id: OrganizationId) -> Result<FileKeys> {
        self.0.keyring.file_keys_known(id).await
    }

    /// Writes a private copy anew, such as one that came out of a backup, if it is not under the key that the
    /// organization's file has to be under. Blocking.
    pub fn recast_copy(&self, id: OrganizationId, copy: &Path) -> Result<()> {
        let runtime = tokio::runtime::Handle::current();
        let (keys, standing) = runtime.block_on(async {
            Ok::<_, Error>((self.unlock_copies(id).await?, self.0.keyring.file_standing(id).await?))
        })?;
        let target = match standing {
            FileStanding::Plain => None,
            FileStanding::Ciphertext(version) => Some(keys.of(version)?),
            // Either is right.
            FileStanding::Either(_) => return Ok(()),
        };
        if salt_in(copy)? == target.map(Unlocked::salt) {
            return Ok(());
        }
        let again = copy.with_extension("recast");
        let failed = |error| super::hold::failed("cannot replace", copy, error);
        recast::<TenantDb>(copy, &again, target, self.0.clock.now())?;
        // Reading it has made them, and they are not the new one's.
        remove_wal(copy).and_then(|()| fs::rename(&again, copy)).map_err(failed)
    }
}

/// Refuses a plain file where there has to be ciphertext: somebody has put it there.
pub(super) fn require_ciphertext(database: &Database<TenantDb>, standing: FileStanding) -> Result<bool> {
    let is_ciphertext = database.is_ciphertext()?;
    if is_ciphertext || !CAN_ENCRYPT || !matches!(standing, FileStanding::Ciphertext(_)) {
        return Ok(is_ciphertext);
    }
    Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because("its file has to be encrypted as a whole, and is plain"))
}

impl Tenant {
    /// Whether the whole file is ciphertext.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.is_ciphertext
    }
}
