//! The store: compare-and-set, nothing more.
//!
//! A store is small and holds no protocol: it compares versions and keeps records for as long as they say. What a
//! record means is decided in [`judge`](super::judge).
//!
//! Every implementation passes the whole of `stores::conformance`.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;

use crate::record::{Record, State, Version};
use crate::scope::RecordId;

/// The future of a store call.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Hints that a record has changed; see [`Store::notices`].
pub type Notices = Pin<Box<dyn Stream<Item = RecordId> + Send>>;

/// A place that keeps records under a compare-and-set.
///
/// Each call ends within the store's own time limit, with an error if it must. No instant crosses this border, only
/// durations: a record's age is told by the store's clock.
///
/// # Cancellation
/// A call that is dropped has been applied as a whole or not at all.
pub trait Store: Send + Sync + 'static {
    /// Puts a record where there is none, atomically. [`Created::New`] also when the record in place has the draft's
    /// version: then this call is a repeat.
    ///
    /// An existing record is told even where writes are refused (a full store, a read-only one): a finished record
    /// can still be replayed.
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created>;

    /// Puts a record in the place of the one with the version `expected`, atomically. [`Replaced::Done`] also when
    /// the record in place has the draft's version. Works in a full store: finished work can still be recorded.
    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced>;

    /// Removes the record with the version `expected`, atomically. [`Replaced::Done`] also when there is none.
    /// Sends a notice when asked to.
    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced>;

    /// Reads a record.
    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>>;

    /// Subscribes to the ids of changed records. Notices are hints: some get lost, repeated or come for nothing. The
    /// future ends when the subscription stands; the stream ends when it falls.
    fn notices(&self) -> StoreFuture<'_, Notices>;

    /// Lists records for the operator: each that lives all the while appears at least once over all pages.
    /// Unreadable ones are counted and skipped.
    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page>;

    /// Removes at most `limit` records that are past their keep, and says how many it did remove.
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize>;

    /// Looks at the store's version, role and settings.
    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>>;
}

/// A write: the record to put in place and the version it gets.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Picked afresh for each write, kept for its repeats.
    pub version: Version,
    /// What to put in place; [`Record::keep`] counts from the write.
    pub record: Record,
}

impl Draft {
    /// Drafts a write under a fresh version.
    pub fn new(record: Record) -> Draft {
        Draft { version: Version::random(), record }
    }
}

/// A record as the store holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The version of its last write.
    pub version: Version,
    /// The record.
    pub record: Record,
    /// The time since its last write, by the store's clock.
    pub age: Duration,
}

/// Whether anybody asked to hear of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Tell [`Store::notices`].
    Send,
    /// Nobody waits.
    Skip,
}

/// What [`Store::create`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The draft is in place.
    New,
    /// Another record is.
    Existing(Entry),
}

/// What [`Store::replace`] and [`Store::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// What was asked for is so.
    Done,
    /// Another version is in place, or none.
    Stale(Option<Entry>),
}

/// Which records [`Store::list`] shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filter {
    /// Only this state; all of them without.
    pub state: Option<State>,
    /// About how many a page holds; a page may be shorter or empty although more follow.
    pub limit: usize,
}

/// A part of a list.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The records.
    pub entries: Vec<(RecordId, Entry)>,
    /// Where the next page begins; none when this was the last.
    pub next: Option<String>,
    /// How many stored values were met that could not be read.
    pub unreadable: usize,
}

/// Something that [`Store::preflight`] noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A sentence for the operator.
    pub text: String,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Works, but may hurt.
    Warning,
    /// The store cannot be used now; it may heal without anybody changing its settings.
    Unready,
    /// The store must not be used as it is: an operator has to change something.
    Unfit,
}

/// Why a store call failed, by what it says of the write.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Nothing was changed.
    #[error("the store did not do it: {0}")]
    NotApplied(#[source] Box<dyn Error + Send + Sync>),
    /// The answer was lost: the write may be in place.
    #[error("the store may have done it: {0}")]
    MaybeApplied(#[source] Box<dyn Error + Send + Sync>),
    /// There is no room for another record.
    #[error("the store is full: {0}")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// The record in place has another format; it was left as it is.
    #[error("the record has format {0}, which this program does not read")]
    UnknownFormat(u8),
    /// The store refuses us, or must not be used as it is set up.
    #[error("the store refuses: {0}")]
    Denied(#[source] Box<dyn Error + Send + Sync>),
    /// The bytes in place are not a record; they were left as they are.
    #[error("the stored bytes are not a record, or are damaged")]
    Corrupt,
}

impl From<crate::record::Unreadable> for StoreError {
    fn from(unreadable: crate::record::Unreadable) -> StoreError {
        match unreadable {
            crate::record::Unreadable::UnknownFormat(format) => StoreError::UnknownFormat(format),
            crate::record::Unreadable::Corrupt => StoreError::Corrupt,
        }
    }
}

impl Entry {
    /// What is left of the lease; none when it has ended.
    pub fn lease_left(&self) -> Option<Duration> {
        self.record.lease.checked_sub(self.age).filter(|left| !left.is_zero())
    }
}
