//! Turns: work on one thing at a time, while work on others goes on.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A turn for each thing that somebody works on or waits for; cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns<K>(Arc<Mutex<HashMap<K, Weak<tokio::sync::Mutex<()>>>>>);

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// To be locked by whoever works on it.
    #[must_use]
    pub fn of(&self, key: K) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What is left are those in progress: few.
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_has_one_turn_for_as_long_as_somebody_has_it() {
        let turns = Turns::default();
        let (one, again, other) = (turns.of(1), turns.of(1), turns.of(2));
        assert!(Arc::ptr_eq(&one, &again) && !Arc::ptr_eq(&one, &other));
        let _at_work = one.try_lock().unwrap();
        assert!(again.try_lock().is_err() && other.try_lock().is_ok());
        for n in 3..1000 {
            drop(turns.of(n));
        }
        assert!(turns.0.lock().unwrap().len() <= 3);
    }
}
