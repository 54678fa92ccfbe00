//! `Idempotency-Key`: a request that is sent twice is done once, and answered twice with the same words.
//!
//! It owns the table `idempotency`, in the catalog and in every organization's file. A row comes before
//! the work and gets the answer after it; the answer is sealed, because it may hold a secret that is
//! shown once. It knows neither what the work is nor how HTTP carries the key; that is `http.rs`.

pub mod http;
mod store;

use std::time::Duration;

use crate::base::time::length;
use crate::base::{Error, Result, Timestamp, codes};
use crate::crypto::{Sealer, hash};
use crate::sqlite::{Kind, Read, Write};

/// How long an answer is kept.
pub const KEPT: Duration = length::hours(24);
/// A request that has not answered for so long has died with its process.
const GIVEN_UP_AFTER: Duration = length::minutes(1);

const TABLE: &str = "idempotency";
const COLUMN: &str = "body";

/// What tells one keyed request apart from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Of the caller and the key.
    key: [u8; 32],
    /// Of what is asked for.
    request: [u8; 32],
}

impl Request {
    #[must_use]
    pub fn new(caller: &str, key: &str, method: &str, target: &str, body: &[u8]) -> Self {
        Self {
            key: digest(&[caller.as_bytes(), key.as_bytes()]),
            request: digest(&[method.as_bytes(), target.as_bytes(), body]),
        }
    }
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is the first: do it, then call [`end`].
    Run(Running),
    /// It was done before, with this answer.
    Replay(Reply),
}

/// The right to answer a keyed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    key: [u8; 32],
    /// Tells this run from an earlier one that was given up, but may still end.
    since: Timestamp,
}

/// An answer as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// Names of what the work has written, where its answer waited for the store of the backup to have that. Each further
    /// answer tells of the same, and waits for the same.
    pub awaited: Vec<String>,
}

impl Reply {
    /// As it is sealed: the body, behind a line with what is awaited, if anything is. No body of ours begins with NUL.
    fn to_text(&self) -> Vec<u8> {
        with_line(&self.awaited, &self.body)
    }

    fn of(status: u16, text: &[u8]) -> Self {
        let (awaited, body) = split(text);
        Self { status, body: body.to_vec(), awaited }
    }
}

fn with_line(awaited: &[String], body: &[u8]) -> Vec<u8> {
    if awaited.is_empty() {
        return body.to_vec();
    }
    [b"\0", awaited.join(" ").as_bytes(), b"\n", body].concat()
}

fn split(text: &[u8]) -> (Vec<String>, &[u8]) {
    let marked = text.strip_prefix(b"\0").and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        Some((rest.get(..end)?, rest.get(end + 1..)?))
    });
    let Some((names, body)) = marked else { return (Vec::new(), text) };
    (String::from_utf8_lossy(names).split(' ').map(str::to_owned).collect(), body)
}

/// Claims the key for this request, or finds the answer that it has got already.
pub fn begin<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, request: &Request) -> Result<Begun> {
    let now = db.now();
    // A table without an index on time: tidied in one of 64 requests, so that it stays small and the
    // others do not pay.
    if request.key[0] < 4 {
        forget_old(db)?;
    }
    let run = Begun::Run(Running { key: request.key, since: now });
    match store::get(db, &request.key)? {
        Some(row) if row.created_at > now.minus(KEPT) => {
            if row.request != request.request {
                return Err(Error::new(&codes::IDEMPOTENCY_KEY_REUSED));
            }
            if let Some(status) = row.status {
                let body = sealer.open(TABLE, COLUMN, &hex::encode(request.key), &row.body.unwrap_or_default())?;
                return Ok(Begun::Replay(Reply::of(status, &body)));
            }
            if now.since(row.created_at) < GIVEN_UP_AFTER {
                return Err(Error::new(&codes::IDEMPOTENCY_KEY_IN_USE).retry_after(length::seconds(1)));
            }
            store::put(db, &request.key, &request.request)?;
            Ok(run)
        }
        _ => {
            store::put(db, &request.key, &request.request)?;
            Ok(run)
        }
    }
}

