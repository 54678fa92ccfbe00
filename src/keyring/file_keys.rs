//! Keys of whole files, for organizations whose file is ciphertext.
//!
//! Each stands in the ring as one more key, under the name of its organization and `/file`: it is wrapped, wrapped
//! anew and destroyed like all others. Another version takes its place only together with another file, so for a while
//! there are two files that are right, the one of before and the one that is being made; what is in the ring says so
//! ([`FileStanding`]), and which of them is there, the file itself says by its first bytes.

use super::Keyring;
use super::store::{self, FileVersion};
use crate::base::{Error, OrganizationId, Result, Timestamp};
use crate::crypto::DataKey;
use crate::sqlite::FileKey;

/// What its name in the ring ends with.
const SUFFIX: &str = "/file";

/// What it is called in the ring.
pub(super) fn name(organization: OrganizationId) -> String {
    format!("{organization}{SUFFIX}")
}

/// What an organization's file has to be, by what is in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileStanding {
    Plain,
    /// Under the key of this version; while another one comes, under that one as well.
    Ciphertext(u32),
    /// Plain, or under the key of this version: it is on its way from one to the other.
    Either(u32),
}

/// A file that is on its way to another key or to none, or whose copies from before are being deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileChange {
    /// The version that it is to be under in the end; nothing for none.
    pub target: Option<u32>,
    /// It is there already.
    pub is_clearing: bool,
    /// Whether copies from before are deleted in the end.
    pub clears: bool,
}

/// Everything that is known of the keys of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKeys {
    pub standing: FileStanding,
    pub change: Option<FileChange>,
    /// Since when it is as it is, if it was otherwise before.
    pub settled_at: Option<Timestamp>,
    /// Whether copies from before that were deleted then.
    pub is_cleared: bool,
}

impl FileKeys {
    fn of(versions: &[FileVersion]) -> Self {
        let in_use = || versions.iter().filter(|key| key.replaced_at.is_none());
        let settled = in_use().find(|key| matches!(key.stage.as_str(), "settled" | "clearing"));
        let standing = match (settled, in_use().next()) {
            (Some(key), _) => FileStanding::Ciphertext(key.version),
            (None, Some(key)) => FileStanding::Either(key.version),
            (None, None) => FileStanding::Plain,
        };
        let change = versions.iter().find_map(|key| {
            let target = key.replaced_at.is_none().then_some(key.version);
            let (target, is_clearing) = match key.stage.as_str() {
                "coming" => (target, false),
                "going" => (None, false),
                "clearing" => (target, true),
                _ => return None,
            };
            Some(FileChange { target, is_clearing, clears: key.clears })
        });
        let newest = versions.first();
        let settled_at = newest.and_then(|key| key.settled_at);
        Self { standing, change, settled_at, is_cleared: newest.is_some_and(|key| key.clears) && change.is_none() }
    }
}

