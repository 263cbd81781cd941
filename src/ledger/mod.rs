//! The protocol: how a key takes effect once. It knows no HTTP.
//!
//! The record outlives its lease: the store keeps it for the whole retention, and the lease is a field of it. Who
//! comes with a key *creates* the record; exactly one succeeds and holds the [`Claim`]. Everybody else reads what is
//! there, and [`judge`](judge::judge) says what it means: the outcome to replay, somebody at work, another request
//! under the same key, or an outcome that nobody knows. The claim renews its lease until the work is done and then
//! puts the outcome in the record's place. Every write but the first is a compare-and-set on the version of the write
//! before, so an owner that comes back from the dead can change nothing that another has taken over.
//!
//! Every write carries a fresh random version and may be repeated: one that finds its own version in place has
//! succeeded. When the answer to a write was lost, the ledger repeats it or reads; it never guesses. A create that
//! ends in a refusal is taken back, so that a lost answer does not hold the key.
//!
//! Only the store's clock decides whether a lease has ended. The owner has a clock of its own, counted from before the
//! write was sent, and begins no effect after it.
//!
//! An owner that can prove that it executed nothing releases its claim. The proof is of its own attempt only: a key that
//! was taken over from an unknown outcome or a dead lease is unknown again, and free only when there was nothing before.
//!
//! What cannot be promised: whether an execution took effect whose end nobody saw. The terms choose between *hold* (at
//! most once within the retention) and *retry* (at least once).

mod background;
mod begin;
pub mod claim;
pub mod judge;
mod keeper;
pub mod operate;
pub mod store;
mod take_back;
pub mod terms;
mod waiters;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::ledger::background::Background;
use crate::ledger::claim::Claim;
use crate::ledger::store::Store;
use crate::ledger::waiters::Waiters;

/// How long an owner waits for a failing store unless told otherwise: two of the stores' default time limits.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(1);

/// The protocol over a store. Clones share everything.
///
/// ```
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, Terms};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Ledger::new(MemoryStore::new());
/// let id = RecordId::new(&Scope::new("jobs"), &Key::parse("job-1")?);
/// let first = ledger.begin(&id, Fingerprint::of("charge 100"), &Terms::default()).await?;
/// assert!(matches!(first, Begun::Execute(_)));
/// // While that claim is held:
/// let same = ledger.begin(&id, Fingerprint::of("charge 100"), &Terms::default()).await?;
/// let other = ledger.begin(&id, Fingerprint::of("charge 900"), &Terms::default()).await?;
/// assert!(matches!(same, Begun::InFlight { .. }));
/// assert!(matches!(other, Begun::Mismatch));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Ledger {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

/// What all handles of one ledger share.
struct Shared {
    waiters: Waiters,
    listening: AtomicBool,
    background: Background,
    alarms: Counters,
    patience: Duration,
}

/// What [`Ledger::begin`] found. Exhaustive: a new outcome has to stop its users' builds.
#[derive(Debug)]
pub enum Begun {
    /// The key is won: execute.
    Execute(Claim),
    /// It was executed; this is the recorded outcome.
    Replay(Bytes),
    /// Another executes, or may still execute.
    InFlight {
        /// When it makes sense to come again.
        retry_after: Duration,
    },
    /// The key was used for something else.
    Mismatch,
    /// Nobody knows whether it was executed, and it is not executed again.
    Unknown {
        /// The number of the attempt whose end nobody saw.
        attempt: u32,
        /// Why it is unknown; empty when the owner died without a word.
        reason: Arc<str>,
    },
}

/// How often something happened that an operator should hear of, since the ledger was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Alarms {
    /// Claims that others took while their owner was at work.
    pub leases_lost: u64,
    /// Records of running claims that vanished from the store.
    pub recreated: u64,
    /// Outcomes that were not recorded in time.
    pub unrecorded: u64,
}

#[derive(Default)]
struct Counters {
    leases_lost: AtomicU64,
    recreated: AtomicU64,
    unrecorded: AtomicU64,
}

impl Ledger {
    /// A ledger over a store.
    pub fn new(store: impl Store) -> Ledger {
        Ledger::over(Arc::new(store))
    }

    /// A ledger over a shared store.
    pub fn over(store: Arc<dyn Store>) -> Ledger {
        Ledger { store, shared: Arc::new(Shared::new(DEFAULT_PATIENCE)) }
    }

    /// Sets how long a refusal or an answer is held back while the store fails: best two of its time limits.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Ledger {
        Ledger { store: self.store, shared: Arc::new(Shared::new(patience)) }
    }

    /// The same ledger through another handle of the same store: waiters and counts are shared.
    #[must_use]
    pub fn through(&self, store: Arc<dyn Store>) -> Ledger {
        Ledger { store, shared: self.shared.clone() }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How many last words about claims are not written yet, and how many reserves are being taken back. A process that
    /// ends before leaves those keys in flight.
    pub fn background(&self) -> usize {
        self.shared.background.writes()
    }

    /// Waits until nothing is left to be written in the background. While the store fails that may be long: give it a
    /// time limit.
    pub async fn idle(&self) {
        self.shared.background.idle().await;
    }

    /// What an operator should hear of.
    pub fn alarms(&self) -> Alarms {
        let counters = &self.shared.alarms;
        Alarms {
            leases_lost: counters.leases_lost.load(Ordering::Relaxed),
            recreated: counters.recreated.load(Ordering::Relaxed),
            unrecorded: counters.unrecorded.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ledger")
    }
}

impl Shared {
    fn new(patience: Duration) -> Shared {
        Shared {
            waiters: Waiters::default(),
            listening: AtomicBool::new(false),
            background: Background::default(),
            alarms: Counters::default(),
            patience,
        }
    }
}

impl Counters {
    fn leases_lost(&self) {
        self.leases_lost.fetch_add(1, Ordering::Relaxed);
    }

    fn recreated(&self) {
        self.recreated.fetch_add(1, Ordering::Relaxed);
    }

    fn unrecorded(&self) {
        self.unrecorded.fetch_add(1, Ordering::Relaxed);
    }
}
