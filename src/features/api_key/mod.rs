//! API keys: what programs call the API with, of the deployment (operators' keys) or of one organization.
//!
//! It owns the table `api_key`, in the catalog and in every organization's file, with the same rules in
//! both. Only a hash of a key is kept; its text is shown once. How a request is told apart by its key is
//! in `http.rs`; what a scope opens is decided by the extractors of `web::access`.

pub mod http;
mod store;

pub use store::{all, by_hash, list, note_use};

use std::time::Duration;

use crate::base::error::FieldError;
use crate::base::time::length;
use crate::base::{ApiKeyId, Credential, CredentialKind, Error, OrganizationId, Result, Scope, Timestamp, codes};
use crate::crypto::{hash, random};
use crate::features::audit::{self, Act, By, Target};
use crate::sqlite::{Kind, Write};

/// The use of a key is written down at most this often.
const USE_NOTED_EVERY: Duration = length::minutes(1);
const LONGEST_NAME: usize = 80;

/// A key's row; the secret itself is nowhere.
#[derive(Debug, Clone)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub name: String,
    /// The last characters of the secret, to tell keys apart.
    pub suffix: String,
    pub scopes: Vec<Scope>,
    pub created_at: Timestamp,
    pub last_used_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

impl ApiKey {
    #[must_use]
    pub fn is_usable(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| expires_at > now)
    }

    /// Whether its use should be written down now.
    #[must_use]
    pub fn is_use_due(&self, now: Timestamp) -> bool {
        self.last_used_at.is_none_or(|last| now.since(last) >= USE_NOTED_EVERY)
    }
}

/// What a new key is to be.
#[derive(Debug, Clone)]
pub struct NewApiKey {
    pub name: String,
    /// Names of scopes; `*` is every scope that such a key can have and that its maker has.
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
}

/// Makes a key; the credential is not to be had again. `None` is a key of the deployment. `most` are the
/// scopes of whoever makes it: nobody gives away what they do not have.
pub fn create<K: Kind>(
    db: &Write<'_, K>,
    organization: Option<OrganizationId>,
    new: NewApiKey,
    most: &[Scope],
    by: &By,
) -> Result<(ApiKey, Credential)> {
    let scopes = check(&new, organization.is_some(), most, db.now())?;
    let secret = random::credential(CredentialKind::ApiKey, organization);
    let key = ApiKey {
        id: random::id(db.now()),
        name: new.name.trim().to_owned(),
        suffix: secret.suffix().to_owned(),
        scopes,
        created_at: db.now(),
        last_used_at: None,
        expires_at: new.expires_at,
        revoked_at: None,
    };
    store::insert(db, &key, &hash::credential_hash(&secret))?;
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    audit::record(db, by, Act::new("api_key.created").on(target(&key)).with("scopes", scopes))?;
    Ok((key, secret))
}

/// Revokes a key from this moment on; revoking it again changes nothing.
pub fn revoke<K: Kind>(db: &Write<'_, K>, id: ApiKeyId, by: &By) -> Result<()> {
    let key = store::get(db, id)?.ok_or_else(|| Error::new(&codes::API_KEY_NOT_FOUND))?;
    if key.revoked_at.is_none() {
        store::revoke(db, id)?;
        audit::record(db, by, Act::new("api_key.revoked").on(target(&key)))?;
    }
    Ok(())
}

