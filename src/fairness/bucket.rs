//! Something that is used up and comes back evenly: the generic cell rate algorithm (ITU-T I.371, annex A), a token
//! bucket in one word.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// So much at once, and as much again over each window. Times are nanoseconds of a clock that never goes back.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// When it will be full again; in the past if it is.
    full_at: AtomicU64,
    /// What it holds; 0 is no limit.
    capacity: AtomicU64,
    /// How long it takes to fill.
    window: AtomicU64,
    /// It has run dry, and there is not yet enough in it again for [`Bucket::look`].
    dry: AtomicBool,
}

/// What must have come back of a bucket that has run dry: a part of so many. With less, whoever waited would find
/// something for the first half of what they want to do and nothing for the second.
const WORTHWHILE: u64 = 12;

impl Bucket {
    /// Sets what it holds; where that is something else than before, it is full.
    pub fn set(&self, capacity: u64, window: Duration) {
        let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
        let before = (self.capacity.swap(capacity, Ordering::Relaxed), self.window.swap(window, Ordering::Relaxed));
        if before != (capacity, window) {
            self.full_at.store(0, Ordering::Relaxed);
            self.dry.store(false, Ordering::Relaxed);
        }
    }

    /// Takes one, or says how long it is until there is one.
    pub fn take(&self, now: Duration) -> Result<(), Duration> {
        let (now, Some((cost, window))) = (nanos(now), self.price(1)) else { return Ok(()) };
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(cost);
            if next - now > window {
                return Err(Duration::from_nanos(next - now - window));
            }
            match self.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether anything is left, or how long it is until there is enough to go on with.
    pub fn look(&self, now: Duration) -> Result<(), Duration> {
        let (now, Some((_, window))) = (nanos(now), self.price(1)) else { return Ok(()) };
        let missing = self.full_at.load(Ordering::Relaxed).saturating_sub(now);
        let enough = window - window / WORTHWHILE;
        let is_dry = self.dry.load(Ordering::Relaxed);
        if missing >= window || is_dry && missing > enough {
            self.dry.store(true, Ordering::Relaxed);
            return Err(Duration::from_nanos(missing - enough));
        }
        if is_dry {
            self.dry.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes what has been used already, also where there is less: then it takes longer to come back, but never
    /// longer than two windows.
    pub fn charge(&self, now: Duration, amount: u64) {
        let (now, Some((cost, window))) = (nanos(now), self.price(amount)) else { return };
        let most = now.saturating_add(window.saturating_mul(2));
        let charged = |full_at: u64| Some(full_at.max(now).saturating_add(cost).min(most));
        let _ = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charged);
    }

    /// What it holds, and how long it takes to fill.
    pub fn size(&self) -> (u64, Duration) {
        (self.capacity.load(Ordering::Relaxed), Duration::from_nanos(self.window.load(Ordering::Relaxed)))
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, now: Duration) -> bool {
        self.full_at.load(Ordering::Relaxed) <= nanos(now)
    }

    /// How long so much takes to come back, and the whole.
    fn price(&self, amount: u64) -> Option<(u64, u64)> {
        let (capacity, window) = (self.capacity.load(Ordering::Relaxed), self.window.load(Ordering::Relaxed));
        if capacity == 0 {
            return None;
        }
        let cost = u128::from(amount) * u128::from(window) / u128::from(capacity);
        Some((u64::try_from(cost).unwrap_or(u64::MAX), window))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
