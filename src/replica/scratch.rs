//! Contents on their way: in memory while small, in a nameless file once large, so that a snapshot of
//! hundreds of megabytes costs disk and not memory.

use bytes::Bytes;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Above this a content goes to disk.
const IN_MEMORY: usize = 16 << 20;

/// And below this it never does.
const LEAST: usize = 64 << 10;

/// The content of one LTX file.
#[derive(Debug, Clone)]
pub enum Body {
    Bytes(Bytes),
    File { file: Arc<File>, len: u64 },
}

impl Body {
    /// A file as it is now; its position does not matter.
    pub fn file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::File { file: Arc::new(file), len })
    }

    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// From the start; readers of one body do not disturb each other.
    #[must_use]
    pub fn reader(&self) -> BodyReader {
        BodyReader { body: self.clone(), at: 0 }
    }

    /// The whole content in memory.
    pub fn bytes(&self) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::File { .. } => {
                let mut all = Vec::new();
                self.reader().read_to_end(&mut all)?;
                Ok(all.into())
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

#[derive(Debug)]
pub struct BodyReader {
    body: Body,
    at: u64,
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &self.body {
            Body::Bytes(bytes) => {
                let rest = usize::try_from(self.at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
                (&*rest).read(buffer)?
            }
            Body::File { file, len } => {
                let rest = usize::try_from(len.saturating_sub(self.at)).unwrap_or(usize::MAX);
                let most = buffer.len().min(rest);
                file.read_at(&mut buffer[..most], self.at)?
            }
        };
        self.at += read as u64;
        Ok(read)
    }
}

/// Collects a content of unknown size.
#[derive(Debug)]
pub struct Scratch {
    directory: PathBuf,
    in_memory: usize,
    memory: Vec<u8>,
    file: Option<File>,
    len: u64,
}

impl Scratch {
    /// `directory` is where a large content goes; it needs to be there only then.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self::one_of(directory, 1)
    }

    /// One of `count` that are collected for one purpose: together they take no more memory than a single one.
    #[must_use]
    pub fn one_of(directory: &Path, count: usize) -> Self {
        let in_memory = (IN_MEMORY / count.max(1)).max(LEAST);
        Self { directory: directory.to_path_buf(), in_memory, memory: Vec::new(), file: None, len: 0 }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn finish(mut self) -> io::Result<Body> {
        match self.file.take() {
            None => Ok(Body::Bytes(self.memory.into())),
            Some(mut file) => {
                file.write_all(&self.memory)?;
                Ok(Body::File { file: Arc::new(file), len: self.len })
            }
        }
    }
}

impl Write for Scratch {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // With a file, the memory is its buffer.
        let most = if self.file.is_some() { self.in_memory.min(1 << 20) } else { self.in_memory };
        if self.memory.len() + bytes.len() > most {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(nameless(&self.directory)?),
            };
            file.write_all(&self.memory)?;
            file.write_all(bytes)?;
            self.memory = Vec::new();
        } else {
            self.memory.extend_from_slice(bytes);
        }
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that is gone once closed, even by a crash.
fn nameless(directory: &Path) -> io::Result<File> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!(".replica-{}-{number}.tmp", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_stays_in_memory_and_large_goes_to_a_nameless_file() {
        let directory = tempfile::tempdir().unwrap();
        for size in [0, 10, IN_MEMORY, IN_MEMORY + 1, IN_MEMORY * 2 + 12345] {
            let content: Vec<u8> = (0..size).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect();
            let mut scratch = Scratch::new(directory.path());
            for piece in content.chunks(100_003) {
                scratch.write_all(piece).unwrap();
            }
            let body = scratch.finish().unwrap();
            assert_eq!(body.len(), size as u64);
            assert_eq!(matches!(body, Body::File { .. }), size > IN_MEMORY);
            assert!(body.bytes().unwrap() == content);
            let (mut first, mut second) = (body.reader(), body.reader());
            let (mut one, mut two) = (Vec::new(), Vec::new());
            first.read_to_end(&mut one).unwrap();
            second.read_to_end(&mut two).unwrap();
            assert!(one == content && two == content);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        }
    }
}
