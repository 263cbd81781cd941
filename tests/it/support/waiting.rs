//! Waiting for what other threads and processes do: for a condition, never for a while.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How often something is looked at that cannot ring.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something to see.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Something that happens once. Clones are the same.
#[derive(Clone, Default)]
pub struct Signal(Arc<(Mutex<bool>, Condvar)>);

impl Signal {
    /// It happens.
    pub fn give(&self) {
        *self.0.0.lock().expect("nobody panics in here") = true;
        self.0.1.notify_all();
    }

    /// Waits until it has happened; says whether it did before the patience ended.
    pub fn wait(&self) -> bool {
        let given = self.0.0.lock().expect("nobody panics in here");
        let (given, _) = self.0.1.wait_timeout_while(given, PATIENCE, |given| !*given).expect("nobody panics in here");
        *given
    }
}
