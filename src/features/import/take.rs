//! Rows from outside, judged one by one by the rules that our own rows obey, before any of them is written.

use std::collections::HashMap;
use std::io::{BufRead, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::rows::{Fields, Line, TABLES, invalid};
use super::store::{self, ApiKeyRow, AuditRow, MemberRow, SigningKeyRow};
use super::{at_home, check_row};
use crate::base::{Email, Error, ExternalId, OrganizationId, Result, Scope, Slug, Timestamp, codes, text};
use crate::crypto::{Algorithm, Sealer, SigningKey, password};
use crate::features::audit;
use crate::features::export::format::SecretValue;
use crate::features::member::{self, Member, Role, Status};
use crate::features::organization::{self, Organization};
use crate::sqlite::{TenantDb, Write};

/// A value has 16 MiB at the most, and a blob is twice as long as text.
const LONGEST_LINE: u64 = 40 << 20;
/// The end of the year 9999: what a timestamp can be shown as.
const LATEST: i64 = 253_402_300_799_999;

/// What the archive becomes.
pub(super) struct Plan {
    pub id: OrganizationId,
    pub from: OrganizationId,
    pub slug: Slug,
    pub secrets: Secrets,
    pub now: Timestamp,
}

/// By table, column and row.
pub(super) type Secrets = HashMap<(String, String, String), Zeroizing<Vec<u8>>>;

pub(super) fn secrets_of(values: &[SecretValue]) -> Result<Secrets> {
    let one = |value: &SecretValue| {
        let bytes = STANDARD.decode(&value.value).map_err(|_| invalid("secrets", "value"))?;
        Ok(((value.table.clone(), value.column.clone(), value.row.clone()), Zeroizing::new(bytes)))
    };
    values.iter().map(one).collect()
}

/// How much was taken over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    pub members: u64,
    pub passwords: u64,
    pub signing_keys: u64,
    pub api_keys: u64,
    pub audit_events: u64,
}

impl Taken {
    pub(super) fn count(&mut self, row: &Judged) {
        match row {
            Judged::Organization(_) => {}
            Judged::Member(member) => {
                self.members += 1;
                self.passwords += u64::from(member.password_hash.is_some());
            }
            Judged::SigningKey(..) => self.signing_keys += 1,
            Judged::ApiKey(..) => self.api_keys += 1,
            Judged::AuditEvent(_) => self.audit_events += 1,
        }
    }
}

/// A row that may be written.
pub(super) enum Judged {
    Organization(Box<Organization>),
    Member(Box<Member>),
    SigningKey(Box<SigningKeyRow>, Zeroizing<Vec<u8>>),
    ApiKey(Box<ApiKeyRow>, Zeroizing<Vec<u8>>),
    AuditEvent(Box<AuditRow>),
}

/// Judges every row in the order in which they were written: the organization first, and once.
pub(super) fn each(mut lines: impl BufRead, plan: &Plan, mut visit: impl FnMut(Judged) -> Result<()>) -> Result<()> {
    let mut organizations = 0;
    while let Some(line) = next_line(&mut lines)? {
        let Some(judged) = judge(line, plan)? else { continue };
        organizations += u32::from(matches!(judged, Judged::Organization(_)));
        if organizations != 1 {
            return Err(invalid("organization", "row"));
        }
        visit(judged)?;
    }
    if organizations == 1 { Ok(()) } else { Err(invalid("organization", "row")) }
}

/// The row of the organization itself, as it will be here. It is the first.
pub(super) fn organization(mut lines: impl BufRead, plan: &Plan) -> Result<Organization> {
    match next_line(&mut lines)?.map(|line| judge(line, plan)).transpose()?.flatten() {
        Some(Judged::Organization(row)) => Ok(*row),
        _ => Err(invalid("organization", "row")),
    }
}

/// Writes a row that was judged.
pub(super) fn insert(db: &Write<'_, TenantDb>, sealer: &Sealer, row: Judged) -> Result<()> {
    let inserted = match row {
        Judged::Organization(row) => organization::insert(db, &row),
        Judged::Member(row) => {
            let roles = serde_json::to_string(&row.roles).map_err(|_| invalid("member", "roles"))?;
            store::insert_member(db, &member_row(&row, roles))
        }
        Judged::SigningKey(row, pkcs8) => store::insert_signing_key(db, sealer, &row, &pkcs8),
        Judged::ApiKey(row, hash) => store::insert_api_key(db, &row, &hash),
        Judged::AuditEvent(row) => store::insert_audit_event(db, &row),
    };
    // What the file itself refuses (twice the same id or address) is the archive's fault and not ours; that the disk
    // is full is not the archive's.
    inserted.map_err(|error| match error.is(&codes::INTERNAL) {
        true => Error::new(&codes::IMPORT_VALUE_INVALID).because(format!("{error:?}")),
        false => error,
    })
}