/// All problems at once, or the scopes.
fn check(new: &NewApiKey, of_an_organization: bool, most: &[Scope], now: Timestamp) -> Result<Vec<Scope>> {
    let mut problems = Vec::new();
    let mut problem = |field: String, code, message: &'static str| {
        problems.push(FieldError { field: field.into(), code, message: message.into() });
    };
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > LONGEST_NAME || name.chars().any(char::is_control) {
        problem("name".into(), "invalid", "Use 1 to 80 characters.");
    }
    if new.expires_at.is_some_and(|expires_at| expires_at <= now) {
        problem("expires_at".into(), "invalid", "Use a time in the future.");
    }
    let possible = |scope: Scope| !of_an_organization || scope.fits_an_organization();
    let mut scopes = Vec::new();
    for (at, name) in new.scopes.iter().enumerate() {
        match Scope::parse(name) {
            Some(scope) if !possible(scope) => {
                problem(format!("scopes[{at}]"), "invalid", "An organization's key cannot have this scope.");
            }
            Some(scope) if !most.contains(&scope) => {
                problem(format!("scopes[{at}]"), "forbidden", "You cannot give a scope that you do not have.");
            }
            Some(scope) => scopes.push(scope),
            None if name == "*" => scopes.extend(most.iter().copied().filter(|scope| possible(*scope))),
            None => problem(format!("scopes[{at}]"), "invalid", "There is no such scope."),
        }
    }
    if new.scopes.is_empty() {
        problem("scopes".into(), "required", "Give at least one scope.");
    }
    scopes.sort_unstable();
    scopes.dedup();
    if problems.is_empty() { Ok(scopes) } else { Err(Error::new(&codes::VALIDATION_FAILED).with_fields(problems)) }
}

fn target(key: &ApiKey) -> Target {
    Target::new("api_key", key.id).named(key.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_764_000_000_000);

    fn scopes(names: &[&str], of_an_organization: bool) -> Result<Vec<Scope>> {
        let scopes = names.iter().map(|&name| name.to_owned()).collect();
        check(&NewApiKey { name: "Billing".into(), scopes, expires_at: None }, of_an_organization, Scope::ALL, NOW)
    }

    #[test]
    fn a_star_is_everything_that_such_a_key_can_have() {
        assert_eq!(scopes(&["*"], false).unwrap(), Scope::ALL);
        let all = scopes(&["members:read", "*"], true).unwrap();
        assert!(all.iter().all(|scope| scope.fits_an_organization()));
        assert_eq!(all.len(), Scope::ALL.iter().filter(|scope| scope.fits_an_organization()).count());
    }

    #[test]
    fn what_a_key_cannot_be() {
        assert!(scopes(&[], false).is_err());
        assert!(scopes(&["members:fly"], false).is_err());
        assert!(scopes(&["applications:read"], true).is_err());
        assert!(scopes(&["applications:read"], false).is_ok());
        let new = NewApiKey { name: " \u{7} ".into(), scopes: vec!["members:read".into()], expires_at: Some(NOW) };
        let refused = check(&new, false, Scope::ALL, NOW).unwrap_err();
        let fields: Vec<_> = refused.fields().iter().map(|field| field.field.as_ref()).collect();
        assert_eq!(fields, ["name", "expires_at"]);
    }

    #[test]
    fn nobody_gives_away_what_they_do_not_have() {
        let most = [Scope::KeysWrite, Scope::MembersRead];
        let with = |scope: &str| {
            let new = NewApiKey { name: "Billing".into(), scopes: vec![scope.to_owned()], expires_at: None };
            check(&new, true, &most, NOW)
        };
        assert_eq!(with("*").unwrap(), [Scope::MembersRead, Scope::KeysWrite]);
        assert_eq!(with("members:read").unwrap(), [Scope::MembersRead]);
        assert!(with("members:write").is_err());
    }

    #[test]
    fn a_key_ends_on_time() {
        let key = |expires_at, revoked_at| ApiKey {
            id: ApiKeyId::from_bits(1),
            name: "Billing".into(),
            suffix: "abcd".into(),
            scopes: vec![Scope::MembersRead],
            created_at: NOW,
            last_used_at: Some(NOW),
            expires_at,
            revoked_at,
        };
        assert!(key(None, None).is_usable(NOW));
        assert!(key(Some(NOW.plus(length::seconds(1))), None).is_usable(NOW));
        assert!(!key(Some(NOW), None).is_usable(NOW));
        assert!(!key(None, Some(NOW)).is_usable(NOW));
        assert!(!key(None, None).is_use_due(NOW.plus(length::seconds(59))));
        assert!(key(None, None).is_use_due(NOW.plus(length::minutes(1))));
    }
}
