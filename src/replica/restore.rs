//! A database file out of a replica.

use super::scratch::Body;
use super::{Discard, Error, Item, Replica, Result, Target, blocking, make_directory, moment, plan, publish};
use crate::ltx::{self, Decoder, Header, Txid};
use chrono::{DateTime, Utc};
use futures::StreamExt;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How many files are on their way while one is applied. Each takes at most 16 MiB of memory.
const AHEAD: usize = 4;

/// How often it is begun anew because files went meanwhile.
const AGAIN: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub txid: Txid,
    /// Of the last transaction.
    pub timestamp: DateTime<Utc>,
    pub page_size: u32,
    pub pages: u32,
    /// How many files of the replica it took.
    pub files: usize,
}

/// Builds the database at `out`, which appears whole or not at all and never replaces a file. A `-wal` or
/// `-journal` that lies beside it counts as a file too: SQLite would play it into what was restored.
pub async fn restore(replica: &Replica, target: Target, out: &Path) -> Result<Restored> {
    restore_checked(replica, target, out, |_| Ok(())).await
}

/// The same for what must be fit for something: `check` is shown the file before it has its name, and may refuse it.
pub async fn restore_checked(
    replica: &Replica,
    target: Target,
    out: &Path,
    check: impl Fn(&Path) -> Result<()>,
) -> Result<Restored> {
    require_vacant(out)?;
    let items = dated(replica, target, &[]).await?;
    build(replica, target, out, (items, &[]), check).await
}

/// The same as if some files were not there, such as one that is known to hold a damaged database.
pub async fn restore_without(replica: &Replica, target: Target, out: &Path, left_out: &[Item]) -> Result<Restored> {
    require_vacant(out)?;
    let items = dated(replica, target, left_out).await?;
    build(replica, target, out, (items, left_out), |_| Ok(())).await
}

/// The files that it would take.
pub async fn steps(replica: &Replica, target: Target, left_out: &[Item]) -> Result<Vec<Item>> {
    Ok(plan(&dated(replica, target, left_out).await?, target)?)
}

fn require_vacant(out: &Path) -> Result<()> {
    let mut names = ["", "-wal", "-shm", "-journal"].map(|suffix| beside(out, suffix)).into_iter();
    names.find(|path| path.symlink_metadata().is_ok()).map_or(Ok(()), |path| Err(Error::Occupied { path }))
}

/// What there is, with as many moments as the target needs.
async fn dated(replica: &Replica, target: Target, left_out: &[Item]) -> Result<Vec<Item>> {
    let mut items = replica.list_all().await?;
    items.retain(|item| item.is_none_of(left_out));
    match target {
        Target::Time(time) => replica.date_for(items, time).await,
        Target::Latest | Target::Txid(_) => Ok(items),
    }
}

/// From `items`, which may be older than what is there by now.
async fn build(
    replica: &Replica,
    target: Target,
    out: &Path,
    (mut items, left_out): (Vec<Item>, &[Item]),
    check: impl Fn(&Path) -> Result<()>,
) -> Result<Restored> {
    let mut steps = plan(&items, target)?;
    let mut end = steps.last().map(|item| item.name.max);

    let temporary = beside(out, ".tmp");
    let directory = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let discard = Discard(Some(temporary.clone()));
    let mut again = AGAIN;
    let (image, last, files) = loop {
        let mut image = blocking(|| create(directory, &temporary)).map_err(|error| Error::local(&temporary, error))?;
        let files = steps.len();
        match lay(replica, steps, directory, &mut image, &temporary).await {
            Ok(last) => break (image, last, files),
            Err((Some(damaged), error)) => {
                // Other files may hold the same: then nothing is lost. Another end than was asked for is no restore.
                items.retain(|item| *item != damaged);
                match plan(&items, target) {
                    Ok(other) if other.last().map(|item| item.name.max) == end => steps = other,
                    _ => return Err(error),
                }
            }
            // Merged and expired since it was looked: as if it had been asked for only now.
            Err((None, Error::NotFound { .. })) if again > 0 => {
                again -= 1;
                items = dated(replica, target, left_out).await?;
                steps = plan(&items, target)?;
                end = steps.last().map(|item| item.name.max);
            }
            Err((None, error)) => return Err(error),
        }
    };
    let Some(last) = last else { return Err(super::PlanError::Empty.into()) };

    let len = u64::from(last.page_size) * u64::from(last.commit);
    blocking(|| image.set_len(len).and_then(|()| image.sync_all())).map_err(|error| Error::local(&temporary, error))?;
    blocking(|| check(&temporary))?;
    blocking(|| publish(&temporary, out)).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Occupied { path: out.to_path_buf() },
        _ => Error::local(out, error),
    })?;
    discard.keep();
    Ok(Restored { txid: last.max, timestamp: moment(&last), page_size: last.page_size, pages: last.commit, files })
}

