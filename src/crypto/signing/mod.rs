//! Keys that sign tokens, and tokens that were signed (RFC 7515, 7517, 7519).
//!
//! Each organization has keys of its own; the private half is sealed in its file. RS256 is what every
//! OpenID Connect library must take (OpenID Connect Core section 15.1), ES256 is smaller and faster.

mod stock;
mod token;

pub use stock::KeyStock;
pub use token::{JwtHead, PublicKey, peek, verify};

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use aws_lc_rs::{encoding, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::base::{Error, Result};

/// How a token is signed (RFC 7518 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    RS256,
    ES256,
}

impl Algorithm {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
        }
    }

    const fn to_jsonwebtoken(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::RS256 => jsonwebtoken::Algorithm::RS256,
            Self::ES256 => jsonwebtoken::Algorithm::ES256,
        }
    }
}

/// Not one of the algorithms that we sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected RS256 or ES256")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        match text {
            "RS256" => Ok(Self::RS256),
            "ES256" => Ok(Self::ES256),
            _ => Err(UnknownAlgorithm),
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key that has just been made and has no name yet.
pub struct NewSigningKey {
    pub algorithm: Algorithm,
    /// The private key (RFC 5208), to be sealed.
    pub pkcs8: Zeroizing<Vec<u8>>,
    /// `kty` and the public numbers, nothing else.
    pub public_jwk: Value,
}

impl fmt::Debug for NewSigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewSigningKey[{}]", self.algorithm)
    }
}

/// Makes a key: RSA takes a core for hundreds of milliseconds (see [`KeyStock`]), P-256 well under one.
pub fn generate(algorithm: Algorithm) -> Result<NewSigningKey> {
    let failed = |_| Error::internal(format!("an {algorithm} key could not be made"));
    let pkcs8 = Zeroizing::new(match algorithm {
        Algorithm::RS256 => {
            let pair = rsa::KeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
            let der: encoding::Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
            der.as_ref().to_vec()
        }
        Algorithm::ES256 => {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
            pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec()
        }
    });
    let public_jwk = public_jwk(algorithm, &encoding_key(algorithm, &pkcs8)?)?;
    Ok(NewSigningKey { algorithm, pkcs8, public_jwk })
}

fn encoding_key(algorithm: Algorithm, pkcs8: &[u8]) -> Result<EncodingKey> {
    match algorithm {
        // The PEM way in, because the DER way wants the older PKCS#1.
        Algorithm::RS256 => {
            let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(pkcs8));
            EncodingKey::from_rsa_pem(Zeroizing::new(pem).as_bytes()).map_err(unusable)
        }
        Algorithm::ES256 => Ok(EncodingKey::from_ec_der(pkcs8)),
    }
}

fn public_jwk(algorithm: Algorithm, key: &EncodingKey) -> Result<Value> {
    let jwk = Jwk::from_encoding_key(key, algorithm.to_jsonwebtoken()).map_err(unusable)?;
    serde_json::to_value(&jwk.algorithm).map_err(|error| Error::internal("a public key has no text").source(error))
}

fn unusable(error: jsonwebtoken::errors::Error) -> Error {
    Error::internal("a signing key cannot be used").source(error)
}

/// A key ready for use; clones share it.
#[derive(Clone)]
pub struct SigningKey(Arc<Loaded>);

struct Loaded {
    encoding: EncodingKey,
    public: PublicKey,
    public_jwk: Value,
}

impl SigningKey {
    /// From what was stored. Fails if the two halves are not of one key, since everything signed
    /// then would be refused by everyone.
    pub fn load(kid: &str, algorithm: Algorithm, pkcs8: &[u8], public_jwk: &Value) -> Result<Self> {
        let encoding = encoding_key(algorithm, pkcs8)?;
        let derived = self::public_jwk(algorithm, &encoding)?;
        if !contains(public_jwk, &derived) {
            return Err(Error::internal(format!("the halves of the signing key {kid} do not belong together")));
        }
        let public = PublicKey::from_jwk(kid, algorithm, &derived)?;
        Ok(Self(Arc::new(Loaded { encoding, public, public_jwk: derived })))
    }

