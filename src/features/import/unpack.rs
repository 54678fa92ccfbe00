//! Taking an archive apart: five names, each once, each a plain file, none larger than it may be. Nothing in it chooses
//! where something is written.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::rc::Rc;

use crate::base::{Error, Result, codes};
use crate::crypto::hash::Sha256;
use crate::features::export::format::{DATABASE, FileDigest, MANIFEST, README, SECRETS, SIGNATURE};

/// 2^27 bytes: what zstd itself takes without being asked (RFC 8878 section 3.1.1.1.2). A window is memory.
const LARGEST_WINDOW: u32 = 27;
/// The parts around the database.
const MOST_TEXT: u64 = 256 << 10;
const MOST_SECRETS: u64 = 64 << 20;
/// Headers, padding and the end of a tar with five members.
const OVERHEAD: u64 = 64 << 10;

/// Unpacks `archive` into `folder`; what was found, with its size and digest. `most` bytes altogether.
pub(super) fn unpack(archive: &Path, folder: &Path, most: u64) -> Result<BTreeMap<String, FileDigest>> {
    let file = File::open(archive).map_err(|error| not_an_archive(&error))?;
    let mut decoder = zstd::stream::read::Decoder::new(file).map_err(|error| not_an_archive(&error))?.single_frame();
    decoder.window_log_max(LARGEST_WINDOW).map_err(|error| not_an_archive(&error))?;
    let exceeded = Rc::new(Cell::new(false));
    let left = most + MOST_SECRETS + 3 * MOST_TEXT + OVERHEAD;
    let mut tar = tar::Archive::new(Bounded { inner: decoder, left, exceeded: Rc::clone(&exceeded) });
    let judged = |error: std::io::Error| {
        if exceeded.get() { too_large() } else { not_an_archive(&error) }
    };

    let mut found = BTreeMap::new();
    // Raw: a member that gives another its name, or says that it is sparse, is itself an unexpected one.
    for entry in tar.entries().map_err(judged)?.raw(true) {
        let mut entry = entry.map_err(judged)?;
        let (name, limit) = known(&entry.header().path_bytes(), most).ok_or_else(|| unexpected(&entry))?;
        if entry.header().entry_type() != tar::EntryType::Regular || found.contains_key(name) {
            return Err(unexpected(&entry));
        }
        if entry.size() > limit {
            return Err(too_large());
        }
        let digest = write(&mut entry, &folder.join(name)).map_err(judged)?;
        found.insert(name.to_owned(), digest);
    }
    finish(tar.into_inner()).map_err(|error| error.map_or_else(trailing, judged))?;
    Ok(found)
}

/// A member that an archive may have, and how large it may be.
fn known(path: &[u8], most: u64) -> Option<(&'static str, u64)> {
    [(README, MOST_TEXT), (MANIFEST, MOST_TEXT), (SIGNATURE, MOST_TEXT), (SECRETS, MOST_SECRETS), (DATABASE, most)]
        .into_iter()
        .find(|(name, _)| name.as_bytes() == path)
}

fn write(entry: &mut impl Read, path: &Path) -> std::io::Result<FileDigest> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let (mut digest, mut size, mut piece) = (Sha256::new(), 0, vec![0; 256 << 10]);
    loop {
        let length = entry.read(&mut piece)?;
        if length == 0 {
            return Ok(FileDigest { size, sha256: digest.finish() });
        }
        digest.update(&piece[..length]);
        file.write_all(&piece[..length])?;
        size += length as u64;
    }
}

/// Reads to the end, where zstd compares its checksum; `None` if something is there that nobody would see.
fn finish<R: BufRead>(mut rest: Bounded<zstd::Decoder<'static, R>>) -> Result<(), Option<std::io::Error>> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let length = rest.read(&mut piece).map_err(Some)?;
        if length == 0 {
            break;
        }
        if piece[..length].iter().any(|byte| *byte != 0) {
            return Err(None);
        }
    }
    let mut behind = rest.inner.finish();
    if behind.fill_buf().map_err(Some)?.is_empty() { Ok(()) } else { Err(None) }
}

/// Ends with an error where there would be more than was agreed to.
struct Bounded<R> {
    inner: R,
    left: u64,
    exceeded: Rc<Cell<bool>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        match self.left.checked_sub(length as u64) {
            Some(left) => self.left = left,
            None => {
                self.exceeded.set(true);
                return Err(std::io::Error::other("too large"));
            }
        }
        Ok(length)
    }
}

fn not_an_archive(error: &std::io::Error) -> Error {
    // What is read never says so: it is what is written that found no room.
    if let std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded = error.kind() {
        return Error::new(&codes::STORAGE_FULL).because(error.to_string());
    }
    Error::new(&codes::IMPORT_NOT_AN_ARCHIVE)
        .detail("The file cannot be unpacked: it is damaged, cut off, or no export.")
        .because(error.to_string())
}

fn trailing() -> Error {
    Error::new(&codes::IMPORT_NOT_AN_ARCHIVE).detail("Something stands behind the end of the archive.")
}

fn too_large() -> Error {
    Error::new(&codes::IMPORT_TOO_LARGE)
}

fn unexpected<R: Read>(entry: &tar::Entry<'_, R>) -> Error {
    let name: String = String::from_utf8_lossy(&entry.header().path_bytes()).chars().take(80).collect();
    let name: String = name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Error::new(&codes::IMPORT_UNEXPECTED_MEMBER).detail(format!("The archive has a member that no export has: {name}."))
}
