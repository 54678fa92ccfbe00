//! Taking one person out of a log without breaking its chain: the content of the events that are about them goes,
//! its salted digest stays.

use std::collections::HashSet;

use serde_json::Value;

use super::{DELETED, ERASED, Event, Payload, each, each_after, store};
use crate::base::{Email, MemberId, Result, SessionId, Timestamp};
use crate::sqlite::{Read, TenantDb, Write};

/// What a person is known by in a log.
#[derive(Debug, Clone)]
pub struct Person {
    id: String,
    /// Normalized; also those of earlier days.
    addresses: Vec<String>,
    pub sessions: Vec<SessionId>,
}

impl Person {
    #[must_use]
    pub fn new(id: MemberId) -> Self {
        Self { id: id.to_string(), addresses: Vec::new(), sessions: Vec::new() }
    }

    /// One more address, normalized; tells whether it is a new one.
    pub fn add_address(&mut self, normalized: &str) -> bool {
        let is_new = !self.is_address(normalized);
        if is_new {
            self.addresses.push(normalized.to_owned());
        }
        is_new
    }

    /// Whether this is one of their addresses.
    #[must_use]
    pub fn is_address(&self, normalized: impl AsRef<str>) -> bool {
        self.addresses.iter().any(|address| address == normalized.as_ref())
    }

    /// All of them.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        self.addresses.iter().map(String::as_str)
    }

    /// It names them no more.
    pub fn forget_address(&mut self, normalized: &str) {
        self.addresses.retain(|address| address != normalized);
    }

    /// Whether a text names them.
    #[must_use]
    pub fn is_in(&self, text: &str) -> bool {
        let lower = text.to_lowercase();
        lower.contains(&self.id) || self.addresses.iter().any(|address| holds_address(&lower, address))
    }

    fn is_meant_by(&self, payload: &Payload) -> bool {
        let is_session = |id: &str| self.sessions.iter().any(|session| session.to_string() == id);
        let named = |id: Option<&str>, name: Option<&str>| {
            id.is_some_and(|id| id == self.id || is_session(id)) || name.is_some_and(|name| self.is_in(name))
        };
        named(payload.actor.id.as_deref(), payload.actor.name.as_deref())
            || payload.targets.iter().any(|target| named(Some(&target.id), target.name.as_deref()))
            || payload.context.session_id.as_deref().is_some_and(is_session)
            || payload.metadata.values().any(|value| self.is_in_value(value))
    }

    fn is_in_value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(values) => values.iter().any(|value| self.is_in_value(value)),
            Value::Object(values) => values.values().any(|value| self.is_in_value(value)),
            _ => false,
        }
    }
}

/// The ids of everybody who was erased.
pub fn erased_members(db: &Read<'_, TenantDb>) -> Result<HashSet<String>> {
    let targets = store::of_action(db, ERASED)?.into_iter().filter_map(|event| event.payload);
    let targets = targets.flat_map(|payload| payload.targets).filter(|target| target.r#type == "member");
    Ok(targets.map(|target| target.id).collect())
}

/// Whether an address stands in a text by itself, and not as a part of a longer one.
fn holds_address(text: &str, address: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-@".contains(c);
    text.match_indices(address).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + address.len()..].chars();
        // A full stop behind it ends a sentence; one that goes on is another address.
        let ends = match after.next() {
            Some('.') => after.next().is_none_or(char::is_whitespace),
            next => next.is_none_or(|c| !is_part(c)),
        };
        before.is_none_or(|c| !is_part(c)) && ends
    })
}

/// What a log knows of a person, be they a member or not any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// An event that still has its content is about them.
    pub is_named: bool,
    pub erased: Option<Erased>,
}

/// What was taken out of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Events that have lost their content.
    pub events: usize,
    /// Mails that waited.
    pub mails: usize,
    /// When it was done last.
    pub at: Timestamp,
}

