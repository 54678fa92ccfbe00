//! SQL of exports. The one store that names the tables of other features, because an archive is the whole file: a test
//! makes sure that every table is named here, so that a new one cannot leave the house by accident.

use super::format::SecretValue;
use crate::base::Result;
use crate::crypto::Sealer;
use crate::sqlite::{Read, TenantDb, Write};

macro_rules! counts {
    ($($table:literal),* $(,)?) => { &[$(($table, concat!("SELECT count(*) FROM ", $table))),*] };
}

/// Every table, and how to count its rows.
const COUNTS: &[(&str, &str)] = counts![
    "organization",
    "member",
    "session",
    "email_challenge",
    "used_relay",
    "oauth_grant",
    "refresh_token",
    "revoked_access_token",
    "signing_key",
    "api_key",
    "audit_event",
    "outbox",
    "idempotency",
];

/// What makes a copy fit to be handed out: what opens something is emptied or replaced by what opens nothing. A
/// replacement is not 32 bytes of a hash, and different in each row where the column is unique.
const STRIP: &[&str] = &[
    "DELETE FROM refresh_token",
    "DELETE FROM email_challenge",
    "DELETE FROM used_relay",
    "DELETE FROM revoked_access_token",
    "DELETE FROM outbox",
    "DELETE FROM idempotency",
    "UPDATE member SET password_hash = NULL",
    "UPDATE session SET token_hash = CAST('removed:' || id AS BLOB)",
    "UPDATE oauth_grant SET code_hash = CAST('removed:' || id AS BLOB), code_challenge = '', nonce = NULL",
    "UPDATE api_key SET secret_hash = CAST('removed:' || id AS BLOB)",
    "UPDATE signing_key SET private_key = x''",
    // What a litestream beside the server leaves in each database it looks after is none of the organization's.
    "DROP TABLE IF EXISTS _litestream_seq",
    "DROP TABLE IF EXISTS _litestream_lock",
];

/// How many rows each table has.
pub fn counts(db: &Read<'_, TenantDb>) -> Result<Vec<(&'static str, u64)>> {
    let count = |sql| db.number(sql, []).map(|count| u64::try_from(count).unwrap_or(0));
    COUNTS.iter().map(|(table, sql)| Ok((*table, count(sql)?))).collect()
}

/// Takes out of a copy what opens something, for whoever it is handed to.
pub fn strip(db: &Write<'_, TenantDb>) -> Result<()> {
    STRIP.iter().try_for_each(|sql| db.execute(sql, []).map(drop))
}

/// What [`strip`] takes away and an import can use, in the clear.
pub(super) fn secrets(db: &Read<'_, TenantDb>, sealer: &Sealer) -> Result<Vec<SecretValue>> {
    let mut secrets = Vec::new();
    db.each("SELECT id, password_hash FROM member WHERE password_hash IS NOT NULL ORDER BY id", [], |row| {
        secrets.push(secret("member", "password_hash", row.get(0)?, row.get::<_, String>(1)?.as_bytes()));
        Ok(())
    })?;
    db.each("SELECT id, secret_hash FROM api_key ORDER BY id", [], |row| {
        secrets.push(secret("api_key", "secret_hash", row.get(0)?, &row.get::<_, Vec<u8>>(1)?));
        Ok(())
    })?;
    db.each("SELECT id, private_key FROM signing_key ORDER BY id", [], |row| {
        let (id, sealed): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let opened = sealer.open("signing_key", "private_key", &id, &sealed)?;
        secrets.push(secret("signing_key", "private_key", id, &opened));
        Ok(())
    })?;
    Ok(secrets)
}

fn secret(table: &str, column: &str, row: String, value: &[u8]) -> SecretValue {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    SecretValue { table: table.to_owned(), column: column.to_owned(), row, value: STANDARD.encode(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Timestamp;
    use crate::sqlite::{build, bytes_of_new};
    use crate::tenants::MIGRATIONS;

    #[test]
    fn every_table_is_counted_and_everything_that_opens_something_is_stripped() {
        let directory = tempfile::tempdir().unwrap();
        let template = bytes_of_new::<TenantDb>(directory.path(), MIGRATIONS).unwrap();
        let path = directory.path().join("one.sqlite");
        let known: Vec<&str> = COUNTS.iter().map(|(table, _)| *table).collect();
        build::<TenantDb, ()>(&path, &template, Timestamp::from_millis(0), |db| {
            let tables: Vec<String> =
                db.all("SELECT name FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))?;
            for table in tables {
                assert!(known.contains(&table.as_str()), "{table}: say in export/store.rs what becomes of it");
            }
            // A column whose name says that it holds a secret is in a statement above.
            let columns: Vec<(String, String)> = db.all(
                "SELECT m.name, c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table'
                   AND (c.name LIKE '%\\_hash' ESCAPE '\\' OR c.name LIKE '%private%' OR c.name LIKE '%secret%')",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            for (table, column) in columns.iter().filter(|(table, _)| table != "audit_event") {
                let named = STRIP.iter().any(|sql| {
                    *sql == format!("DELETE FROM {table}")
                        || sql.contains(&format!("UPDATE {table} ")) && sql.contains(column)
                });
                assert!(named, "{table}.{column} would be exported");
            }
            strip(db)
        })
        .unwrap();
    }
}
