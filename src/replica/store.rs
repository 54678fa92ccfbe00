//! One interface to the two kinds of store, and the place of one database in it.

use super::bucket::Bucket;
use super::folder::Folder;
use super::{Body, Error, Item, Location, Result, SNAPSHOT_LEVEL, Scratch, Settings};
use crate::base::location::is_key;
use crate::ltx::{FileName, Header, Txid};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use std::io::Read;
use std::path::Path;

/// Where replicas are kept. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
}

#[derive(Debug, Clone)]
enum Backend {
    Folder(Folder),
    Bucket(Bucket),
}

/// The files of one database.
#[derive(Debug, Clone)]
pub struct Replica {
    backend: Backend,
    path: String,
    /// What is dated later comes from a clock that was ahead.
    now: Option<DateTime<Utc>>,
}

/// What [`Replica::destroy`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destroyed {
    pub count: usize,
    pub bytes: u64,
    /// Names relative to the replica's path, with sizes.
    pub objects: Vec<(String, u64)>,
}

impl Store {
    /// Reads the settings; nothing is sent or written before the first call that needs it, so that a
    /// server starts while its store is down.
    pub fn connect(location: &Location, settings: &Settings) -> Result<Self> {
        let backend = match location {
            Location::Folder(root) => Backend::Folder(Folder::new(root, settings.timeout)),
            Location::Bucket { bucket, prefix } => Backend::Bucket(Bucket::new(bucket, prefix, settings)?),
        };
        Ok(Self { backend })
    }

    /// Asks the store for something small: whether it is there, and whether it knows us.
    pub async fn check(&self) -> Result<()> {
        match &self.backend {
            Backend::Folder(folder) => folder.check().await,
            Backend::Bucket(bucket) => bucket.check().await,
        }
    }

    /// Makes a small object beside the replicas, unless there is one of that name.
    pub(super) async fn create(&self, name: &str, bytes: Bytes) -> Result<()> {
        match &self.backend {
            Backend::Folder(folder) => folder.create(name, bytes).await,
            Backend::Bucket(bucket) => bucket.create(name, bytes).await,
        }
    }

    /// Such an object, if it is there.
    pub(super) async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match &self.backend {
            Backend::Folder(folder) => folder.read(name).await,
            Backend::Bucket(bucket) => bucket.read_named(name).await,
        }
    }

    /// The last parts of the names below one.
    pub(super) async fn names(&self, below: &str) -> Result<Vec<String>> {
        match &self.backend {
            Backend::Folder(folder) => folder.names(below).await,
            Backend::Bucket(bucket) => bucket.names(below).await,
        }
    }

    /// The replica of the database at `path`, such as `orgs/ab/cd/<uuid>/db.sqlite`. The path is not made
    /// here. No replica may lie inside of another.
    pub fn replica(&self, path: &str) -> Result<Replica> {
        if !is_key(path) {
            return Err(Error::Configuration(format!("{path:?} is not the path of a replica")));
        }
        Ok(Replica { backend: self.backend.clone(), path: path.to_owned(), now: None })
    }
}

impl Replica {
    /// The same, seen at this moment: what is dated later was dated by a clock that was ahead, and counts as made when
    /// what follows it was.
    #[must_use]
    pub fn seen_at(self, now: DateTime<Utc>) -> Self {
        Self { now: Some(now), ..self }
    }

    /// In the order of the names. A level that is not there is empty.
    pub async fn list(&self, level: u8) -> Result<Vec<Item>> {
        let mut items = match &self.backend {
            Backend::Folder(folder) => folder.list(&self.path, level..=level).await?,
            Backend::Bucket(bucket) => bucket.list(&self.path, Some(level)).await?,
        };
        items.sort_by_key(|item| item.name);
        Ok(items)
    }

    /// All levels: for a bucket one list and not ten.
    pub async fn list_all(&self) -> Result<Vec<Item>> {
        let mut items = match &self.backend {
            Backend::Folder(folder) => folder.list(&self.path, 0..=SNAPSHOT_LEVEL).await?,
            Backend::Bucket(bucket) => bucket.list(&self.path, None).await?,
        };
        items.sort_by_key(|item| (item.level, item.name));
        Ok(items)
    }

    /// The same items with the moments of their transactions.
    pub async fn date(&self, items: Vec<Item>) -> Result<Vec<Item>> {
        match &self.backend {
            Backend::Folder(_) => Ok(items),
            Backend::Bucket(bucket) => {
                futures::stream::iter(items)
                    .map(|item| async move {
                        match item.dated {
                            true => Ok(item),
                            false => bucket.date(&self.path, item).await,
                        }
                    })
                    .buffered(16)
                    .try_collect()
                    .await
            }
        }
    }