fn member_row(member: &Member, roles: String) -> MemberRow<'_> {
    MemberRow {
        id: member.id,
        email: &member.email,
        name: member.name.as_deref(),
        username: member.username.as_deref(),
        phone: member.phone.as_deref(),
        title: member.title.as_deref(),
        status: member.status.as_str(),
        roles,
        email_verified: member.email_verified,
        password_hash: member.password_hash.as_deref(),
        password_set_at: member.password_set_at,
        created_at: member.created_at,
        updated_at: member.updated_at,
    }
}

fn next_line(lines: &mut impl BufRead) -> Result<Option<Line>> {
    let mut text = Vec::new();
    let read = lines.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut text);
    let read = read.map_err(|error| Error::internal("rows could not be read").source(error))?;
    if read == 0 {
        return Ok(None);
    }
    // The last one is whole, or the other side did not end as it should have.
    let line = text.ends_with(b"\n").then(|| serde_json::from_slice(&text).ok()).flatten();
    line.map(Some).ok_or_else(|| Error::new(&codes::IMPORT_CHECK_FAILED).because("a line that is none"))
}

/// `None` for a row that is left out here.
pub(super) fn judge(line: Line, plan: &Plan) -> Result<Option<Judged>> {
    let table = TABLES.iter().find(|table| table.name == line.table);
    let table = table.ok_or_else(|| Error::new(&codes::IMPORT_CHECK_FAILED).because("an unknown table"))?;
    let mut fields = Fields::new(table, line.row)?;
    match table.name {
        "organization" => judge_organization(&mut fields, plan).map(Some),
        "member" => judge_member(&mut fields, plan).map(Some),
        "signing_key" => judge_signing_key(&mut fields, plan),
        "api_key" => judge_api_key(&mut fields, plan),
        _ => judge_audit_event(&mut fields).map(Some),
    }
}

fn judge_organization(fields: &mut Fields, plan: &Plan) -> Result<Judged> {
    let id: OrganizationId = fields.parsed()?;
    if id != plan.from {
        return Err(fields.unfit());
    }
    let name = fields.text()?;
    let slug = fields.text()?;
    let slug = Slug::parse(&slug).ok_or_else(|| fields.unfit())?;
    let external_id = fields.maybe_text()?;
    if external_id.as_deref().is_some_and(|id| ExternalId::parse(id).is_none()) {
        return Err(fields.unfit());
    }
    let suspended = match fields.text()?.as_str() {
        "active" => false,
        "suspended" => true,
        _ => return Err(fields.unfit()),
    };
    let row = Organization {
        id,
        name,
        slug,
        external_id,
        hosts: Vec::new(),
        former_names: Vec::new(),
        suspended,
        metadata: fields.json()?,
        accent: fields.maybe_text()?,
        policy: fields.json()?,
        // Operators here set their own.
        quotas: organization::Quotas::default(),
        limits: crate::fairness::Plan::default(),
        replication: None,
        created_at: time(fields)?,
        updated_at: time(fields)?,
    };
    check_row(&row)?;
    Ok(Judged::Organization(Box::new(at_home(row, plan))))
}

fn judge_member(fields: &mut Fields, plan: &Plan) -> Result<Judged> {
    let id = fields.parsed()?;
    let email = fields.text()?;
    let email = Email::parse(&email).ok_or_else(|| fields.unfit())?;
    let (name, username) = (fields.maybe_text()?, fields.maybe_text()?);
    let (phone, title) = (fields.maybe_text()?, fields.maybe_text()?);
    let status = match fields.text()?.as_str() {
        "pending" => Status::Pending,
        "active" => Status::Active,
        "inactive" => Status::Inactive,
        _ => return Err(fields.unfit()),
    };
    let roles: Vec<Role> = fields.json()?;
    let email_verified = match fields.integer()? {
        0 => false,
        1 => true,
        _ => return Err(fields.unfit()),
    };
    let password_set_at = maybe_time(fields)?;
    let (created_at, updated_at) = (time(fields)?, time(fields)?);
    let password_hash = match secret(plan, "member", "password_hash", &id) {
        None => None,
        Some(bytes) => {
            let text = std::str::from_utf8(bytes).ok().filter(|text| password::is_usable(text));
            Some(text.ok_or_else(|| invalid("member", "password_hash"))?.to_owned())
        }
    };
    let row = Member {
        id,
        email,
        name,
        username,
        phone,
        title,
        status,
        roles,
        email_verified,
        // Without its hash there is no password that could have been set.
        password_set_at: password_set_at.filter(|_| password_hash.is_some()),
        password_hash,
        failed_attempts: 0,
        locked_until: None,
        created_at,
        updated_at,
    };
    member::check(&row).map_err(|_| invalid("member", "row"))?;
    Ok(Judged::Member(Box::new(row)))
}

