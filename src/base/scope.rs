//! What an API key may do: `members:read`.

use std::fmt;

macro_rules! scopes {
    ($($variant:ident $text:literal;)*) => {
        /// What an API key may do.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope { $($variant),* }

        impl Scope {
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }
    };
}

scopes! {
    OrganizationsRead "organizations:read";
    OrganizationsWrite "organizations:write";
    MembersRead "members:read";
    MembersWrite "members:write";
    SessionsRead "sessions:read";
    SessionsWrite "sessions:write";
    ApplicationsRead "applications:read";
    ApplicationsWrite "applications:write";
    AuditRead "audit:read";
    KeysRead "keys:read";
    KeysWrite "keys:write";
    ExportsRead "exports:read";
    ExportsWrite "exports:write";
    BackupsRead "backups:read";
}

impl Scope {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == text)
    }

    /// Whether an organization's own key may carry it; applications and the backup belong to the deployment.
    #[must_use]
    pub const fn fits_an_organization(self) -> bool {
        !matches!(self, Self::ApplicationsRead | Self::ApplicationsWrite | Self::BackupsRead)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
