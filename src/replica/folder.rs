//! A folder as a store, laid out as litestream's `file` replica: `<path>/ltx/<level>/<name>`, the modified
//! time of a file being that of its last transaction.
//!
//! The folder may be on a mount that hangs, so it is touched by nobody but the threads of `errands`.

use super::errands::{Errands, Pulse};
use super::{Body, Discard, Error, Item, Result, Scratch, make_directory, publish, sync_parent};
use crate::ltx::FileName;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::RangeInclusive;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is read or written before the next sign of life.
const PIECE: usize = 256 << 10;
/// What is written before the disk is to have it: a large file does not leave all of that to one call.
const UNSYNCED: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: Arc<Path>,
    errands: Errands,
}

impl Folder {
    /// `patience`: how long a call may take without coming any further.
    pub fn new(root: &Path, patience: Duration) -> Self {
        Self { root: root.into(), errands: Errands::new(patience) }
    }

    /// Looks at a path on a thread that may not come back.
    async fn look<T: Send + 'static>(
        &self,
        path: PathBuf,
        work: impl FnOnce(&Path, &Pulse) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let at = path.clone();
        self.errands.run(None, move |pulse| work(&at, pulse)).await.map_err(|error| Error::of_folder(&path, error))
    }

    /// The same for what changes something of `what`.
    async fn change<T: Send + 'static>(
        &self,
        what: &str,
        path: PathBuf,
        work: impl FnOnce(&Path, &Pulse) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let at = path.clone();
        let done = self.errands.run(Some(what), move |pulse| work(&at, pulse)).await;
        done.map_err(|error| Error::of_folder(&path, error))
    }

    pub async fn check(&self) -> Result<()> {
        let check = |root: &Path, _: &Pulse| {
            make_directory(root)?;
            fs::read_dir(root).map(drop)
        };
        self.look(self.root.to_path_buf(), check).await
    }

    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<()> {
        let body = bytes.into();
        self.change(name, self.root.join(name), move |path, pulse| write(path, None, &body, pulse)).await
    }

    pub async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let read = |path: &Path, _: &Pulse| unless_missing(fs::read(path));
        Ok(self.look(self.root.join(name), read).await?.map(Bytes::from))
    }

    pub async fn names(&self, below: &str) -> Result<Vec<String>> {
        let names = |directory: &Path, _: &Pulse| {
            let entries = unless_missing(fs::read_dir(directory))?.into_iter().flatten();
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        self.look(self.root.join(below), names).await
    }

    fn levels(&self, path: &str) -> PathBuf {
        self.root.join(path).join("ltx")
    }

    pub fn file(&self, path: &str, item: &Item) -> PathBuf {
        self.levels(path).join(item.level.to_string()).join(item.name.to_string())
    }

    /// Of some levels.
    pub async fn list(&self, path: &str, levels: RangeInclusive<u8>) -> Result<Vec<Item>> {
        let list = move |top: &Path, pulse: &Pulse| {
            let mut items = Vec::new();
            for level in levels {
                list_level(&top.join(level.to_string()), level, &mut items, pulse)?;
            }
            Ok(items)
        };
        self.look(self.levels(path), list).await
    }

    pub async fn put(&self, path: &str, item: &Item, body: &Body) -> Result<()> {
        let (modified, body) = (item.created_at.into(), body.clone());
        let put = move |name: &Path, pulse: &Pulse| {
            let mut attempts = 0;
            loop {
                attempts += 1;
                match write(name, Some(modified), &body, pulse) {
                    // A `destroy` next door may have removed a directory above that was empty.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < 3 => {}
                    done => return done,
                }
            }
        };
        self.change(path, self.file(path, item), put).await
    }

    pub async fn get(&self, path: &str, item: &Item) -> Result<Bytes> {
        let get = |name: &Path, pulse: &Pulse| {
            let mut content = Vec::new();
            each_piece(&mut File::open(name)?, pulse, |piece| {
                content.extend_from_slice(piece);
                true
            })?;
            Ok(content)
        };
        Ok(self.look(self.file(path, item), get).await?.into())
    }

    /// All of it, and not only its beginning: nobody waits for the folder afterwards.
    pub async fn fetch(&self, path: &str, item: &Item, mut content: Scratch) -> Result<Body> {
        let scratch = content.directory().to_owned();
        let fetch = move |name: &Path, pulse: &Pulse| {
            let mut file = File::open(name)?;
            let mut full = None;
            let read = each_piece(&mut file, pulse, |piece| {
                full = content.write_all(piece).err();
                full.is_none()
            });
            let local = |error| Error::local(&scratch, error);
            Ok(match (full, read) {
                (Some(full), _) => Err(local(full)),
                (None, Err(error)) => Err(Error::of_reading(name, error)),
                (None, Ok(())) => content.finish().map_err(local),
            })
        };
        self.look(self.file(path, item), fetch).await?
    }

    /// Whether exactly these bytes lie there. Piece by piece: it may be a whole database.
    pub async fn is_same(&self, path: &str, item: &Item, body: &Body) -> Result<bool> {
        let mut ours = body.reader();
        let compare = move |name: &Path, pulse: &Pulse| {
            let mut is_same = true;
            let read = each_piece(&mut File::open(name)?, pulse, |piece| {
                let mut expected = vec![0; piece.len()];
                is_same = ours.read_exact(&mut expected).is_ok() && expected == piece;
                is_same
            });
            let is_same = is_same && matches!(ours.read(&mut [0]), Ok(0));
            Ok(read.map(|()| is_same).map_err(|error| Error::of_reading(name, error)))
        };
        self.look(self.file(path, item), compare).await?
    }

    pub async fn delete(&self, path: &str, items: &[Item]) -> Result<()> {
        let names: Vec<PathBuf> = items.iter().map(|item| self.file(path, item)).collect();
        let delete = move |_: &Path, pulse: &Pulse| {
            let mut last: Option<PathBuf> = None;
            for name in names {
                unless_missing(fs::remove_file(&name))?;
                pulse.beat();
                let parent = name.parent().map(Path::to_owned);
                if let Some(done) = last.replace(name)
                    && done.parent() != parent.as_deref()
                {
                    unless_missing(sync_parent(&done))?;
                }
            }
            last.map_or(Ok(()), |done| unless_missing(sync_parent(&done)).map(drop))
        };
        self.change(path, self.levels(path), delete).await
    }

    pub async fn destroy(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let root = Arc::clone(&self.root);
        let destroy = move |top: &Path, pulse: &Pulse| {
            let mut objects = Vec::new();
            unless_missing(remove_all(top, top, &mut objects, pulse))?;
            // The directories above are of use to nobody once empty; one that is not refuses.
            let mut above = top.parent();
            while let Some(directory) = above.filter(|directory| *directory != &*root) {
                if fs::remove_dir(directory).is_err() && directory.exists() {
                    break;
                }
                above = directory.parent();
            }
            if let Some(directory) = above {
                unless_missing(File::open(directory).and_then(|directory| directory.sync_all()))?;
            }
            objects.sort();
            Ok(objects)
        };
        self.change(path, self.root.join(path), destroy).await
    }

    pub async fn sweep(&self, path: &str, before: DateTime<Utc>) -> Result<()> {
        let sweep = move |top: &Path, pulse: &Pulse| {
            for level in unless_missing(fs::read_dir(top))?.into_iter().flatten() {
                let level = level?.path();
                for entry in fs::read_dir(&level).into_iter().flatten() {
                    let entry = entry?;
                    pulse.beat();
                    let Some(metadata) = unless_missing(entry.metadata())?.filter(fs::Metadata::is_file) else {
                        continue;
                    };
                    let temporary = entry
                        .file_name()
                        .to_str()
                        .is_some_and(|name| name.strip_suffix(".tmp").is_some_and(|name| name.contains(".ltx")));
                    if temporary && DateTime::<Utc>::from(metadata.modified()?) < before {
                        unless_missing(fs::remove_file(entry.path()))?;
                    }
                }
            }
            Ok(())
        };
        self.change(path, self.levels(path), sweep).await
    }
}