impl Keyring {
    /// Makes the key of a file that is to be ciphertext; the same one again if a crash came in between.
    pub async fn create_file_key(&self, organization: OrganizationId) -> Result<()> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        self.create_first(&name(organization)).await
    }

    /// The keys that the organization's file may be under, by their versions, the newest first. None: it is plain.
    pub async fn file_keys(&self, organization: OrganizationId) -> Result<Vec<(u32, FileKey)>> {
        self.unwrapped(organization, false).await
    }

    /// The same with those that only copies from before are under.
    pub async fn file_keys_of_copies(&self, organization: OrganizationId) -> Result<Vec<(u32, FileKey)>> {
        self.unwrapped(organization, true).await
    }

    async fn unwrapped(&self, organization: OrganizationId, replaced: bool) -> Result<Vec<(u32, FileKey)>> {
        let name = name(organization);
        let kept = self.0.database.read(|db| store::file_keys(db, &name, replaced)).await?;
        let mut keys = Vec::with_capacity(kept.len());
        for key in &kept {
            keys.push((key.version, of(&self.unwrap(key).await?)));
        }
        Ok(keys)
    }

    /// What is known of them. Nobody is asked to unwrap any.
    pub async fn file_keys_known(&self, organization: OrganizationId) -> Result<FileKeys> {
        let name = name(organization);
        self.0.database.read(|db| Ok(FileKeys::of(&store::file_versions(db, &name)?))).await
    }

    /// What the file has to be.
    pub async fn file_standing(&self, organization: OrganizationId) -> Result<FileStanding> {
        Ok(self.file_keys_known(organization).await?.standing)
    }

    /// Makes the version that the file is to come under; returns it. From here on both files are right.
    pub async fn announce_file_key(&self, organization: OrganizationId, clears: bool) -> Result<u32> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        let name = name(organization);
        let versions = self.0.database.read(|db| store::file_versions(db, &name)).await?;
        let last = versions.first().map_or(0, |key| key.version);
        let next = last.checked_add(1).ok_or_else(|| Error::internal("there are no more versions"))?;
        let fresh = self.fresh(&name, next).await?;
        let fresh = (&*fresh.wrapped, &*fresh.by);
        let stored = self.0.database.write(|db| store::insert_coming(db, &name, last, fresh, clears)).await?;
        if stored { Ok(next) } else { Err(Error::internal("another version of a file's key came in between")) }
    }

    /// The file is to come under no key. From here on both files are right.
    pub async fn withdraw_file_key(&self, organization: OrganizationId, clears: bool) -> Result<()> {
        self.0.database.write(|db| store::set_going(db, &name(organization), clears)).await
    }

    /// The file is under this version, or under none, and no other file is right any more. Versions that only copies
    /// are under stay for as long as copies do. `clears`: such copies are yet to be deleted.
    pub async fn settle_file_key(&self, organization: OrganizationId, on: Option<u32>, clears: bool) -> Result<()> {
        self.0.database.write(|db| store::settle(db, &name(organization), on, clears)).await
    }

    /// The file stays as it was: a version that was to come goes, one that was to go stays.
    pub async fn keep_file_key(&self, organization: OrganizationId) -> Result<()> {
        self.0.database.write(|db| store::unsettle(db, &name(organization))).await
    }

    /// Copies from before are to be deleted, of a file that is as it shall be.
    pub async fn clear_file_copies(&self, organization: OrganizationId) -> Result<()> {
        self.0.database.write(|db| store::set_clearing(db, &name(organization))).await
    }

    /// They are deleted.
    pub async fn file_copies_cleared(&self, organization: OrganizationId) -> Result<()> {
        self.0.database.write(|db| store::set_cleared(db, &name(organization))).await
    }

    /// Organizations whose file is on its way to another key or to none.
    pub async fn changing_file_keys(&self) -> Result<Vec<OrganizationId>> {
        let names = self.0.database.read(store::in_motion).await?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect())
    }

    /// Organizations with versions that were replaced before this.
    pub async fn file_keys_replaced_before(&self, before: Timestamp) -> Result<Vec<(OrganizationId, u32)>> {
        let found = self.0.database.read(|db| store::replaced_before(db, before)).await?;
        Ok(found
            .into_iter()
            .filter_map(|(name, version)| Some((name.strip_suffix(SUFFIX)?.parse().ok()?, version)))
            .collect())
    }

    /// Destroys replaced versions up to this one, for good: no copy under them can be read any more.
    pub async fn destroy_file_keys_up_to(&self, organization: OrganizationId, version: u32) -> Result<usize> {
        let turn = self.turn(organization);
        let _turn = turn.lock().await;
        let name = name(organization);
        let destroyed = self.0.database.write(|db| store::delete_replaced(db, &name, version)).await?;
        self.0.database.fold().await?;
        Ok(destroyed)
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

    fn version(version: u32, stage: &str, is_replaced: bool) -> FileVersion {
        let replaced_at = is_replaced.then(|| Timestamp::from_seconds(1));
        FileVersion { version, stage: stage.to_owned(), clears: false, replaced_at, settled_at: None }
    }

    #[test]
    fn what_is_in_the_ring_says_what_the_file_may_be() {
        let of = |versions: &[FileVersion]| FileKeys::of(versions).standing;
        assert_eq!(of(&[]), FileStanding::Plain);
        assert_eq!(of(&[version(1, "coming", false)]), FileStanding::Either(1));
        assert_eq!(of(&[version(1, "settled", false)]), FileStanding::Ciphertext(1));
        // Whatever comes, what is there now is no plain file.
        assert_eq!(of(&[version(2, "coming", false), version(1, "settled", false)]), FileStanding::Ciphertext(1));
        assert_eq!(of(&[version(2, "clearing", false), version(1, "settled", true)]), FileStanding::Ciphertext(2));
        assert_eq!(of(&[version(1, "going", false)]), FileStanding::Either(1));
        assert_eq!(of(&[version(1, "settled", true)]), FileStanding::Plain);
        let going = FileKeys::of(&[version(1, "going", false)]).change.unwrap();
        assert_eq!((going.target, going.is_clearing), (None, false));
        let cleared = FileKeys::of(&[version(2, "clearing", true)]).change.unwrap();
        assert_eq!((cleared.target, cleared.is_clearing), (None, true));
    }
}
