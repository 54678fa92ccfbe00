//! Where finished archives lie until they are fetched: `exports/<organization>/`, private files, for a day.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::build::failed;
use super::format::Secrets;
use crate::base::{Error, ExportId, OrganizationId, Result, Timestamp, codes};

/// Archives that are built at the same moment; each keeps a core busy, and two while it is compressed.
const AT_ONCE: usize = 2;

/// How long and how many.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub keep: Duration,
    /// Archives of one organization at a time.
    pub most: usize,
    /// Of the file that is exported.
    pub most_bytes: u64,
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Building,
    Ready,
    Failed,
}

/// One export, as it is noted beside its archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Export {
    pub id: ExportId,
    pub organization_id: OrganizationId,
    pub state: State,
    pub secrets: Secrets,
    /// The name that a person gets it under.
    pub file_name: String,
    pub size: Option<u64>,
    pub sha256: Option<String>,
    /// A code, when it failed.
    pub failure: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// All archives; cheap to clone. Every call names the organization, whose folder is made of its id alone.
#[derive(Clone)]
pub struct Shelf(Arc<Inner>);

struct Inner {
    root: PathBuf,
    rules: Rules,
    building: Mutex<HashSet<OrganizationId>>,
    hands: Semaphore,
}

/// The right to build one archive. However it ends, the organization may have another built.
pub(super) struct Building {
    shelf: Shelf,
    pub export: Export,
}

impl Drop for Building {
    fn drop(&mut self) {
        self.shelf.building().remove(&self.export.organization_id);
    }
}

impl Shelf {
    /// What was being built when the process ended is thrown away. Blocking.
    pub fn open(root: &Path, rules: Rules, now: Timestamp) -> Result<Self> {
        let inner = Inner { root: root.to_owned(), rules, building: Mutex::default(), hands: Semaphore::new(AT_ONCE) };
        let shelf = Self(Arc::new(inner));
        for organization in shelf.organizations() {
            let folder = shelf.folder(organization);
            for path in entries(&folder) {
                let half = match path.extension().and_then(|extension| extension.to_str()) {
                    Some("json") => read(&path).is_none_or(|export| export.state == State::Building),
                    // Without its note an archive is nobody's.
                    Some("zst") => !note_of(&path).exists(),
                    _ => true,
                };
                if half {
                    remove(&path);
                    remove(&archive_of(&path));
                }
            }
        }
        // Without its secrets, but a plain file, also of an organization whose own is ciphertext.
        let of_transfers = entries(&shelf.transfers()).into_iter();
        for path in of_transfers.filter(|path| path.extension().is_some_and(|extension| extension == "work")) {
            remove(&path);
        }
        shelf.sweep(now);
        Ok(shelf)
    }

    /// Takes away what nobody may fetch any more. Blocking.
    pub fn sweep(&self, now: Timestamp) {
        for organization in self.organizations() {
            for path in entries(&self.folder(organization)) {
                if path.extension().is_some_and(|extension| extension == "json")
                    && read(&path).is_none_or(|export| export.state != State::Building && export.expires_at <= now)
                {
                    remove(&archive_of(&path));
                    remove(&path);
                }
            }
            // Fails while something is in it, as it should.
            let _ = fs::remove_dir(self.folder(organization));
        }
    }