fn list_level(directory: &Path, level: u8, items: &mut Vec<Item>, pulse: &Pulse) -> io::Result<()> {
    for entry in unless_missing(fs::read_dir(directory))?.into_iter().flatten() {
        let entry = entry?;
        pulse.beat();
        // Temporary files, and whatever a person left here.
        let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<FileName>().ok()) else {
            continue;
        };
        // Deleted since the directory was read.
        let Some(metadata) = unless_missing(entry.metadata())?.filter(fs::Metadata::is_file) else { continue };
        let created_at = metadata.modified()?.into();
        items.push(Item { level, name, size: metadata.len(), created_at, dated: true });
    }
    Ok(())
}

/// Hands over what can be read, until there is no more or `take` has had enough.
fn each_piece(from: &mut impl Read, pulse: &Pulse, mut take: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        pulse.beat();
        match piece.get(..read).filter(|piece| !piece.is_empty()) {
            Some(piece) if take(piece) => {}
            _ => return Ok(()),
        }
    }
}

fn unless_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// As litestream writes: under a name that no reader looks at, to the disk, and only then its own name.
fn write(name: &Path, modified: Option<std::time::SystemTime>, body: &Body, pulse: &Pulse) -> io::Result<()> {
    if name.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let directory = name.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    let (mut file, temporary) = temporary(name)?;
    let discard = Discard(Some(temporary.clone()));
    let (mut unsynced, mut written) = (0, Ok(()));
    each_piece(&mut body.reader(), pulse, |piece| {
        unsynced += piece.len() as u64;
        written = file.write_all(piece);
        if written.is_ok() && unsynced >= UNSYNCED {
            written = file.sync_data();
            unsynced = 0;
        }
        written.is_ok()
    })?;
    written?;
    if let Some(modified) = modified {
        file.set_modified(modified)?;
    }
    file.sync_all()?;
    drop(file);
    publish(&temporary, name)?;
    discard.keep();
    Ok(())
}

/// `<name>.tmp`, or `<name>.<n>.tmp` while a killed or a second writer's is there: two never share one.
fn temporary(name: &Path) -> io::Result<(File, PathBuf)> {
    let mut number = 0;
    loop {
        let path = match number {
            0 => name.with_added_extension("tmp"),
            _ => name.with_added_extension(format!("{number}.tmp")),
        };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Notes every file under `directory` by its name below `top`, and removes it.
fn remove_all(directory: &Path, top: &Path, objects: &mut Vec<(String, u64)>, pulse: &Pulse) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // Of the entry itself: a symbolic link is removed and never followed.
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            remove_all(&path, top, objects, pulse)?;
        } else {
            fs::remove_file(&path)?;
            pulse.beat();
            let name = path.strip_prefix(top).unwrap_or(&path);
            objects.push((name.display().to_string(), metadata.len()));
        }
    }
    fs::remove_dir(directory)
}
