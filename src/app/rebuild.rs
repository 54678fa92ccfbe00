//! `catalog rebuild`: the one work on a data directory for which there need be no usable catalog.

use crate::base::{Clock, Result};
use crate::config::Config;
use crate::features::fleet::rebuild::{Report, rebuild};
use crate::keyring::Keyring;
use crate::sqlite::Backup;

use super::{Lock, master_key};

/// Takes the directory, so that nobody serves it meanwhile, and makes its catalog again; tells after each file how many
/// it has read.
pub async fn rebuild_catalog(config: &Config, dry_run: bool, read: &mut (dyn FnMut(u64) + Send)) -> Result<Report> {
    let directory = &config.server.data_dir;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let _lock = Lock::take(directory)?;
    let (master, clock) = (master_key::load(config)?, Clock::system());
    let keyring = tokio::task::block_in_place(|| Keyring::open(directory, master, clock.clone(), Backup::None))?;
    rebuild(directory, &config.files.volumes.0, &keyring, &clock, dry_run, read).await
}
