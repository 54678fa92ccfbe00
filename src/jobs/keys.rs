//! Rotations of keys, and the end of keys that nothing needs any more. Whoever does this sleeps until there is something.

use tokio::time::timeout;

use crate::features::{DeploymentState, encryption, keys};

/// Starts it; it ends when the desk is closed.
pub fn start(state: DeploymentState) {
    tokio::spawn(async move {
        // What a crash has interrupted goes on at once.
        while let Some(wait) = keys::round(&state).await {
            let wait = wait.min(encryption::round(&state).await);
            let _ = timeout(wait, state.keys.rung()).await;
        }
    });
}
