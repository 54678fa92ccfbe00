//! API keys at the edge: `authenticate.rs` tells who calls, `keys.rs` are the operations on keys.

mod authenticate;
mod keys;

pub use authenticate::{Authenticator, OperatorKeys, authenticate};
pub use keys::{ApiKeyBody, deployment_api, tenant_api};
