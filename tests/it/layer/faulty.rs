//! A store in memory that fails on demand.

use std::sync::{Arc, Mutex};

use onceproxy::RecordId;
use onceproxy::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreError, StoreFuture,
};
use onceproxy::record::Version;
use onceproxy::stores::memory::MemoryStore;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Well,
    /// Nothing is done, and it is said so.
    Away,
    /// Creates are done, and their answers get lost; so does everything else, undone.
    AnswersLost,
    /// Creates are done, outcomes are refused.
    OutcomesRefused,
    /// What is in place is damaged.
    Damaged,
    /// What is in place is of another format.
    Foreign,
    /// Reads work, there is no room for more.
    Full,
}

#[derive(Clone)]
pub struct FaultyStore {
    pub inner: MemoryStore,
    fault: Arc<Mutex<Fault>>,
}

impl FaultyStore {
    pub fn new(fault: Fault) -> FaultyStore {
        FaultyStore { inner: MemoryStore::new(), fault: Arc::new(Mutex::new(fault)) }
    }

    pub fn set(&self, fault: Fault) {
        *self.fault.lock().expect("nobody panics with the lock") = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock().expect("nobody panics with the lock")
    }

    /// What every call meets first.
    fn gate(&self) -> Result<(), StoreError> {
        match self.fault() {
            Fault::Away => Err(StoreError::NotApplied("the store is away".into())),
            Fault::AnswersLost => Err(StoreError::MaybeApplied("the answer was lost".into())),
            Fault::Damaged => Err(StoreError::Corrupt),
            Fault::Foreign => Err(StoreError::UnknownFormat(9)),
            Fault::Well | Fault::OutcomesRefused | Fault::Full => Ok(()),
        }
    }
}

impl Store for FaultyStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            if self.fault() == Fault::AnswersLost {
                self.inner.create(id, draft).await?;
            }
            self.gate()?;
            if self.fault() == Fault::Full {
                return match self.inner.load(id).await? {
                    Some(entry) => Ok(Created::Existing(entry)),
                    None => Err(StoreError::Full("no room".into())),
                };
            }
            self.inner.create(id, draft).await
        })
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            self.gate()?;
            if self.fault() == Fault::OutcomesRefused {
                return Err(StoreError::NotApplied("no outcomes today".into()));
            }
            self.inner.replace(id, expected, draft, notice).await
        })
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            self.gate()?;
            self.inner.remove(id, expected, notice).await
        })
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move {
            self.gate()?;
            self.inner.load(id).await
        })
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
