//! A file between two transactions: what a backup reads.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use super::aside::{damage_in, forgeries_in};
use super::cipher;
use super::database::Database;
use super::handle::Kind;
use super::snapshot;
use crate::base::{Error, Result, codes};

/// The file as it is after one transaction and before the next: nothing is written and nothing is folded while
/// this exists.
pub struct Still<'c> {
    connection: &'c mut Connection,
    path: &'c Path,
}

impl<K: Kind> Database<K> {
    /// Holds writers up while `work` runs; readers go on.
    pub async fn still<T>(&self, work: impl FnOnce(&mut Still<'_>) -> Result<T>) -> Result<T> {
        let _turn = self.turn_to_write().await?;
        tokio::task::block_in_place(|| {
            self.with_writer(|connection| work(&mut Still { connection, path: self.path() }))
        })
    }
}

impl Still<'_> {
    /// Where the WAL is. It may be missing or empty. It carries no locks, so opening it is harmless, unlike
    /// the file itself.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        wal_of(self.path)
    }

    /// Whether nothing is in the WAL that is not in the file, nor anything from before.
    #[must_use]
    pub fn is_folded(&self) -> bool {
        unfolded(self.path).is_ok_and(|bytes| bytes == 0)
    }

    /// The mark that says that a WAL was folded before anybody had read it, if there is one.
    #[must_use]
    pub fn unread(&self) -> Option<Unread> {
        Unread::of(self.path)
    }

    /// The size of a page, and how many there are.
    pub fn shape(&self) -> Result<(u32, u32)> {
        let count = self.connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        Ok((cipher::page_size(self.connection)?, count))
    }

    /// Whether the pages in the file and in its WAL are ciphertext.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        cipher::salt_of(self.connection).is_some()
    }

    /// A page as it stands in the file: what has been folded, and nothing of the WAL.
    pub fn stored_page(&self, pgno: u32, page: &mut [u8]) -> Result<()> {
        cipher::read_page(self.connection, pgno, page)
    }

    /// Refuses a file that is damaged: no copy of it is one to go back to.
    pub fn require_whole(&self) -> Result<()> {
        let mut damage = damage_in(self.connection)?;
        // Of ciphertext the file itself is copied, whatever a connection remembers of it. Where the WAL has more, it
        // may hold the very page that a crash has torn in the file.
        if damage.is_empty() && self.is_ciphertext() && self.is_folded() {
            damage = forgeries_in(self.connection)?;
        }
        match damage.first() {
            Some(found) => {
                Err(Error::new(&codes::ORGANIZATION_UNAVAILABLE).because(format!("the file is damaged: {found}")))
            }
            None => Ok(()),
        }
    }

    /// Every page as it is now, with what is in the WAL. Of ciphertext, they come deciphered.
    pub fn each_page(&self, visit: impl FnMut(u32, &[u8]) -> Result<()>) -> Result<()> {
        snapshot::each_page(self.connection, visit)
    }

    /// Folds the WAL into the file, for whoever has read all of it. The next write begins a new WAL, also where
    /// a reader kept this one from being emptied.
    pub fn fold(&mut self) -> Result<()> {
        // Whoever waits for readers here keeps all writers waiting.
        self.connection.busy_timeout(Duration::ZERO)?;
        super::database::checkpoint(self.connection);
        self.connection.busy_timeout(super::open::PATIENCE)?;
        Ok(())
    }
}

/// The WAL of a file.
pub(super) fn wal_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