/// Lays file upon file. Fails with the one that is not what it should be, if it is that.
async fn lay(
    replica: &Replica,
    steps: Vec<Item>,
    directory: &Path,
    image: &mut File,
    temporary: &Path,
) -> Result<Option<Header>, (Option<Item>, Error)> {
    let mut bodies = futures::stream::iter(steps)
        .map(|item| async move {
            let body = replica.fetch(&item, directory).await;
            (item, body)
        })
        .buffered(AHEAD);
    let mut last: Option<Header> = None;
    while let Some((item, body)) = bodies.next().await {
        let applied = body.and_then(|body| blocking(|| apply(replica, &item, &body, last.as_ref(), image, temporary)));
        match applied {
            Ok(header) => last = Some(header),
            Err(error @ Error::Damaged { .. }) => return Err((Some(item), error)),
            Err(error) => return Err((None, error)),
        }
    }
    Ok(last)
}

/// `<out><suffix>`.
fn beside(out: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(out.as_os_str());
    name.push(suffix);
    name.into()
}

fn create(directory: &Path, temporary: &Path) -> io::Result<File> {
    make_directory(directory)?;
    // What an earlier restore left when it was killed.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(temporary)
}

fn apply(
    replica: &Replica,
    item: &Item,
    body: &Body,
    last: Option<&Header>,
    image: &mut File,
    temporary: &Path,
) -> Result<Header> {
    let decoder = replica.decode(item, body)?;
    if last.is_some_and(|last| last.page_size != decoder.header().page_size) {
        return Err(Error::damaged(replica.object(item), "its page size is not that of the files before it"));
    }
    ltx::apply(decoder, image).map_err(|error| Error::of_object(&replica.object(item), temporary, error))
}

impl Replica {
    /// What a fetched file says of itself.
    pub fn header(&self, item: &Item, body: &Body) -> Result<Header> {
        Ok(*self.decode(item, body)?.header())
    }

    /// The same of one that was read to its end, where its checksum is. Blocking work.
    pub fn verified(&self, item: &Item, body: &Body) -> Result<Header> {
        blocking(|| self.verify(item, body))
    }

    /// Reads a fetched file to its end.
    pub(super) fn verify(&self, item: &Item, body: &Body) -> Result<Header> {
        let damaged = |error: ltx::Error| Error::damaged(self.object(item), error);
        let mut decoder = self.decode(item, body)?;
        let header = *decoder.header();
        let mut page = Vec::new();
        while decoder.next_page(&mut page).map_err(damaged)?.is_some() {}
        decoder.finish().map_err(damaged)?;
        Ok(header)
    }

    /// Opens a fetched file, and refuses one that is not what its name says.
    pub(super) fn decode(&self, item: &Item, body: &Body) -> Result<Decoder<super::BodyReader>> {
        let object = self.object(item);
        let decoder = Decoder::new(body.reader()).map_err(|error| Error::damaged(&object, error))?;
        let inside = decoder.header().file_name();
        if inside != item.name {
            return Err(Error::damaged(object, format!("it holds {inside}")));
        }
        Ok(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx::Encoder;
    use crate::replica::{Location, Settings, Store, compact};

    async fn put(replica: &Replica, txid: u64) {
        let header = Header {
            page_size: 512,
            commit: 1,
            min: Txid(txid),
            max: Txid(txid),
            timestamp_ms: i64::try_from(txid).unwrap() * 1000,
            wal_offset: 32,
            wal_size: 0,
            wal_salts: [7, 9],
            node_id: 0,
        };
        let mut encoder = Encoder::new(Vec::new(), header).unwrap();
        encoder.page(1, &[u8::try_from(txid).unwrap(); 512]).unwrap();
        let bytes = encoder.finish().unwrap().0;
        replica.put(0, header.file_name(), bytes, moment(&header)).await.unwrap();
    }

    #[tokio::test]
    async fn what_expires_under_a_restore_is_had_from_where_it_went() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::connect(&Location::Folder(directory.path().join("replica")), &Settings::default()).unwrap();
        let replica = store.replica("a/db.sqlite").unwrap();
        for txid in 1..=3 {
            put(&replica, txid).await;
        }
        let out = directory.path().join("out");
        for (n, target) in [Target::Latest, Target::Txid(Txid(3))].into_iter().enumerate() {
            // It was looked, and then the files were merged and went.
            let before: Vec<Item> = (1..=3).map(item).collect();
            if n == 0 {
                compact(&replica, 1, directory.path()).await.unwrap();
                replica.delete(&before[..2]).await.unwrap();
            }
            let restored = build(&replica, target, &out, (before, &[]), |_| Ok(())).await.unwrap();
            assert_eq!((restored.txid, restored.files), (Txid(3), 1));
            assert_eq!(fs::read(&out).unwrap(), [3; 512]);
            fs::remove_file(&out).unwrap();
        }
        // A point that went with its file is refused, and nothing else is restored in its place.
        let before: Vec<Item> = (1..=3).map(item).collect();
        let refused = build(&replica, Target::Txid(Txid(2)), &out, (before, &[]), |_| Ok(())).await.unwrap_err();
        assert!(matches!(refused, Error::Plan(_)), "{refused}");
        assert!(!out.exists());
    }

    fn item(txid: u64) -> Item {
        let name = ltx::FileName { min: Txid(txid), max: Txid(txid) };
        let created_at = DateTime::from_timestamp(i64::try_from(txid).unwrap(), 0).unwrap();
        Item { level: 0, name, size: 1, created_at, dated: true }
    }
}
