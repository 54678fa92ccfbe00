//! Organizations that an operator has set aside: nobody opens their files, so nothing of them is shipped before they
//! are released. What lies at the store is merged and expires as that of any other.

use super::{Backups, Inner, Source};

/// Why nothing is shipped, as it is told.
const WHY: &str = "the organization is set aside; what was written to it is shipped once it is released";

impl Backups {
    /// It is let back in: what is shipped next is the whole, and nobody is told any more that nothing is.
    pub async fn take_up(&self, source: Source) {
        self.start_over(source).await;
        if self.progress(source).is_some() {
            self.0.states.note(source, |progress| progress.stopped = None);
        }
    }
}

impl Inner {
    /// Whether its file may not be looked at now. Whoever releases it asks for it to be shipped whole
    /// ([`Backups::take_up`]), since the file may have been replaced meanwhile.
    pub(super) async fn is_set_aside(&self, source: Source) -> bool {
        let Source::Organization(id) = source else { return false };
        self.databases.directory.by_id(id).await.is_ok_and(|route| route.is_quarantined())
    }

    /// It rests, with the reason where people look for it. Trying again would only fail again.
    pub(super) fn leave_aside(&self, source: Source) {
        // Where the store is new, the others need not wait for it.
        self.shipped(source);
        let now = self.clock.now();
        self.states.note(source, |progress| {
            progress.behind_since.get_or_insert(now);
            (progress.last_error, progress.last_error_at) = (None, None);
            progress.stopped = Some(WHY.to_owned());
        });
    }
}
