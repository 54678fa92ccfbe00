//! A folder as a store, laid out as litestream's `file` replica: `<path>/ltx/<level>/<name>`, the modified
//! time of a file being that of its last transaction.

use super::{Body, Discard, Error, Item, Result, blocking, make_directory, publish, sync_parent};
use crate::ltx::FileName;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: Arc<Path>,
}

impl Folder {
    pub fn new(root: &Path) -> Self {
        Self { root: root.into() }
    }

    pub fn check(&self) -> Result<()> {
        blocking(|| {
            make_directory(&self.root)?;
            fs::read_dir(&self.root).map(drop)
        })
        .map_err(|error| Error::of_folder(&self.root, error))
    }

    pub fn create(&self, name: &str, bytes: Bytes) -> Result<()> {
        let path = self.root.join(name);
        blocking(|| write(&path, None, &bytes.into())).map_err(|error| Error::of_folder(&path, error))
    }

    pub fn read(&self, name: &str) -> Result<Option<Bytes>> {
        let path = self.root.join(name);
        let read = blocking(|| unless_missing(fs::read(&path)));
        Ok(read.map_err(|error| Error::of_folder(&path, error))?.map(Bytes::from))
    }

    pub fn names(&self, below: &str) -> Result<Vec<String>> {
        let directory = self.root.join(below);
        blocking(|| {
            let entries = unless_missing(fs::read_dir(&directory))?.into_iter().flatten();
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()
        })
        .map_err(|error| Error::of_folder(&directory, error))
    }

    fn directory(&self, path: &str, level: u8) -> PathBuf {
        self.root.join(path).join("ltx").join(level.to_string())
    }

    pub fn file(&self, path: &str, item: &Item) -> PathBuf {
        self.directory(path, item.level).join(item.name.to_string())
    }

    pub fn list(&self, path: &str, level: u8) -> Result<Vec<Item>> {
        let directory = self.directory(path, level);
        blocking(|| {
            let mut items = Vec::new();
            for entry in unless_missing(fs::read_dir(&directory))?.into_iter().flatten() {
                let entry = entry?;
                // Temporary files, and whatever a person left here.
                let Some(name) = entry.file_name().to_str().and_then(|name| name.parse::<FileName>().ok()) else {
                    continue;
                };
                // Deleted since the directory was read.
                let Some(metadata) = unless_missing(entry.metadata())?.filter(fs::Metadata::is_file) else { continue };
                let created_at = metadata.modified()?.into();
                items.push(Item { level, name, size: metadata.len(), created_at, dated: true });
            }
            Ok(items)
        })
        .map_err(|error: io::Error| Error::of_folder(&directory, error))
    }

    pub fn put(&self, path: &str, item: &Item, body: &Body) -> Result<()> {
        let name = self.file(path, item);
        blocking(|| {
            let mut attempts = 0;
            loop {
                attempts += 1;
                match write(&name, Some(item.created_at.into()), body) {
                    // A `destroy` next door may have removed a directory above that was empty.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < 3 => {}
                    done => return done,
                }
            }
        })
        .map_err(|error| Error::of_folder(&name, error))
    }

    pub fn get(&self, path: &str, item: &Item) -> Result<Bytes> {
        let name = self.file(path, item);
        blocking(|| fs::read(&name)).map(Bytes::from).map_err(|error| Error::of_folder(&name, error))
    }

    pub fn fetch(&self, path: &str, item: &Item) -> Result<Body> {
        let name = self.file(path, item);
        blocking(|| Body::file(File::open(&name)?)).map_err(|error| Error::of_folder(&name, error))
    }

    pub fn delete(&self, path: &str, items: &[Item]) -> Result<()> {
        blocking(|| {
            let mut last: Option<PathBuf> = None;
            for item in items {
                let name = self.file(path, item);
                unless_missing(fs::remove_file(&name)).map_err(|error| Error::of_folder(&name, error))?;
                if let Some(done) = last.replace(name.clone())
                    && done.parent() != name.parent()
                {
                    unless_missing(sync_parent(&done)).map_err(|error| Error::of_folder(&done, error))?;
                }
            }
            match last {
                Some(done) => {
                    unless_missing(sync_parent(&done)).map(drop).map_err(|error| Error::of_folder(&done, error))
                }
                None => Ok(()),
            }
        })
    }

    pub fn destroy(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let top = self.root.join(path);
        blocking(|| {
            let mut objects = Vec::new();
            unless_missing(remove_all(&top, &top, &mut objects))?;
            // The directories above are of use to nobody once empty; one that is not refuses.
            let mut above = top.parent();
            while let Some(directory) = above.filter(|directory| *directory != &*self.root) {
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
        })
        .map_err(|error: io::Error| Error::of_folder(&top, error))
    }

    pub fn sweep(&self, path: &str, before: DateTime<Utc>) -> Result<()> {
        let top = self.root.join(path).join("ltx");
        blocking(|| {
            for level in unless_missing(fs::read_dir(&top))?.into_iter().flatten() {
                let level = level?.path();
                for entry in fs::read_dir(&level).into_iter().flatten() {
                    let entry = entry?;
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
        })
        .map_err(|error: io::Error| Error::of_folder(&top, error))
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
fn write(name: &Path, modified: Option<std::time::SystemTime>, body: &Body) -> io::Result<()> {
    if name.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let directory = name.parent().unwrap_or(Path::new("."));
    make_directory(directory)?;
    let (mut file, temporary) = temporary(name)?;
    let discard = Discard(Some(temporary.clone()));
    io::copy(&mut body.reader(), &mut file)?;
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
fn remove_all(directory: &Path, top: &Path, objects: &mut Vec<(String, u64)>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        // Of the entry itself: a symbolic link is removed and never followed.
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            remove_all(&path, top, objects)?;
        } else {
            fs::remove_file(&path)?;
            let name = path.strip_prefix(top).unwrap_or(&path);
            objects.push((name.display().to_string(), metadata.len()));
        }
    }
    fs::remove_dir(directory)
}
