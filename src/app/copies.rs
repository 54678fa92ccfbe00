//! The backup, put together from the settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backup::{Backups, Databases, Dirty, Ownership, Schedule, Source, ledger, told, was_backed_up};
use crate::base::time::length;
use crate::base::{Clock, Replication, Result};
use crate::config::{self, Config};
use crate::replica::{Location, Settings, Store, WrongLocation};
use crate::sqlite::Backup;
use crate::tenants::Tenants;

/// Where commits are reported to, if there is a backup.
pub(super) fn dirty(config: &Config) -> Option<Dirty> {
    let delay = Duration::from_millis(config.backup.delay_milliseconds);
    (!config.backup.url.is_empty() && !is_foreign(config)).then(|| Dirty::new(delay))
}

/// For a backup that another program makes: nothing is ever reported there.
pub(super) fn idle(config: &Config) -> Option<Dirty> {
    (!config.backup.url.is_empty() && is_foreign(config)).then(|| Dirty::new(Duration::ZERO))
}

/// Whether a stock litestream looks after the files.
pub(super) fn is_foreign(config: &Config) -> bool {
    config.backup.mode == config::BackupMode::Litestream
}

/// What the backup asks of whoever writes a database. One that was set up once is gone on with, so what is written
/// in between must be found then.
pub(super) fn of(config: &Config, dirty: Option<&Dirty>, source: Source) -> Backup {
    match dirty.cloned() {
        Some(dirty) => Backup::Wal(Arc::new(move || dirty.mark(source))),
        None if is_foreign(config) => Backup::Foreign,
        None if was_backed_up(&config.server.data_dir) => Backup::Later,
        None => Backup::None,
    }
}

/// The same for organizations' files.
pub(super) fn watch(config: &Config, dirty: Option<&Dirty>, tenants: &Tenants) {
    match dirty.cloned() {
        Some(dirty) => tenants.report_writes(move |id, is_awaited| {
            let source = Source::Organization(id);
            ledger::note(source, is_awaited);
            dirty.mark(source);
        }),
        None if is_foreign(config) => tenants.leave_files(),
        None if was_backed_up(&config.server.data_dir) => tenants.mark_writes(),
        None => {}
    }
}

pub(super) fn backups(config: &Config, dirty: Dirty, databases: Databases, clock: Clock) -> Result<Backups> {
    let backup = &config.backup;
    let schedule = Schedule {
        debounce: Duration::from_millis(backup.delay_milliseconds),
        snapshots: length::hours(backup.snapshot_hours),
        retention: length::hours(backup.retention_hours),
        keyring_retention: length::hours(backup.keyring_retention_hours),
        workers: backup.workers,
        confirmation: length::seconds(backup.confirm_seconds),
        is_foreign: is_foreign(config),
        ..Schedule::default()
    };
    let directory: PathBuf = config.server.data_dir.clone();
    let ownership = Ownership::new(&backup.url, &directory, &config.server.origin());
    let tenants = databases.tenants.clone();
    let backups = Backups::new((store(backup)?, ownership), dirty, databases, schedule, clock, &directory);
    tenants.overwrite_by(backups.overwriter());
    Ok(backups)
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
    // `config check` has looked at what can be seen without a store.
    let location: Location = backup.url.parse().map_err(|wrong: WrongLocation| told(wrong.into()))?;
    Store::connect(&location, &settings).map_err(told)
}

/// What a write has reached when it is acknowledged, where an organization has nothing of its own.
pub(super) const fn replication(backup: &config::Backup) -> Replication {
    match backup.replication {
        config::Replicated::Local => Replication::Local,
        config::Replicated::Object => Replication::Object,
    }
}