    /// [`Self::date`] as far as it decides what lies before `time`: a file is stored after its transactions
    /// are committed, so what was stored well before `time` needs no question.
    pub async fn date_for(&self, items: Vec<Item>, time: DateTime<Utc>) -> Result<Vec<Item>> {
        // The store's clock is not ours.
        let certain = time - chrono::Duration::hours(1);
        let (asked, certain): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| item.created_at >= certain);
        let mut items = self.date(asked).await?;
        items.extend(certain);
        if let Some(now) = self.now {
            super::retain::settle(&mut items, now);
        }
        items.sort_by_key(|item| (item.level, item.name));
        Ok(items)
    }

    /// Stores a file under its name, unless one of that name is there, which then stays as it is.
    /// `timestamp` is that of its last transaction.
    pub async fn put(
        &self,
        level: u8,
        name: FileName,
        body: impl Into<Body>,
        timestamp: DateTime<Utc>,
    ) -> Result<Item> {
        let body = body.into();
        let item = Item { level, name, size: body.len(), created_at: timestamp, dated: true };
        if level > SNAPSHOT_LEVEL {
            return Err(Error::Configuration(format!("there is no level {level}")));
        }
        // What is wrong from the start is never shipped: it would be found at a restore.
        let mut head = [0; Header::LEN];
        let header = match body.reader().read_exact(&mut head) {
            Ok(()) => Header::parse(&head).map_err(|error| Error::damaged(self.object(&item), error))?,
            Err(error) => return Err(Error::damaged(self.object(&item), error)),
        };
        if header.file_name() != name {
            return Err(Error::damaged(self.object(&item), format!("it holds {}", header.file_name())));
        }
        match &self.backend {
            Backend::Folder(folder) => folder.put(&self.path, &item, &body).await?,
            Backend::Bucket(bucket) => bucket.put(&self.path, &item, &body).await?,
        }
        Ok(item)
    }

    /// [`Self::put`] for a second attempt after an answer was lost: it is also done if exactly these bytes
    /// are there. Any others are `AlreadyExists`, the sign of a second writer.
    pub async fn put_same(
        &self,
        level: u8,
        name: FileName,
        body: impl Into<Body>,
        timestamp: DateTime<Utc>,
    ) -> Result<Item> {
        let body = body.into();
        match self.put(level, name, body.clone(), timestamp).await {
            Err(Error::AlreadyExists { object }) => {
                let item = Item { level, name, size: body.len(), created_at: timestamp, dated: true };
                match self.is_same(&item, &body).await? {
                    true => Ok(item),
                    false => Err(Error::AlreadyExists { object }),
                }
            }
            done => done,
        }
    }

    /// Whether exactly these bytes are there. Piece by piece: it may be a whole database.
    async fn is_same(&self, item: &Item, body: &Body) -> Result<bool> {
        let bucket = match &self.backend {
            Backend::Folder(folder) => return folder.is_same(&self.path, item, body).await,
            Backend::Bucket(bucket) => bucket,
        };
        let mut ours = body.reader();
        let mut is_prefix = true;
        let compare = |piece: Bytes| {
            let mut expected = vec![0; piece.len()];
            is_prefix = is_prefix && ours.read_exact(&mut expected).is_ok() && expected == piece;
            Ok(())
        };
        bucket.read(&self.path, item, compare).await?;
        Ok(is_prefix && matches!(ours.read(&mut [0]), Ok(0)))
    }

    /// The whole content in memory.
    pub async fn get(&self, item: &Item) -> Result<Bytes> {
        match &self.backend {
            Backend::Folder(folder) => folder.get(&self.path, item).await,
            Backend::Bucket(bucket) => bucket.get(&self.path, item).await,
        }
    }

    /// The content, with what is large in a nameless file of `scratch`.
    pub async fn fetch(&self, item: &Item, scratch: &Path) -> Result<Body> {
        self.fetch_within(item, Scratch::new(scratch)).await
    }

    /// The same, with what `scratch` says is large.
    pub(super) async fn fetch_within(&self, item: &Item, scratch: Scratch) -> Result<Body> {
        match &self.backend {
            Backend::Folder(folder) => folder.fetch(&self.path, item, scratch).await,
            Backend::Bucket(bucket) => bucket.fetch(&self.path, item, scratch).await,
        }
    }

    /// What is already gone counts as deleted.
    pub async fn delete(&self, items: &[Item]) -> Result<()> {
        match &self.backend {
            _ if items.is_empty() => Ok(()),
            Backend::Folder(folder) => folder.delete(&self.path, items).await,
            Backend::Bucket(bucket) => bucket.delete(&self.path, items).await,
        }
    }

    /// Removes everything under the path, whatever it is. A second call finishes an interrupted one.
    ///
    /// A bucket that keeps versions keeps them: their expiry is a rule of the bucket.
    pub async fn destroy(&self) -> Result<Destroyed> {
        let objects = match &self.backend {
            Backend::Folder(folder) => folder.destroy(&self.path).await?,
            Backend::Bucket(bucket) => bucket.destroy(&self.path).await?,
        };
        Ok(Destroyed { count: objects.len(), bytes: objects.iter().map(|(_, size)| size).sum(), objects })
    }

    /// The newest transaction of all levels. `None`: nothing was ever shipped.
    pub async fn position(&self) -> Result<Option<Txid>> {
        Ok(self.list_all().await?.iter().map(|item| item.name.max).max())
    }

    /// How messages name an item.
    #[must_use]
    pub fn object(&self, item: &Item) -> String {
        match &self.backend {
            Backend::Folder(folder) => folder.file(&self.path, item).display().to_string(),
            Backend::Bucket(bucket) => bucket.object(&self.path, item),
        }
    }

    /// Removes what writers that were killed left half written before `before`. A bucket shows no such
    /// thing; there, a rule of the bucket ends uploads that were never completed.
    pub(super) async fn sweep(&self, before: DateTime<Utc>) -> Result<()> {
        match &self.backend {
            Backend::Folder(folder) => folder.sweep(&self.path, before).await,
            Backend::Bucket(_) => Ok(()),
        }
    }
}
