//! One cap over all buffers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

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
    free: Arc<AtomicIsize>,
}

/// Bytes taken from a [`Budget`]; they go back when it is dropped.
pub struct Reserved {
    free: Arc<AtomicIsize>,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Budget {
        Budget { free: Arc::new(AtomicIsize::new(signed(bytes))) }
    }

    /// Changes the number of bytes by the difference of these two. What is taken stays taken, also where that is more
    /// than there are now: then there is room again when enough of it has come back.
    pub fn resize(&self, from: usize, to: usize) {
        self.free.fetch_add(signed(to) - signed(from), Ordering::Relaxed);
    }

    /// An empty reservation, to be grown.
    pub fn reserve_none(&self) -> Reserved {
        Reserved { free: self.free.clone(), bytes: 0 }
    }

    /// How many bytes nobody has taken.
    pub fn free_bytes(&self) -> usize {
        usize::try_from(self.free.load(Ordering::Relaxed)).unwrap_or(0)
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
        let enough = |free: isize| free.checked_sub(signed(bytes)).filter(|left| *left >= 0);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Takes more bytes also when there are not as many left, for what must not be lost: others wait the longer.
    pub fn grow_beyond(&mut self, bytes: usize) {
        self.free.fetch_sub(signed(bytes), Ordering::Relaxed);
        self.bytes += bytes;
    }

    /// How many bytes are taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.bytes = bytes;
            self.free.fetch_add(signed(surplus), Ordering::Relaxed);
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.free.fetch_add(signed(self.bytes), Ordering::Relaxed);
    }
}

/// No buffer is larger than half of what can be addressed.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
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

    #[test]
    fn a_smaller_budget_waits_for_what_is_taken() {
        let budget = Budget::new(10);
        let first = budget.reserve(8).expect("there is room");
        budget.resize(10, 4);
        assert!(budget.reserve(1).is_none());
        drop(first);
        assert!(budget.reserve(5).is_none());
        assert!(budget.reserve(4).is_some());
    }

    #[test]
    fn what_must_not_be_lost_may_overdraw() {
        let budget = Budget::new(10);
        let mut large = budget.reserve_none();
        large.grow_beyond(15);
        assert!(budget.reserve(1).is_none());
        drop(large);
        assert!(budget.reserve(10).is_some());
    }
}
