//! Volumes: directories other than the data directory that organizations' files may stand in.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::open_files::Tenants;
use super::path;
use crate::base::{Error, OrganizationId, Result, codes};

/// Where files stand: `orgs/` of the data directory, or of a volume.
pub(super) struct Volumes {
    own: PathBuf,
    /// By name; set once.
    others: OnceLock<BTreeMap<String, PathBuf>>,
    /// Those that are not on the own one.
    placed: RwLock<HashMap<OrganizationId, Arc<str>>>,
}

impl Volumes {
    pub fn new(own: &Path) -> Self {
        Self { own: own.to_owned(), others: OnceLock::new(), placed: RwLock::default() }
    }

    fn others(&self) -> impl Iterator<Item = (&String, &PathBuf)> {
        self.others.get().into_iter().flatten()
    }

    fn of(&self, id: OrganizationId) -> Option<Arc<str>> {
        self.placed.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn root(&self, name: Option<&str>) -> PathBuf {
        let Some(name) = name else { return self.own.clone() };
        let found = self.others().find(|(known, _)| *known == name);
        // A place where nothing is: whoever looks there finds no file, and makes none.
        found.map_or_else(|| self.own.join(".no-volume").join(name), |(_, path)| path.join("orgs"))
    }
}

impl Tenants {
    /// The other volumes, by their names. To be called before the first file is opened.
    pub fn use_volumes(&self, volumes: BTreeMap<String, PathBuf>) {
        let _ = self.0.volumes.others.set(volumes);
    }

    /// Looks for an organization's file on this volume from now on; with nothing, in the data directory.
    pub fn place(&self, id: OrganizationId, volume: Option<&str>) {
        let mut placed = self.0.volumes.placed.write().unwrap_or_else(PoisonError::into_inner);
        match volume {
            Some(volume) => placed.insert(id, volume.into()),
            None => placed.remove(&id),
        };
    }

    /// The directory of a volume that is configured.
    #[must_use]
    pub fn volume(&self, name: &str) -> Option<&Path> {
        self.0.volumes.others().find(|(known, _)| *known == name).map(|(_, path)| path.as_path())
    }

    /// The name of the volume that this is the name or the directory of.
    #[must_use]
    pub fn volume_by(&self, text: &str) -> Option<&str> {
        let is_it = |(name, path): &(&String, &PathBuf)| *name == text || path.as_path() == Path::new(text);
        self.0.volumes.others().find(is_it).map(|(name, _)| name.as_str())
    }

    /// Names and directories of the other volumes.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0.volumes.others().map(|(name, path)| (name.as_str(), path.as_path()))
    }

    /// The volume that an organization is on; nothing for the data directory.
    #[must_use]
    pub fn placed_on(&self, id: OrganizationId) -> Option<Arc<str>> {
        self.0.volumes.of(id)
    }

    /// The directory that the organization's path is counted from.
    pub(super) fn root_of(&self, id: OrganizationId) -> PathBuf {
        self.0.volumes.root(self.0.volumes.of(id).as_deref())
    }

    /// The same of a volume.
    pub(super) fn root_on(&self, volume: Option<&str>) -> PathBuf {
        self.0.volumes.root(volume)
    }

    /// All of them that are there.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let others = self.0.volumes.others().map(|(_, path)| path.join("orgs")).filter(|root| root.is_dir());
        std::iter::once(self.0.volumes.own.clone()).chain(others).collect()
    }

    /// Says what is the matter where a volume is not there, instead of that a file is missing.
    pub fn require_volume(&self, id: OrganizationId) -> Result<()> {
        let Some(name) = self.0.volumes.of(id) else { return Ok(()) };
        let problem = match self.volume(&name) {
            None => format!("its file is on the volume {name}, which is not configured"),
            Some(path) if !path.join("orgs").is_dir() => {
                format!("its file is on the volume {name}, and {} is not there", path.display())
            }
            Some(_) => return Ok(()),
        };
        Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(problem))
    }

    /// Whether this is the place of an organization on the volume that it is on.
    #[must_use]
    pub fn is_place_of(&self, directory: &Path, id: OrganizationId) -> bool {
        path::directory(&self.root_of(id), id) == directory
    }
}
