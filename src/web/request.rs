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
            ip: peer.map(|peer| client_of(headers, peer.to_canonical(), proxies)),
            user_agent: user_agent.map(|text| text.chars().take(256).collect()),
        }
    }

    /// Whom a limit counts: an IPv4 address, or the /64 that an IPv6 client can move about in.
    #[must_use]
    pub fn network(&self) -> String {
        match self.ip {
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, ..] = ip.segments();
                format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
            }
            Some(ip) => ip.to_string(),
            None => String::new(),
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
    let values = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = values.flat_map(|value| value.split(',')).collect();
    let mut nearest = peer;
    for hop in hops.into_iter().rev() {
        // What cannot be read was not written by a proxy that we understand: nothing left of it counts.
        let Some(address) = address_of(hop.trim()) else { break };
        nearest = address;
        if !trusted(&address) {
            break;
        }
    }
    nearest
}

/// `203.0.113.9`, `203.0.113.9:4711`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(inside, _)| inside);
    let address = bare.unwrap_or(hop).parse().ok();
    address.or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip())).map(|ip| ip.to_canonical())
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
        for (sent, believed) in [
            ("6.6.6.6, 203.0.113.11:4711", "203.0.113.11"),
            ("6.6.6.6, [2001:db8::1]:80", "2001:db8::1"),
            ("6.6.6.6, unknown", "10.0.0.1"),
            ("6.6.6.6, unknown, 10.0.0.7", "10.0.0.7"),
            ("", "10.0.0.1"),
        ] {
            headers.insert("x-forwarded-for", sent.parse().unwrap());
            assert_eq!(client_of(&headers, "10.0.0.1".parse().unwrap(), &proxies).to_string(), believed, "{sent}");
        }
    }
}
