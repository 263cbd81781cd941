//! What is written after its caller has gone on: the end of a process waits for it.

use std::time::Duration;

use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{NotRecorded, State};
use tokio::time::timeout;

use super::{AT_ONCE, LEASE, PATIENCE, Pair, fingerprint, hold, id, pass, win};

/// Longer than all that is repeated is paused.
const LONG: Duration = Duration::from_secs(300);

#[tokio::test(start_paused = true)]
async fn ledger_without_writes_under_way_is_idle() {
    let pair = Pair::new();
    pair.one.idle().await;
    let claim = win(&pair.one, &hold()).await;
    pass(LEASE).await;
    assert_eq!(pair.one.background(), 0, "work is not a write");
    pair.one.idle().await;
    claim.complete("receipt").await.expect("it is recorded");
    timeout(AT_ONCE, pair.one.idle()).await.expect("it is idle");
}

#[tokio::test(start_paused = true)]
async fn ledger_is_idle_when_an_unrecorded_outcome_is_written() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    let recorded = claim.complete("receipt").await;
    assert!(matches!(recorded, Err(NotRecorded::Unrecorded(_))), "{recorded:?}");
    assert_eq!(pair.one.background(), 1);
    timeout(LONG, pair.one.idle()).await.expect_err("it is not written");
    pair.faults.heal();
    timeout(LONG, pair.one.idle()).await.expect("it is written");
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn ledger_is_idle_when_the_word_about_a_dropped_claim_is_written() {
    let pair = Pair::new();
    drop(win(&pair.one, &hold()).await);
    // Before anybody else has run.
    assert_eq!(pair.one.background(), 1);
    pair.one.idle().await;
    assert_eq!(pair.entry().await.expect("it is there").record.state, State::Unknown);
}

#[tokio::test(start_paused = true)]
async fn ledger_is_idle_when_a_reserve_is_taken_back() {
    let pair = Pair::new();
    pair.faults.fault_all(Call::Create, Fault::Swallow);
    pair.faults.fault_all(Call::Remove, Fault::Lose);
    pair.one.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
    assert_eq!(pair.one.background(), 1);
    timeout(LONG, pair.one.idle()).await.expect_err("it is not taken back");
    pair.faults.heal();
    timeout(LEASE + PATIENCE, pair.one.idle()).await.expect("it is taken back");
    assert_eq!(pair.entry().await, None);
}

#[tokio::test(start_paused = true)]
async fn end_of_a_process_does_not_wait_for_the_last_look_at_what_was_taken_back() {
    let pair = Pair::new();
    pair.faults.fault_all(Call::Create, Fault::Swallow);
    pair.one.begin(&id(), fingerprint(), &hold()).await.expect_err("it is refused");
    timeout(PATIENCE + AT_ONCE, pair.one.idle()).await.expect("it is taken back");
}
