//! A bucket of an S3 store, laid out as litestream's `s3` replica: `<path>/<level as 4 hex digits>/<name>`,
//! the time of the last transaction being the metadata `litestream-timestamp`.

use super::{Body, Cause, Error, Item, Result, SNAPSHOT_LEVEL, Scratch, Settings, blocking};
use crate::ltx::FileName;
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use futures::StreamExt;
use futures::future::BoxFuture;
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path as Key;
use object_store::{
    Attribute, Attributes, BackoffConfig, ClientOptions, GetOptions, GetResult, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, RetryConfig,
};
use std::future::Future;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

const TIMESTAMP: &str = "litestream-timestamp";
/// Larger files are sent in parts of this size. S3 takes 10,000 parts: 80 GB.
const PART: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub(super) struct Bucket {
    store: Arc<AmazonS3>,
    name: Arc<str>,
    prefix: Arc<str>,
    timeout: Duration,
}

impl Bucket {
    pub fn new(name: &str, prefix: &str, settings: &Settings) -> Result<Self> {
        let wrong = |why: String| Error::Configuration(format!("bucket {name:?}: {why}"));
        let timeout = settings.timeout;
        // The whole of a long transfer may take its time; each piece of it may not.
        let client = ClientOptions::new()
            .with_allow_http(settings.allow_http)
            .with_connect_timeout(timeout.min(Duration::from_secs(5)))
            .with_read_timeout(timeout)
            .with_timeout_disabled();
        let backoff = BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(RetryConfig { backoff, max_retries: 3, retry_timeout: timeout })
            .with_http_connector(CreateOnly)
            // `PutMode::Create` is sent as `If-None-Match: *`.
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_virtual_hosted_style_request(!settings.force_path_style)
            .with_region(settings.region.as_deref().unwrap_or("us-east-1"))
            .with_bucket_name(name);
        if let Some(endpoint) = &settings.endpoint {
            let plain = endpoint.starts_with("http://");
            if !plain && !endpoint.starts_with("https://") {
                return Err(wrong(format!("the endpoint {endpoint:?} begins with neither https:// nor http://")));
            }
            if plain && !settings.allow_http {
                return Err(wrong(format!("the endpoint {endpoint:?} is not https://, and allow_http is off")));
            }
            // With the bucket in the host name, this builder wants it in the endpoint too.
            let endpoint = match endpoint.split_once("://") {
                Some((scheme, host)) if !settings.force_path_style => format!("{scheme}://{name}.{host}"),
                _ => endpoint.clone(),
            };
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        builder = match (&settings.access_key_id, &settings.secret_access_key) {
            (Some(id), Some(secret)) => builder.with_access_key_id(id).with_secret_access_key(secret),
            (None, None) => builder,
            _ => return Err(wrong("access_key_id and secret_access_key go together".to_owned())),
        };
        let store = builder.build().map_err(|error| wrong(error.to_string()))?;
        Ok(Self { store: Arc::new(store), name: name.into(), prefix: prefix.into(), timeout })
    }

    pub async fn check(&self) -> Result<()> {
        let what = format!("list s3://{}/{}", self.name, self.prefix);
        let prefix = (!self.prefix.is_empty()).then(|| key(&self.prefix)).transpose()?;
        self.within(&what, self.store.list(prefix.as_ref()).next().map_ok_unit()).await
    }

    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<()> {
        let name = self.top(name);
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let location = key(&name)?;
        let put = self.store.put_opts(&location, bytes.into(), options);
        match self.within(&format!("put s3://{}/{name}", self.name), put).await {
            Ok(_) => Ok(()),
            Err(Error::NotFound { object }) => {
                Err(Error::Refused { what: object, source: "there is no such bucket".into() })
            }
            Err(error) => Err(error),
        }
    }

    pub async fn read_named(&self, name: &str) -> Result<Option<Bytes>> {
        let name = self.top(name);
        let (what, location) = (format!("get s3://{}/{name}", self.name), key(&name)?);
        let read = async { self.store.get_opts(&location, GetOptions::default()).await?.bytes().await };
        match self.within(&what, read).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn names(&self, below: &str) -> Result<Vec<String>> {
        let objects = self.objects(&self.top(below)).await?;
        Ok(objects.iter().filter_map(|object| object.location.filename().map(str::to_owned)).collect())
    }

    /// Of everything of a replica.
    fn top(&self, path: &str) -> String {
        match self.prefix.is_empty() {
            true => path.to_owned(),
            false => format!("{}/{path}", self.prefix),
        }
    }

    fn name(&self, path: &str, item: &Item) -> String {
        format!("{}/{:04x}/{}", self.top(path), item.level, item.name)
    }

    pub fn object(&self, path: &str, item: &Item) -> String {
        format!("s3://{}/{}", self.name, self.name(path, item))
    }

    pub async fn list(&self, path: &str, level: Option<u8>) -> Result<Vec<Item>> {
        let top = self.top(path);
        let mut items = Vec::new();
        let prefix = match level {
            Some(level) => format!("{top}/{level:04x}"),
            None => top.clone(),
        };
        for meta in self.objects(&prefix).await? {
            // What is not ours by its name is not there.
            let Some(rest) = meta.location.as_ref().strip_prefix(&top) else { continue };
            let Some((level, name)) = rest.trim_start_matches('/').split_once('/') else { continue };
            let Some(level) = (0..=SNAPSHOT_LEVEL).find(|known| format!("{known:04x}") == level) else { continue };
            let Ok(name) = name.parse::<FileName>() else { continue };
            items.push(Item { level, name, size: meta.size, created_at: meta.last_modified, dated: false });
        }
        Ok(items)
    }

    async fn objects(&self, prefix: &str) -> Result<Vec<ObjectMeta>> {
        let what = format!("list s3://{}/{prefix}", self.name);
        let mut stream = self.store.list(Some(&key(prefix)?));
        let mut objects = Vec::new();
        while let Some(meta) = self.within(&what, stream.next().map_transposed()).await? {
            objects.push(meta);
        }
        Ok(objects)
    }

    pub async fn date(&self, path: &str, mut item: Item) -> Result<Item> {
        let found = self.open(path, &item, true).await?;
        // Without it (copied by a tool that drops metadata) litestream too takes the store's time.
        if let Some(value) = found.attributes.get(&Attribute::Metadata(TIMESTAMP.into())) {
            let time = DateTime::parse_from_rfc3339(value)
                .map_err(|error| Error::damaged(self.object(path, &item), format!("its {TIMESTAMP}: {error}")))?;
            item.created_at = time.to_utc();
        }
        item.dated = true;
        Ok(item)
    }

    pub async fn put(&self, path: &str, item: &Item, body: &Body) -> Result<()> {
        let what = format!("put {}", self.object(path, item));
        let location = key(&self.name(path, item))?;
        let mut attributes = Attributes::new();
        let timestamp = item.created_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        attributes.insert(Attribute::Metadata(TIMESTAMP.into()), timestamp.into());
        let done = if body.len() <= PART {
            let bytes = blocking(|| body.bytes()).map_err(|error| Error::damaged(&what, error))?;
            let options = PutOptions { mode: PutMode::Create, attributes, ..PutOptions::default() };
            self.within(&what, self.store.put_opts(&location, bytes.into(), options)).await.map(drop)
        } else {
            self.put_parts(&what, &location, body, attributes).await
        };
        done.map_err(|error| match error {
            Error::AlreadyExists { .. } => Error::AlreadyExists { object: self.object(path, item) },
            // Of the bucket, or of an upload that a lifecycle rule ended.
            Error::NotFound { .. } => Error::Refused { what, source: "no such bucket or upload".into() },
            error => error,
        })
    }

    async fn put_parts(&self, what: &str, location: &Key, body: &Body, attributes: Attributes) -> Result<()> {
        let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
        let mut upload = self.within(what, self.store.put_multipart_opts(location, options)).await?;
        let sent = async {
            let mut reader = body.reader();
            loop {
                let mut part = Vec::new();
                blocking(|| (&mut reader).take(PART).read_to_end(&mut part))
                    .map_err(|error| Error::damaged(what, error))?;
                if part.is_empty() {
                    break;
                }
                self.within(what, upload.put_part(part.into())).await?;
            }
            // Create-only: see `CreateOnly`. A store that knows the condition for single puts alone, such
            // as older ones, is asked first; that leaves it a moment in which a second writer is not seen.
            let head = GetOptions { head: true, ..GetOptions::default() };
            match self.within(what, self.store.get_opts(location, head)).await {
                Ok(_) => return Err(Error::AlreadyExists { object: location.to_string() }),
                Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
            self.within(what, upload.complete()).await
        }
        .await;
        if sent.is_err() {
            // Parts that are never completed cost money; a rule of the bucket ends what this does not.
            let _ = self.within(what, upload.abort()).await;
        }
        sent.map(drop)
    }

    async fn open(&self, path: &str, item: &Item, head: bool) -> Result<GetResult> {
        let object = self.object(path, item);
        let location = key(&self.name(path, item))?;
        let options = GetOptions { head, ..GetOptions::default() };
        let verb = if head { "head" } else { "get" };
        self.within(&format!("{verb} {object}"), self.store.get_opts(&location, options)).await.map_err(|error| {
            match error {
                Error::NotFound { .. } => Error::NotFound { object },
                error => error,
            }
        })
    }

    pub async fn get(&self, path: &str, item: &Item) -> Result<Bytes> {
        let mut all = Vec::new();
        self.read(path, item, |piece| {
            all.extend_from_slice(&piece);
            Ok(())
        })
        .await?;
        Ok(all.into())
    }

    pub async fn fetch(&self, path: &str, item: &Item, mut body: Scratch) -> Result<Body> {
        let scratch = body.directory().to_owned();
        self.read(path, item, |piece| {
            blocking(|| body.write_all(&piece)).map_err(|error| Error::local(&scratch, error))
        })
        .await?;
        blocking(|| body.finish()).map_err(|error| Error::local(&scratch, error))
    }

    pub async fn read(&self, path: &str, item: &Item, mut take: impl FnMut(Bytes) -> Result<()>) -> Result<()> {
        let what = format!("get {}", self.object(path, item));
        let mut pieces = self.open(path, item, false).await?.into_stream();
        while let Some(piece) = self.within(&what, pieces.next().map_transposed()).await? {
            take(piece)?;
        }
        Ok(())
    }

    pub async fn delete(&self, path: &str, items: &[Item]) -> Result<()> {
        let names: Result<Vec<Key>> = items.iter().map(|item| key(&self.name(path, item))).collect();
        self.delete_keys(path, names?).await
    }

    pub async fn destroy(&self, path: &str) -> Result<Vec<(String, u64)>> {
        let top = self.top(path);
        let objects = self.objects(&top).await?;
        self.delete_keys(path, objects.iter().map(|object| object.location.clone()).collect()).await?;
        let below = |name: &str| name.strip_prefix(&top).unwrap_or(name).trim_start_matches('/').to_owned();
        Ok(objects.iter().map(|object| (below(object.location.as_ref()), object.size)).collect())
    }

    async fn delete_keys(&self, path: &str, keys: Vec<Key>) -> Result<()> {
        let what = format!("delete in s3://{}/{}", self.name, self.top(path));
        let mut gone = self.store.delete_stream(futures::stream::iter(keys).map(Ok).boxed());
        loop {
            match self.within(&what, gone.next().map_transposed()).await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// One exchange with the store, with an end and a kind of error.
    async fn within<T>(&self, what: &str, call: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map_err(|error| sort(what, error)),
            Err(_) => Err(Error::Unreachable {
                what: what.to_owned(),
                source: format!("no answer within {:?}", self.timeout).into(),
            }),
        }
    }
}

/// Never encoded: what would need it is refused where it comes from.
fn key(name: &str) -> Result<Key> {
    Key::parse(name).map_err(|error| Error::Configuration(format!("{name:?} is not a key: {error}")))
}

fn sort(what: &str, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let what = what.to_owned();
    match error {
        E::NotFound { path, .. } => Error::NotFound { object: path },
        // Amazon answers 409 while another write of the name is under way, and says that one should repeat.
        E::AlreadyExists { source, .. } if source.to_string().contains("ConditionalRequestConflict") => {
            Error::Unreachable { what, source }
        }
        E::AlreadyExists { path, .. } | E::Precondition { path, .. } => Error::AlreadyExists { object: path },
        E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => Error::Refused { what, source },
        E::Generic { source, .. } if is_final(&source) => Error::Refused { what, source },
        E::Generic { source, .. } => Error::Unreachable { what, source },
        error @ (E::NotSupported { .. } | E::NotImplemented { .. } | E::InvalidPath { .. }) => {
            Error::Refused { what, source: error.into() }
        }
        error => Error::Unreachable { what, source: error.into() },
    }
}

/// Whether it is an answer that will be the same again. The client's type for it is private; its text has
/// the status. A bare redirect is how Amazon says "another region".
fn is_final(source: &Cause) -> bool {
    let text = source.to_string();
    let status = text.split("status code: ").nth(1).and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
    status.is_some_and(|status| (300..500).contains(&status) && status != 408 && status != 429)
        || text.contains("redirect without LOCATION")
}

/// Makes the end of an upload in parts create-only as well. The client has that condition for single puts,
/// but offers none for uploads (S3: CompleteMultipartUpload takes `If-None-Match: *`). The header is not
/// part of the signature, which covers `host` and `x-amz-*`.
#[derive(Debug)]
struct CreateOnly;

#[derive(Debug)]
struct Conditional(HttpClient);

impl HttpConnector for CreateOnly {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Conditional(ReqwestConnector::default().connect(options)?)))
    }
}

impl HttpService for Conditional {
    // The trait is written with async_trait, of which this is the expansion.
    fn call<'a, 'b>(&'a self, mut request: HttpRequest) -> BoxFuture<'b, Result<HttpResponse, HttpError>>
    where
        'a: 'b,
        Self: 'b,
    {
        let completes = request.uri().query().is_some_and(|query| query.contains("uploadId="));
        if completes && request.method() == "POST" {
            request.headers_mut().insert("if-none-match", object_store::HeaderValue::from_static("*"));
        }
        Box::pin(self.0.execute(request))
    }
}

/// The next element of a stream as a call with a result.
trait Next<T>: Future<Output = Option<object_store::Result<T>>> + Sized {
    async fn map_transposed(self) -> object_store::Result<Option<T>> {
        self.await.transpose()
    }

    async fn map_ok_unit(self) -> object_store::Result<()> {
        self.await.transpose().map(drop)
    }
}

impl<T, F: Future<Output = Option<object_store::Result<T>>>> Next<T> for F {}
