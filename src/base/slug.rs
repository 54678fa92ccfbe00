//! Short public names of organizations: the `acme` of `acme.example.com`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// 2 to 63 characters, lower-case letters, digits and inner hyphens: a DNS label (RFC 1035 section
/// 2.3.1), since it becomes a sub-domain. Never looks like an id, and a few names are kept back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slug(String);

/// Names that would be mistaken for the deployment's own.
const RESERVED: &[&str] = &[
    "www",
    "api",
    "app",
    "auth",
    "admin",
    "mail",
    "smtp",
    "ns1",
    "ns2",
    "static",
    "assets",
    "status",
    "support",
    "login",
    "sso",
    "account",
    "accounts",
    "id",
    "oauth",
    "oauth2",
    "bulkhead",
    "localhost",
    "console",
    "portal",
];

impl Slug {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ok = (2..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
            // Punycode could imitate another name in the address bar.
            && !text.starts_with("xn--")
            && !RESERVED.contains(&text);
        ok.then(|| Self(text.to_owned()))
    }

    /// A proposal made from a display name; `None` when nothing usable is left of it.
    #[must_use]
    pub fn propose(name: &str) -> Option<Self> {
        let mut slug = String::new();
        for c in name.chars().flat_map(fold) {
            if c != '-' || !(slug.is_empty() || slug.ends_with('-')) {
                slug.push(c);
            }
            if slug.len() == 40 {
                break;
            }
        }
        let trimmed = slug.trim_matches('-');
        Self::parse(trimmed).or_else(|| Self::parse(&format!("{trimmed}-org")))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn fold(c: char) -> Vec<char> {
    let text = match c {
        'ä' | 'Ä' => "ae",
        'ö' | 'Ö' => "oe",
        'ü' | 'Ü' => "ue",
        'ß' => "ss",
        'à' | 'á' | 'â' | 'ã' | 'å' | 'À' | 'Á' | 'Â' | 'Å' => "a",
        'è' | 'é' | 'ê' | 'ë' | 'È' | 'É' | 'Ê' | 'Ë' => "e",
        'ç' | 'Ç' => "c",
        'ñ' | 'Ñ' => "n",
        'ø' | 'Ø' | 'ó' | 'ò' | 'ô' => "o",
        'í' | 'ì' | 'î' | 'ï' => "i",
        'ú' | 'ù' | 'û' => "u",
        c if c.is_ascii_alphanumeric() => return vec![c.to_ascii_lowercase()],
        '\'' | '’' | '.' => "",
        _ => "-",
    };
    text.chars().collect()
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Slug {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("expected 2 to 63 lower-case letters, digits and hyphens"))
    }
}

/// The SaaS team's own id of an organization, accepted wherever ours is: 1 to 128 visible ASCII
/// characters without a slash, and not of the form of an id of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExternalId(String);

impl ExternalId {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ok = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"/?#%\\\"<>".contains(&b))
            && !text.starts_with("org_");
        ok.then(|| Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_sub_domain() {
        for good in ["acme", "a1", "north-wind", "4711"] {
            assert!(Slug::parse(good).is_some(), "{good}");
        }
        for bad in ["a", "Acme", "-acme", "acme-", "ac_me", "a.b", "www", "xn--abc", "", "é", &"a".repeat(64)] {
            assert!(Slug::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn proposals_come_from_the_name() {
        let propose = |name: &str| Slug::propose(name).map(|slug| slug.to_string());
        assert_eq!(propose("Acme, Inc."), Some("acme-inc".into()));
        assert_eq!(propose("Müller & Söhne"), Some("mueller-soehne".into()));
        assert_eq!(propose("API"), Some("api-org".into()));
        assert_eq!(propose("日本"), None);
    }
}