/// Keeps the answer for the next try, or frees the key if the answer is not one to keep.
pub fn end<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, running: Running, reply: &Reply) -> Result<()> {
    if is_final(reply.status) {
        let sealed = sealer.seal(TABLE, COLUMN, &hex::encode(running.key), &reply.to_text());
        store::set_reply(db, &running.key, running.since, reply.status, &sealed)
    } else {
        store::delete(db, &running.key, running.since)
    }
}

/// Empties the answers that a person is in. The requests stay done: sent again, they get an empty answer.
pub fn strip<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, is_about: impl Fn(&str) -> bool) -> Result<()> {
    for (key, sealed) in store::answers(db)? {
        let row = hex::encode(key);
        let answer = sealer.open(TABLE, COLUMN, &row, &sealed)?;
        let (awaited, body) = split(&answer);
        if is_about(&String::from_utf8_lossy(body)) {
            store::replace(db, &key, &sealer.seal(TABLE, COLUMN, &row, &with_line(&awaited, b"{}")))?;
        }
    }
    Ok(())
}

/// Refuses what a data key has sealed that is not there any more.
pub fn require_keys<K: Kind>(db: &Read<'_, K>, sealer: &Sealer) -> Result<()> {
    store::answers(db)?.iter().try_for_each(|(_, sealed)| sealer.require_key_of(sealed))
}

/// Seals anew what an older data key has sealed; returns how many answers.
pub fn reseal<K: Kind>(db: &Write<'_, K>, sealer: &Sealer) -> Result<usize> {
    let mut count = 0;
    for (key, sealed) in store::answers(db)? {
        if let Some(anew) = sealer.reseal(TABLE, COLUMN, &hex::encode(key), &sealed)? {
            store::replace(db, &key, &anew)?;
            count += 1;
        }
    }
    Ok(count)
}

/// Whether there are answers that nobody can ask for any more.
pub fn has_old<K: Kind>(db: &Read<'_, K>) -> Result<bool> {
    store::has_older(db, db.now().minus(KEPT))
}

/// Forgets them.
pub fn forget_old<K: Kind>(db: &Write<'_, K>) -> Result<()> {
    store::forget_older(db, db.now().minus(KEPT))
}

/// Whether an answer is the outcome of the request itself, and so the same for the next try: not a fault
/// of ours, and not a refusal that passes with time or with another credential.
const fn is_final(status: u16) -> bool {
    matches!(status, 200..500) && !matches!(status, 401 | 403 | 408 | 425 | 429)
}

/// Parts are preceded by their length, so that none can be shifted into the next.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| 8 + part.len()).sum());
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
    }
    hash::sha256(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_request_counts() {
        let request = Request::new("key_1", "a", "POST", "/v1/x", b"{}");
        assert_eq!(request, Request::new("key_1", "a", "POST", "/v1/x", b"{}"));
        assert_ne!(request.key, Request::new("key_2", "a", "POST", "/v1/x", b"{}").key);
        assert_ne!(request.key, Request::new("key_1a", "", "POST", "/v1/x", b"{}").key);
        for other in [
            Request::new("key_1", "a", "PUT", "/v1/x", b"{}"),
            Request::new("key_1", "a", "POST", "/v1/x?y", b"{}"),
            Request::new("key_1", "a", "POST", "/v1/x", b"{ }"),
            Request::new("key_1", "a", "POST", "/v1/x{", b"}"),
        ] {
            assert_eq!(request.key, other.key);
            assert_ne!(request.request, other.request);
        }
    }

    #[test]
    fn what_is_awaited_is_kept_with_the_answer() {
        let awaited = ["org_01", "catalog"].map(str::to_owned).to_vec();
        for body in [&b"{}"[..], b"", b"a\nb"] {
            for awaited in [Vec::new(), awaited.clone()] {
                let reply = Reply { status: 201, body: body.to_vec(), awaited };
                assert_eq!(Reply::of(201, &reply.to_text()), reply);
            }
            // As it was kept before.
            assert_eq!(Reply::of(200, body), Reply { status: 200, body: body.to_vec(), awaited: Vec::new() });
        }
    }

    #[test]
    fn what_passes_is_not_kept() {
        for kept in [200, 201, 204, 400, 404, 409, 422] {
            assert!(is_final(kept), "{kept}");
        }
        for passing in [401, 403, 408, 429, 500, 503] {
            assert!(!is_final(passing), "{passing}");
        }
    }
}
