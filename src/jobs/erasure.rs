//! Erasures that are due. Whoever does this sleeps until the next one is, and looks at no organization meanwhile.

use tokio::time::timeout;

use crate::features::{DeploymentState, erasure};

/// Starts it; it ends when the desk is closed.
pub fn start(state: DeploymentState) {
    tokio::spawn(async move {
        // What a crash has interrupted goes on at once.
        while let Some(wait) = erasure::round(&state).await {
            let _ = timeout(wait, state.erasures.rung()).await;
        }
    });
}
