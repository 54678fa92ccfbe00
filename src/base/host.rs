//! Host names as they arrive and as they are looked up.

use std::fmt;

/// A host in canonical form: lower case, no port, no trailing dot (RFC 3986 section 3.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Parses the value of a `Host` header or an authority; a port is dropped.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let host = match text.strip_prefix('[') {
            // An IPv6 literal keeps its brackets.
            Some(rest) => {
                let (inside, after) = rest.split_once(']')?;
                let address: std::net::Ipv6Addr = inside.parse().ok()?;
                if !after.is_empty() && !is_port(after) {
                    return None;
                }
                return Some(Self(format!("[{address}]")));
            }
            None => match text.split_once(':') {
                Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5 => host,
                Some(_) => return None,
                None => text,
            },
        };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let ok = (1..=253).contains(&host.len())
            && host.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            });
        ok.then_some(Self(host))
    }

    /// The label in front of `domain`: `acme` of `acme.example.com` for `example.com`.
    #[must_use]
    pub fn label_before(&self, domain: &Self) -> Option<&str> {
        let label = self.0.strip_suffix(&domain.0)?.strip_suffix('.')?;
        (!label.is_empty() && !label.contains('.')).then_some(label)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_does_not_matter_and_nonsense_is_refused() {
        for text in ["acme.example.com", "ACME.Example.com:8443", "acme.example.com."] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), "acme.example.com");
        }
        assert_eq!(HostName::parse("[::1]:80").unwrap().as_str(), "[::1]");
        for text in ["", ".", "a..b", "-a.com", "a_b.com", "a b", "a:port", "[::1", "é.com", "a.com:123456", "../x"] {
            assert!(HostName::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn one_label_and_no_more() {
        let domain = HostName::parse("example.com").unwrap();
        let label = |host: &str| HostName::parse(host).unwrap().label_before(&domain).map(str::to_owned);
        assert_eq!(label("acme.example.com"), Some("acme".into()));
        assert_eq!(label("example.com"), None);
        assert_eq!(label("a.b.example.com"), None);
        assert_eq!(label("notexample.com"), None);
    }
}
