//! A store that tells how long its calls take.

use std::sync::Arc;
use std::time::Instant;

use metrics::Histogram;

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreFuture,
};
use crate::record::Version;
use crate::scope::RecordId;

/// Where the durations of a store's calls go, in seconds.
#[derive(Clone)]
pub struct StoreMetrics {
    pub(super) create: Histogram,
    pub(super) replace: Histogram,
    pub(super) remove: Histogram,
    pub(super) load: Histogram,
}

/// A store whose calls are timed.
pub struct TimedStore {
    inner: Arc<dyn Store>,
    metrics: StoreMetrics,
}

impl TimedStore {
    /// Times the calls of a store.
    pub fn new(inner: Arc<dyn Store>, metrics: StoreMetrics) -> TimedStore {
        TimedStore { inner, metrics }
    }
}

fn timed<'a, T: 'a>(histogram: &'a Histogram, call: StoreFuture<'a, T>) -> StoreFuture<'a, T> {
    Box::pin(async move {
        let began = Instant::now();
        let result = call.await;
        histogram.record(began.elapsed());
        result
    })
}

impl Store for TimedStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        timed(&self.metrics.create, self.inner.create(id, draft))
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        timed(&self.metrics.replace, self.inner.replace(id, expected, draft, notice))
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        timed(&self.metrics.remove, self.inner.remove(id, expected, notice))
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        timed(&self.metrics.load, self.inner.load(id))
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
