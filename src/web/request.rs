//! What every request has: an id, a peer, a user agent.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use crate::base::crockford;
use crate::crypto::random;

/// Facts about the request, for the log, for audit and for limits.
#[derive(Debug, Clone)]
pub struct RequestInfo {
    /// `req_…`; also in the `X-Request-Id` of the answer, in the log and in audit events.
    pub id: String,
    /// The client's address: the peer's, or what a trusted proxy says in `X-Forwarded-For`.
    pub ip: Option<IpAddr>,
    pub user_agent: Option<String>,
}

impl RequestInfo {
    #[must_use]
    pub fn new(headers: &HeaderMap, peer: Option<IpAddr>, proxies: &[ipnet::IpNet]) -> Self {
        let user_agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Self {
            id: format!("req_{}", crockford::encode_u128(u128::from_be_bytes(random::bytes()))),
            ip: peer.map(|peer| client_of(headers, peer, proxies)),
            user_agent: user_agent.map(|text| text.chars().take(256).collect()),
        }
    }

    #[must_use]
    pub fn ip_text(&self) -> Option<String> {
        self.ip.map(|ip| ip.to_string())
    }
}

/// Walks `X-Forwarded-For` from the right, as far as the hops are proxies of ours.
fn client_of(headers: &HeaderMap, peer: IpAddr, proxies: &[ipnet::IpNet]) -> IpAddr {
    let trusted = |ip: &IpAddr| proxies.iter().any(|net| net.contains(ip));
    if !trusted(&peer) {
        return peer;
    }
    let hops: Vec<IpAddr> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|hop| hop.trim().parse().ok())
        .collect();
    hops.into_iter().rev().find(|hop| !trusted(hop)).unwrap_or(peer)
}

impl<S: Sync> FromRequestParts<S> for RequestInfo {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(&parts.headers, None, &[])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_proxies_are_believed() {
        let proxies: Vec<ipnet::IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.0.0.2".parse().unwrap());
        let client = |peer: &str| client_of(&headers, peer.parse().unwrap(), &proxies).to_string();
        assert_eq!(client("10.0.0.1"), "203.0.113.9");
        assert_eq!(client("198.51.100.1"), "198.51.100.1");
    }
}
