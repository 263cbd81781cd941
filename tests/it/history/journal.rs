//! The journal, in which a history is written down while it happens.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use super::{Event, What};

/// Writes a history down as it happens, from many threads.
pub struct Journal {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal { began: Instant::now(), events: Mutex::default() }
    }

    pub fn write(&self, what: What) {
        let mut events = self.lock();
        let at = self.began.elapsed();
        events.push(Event { at, what });
    }

    /// Counts what was written so far.
    pub fn count(&self, is_counted: impl Fn(&What) -> bool) -> usize {
        self.lock().iter().filter(|event| is_counted(&event.what)).count()
    }

    /// The keys of requests that were sent and have not come to an end.
    pub fn keys_under_way(&self) -> Vec<String> {
        let mut under_way = BTreeMap::new();
        for Event { what, .. } in self.lock().iter() {
            match what {
                What::Sent { request, key } => drop(under_way.insert(*request, key.clone())),
                What::Answered { request, .. } | What::Lost { request } => drop(under_way.remove(request)),
                What::Executed { .. } => {}
            }
        }
        under_way.into_values().collect()
    }

    /// The history so far; the next one begins.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("nobody panics in here")
    }
}
