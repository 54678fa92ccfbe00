//! Taking one person out of a log without breaking its chain: the content of the events that are about them goes,
//! its salted digest stays.

use std::collections::HashSet;

use serde_json::Value;

use super::{ERASED, Event, Payload, each, each_after, store};
use crate::base::{Email, MemberId, Result, SessionId};
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
    pub fn new(id: MemberId, address: impl Into<String>) -> Self {
        Self { id: id.to_string(), addresses: vec![address.into()], sessions: Vec::new() }
    }

    /// Whether this is one of their addresses.
    #[must_use]
    pub fn is_address(&self, normalized: impl AsRef<str>) -> bool {
        self.addresses.iter().any(|address| address == normalized.as_ref())
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

/// Adds the addresses that the log knows the person by from earlier: events call a member without a name by their
/// address.
pub fn earlier_addresses(db: &Read<'_, TenantDb>, person: &mut Person) -> Result<()> {
    let mut found = Vec::new();
    each(db, |event| {
        let Some(payload) = event.payload else { return Ok(()) };
        let of_actor = (payload.actor.id.as_deref() == Some(&person.id)).then_some(payload.actor.name).flatten();
        let of_targets = payload.targets.into_iter().filter(|target| target.id == person.id);
        let names = of_targets.filter_map(|target| target.name).chain(of_actor);
        found.extend(names.filter_map(|name| Some(Email::parse(&name)?.normalized().to_owned())));
        Ok(())
    })?;
    person.addresses.extend(found);
    person.addresses.sort();
    person.addresses.dedup();
    Ok(())
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
    fn an_address_is_found_by_itself_only() {
        let person = Person::new(MemberId::from_bits(7), "ada@acme.test");
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