/// Adds what the log knows the person by besides. Addresses of earlier days: events call a member without a name by
/// their address, and a deletion says which it was. Sessions of which the rows are gone.
pub fn learn(db: &Read<'_, TenantDb>, person: &mut Person) -> Result<Known> {
    let (mut known, mut names, mut sessions) = (Known::default(), Vec::new(), HashSet::new());
    each(db, |event| {
        let at = event.occurred_at;
        let Some(payload) = event.payload else { return Ok(()) };
        let is_actor = payload.actor.id.as_deref() == Some(&person.id);
        let is_target = payload.targets.iter().any(|target| target.id == person.id);
        if event.action == ERASED {
            if is_target {
                known.erased = Some(Erased::and(known.erased, &payload, at));
            }
            return Ok(());
        }
        if !is_actor && !is_target {
            return Ok(());
        }
        known.is_named = true;
        // One whom somebody else has ended is no session of theirs.
        if is_target || event.action == "session.created" {
            sessions
                .extend(payload.targets.iter().filter(|target| target.r#type == "session").map(|one| one.id.clone()));
        }
        if is_actor {
            sessions.extend(payload.context.session_id);
            names.extend(payload.actor.name);
        }
        if is_target && event.action == DELETED {
            names.extend(payload.metadata.get("email").and_then(Value::as_str).map(str::to_owned));
        }
        names.extend(payload.targets.into_iter().filter(|target| target.id == person.id).filter_map(|one| one.name));
        Ok(())
    })?;
    for name in names {
        if let Some(email) = Email::parse(&name) {
            person.add_address(email.normalized());
        }
    }
    person.sessions.extend(sessions.iter().filter_map(|id| id.parse::<SessionId>().ok()));
    person.sessions.sort_unstable();
    person.sessions.dedup();
    Ok(known)
}

impl Erased {
    /// What this event tells of besides those before it.
    fn and(before: Option<Self>, payload: &Payload, at: Timestamp) -> Self {
        let text = payload.metadata.get("events").and_then(Value::as_str).unwrap_or_default();
        // A log that came in an archive says what somebody has written into it.
        let length = |(first, last): &(i64, i64)| last.saturating_sub(*first).saturating_add(1).max(0);
        let events = runs(text).iter().map(length).fold(0, i64::saturating_add);
        let mails = payload.metadata.get("mails").and_then(Value::as_u64).unwrap_or(0);
        let number = |count: Option<usize>| count.unwrap_or(0);
        Self {
            events: before.map_or(0, |one| one.events).saturating_add(number(usize::try_from(events).ok())),
            mails: before.map_or(0, |one| one.mails).saturating_add(number(usize::try_from(mails).ok())),
            at,
        }
    }
}

/// The events behind this one that are about the person, in order.
pub fn about(db: &Read<'_, TenantDb>, person: &Person, after: i64) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    each_after(db, after, |event: Event| {
        let is_meant = match (&event.payload, &event.payload_text) {
            (Some(payload), _) => person.is_meant_by(payload),
            (None, Some(text)) => person.is_in(text),
            (None, None) => false,
        };
        // What says that somebody was erased names nobody, and vouches for the gaps.
        if is_meant && event.action != ERASED {
            found.push(event.sequence);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Takes the content of these events out.
pub fn strip(db: &Write<'_, TenantDb>, events: &[i64]) -> Result<()> {
    events.iter().try_for_each(|&sequence| store::blank(db, sequence))
}

/// Numbers in order as text: `3-5,9`.
#[must_use]
pub fn ranges(numbers: &[i64]) -> String {
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let texts =
        runs.iter().map(|&(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    texts.collect::<Vec<_>>().join(",")
}

/// The inverse of [`ranges`], as pairs of first and last; what cannot be read is left out.
pub(super) fn runs(text: &str) -> Vec<(i64, i64)> {
    let run = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.split(',').filter_map(run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_numbers() {
        for (numbers, text) in [(vec![], ""), (vec![7], "7"), (vec![3, 4, 5, 9], "3-5,9"), (vec![1, 3], "1,3")] {
            assert_eq!(ranges(&numbers), text);
            let back: Vec<i64> = runs(text).into_iter().flat_map(|(first, last)| first..=last).collect();
            assert_eq!(back, numbers);
        }
        assert!(runs("x-3,,-").is_empty());
    }

    #[test]
    fn a_log_that_claims_more_than_there_can_be_is_counted_all_the_same() {
        let of = |events: &str, mails: u64| Payload {
            actor: super::super::Actor::system(),
            targets: Vec::new(),
            context: super::super::Context::default(),
            request_id: String::new(),
            metadata: [("events".to_owned(), events.into()), ("mails".to_owned(), mails.into())].into_iter().collect(),
        };
        let at = Timestamp::from_millis(0);
        let mut told = None;
        for (events, mails) in [
            ("0-9223372036854775807,1-9223372036854775807", u64::MAX),
            ("-9223372036854775808-9223372036854775807", u64::MAX),
            ("5--3,9223372036854775807-0", 1),
            ("0-9223372036854775807,3-4", 1),
        ] {
            told = Some(Erased::and(told, &of(events, mails), at));
        }
        let told = told.unwrap();
        assert!(told.events >= usize::try_from(i64::MAX).unwrap_or(usize::MAX), "{told:?}");
        assert_eq!(told.mails, usize::MAX);
        assert_eq!(Erased::and(None, &of("3-5,9", 2), at), Erased { events: 4, mails: 2, at });
    }

    #[test]
    fn an_address_is_found_by_itself_only() {
        let mut person = Person::new(MemberId::from_bits(7));
        assert!(person.add_address("ada@acme.test") && !person.add_address("ada@acme.test"));
        for text in
            ["ada@acme.test", "to <Ada@Acme.test>", "ada@acme.test.", "x,ada@acme.test,y", "mem_x ada@acme.test: no"]
        {
            assert!(person.is_in(text), "{text}");
        }
        for text in ["", "dada@acme.test", "ada@acme.test.org", "l.ada@acme.test", "ada@acme.tests", "ada"] {
            assert!(!person.is_in(text), "{text}");
        }
        assert!(person.is_in(&format!("{{\"id\":\"{}\"}}", MemberId::from_bits(7))));
    }
}
