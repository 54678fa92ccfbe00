//! Places of open files: a bounded number, given to whoever opens one and taken from whoever is used least.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;

use super::open_files::{Slot, Tenants};
use super::tenant::Open;
use crate::base::{Error, Result, codes};

/// How often whoever is first in the queue looks for a file that nobody uses.
const LOOK: Duration = Duration::from_millis(2);
/// How many places are kept free where there are many, so that whoever opens a file need not close another one first.
const SPARE: usize = 16;
/// How many looks the newcomers of one file are held up for, so that it falls idle; at first.
const LOOKS: u32 = 20;

impl Tenants {
    /// A place for one more file, made by taking one that nobody uses if there is none.
    pub(super) async fn make_room(&self) -> Result<Room> {
        // Whoever came first gets the next place: nobody else takes one, or looks for one.
        let turn = self.0.turn.acquire().await.map_err(|_| all_in_use())?;
        let hold_up = HoldUp(self);
        for round in 0_u32.. {
            // Longer every few rounds, until it is long enough for whatever the requests do.
            for _ in 0..LOOKS << (round / 8).min(5) {
                if let Ok(place) = Arc::clone(&self.0.places).try_acquire_owned() {
                    return Ok(Room::Free(place));
                }
                if let Some(idle) = self.take_idle() {
                    // The next one may look for another meanwhile.
                    drop((hold_up, turn));
                    return Ok(Room::Taken(Box::new(idle)));
                }
                sleep(LOOK).await;
            }
            self.hold_up_next();
        }
        Err(all_in_use())
    }

    /// Closes files that nobody uses, until a few places are free again; behind those who wait for an answer.
    pub(super) fn keep_places_free(&self) {
        // Also where something goes wrong in between.
        struct Closing(Tenants);
        impl Drop for Closing {
            fn drop(&mut self) {
                self.0.0.closing.store(false, Ordering::Release);
            }
        }
        let (spare, free) = (SPARE.min(self.0.capacity / 64), |tenants: &Self| tenants.0.places.available_permits());
        // Several at once: a thread that is woken for each would take longer to wake than to close it.
        if spare == 0 || free(self) > spare / 2 || self.0.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        let closing = Closing(self.clone());
        tokio::spawn(async move {
            tokio::task::block_in_place(|| {
                while free(&closing.0) < spare {
                    let Some(idle) = closing.0.take_idle() else { break };
                    drop(idle.close());
                }
            });
        });
    }

    /// Takes out the least recently used file that nobody uses.
    fn take_idle(&self) -> Option<Open> {
        let mut files = self.files();
        // The map holds one reference to the slot, and the slot one to the file: a further one is a
        // request at work, or about to be.
        let idle = |slot: &Slot| {
            Arc::strong_count(slot) == 1 && slot.get().is_some_and(|tenant| Arc::strong_count(&tenant.0) == 1)
        };
        let id = files.slots.iter().rev().find_map(|(id, slot)| idle(slot).then_some(*id))?;
        let tenant = Arc::into_inner(files.slots.pop(&id)?)?.into_inner()?;
        let evicted = |_: &Open| metrics::counter!("bulkhead_organization_evictions_total").increment(1);
        Arc::into_inner(tenant.0).inspect(evicted)
    }

    /// Every file is in use, one request for it after the other without a gap. The newcomers of one wait a
    /// moment so that it falls idle; where something takes longer than that, those of the next one.
    fn hold_up_next(&self) {
        let mut files = self.files();
        let open = || files.slots.iter().rev().filter(|(_, slot)| slot.initialized()).map(|(id, _)| *id);
        let after = files.held_up.and_then(|last| open().skip_while(|&id| id != last).nth(1));
        let next = after.or_else(|| open().next());
        files.held_up = next;
        drop(files);
        self.0.let_go.notify_waiters();
    }
}

/// A place for one more file.
pub(super) enum Room {
    Free(OwnedSemaphorePermit),
    /// That of a file which nobody is given any more, and which is yet to be closed.
    Taken(Box<Open>),
}

impl Room {
    /// Blocking.
    pub fn clear(self) -> OwnedSemaphorePermit {
        match self {
            Self::Free(place) => place,
            Self::Taken(idle) => idle.close(),
        }
    }
}

/// Ends with the search for a place.
struct HoldUp<'a>(&'a Tenants);

impl Drop for HoldUp<'_> {
    fn drop(&mut self) {
        let held_up = self.0.files().held_up.take();
        if held_up.is_some() {
            self.0.0.let_go.notify_waiters();
        }
    }
}

pub(super) fn all_in_use() -> Error {
    Error::new(&codes::ORGANIZATION_BUSY)
        .because("every file that may be open is in use")
        .retry_after(Duration::from_secs(1))
}
