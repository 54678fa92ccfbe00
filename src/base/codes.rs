//! Every error code of the product, in one place. A code is a promise: it is never renamed.

/// What sort of refusal it is; the edge turns it into a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request cannot be understood (400).
    Malformed,
    /// Nobody known is asking (401).
    Unauthenticated,
    /// Known, but not allowed (403).
    Forbidden,
    /// Nothing here that the caller may know of (404).
    NotFound,
    /// Understood, but this address does not take that method (405).
    MethodNotAllowed,
    /// It took too long to arrive (408).
    Timeout,
    /// It contradicts what is there (409).
    Conflict,
    /// Larger than allowed (413).
    TooLarge,
    /// It is answered elsewhere (421).
    Misdirected,
    /// A body of a type that is not taken here (415).
    UnsupportedType,
    /// Understood, but a value is not acceptable (422).
    Invalid,
    /// Too often (429).
    TooMany,
    /// A fault of ours (500).
    Internal,
    /// Not now (503).
    Unavailable,
}

impl Kind {
    /// The HTTP status that this kind is answered with (RFC 9110 section 15).
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Timeout => 408,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Misdirected => 421,
            Self::UnsupportedType => 415,
            Self::Invalid => 422,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// A stable code with what it means.
#[derive(Debug, PartialEq, Eq)]
pub struct Code {
    pub name: &'static str,
    pub kind: Kind,
    /// One sentence for people; the default `detail`.
    pub summary: &'static str,
}

macro_rules! codes {
    ($($constant:ident $kind:ident $name:literal $summary:literal;)*) => {
        $(pub static $constant: Code = Code { name: $name, kind: Kind::$kind, summary: $summary };)*

        /// All of them, for the documentation.
        pub static ALL: &[&Code] = &[$(&$constant),*];
    };
}

codes! {
    // the request itself
    MALFORMED_REQUEST Malformed "malformed_request" "The request could not be understood.";
    MALFORMED_BODY Malformed "malformed_body" "The body could not be read as what this address takes.";
    MALFORMED_HOST Malformed "malformed_host" "The request names no usable host.";
    ORGANIZATION_CONFLICT Malformed "organization_conflict" "The request names two different organizations.";
    UNSUPPORTED_MEDIA_TYPE UnsupportedType "unsupported_media_type" "This address does not take a body of that type.";
    BODY_TOO_LARGE TooLarge "body_too_large" "The body is larger than this server accepts.";
    REQUEST_TIMEOUT Timeout "request_timeout" "The request took too long.";
    METHOD_NOT_ALLOWED MethodNotAllowed "method_not_allowed" "This address does not take that method.";
    NOT_FOUND NotFound "not_found" "There is nothing at this address.";
    VALIDATION_FAILED Invalid "validation_failed" "Some values are not acceptable.";
    INVALID_CURSOR Malformed "invalid_cursor" "The cursor is not one that this list gave out.";
    IDEMPOTENCY_KEY_REUSED Invalid "idempotency_key_reused" "This Idempotency-Key was used with a different request.";
    IDEMPOTENCY_KEY_IN_USE Conflict "idempotency_key_in_use" "A request with this Idempotency-Key is still running.";
    ORGANIZATION_RATE_LIMITED TooMany "organization_rate_limited" "This organization sends more requests than it may. Wait a moment, then try again.";
    ORGANIZATION_CONCURRENCY_LIMITED TooMany "organization_concurrency_limited" "This organization has as many requests running as it may. Wait a moment, then try again.";
    ORGANIZATION_HASHING_LIMITED TooMany "organization_hashing_limited" "This organization has as many passwords waiting to be checked as it may. Wait a moment, then try again.";
    ORGANIZATION_WRITES_LIMITED TooMany "organization_writes_limited" "This organization has written as much as it may. Nothing was changed; what is there can be read, ended and deleted.";
    RATE_LIMITED TooMany "rate_limited" "Too many requests. Wait a moment, then try again.";
    OVERLOADED Unavailable "overloaded" "The server has too much to do. Try again in a moment.";
    INTERNAL Internal "internal_error" "Something went wrong on our side. It has been recorded.";

    // who is asking
    UNAUTHENTICATED Unauthenticated "unauthenticated" "A valid credential is needed.";
    FORBIDDEN Forbidden "forbidden" "The credential does not allow this.";
    CSRF_FAILED Forbidden "csrf_failed" "This form has expired. Load the page again, then send it once more.";

    // organizations and their files
    ORGANIZATION_NOT_FOUND NotFound "organization_not_found" "There is no such organization.";
    ORGANIZATION_SUSPENDED Forbidden "organization_suspended" "This organization is suspended.";
    ORGANIZATION_UNAVAILABLE Unavailable "organization_unavailable" "This organization is not available at the moment.";
    ORGANIZATION_QUARANTINED Unavailable "organization_quarantined" "This organization has been set aside by the operator and is not available.";
    ORGANIZATION_BUSY Unavailable "organization_busy" "This organization is busy. Try again in a moment.";
    STORAGE_FULL Unavailable "storage_full" "The disk is full. Nothing was changed; what is there can be read.";
    STORAGE_FAILED Unavailable "storage_failed" "The disk does not take what is written. Nothing was changed; what is there can be read.";
    QUOTA_MEMBERS_EXCEEDED Forbidden "quota_members_exceeded" "This organization has as many members as it may have.";
    QUOTA_BYTES_EXCEEDED Forbidden "quota_bytes_exceeded" "The data of this organization takes up as much as it may.";
    ORGANIZATION_ENCRYPTED Unavailable "organization_encrypted" "This organization's whole file is encrypted, and this server was built without that.";
    FILE_ENCRYPTION_UNAVAILABLE Conflict "file_encryption_unavailable" "This server was built without the encryption of whole files.";
    FILE_CHANGE_RUNNING Conflict "file_change_running" "This organization's file is being brought under another key already.";
    FILE_NOT_ENCRYPTED Conflict "file_not_encrypted" "This organization's file is not encrypted as a whole, so it has no key to be replaced.";
    ENCRYPTED_NOT_TRANSFERRED Conflict "encrypted_not_transferred" "The whole file of this organization is encrypted, and the other deployment has not said that it makes such a file of it.";
    SLUG_TAKEN Conflict "slug_taken" "Another organization has this slug.";
    EXTERNAL_ID_TAKEN Conflict "external_id_taken" "Another organization has this external id.";
    HOST_TAKEN Conflict "host_taken" "This host belongs to another organization.";
    ORGANIZATION_LIMIT_REACHED Forbidden "organization_limit_reached" "No further organization can be created with this address.";

    // freezing, moving
    ORGANIZATION_FROZEN Conflict "organization_frozen" "This organization is frozen: it can be read, and nothing in it can be changed until the operator releases it.";
    FREEZE_NOT_FOUND NotFound "freeze_not_found" "This organization is not frozen.";
    FREEZE_FILE_DAMAGED Conflict "freeze_file_damaged" "This organization's file is missing or damaged, so it is not frozen. Put back what the backup has first.";
    FREEZE_NOT_IN_BACKUP Conflict "freeze_not_in_backup" "This organization is frozen, and what the backup has for this point is not its frozen file. Take the newest point, or release it first.";
    ORGANIZATION_LEAVING Unavailable "organization_leaving" "This organization is moving to another deployment. It can be read; changes are taken again when that has ended.";
    ORGANIZATION_MOVED Misdirected "organization_moved" "This organization has moved to another deployment.";
    RELOCATION_RUNNING Conflict "relocation_running" "This organization's file is on its way to another volume.";
    ALREADY_THERE Conflict "already_there" "This organization's file is on that volume already.";
    VOLUME_UNUSABLE Conflict "volume_unusable" "That volume cannot be used.";
    TRANSFER_NOT_FOUND NotFound "transfer_not_found" "There is no such transfer.";
    TRANSFER_CONFLICT Conflict "transfer_conflict" "Another transfer of this organization has not ended.";
    TRANSFER_STATE Conflict "transfer_state" "The transfer is not at the point at which this can be done.";
    TRANSFER_MISMATCH Conflict "transfer_mismatch" "What has arrived is not what was sent.";
    TRANSFER_PROOF_INVALID Invalid "transfer_proof_invalid" "This does not prove that the organization has left the other deployment.";
    TRANSFER_UNSETTLED Conflict "transfer_unsettled" "The other deployment may have let go of this organization already, and then what is here is all there is of it.";
    TRANSFER_WAIVER_INVALID Invalid "transfer_waiver_invalid" "This does not show that the other deployment has given the organization up.";

    // erasing
    ERASURE_NOT_FOUND NotFound "erasure_not_found" "No erasure of this organization has been asked for.";
    ERASURE_NOT_SCHEDULED Conflict "erasure_not_scheduled" "There is no scheduled erasure that could be cancelled.";
    ERASURE_SCHEDULED Conflict "erasure_scheduled" "This organization is to be erased. Cancel the erasure first.";
    ORGANIZATION_ERASED Conflict "organization_erased" "An organization with this id was erased. The id is never used again.";

    // keys
    KEY_UNAVAILABLE Unavailable "key_unavailable" "The key of this organization cannot be had at the moment. Try again in a moment.";
    DATA_KEY_DESTROYED Conflict "data_key_destroyed" "A secret in this file was sealed with a data key that has been destroyed since.";
    KEY_ROTATION_RUNNING Conflict "key_rotation_running" "Keys are being rotated already.";
    KEY_ROTATION_NOT_NEEDED Conflict "key_rotation_not_needed" "Every data key is wrapped by the current master key.";
    MASTER_KEY_NOT_WRITABLE Conflict "master_key_not_writable" "The file of the master key cannot be written.";

    // the fleet
    FLEET_JOB_RUNNING Conflict "fleet_job_running" "Such a walk over all organizations is running already.";
    FLEET_JOB_NOT_FOUND NotFound "fleet_job_not_found" "There is no such walk over all organizations.";

    // backups
    BACKUP_NOT_CONFIGURED Conflict "backup_not_configured" "No backup is configured: set backup.url.";
    BACKUP_IS_LITESTREAMS Conflict "backup_is_litestreams" "A stock litestream looks after the files of this deployment, and would not notice: stop both, then do this without it (docs/BACKUPS.md).";
    BACKUP_NOT_FOUND NotFound "backup_not_found" "The backup does not reach that point.";
    BACKUP_TIME_UNCLEAR Conflict "backup_time_unclear" "The clock was set back around that time: ask for a transaction.";
    BACKUP_TARGET_EXISTS Conflict "backup_target_exists" "There is a file already; a restore never overwrites one.";
    ORGANIZATION_READABLE Conflict "organization_readable" "This organization's file is in order: restore it instead.";
    BACKUP_SUPERSEDED Conflict "backup_superseded" "The store of the backup belongs to another deployment.";
    BACKUP_DAMAGED Conflict "backup_damaged" "What the backup has for this point is damaged, or is not what it should be. Choose another point.";
    WRITE_NOT_REPLICATED Unavailable "write_not_replicated" "This was done here, but the store of the backup has not confirmed it. Send the request again; with an Idempotency-Key it is not done twice.";
    BACKUP_UNAVAILABLE Unavailable "backup_unavailable" "The store of the backup cannot be used at the moment.";
    BACKUP_REFUSED Unavailable "backup_refused" "The store of the backup refuses: its settings, its credentials or their rights are not what it asks for.";

    // exports and imports
    EXPORT_NOT_FOUND NotFound "export_not_found" "There is no such export, or it has expired.";
    EXPORT_NOT_READY Conflict "export_not_ready" "The export is not ready.";
    EXPORT_IN_PROGRESS Conflict "export_in_progress" "An export of this organization is being made already.";
    EXPORT_LIMIT_REACHED Conflict "export_limit_reached" "There are as many exports as may be kept. Delete one, or wait until one expires.";
    EXPORT_TOO_LARGE TooLarge "export_too_large" "The organization is larger than this server exports.";
    IMPORT_NOT_AN_ARCHIVE Invalid "import_not_an_archive" "This is not an archive of an export, or it is damaged.";
    IMPORT_UNEXPECTED_MEMBER Invalid "import_unexpected_member" "The archive has a member that no export has.";
    IMPORT_INCOMPLETE Invalid "import_incomplete" "A part of the archive is missing.";
    IMPORT_TOO_LARGE TooLarge "import_too_large" "The archive is larger than this server accepts.";
    IMPORT_FORMAT_UNKNOWN Invalid "import_format_unknown" "The archive is of a version that this server does not know.";
    IMPORT_MANIFEST_INVALID Invalid "import_manifest_invalid" "The manifest of the archive cannot be used.";
    IMPORT_SIGNATURE_INVALID Invalid "import_signature_invalid" "The signature of the archive is not good.";
    IMPORT_DIGEST_MISMATCH Invalid "import_digest_mismatch" "A part of the archive is not the one that was exported.";
    IMPORT_DATABASE_DAMAGED Invalid "import_database_damaged" "The database in the archive is damaged.";
    IMPORT_STAMP_MISMATCH Invalid "import_stamp_mismatch" "The database in the archive is not the one that the manifest describes.";
    IMPORT_SCHEMA_MISMATCH Invalid "import_schema_mismatch" "The database in the archive has another schema than an export has.";
    IMPORT_COUNT_MISMATCH Invalid "import_count_mismatch" "The database in the archive has other numbers of rows than the manifest says.";
    IMPORT_AUDIT_BROKEN Invalid "import_audit_broken" "The audit log in the archive is not whole.";
    IMPORT_VALUE_INVALID Invalid "import_value_invalid" "The archive has a value that cannot be used.";
    IMPORT_SECRETS_LOCKED Invalid "import_secrets_locked" "The secrets in the archive cannot be opened.";
    IMPORT_CHECK_FAILED Invalid "import_check_failed" "The archive could not be checked within the bounds that this server sets.";
    ORGANIZATION_EXISTS Conflict "organization_exists" "This organization is here already. Import it with a new id to have it twice.";

    NO_SNAPSHOT Conflict "no_snapshot" "No copy of this organization was kept before a migration.";

    // members
    MEMBER_NOT_FOUND NotFound "member_not_found" "There is no such member.";
    EMAIL_TAKEN Conflict "email_taken" "Another member of this organization has this e-mail address.";
    LAST_OWNER Conflict "last_owner" "An organization needs at least one active owner.";
    MEMBER_PENDING Conflict "member_pending" "The member is pending: only accepting or deleting is possible.";
    PASSWORD_TOO_WEAK Invalid "password_too_weak" "This password is too easy to guess.";

    // signing in
    SIGN_IN_FAILED Unauthenticated "sign_in_failed" "That e-mail and password don't match.";
    CODE_INCORRECT Invalid "code_incorrect" "That code is not right, or it has expired.";
    SIGN_UP_CLOSED Forbidden "sign_up_closed" "New organizations are created by the operator here.";
    SIGN_UP_EXPIRED Forbidden "sign_up_expired" "This sign-up has expired. Start again with your e-mail address.";
    SESSION_NOT_FOUND NotFound "session_not_found" "There is no such session.";

    // applications and OAuth
    APPLICATION_NOT_FOUND NotFound "application_not_found" "There is no such application.";
    REDIRECT_URI_MISMATCH Malformed "redirect_uri_mismatch" "The redirect address is not registered for this application.";
    AUTHORIZATION_REQUEST_INVALID Malformed "authorization_request_invalid" "The app sent a sign-in request that cannot be used.";
    SIGNING_KEY_NOT_FOUND NotFound "signing_key_not_found" "There is no such signing key.";
    API_KEY_NOT_FOUND NotFound "api_key_not_found" "There is no such API key.";
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_and_summaries_are_sentences() {
        for (at, code) in ALL.iter().enumerate() {
            assert!(ALL[at + 1..].iter().all(|other| other.name != code.name), "{}", code.name);
            assert!(code.summary.ends_with('.'), "{}", code.name);
        }
    }
}
