//! One cap over all buffers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that all holders of buffers share. Clones share the same bytes.
///
/// ```
/// use onceproxy::http::budget::Budget;
///
/// let budget = Budget::new(10);
/// let held = budget.reserve(6).expect("there is room");
/// assert!(budget.reserve(6).is_none());
/// drop(held);
/// assert!(budget.reserve(6).is_some());
/// ```
#[derive(Clone)]
pub struct Budget {
    free: Arc<AtomicUsize>,
}

/// Bytes taken from a [`Budget`]; they go back when it is dropped.
pub struct Reserved {
    free: Arc<AtomicUsize>,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget { free: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// An empty reservation, to be grown.
    pub fn reserve_none(&self) -> Reserved {
        Reserved { free: self.free.clone(), bytes: 0 }
    }

    /// Takes bytes; `None` when there are not as many left.
    pub fn reserve(&self, bytes: usize) -> Option<Reserved> {
        let mut reserved = self.reserve_none();
        reserved.grow(bytes).then_some(reserved)
    }
}

impl Default for Budget {
    /// 256 MiB.
    fn default() -> Budget {
        Budget::new(256 << 20)
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("free_bytes", &self.free.load(Ordering::Relaxed)).finish()
    }
}

impl Reserved {
    /// Takes more bytes; false, and nothing taken, when there are not as many left.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let taken =
            self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| free.checked_sub(bytes)).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.bytes = bytes;
            self.free.fetch_add(surplus, Ordering::Relaxed);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back() {
        let budget = Budget::new(10);
        let mut first = budget.reserve(6).expect("there is room");
        assert!(budget.reserve(5).is_none());
        assert!(!first.grow(5));
        first.shrink_to(2);
        let second = budget.reserve(8).expect("there is room again");
        drop((first, second));
        assert!(budget.reserve(10).is_some());
    }
}
