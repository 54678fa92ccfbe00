//! Files on their way to and from the API, piece by piece: they may be larger than memory.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::ready;
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::http::{Request, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use tower::ServiceExt;

use super::{Client, LONGEST_ANSWER, Road, USER_AGENT, cannot_connect, judge};
use crate::base::Secret;
use crate::cli::export::unreadable;
use crate::cli::failure::Failure;
use crate::crypto::hash::Sha256;

/// A file may take as long as the server gives it.
const TRANSFER: Duration = Duration::from_secs(3600);
const SECRETS_KEY: &str = "bulkhead-secrets-key";
const PIECE: usize = 64 << 10;

impl Client {
    /// Writes what is at `path` to a new file, whole or not at all; its SHA-256 in hexadecimal.
    pub async fn download(&self, path: &str, to: &Path) -> Result<String, Failure> {
        let mut target = Target::new(to).await?;
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
                while let Some(piece) = response.chunk().await.map_err(|error| cannot_connect(origin, &error))? {
                    target.write(&piece).await?;
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
                while let Some(piece) = next(&mut body).await? {
                    target.write(&piece).await?;
                }
            }
        }
        target.finish().await
    }

    /// Sends a file as the body of a POST.
    pub async fn upload(&self, path: &str, file: &Path, key: Option<&Secret>) -> Result<Value, Failure> {
        let opened = File::open(file).await.map_err(|error| unreadable(file, &error))?;
        let stream = ReaderStream::with_capacity(opened, PIECE);
        let secrets_key = key.map(|key| STANDARD.encode(key.expose()));
        let (status, answer) = match &self.0 {
            Road::Http { client, origin, key } => {
                let mut request = client
                    .post(format!("{origin}{path}"))
                    .timeout(TRANSFER)
                    .header(header::CONTENT_TYPE.as_str(), "application/octet-stream")
                    .body(reqwest::Body::wrap_stream(stream));
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

async fn whole(body: Body) -> Result<axum::body::Bytes, Failure> {
    to_bytes(body, LONGEST_ANSWER).await.map_err(|error| Failure::new("unreadable_answer", error.to_string()))
}

async fn next(body: &mut Body) -> Result<Option<axum::body::Bytes>, Failure> {
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

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new("unwritable_file", format!("{} cannot be written: {error}.", path.display()))
}
