//! The backup, put together from the settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::{Backups, Databases, Dirty, Schedule, Source};
use crate::base::time::length;
use crate::base::{Clock, Error, Result};
use crate::config::{self, Config};
use crate::replica::{self, Location, Settings, Store};
use crate::sqlite::Backup;

/// Where commits are reported to, if there is a backup.
pub(super) fn dirty(config: &Config) -> Option<Dirty> {
    let delay = Duration::from_millis(config.backup.delay_milliseconds);
    (!config.backup.url.is_empty()).then(|| Dirty::new(delay))
}

/// What the backup asks of whoever writes a database.
pub(super) fn of(dirty: Option<&Dirty>, source: Source) -> Backup {
    match dirty.cloned() {
        Some(dirty) => Backup::Wal(Arc::new(move || dirty.mark(source))),
        None => Backup::None,
    }
}

pub(super) fn backups(config: &Config, dirty: Dirty, databases: Databases, clock: Clock) -> Result<Backups> {
    let reports = dirty.clone();
    databases.tenants.report_writes(move |id| reports.mark(Source::Organization(id)));
    let backup = &config.backup;
    let schedule = Schedule {
        debounce: Duration::from_millis(backup.delay_milliseconds),
        snapshots: length::hours(backup.snapshot_hours),
        retention: length::hours(backup.retention_hours),
        keyring_retention: length::hours(backup.keyring_retention_hours),
        workers: backup.workers,
        ..Schedule::default()
    };
    let directory: PathBuf = config.server.data_dir.clone();
    Ok(Backups::new(store(backup)?, dirty, databases, schedule, clock, &directory))
}

/// The store that the settings name.
pub fn store(backup: &config::Backup) -> Result<Store> {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let settings = Settings {
        endpoint: given(&backup.endpoint),
        region: given(&backup.region),
        access_key_id: given(&backup.access_key_id),
        secret_access_key: given(backup.secret_access_key.expose()),
        force_path_style: backup.force_path_style,
        allow_http: backup.allow_http,
        timeout: length::seconds(backup.timeout_seconds),
    };
    let unusable = |error: replica::Error| Error::internal(format!("the backup cannot be set up: {error}"));
    let location: Location = backup.url.parse().map_err(unusable)?;
    Store::connect(&location, &settings).map_err(unusable)
}
