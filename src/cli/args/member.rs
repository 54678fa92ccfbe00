//! `member`.

use clap::{Args, Subcommand};

use super::{Limit, Member, Org};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum MemberCommand {
    /// Add a person to an organization
    Create(CreateMember),
    /// List the members of an organization, newest first
    List {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        limit: Limit,
    },
    /// End all sessions of a member, and let them in no more
    Deactivate(Member),
    /// Let a deactivated member back in
    Reactivate(Member),
    /// Delete a member; what the audit log says of them stays until they are erased
    Delete(Member),
    /// Delete a member, and take what the audit log says of them out of it; one who was deleted before, by id
    Erase(Member),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateMember {
    #[command(flatten)]
    pub org: Org,
    #[arg(long, value_name = "E-MAIL")]
    pub email: String,
    #[arg(long)]
    pub name: Option<String>,
    /// owner, admin or member; may be repeated [default: member]
    #[arg(long = "role", value_name = "ROLE")]
    pub roles: Vec<String>,
    /// Read a password from standard input; without it the member is pending until they set one
    #[arg(long)]
    pub password_stdin: bool,
}
