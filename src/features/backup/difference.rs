//! What differs between two moments, in words.

use serde::Serialize;
use utoipa::ToSchema;

use super::Facts;
use crate::features::member::Member;

/// One thing that is there in one moment and not in the other, or differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Difference {
    /// `organization`, `member` or `api_key`.
    pub kind: &'static str,
    pub id: String,
    pub name: String,
    /// `added`, `removed`, `changed` or `revoked`.
    pub change: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldChange>,
}

/// A value before and after. Of a secret it is told only that it changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldChange {
    pub field: &'static str,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// From one moment to another.
#[must_use]
pub fn between(before: &Facts, after: &Facts) -> Vec<Difference> {
    let mut all = Vec::new();
    let fields = organization(before, after);
    if !fields.is_empty() {
        let organization = &after.organization;
        let (id, name) = (organization.id.to_string(), organization.name.clone());
        all.push(Difference { kind: "organization", id, name, change: "changed", fields });
    }
    let of = |member: &Member, change, fields| Difference {
        kind: "member",
        id: member.id.to_string(),
        name: member.display().to_owned(),
        change,
        fields,
    };
    for member in &after.members {
        match before.members.iter().find(|known| known.id == member.id) {
            None => all.push(of(member, "added", Vec::new())),
            Some(known) => {
                let fields = member_fields(known, member);
                if !fields.is_empty() {
                    all.push(of(member, "changed", fields));
                }
            }
        }
    }
    let gone = before.members.iter().filter(|member| after.members.iter().all(|kept| kept.id != member.id));
    all.extend(gone.map(|member| of(member, "removed", Vec::new())));
    for key in &after.keys {
        let known = before.keys.iter().find(|known| known.id == key.id);
        let change = match known {
            None => "added",
            Some(known) if known.revoked_at.is_none() && key.revoked_at.is_some() => "revoked",
            Some(_) => continue,
        };
        let (id, name) = (key.id.to_string(), key.name.clone());
        all.push(Difference { kind: "api_key", id, name, change, fields: Vec::new() });
    }
    let gone = before.keys.iter().filter(|key| after.keys.iter().all(|kept| kept.id != key.id));
    all.extend(gone.map(|key| Difference {
        kind: "api_key",
        id: key.id.to_string(),
        name: key.name.clone(),
        change: "removed",
        fields: Vec::new(),
    }));
    all
}

fn organization(before: &Facts, after: &Facts) -> Vec<FieldChange> {
    let (before, after) = (&before.organization, &after.organization);
    let mut changes = Changes::default();
    changes.add("name", Some(before.name.clone()), Some(after.name.clone()));
    changes.add("slug", Some(before.slug.to_string()), Some(after.slug.to_string()));
    changes.add("external_id", before.external_id.clone(), after.external_id.clone());
    changes.add("hosts", Some(before.hosts.join(", ")), Some(after.hosts.join(", ")));
    changes.add("suspended", Some(before.suspended.to_string()), Some(after.suspended.to_string()));
    changes.add("accent", before.accent.clone(), after.accent.clone());
    changes.add("metadata", json(&before.metadata), json(&after.metadata));
    changes.add("policy", json(&before.policy), json(&after.policy));
    changes.0
}

fn member_fields(before: &Member, after: &Member) -> Vec<FieldChange> {
    let mut changes = Changes::default();
    changes.add("email", Some(before.email.to_string()), Some(after.email.to_string()));
    changes.add("name", before.name.clone(), after.name.clone());
    changes.add("username", before.username.clone(), after.username.clone());
    changes.add("phone", before.phone.clone(), after.phone.clone());
    changes.add("title", before.title.clone(), after.title.clone());
    changes.add("status", Some(before.status.as_str().to_owned()), Some(after.status.as_str().to_owned()));
    changes.add("roles", json(&before.roles), json(&after.roles));
    if before.password_hash != after.password_hash {
        changes.0.push(FieldChange { field: "password", before: None, after: None });
    }
    changes.0
}

fn json(value: &impl Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

#[derive(Default)]
struct Changes(Vec<FieldChange>);

impl Changes {
    fn add(&mut self, field: &'static str, before: Option<String>, after: Option<String>) {
        if before != after {
            self.0.push(FieldChange { field, before, after });
        }
    }
}
