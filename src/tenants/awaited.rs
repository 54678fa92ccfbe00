//! Whether whoever writes to a file waits until the store of the backup has what they wrote.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::open_files::{Tenants, Written};
use super::tenant::Tenant;
use crate::base::{Error, OrganizationId, Replication, Result, codes};
use crate::sqlite::{Backup, mark_unread};

use super::path;

/// Of one open file.
pub(super) struct Awaited {
    flag: Arc<AtomicBool>,
    default: Replication,
    /// Whether there is a store to wait for.
    has_store: bool,
}

/// What the backup wants to know of commits.
pub(super) enum Reports {
    /// Called at each commit, with whether somebody waits for it.
    To(Written),
    /// There is no backup now, but there was one, and its copies are to be gone on with.
    Later,
    /// Another program looks after the files.
    Foreign,
}

impl Awaited {
    /// Before a write: one that could never be confirmed is not made.
    pub fn require_store(&self) -> Result<()> {
        if self.has_store || !self.flag.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(&codes::BACKUP_UNAVAILABLE).detail(
            "Writes of this organization wait for the store of the backup, and no backup is configured. Nothing was \
             changed.",
        ))
    }
}

impl Tenants {
    /// From now on every commit is reported, with whether somebody waits for it, and WALs are folded only by whoever
    /// ships them. To be called before the first file is opened.
    pub fn report_writes(&self, to: impl Fn(OrganizationId, bool) + Send + Sync + 'static) {
        let _ = self.0.written.set(Reports::To(Arc::new(to)));
    }

    /// From now on files whose WAL is folded are marked, so that a backup that is set up again finds them.
    pub fn mark_writes(&self) {
        let _ = self.0.written.set(Reports::Later);
    }

    /// Another program, such as a litestream beside the server, looks after the files: none is folded here, and none
    /// is replaced by another, which that program would not notice.
    pub fn leave_files(&self) {
        let _ = self.0.written.set(Reports::Foreign);
    }

    /// Refuses what puts another file into the place of one that another program has open.
    pub fn require_own_files(&self) -> Result<()> {
        match self.0.written.get() {
            Some(Reports::Foreign) => Err(Error::new(&codes::BACKUP_IS_LITESTREAMS)),
            _ => Ok(()),
        }
    }

    /// Reports a commit that no open file reports: the one that a new file is made in.
    pub(super) fn wrote(&self, id: OrganizationId) -> Result<()> {
        match self.0.written.get() {
            Some(Reports::To(written)) => written(id, self.0.limits.replication == Replication::Object),
            Some(Reports::Later) => mark_unread(&path::file(&self.root_of(id), id))?,
            Some(Reports::Foreign) | None => {}
        }
        Ok(())
    }

    /// Whoever ships reads the whole file next, also after a crash. Where there is no file, there is nothing to ship.
    pub fn ship_whole(&self, id: OrganizationId) -> Result<()> {
        let file = path::file(&self.root_of(id), id);
        let is_read = matches!(self.backup_of(id), Backup::Wal(_) | Backup::Later);
        // One that cannot be looked at is there.
        if is_read && file.try_exists().unwrap_or(true) { mark_unread(&file) } else { Ok(()) }
    }

    /// For whoever writes to a file without acknowledging anything to anybody.
    pub(super) fn backup_of(&self, id: OrganizationId) -> Backup {
        self.backup_with(id, &Arc::default())
    }

    /// What a file that is being opened is to know, with what it says itself.
    pub(super) fn awaited(&self, own: Option<&str>, flag: Arc<AtomicBool>) -> Awaited {
        let default = self.0.limits.replication;
        let wanted = own.and_then(Replication::parse).unwrap_or(default);
        flag.store(wanted == Replication::Object, Ordering::Release);
        let has_store = matches!(self.0.written.get(), Some(Reports::To(_)));
        Awaited { flag, default, has_store }
    }

    pub(super) fn backup_with(&self, id: OrganizationId, flag: &Arc<AtomicBool>) -> Backup {
        match self.0.written.get() {
            Some(Reports::To(written)) => {
                let (written, flag) = (Arc::clone(written), Arc::clone(flag));
                Backup::Wal(Arc::new(move || written(id, flag.load(Ordering::Acquire))))
            }
            Some(Reports::Later) => Backup::Later,
            Some(Reports::Foreign) => Backup::Foreign,
            None => Backup::None,
        }
    }
}

impl Tenant {
    /// What a write has reached when it is acknowledged.
    #[must_use]
    pub fn replication(&self) -> Replication {
        match self.0.awaited.flag.load(Ordering::Acquire) {
            true => Replication::Object,
            false => Replication::Local,
        }
    }

    /// From the next write on, what operators have set, or else the deployment's default. Returns what it was.
    pub fn replicate(&self, own: Option<Replication>) -> Replication {
        let wanted = own.unwrap_or(self.0.awaited.default);
        match self.0.awaited.flag.swap(wanted == Replication::Object, Ordering::AcqRel) {
            true => Replication::Object,
            false => Replication::Local,
        }
    }
}
