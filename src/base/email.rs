//! E-mail addresses as people type them and as they are compared.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address that mail can be sent to; compared without regard to case.
///
/// The check is the useful part of RFC 5321 section 4.1.2: one `@`, a dot-atom of at most 64
/// characters before it, a host name of at most 253 after it. Quoted local parts and address
/// literals are refused: nobody signs in with them, and they are a classic way to smuggle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Email {
    shown: String,
    normalized: String,
}

impl Email {
    /// Parses after trimming; `None` if it is not an address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let shown = text.trim();
        let (local, domain) = shown.rsplit_once('@')?;
        let local_ok = !local.is_empty()
            && local.len() <= 64
            && !local.starts_with('.')
            && !local.ends_with('.')
            && !local.contains("..")
            && local.chars().all(is_local_character);
        let labels: Vec<&str> = domain.split('.').collect();
        let domain_ok = domain.len() <= 253 && labels.iter().all(|label| is_label(label)) && !labels.is_empty();
        (local_ok && domain_ok && shown.len() <= 254)
            .then(|| Self { shown: shown.to_owned(), normalized: shown.to_lowercase() })
    }

    /// As the person wrote it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// Lower case: the form that is unique within an organization.
    #[must_use]
    pub fn normalized(&self) -> &str {
        &self.normalized
    }

    #[must_use]
    pub fn domain(&self) -> &str {
        self.normalized.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

/// Letters beyond ASCII are allowed (RFC 6531); anything that could end a header or a command is not.
fn is_local_character(c: char) -> bool {
    c.is_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c)
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.chars().all(|c| c.is_alphanumeric() || c == '-')
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Serialize for Email {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.shown)
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected an e-mail address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_people_have() {
        for text in ["ada@example.com", " Ada.Lovelace+x@Example.co.uk ", "jörg@exämple.de", "root@localhost"] {
            assert!(Email::parse(text).is_some(), "{text}");
        }
        assert_eq!(Email::parse(" Ada@Example.COM").unwrap().normalized(), "ada@example.com");
    }

    #[test]
    fn what_is_not_an_address_or_would_smuggle() {
        for text in [
            "",
            "@",
            "ada",
            "ada@",
            "@x.com",
            "a b@x.com",
            "a@x..com",
            "a@-x.com",
            "a.@x.com",
            "a..b@x.com",
            "a@x.com\r\nBcc: b@x.com",
            "\"a b\"@x.com",
            "a@[127.0.0.1]",
            "a@b@c.com",
            "a@x.com,b@x.com",
            "a<b@x.com>",
        ] {
            assert!(Email::parse(text).is_none(), "{text}");
        }
        assert!(Email::parse(&format!("{}@x.com", "a".repeat(65))).is_none());
    }
}
