//! A store that goes wrong on demand, for tests of what is built on stores.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreError, StoreFuture,
};
use crate::record::Version;
use crate::scope::RecordId;

/// The calls that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Store::create`].
    Create,
    /// [`Store::replace`].
    Replace,
    /// [`Store::remove`].
    Remove,
    /// [`Store::load`].
    Load,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Not done, and said so: `NotApplied`.
    Refuse,
    /// Done, but the answer is lost: `MaybeApplied`.
    Swallow,
    /// Not done, and nobody can tell: `MaybeApplied`.
    Lose,
    /// No answer until the store is healed; then it is done.
    Hang,
    /// Done, but no answer until the store is healed.
    Stall,
    /// There is no room: `Full`.
    Full,
    /// What is there cannot be read: `Corrupt`.
    Damage,
}

/// A store around another one, with faults.
///
/// ```
/// use std::sync::Arc;
/// use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, Terms};
/// use onceproxy::stores::conformance::faulty::{Call, Fault, FaultyStore};
/// use onceproxy::stores::memory::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
/// store.fault_next(Call::Create, Fault::Swallow);
/// let ledger = Ledger::over(store.clone());
/// let id = RecordId::new(&Scope::new("jobs"), &Key::parse("job-1")?);
/// // The ledger asks again, and finds its own record.
/// assert!(matches!(ledger.begin(&id, Fingerprint::of("charge"), &Terms::default()).await?, Begun::Execute(_)));
/// assert_eq!(store.calls(Call::Create), 2);
/// # Ok(()) }
/// ```
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Mutex<Plan>,
    /// Counts the healings.
    healed: watch::Sender<u64>,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Call, VecDeque<Fault>>,
    all: HashMap<Call, Fault>,
    every: Option<(usize, Fault)>,
    larger: Option<(usize, Fault)>,
    writes: usize,
    calls: HashMap<Call, usize>,
    faults: HashMap<Fault, usize>,
}

impl FaultyStore {
    /// A store without a fault yet.
    pub fn new(inner: Arc<dyn Store>) -> FaultyStore {
        FaultyStore { inner, plan: Mutex::default(), healed: watch::Sender::new(0) }
    }

    /// The next such call goes wrong; several are taken in order.
    pub fn fault_next(&self, call: Call, fault: Fault) {
        self.plan().next.entry(call).or_default().push_back(fault);
    }

    /// Every such call goes wrong until the store is healed.
    pub fn fault_all(&self, call: Call, fault: Fault) {
        self.plan().all.insert(call, fault);
    }

    /// Every so many writes (creates, replaces and removes, counted together) one goes wrong, from the first one on.
    pub fn fault_every(&self, writes: usize, fault: Fault) {
        self.plan().every = Some((writes.max(1), fault));
    }

    /// Creates and replaces with an outcome above so many bytes go wrong.
    pub fn fault_larger_than(&self, bytes: usize, fault: Fault) {
        self.plan().larger = Some((bytes, fault));
    }

    /// Ends all faults, and lets go what hangs.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.next.clear();
        plan.all.clear();
        plan.every = None;
        plan.larger = None;
        drop(plan);
        self.healed.send_modify(|healings| *healings += 1);
    }

    /// How many such calls there were.
    pub fn calls(&self, call: Call) -> usize {
        self.plan().calls.get(&call).copied().unwrap_or(0)
    }

    /// How often such a fault happened.
    pub fn count(&self, fault: Fault) -> usize {
        self.plan().faults.get(&fault).copied().unwrap_or(0)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        // Nothing panics while it is held; should it, the plan is still whole.
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T>(&self, call: Call, bytes: usize, inner: StoreFuture<'_, T>) -> Result<T, StoreError> {
        let mut healed = self.healed.subscribe();
        let fault = self.plan().take(call, bytes);
        match fault {
            None => inner.await,
            Some(Fault::Refuse) => Err(StoreError::NotApplied("refused on demand".into())),
            Some(Fault::Full) => Err(StoreError::Full("full on demand".into())),
            Some(Fault::Damage) => Err(StoreError::Corrupt),
            Some(Fault::Lose) => Err(StoreError::MaybeApplied("lost on demand".into())),
            Some(Fault::Swallow) => {
                inner.await?;
                Err(StoreError::MaybeApplied("swallowed on demand".into()))
            }
            Some(Fault::Stall) => {
                let done = inner.await;
                let _ = healed.changed().await;
                done
            }
            Some(Fault::Hang) => {
                // The sender lives as long as this store.
                let _ = healed.changed().await;
                inner.await
            }
        }
    }
}

impl Plan {
    /// Counts a call, and says what goes wrong with it.
    fn take(&mut self, call: Call, bytes: usize) -> Option<Fault> {
        *self.calls.entry(call).or_default() += 1;
        let rhythm = match (call, self.every) {
            (Call::Load, _) | (_, None) => None,
            (Call::Create | Call::Replace | Call::Remove, Some((writes, fault))) => {
                self.writes += 1;
                (self.writes % writes == 1 % writes).then_some(fault)
            }
        };
        let planned = self.next.get_mut(&call).and_then(VecDeque::pop_front);
        let large = self.larger.filter(|(limit, _)| bytes > *limit).map(|(_, fault)| fault);
        let fault = planned.or(self.all.get(&call).copied()).or(large).or(rhythm)?;
        *self.faults.entry(fault).or_default() += 1;
        Some(fault)
    }
}

impl Store for FaultyStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(self.run(Call::Create, draft.record.outcome.len(), self.inner.create(id, draft)))
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(self.run(Call::Replace, draft.record.outcome.len(), self.inner.replace(id, expected, draft, notice)))
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(self.run(Call::Remove, 0, self.inner.remove(id, expected, notice)))
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(self.run(Call::Load, 0, self.inner.load(id)))
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        self.inner.notices()
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        self.inner.list(filter, cursor)
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        self.inner.preflight()
    }
}
