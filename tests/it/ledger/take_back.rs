//! A reserve that ended in a refusal, or whose caller went away, does not hold the key.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use onceproxy::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreFuture,
};
use onceproxy::record::Version;
use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Begun, Ledger, RecordId, State, StoreError};
use tokio::time::{Instant, timeout};

use super::{AT_ONCE, GRACE, LEASE, PATIENCE, Pair, fingerprint, hold, id, is_unknown, pass, retry, retry_after, win};

#[tokio::test(start_paused = true)]
async fn create_whose_answers_are_lost_is_refused_in_time_and_taken_back() {
    let pair = Pair::new();
    pair.faults.fault_all(Call::Create, Fault::Swallow);
    let began = Instant::now();
    let begun = pair.one.begin(&id(), fingerprint(), &hold()).await;
    assert!(matches!(begun, Err(StoreError::MaybeApplied(_))), "{begun:?}");
    assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2, "{:?}", began.elapsed());
    pass(AT_ONCE).await;
    assert_eq!(pair.entry().await, None);
    assert_eq!(win(&pair.other, &hold()).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn taking_back_goes_on_until_the_store_answers() {
    let pair = Pair::new();
    for call in [Call::Create, Call::Remove] {
        pair.faults.fault_all(call, if call == Call::Create { Fault::Swallow } else { Fault::Lose });
    }
    pair.one.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
    pass(LEASE * 3).await;
    assert!(is_unknown(&pair.duplicate(&hold()).await, 1, ""), "nobody can know yet");
    pair.faults.heal();
    pass(LEASE).await;
    assert_eq!(win(&pair.other, &hold()).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn refused_create_is_left_alone() {
    for fault in [Fault::Refuse, Fault::Full] {
        let pair = Pair::new();
        pair.faults.fault_next(Call::Create, fault);
        pair.one.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
        pass(LEASE * 3).await;
        assert_eq!(pair.faults.calls(Call::Remove), 0, "there is nothing to take back after {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn caller_that_goes_away_in_the_middle_of_a_create_frees_the_key() {
    for fault in [Fault::Stall, Fault::Hang] {
        let pair = Pair::new();
        pair.faults.fault_next(Call::Create, fault);
        timeout(AT_ONCE, pair.one.begin(&id(), fingerprint(), &hold())).await.expect_err("no answer yet");
        pair.faults.heal();
        pass(AT_ONCE).await;
        assert_eq!(pair.entry().await, None, "{fault:?}");
        assert_eq!(win(&pair.other, &hold()).await.attempt(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn take_over_that_is_taken_back_leaves_the_unknown_as_it_was() {
    for fault in [Fault::Swallow, Fault::Lose] {
        let pair = Pair::new();
        win(&pair.other, &retry()).await.unknown("reset").await.expect("it is recorded");
        pass(GRACE).await;
        pair.faults.fault_all(Call::Replace, fault);
        let begun = pair.one.begin(&id(), fingerprint(), &retry()).await;
        assert!(matches!(begun, Err(StoreError::MaybeApplied(_))), "{fault:?}: {begun:?}");
        pair.faults.heal();
        pass(PATIENCE + AT_ONCE).await;
        let entry = pair.entry().await.expect("it is there");
        assert_eq!((entry.record.state, entry.record.attempt), (State::Unknown, 1), "{fault:?}");
        assert!(is_unknown(&pair.duplicate(&hold()).await, 1, "reset"));
        pass(GRACE).await;
        assert_eq!(win(&pair.other, &retry()).await.attempt(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn taking_back_touches_nobody_elses_record() {
    let pair = Pair::new();
    let claim = win(&pair.other, &hold()).await;
    // Somebody has the key; the answer that said so is lost again and again.
    pair.faults.fault_all(Call::Create, Fault::Swallow);
    pair.one.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
    pair.faults.heal();
    pass(LEASE * 2).await;
    assert!(pair.faults.calls(Call::Remove) > 0, "it tried");
    retry_after(&pair.duplicate(&hold()).await);
    claim.complete("receipt").await.expect("it is recorded");
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn create_that_arrives_after_it_was_taken_back_is_taken_back_again() {
    for arrives_after in [AT_ONCE, PATIENCE + AT_ONCE] {
        let store = Late::new(|_| true);
        let ledger = Ledger::over(store.clone()).patience(PATIENCE);
        ledger.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
        pass(arrives_after).await;
        store.arrive().await;
        assert!(store.load(&id()).await.expect("memory answers").is_some());
        pass(LEASE + AT_ONCE).await;
        assert_eq!(store.load(&id()).await.expect("memory answers"), None, "after {arrives_after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn create_that_arrives_after_its_repeat_was_released_is_taken_back() {
    for arrives_after in [AT_ONCE, PATIENCE + AT_ONCE] {
        let store = Late::new(|number| number == 0);
        let ledger = Ledger::over(store.clone()).patience(PATIENCE);
        win(&ledger, &hold()).await.release().await.expect("it is released");
        assert_eq!(store.load(&id()).await.expect("memory answers"), None);
        pass(arrives_after).await;
        store.arrive().await;
        assert!(store.load(&id()).await.expect("memory answers").is_some());
        pass(LEASE + AT_ONCE).await;
        assert_eq!(store.load(&id()).await.expect("memory answers"), None, "after {arrives_after:?}");
        ledger.idle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_of_a_vanished_record_that_arrives_after_the_release_is_taken_back() {
    let store = Late::new(|number| number == 1);
    let ledger = Ledger::over(store.clone()).patience(PATIENCE);
    let claim = win(&ledger, &hold()).await;
    let entry = store.load(&id()).await.expect("memory answers").expect("it is there");
    store.remove(&id(), &entry.version, Notice::Skip).await.expect("memory answers");
    pass(LEASE / 3 + Duration::from_millis(1)).await;
    claim.release().await.expect("it is released");
    store.arrive().await;
    assert!(store.load(&id()).await.expect("memory answers").is_some());
    pass(LEASE + PATIENCE + AT_ONCE).await;
    assert_eq!(store.load(&id()).await.expect("memory answers"), None);
}

#[tokio::test(start_paused = true)]
async fn repeated_create_that_finds_itself_in_place_wins() {
    let pair = Pair::new();
    pair.faults.fault_next(Call::Create, Fault::Swallow);
    pair.faults.fault_next(Call::Create, Fault::Lose);
    let claim = win(&pair.one, &hold()).await;
    pass(LEASE * 2).await;
    let begun = pair.duplicate(&hold()).await;
    assert!(matches!(begun, Begun::InFlight { .. }), "{begun:?}");
    assert!(claim.holds());
    assert_eq!(pair.faults.calls(Call::Remove), 0, "what was won is not taken back");
    claim.complete("receipt").await.expect("it is recorded");
}

#[tokio::test(start_paused = true)]
async fn lease_of_a_repeated_create_counts_from_its_first_sending() {
    let pair = Pair::new();
    for _ in 0..50 {
        pair.faults.fault_next(Call::Create, Fault::Lose);
    }
    let began = Instant::now();
    let claim = win(&pair.one, &hold()).await;
    let lost = began.elapsed();
    assert!(lost > Duration::from_millis(100));
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE - lost).await;
    assert!(!claim.holds());
}

/// A store of which some creates, by their number, are on their way until they are let through.
struct Late {
    inner: MemoryStore,
    is_late: fn(usize) -> bool,
    creates: AtomicUsize,
    waiting: Mutex<Vec<(RecordId, Draft)>>,
}

impl Late {
    fn new(is_late: fn(usize) -> bool) -> Arc<Late> {
        Arc::new(Late { inner: MemoryStore::new(), is_late, creates: AtomicUsize::new(0), waiting: Mutex::default() })
    }

    async fn arrive(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().expect("nobody panics"));
        for (id, draft) in waiting {
            self.inner.create(&id, &draft).await.expect("memory answers");
        }
    }
}

impl Store for Late {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        if !(self.is_late)(self.creates.fetch_add(1, Ordering::Relaxed)) {
            return self.inner.create(id, draft);
        }
        self.waiting.lock().expect("nobody panics").push((*id, draft.clone()));
        Box::pin(async { Err(StoreError::MaybeApplied("on its way".into())) })
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        self.inner.replace(id, expected, draft, notice)
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        self.inner.remove(id, expected, notice)
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        self.inner.load(id)
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
