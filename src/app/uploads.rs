//! Where archives lie that are on their way out, and what looks at those that come in.

use std::time::Duration;

use crate::base::time::length;
use crate::base::{Clock, Result};
use crate::config::Config;
use crate::features::{export, import};

pub(super) fn exports(config: &Config, clock: &Clock) -> Result<export::Shelf> {
    let rules = export::Rules {
        keep: length::hours(config.exports.keep_hours),
        most: config.exports.max_per_organization,
        most_bytes: config.exports.max_bytes_mib << 20,
    };
    export::Shelf::open(&config.server.data_dir.join("exports"), rules, clock.now())
}

pub(super) fn imports(config: &Config) -> Result<import::Checker> {
    let settings = &config.imports;
    let limits = import::Limits {
        upload: settings.max_bytes_mib << 20,
        bounds: import::Bounds { unpacked: settings.max_unpacked_mib << 20, rows: settings.max_rows },
        time: Duration::from_secs(settings.check_seconds),
        memory: settings.check_memory_mib << 20,
        program: (!settings.check_program.as_os_str().is_empty()).then(|| settings.check_program.clone()),
    };
    // Not through a relative path: the process is started in a folder of its own.
    let folder = config.server.data_dir.join("imports");
    import::Checker::open(&std::path::absolute(&folder).unwrap_or(folder), limits)
}
