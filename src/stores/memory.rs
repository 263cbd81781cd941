//! The store in memory: for one process, for tests, and where losing all keys with the process is acceptable.
//!
//! Sharded, and capped by entries and bytes. Full means [`StoreError::Full`]: nothing that lives is ever dropped.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use futures_util::{StreamExt, stream};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Severity, Store, StoreError, StoreFuture,
};
use crate::record::{Record, Version};
use crate::scope::RecordId;

const SHARDS: usize = 64;
/// What an entry costs beside its texts and its outcome, about.
const ENTRY_BYTES: usize = 400;
/// How many records past their keep a create that finds no room drops at most.
const SWEEP: usize = 256;
const NOTICES: usize = 1024;

/// How much a [`MemoryStore`] holds.
///
/// ```
/// use onceproxy::stores::memory::{Limits, MemoryStore};
///
/// let small = MemoryStore::with_limits(Limits { max_entries: 1000, ..Limits::default() });
/// # drop(small);
/// assert_eq!(Limits::default().max_entries, 1_000_000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Records.
    pub max_entries: usize,
    /// Bytes of records and outcomes, about.
    pub max_bytes: usize,
}

impl Default for Limits {
    /// A million records, 1 GiB.
    fn default() -> Limits {
        Limits { max_entries: 1_000_000, max_bytes: 1 << 30 }
    }
}

/// A store in memory. Clones share the records.
///
/// ```
/// use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, Terms};
/// use onceproxy::stores::memory::MemoryStore;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Ledger::new(MemoryStore::new());
/// let id = RecordId::new(&Scope::new("jobs"), &Key::parse("job-1")?);
/// let terms = Terms::default();
/// let Begun::Execute(claim) = ledger.begin(&id, Fingerprint::of("charge"), &terms).await? else { panic!("it is new") };
/// claim.complete("receipt 7").await?;
/// let Begun::Replay(receipt) = ledger.begin(&id, Fingerprint::of("charge"), &terms).await? else { panic!("it is done") };
/// assert_eq!(receipt, "receipt 7");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    shards: Vec<Mutex<Shard>>,
    limits: Limits,
    entries: AtomicUsize,
    bytes: AtomicUsize,
    /// Where the next purge goes on.
    next_shard: AtomicUsize,
    notices: broadcast::Sender<RecordId>,
}

#[derive(Default)]
struct Shard {
    records: HashMap<RecordId, Kept, RandomState>,
    /// When each record is past its keep, in order, so that nobody has to look at those that live.
    ends: BTreeSet<(Instant, RecordId)>,
}

struct Kept {
    version: Version,
    record: Record,
    written: Instant,
    /// None: later than time can tell.
    ends: Option<Instant>,
}

impl MemoryStore {
    /// An empty store with the default limits.
    pub fn new() -> MemoryStore {
        MemoryStore::with_limits(Limits::default())
    }

    /// An empty store with limits.
    pub fn with_limits(limits: Limits) -> MemoryStore {
        let shared = Shared {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            limits,
            entries: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            next_shard: AtomicUsize::new(0),
            notices: broadcast::Sender::new(NOTICES),
        };
        MemoryStore { shared: Arc::new(shared) }
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl Kept {
    fn new(draft: &Draft) -> Kept {
        let written = Instant::now();
        let ends = written.checked_add(draft.record.keep);
        Kept { version: draft.version, record: draft.record.clone(), written, ends }
    }

    fn is_past_keep(&self) -> bool {
        self.ends.is_some_and(|ends| ends <= Instant::now())
    }

    fn entry(&self) -> Entry {
        Entry { version: self.version, record: self.record.clone(), age: self.written.elapsed() }
    }

    fn bytes(&self) -> usize {
        cost(&self.record)
    }
}

fn cost(record: &Record) -> usize {
    ENTRY_BYTES + record.reason.len() + record.outcome.len()
}

impl Shard {
    /// Puts a record in place, and gives the one that was there.
    fn put(&mut self, id: &RecordId, kept: Kept) -> Option<Kept> {
        let ends = kept.ends;
        let before = self.records.insert(*id, kept);
        self.forget_end(id, before.as_ref());
        if let Some(ends) = ends {
            self.ends.insert((ends, *id));
        }
        before
    }

    fn take(&mut self, id: &RecordId) -> Option<Kept> {
        let kept = self.records.remove(id);
        self.forget_end(id, kept.as_ref());
        kept
    }

    fn forget_end(&mut self, id: &RecordId, kept: Option<&Kept>) {
        if let Some(ends) = kept.and_then(|kept| kept.ends) {
            self.ends.remove(&(ends, *id));
        }
    }

    /// The record that is longest past its keep.
    fn past_keep(&self) -> Option<RecordId> {
        self.ends.first().filter(|(ends, _)| *ends <= Instant::now()).map(|(_, id)| *id)
    }
}

impl Shared {
    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        self.lock(usize::from(id.as_bytes()[0]) % SHARDS)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        // Nothing panics while it is held, and a panic elsewhere leaves it whole.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a living record; one past its keep is dropped.
    fn living<'a>(&self, shard: &'a mut Shard, id: &RecordId) -> Option<&'a Kept> {
        if shard.records.get(id).is_some_and(Kept::is_past_keep) {
            self.forget(shard, id);
        }
        shard.records.get(id)
    }

