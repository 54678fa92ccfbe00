//! Where an organization's file stands: a path made from the id and from nothing else.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::base::OrganizationId;

/// `orgs/<2 hex>/<2 hex>/<uuid>`: the last bytes of the id are random, so that a million organizations
/// spread over 65,536 directories. Own directory, so that removing it removes the WAL as well.
pub(super) fn directory(root: &Path, id: OrganizationId) -> PathBuf {
    let uuid = Uuid::from_u128(id.bits());
    let bytes = uuid.as_bytes();
    root.join(format!("{:02x}", bytes[15])).join(format!("{:02x}", bytes[14])).join(uuid.to_string())
}

/// The file in [`directory`].
pub(super) fn file(root: &Path, id: OrganizationId) -> PathBuf {
    directory(root, id).join("db.sqlite")
}

/// The organization whose directory this is, if it is one.
pub(super) fn owner(directory: &Path) -> Option<OrganizationId> {
    let uuid: Uuid = directory.file_name()?.to_str()?.parse().ok()?;
    Some(OrganizationId::from_bits(uuid.as_u128()))
}

/// Where a new organization is put together before anybody can find it.
pub(super) fn building(root: &Path, id: OrganizationId) -> PathBuf {
    root.join(".building").join(Uuid::from_u128(id.bits()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    #[test]
    fn made_of_the_id_alone() {
        let id = OrganizationId::new(Timestamp::from_millis(1_764_000_000_000), [1, 2, 3, 4, 5, 6, 7, 8, 0xab, 0xcd]);
        let path = file(Path::new("orgs"), id);
        assert!(path.starts_with("orgs/cd/ab"), "{}", path.display());
        assert!(path.ends_with("db.sqlite"));
    }
}
