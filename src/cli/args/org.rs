//! `org`: an organization and its end.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ReplicationMode;
use super::{
    EncryptOrg, ExportOrg, FreezeOrg, ImportOrg, Limit, LimitOrg, Moment, MoveOrg, Org, PullOrg, PushOrg, RestoreOrg,
    VerifyExport, VerifyFreeze, moment, reference,
};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum OrgCommand {
    /// Make an organization, with its first owner if there is to be one
    Create(CreateOrg),
    /// List organizations, newest first
    List(Limit),
    /// Show one organization
    Show(Org),
    /// Keep everybody out of an organization until it is resumed; nothing is lost
    Suspend {
        #[command(flatten)]
        org: Org,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Let a suspended organization back in
    Resume(Org),
    /// Give back what deleted rows have left in an organization's file
    ///
    /// Reads go on meanwhile, writes wait. It needs room for the file twice more on the disk.
    Compact(Org),
    /// Give an organization a new data key, and seal everything anew with it
    RotateKey(Org),
    /// Encrypt an organization's whole file under a key of its own, while everybody goes on
    ///
    /// It needs a server that was built with SQLCipher. Copies in the backup from before stay plain until they expire,
    /// unless --delete-copies is given, here or in the same command later.
    Encrypt(EncryptOrg),
    /// Make an encrypted organization's file a plain one again, while everybody goes on
    Decrypt(EncryptOrg),
    /// Encrypt an organization's file under another key, while everybody goes on
    ///
    /// The key before is kept for as long as copies in the backup are that need it, unless --delete-copies is given.
    RotateFileKey(EncryptOrg),
    /// Limit what an organization may take up; what is left out follows the deployment
    ///
    /// Without any option it shows what is set and changes nothing.
    Quota(QuotaOrg),
    /// Limit what an organization takes of what all share; what is left out follows the deployment
    ///
    /// Who reaches a limit is answered 429; `bulkhead fleet limited` says who did. Without any option it shows what is
    /// set and changes nothing.
    Limit(LimitOrg),
    /// Say what a write must have reached before it is acknowledged
    Replication {
        #[command(flatten)]
        org: Org,
        /// This machine's disk (local), the store of the backup as well (object), or what the deployment says
        #[arg(value_name = "local|object|default")]
        mode: ReplicationMode,
    },
    /// The audit log of an organization
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write everything that an organization has into one signed file
    Export(ExportOrg),
    /// Check that an export is whole and unchanged; needs no server
    VerifyExport(VerifyExport),
    /// Make an organization of an export
    Import(ImportOrg),
    /// Show which moments of an organization can be restored
    History(Org),
    /// Say what differs between two moments of an organization
    Diff {
        #[command(flatten)]
        org: Org,
        /// The earlier moment: a time (2026-11-22T09:30:00Z) or a transaction (16 hexadecimal digits)
        #[arg(long, value_name = "MOMENT", value_parser = moment)]
        from: String,
        /// The later one [default: now]
        #[arg(long, value_name = "MOMENT", value_parser = moment)]
        to: Option<String>,
    },
    /// Keep an organization's file as it is, to the bit: it can be read, and nothing in it can be changed
    Freeze(FreezeOrg),
    /// Let a frozen organization be changed again
    Unfreeze(Org),
    /// Check that a file is the one that was frozen; needs no server
    VerifyFreeze(VerifyFreeze),
    /// Move an organization's file to another volume, while everybody goes on
    Move(MoveOrg),
    /// Move an organization to another deployment; the same command again goes on where the last one stopped
    Push(PushOrg),
    /// Fetch an organization from another deployment; the same command again goes on where the last one stopped
    Pull(PullOrg),
    /// Erase an organization for good, after some days in which it can be called off
    Erase(EraseOrg),
    /// List what was erased here, and what is going to be
    Erasures(Limit),
    /// Show the certificate of an erasure, or check one without any deployment
    Certificate(Certificate),
    /// Make an organization what it was at an earlier moment; what was revoked since stays revoked
    ///
    /// With --as or --output the live one stays as it is, and the earlier moment is beside it, to be looked at.
    Restore(RestoreOrg),
    /// Put what the backup has in the place of a file that is missing or cannot be read
    Recover {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        moment: Moment,
        /// Say what would be put there, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QuotaOrg {
    #[command(flatten)]
    pub org: Org,
    /// Bytes that its data may take up; 0 for no limit
    #[arg(long, value_name = "N")]
    pub max_bytes: Option<u64>,
    /// Members that it may have; 0 for no limit
    #[arg(long, value_name = "N")]
    pub max_members: Option<u64>,
    /// Follow the deployment in both again
    #[arg(long, conflicts_with_all = ["max_bytes", "max_members"])]
    pub default: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct EraseOrg {
    #[command(flatten)]
    pub org: Org,
    /// At once: it cannot be called off then
    #[arg(long, conflicts_with_all = ["after_days", "cancel"])]
    pub now: bool,
    /// How many seconds to wait for the end, with --now; the erasure goes on without anybody who waits
    #[arg(long, value_name = "SECONDS", requires = "now", default_value_t = 120,
          value_parser = clap::value_parser!(u32).range(0..=86_400))]
    pub wait: u32,
    /// How many days it can still be called off, 0 to 90 [default: 7]
    #[arg(long, value_name = "N", conflicts_with = "cancel", value_parser = clap::value_parser!(u16).range(0..=90))]
    pub after_days: Option<u16>,
    /// Why, for the organization's own log, with which it is erased
    #[arg(long, value_name = "TEXT", conflicts_with = "cancel")]
    pub reason: Option<String>,
    /// Say what would be destroyed, and change nothing
    #[arg(long, conflicts_with_all = ["now", "cancel"])]
    pub dry_run: bool,
    /// Call a scheduled erasure off
    #[arg(long)]
    pub cancel: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Certificate {
    /// The id of the organization
    #[arg(value_name = "ORG_ID", value_parser = reference)]
    pub id: String,
    /// Check this certificate instead of showing one; no deployment is needed
    #[arg(long, value_name = "FILE", requires = "jwks")]
    pub verify: Option<PathBuf>,
    /// The deployment's public keys: a file, or the address of its JWKS
    #[arg(long, value_name = "FILE|URL", requires = "verify")]
    pub jwks: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CreateOrg {
    /// The name that people see
    #[arg(long)]
    pub name: String,
    /// The name in addresses, such as acme in acme.example.com [default: made from the name]
    #[arg(long)]
    pub slug: Option<String>,
    /// Your own id of this customer, accepted wherever ours is
    #[arg(long, value_name = "ID")]
    pub external_id: Option<String>,
    /// The colour of its pages
    #[arg(long, value_name = "#RRGGBB")]
    pub accent: Option<String>,
    /// The e-mail address of its first owner
    #[arg(long, value_name = "E-MAIL")]
    pub owner_email: Option<String>,
    /// The owner's name
    #[arg(long, value_name = "NAME", requires = "owner_email")]
    pub owner_name: Option<String>,
    /// Read the owner's password from standard input; without it the owner sets one by "forgot password"
    #[arg(long, requires = "owner_email")]
    pub owner_password_stdin: bool,
    /// Encrypt the whole file by a key of its own; needs a server that was built with SQLCipher
    #[arg(long)]
    pub encrypted: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AuditCommand {
    /// Check that the log is complete and unchanged
    Verify(Org),
    /// List what happened, newest first
    List {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        limit: Limit,
    },
}
