//! SQL of signing keys; the same in an organization's file and in the catalog.

use super::{Keys, Serving};
use crate::base::{Error, Result, SigningKeyId, Timestamp};
use crate::crypto::{Algorithm, NewSigningKey, Sealer, SigningKey};
use crate::sqlite::{Kind, Read, Write, params};

const TABLE: &str = "signing_key";
const COLUMN: &str = "private_key";

/// The keys that are still published, unsealed.
pub(super) fn all<K: Kind>(db: &Read<'_, K>, sealer: &Sealer) -> Result<Keys> {
    let rows = db.all(
        "SELECT id, algorithm, public_jwk, private_key, created_at, active_from, retire_at FROM signing_key
         WHERE retire_at IS NULL OR retire_at > ? ORDER BY id",
        params![db.now()],
        |row| {
            Ok((
                row.get::<_, SigningKeyId>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, Vec<u8>>(3)?,
                row.get::<_, Timestamp>(4)?,
                row.get::<_, Timestamp>(5)?,
                row.get::<_, Option<Timestamp>>(6)?,
            ))
        },
    )?;
    let serving = rows.into_iter().map(|(id, algorithm, jwk, sealed, created_at, active_from, retire_at)| {
        let algorithm: Algorithm = algorithm.parse().map_err(|_| Error::internal("a signing key of unknown kind"))?;
        let jwk = serde_json::from_str(&jwk).map_err(|error| Error::internal("a damaged JWK").source(error))?;
        let pkcs8 = sealer.open(TABLE, COLUMN, &id.to_string(), &sealed)?;
        let key = SigningKey::load(&id.to_string(), algorithm, &pkcs8, &jwk)?;
        Ok(Serving { id, key, created_at, active_from, retire_at })
    });
    serving.collect::<Result<Vec<_>>>().map(Keys)
}

pub(super) fn has_active<K: Kind>(db: &Read<'_, K>, algorithm: Algorithm) -> Result<bool> {
    let count = db.number(
        "SELECT count(*) FROM signing_key
         WHERE algorithm = ?1 AND active_from <= ?2 AND (retire_at IS NULL OR retire_at > ?2)",
        params![algorithm.as_str(), db.now()],
    )?;
    Ok(count > 0)
}

pub(super) fn insert<K: Kind>(
    db: &Write<'_, K>,
    sealer: &Sealer,
    id: SigningKeyId,
    new: &NewSigningKey,
    active_from: Timestamp,
) -> Result<()> {
    let sealed = sealer.seal(TABLE, COLUMN, &id.to_string(), &new.pkcs8);
    db.execute(
        "INSERT INTO signing_key (id, algorithm, public_jwk, private_key, created_at, active_from)
         VALUES (?, ?, ?, ?, ?, ?)",
        params![id, new.algorithm.as_str(), new.public_jwk.to_string(), sealed, db.now(), active_from],
    )?;
    Ok(())
}

/// Every private key, also of those that are not published any more.
pub(super) fn sealed<K: Kind>(db: &Read<'_, K>) -> Result<Vec<(SigningKeyId, Vec<u8>)>> {
    db.all("SELECT id, private_key FROM signing_key", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// The same key, sealed anew if an older data key has sealed it.
pub(super) fn reseal<K: Kind>(db: &Write<'_, K>, sealer: &Sealer, id: SigningKeyId, sealed: &[u8]) -> Result<bool> {
    let Some(anew) = sealer.reseal(TABLE, COLUMN, &id.to_string(), sealed)? else { return Ok(false) };
    db.execute("UPDATE signing_key SET private_key = ? WHERE id = ?", params![anew, id])?;
    Ok(true)
}

/// Sets the end of all keys of an algorithm that have none, or a later one.
pub(super) fn retire<K: Kind>(db: &Write<'_, K>, algorithm: Algorithm, at: Timestamp) -> Result<()> {
    db.execute(
        "UPDATE signing_key SET retire_at = ?1 WHERE algorithm = ?2 AND (retire_at IS NULL OR retire_at > ?1)",
        params![at, algorithm.as_str()],
    )?;
    Ok(())
}
