//! A store that comes later: another process still has it.

use std::sync::{Arc, OnceLock};

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreError, StoreFuture,
};
use crate::record::Version;
use crate::scope::RecordId;

/// Stands for a store until it is there; until then every call is refused, and nothing was applied. Clones are the same.
///
/// ```
/// use std::sync::Arc;
///
/// use onceproxy::Store;
/// use onceproxy::stores::late::LateStore;
/// use onceproxy::stores::memory::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let late = LateStore::new("another process has it");
/// assert!(late.preflight().await.is_err());
/// late.is_here(Arc::new(MemoryStore::new()));
/// assert!(late.preflight().await.is_ok());
/// # }
/// ```
#[derive(Clone)]
pub struct LateStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: OnceLock<Arc<dyn Store>>,
    reason: &'static str,
}

impl LateStore {
    /// A store that is not there yet, for this reason.
    pub fn new(reason: &'static str) -> LateStore {
        LateStore { shared: Arc::new(Shared { store: OnceLock::new(), reason }) }
    }

    /// It is there from now on. The first one counts.
    pub fn is_here(&self, store: Arc<dyn Store>) {
        let _ = self.shared.store.set(store);
    }

    fn ask<'a, T: 'a>(&'a self, call: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T>) -> StoreFuture<'a, T> {
        match self.shared.store.get() {
            Some(store) => call(&**store),
            None => Box::pin(async { Err(StoreError::NotApplied(self.shared.reason.into())) }),
        }
    }
}

impl Store for LateStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        self.ask(|store| store.create(id, draft))
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        self.ask(|store| store.replace(id, expected, draft, notice))
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        self.ask(|store| store.remove(id, expected, notice))
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        self.ask(|store| store.load(id))
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        self.ask(|store| store.notices())
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        self.ask(|store| store.list(filter, cursor))
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.ask(|store| store.purge(limit))
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        self.ask(|store| store.preflight())
    }
}