/// Keys come along where the organization stays the same: a copy beside it must not be able to speak for it.
fn judge_signing_key(fields: &mut Fields, plan: &Plan) -> Result<Option<Judged>> {
    let id = fields.parsed()?;
    let algorithm: Algorithm = fields.parsed()?;
    let public_jwk = fields.text()?;
    let jwk: serde_json::Value = serde_json::from_str(&public_jwk).map_err(|_| fields.unfit())?;
    let (created_at, active_from, retire_at) = (time(fields)?, time(fields)?, maybe_time(fields)?);
    let pkcs8 = secret(plan, "signing_key", "private_key", &id);
    let (Some(pkcs8), true) = (pkcs8, plan.id == plan.from) else { return Ok(None) };
    let key: crate::base::SigningKeyId = id;
    // One that cannot sign would keep the organization from signing anything.
    let loaded = SigningKey::load(&key.to_string(), algorithm, pkcs8, &jwk);
    let public_jwk = loaded.map_err(|_| invalid("signing_key", "private_key")).map(|_| public_jwk)?;
    let row = SigningKeyRow { id: key, algorithm: algorithm.as_str(), public_jwk, created_at, active_from, retire_at };
    Ok(Some(Judged::SigningKey(Box::new(row), pkcs8.clone())))
}

/// A key names its organization, so it is of no use for another one.
fn judge_api_key(fields: &mut Fields, plan: &Plan) -> Result<Option<Judged>> {
    let id = fields.parsed()?;
    let name = fields.text()?;
    if !text::is_name(&name, 80) {
        return Err(fields.unfit());
    }
    let suffix = fields.text()?;
    if suffix.len() > 16 || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(fields.unfit());
    }
    let scopes = fields.text()?;
    let named: Vec<String> = serde_json::from_str(&scopes).map_err(|_| fields.unfit())?;
    let fits = |scope: &String| Scope::parse(scope).is_some_and(Scope::fits_an_organization);
    if named.len() > 100 || !named.iter().all(fits) {
        return Err(fields.unfit());
    }
    let (created_at, last_used_at) = (time(fields)?, maybe_time(fields)?);
    let (expires_at, revoked_at) = (maybe_time(fields)?, maybe_time(fields)?);
    let hash = secret(plan, "api_key", "secret_hash", &id);
    let (Some(hash), true) = (hash, plan.id == plan.from) else { return Ok(None) };
    if hash.len() != 32 {
        return Err(invalid("api_key", "secret_hash"));
    }
    let row = ApiKeyRow { id, name, suffix, scopes, created_at, last_used_at, expires_at, revoked_at };
    Ok(Some(Judged::ApiKey(Box::new(row), hash.clone())))
}

fn judge_audit_event(fields: &mut Fields) -> Result<Judged> {
    let sequence = fields.integer()?;
    let id = fields.parsed()?;
    let occurred_at = time(fields)?;
    let action = fields.text()?;
    if action.len() > 100 || !action.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'_' | b'.')) {
        return Err(fields.unfit());
    }
    let outcome = match fields.text()?.as_str() {
        "success" => "success",
        "failure" => "failure",
        _ => return Err(fields.unfit()),
    };
    let payload = fields.maybe_text()?;
    // One that cannot be read would be shown as one that was erased.
    if payload.as_deref().is_some_and(|text| serde_json::from_str::<audit::Payload>(text).is_err()) {
        return Err(fields.unfit());
    }
    let payload_salt = fields.maybe_blob()?;
    if payload_salt.as_ref().is_some_and(|salt| salt.len() > 64) {
        return Err(fields.unfit());
    }
    let (payload_digest, prev_hash, hash) = (fields.hash()?, fields.hash()?, fields.hash()?);
    let row =
        AuditRow { sequence, id, occurred_at, action, outcome, payload, payload_salt, payload_digest, prev_hash, hash };
    Ok(Judged::AuditEvent(Box::new(row)))
}

fn secret<'p>(plan: &'p Plan, table: &str, column: &str, row: &impl ToString) -> Option<&'p Zeroizing<Vec<u8>>> {
    plan.secrets.get(&(table.to_owned(), column.to_owned(), row.to_string()))
}

fn time(fields: &mut Fields) -> Result<Timestamp> {
    let millis = fields.integer()?;
    if (0..=LATEST).contains(&millis) { Ok(Timestamp::from_millis(millis)) } else { Err(fields.unfit()) }
}

fn maybe_time(fields: &mut Fields) -> Result<Option<Timestamp>> {
    match fields.maybe_integer()? {
        None => Ok(None),
        Some(millis) if (0..=LATEST).contains(&millis) => Ok(Some(Timestamp::from_millis(millis))),
        Some(_) => Err(fields.unfit()),
    }
}
