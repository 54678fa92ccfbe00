//! Members: people in one organization. The same e-mail address in two organizations is two members
//! who know nothing of each other.
//!
//! It owns the table `member` and the rules of one row: what a profile may hold, which status follows
//! which, and that an organization never loses its last active owner. What must happen around a change
//! of status (sessions that end) is `membership`'s.

pub mod http;
mod store;

use serde::{Deserialize, Serialize};

pub use store::{
    all, by_email, count, count_active_owners, delete, get, insert, list, park_email, set_attempts, set_password,
    update,
};

use crate::base::error::FieldError;
use crate::base::{Email, Error, MemberId, Result, Timestamp, codes, text};
use crate::crypto::random;
use crate::sqlite::{Read, TenantDb, Write};

/// `pending` until the member has proven the mailbox or was given a password, then `active`; `inactive`
/// after a deactivation, which keeps the roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Pending,
    Active,
    Inactive,
}

impl Status {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "active" => Self::Active,
            "inactive" => Self::Inactive,
            _ => Self::Pending,
        }
    }
}

/// The built-in roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do everything, including giving the organization away. There is always one.
    Owner,
    /// Runs the organization.
    Admin,
    /// Uses the app.
    Member,
}

/// A member's row.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: MemberId,
    pub email: Email,
    pub name: Option<String>,
    pub username: Option<String>,
    pub phone: Option<String>,
    pub title: Option<String>,
    pub status: Status,
    pub roles: Vec<Role>,
    pub email_verified: bool,
    pub password_hash: Option<String>,
    pub password_set_at: Option<Timestamp>,
    pub failed_attempts: u32,
    pub locked_until: Option<Timestamp>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What a new member brings.
#[derive(Debug, Clone)]
pub struct NewMember {
    pub email: Email,
    pub name: Option<String>,
    pub username: Option<String>,
    pub phone: Option<String>,
    pub title: Option<String>,
    pub roles: Vec<Role>,
    /// With a password the member is active at once.
    pub password_hash: Option<String>,
    pub email_verified: bool,
}

impl Member {
    /// How the member is called in lists and in the audit log.
    #[must_use]
    pub fn display(&self) -> &str {
        self.name.as_deref().unwrap_or_else(|| self.email.as_str())
    }

    #[must_use]
    pub fn is_active_owner(&self) -> bool {
        self.status == Status::Active && self.roles.contains(&Role::Owner)
    }

    #[must_use]
    pub fn is_locked(&self, now: Timestamp) -> bool {
        self.locked_until.is_some_and(|until| until > now)
    }
}

/// Adds a member; the address must be new to this organization.
pub fn create(db: &Write<'_, TenantDb>, new: NewMember) -> Result<Member> {
    let member = Member {
        id: random::id(db.now()),
        status: if new.password_hash.is_some() { Status::Active } else { Status::Pending },
        email: new.email,
        name: new.name,
        username: new.username,
        phone: new.phone,
        title: new.title,
        roles: unique(new.roles),
        email_verified: new.email_verified,
        password_set_at: new.password_hash.as_ref().map(|_| db.now()),
        password_hash: new.password_hash,
        failed_attempts: 0,
        locked_until: None,
        created_at: db.now(),
        updated_at: db.now(),
    };
    check(&member)?;
    refuse_taken_email(db, &member)?;
    insert(db, &member)?;
    Ok(member)
}

/// Replaces a member's row by `after`, if the rules allow the step from what is there now.
pub fn change(db: &Write<'_, TenantDb>, mut after: Member) -> Result<Member> {
    let before = require(db, after.id)?;
    after.roles = unique(after.roles);
    after.updated_at = db.now();
    check(&after)?;
    if after.email.normalized() != before.email.normalized() {
        refuse_taken_email(db, &after)?;
        after.email_verified = false;
    }
    if before.is_active_owner() && !after.is_active_owner() {
        protect_last_owner(db)?;
    }
    update(db, &after)?;
    Ok(after)
}

/// Removes a member; sessions and grants go with the row.
pub fn remove(db: &Write<'_, TenantDb>, id: MemberId) -> Result<Member> {
    let member = require(db, id)?;
    if member.is_active_owner() {
        protect_last_owner(db)?;
    }
    delete(db, id)?;
    Ok(member)
}

/// The member, or 404.
pub fn require(db: &Read<'_, TenantDb>, id: MemberId) -> Result<Member> {
    get(db, id)?.ok_or_else(|| Error::new(&codes::MEMBER_NOT_FOUND))
}

/// An organization keeps at least one active owner, or nobody could ever run it again.
fn protect_last_owner(db: &Read<'_, TenantDb>) -> Result<()> {
    if count_active_owners(db)? <= 1 { Err(Error::new(&codes::LAST_OWNER)) } else { Ok(()) }
}

fn refuse_taken_email(db: &Read<'_, TenantDb>, member: &Member) -> Result<()> {
    match by_email(db, &member.email)? {
        Some(other) if other.id != member.id => {
            Err(Error::new(&codes::EMAIL_TAKEN).field("email", "taken", "Another member has this address."))
        }
        _ => Ok(()),
    }
}

/// Refuses values that a member cannot have, all at once.
pub fn check(member: &Member) -> Result<()> {
    let mut problems = Vec::new();
    for (field, value, most) in [
        ("name", &member.name, 120),
        ("username", &member.username, 64),
        ("phone", &member.phone, 32),
        ("title", &member.title, 120),
    ] {
        if value.as_ref().is_some_and(|value| !text::is_name(value, most)) {
            problems.push(FieldError {
                field: field.into(),
                code: "invalid",
                message: format!("Use 1 to {most} characters, or leave it out.").into(),
            });
        }
    }
    if member.roles.is_empty() {
        problems.push(FieldError {
            field: "roles".into(),
            code: "required",
            message: "Give at least one role.".into(),
        });
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::new(&codes::VALIDATION_FAILED).with_fields(problems)) }
}

fn unique(mut roles: Vec<Role>) -> Vec<Role> {
    roles.sort_by_key(|role| *role as u8);
    roles.dedup();
    roles
}
