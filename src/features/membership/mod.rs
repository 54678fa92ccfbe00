//! Membership: what happens around a change of a member. Sessions that end, events that are recorded.
//!
//! It owns no table. The rules of one row are `member`'s, the ending of sessions is `session`'s; here
//! they are put together, in one transaction each.

pub mod http;

use crate::base::{Email, Error, MemberId, Result, Secret, codes};
use crate::crypto::strength;
use crate::features::audit::{self, Act, By, Target};
use crate::features::member::{self, Member, NewMember, Role, Status};
use crate::features::organization::{self, QuotaDefaults};
use crate::features::session::{self, End};
use crate::sqlite::{TenantDb, Write};

/// What is to change; what is `None` stays. `Some(None)` clears.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub email: Option<Email>,
    pub name: Option<Option<String>>,
    pub username: Option<Option<String>>,
    pub phone: Option<Option<String>>,
    pub title: Option<Option<String>>,
    pub roles: Option<Vec<Role>>,
}

impl Change {
    /// The row with the changes, and the names of the fields that are different then.
    fn apply(self, before: &Member) -> (Member, Vec<&'static str>) {
        let mut after = before.clone();
        after.email = self.email.unwrap_or(after.email);
        after.name = self.name.unwrap_or(after.name);
        after.username = self.username.unwrap_or(after.username);
        after.phone = self.phone.unwrap_or(after.phone);
        after.title = self.title.unwrap_or(after.title);
        after.roles = self.roles.unwrap_or(after.roles);
        let different = [
            ("email", after.email != before.email),
            ("name", after.name != before.name),
            ("username", after.username != before.username),
            ("phone", after.phone != before.phone),
            ("title", after.title != before.title),
            ("roles", after.roles != before.roles),
        ];
        (after, different.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect())
    }
}

/// Refuses a password that is easy to guess; `about` is what others know of the member.
pub fn check_password(password: &Secret, about: &[&str]) -> Result<()> {
    strength::check(password, about)
        .map_err(|advice| Error::new(&codes::PASSWORD_TOO_WEAK).field("password", "too_weak", advice))
}

/// Adds a member.
pub fn create(db: &Write<'_, TenantDb>, new: NewMember, by: &By) -> Result<Member> {
    let member = member::create(db, new)?;
    record(db, by, "member.created", &member, |act| act.with("status", member.status.as_str()))?;
    Ok(member)
}

/// Refuses one member more than the organization may have, or more data than it may take up. In the transaction
/// that adds the member.
pub fn require_room(db: &Write<'_, TenantDb>, defaults: &QuotaDefaults) -> Result<()> {
    organization::require_bytes(db, defaults)?;
    let limit = organization::get(db)?.quotas.members(defaults);
    let count = u64::try_from(member::count(db)?).unwrap_or(0);
    if limit == 0 || count < limit {
        return Ok(());
    }
    Err(Error::new(&codes::QUOTA_MEMBERS_EXCEEDED)
        .detail(format!("This organization has {count} members, and {limit} is the most.")))
}

/// Changes a member's profile or roles.
pub fn update(db: &Write<'_, TenantDb>, id: MemberId, change: Change, by: &By) -> Result<Member> {
    let before = member::require(db, id)?;
    let (after, fields) = change.apply(&before);
    if fields.is_empty() {
        return Ok(before);
    }
    let after = member::change(db, after)?;
    record(db, by, "member.updated", &after, |act| act.with("fields", fields))?;
    Ok(after)
}

/// Deletes a member for good, with every session and grant. What the log says of them stays until they are erased.
pub fn delete(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<()> {
    let member = member::remove(db, id)?;
    record(db, by, audit::DELETED, &member, |act| act.with("email", member.email.as_str()))
}

/// Takes the member's access away and ends every session in the same moment; roles are kept.
pub fn deactivate(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<Member> {
    let before = member::require(db, id)?;
    match before.status {
        Status::Pending => Err(Error::new(&codes::MEMBER_PENDING)),
        Status::Inactive => Ok(before),
        Status::Active => {
            let after = member::change(db, Member { status: Status::Inactive, ..before })?;
            session::end_all_of(db, id, None, End::MemberDeactivated, by)?;
            record(db, by, "member.deactivated", &after, |act| act)?;
            Ok(after)
        }
    }
}

/// Gives the access back, with the roles of before.
pub fn reactivate(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<Member> {
    let before = member::require(db, id)?;
    match before.status {
        Status::Pending => Err(Error::new(&codes::MEMBER_PENDING)),
        Status::Active => Ok(before),
        Status::Inactive => {
            let after = member::change(db, Member { status: Status::Active, ..before })?;
            record(db, by, "member.reactivated", &after, |act| act)?;
            Ok(after)
        }
    }
}

/// Sets a password on the member's behalf: sessions end, a lock is lifted, and a pending member becomes
/// active.
pub fn set_password(db: &Write<'_, TenantDb>, id: MemberId, password_hash: &str, by: &By) -> Result<()> {
    let mut member = member::require(db, id)?;
    if member.status == Status::Pending {
        member = member::change(db, Member { status: Status::Active, ..member })?;
    }
    member::set_password(db, id, password_hash)?;
    session::end_all_of(db, id, None, End::PasswordChanged, by)?;
    record(db, by, "member.password_set", &member, |act| act)
}

/// Lifts a lock before its time; without one it changes nothing.
pub fn unlock(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<()> {
    let member = member::require(db, id)?;
    if member.locked_until.is_none() && member.failed_attempts == 0 {
        return Ok(());
    }
    member::set_attempts(db, id, 0, None)?;
    record(db, by, "member.unlocked", &member, |act| act)
}

/// Ends every session of a member.
pub fn end_sessions(db: &Write<'_, TenantDb>, id: MemberId, by: &By) -> Result<()> {
    member::require(db, id)?;
    session::end_all_of(db, id, None, End::RevokedByOperator, by)?;
    Ok(())
}

fn record(
    db: &Write<'_, TenantDb>,
    by: &By,
    action: &'static str,
    member: &Member,
    more: impl FnOnce(Act) -> Act,
) -> Result<()> {
    let target = Target::new("member", member.id).named(member.display());
    audit::record(db, by, more(Act::new(action).on(target)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;

    fn ada() -> Member {
        Member {
            id: MemberId::from_bits(1),
            email: Email::parse("ada@example.com").unwrap(),
            name: Some("Ada".into()),
            username: None,
            phone: Some("+44 1".into()),
            title: None,
            status: Status::Active,
            roles: vec![Role::Owner],
            email_verified: true,
            password_hash: None,
            password_set_at: None,
            failed_attempts: 0,
            locked_until: None,
            created_at: Timestamp::from_millis(0),
            updated_at: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn only_what_is_different_counts_as_changed() {
        let change = Change {
            name: Some(Some("Ada".into())),
            phone: Some(None),
            title: Some(Some("Countess".into())),
            ..Change::default()
        };
        let (after, fields) = change.apply(&ada());
        assert_eq!(fields, ["phone", "title"]);
        assert_eq!((after.phone, after.title.as_deref(), after.name.as_deref()), (None, Some("Countess"), Some("Ada")));
        assert!(Change::default().apply(&ada()).1.is_empty());
    }

    #[test]
    fn a_weak_password_names_its_field() {
        let refused = check_password(&Secret::new("password".into()), &[]).unwrap_err();
        assert!(refused.is(&codes::PASSWORD_TOO_WEAK));
        assert_eq!(refused.fields()[0].field, "password");
    }
}
