//! RSA keys made before they are needed.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::sync::mpsc::{Receiver, channel};

use super::{Algorithm, NewSigningKey, generate};
use crate::base::{Error, Result};
use crate::crypto::background;

/// A few RSA keys in memory, refilled by one thread of low priority. Making one takes
/// hundreds of milliseconds, which nobody should wait for while an organization is created. Clones share the stock; the thread
/// ends with the last of them.
#[derive(Clone, Debug)]
pub struct KeyStock {
    keys: Arc<Mutex<Receiver<Result<NewSigningKey>>>>,
}

impl KeyStock {
    /// Keeps `target` keys (at least one) at hand, and the next one in the thread's hand.
    pub fn start(target: usize) -> Result<Self> {
        let (sender, receiver) = channel(target.max(1));
        background::spawn("signing-keys".to_owned(), move || {
            // The channel is the stock: sending waits while it is full, and fails when nobody is left.
            while sender.blocking_send(generate(Algorithm::RS256)).is_ok() {}
        })?;
        Ok(Self { keys: Arc::new(Mutex::new(receiver)) })
    }

    /// A key that nobody else has. ES256 is made at once; RS256 comes from the stock, or from the
    /// thread as soon as it has made one. Those who wait are served in order.
    pub async fn take(&self, algorithm: Algorithm) -> Result<NewSigningKey> {
        match algorithm {
            Algorithm::ES256 => generate(Algorithm::ES256),
            Algorithm::RS256 => {
                let key = self.keys.lock().await.recv().await;
                key.unwrap_or_else(|| Err(Error::internal("the thread that makes signing keys has ended")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_key_is_given_out_once_even_from_an_empty_stock() {
        let stock = KeyStock::start(0).unwrap();
        let takers: Vec<_> = (0..3)
            .map(|_| {
                let stock = stock.clone();
                tokio::spawn(async move { stock.take(Algorithm::RS256).await })
            })
            .collect();
        let mut moduli = Vec::new();
        for taker in takers {
            let key = taker.await.unwrap().unwrap();
            assert_eq!(key.algorithm, Algorithm::RS256);
            moduli.push(key.public_jwk["n"].as_str().unwrap().to_owned());
        }
        moduli.sort_unstable();
        moduli.dedup();
        assert_eq!(moduli.len(), 3);
        assert_eq!(stock.take(Algorithm::ES256).await.unwrap().public_jwk["crv"], "P-256");
    }

    #[tokio::test]
    async fn whoever_stops_waiting_takes_nothing_with_them() {
        let stock = KeyStock::start(1).unwrap();
        drop(tokio::time::timeout(std::time::Duration::ZERO, stock.take(Algorithm::RS256)).await);
        assert!(stock.take(Algorithm::RS256).await.is_ok());
    }
}
