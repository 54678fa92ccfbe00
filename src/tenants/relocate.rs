//! From one volume to another: a copy while the file is in use, then what has changed since while it is held, one
//! rename, and the old place is emptied. Whose word counts between the two is the catalog's row.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::create::make_shard;
use super::hold::{Held, failed, files_below};
use super::open_files::Tenants;
use super::path;
use crate::base::{Error, OrganizationId, Result, codes};
use crate::crypto::hash::{self, Sha256};
use crate::sqlite::{copy_file, free_room, require_room, sync_directory};

/// What is compared, and written where it differs, in one step.
const PIECE: usize = 256 << 10;
const DATABASE: &str = "db.sqlite";

/// What stands at the new place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub bytes: u64,
    /// Bytes that were written while the file was held.
    pub rest: u64,
    /// Of the database, in hexadecimal.
    pub sha256: String,
}

impl Tenants {
    /// Refuses what is to be made here and takes up so many bytes, if there is no room for it.
    pub fn require_room_for(&self, bytes: u64) -> Result<()> {
        require_room(&self.0.root.join(".building"), bytes)
    }

    /// Refuses a volume that is not there, takes no files or has no room for this organization's. Tells how many
    /// bytes those are, and how many are free there.
    pub fn require_room_on(&self, id: OrganizationId, volume: Option<&str>) -> Result<(u64, u64)> {
        let bytes = self.sizes(id)?.iter().map(|(_, bytes)| bytes).sum();
        let unusable = |problem: String| Error::new(&codes::VOLUME_UNUSABLE).detail(problem);
        if let Some(name) = volume {
            let path = self.volume(name).ok_or_else(|| unusable(format!("The volume {name} is not configured.")))?;
            if !path.is_dir() {
                return Err(unusable(format!("The directory of the volume {name} is not there.")));
            }
        }
        let root = self.root_on(volume);
        let tried = fs::create_dir_all(root.join(".building")).and_then(|()| {
            let probe = root.join(".building").join("probe");
            fs::write(&probe, b"?").and_then(|()| fs::remove_file(&probe))
        });
        tried.map_err(|error| {
            unusable("That volume takes no files.".to_owned()).because(format!("{}: {error}", root.display()))
        })?;
        if is_one_directory(&root, &self.root_of(id)) {
            // By a link or a mount: emptying the old place would empty the new one.
            return Err(unusable("That volume is the directory that the file is in already.".to_owned()));
        }
        let free = free_room(&root)?;
        // Its own size again for what is written while it is copied.
        if free < bytes {
            let detail = format!("This needs {bytes} bytes on that volume, and {free} are free.");
            return Err(Error::new(&codes::STORAGE_FULL).detail(detail));
        }
        Ok((bytes, free))
    }

    /// Copies the file as it is now to the volume's workshop, while everybody goes on.
    pub async fn copy_ahead(&self, id: OrganizationId, volume: Option<&str>) -> Result<()> {
        // Whoever wants to hold the file waits for this.
        let _handle = self.0.handles.of(id);
        let (file, workshop) = (path::file(&self.root_of(id), id), self.workshop(id, volume));
        tokio::task::block_in_place(|| {
            remove(&workshop)?;
            fs::create_dir_all(&workshop).map_err(|error| failed("cannot make", &workshop, error))?;
            copy_file(&file, &workshop.join(DATABASE))
        })
    }

    /// Where the organization's file stands on a volume, if it does.
    #[must_use]
    pub fn file_on(&self, id: OrganizationId, volume: Option<&str>) -> PathBuf {
        path::file(&self.root_on(volume), id)
    }

    /// Nothing is remembered any more of an organization that was erased.
    pub fn forget(&self, id: OrganizationId) {
        self.reopen(id);
        self.place(id, None);
    }

    /// How much of the copy is there.
    #[must_use]
    pub fn copied_ahead(&self, id: OrganizationId, volume: Option<&str>) -> u64 {
        fs::metadata(self.workshop(id, volume).join(DATABASE)).map_or(0, |found| found.len())
    }

    /// Throws away what a relocation that never came to its end has left on the volume.
    pub fn undo_copy(&self, id: OrganizationId, volume: Option<&str>) -> Result<()> {
        tokio::task::block_in_place(|| {
            remove(&self.workshop(id, volume))?;
            self.empty(id, volume)
        })
    }

