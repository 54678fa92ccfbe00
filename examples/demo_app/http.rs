//! The HTTP client that the OpenID Connect library speaks through.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};

/// The library's view of HTTP. Redirects are not followed: an issuer never needs one, and
/// following one could lead our server's requests somewhere else.
pub struct Http(reqwest::Client);

impl Http {
    pub fn new() -> reqwest::Result<Http> {
        let client = reqwest::Client::builder()
            .dns_resolver(LocalhostNames)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(10))
            // Straight to the issuer, whatever proxy the environment names.
            .no_proxy();
        client.build().map(Http)
    }
}

impl<'c> AsyncHttpClient<'c> for Http {
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Self::Error>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let request = request.try_into().map_err(std::io::Error::other)?;
            let answer = self.0.execute(request).await.map_err(std::io::Error::other)?;
            let mut response = HttpResponse::new(Vec::new());
            *response.status_mut() = answer.status();
            *response.headers_mut() = answer.headers().clone();
            *response.body_mut() = answer.bytes().await.map_err(std::io::Error::other)?.into();
            Ok(response)
        })
    }
}

/// `localhost` and everything below it is this machine (RFC 6761). Browsers know that; the name
/// service of many systems does not, so `acme.localhost` needs this line. Production does not.
struct LocalhostNames;

impl reqwest::dns::Resolve for LocalhostNames {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let addresses: Vec<SocketAddr> = if host == "localhost" || host.ends_with(".localhost") {
                vec![SocketAddr::from(([127, 0, 0, 1], 0))]
            } else {
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect()
            };
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}