    #[must_use]
    pub fn kid(&self) -> &str {
        self.0.public.kid()
    }

    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.0.public.algorithm()
    }

    /// The half that verifies.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.0.public.clone()
    }

    /// A JWT with exactly these claims. `typ` tells kinds of tokens apart (RFC 8725 section 3.11):
    /// an ID token is not an access token, even with the same claims.
    pub fn sign<T: Serialize>(&self, typ: &'static str, claims: &T) -> Result<String> {
        let mut header = Header::new(self.algorithm().to_jsonwebtoken());
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid().to_owned());
        encode(&header, claims, &self.0.encoding)
            .map_err(|error| Error::internal("a token could not be signed").source(error))
    }

    /// The entry of the JWKS document (RFC 7517 section 4).
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = self.0.public_jwk.clone();
        jwk["kid"] = self.kid().into();
        jwk["alg"] = self.algorithm().as_str().into();
        jwk["use"] = "sig".into();
        jwk
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey[{} {}]", self.algorithm(), self.kid())
    }
}

/// Whether every member of `part` is the same in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    part.as_object().is_some_and(|part| part.iter().all(|(name, value)| whole.get(name) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_sign_what_their_public_half_verifies() {
        for algorithm in [Algorithm::RS256, Algorithm::ES256] {
            let new = generate(algorithm).unwrap();
            let key = SigningKey::load("sig_1", algorithm, &new.pkcs8, &new.public_jwk).unwrap();
            let jwt = key.sign("at+jwt", &serde_json::json!({ "sub": "mem_1" })).unwrap();
            let (head, _) = peek::<Value>(&jwt).unwrap();
            assert_eq!((head.alg.as_str(), head.kid.as_deref()), (algorithm.as_str(), Some("sig_1")));
            let claims: Value = verify(&jwt, &key.public(), "at+jwt").unwrap();
            assert_eq!(claims, serde_json::json!({ "sub": "mem_1" }));
        }
    }

    #[test]
    fn the_published_key_has_no_private_member() {
        for (algorithm, expected) in [
            (Algorithm::RS256, vec!["alg", "e", "kid", "kty", "n", "use"]),
            (Algorithm::ES256, vec!["alg", "crv", "kid", "kty", "use", "x", "y"]),
        ] {
            let new = generate(algorithm).unwrap();
            let key = SigningKey::load("sig_1", algorithm, &new.pkcs8, &new.public_jwk).unwrap();
            let jwk = key.jwk();
            let mut names: Vec<_> = jwk.as_object().unwrap().keys().map(String::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, expected);
            assert!(!format!("{new:?}{key:?}").contains(jwk.get("n").or(jwk.get("x")).unwrap().as_str().unwrap()));
        }
    }

    #[test]
    fn halves_of_different_keys_are_not_loaded() {
        let (one, other) = (generate(Algorithm::ES256).unwrap(), generate(Algorithm::ES256).unwrap());
        assert!(SigningKey::load("sig_1", Algorithm::ES256, &one.pkcs8, &other.public_jwk).is_err());
        assert!(SigningKey::load("sig_1", Algorithm::RS256, &one.pkcs8, &one.public_jwk).is_err());
        assert!(SigningKey::load("sig_1", Algorithm::ES256, &one.pkcs8[1..], &one.public_jwk).is_err());
        assert!(SigningKey::load("sig_1", Algorithm::ES256, b"", &Value::Null).is_err());
    }

    #[test]
    fn names_of_algorithms() {
        for algorithm in [Algorithm::RS256, Algorithm::ES256] {
            assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
            assert_eq!(serde_json::to_value(algorithm).unwrap(), algorithm.as_str());
        }
        for wrong in ["none", "HS256", "rs256", ""] {
            assert_eq!(wrong.parse::<Algorithm>(), Err(UnknownAlgorithm));
        }
    }
}
