//! A key-management service that wraps and unwraps data keys, over HTTPS, or plain HTTP to this machine.
//!
//! What is sent are keys, so nothing is followed (no redirect, no proxy), everything has a bound, and no error repeats
//! what was sent or answered.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Certificate, Client, StatusCode};
use url::Url;
use zeroize::Zeroizing;

use crate::base::{Error, Result, Secret, codes};

/// Who asks there.
#[derive(Debug, Clone)]
pub enum Bearer {
    None,
    Token(Secret),
    /// Read at every request, so that a token can be replaced while the server runs.
    File(PathBuf),
}

/// Why there is no answer; nothing secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it would be the same for any other request at this moment.
    pub is_silent: bool,
    pub why: String,
}

impl Trouble {
    /// It does not answer, whatever it is asked.
    pub fn silent(why: impl Into<String>) -> Self {
        Self { is_silent: true, why: why.into() }
    }

    /// It does not answer this.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { is_silent: false, why: why.into() }
    }
}

/// One service; cheap to clone.
#[derive(Debug, Clone)]
pub struct KeyService {
    client: Client,
    url: Url,
    bearer: Bearer,
}

impl KeyService {
    /// `url` is what `/wrap` and `/unwrap` are appended to; `timeout` is for one request as a whole. `authorities` are
    /// certificates in PEM: with them, nobody else may vouch for the service.
    #[allow(clippy::disallowed_methods, reason = "the room that requests to others leave through")]
    pub fn new(url: Url, bearer: Bearer, authorities: Option<&[u8]>, timeout: Duration) -> Result<Self> {
        let mut builder = Client::builder();
        if let Some(text) = authorities {
            // An empty list would be one that trusts nobody.
            let trusted = Certificate::from_pem_bundle(text).ok().filter(|trusted| !trusted.is_empty());
            let unreadable = || Error::new(&codes::VALIDATION_FAILED).because("there is no certificate in PEM");
            builder = builder.tls_certs_only(trusted.ok_or_else(unreadable)?);
        }
        let client = builder
            .user_agent(concat!("bulkhead/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeout)
            .timeout(timeout)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| Error::internal("the client of the key service cannot be made").source(error))?;
        Ok(Self { client, url, bearer })
    }

    /// The answer to a request, at most `limit` bytes; otherwise what went wrong, without anything secret.
    pub async fn ask(
        &self,
        operation: &'static str,
        request: Zeroizing<Vec<u8>>,
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, Trouble> {
        let mut url = self.url.clone();
        url.path_segments_mut()
            .map_err(|()| Trouble::silent("its address cannot be used"))?
            .pop_if_empty()
            .push(operation);
        let mut asked = self.client.post(url).header(CONTENT_TYPE, "application/json").body(request.to_vec());
        match &self.bearer {
            Bearer::None => {}
            Bearer::Token(token) => asked = asked.bearer_auth(token.expose()),
            Bearer::File(path) => {
                let token = tokio::fs::read_to_string(path).await;
                let token = token.map_err(|error| Trouble::silent(format!("its token cannot be read: {error}")))?;
                asked = asked.bearer_auth(token.trim());
            }
        }
        let mut answer = asked.send().await.map_err(|error| told(&error))?;
        let status = answer.status();
        if answer.content_length().is_some_and(|length| length > limit as u64) {
            return Err(Trouble::refused("its answer is too large"));
        }
        let mut body = Zeroizing::new(Vec::new());
        while let Some(piece) = answer.chunk().await.map_err(|error| told(&error))? {
            if body.len() + piece.len() > limit {
                return Err(Trouble::refused("its answer is too large"));
            }
            body.extend_from_slice(&piece);
        }
        if status == StatusCode::OK {
            Ok(body)
        } else {
            Err(Trouble::refused(format!("it answered with status {}", status.as_u16())))
        }
    }
}

/// The innermost cause: the outer text repeats the address, which may hold a name that is nobody's business.
fn told(error: &reqwest::Error) -> Trouble {
    if error.is_timeout() {
        return Trouble::silent("it did not answer in time");
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    Trouble::silent(format!("it cannot be reached: {cause}"))
}
