//! The ledger over the memory store, in a time that passes when nobody is at work.

mod background;
mod claims;
mod histories;
mod operator;
mod recording;
mod take_back;
mod take_over;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use onceproxy::ledger::store::{Entry, Store};
use onceproxy::stores::conformance::faulty::FaultyStore;
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Begun, Claim, Fingerprint, Key, Ledger, OnUnknown, RecordId, Scope, Terms};

const LEASE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(20);
const RETENTION: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(1);
/// Nobody at work costs no time; this is for what is rounded.
const AT_ONCE: Duration = Duration::from_millis(5);

/// Two processes on one store: each with a ledger, and with faults of its own.
struct Pair {
    store: MemoryStore,
    /// What lies between the first process and the store.
    faults: Arc<FaultyStore>,
    one: Ledger,
    other: Ledger,
}

impl Pair {
    fn new() -> Pair {
        let store = MemoryStore::new();
        let faults = Arc::new(FaultyStore::new(Arc::new(store.clone())));
        let one = Ledger::over(faults.clone()).patience(PATIENCE);
        let other = Ledger::new(store.clone()).patience(PATIENCE);
        Pair { store, faults, one, other }
    }

    async fn entry(&self) -> Option<Entry> {
        self.store.load(&id()).await.expect("memory answers")
    }

    /// What a duplicate of the first request gets, in the other process.
    async fn duplicate(&self, terms: &Terms) -> Begun {
        begin(&self.other, terms).await
    }

    /// The outcome that a duplicate gets.
    async fn replayed(&self) -> bytes::Bytes {
        match self.duplicate(&hold()).await {
            Begun::Replay(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
}

fn id() -> RecordId {
    RecordId::new(&Scope::new("ledger tests"), &Key::parse("k").expect("a good key"))
}

fn fingerprint() -> Fingerprint {
    Fingerprint::of("charge 100")
}

fn hold() -> Terms {
    Terms { lease: LEASE, retention: RETENTION, retry_grace: GRACE, ..Terms::default() }
}

fn retry() -> Terms {
    Terms { on_unknown: OnUnknown::Retry, ..hold() }
}

/// Terms of one who waits long.
fn waiting(terms: Terms) -> Terms {
    Terms { wait: Some(Duration::from_secs(120)), ..terms }
}

async fn begin(ledger: &Ledger, terms: &Terms) -> Begun {
    ledger.begin(&id(), fingerprint(), terms).await.expect("the store answers")
}

/// Wins the key.
async fn win(ledger: &Ledger, terms: &Terms) -> Claim {
    match begin(ledger, terms).await {
        Begun::Execute(claim) => claim,
        other => panic!("not won: {other:?}"),
    }
}

/// Says whether nobody may execute, and for how long.
fn retry_after(begun: &Begun) -> Duration {
    match begun {
        Begun::InFlight { retry_after } => *retry_after,
        other => panic!("not in flight: {other:?}"),
    }
}

fn is_unknown(begun: &Begun, expected_attempt: u32, expected_reason: &str) -> bool {
    matches!(begun, Begun::Unknown { attempt, reason } if *attempt == expected_attempt && **reason == *expected_reason)
}

async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}
