//! Where things are: the deployment's own address and those of its organizations.

use url::Url;

use crate::base::{HostName, Slug};

/// How organizations are addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://acme.example.com`
    Subdomain,
    /// `https://example.com/o/acme`
    Path,
}

/// The addresses of one deployment.
#[derive(Debug, Clone)]
pub struct Address {
    origin: String,
    scheme: String,
    authority: String,
    host: HostName,
    addressing: Addressing,
}

impl Address {
    /// From the configured public URL, which has been validated before; `None` if it has no host.
    #[must_use]
    pub fn new(public_url: &Url, addressing: Addressing) -> Option<Self> {
        let host = public_url.host_str()?;
        let authority = public_url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        Some(Self {
            origin: format!("{}://{authority}", public_url.scheme()),
            scheme: public_url.scheme().to_owned(),
            host: HostName::parse(host)?,
            authority,
            addressing,
        })
    }

    /// `https://example.com`, without a slash at the end: also the deployment's issuer.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    #[must_use]
    pub const fn host(&self) -> &HostName {
        &self.host
    }

    /// Whether browsers reach us over TLS; decides the `Secure` attribute and the name of cookies.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.scheme == "https"
    }

    #[must_use]
    pub const fn addressing(&self) -> Addressing {
        self.addressing
    }

    /// An organization's own address, and its issuer: `https://acme.example.com` or
    /// `https://example.com/o/acme`.
    #[must_use]
    pub fn of_organization(&self, slug: &Slug) -> String {
        match self.addressing {
            Addressing::Subdomain => format!("{}://{slug}.{}", self.scheme, self.authority),
            Addressing::Path => format!("{}/o/{slug}", self.origin),
        }
    }

    /// What follows the slug in an organization's address, for the preview on the sign-up page.
    #[must_use]
    pub fn around_slug(&self) -> (String, String) {
        match self.addressing {
            Addressing::Subdomain => (format!("{}://", self.scheme), format!(".{}", self.authority)),
            Addressing::Path => (format!("{}/o/", self.origin), String::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_schemes_are_kept() {
        let acme = Slug::parse("acme").unwrap();
        let at = |url: &str, how| Address::new(&Url::parse(url).unwrap(), how).unwrap().of_organization(&acme);
        assert_eq!(at("https://example.com", Addressing::Subdomain), "https://acme.example.com");
        assert_eq!(at("http://localhost:8080", Addressing::Subdomain), "http://acme.localhost:8080");
        assert_eq!(at("https://example.com:8443", Addressing::Path), "https://example.com:8443/o/acme");
    }
}
