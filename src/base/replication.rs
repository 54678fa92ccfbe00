//! What a write has reached when it is acknowledged.

use serde::{Deserialize, Serialize};

/// What an acknowledged write outlives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// This machine's disk has it: it outlives a crash and a power cut.
    #[default]
    Local,
    /// The store of the backup has it as well: it outlives the machine.
    Object,
}

impl Replication {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Object => "object",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Local, Self::Object].into_iter().find(|mode| mode.as_str() == text)
    }
}
