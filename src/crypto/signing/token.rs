//! Reading tokens of ours that come back: first whose they are, then whether they are genuine.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, Validation, decode};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use super::Algorithm;
use crate::base::{Error, Result};

/// Ours have about one KiB.
const LONGEST: usize = 16 * 1024;

/// What a token says of itself. Nothing in it is to be believed before [`verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtHead {
    pub kid: Option<String>,
    pub alg: String,
    pub typ: Option<String>,
}

#[derive(Deserialize)]
struct RawHead {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // What would change how a token is to be verified, or with which key. Ours never have any of
    // these; a library that believes them is how forged tokens are accepted (RFC 8725 section 2).
    crit: Option<IgnoredAny>,
    jwk: Option<IgnoredAny>,
    jku: Option<IgnoredAny>,
    x5u: Option<IgnoredAny>,
    x5c: Option<IgnoredAny>,
    zip: Option<IgnoredAny>,
}

impl RawHead {
    fn is_plain(&self) -> bool {
        [&self.crit, &self.jwk, &self.jku, &self.x5u, &self.x5c, &self.zip].iter().all(|member| member.is_none())
    }
}

/// Reads a token WITHOUT verifying it, to find the organization and the key that it should be
/// verified with. Whatever it is used for has to be verified afterwards.
#[must_use]
pub fn peek<T: DeserializeOwned>(jwt: &str) -> Option<(JwtHead, T)> {
    let (head, claims) = parts(jwt)?;
    Some((JwtHead { kid: head.kid, alg: head.alg, typ: head.typ }, read(claims)?))
}

/// The claims of a token that was signed with `key` as a token of type `typ`; `None` is anything else.
///
/// The algorithm is that of the key's record. The token's own must be the same, so that neither
/// `none` nor a public key taken as an HMAC secret gets in. Times and audience are the caller's.
#[must_use]
pub fn verify<T: DeserializeOwned>(jwt: &str, key: &PublicKey, typ: &str) -> Option<T> {
    let (head, _) = parts(jwt)?;
    let expected = head.alg == key.algorithm.as_str()
        && head.kid.as_deref() == Some(key.kid())
        && head.typ.as_deref() == Some(typ)
        && head.is_plain();
    if !expected {
        return None;
    }
    let mut validation = Validation::new(key.algorithm.to_jsonwebtoken());
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    decode(jwt, &key.decoding, &validation).ok().map(|token| token.claims)
}

fn parts(jwt: &str) -> Option<(RawHead, &str)> {
    if jwt.len() > LONGEST {
        return None;
    }
    let mut parts = jwt.split('.');
    let (head, claims) = (parts.next()?, parts.next()?);
    (parts.next().is_some() && parts.next().is_none()).then_some(())?;
    Some((read(head)?, claims))
}

fn read<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// The half of a key that verifies, also of a key that signs no more; clones share it.
#[derive(Clone)]
pub struct PublicKey {
    kid: Arc<str>,
    algorithm: Algorithm,
    decoding: Arc<DecodingKey>,
}

impl PublicKey {
    /// From the public numbers as stored; fails if they are not of the algorithm's kind.
    pub fn from_jwk(kid: &str, algorithm: Algorithm, jwk: &Value) -> Result<Self> {
        let member = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
        let decoding = match (algorithm, member("kty"), member("crv")) {
            (Algorithm::RS256, "RSA", "") => DecodingKey::from_rsa_components(member("n"), member("e")),
            (Algorithm::ES256, "EC", "P-256") => DecodingKey::from_ec_components(member("x"), member("y")),
            _ => return Err(Error::internal(format!("the public key {kid} is not of the kind for {algorithm}"))),
        };
        let decoding = decoding.map_err(|error| Error::internal("a public key cannot be read").source(error))?;
        Ok(Self { kid: kid.into(), algorithm, decoding: Arc::new(decoding) })
    }

    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey[{} {}]", self.algorithm, self.kid)
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::json;

    use super::super::{NewSigningKey, SigningKey, generate};
    use super::*;

    fn key(algorithm: Algorithm) -> (SigningKey, NewSigningKey) {
        let new = generate(algorithm).unwrap();
        (SigningKey::load("sig_1", algorithm, &new.pkcs8, &new.public_jwk).unwrap(), new)
    }

    fn accepted(jwt: &str, key: &SigningKey) -> bool {
        verify::<Value>(jwt, &key.public(), "at+jwt").is_some()
    }

    /// A token with any header, signed genuinely with the private key.
    #[allow(clippy::disallowed_types, reason = "the signature of the library asks for it, and ignores it")]
    fn signed_with_header(new: &NewSigningKey, header: &Value) -> String {
        use aws_lc_rs::rand::SystemRandom;
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
        let message = unsigned(header);
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &new.pkcs8).unwrap();
        let signature = pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn unsigned(header: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", part(header), part(&json!({ "sub": "mem_1" })))
    }

