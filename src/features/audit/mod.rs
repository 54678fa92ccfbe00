//! The audit log: who did what to whom, in the same transaction as the act, in a chain of hashes.
//!
//! It owns the table `audit_event`, in every organization's file and in the catalog (the operators'
//! log). An event's personal data (actor, targets, context) is in a payload of which the chain holds
//! only a salted digest, so that erasing a person later does not break the chain.

#[cfg(test)]
mod tests;

mod erase;
pub mod http;
mod store;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use erase::{Erased, Known, Person, about, erased_members, learn, ranges, strip};
pub use store::{each, each_after, list, newest_action};

use crate::base::{AuditEventId, MemberId, OrganizationId, Result, Timestamp};
use crate::crypto::{hash, random};
use crate::sqlite::{Kind, Read, Write};

/// A person was taken out of the log. The event says which others it has left without their content.
pub const ERASED: &str = "member.erased";
/// A member was deleted. The event says which address they had, so that they can still be erased.
pub const DELETED: &str = "member.deleted";

/// Who acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Actor {
    /// `member`, `api_key`, `operator`, `application`, `system` or `anonymous`.
    pub r#type: String,
    pub id: Option<String>,
    pub name: Option<String>,
}

impl Actor {
    #[must_use]
    pub fn member(id: MemberId, name: &str) -> Self {
        Self { r#type: "member".into(), id: Some(id.to_string()), name: Some(name.to_owned()) }
    }

    /// Whoever runs the deployment: with a key of that id, or on its own machine.
    #[must_use]
    pub fn operator(id: Option<String>, name: Option<&str>) -> Self {
        Self { r#type: "operator".into(), id, name: name.map(str::to_owned) }
    }

    #[must_use]
    pub fn anonymous() -> Self {
        Self { r#type: "anonymous".into(), id: None, name: None }
    }

    #[must_use]
    pub fn system() -> Self {
        Self { r#type: "system".into(), id: None, name: None }
    }
}

/// What was acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Target {
    /// `member`, `session`, `organization`, `application`, `api_key`, `signing_key`.
    pub r#type: String,
    pub id: String,
    pub name: Option<String>,
}

impl Target {
    #[must_use]
    pub fn new(kind: &str, id: impl ToString) -> Self {
        Self { r#type: kind.to_owned(), id: id.to_string(), name: None }
    }

    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// From where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Context {
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub session_id: Option<String>,
    pub application_id: Option<String>,
}

/// Who acts, from where, in which request: made by the edge, handed to every rule that records.
#[derive(Debug, Clone)]
pub struct By {
    pub actor: Actor,
    pub context: Context,
    pub request_id: String,
}

impl By {
    /// The same request, seen as the act of `actor`.
    #[must_use]
    pub fn as_actor(&self, actor: Actor) -> Self {
        Self { actor, ..self.clone() }
    }

    /// The deployment's own doing.
    #[must_use]
    pub fn system() -> Self {
        Self { actor: Actor::system(), context: Context::default(), request_id: "system".into() }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    Failure,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// What happened; `action` is `resource.past_participle`.
#[derive(Debug, Clone)]
pub struct Act {
    action: &'static str,
    outcome: Outcome,
    targets: Vec<Target>,
    metadata: Map<String, Value>,
}

impl Act {
    #[must_use]
    pub fn new(action: &'static str) -> Self {
        Self { action, outcome: Outcome::Success, targets: Vec::new(), metadata: Map::new() }
    }

    #[must_use]
    pub fn about(action: &'static str, organization: OrganizationId) -> Self {
        Self::new(action).on(Target::new("organization", organization))
    }

    #[must_use]
    pub fn failed(action: &'static str) -> Self {
        Self { outcome: Outcome::Failure, ..Self::new(action) }
    }

    #[must_use]
    pub fn on(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }
}

/// An event as stored.
#[derive(Debug, Clone)]
pub struct Event {
    pub sequence: i64,
    pub id: AuditEventId,
    pub occurred_at: Timestamp,
    pub action: String,
    pub outcome: String,
    /// `None` after an erasure.
    pub payload: Option<Payload>,
    payload_text: Option<String>,
    payload_salt: Option<Vec<u8>>,
    payload_digest: Vec<u8>,
    pub prev_hash: Vec<u8>,
    pub hash: Vec<u8>,
}

/// The part of an event that may hold personal data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Payload {
    pub actor: Actor,
    pub targets: Vec<Target>,
    pub context: Context,
    pub request_id: String,
    pub metadata: Map<String, Value>,
}

/// Appends an event to the chain. Call it in the transaction of the act itself.
pub fn record<K: Kind>(db: &Write<'_, K>, by: &By, act: Act) -> Result<AuditEventId> {
    let (sequence, prev_hash) = match store::last(db)? {
        Some((sequence, hash)) => (sequence + 1, hash),
        None => (1, vec![0; 32]),
    };
    let payload = Payload {
        actor: by.actor.clone(),
        targets: act.targets,
        context: by.context.clone(),
        request_id: by.request_id.clone(),
        metadata: act.metadata,
    };
    let text = serde_json::to_string(&payload)
        .map_err(|error| crate::base::Error::internal("an audit event could not be written").source(error))?;
    let salt: [u8; 16] = random::bytes();
    let digest = payload_digest(&salt, &text);
    let id = random::id(db.now());
    let mut event = Event {
        sequence,
        id,
        occurred_at: db.now(),
        action: act.action.to_owned(),
        outcome: act.outcome.as_str().to_owned(),
        payload: None,
        payload_text: Some(text),
        payload_salt: Some(salt.to_vec()),
        payload_digest: digest.to_vec(),
        prev_hash,
        hash: Vec::new(),
    };
    event.hash = chain_hash(&event).to_vec();
    store::insert(db, &event)?;
    Ok(id)
}

/// Where a chain ends: the newest event's place and hash.
pub fn head<K: Kind>(db: &Read<'_, K>) -> Result<(i64, String)> {
    Ok(store::last(db)?.map_or((0, String::new()), |(sequence, hash)| (sequence, hex::encode(hash))))
}

/// Whether an act with this in its metadata is in the log, so that what is done again after a crash is told once.
pub fn has_happened<K: Kind>(db: &Read<'_, K>, action: &str, key: &str, value: &Value) -> Result<bool> {
    // What came along with an archive has happened elsewhere, and to other things of the same name.
    let here = store::of_action(db, "organization.imported")?.last().map_or(0, |event| event.sequence);
    is_said_after(db, here, action, key, value)
}

/// The same of what nothing else anywhere is named, such as the hash of an event.
pub fn is_said<K: Kind>(db: &Read<'_, K>, action: &str, key: &str, value: &Value) -> Result<bool> {
    is_said_after(db, 0, action, key, value)
}

fn is_said_after<K: Kind>(db: &Read<'_, K>, after: i64, action: &str, key: &str, value: &Value) -> Result<bool> {
    let said = |event: &Event| event.payload.as_ref().and_then(|payload| payload.metadata.get(key)) == Some(value);
    Ok(store::of_action(db, action)?.iter().any(|event| event.sequence > after && said(event)))
}

/// The result of walking a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Verification {
    /// Always `audit_verification`.
    pub object: &'static str,
    pub intact: bool,
    /// Events that were checked.
    pub events: i64,
    /// The hash of the newest event, in hex; keep it elsewhere to notice a cut-off end.
    pub head: String,
    /// The first event that does not fit, and why.
    pub broken_at: Option<i64>,
    pub reason: Option<String>,
}

/// Walks the whole chain from its first event.
pub fn verify<K: Kind>(db: &Read<'_, K>) -> Result<Verification> {
    let mut expected_sequence = 1;
    let mut previous = vec![0; 32];
    let mut broken: Option<(i64, &'static str)> = None;
    let mut blank = BTreeSet::new();
    each(db, |event| {
        if event.payload_text.is_none() {
            blank.insert(event.sequence);
        }
        for (first, last) in erased_by(&event) {
            let accounted: Vec<i64> = blank.range(first..=last.max(first)).copied().collect();
            for sequence in accounted {
                blank.remove(&sequence);
            }
        }
        if broken.is_none() {
            broken = defect(&event, expected_sequence, &previous).map(|reason| (event.sequence, reason));
            expected_sequence += 1;
            previous.clone_from(&event.hash);
        }
        Ok(())
    })?;
    // Content may be missing only where an erasure says so.
    if let Some(&first) = blank.first()
        && broken.is_none_or(|(sequence, _)| first < sequence)
    {
        broken = Some((first, "its content is missing, and no erasure says so"));
    }
    Ok(Verification {
        object: "audit_verification",
        intact: broken.is_none(),
        events: expected_sequence - 1,
        head: hex::encode(&previous),
        broken_at: broken.map(|(sequence, _)| sequence),
        reason: broken.map(|(_, reason)| reason.to_owned()),
    })
}

fn defect(event: &Event, expected_sequence: i64, previous: &[u8]) -> Option<&'static str> {
    if event.sequence != expected_sequence {
        return Some("an event is missing before this one");
    }
    if event.prev_hash != previous {
        return Some("it does not follow the event before it");
    }
    if event.hash != chain_hash(event) {
        return Some("its hash does not match its content");
    }
    let Some(text) = &event.payload_text else { return None };
    // Without its salt a payload could be anything.
    match &event.payload_salt {
        Some(salt) if event.payload_digest == payload_digest(salt, text) => None,
        _ => Some("its payload was changed"),
    }
}

/// The events that this one says were taken out, as pairs of first and last.
fn erased_by(event: &Event) -> Vec<(i64, i64)> {
    let payload = event.payload.as_ref().filter(|_| event.action == ERASED);
    let events = payload.and_then(|payload| payload.metadata.get("events")?.as_str());
    events.map(erase::runs).unwrap_or_default()
}

fn payload_digest(salt: &[u8], text: &str) -> [u8; 32] {
    hash::sha256(&[salt, text.as_bytes()].concat())
}

/// Fields are preceded by their length, so that no two events can be written as one text.
fn chain_hash(event: &Event) -> [u8; 32] {
    let mut bytes = b"bulkhead audit 1".to_vec();
    for field in [
        event.prev_hash.as_slice(),
        &event.sequence.to_be_bytes(),
        event.id.to_string().as_bytes(),
        &event.occurred_at.millis().to_be_bytes(),
        event.action.as_bytes(),
        event.outcome.as_bytes(),
        &event.payload_digest,
    ] {
        bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(field);
    }
    hash::sha256(&bytes)
}
