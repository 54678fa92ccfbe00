//! F3. The edge: from HTTP to the house's values and back, the same for every feature.
//!
//! It owns extractors, the rendering of errors, cookies, CSRF, pages' frames and headers, limits and
//! the request's trace. It knows no capability: features import this room, never the other way round.

pub mod access;
pub mod address;
pub mod assets;
pub mod cookie;
pub mod csrf;
pub mod extract;
pub mod failure;
pub mod frame;
pub mod limits;
pub mod listing;
pub mod nullable;
pub mod pages;
pub mod place;
pub mod reply;
pub mod request;
pub mod schema;

pub use access::Caller;
pub use address::{Address, Addressing};
pub use extract::{Form, Json, MemberPath, OrganizationPath, Path, Query, reason};
pub use failure::Failure;
pub use listing::List;
pub use place::{IssuerKind, Place, PlaceFacts};
pub use request::RequestInfo;
