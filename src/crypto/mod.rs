//! F1, cryptography: the only room that makes random bits, hashes, seals and signs.
//!
//! It owns the choice of algorithms (SHA-256, HMAC-SHA256, HKDF-SHA256, AES-256-GCM, Argon2id, RS256
//! and ES256, all but Argon2id from AWS-LC; age for what leaves the house in a file) and the threads that do the slow ones. It may touch
//! `base` and nothing else. It leaves alone where keys are kept, what a claim means, when something
//! expires and who may ask: it has no clock, no file and no table.

mod aead;
mod background;
pub mod envelope;
pub mod hash;
mod line;
pub mod password;
pub mod random;
pub mod seal;
mod sealer;
pub mod signing;
pub mod strength;

pub use background::Crew;
pub use hash::MacKey;
pub use line::Share;
pub use password::{HashParameters, PasswordHasher, Verdict};
pub use seal::{DataKey, MasterKey, TokenBox};
pub use sealer::{DataKeys, Sealer};
pub use signing::{Algorithm, JwtHead, KeyStock, NewSigningKey, PublicKey, SigningKey};

use crate::base::{Error, Id, OrganizationId, Result};

/// Signs, verifies, seals and opens once, so that a build with a wrong or doubled cryptographic
/// backend fails at start and not at the first sign-in (jsonwebtoken chooses its backend at the first
/// use, and answers a wrong choice with a panic).
pub fn self_test() -> Result<()> {
    let failed = |what: &str| Error::internal(format!("cryptographic self-test failed: {what}"));

    let new = signing::generate(Algorithm::ES256)?;
    let key = SigningKey::load("self-test", new.algorithm, &new.pkcs8, &new.public_jwk)?;
    let claims = serde_json::json!({ "sub": "self-test" });
    let jwt = key.sign("self-test+jwt", &claims)?;
    let verified: Option<serde_json::Value> = signing::verify(&jwt, &key.public(), "self-test+jwt");
    if verified.as_ref() != Some(&claims) {
        return Err(failed("a signature"));
    }

    let organization: OrganizationId = Id::from_bits(u128::from_be_bytes(random::bytes()));
    let sealer = Sealer::new(organization, &DataKey::generate());
    let sealed = sealer.seal("self", "test", "1", b"self-test");
    if sealer.open("self", "test", "1", &sealed)?.as_slice() != b"self-test" {
        return Err(failed("a seal"));
    }
    Ok(())
}

/// Ends the process when the library refuses what it cannot refuse: keys and lengths are fixed here,
/// and it is not asked for anything else. Going on would mean a predictable key or an unsealed secret.
fn certain<T, E>(result: std::result::Result<T, E>) -> T {
    result.unwrap_or_else(|_| std::process::abort())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_self_test_passes() {
        super::self_test().unwrap();
    }
}
