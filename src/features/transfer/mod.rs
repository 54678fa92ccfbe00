//! Moving an organization to another deployment, with a fence: at no moment two of them take its writes.
//!
//! It owns the catalog's rows of transfers ([`crate::catalog::transfers`]) on both sides; whoever has a key of both
//! carries things from one to the other (the command line: `org push`, `org pull`). Each step is one transaction of
//! one side, and can be taken again. The source closes the file to writers before it makes the archive, and the
//! target serves nothing until it is shown a proof that the source makes only when it has let go. The other way round,
//! the source takes back what it has let go of only if it is shown a waiver, which the target makes only when it will
//! never serve it. So wherever it stops, the source takes writes, or the target does, or nobody until it goes on, and
//! somebody can always be brought to. `docs/MOVING.md` has the table. It leaves the archive to `export`, and looking
//! at it to `import`.

pub mod arrival;
pub mod departure;
pub mod http;
pub mod proof;
mod waiver;

use crate::base::{Result, TransferId, Turns};
use crate::crypto::{Algorithm, SigningKey};
use crate::features::DeploymentState;
use crate::features::signing_key::Holder;

/// One step of an arrival at a time: what is being taken in is not thrown away beside it.
pub type Desk = Turns<TransferId>;

/// Before the first request: what has left takes no writes, and what was called off is cleared up.
pub async fn recover(state: &DeploymentState) -> Result<()> {
    departure::recover(state).await?;
    arrival::recover(state).await
}

/// The key that signs now, whose public half the other side is told.
async fn signer(state: &DeploymentState) -> Result<SigningKey> {
    let holder = Holder::Deployment(&state.tenant.deployment_keys);
    let keys = holder.keys_for(&[Algorithm::ES256], &state.tenant.key_stock).await?;
    let signer = keys.signer(Algorithm::ES256, state.tenant.clock.now()).cloned();
    signer.ok_or_else(|| crate::base::Error::internal("the deployment has no key that signs by ES256"))
}

/// The key by this JWK, also when another one signs by now: the other side knows no other.
async fn signer_by(state: &DeploymentState, jwk: &str) -> Result<SigningKey> {
    let keys = Holder::Deployment(&state.tenant.deployment_keys).keys().await?;
    let jwk: serde_json::Value = serde_json::from_str(jwk).unwrap_or_default();
    let found = keys.all().iter().find(|serving| serving.key.jwk()["kid"] == jwk["kid"]);
    found.map(|serving| serving.key.clone()).ok_or_else(|| {
        crate::base::Error::new(&crate::base::codes::TRANSFER_STATE)
            .detail("The key that this transfer was prepared with is gone: call it off and begin anew.")
    })
}