    fn forget(&self, shard: &mut Shard, id: &RecordId) {
        if let Some(kept) = shard.take(id) {
            self.entries.fetch_sub(1, Ordering::Relaxed);
            self.bytes.fetch_sub(kept.bytes(), Ordering::Relaxed);
        }
    }

    /// Takes the room for one more record; false, and nothing taken, when there is none.
    fn take_room(&self, bytes: usize) -> bool {
        if self.entries.fetch_add(1, Ordering::Relaxed) < self.limits.max_entries {
            let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
            if before.saturating_add(bytes) <= self.limits.max_bytes {
                return true;
            }
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        self.entries.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Drops records past their keep, shard by shard, until `limit` are gone or there are no more.
    fn sweep(&self, limit: usize) -> usize {
        let mut removed = 0;
        for _ in 0..SHARDS {
            let mut shard = self.lock(self.next_shard.fetch_add(1, Ordering::Relaxed) % SHARDS);
            while removed < limit
                && let Some(id) = shard.past_keep()
            {
                self.forget(&mut shard, &id);
                removed += 1;
            }
            if removed >= limit {
                break;
            }
        }
        removed
    }

    fn create(&self, id: &RecordId, draft: &Draft) -> Result<Created, StoreError> {
        let bytes = cost(&draft.record);
        for sweep_first in [false, true] {
            if sweep_first && self.sweep(SWEEP) == 0 {
                break;
            }
            let mut shard = self.shard(id);
            if let Some(kept) = self.living(&mut shard, id) {
                return Ok(match kept.version == draft.version {
                    true => Created::New,
                    false => Created::Existing(kept.entry()),
                });
            }
            if self.take_room(bytes) {
                shard.put(id, Kept::new(draft));
                return Ok(Created::New);
            }
        }
        Err(StoreError::Full("the memory store has reached its limits".into()))
    }

    fn replace(&self, id: &RecordId, expected: &Version, draft: &Draft, notice: Notice) -> Replaced {
        let mut shard = self.shard(id);
        let Some(kept) = self.living(&mut shard, id) else { return Replaced::Stale(None) };
        if kept.version != draft.version {
            if kept.version != *expected {
                return Replaced::Stale(Some(kept.entry()));
            }
            // Finished work is recorded over the limit too: refusing it would lose an answer.
            self.bytes.fetch_add(cost(&draft.record), Ordering::Relaxed);
            if let Some(before) = shard.put(id, Kept::new(draft)) {
                self.bytes.fetch_sub(before.bytes(), Ordering::Relaxed);
            }
        }
        drop(shard);
        self.tell(id, notice);
        Replaced::Done
    }

    fn remove(&self, id: &RecordId, expected: &Version, notice: Notice) -> Replaced {
        let mut shard = self.shard(id);
        match self.living(&mut shard, id) {
            Some(kept) if kept.version != *expected => return Replaced::Stale(Some(kept.entry())),
            Some(_) => self.forget(&mut shard, id),
            None => {}
        }
        drop(shard);
        self.tell(id, notice);
        Replaced::Done
    }

    fn tell(&self, id: &RecordId, notice: Notice) {
        if notice == Notice::Send {
            // Nobody listens: nobody waits.
            let _ = self.notices.send(*id);
        }
    }

    /// A page is whole shards, so that a cursor needs no order within one.
    fn list(&self, filter: Filter, cursor: Option<&str>) -> Result<Page, StoreError> {
        let first = match cursor {
            None => 0,
            Some(cursor) => cursor.parse().map_err(|_| StoreError::NotApplied("the cursor is not one".into()))?,
        };
        let mut page = Page::default();
        for shard in first..SHARDS {
            page.entries.extend(
                self.lock(shard)
                    .records
                    .iter()
                    .filter(|(_, kept)| !kept.is_past_keep())
                    .filter(|(_, kept)| filter.state.is_none_or(|state| state == kept.record.state))
                    .map(|(id, kept)| (*id, kept.entry())),
            );
            if page.entries.len() >= filter.limit && shard + 1 < SHARDS {
                page.next = Some((shard + 1).to_string());
                break;
            }
        }
        Ok(page)
    }
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(async move { self.shared.create(id, draft) })
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move { Ok(self.shared.replace(id, expected, draft, notice)) })
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(async move { Ok(self.shared.remove(id, expected, notice)) })
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move {
            let mut shard = self.shared.shard(id);
            Ok(self.shared.living(&mut shard, id).map(|kept| kept.entry()))
        })
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        let receiver = self.shared.notices.subscribe();
        let notices = stream::unfold(receiver, |mut receiver| async {
            loop {
                match receiver.recv().await {
                    Ok(id) => return Some((id, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Box::pin(async { Ok(notices.boxed() as Notices) })
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        Box::pin(async move { self.shared.list(filter, cursor) })
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async move { Ok(self.shared.sweep(limit)) })
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        let entries = self.shared.entries.load(Ordering::Relaxed);
        let text = format!("memory: {entries} of {} records; lost with the process", self.shared.limits.max_entries);
        Box::pin(async move { Ok(vec![Finding { severity: Severity::Info, text }]) })
    }
}
