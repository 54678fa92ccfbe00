//! The rules of registering applications: each an act of an operator, with its line in the operators' log.

use super::{Application, Type, get, insert, set_secret, update};
use crate::base::{ApplicationId, Credential, CredentialKind, Error, Result, codes};
use crate::crypto::{Algorithm, hash, random};
use crate::features::audit::{self, Act, By, Target};
use crate::sqlite::{CatalogDb, Read, Write};

/// What a new application brings.
#[derive(Debug, Clone)]
pub struct NewApplication {
    pub name: String,
    pub r#type: Type,
    pub redirect_uris: Vec<String>,
    pub post_logout_redirect_uris: Vec<String>,
    pub id_token_signed_response_alg: Algorithm,
}

/// What is to change; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub name: Option<String>,
    pub redirect_uris: Option<Vec<String>>,
    pub post_logout_redirect_uris: Option<Vec<String>>,
    pub id_token_signed_response_alg: Option<Algorithm>,
}

/// The application, or 404.
pub fn require(db: &Read<'_, CatalogDb>, id: ApplicationId) -> Result<Application> {
    get(db, id)?.ok_or_else(|| Error::new(&codes::APPLICATION_NOT_FOUND))
}

/// Registers an application; a confidential one gets a secret that is not to be had again.
pub fn create(db: &Write<'_, CatalogDb>, new: NewApplication, by: &By) -> Result<(Application, Option<Credential>)> {
    let secret = (new.r#type == Type::Confidential).then(|| random::credential(CredentialKind::ClientSecret, None));
    let application = Application {
        id: random::id(db.now()),
        name: new.name.trim().to_owned(),
        r#type: new.r#type,
        secret_hash: secret.as_ref().map(hash::credential_hash),
        redirect_uris: new.redirect_uris,
        post_logout_redirect_uris: new.post_logout_redirect_uris,
        id_token_signed_response_alg: new.id_token_signed_response_alg,
        deleted: false,
        created_at: db.now(),
        updated_at: db.now(),
    };
    application.check()?;
    insert(db, &application)?;
    record(db, by, "application.created", &application)?;
    Ok((application, secret))
}

/// Changes a registration.
pub fn change(db: &Write<'_, CatalogDb>, id: ApplicationId, change: Change, by: &By) -> Result<Application> {
    let mut application = require(db, id)?;
    application.name = change.name.map_or(application.name, |name| name.trim().to_owned());
    application.redirect_uris = change.redirect_uris.unwrap_or(application.redirect_uris);
    application.post_logout_redirect_uris =
        change.post_logout_redirect_uris.unwrap_or(application.post_logout_redirect_uris);
    application.id_token_signed_response_alg =
        change.id_token_signed_response_alg.unwrap_or(application.id_token_signed_response_alg);
    application.updated_at = db.now();
    application.check()?;
    update(db, &application)?;
    record(db, by, "application.updated", &application)?;
    Ok(application)
}

/// Takes an application out of service. Its row stays, so that logs can still say what it was called.
pub fn delete(db: &Write<'_, CatalogDb>, id: ApplicationId, by: &By) -> Result<Application> {
    let application = Application { deleted: true, updated_at: db.now(), ..require(db, id)? };
    update(db, &application)?;
    record(db, by, "application.deleted", &application)?;
    Ok(application)
}

/// Gives the application another secret; the old one stops working at once.
pub fn rotate_secret(db: &Write<'_, CatalogDb>, id: ApplicationId, by: &By) -> Result<(Application, Credential)> {
    let mut application = require(db, id)?;
    if application.r#type == Type::Public {
        return Err(Error::new(&codes::VALIDATION_FAILED).detail("A public application has no secret."));
    }
    let secret = random::credential(CredentialKind::ClientSecret, None);
    let secret_hash = hash::credential_hash(&secret);
    set_secret(db, id, &secret_hash)?;
    application.secret_hash = Some(secret_hash);
    application.updated_at = db.now();
    record(db, by, "application.secret_rotated", &application)?;
    Ok((application, secret))
}

fn record(db: &Write<'_, CatalogDb>, by: &By, action: &'static str, application: &Application) -> Result<()> {
    let target = Target::new("application", application.id).named(application.name.clone());
    audit::record(db, by, Act::new(action).on(target))?;
    Ok(())
}
