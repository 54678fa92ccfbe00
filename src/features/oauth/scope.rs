//! What an application may ask for (RFC 6749 section 3.3).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// An ID token and userinfo.
    Openid,
    /// Name and user name.
    Profile,
    /// The e-mail address.
    Email,
    /// A refresh token.
    OfflineAccess,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Openid, Self::Profile, Self::Email, Self::OfflineAccess];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Openid => "openid",
            Self::Profile => "profile",
            Self::Email => "email",
            Self::OfflineAccess => "offline_access",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// A set of scopes; in text always in the same order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// What we know of what was asked for; the rest is left out, and the token answer says so.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(
            Scope::ALL
                .into_iter()
                .filter(|scope| text.split_ascii_whitespace().any(|word| word == scope.as_str()))
                .collect(),
        )
    }

    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The part of these that was asked for; `None` if more was asked for (RFC 6749 section 6).
    #[must_use]
    pub fn narrowed(&self, text: &str) -> Option<Self> {
        let within = |word: &str| Scope::parse(word).is_some_and(|scope| self.has(scope));
        text.split_ascii_whitespace().all(within).then(|| Self::parse(text))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.0.iter().map(|scope| scope.as_str()).collect();
        f.write_str(&words.join(" "))
    }
}

impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::parse(&text))
    }
}