    #[test]
    fn a_public_key_is_no_hmac_secret() {
        for algorithm in [Algorithm::RS256, Algorithm::ES256] {
            let (key, new) = key(algorithm);
            let public = new.public_jwk.get("n").or(new.public_jwk.get("x")).unwrap().as_str().unwrap();
            let raw = URL_SAFE_NO_PAD.decode(public).unwrap();
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&raw));
            for secret in [raw.as_slice(), pem.as_bytes(), new.public_jwk.to_string().as_bytes()] {
                let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
                header.typ = Some("at+jwt".into());
                header.kid = Some("sig_1".into());
                let forged = encode(&header, &json!({ "sub": "mem_1" }), &EncodingKey::from_secret(secret)).unwrap();
                assert!(peek::<Value>(&forged).is_some());
                assert!(!accepted(&forged, &key));
                // The same with the header claiming our algorithm.
                let (_, tail) = forged.split_once('.').unwrap();
                let head = json!({ "alg": algorithm.as_str(), "typ": "at+jwt", "kid": "sig_1" });
                assert!(!accepted(&format!("{}.{tail}", URL_SAFE_NO_PAD.encode(head.to_string())), &key));
            }
        }
    }

    #[test]
    fn no_signature_is_no_token() {
        let (key, _) = key(Algorithm::ES256);
        for alg in ["none", "None", "NONE", "", "ES256"] {
            let message = unsigned(&json!({ "alg": alg, "typ": "at+jwt", "kid": "sig_1" }));
            assert!(!accepted(&format!("{message}."), &key), "{alg}");
            assert!(!accepted(&message, &key), "{alg}");
        }
    }

    #[test]
    fn only_plain_headers_of_the_expected_kind_are_accepted() {
        let (key, new) = key(Algorithm::ES256);
        let good = json!({ "alg": "ES256", "typ": "at+jwt", "kid": "sig_1" });
        assert!(accepted(&signed_with_header(&new, &good), &key));

        let changes = [
            json!({ "typ": "JWT" }),
            json!({ "typ": "AT+JWT" }),
            json!({ "typ": null }),
            json!({ "kid": "sig_2" }),
            json!({ "kid": null }),
            json!({ "alg": "ES384" }),
            json!({ "crit": ["exp"] }),
            json!({ "crit": [] }),
            json!({ "jwk": new.public_jwk }),
            json!({ "jku": "https://attacker.example/jwks" }),
            json!({ "x5u": "https://attacker.example/cert" }),
            json!({ "x5c": ["AA"] }),
        ];
        for change in changes {
            let mut header = good.clone();
            for (name, value) in change.as_object().unwrap() {
                header[name] = value.clone();
            }
            assert!(!accepted(&signed_with_header(&new, &header), &key), "{header}");
        }
    }

    #[test]
    fn other_keys_and_changed_tokens_are_refused() {
        let (key, _) = key(Algorithm::RS256);
        let (other, _) = self::key(Algorithm::RS256);
        let (elliptic, _) = self::key(Algorithm::ES256);
        let jwt = key.sign("at+jwt", &json!({ "sub": "mem_1", "exp": 1 })).unwrap();
        assert!(accepted(&jwt, &key), "the caller looks at exp, with the clock that it was given");
        assert!(!accepted(&jwt, &other));
        assert!(!accepted(&jwt, &elliptic));
        assert!(verify::<Value>(&jwt, &key.public(), "JWT").is_none());

        let parts: Vec<&str> = jwt.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(json!({ "sub": "mem_2", "exp": 1 }).to_string());
        assert!(!accepted(&format!("{}.{claims}.{}", parts[0], parts[2]), &key));
        assert!(!accepted(&format!("{jwt}="), &key));
        assert!(!accepted(&format!("{jwt}.{}", parts[2]), &key));
    }

    #[test]
    fn what_is_no_token_is_nothing() {
        let (key, _) = key(Algorithm::ES256);
        let long = key.sign("at+jwt", &json!({ "sub": "x".repeat(LONGEST) })).unwrap();
        let nested =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode("[".repeat(9000)));
        for text in ["", ".", "..", "...", "a.b.c", "é.é.é", &long, &nested] {
            assert!(peek::<Value>(text).is_none());
            assert!(!accepted(text, &key));
        }
    }

    #[test]
    fn a_public_key_is_of_its_algorithm() {
        let (_, new) = key(Algorithm::ES256);
        assert!(PublicKey::from_jwk("sig_1", Algorithm::RS256, &new.public_jwk).is_err());
        for wrong in [
            json!({}),
            json!(null),
            json!({ "kty": "oct", "k": "AA" }),
            json!({ "kty": "EC", "crv": "P-256", "x": "!", "y": "!" }),
        ] {
            assert!(PublicKey::from_jwk("sig_1", Algorithm::ES256, &wrong).is_err(), "{wrong}");
        }
    }
}