    /// Takes away everything of an organization that is erased. Blocking.
    pub fn forget(&self, organization: OrganizationId) -> Result<()> {
        let folder = self.folder(organization);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("cannot remove", &folder, error)),
            _ => Ok(()),
        }
    }

    /// The organization's exports, newest first.
    pub fn list(&self, organization: OrganizationId, now: Timestamp) -> Vec<Export> {
        let notes = entries(&self.folder(organization)).into_iter();
        let notes = notes.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        let mut exports: Vec<Export> = notes.filter_map(|path| read(&path)).collect();
        exports.retain(|export| export.expires_at > now);
        exports.sort_by_key(|export| std::cmp::Reverse(export.id));
        exports
    }

    pub fn get(&self, organization: OrganizationId, id: ExportId, now: Timestamp) -> Result<Export> {
        let found = read(&self.note(organization, id)).filter(|export| export.expires_at > now);
        found.ok_or_else(|| Error::new(&codes::EXPORT_NOT_FOUND))
    }

    /// The finished archive.
    pub fn archive(&self, organization: OrganizationId, id: ExportId, now: Timestamp) -> Result<(Export, PathBuf)> {
        let export = self.get(organization, id, now)?;
        match export.state {
            State::Ready => Ok((export, archive_of(&self.note(organization, id)))),
            State::Building | State::Failed => Err(Error::new(&codes::EXPORT_NOT_READY)),
        }
    }

    /// Removes one that is not being built.
    pub fn remove(&self, organization: OrganizationId, id: ExportId, now: Timestamp) -> Result<()> {
        if self.get(organization, id, now)?.state == State::Building {
            return Err(Error::new(&codes::EXPORT_NOT_READY));
        }
        let note = self.note(organization, id);
        remove(&archive_of(&note));
        remove(&note);
        Ok(())
    }

    /// Notes an export that is now to be built, unless there are enough of them.
    pub(super) fn begin(&self, export: Export) -> Result<Building> {
        let organization = export.organization_id;
        if self.list(organization, export.created_at).len() >= self.0.rules.most {
            return Err(Error::new(&codes::EXPORT_LIMIT_REACHED));
        }
        if !self.building().insert(organization) {
            return Err(Error::new(&codes::EXPORT_IN_PROGRESS));
        }
        let building = Building { shelf: self.clone(), export };
        let folder = self.folder(organization);
        fs::create_dir_all(&folder).map_err(|error| failed("cannot make", &folder, error))?;
        self.write(&building.export)?;
        Ok(building)
    }

    /// The note again, with how it ended.
    pub(super) fn write(&self, export: &Export) -> Result<()> {
        let note = self.note(export.organization_id, export.id);
        let text = serde_json::to_vec(export).map_err(|error| Error::internal("a note").source(error))?;
        let new = note.with_extension("new");
        let written = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        written
            .and_then(|mut file| {
                file.write_all(&text)?;
                // What is being built when the machine stops is thrown away: that needs to survive nothing.
                if export.state == State::Building { Ok(()) } else { file.sync_all() }
            })
            .and_then(|()| fs::rename(&new, &note))
            .map_err(|error| failed("cannot write", &note, error))
    }

    /// An empty folder for what lies between, and the place of the archive.
    pub(super) fn workshop(&self, export: &Export) -> Result<(PathBuf, PathBuf)> {
        let note = self.note(export.organization_id, export.id);
        let workshop = note.with_extension("work");
        fs::create_dir(&workshop).map_err(|error| failed("cannot make", &workshop, error))?;
        Ok((workshop, archive_of(&note)))
    }

    /// Where the archive of a transfer lies until that has ended.
    #[must_use]
    pub fn transfer(&self, name: &str) -> PathBuf {
        self.transfers().join(format!("{name}.zst"))
    }

    /// Where its copy lies while the archive is made of it.
    pub(super) fn transfer_workshop(&self, name: &str) -> PathBuf {
        self.transfer(name).with_extension("work")
    }

    /// Takes both away. Blocking.
    pub fn forget_transfer(&self, name: &str) {
        remove(&self.transfer_workshop(name));
        remove(&self.transfer(name));
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.0.rules
    }

    pub(super) fn hands(&self) -> &Semaphore {
        &self.0.hands
    }

    fn building(&self) -> std::sync::MutexGuard<'_, HashSet<OrganizationId>> {
        self.0.building.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transfers(&self) -> PathBuf {
        self.0.root.join(".transfers")
    }

    fn folder(&self, organization: OrganizationId) -> PathBuf {
        self.0.root.join(organization.to_string())
    }

    fn note(&self, organization: OrganizationId, id: ExportId) -> PathBuf {
        self.folder(organization).join(format!("{id}.json"))
    }

    fn organizations(&self) -> Vec<OrganizationId> {
        let names = entries(&self.0.root).into_iter();
        names.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn read(note: &Path) -> Option<Export> {
    serde_json::from_slice(&fs::read(note).ok()?).ok()
}

/// `exp_….json` → `exp_….zst`
fn archive_of(note: &Path) -> PathBuf {
    note.with_extension("zst")
}

fn note_of(archive: &Path) -> PathBuf {
    archive.with_extension("json")
}

/// What cannot be removed now is removed the next time.
pub(super) fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "something of an export could not be removed");
    }
}
