//! F0, the ground floor: pure values without I/O and without a framework.
//!
//! Everything here can be made, compared and printed in a test with no set-up. It owns the shapes of
//! identifiers, credentials, addresses, time, pages and errors; it knows neither HTTP nor SQL.

pub mod codes;
pub mod credential;
pub mod crockford;
pub mod email;
pub mod error;
pub mod host;
pub mod id;
pub mod location;
pub mod page;
pub mod replication;
pub mod scope;
pub mod secret;
pub mod slug;
pub mod text;
pub mod time;
pub mod turns;

pub use credential::{Credential, CredentialKind};
pub use email::Email;
pub use error::{Code, Error, Kind, Result};
pub use host::HostName;
pub use id::{
    ApiKeyId, ApplicationId, AuditEventId, ExportId, FleetJobId, GrantId, Id, IdKind, ImportId, KeyRotationId,
    MemberId, OrganizationId, OutboxId, SessionId, SignUpId, SigningKeyId, TransferId,
};
pub use location::Location;
pub use page::{Page, PageRequest};
pub use replication::Replication;
pub use scope::Scope;
pub use secret::Secret;
pub use slug::{ExternalId, Slug};
pub use time::{Clock, Timestamp};
pub use turns::Turns;
