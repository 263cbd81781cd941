//! Those who wait for another's execution to end.
//!
//! Waking is a hint that saves time; the truth is always read from the store.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::scope::RecordId;

/// How many may wait for one key; more are turned away at once.
pub const MAX_WAITERS_PER_KEY: usize = 64;
/// How many may wait in one process.
pub const MAX_WAITERS: usize = 16_384;

#[derive(Default)]
pub(super) struct Waiters {
    total: AtomicUsize,
    keys: Mutex<HashMap<RecordId, Waiting>>,
}

struct Waiting {
    bell: Arc<Notify>,
    count: usize,
}

/// A place in the line; leaving it is dropping it.
pub(super) struct Ticket<'a> {
    waiters: &'a Waiters,
    id: RecordId,
    pub(super) bell: Arc<Notify>,
}

impl Waiters {
    /// Takes a place in the line; `None` when it is full.
    pub(super) fn enter(&self, id: &RecordId) -> Option<Ticket<'_>> {
        let mut keys = self.lock();
        if self.total.load(Ordering::Relaxed) >= MAX_WAITERS {
            return None;
        }
        let waiting = keys.entry(*id).or_insert_with(|| Waiting { bell: Arc::new(Notify::new()), count: 0 });
        if waiting.count >= MAX_WAITERS_PER_KEY {
            return None;
        }
        waiting.count += 1;
        self.total.fetch_add(1, Ordering::Relaxed);
        Some(Ticket { waiters: self, id: *id, bell: waiting.bell.clone() })
    }

    /// Wakes those who wait for a key.
    pub(super) fn wake(&self, id: &RecordId) {
        // Most executions end with nobody waiting: no lock for them.
        if self.total.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(waiting) = self.lock().get(id) {
            waiting.bell.notify_waiters();
        }
    }

    /// Wakes all: notices may have been lost.
    pub(super) fn wake_all(&self) {
        self.lock().values().for_each(|waiting| waiting.bell.notify_waiters());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RecordId, Waiting>> {
        // Nothing panics while the lock is held; should it, the map is still whole.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut keys = self.waiters.lock();
        self.waiters.total.fetch_sub(1, Ordering::Relaxed);
        if let Some(waiting) = keys.get_mut(&self.id) {
            waiting.count -= 1;
            if waiting.count == 0 {
                keys.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::scope::Scope;

    #[test]
    fn the_line_of_a_key_is_bounded_and_empties_again() {
        let waiters = Waiters::default();
        let id = RecordId::new(&Scope::new("a"), &Key::parse("k").expect("a key"));
        let tickets: Vec<_> = (0..MAX_WAITERS_PER_KEY).map(|_| waiters.enter(&id).expect("there is room")).collect();
        assert!(waiters.enter(&id).is_none());
        drop(tickets);
        assert!(waiters.lock().is_empty());
        assert_eq!(waiters.total.load(Ordering::Relaxed), 0);
        assert!(waiters.enter(&id).is_some());
    }

    #[test]
    fn all_lines_together_are_bounded() {
        let waiters = Waiters::default();
        let id = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            RecordId::from_bytes(bytes)
        };
        let tickets: Vec<_> =
            (0..MAX_WAITERS).map(|number| waiters.enter(&id(number)).expect("there is room")).collect();
        assert!(waiters.enter(&id(MAX_WAITERS)).is_none());
        drop(tickets);
        assert!(waiters.enter(&id(MAX_WAITERS)).is_some());
    }
}
