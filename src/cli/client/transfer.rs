//! Files on their way to and from the API, piece by piece: they may be larger than memory.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::task::ready;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{HeaderMap, Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{Stream, TryStreamExt as _};
use reqwest::Method;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio_util::io::ReaderStream;
use tower::ServiceExt;

use super::{Client, LONGEST_ANSWER, Road, USER_AGENT, cannot_connect, judge};
use crate::base::Secret;
use crate::cli::export::unreadable;
use crate::cli::failure::Failure;
use crate::cli::progress::{Progress, waiting};
use crate::crypto::hash::Sha256;

/// A file may take as long as the server gives it.
const TRANSFER: Duration = Duration::from_secs(3600);
const SECRETS_KEY: &str = "bulkhead-secrets-key";
const PIECE: usize = 64 << 10;

/// What has arrived.
#[derive(Default)]
pub(in crate::cli) struct Downloaded {
    /// In hexadecimal.
    pub sha256: String,
    pub bytes: u64,
    /// Which past it is, of a snapshot.
    pub txid: Option<String>,
    pub as_of: Option<String>,
}

impl Downloaded {
    fn name_moment(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        self.txid = text("bulkhead-transaction");
        self.as_of = text("bulkhead-as-of");
    }
}

impl Client {
    /// Writes what is at `path` to a new file, whole or not at all, and says how far it is.
    pub async fn download(&self, path: &str, to: &Path, mut progress: Progress) -> Result<Downloaded, Failure> {
        let mut target = Target::new(to).await?;
        let mut downloaded = Downloaded::default();
        let mut got = 0_u64;
        match &self.0 {
            Road::Http { client, origin, key } => {
                let mut request = client.get(format!("{origin}{path}")).timeout(TRANSFER);
                if let Some(key) = key {
                    request = request.bearer_auth(key.expose());
                }
                let mut response = request.send().await.map_err(|error| cannot_connect(origin, &error))?;
                let status = response.status().as_u16();
                if status != 200 {
                    let answer = response.bytes().await.map_err(|error| cannot_connect(origin, &error))?;
                    return Err(refused(status, &answer));
                }
                let total = response.content_length().unwrap_or(0);
                downloaded.name_moment(response.headers());
                while let Some(piece) = response.chunk().await.map_err(|error| cannot_connect(origin, &error))? {
                    target.write(&piece).await?;
                    got += piece.len() as u64;
                    progress.at(got, total);
                }
                if total > 0 && got != total {
                    return Err(Failure::new("download_damaged", "It ended before it was whole. Try again."));
                }
            }
            Road::InProcess { router, .. } => {
                let request = local(Method::GET, path).body(Body::empty());
                let request = request.map_err(|error| Failure::usage(error.to_string()))?;
                let Ok(response) = router.clone().oneshot(request).await;
                let (parts, mut body) = response.into_parts();
                if parts.status.as_u16() != 200 {
                    return Err(refused(parts.status.as_u16(), &whole(body).await?));
                }
                downloaded.name_moment(&parts.headers);
                let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
                let total = length.and_then(|text| text.parse().ok()).unwrap_or(0);
                while let Some(piece) = next(&mut body).await? {
                    target.write(&piece).await?;
                    got += piece.len() as u64;
                    progress.at(got, total);
                }
            }
        }
        progress.end();
        downloaded.bytes = got;
        downloaded.sha256 = target.finish().await?;
        Ok(downloaded)
    }

    /// Sends a file as the body of a POST, and says how far it is; then waits for what is made of it there.
    pub async fn upload(
        &self,
        path: &str,
        file: &Path,
        key: Option<&Secret>,
        mut progress: Progress,
    ) -> Result<Value, Failure> {
        let opened = File::open(file).await.map_err(|error| unreadable(file, &error))?;
        let known = opened.metadata().await.map_err(|error| unreadable(file, &error))?;
        // A pipe does not say how much will come out of it.
        let total = known.is_file().then_some(known.len());
        let (quiet, mut sent) = (progress.is_quiet(), 0_u64);
        // Let go of with the stream, when all of it is on its way.
        let (sending, all_sent) = oneshot::channel::<Infallible>();
        let stream = ReaderStream::with_capacity(opened, PIECE).inspect_ok(move |piece| {
            let _whole = &sending;
            sent += piece.len() as u64;
            progress.at(sent, total.unwrap_or(0));
        });
        let mut answered = pin!(self.send(path, key, (stream, total)));
        tokio::select! {
            answer = &mut answered => answer,
            _ = all_sent => waiting("checking what was sent", quiet, answered).await,
        }
    }

