//! A store that is away, full, damaged, or loses its answers.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use onceproxy::http::policy::StoreDown;
use onceproxy::stores::conformance::faulty::{Fault as Refusal, FaultyStore as NarrowStore};
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Attempt, Fingerprint, Ledger, Policy, Record, State};
use tokio::time::timeout;

use crate::layer::faulty::{Fault, FaultyStore};
use crate::layer::stand::{Effect, PATIENCE, Stand, always, charge, counting, created, full};

/// How long the ledgers of these tests put up with a failing store.
const SHORT: Duration = Duration::from_millis(50);

fn stand(store: &FaultyStore, policy: Policy) -> Stand {
    let ledger = Ledger::new(store.clone()).patience(SHORT);
    Stand::with(store.inner.clone(), ledger, |layer| layer.policy(policy), counting())
}

#[tokio::test]
async fn a_store_that_is_away_gets_nothing_executed() {
    for fault in [Fault::Away, Fault::Full, Fault::AnswersLost] {
        let store = FaultyStore::new(fault);
        let stand = stand(&store, Policy::required());
        let answer = stand.send(charge("k", "100")).await;
        answer.is_refusal(503, "store-unavailable", Effect::None);
        assert_eq!(answer.field("retry-after"), "1");
        assert_eq!(stand.executions(), 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_reserve_frees_the_key_soon() {
    let store = FaultyStore::new(Fault::AnswersLost);
    let stand = stand(&store, Policy::required().wait(PATIENCE));
    stand.send(charge("k", "100")).await.is_refusal(503, "store-unavailable", Effect::None);
    assert_eq!(stand.record().await.state, State::InFlight);
    store.set(Fault::Well);
    // Waits until the reserve has been taken back; its lease would last longer than this test.
    stand.send(charge("k", "100")).await.is_executed();
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn bypass_forwards_unprotected_and_says_so() {
    for fault in [Fault::Away, Fault::Full, Fault::AnswersLost] {
        let store = FaultyStore::new(fault);
        let policy = Policy { store_down: StoreDown::Bypass, ..Policy::required() };
        let ledger = Ledger::new(store.clone()).patience(SHORT);
        let stand = Stand::with(
            store.inner.clone(),
            ledger,
            |layer| layer.policy(policy),
            |request| async move {
                assert!(request.extensions().get::<Attempt>().is_none(), "nobody has a claim");
                assert!(!request.headers().contains_key("idempotency-attempt"));
                let body = http_body_util::BodyExt::collect(request.into_body()).await.expect("a body").to_bytes();
                let mut response = created(body);
                response.headers_mut().insert("idempotency-replayed", "true".parse().expect("a value"));
                Ok(response)
            },
        );
        for executions in [1, 2] {
            let answer = stand.send(charge("k", "100")).await;
            assert_eq!((answer.status.as_u16(), &*answer.body), (201, &b"100"[..]));
            assert_eq!((answer.status_field(), answer.field("idempotency-replayed")), ("bypassed", ""));
            assert_eq!(stand.executions(), executions, "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_full_store_still_replays() {
    let store = FaultyStore::new(Fault::Well);
    let stand = stand(&store, Policy::required());
    stand.send(charge("k", "100")).await.is_executed();
    store.set(Fault::Full);
    stand.send(charge("k", "100")).await.is_replayed();
    stand.send(charge("other", "100")).await.is_refusal(503, "store-unavailable", Effect::None);
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_never_executed_over() {
    for fault in [Fault::Damaged, Fault::Foreign] {
        for store_down in [StoreDown::Reject, StoreDown::Bypass] {
            let store = FaultyStore::new(Fault::Well);
            let stand = stand(&store, Policy { store_down, ..Policy::required() });
            stand.send(charge("k", "100")).await.is_executed();
            let before = stand.record().await;
            store.set(fault);
            stand.send(charge("k", "100")).await.is_refusal(503, "record-unreadable", Effect::Perhaps);
            assert_eq!(stand.executions(), 1, "{fault:?} {store_down:?}");
            assert_eq!(stand.record().await, before);
        }
    }
}

#[tokio::test]
async fn an_outcome_that_is_no_response_is_unreadable() {
    let stand = Stand::new(Policy::required(), counting());
    stand.send(charge("k", "100")).await.is_executed();
    let page = onceproxy::Store::list(&stand.store, onceproxy::ledger::store::Filter { state: None, limit: 9 }, None);
    let (id, entry) = page.await.expect("a page").entries.remove(0);
    for outcome in [&b""[..], b"receipt 7", b"\x01\x00\x00", b"\x02\x00\x00\xc8\0\0\0\0\0\0\0\0"] {
        let record = Record { outcome: bytes::Bytes::from_static(outcome), ..entry.record.clone() };
        let draft = onceproxy::ledger::store::Draft::new(record);
        let present = onceproxy::Store::load(&stand.store, &id).await.expect("a record").expect("a record");
        let notice = onceproxy::ledger::store::Notice::Skip;
        onceproxy::Store::replace(&stand.store, &id, &present.version, &draft, notice).await.expect("it is replaced");
        stand.send(charge("k", "100")).await.is_refusal(503, "record-unreadable", Effect::Perhaps);
    }
    assert_eq!(stand.executions(), 1);
    assert_ne!(entry.record.fingerprint, Fingerprint::of(""));
}

#[tokio::test]
async fn an_answer_that_cannot_be_recorded_leaves_and_is_recorded_later() {
    let store = FaultyStore::new(Fault::OutcomesRefused);
    let stand = stand(&store, Policy::required().wait(PATIENCE));
    let first = stand.send(charge("k", "100")).await;
    assert_eq!((first.status.as_u16(), &*first.body), (201, &b"charge 1"[..]));
    assert_eq!(first.status_field(), "unrecorded");
    assert_eq!(stand.ledger.alarms().unrecorded, 1);
    assert_eq!(stand.record().await.state, State::InFlight);
    store.set(Fault::Well);
    // Waits for the recording, which goes on in the background.
    let again = stand.send(charge("k", "100")).await;
    again.is_replayed();
    assert_eq!(again.body, "charge 1");
    assert_eq!(stand.executions(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stays_too_large_for_the_store_is_recorded_as_not_stored() {
    let store = MemoryStore::new();
    let narrow = Arc::new(NarrowStore::new(Arc::new(store.clone())));
    narrow.fault_larger_than(16 * 1024, Refusal::Refuse);
    let handler = |_| async {
        let response = Response::builder().status(201).header("location", "/charges/1");
        Ok(response.body(full("x".repeat(20_000))).expect("a response"))
    };
    let stand = Stand::with(store, Ledger::over(narrow), |layer| layer.policy(Policy::required()), handler);
    let first = stand.send(charge("k", "100")).await;
    assert_eq!((first.status_field(), first.body.len()), ("unrecorded", 20_000));
    timeout(PATIENCE * 3, stand.ledger.idle()).await.expect("it does not try for ever");
    let again = stand.send(charge("k", "100")).await;
    again.is_refusal(409, "response-not-stored", Effect::Perhaps);
    let problem = again.problem();
    assert_eq!((&problem["original_status"], &problem["location"]), (&201.into(), &"/charges/1".into()));
    assert_eq!(stand.executions(), 1);
}

#[tokio::test]
async fn an_unknown_that_cannot_be_recorded_is_still_unknown() {
    let store = FaultyStore::new(Fault::OutcomesRefused);
    let ledger = Ledger::new(store.clone()).patience(SHORT);
    let stand = Stand::with(
        store.inner.clone(),
        ledger,
        |layer| layer.policy(Policy::required()),
        always(|| Response::builder().status(504)),
    );
    assert_eq!(stand.send(charge("k", "100")).await.status_field(), "unknown");
    stand.send(charge("k", "100")).await.is_refusal(409, "in-flight", Effect::Perhaps);
}