    /// Empties the place that an organization had on a volume that it is not on any more.
    pub fn leave(&self, id: OrganizationId, volume: Option<&str>) -> Result<()> {
        tokio::task::block_in_place(|| self.empty(id, volume))
    }

    fn empty(&self, id: OrganizationId, volume: Option<&str>) -> Result<()> {
        let place = path::directory(&self.root_on(volume), id);
        if is_one_directory(&place, &path::directory(&self.root_of(id), id)) {
            return Err(Error::internal("the place of an organization was to be emptied that it is at"));
        }
        remove(&place)?;
        match place.parent() {
            Some(shard) if shard.exists() => sync_directory(shard),
            _ => Ok(()),
        }
    }

    fn workshop(&self, id: OrganizationId, volume: Option<&str>) -> PathBuf {
        path::building(&self.root_on(volume), id).with_extension("move")
    }
}

impl Held {
    /// Brings the copy up to date, reads it again to see that it is the same, and puts it at its place on the volume.
    /// Nothing leads there yet.
    pub fn copy_rest(&self, volume: Option<&str>) -> Result<Copied> {
        self.fold_whole()?;
        let tenants = &self.tenants;
        let (workshop, root) = (tenants.workshop(self.id, volume), tenants.root_on(volume));
        let place = path::directory(&root, self.id);
        tokio::task::block_in_place(|| {
            fs::create_dir_all(&workshop).map_err(|error| failed("cannot make", &workshop, error))?;
            let copy = workshop.join(DATABASE);
            let copied =
                bring_up_to_date(&self.file(), &copy).map_err(|error| failed("cannot copy to", &copy, error))?;
            for (name, from) in files_below(&self.directory())? {
                if name != DATABASE {
                    copy_beside(&from, &workshop.join(&name)).map_err(|error| failed("cannot copy", &from, error))?;
                }
            }
            let (sha256, bytes) =
                File::open(&copy).and_then(hash::sha256_of).map_err(|error| failed("cannot read", &copy, error))?;
            if (hex::encode(sha256), bytes) != (copied.sha256.clone(), copied.bytes) {
                return Err(Error::new(&codes::VOLUME_UNUSABLE).detail("What was written there reads differently."));
            }
            sync_directory(&workshop)?;
            if is_one_directory(&place, &self.directory()) {
                return Err(Error::new(&codes::VOLUME_UNUSABLE).detail("That volume is where the file is already."));
            }
            // Of a relocation that was undone without this being reached.
            remove(&place)?;
            let changed = make_shard(&root, &place)?;
            fs::rename(&workshop, &place).map_err(|error| failed("cannot place", &place, error))?;
            changed.into_iter().try_for_each(sync_directory)?;
            Ok(copied)
        })
    }
}

/// Makes `copy` the same as `file`, writing only what differs.
fn bring_up_to_date(file: &Path, copy: &Path) -> std::io::Result<Copied> {
    let mut source = File::open(file)?;
    let mut target = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(copy)?;
    let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut digest, mut at, mut rest) = (Sha256::new(), 0_u64, 0_u64);
    loop {
        let length = fill(&mut source, &mut ours)?;
        if length == 0 {
            break;
        }
        digest.update(&ours[..length]);
        target.seek(SeekFrom::Start(at))?;
        let there = fill(&mut target, &mut theirs)?;
        if there < length || ours[..length] != theirs[..length] {
            target.seek(SeekFrom::Start(at))?;
            target.write_all(&ours[..length])?;
            rest += length as u64;
        }
        at += length as u64;
    }
    target.set_len(at)?;
    target.sync_all()?;
    Ok(Copied { bytes: at, rest, sha256: digest.finish() })
}

/// As much as fits, or as there is.
fn fill(file: &mut File, piece: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < piece.len() {
        match file.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether both are the same directory, by whatever name.
fn is_one_directory(one: &Path, other: &Path) -> bool {
    let of = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    one == other || of(one).is_some_and(|found| Some(found) == of(other))
}

fn copy_beside(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, to)?;
    File::open(to)?.sync_all()
}

pub(super) fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("cannot remove", directory, error)),
        _ => Ok(()),
    }
}
