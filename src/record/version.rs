//! The version: a random name for one write.

use std::cell::RefCell;
use std::fmt;

pub(super) const VERSION_LENGTH: usize = 16;

thread_local! {
    static POOL: RefCell<RandomPool> = const { RefCell::new(RandomPool { bytes: [0; POOL_LENGTH], used: POOL_LENGTH }) };
}

/// How many random bytes are asked for at once.
const POOL_LENGTH: usize = 64 * VERSION_LENGTH;

/// Random bytes of the operating system, so many at once that a write does not cost a system call.
struct RandomPool {
    bytes: [u8; POOL_LENGTH],
    used: usize,
}

impl RandomPool {
    fn take(&mut self) -> [u8; VERSION_LENGTH] {
        if self.used == POOL_LENGTH {
            getrandom::fill(&mut self.bytes).expect("the operating system has random bytes");
            self.used = 0;
        }
        let mut taken = [0; VERSION_LENGTH];
        taken.copy_from_slice(&self.bytes[self.used..self.used + VERSION_LENGTH]);
        self.used += VERSION_LENGTH;
        taken
    }
}

/// A random name for one write. A repeat of the write carries the same version, so that it is known again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; VERSION_LENGTH]);

impl Version {
    /// Picks a fresh one.
    ///
    /// # Panics
    /// When the operating system has no random bytes, which a running one has.
    pub fn random() -> Version {
        POOL.with_borrow_mut(|pool| Version(pool.take()))
    }

    /// The version's bytes.
    pub fn as_bytes(&self) -> &[u8; VERSION_LENGTH] {
        &self.0
    }

    /// Rebuilds a version from its bytes.
    pub fn from_bytes(bytes: [u8; VERSION_LENGTH]) -> Version {
        Version(bytes)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
