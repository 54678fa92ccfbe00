//! Digests of what goes by.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use super::format::FileDigest;
use crate::base::{Error, Result};
use crate::crypto::hash;

/// What is handed over at once, and how many of them wait.
const PIECE: usize = 256 << 10;
const AHEAD: usize = 4;

/// A digest that is made on a thread of its own, of what somebody compresses meanwhile: either takes about as long.
pub(super) struct Beside {
    filling: Vec<u8>,
    size: u64,
    full: SyncSender<Vec<u8>>,
    /// To be filled again.
    empty: Receiver<Vec<u8>>,
    thread: JoinHandle<String>,
}

impl Beside {
    pub fn new() -> Result<Self> {
        let (full, taken) = sync_channel(AHEAD);
        let (given_back, empty) = channel();
        let thread = Builder::new().name("export-digest".to_owned()).spawn(move || digest(&taken, &given_back));
        let thread = thread.map_err(|error| failed().source(error))?;
        Ok(Self { filling: Vec::with_capacity(PIECE), size: 0, full, empty, thread })
    }

    pub fn update(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.size += bytes.len() as u64;
        while self.filling.len() + bytes.len() >= PIECE {
            let (fits, rest) = bytes.split_at(PIECE - self.filling.len());
            self.filling.extend_from_slice(fits);
            bytes = rest;
            let next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
            self.hand_over(next)?;
        }
        self.filling.extend_from_slice(bytes);
        Ok(())
    }

    pub fn finish(mut self) -> Result<FileDigest> {
        self.hand_over(Vec::new())?;
        let Self { size, full, thread, .. } = self;
        drop(full);
        Ok(FileDigest { size, sha256: thread.join().map_err(|_| failed())? })
    }

    fn hand_over(&mut self, next: Vec<u8>) -> Result<()> {
        let full = std::mem::replace(&mut self.filling, next);
        self.full.send(full).map_err(|_| failed())
    }
}

fn digest(taken: &Receiver<Vec<u8>>, given_back: &Sender<Vec<u8>>) -> String {
    let mut digest = hash::Sha256::new();
    for mut piece in taken {
        digest.update(&piece);
        piece.clear();
        // At the end nobody fills it again.
        let _ = given_back.send(piece);
    }
    digest.finish()
}

fn failed() -> Error {
    Error::internal("a digest could not be made")
}

/// What is written once, and its digest with it.
pub(super) struct Digested<T> {
    inner: T,
    digest: hash::Sha256,
    size: u64,
}

impl<T> Digested<T> {
    pub fn of(inner: T) -> Self {
        Self { inner, digest: hash::Sha256::new(), size: 0 }
    }

    pub fn finish(self) -> (T, FileDigest) {
        (self.inner, FileDigest { size: self.size, sha256: self.digest.finish() })
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// The digest of a text.
pub(super) fn digest_of(bytes: &[u8]) -> FileDigest {
    FileDigest { size: bytes.len() as u64, sha256: hex::encode(hash::sha256(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_made_beside_is_the_same() {
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 7 * PIECE, bytes.len()] {
            for step in [1000, 4096, PIECE, 2 * PIECE + 5] {
                let mut beside = Beside::new().unwrap();
                bytes[..length].chunks(step).for_each(|piece| beside.update(piece).unwrap());
                assert_eq!(beside.finish().unwrap(), digest_of(&bytes[..length]), "{length} by {step}");
            }
        }
    }
}
