//! A member as the API shows one; the operations are `membership`'s.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Member, Role, Status};
use crate::base::{Email, MemberId, OrganizationId, Timestamp};
use crate::web::schema::object;

object!(pub MemberObject = "member");

/// A person in one organization.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Member)]
pub struct MemberBody {
    #[schema(inline)]
    object: MemberObject,
    id: MemberId,
    organization_id: OrganizationId,
    email: Email,
    name: Option<String>,
    username: Option<String>,
    phone: Option<String>,
    title: Option<String>,
    #[schema(inline)]
    status: Status,
    roles: Vec<Role>,
    /// Set while the member is locked after too many wrong passwords.
    locked_until: Option<Timestamp>,
    has_password: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl MemberBody {
    /// `now` decides whether a lock still stands.
    #[must_use]
    pub fn new(organization_id: OrganizationId, member: &Member, now: Timestamp) -> Self {
        Self {
            object: MemberObject,
            id: member.id,
            organization_id,
            email: member.email.clone(),
            name: member.name.clone(),
            username: member.username.clone(),
            phone: member.phone.clone(),
            title: member.title.clone(),
            status: member.status,
            roles: member.roles.clone(),
            locked_until: member.locked_until.filter(|until| *until > now),
            has_password: member.password_hash.is_some(),
            created_at: member.created_at,
            updated_at: member.updated_at,
        }
    }
}
