//! What the checks share: a store whose doubtful calls are repeated, and records to put into it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::fingerprint::Fingerprint;
use crate::ledger::store::{Created, Draft, Entry, Notice, Replaced, Store, StoreError};
use crate::record::{OnUnknown, Record, State, Version};
use crate::scope::RecordId;

/// How often a call is repeated of which the answer was lost.
const REPEATS: usize = 100;
/// How far a store's clock may be off ours over one check: coarse clocks, rounding to milliseconds.
pub(super) const PRECISION: Duration = Duration::from_millis(20);
/// Long against every check.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// Fails a check, and says what was seen.
macro_rules! ensure {
    ($condition:expr, $($seen:tt)+) => {
        if !$condition {
            return Err(format!($($seen)+));
        }
    };
}
pub(super) use ensure;

macro_rules! repeated {
    ($call:expr) => {{
        let mut left = REPEATS;
        loop {
            match $call.await {
                Err(StoreError::MaybeApplied(_)) if left > 0 => left -= 1,
                other => break other,
            }
        }
    }};
}

/// A store that repeats what is doubtful, as the ledger does. Clones share the store.
#[derive(Clone)]
pub(super) struct Bench {
    pub(super) store: Arc<dyn Store>,
}

impl Bench {
    pub(super) fn new(store: Arc<dyn Store>) -> Bench {
        Bench { store }
    }

    pub(super) async fn try_create(&self, id: &RecordId, draft: &Draft) -> Result<Created, StoreError> {
        repeated!(self.store.create(id, draft))
    }

    pub(super) async fn try_replace(
        &self,
        id: &RecordId,
        expected: &Version,
        draft: &Draft,
        notice: Notice,
    ) -> Result<Replaced, StoreError> {
        repeated!(self.store.replace(id, expected, draft, notice))
    }

    pub(super) async fn try_remove(
        &self,
        id: &RecordId,
        expected: &Version,
        notice: Notice,
    ) -> Result<Replaced, StoreError> {
        repeated!(self.store.remove(id, expected, notice))
    }

    pub(super) async fn try_load(&self, id: &RecordId) -> Result<Option<Entry>, StoreError> {
        repeated!(self.store.load(id))
    }

    pub(super) async fn create(&self, id: &RecordId, draft: &Draft) -> Result<Created, String> {
        self.try_create(id, draft).await.map_err(|error| format!("create failed: {error}"))
    }

    pub(super) async fn replace(&self, id: &RecordId, expected: &Version, draft: &Draft) -> Result<Replaced, String> {
        self.try_replace(id, expected, draft, Notice::Skip).await.map_err(|error| format!("replace failed: {error}"))
    }

    pub(super) async fn remove(&self, id: &RecordId, expected: &Version) -> Result<Replaced, String> {
        self.try_remove(id, expected, Notice::Skip).await.map_err(|error| format!("remove failed: {error}"))
    }

    pub(super) async fn load(&self, id: &RecordId) -> Result<Option<Entry>, String> {
        self.try_load(id).await.map_err(|error| format!("load failed: {error}"))
    }

    /// Creates a record under a fresh id.
    pub(super) async fn put(&self, draft: &Draft) -> Result<RecordId, String> {
        let id = fresh_id();
        match self.create(&id, draft).await? {
            Created::New => Ok(id),
            existing => Err(format!("a create under an id that was never used gave {existing:?}")),
        }
    }

    /// Replaces, which has to be done.
    pub(super) async fn must_replace(&self, id: &RecordId, expected: &Version, draft: &Draft) -> Result<(), String> {
        match self.replace(id, expected, draft).await? {
            Replaced::Done => Ok(()),
            stale => Err(format!("a replace of the right version gave {stale:?}")),
        }
    }

    /// Loads, and compares with what was written.
    pub(super) async fn must_hold(&self, id: &RecordId, draft: &Draft) -> Result<Entry, String> {
        match self.load(id).await? {
            Some(entry) if entry.version == draft.version && entry.record == draft.record => Ok(entry),
            other => Err(format!("written was {draft:?}, loaded {other:?}")),
        }
    }
}

/// An id that was never used.
pub(super) fn fresh_id() -> RecordId {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(Version::random().as_bytes());
    bytes[16..].copy_from_slice(Version::random().as_bytes());
    RecordId::from_bytes(bytes)
}

/// A record of a claim.
pub(super) fn in_flight() -> Record {
    Record {
        state: State::InFlight,
        attempt: 1,
        on_unknown: OnUnknown::Hold,
        lease: Duration::from_secs(30),
        keep: LONG,
        grace: Duration::from_secs(10),
        fingerprint: Fingerprint::of("charge 100"),
        route: Arc::from("create-payment"),
        status: 0,
        reason: Arc::from(""),
        outcome: Bytes::new(),
    }
}

/// A finished record.
pub(super) fn completed(outcome: impl Into<Bytes>) -> Record {
    Record { state: State::Completed, status: 201, outcome: outcome.into(), ..in_flight() }
}