    /// It says beforehand how much it is, where that is known, so that what is too large need not be sent.
    async fn send<S>(
        &self,
        path: &str,
        key: Option<&Secret>,
        (stream, total): (S, Option<u64>),
    ) -> Result<Value, Failure>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let secrets_key = key.map(|key| STANDARD.encode(key.expose()));
        let (status, answer) = match &self.0 {
            Road::Http { client, origin, key } => {
                let mut request = client
                    .post(format!("{origin}{path}"))
                    .timeout(TRANSFER)
                    .header(header::CONTENT_TYPE.as_str(), "application/octet-stream")
                    .body(reqwest::Body::wrap_stream(stream));
                if let Some(total) = total {
                    request = request.header(header::CONTENT_LENGTH.as_str(), total);
                }
                if let Some(key) = key {
                    request = request.bearer_auth(key.expose());
                }
                if let Some(secrets_key) = secrets_key {
                    request = request.header(SECRETS_KEY, secrets_key);
                }
                let response = request.send().await.map_err(|error| cannot_connect(origin, &error))?;
                let status = response.status().as_u16();
                (status, response.bytes().await.map_err(|error| cannot_connect(origin, &error))?)
            }
            Road::InProcess { router, .. } => {
                let mut request = local(Method::POST, path).header(header::CONTENT_TYPE, "application/octet-stream");
                if let Some(total) = total {
                    request = request.header(header::CONTENT_LENGTH, total);
                }
                if let Some(secrets_key) = secrets_key {
                    request = request.header(SECRETS_KEY, secrets_key);
                }
                let request = request.body(Body::from_stream(stream));
                let request = request.map_err(|error| Failure::usage(error.to_string()))?;
                let Ok(response) = router.clone().oneshot(request).await;
                (response.status().as_u16(), whole(response.into_body()).await?)
            }
        };
        judge(status, &answer)
    }
}

fn local(method: Method, path: &str) -> axum::http::request::Builder {
    let request = Request::builder().method(method).uri(path);
    request.header(header::HOST, "localhost").header(header::USER_AGENT, USER_AGENT)
}

async fn whole(body: Body) -> Result<Bytes, Failure> {
    to_bytes(body, LONGEST_ANSWER).await.map_err(|error| Failure::new("unreadable_answer", error.to_string()))
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    loop {
        let frame =
            std::future::poll_fn(|context| std::task::Poll::Ready(ready!(Pin::new(&mut *body).poll_frame(context))));
        match frame.await {
            None => return Ok(None),
            Some(Err(error)) => return Err(Failure::new("unreadable_answer", error.to_string())),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Anything but the file is a refusal.
fn refused(status: u16, answer: &[u8]) -> Failure {
    match judge(status, answer) {
        Err(failure) => failure,
        Ok(_) => Failure::new("unexpected_answer", format!("The answer (status {status}) is not a file.")),
    }
}

/// A file that gets its name when it is whole.
struct Target {
    file: File,
    digest: Sha256,
    path: PathBuf,
    part: PathBuf,
    done: bool,
}

impl Target {
    async fn new(path: &Path) -> Result<Self, Failure> {
        let mut part = path.to_owned().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        // What an interrupted command has left.
        let _ = std::fs::remove_file(&part);
        let made = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).await;
        let file = made.map_err(|error| unwritable(&part, &error))?;
        Ok(Self { file, digest: Sha256::new(), path: path.to_owned(), part, done: false })
    }

    async fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.digest.update(piece);
        self.file.write_all(piece).await.map_err(|error| unwritable(&self.part, &error))
    }

    async fn finish(mut self) -> Result<String, Failure> {
        self.file.sync_all().await.map_err(|error| unwritable(&self.part, &error))?;
        // A link fails where a rename would replace what has appeared there meanwhile.
        let placed = tokio::fs::hard_link(&self.part, &self.path).await;
        placed.map_err(|error| unwritable(&self.path, &error))?;
        self.done = true;
        let _ = std::fs::remove_file(&self.part);
        Ok(std::mem::take(&mut self.digest).finish())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::new("unwritable_file", format!("{} cannot be written: {error}.", path.display()))
}