/// What stands beside a file under its name and a suffix.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes the WAL and its index, of a file that nobody has open: another one in its place would take them for its
/// own.
pub fn remove_wal(path: &Path) -> std::io::Result<()> {
    let remove = |suffix| match std::fs::remove_file(beside(path, suffix)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    // Both, also where one cannot be.
    let outcomes = ["-wal", "-shm"].map(remove);
    outcomes.into_iter().collect()
}

/// Beside a file whose WAL was folded unread: what was shipped of it so far is no beginning for what comes.
pub(super) fn unread_mark(path: &Path) -> PathBuf {
    beside(path, "-unread")
}

/// The last number of a mark.
static LAST: AtomicU64 = AtomicU64::new(0);
/// Held by whoever writes a mark, or looks at one and removes it. Many, by the path, so that whoever waits for a disk that
/// stalls holds up nobody else.
static TURNS: [Mutex<()>; 1024] = [const { Mutex::new(()) }; 1024];

fn turn_at(mark: &Path) -> MutexGuard<'static, ()> {
    let mut hasher = DefaultHasher::new();
    mark.hash(&mut hasher);
    let place = usize::try_from(hasher.finish() % TURNS.len() as u64).unwrap_or_default();
    TURNS[place].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets that mark, so that it is found after a crash. One that is there is set anew: whoever has seen it, and is shipping
/// what was folded before, does not take it away.
pub fn mark_unread(path: &Path) -> Result<()> {
    let mark = unread_mark(path);
    let was_there = {
        let _turn = turn_at(&mark);
        let was_there = mark.exists();
        match number(&mark) {
            // A full disk: it is there all the same, and nobody takes it away before it has a number.
            Err(_) if std::fs::metadata(&mark).is_ok_and(|found| found.len() == 0) => {}
            numbered => {
                let failed = |error| Error::internal(format!("cannot write {}", mark.display())).source(error);
                numbered.map_err(failed)?;
            }
        }
        was_there
    };
    // Its name is what is to last; one without its number is still a mark.
    if was_there { Ok(()) } else { path.parent().map_or(Ok(()), super::sync_directory) }
}

/// Gives a mark a number that nobody in this process has seen on any other.
fn number(mark: &Path) -> std::io::Result<u64> {
    let number = LAST.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    std::fs::write(mark, format!("{number:016x}"))?;
    Ok(number)
}

fn number_of(mark: &Path) -> std::io::Result<Option<u64>> {
    let text = std::fs::read(mark)?;
    let digits = str::from_utf8(&text).ok().filter(|text| text.len() == 16);
    Ok(digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()))
}

/// The mark of an unread WAL as it was found.
#[derive(Debug)]
pub struct Unread {
    mark: PathBuf,
    number: Option<u64>,
}

impl Unread {
    fn of(path: &Path) -> Option<Self> {
        let mark = unread_mark(path);
        // As nearly always, and without a turn.
        if std::fs::symlink_metadata(&mark).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return None;
        }
        let _turn = turn_at(&mark);
        let number = match number_of(&mark) {
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            // One of an earlier program, or of a disk that was full.
            Ok(None) => number(&mark).ok(),
            found => found.ok().flatten(),
        };
        // Of an earlier process, maybe: the next one is another all the same.
        LAST.fetch_max(number.unwrap_or_default(), Ordering::SeqCst);
        Some(Self { mark, number })
    }

    /// Takes it away, once what was folded before it was found has been read. One that was set again since stays: of
    /// what was folded between the two nobody has read anything. Blocking.
    pub fn clear(self) {
        let _turn = turn_at(&self.mark);
        if self.number.is_some() && number_of(&self.mark).is_ok_and(|number| number == self.number) {
            let _ = std::fs::remove_file(&self.mark);
        }
    }
}

/// Whether there is something in a file that nobody has open that a backup has not read.
pub fn has_unread(path: &Path) -> Result<bool> {
    Ok(unfolded(path)? > 0 || unread_mark(path).exists())
}

/// How large the WAL beside a file is that nobody has open.
pub fn unfolded(path: &Path) -> Result<u64> {
    match std::fs::metadata(wal_of(path)) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::internal(format!("cannot look at the WAL of {}", path.display())).source(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_was_set_again_is_not_taken_away_by_whoever_has_seen_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        assert!(Unread::of(&path).is_none() && !has_unread(&path).unwrap());
        mark_unread(&path).unwrap();
        let (seen, seen_too) = (Unread::of(&path).unwrap(), Unread::of(&path).unwrap());
        mark_unread(&path).unwrap();
        let again = Unread::of(&path).unwrap();
        seen.clear();
        assert!(has_unread(&path).unwrap());
        again.clear();
        assert!(!has_unread(&path).unwrap());
        // Nor one that was set after another had been taken away.
        mark_unread(&path).unwrap();
        seen_too.clear();
        assert!(has_unread(&path).unwrap());
    }

    #[test]
    fn the_mark_of_another_process_is_told_from_all_that_follow() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        let ahead = LAST.load(Ordering::SeqCst) + 1000;
        for text in [format!("{ahead:016x}"), String::new(), "torn".to_owned()] {
            std::fs::write(unread_mark(&path), &text).unwrap();
            let seen = Unread::of(&path).unwrap();
            std::fs::remove_file(unread_mark(&path)).unwrap();
            mark_unread(&path).unwrap();
            assert!(number_of(&unread_mark(&path)).unwrap() != seen.number, "{text:?}");
            seen.clear();
            assert!(has_unread(&path).unwrap(), "{text:?}");
            // And is taken away as well, by whoever has read what it is about.
            std::fs::write(unread_mark(&path), &text).unwrap();
            Unread::of(&path).unwrap().clear();
            assert!(!has_unread(&path).unwrap(), "{text:?}");
        }
    }
}
