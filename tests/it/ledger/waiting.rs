//! Duplicates that wait for the first: woken at once, sure to wake in the end, and not too many.

use std::sync::Arc;
use std::time::Duration;

use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{Begun, Fingerprint, Ledger, Terms};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{AT_ONCE, LEASE, Pair, begin, fingerprint, hold, id, is_unknown, pass, waiting, win};

const MAX_WAITERS_PER_KEY: usize = 64;
/// The longest pause between two looks.
const POLL: Duration = Duration::from_secs(1);

/// A duplicate that waits; tells when it was answered.
fn wait(ledger: &Ledger, terms: Terms) -> JoinHandle<(Begun, Instant)> {
    let ledger = ledger.clone();
    tokio::spawn(async move { (begin(&ledger, &terms).await, Instant::now()) })
}

fn is_replay(begun: &Begun, expected: &str) -> bool {
    matches!(begun, Begun::Replay(outcome) if outcome == expected)
}

#[tokio::test(start_paused = true)]
async fn waiter_in_the_same_process_is_woken_at_once() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let waiter = wait(&pair.one, waiting(hold()));
    pass(Duration::from_millis(7_777)).await;
    claim.complete("receipt").await.expect("it is recorded");
    let done = Instant::now();
    let (begun, at) = waiter.await.expect("no panic");
    assert!(is_replay(&begun, "receipt"), "{begun:?}");
    assert!(at - done <= AT_ONCE, "{:?}", at - done);
}

#[tokio::test(start_paused = true)]
async fn waiter_in_another_process_is_woken_by_a_notice() {
    let pair = Pair::new();
    let claim = win(&pair.one, &waiting(hold())).await;
    let waiter = wait(&pair.other, waiting(hold()));
    pass(Duration::from_millis(7_777)).await;
    claim.complete("receipt").await.expect("it is recorded");
    let done = Instant::now();
    let (begun, at) = waiter.await.expect("no panic");
    assert!(is_replay(&begun, "receipt"), "{begun:?}");
    assert!(at - done <= AT_ONCE, "{:?}", at - done);
}

#[tokio::test(start_paused = true)]
async fn waiter_that_gets_no_notice_looks_for_itself() {
    let pair = Pair::new();
    // This owner's terms do not wait: it tells nobody.
    let claim = win(&pair.one, &hold()).await;
    let waiter = wait(&pair.other, waiting(hold()));
    pass(Duration::from_millis(7_777)).await;
    claim.complete("receipt").await.expect("it is recorded");
    let done = Instant::now();
    let (begun, at) = waiter.await.expect("no panic");
    assert!(is_replay(&begun, "receipt"), "{begun:?}");
    assert!(at - done > AT_ONCE && at - done <= POLL, "{:?}", at - done);
}

#[tokio::test(start_paused = true)]
async fn waiter_gives_up_after_its_time() {
    let pair = Pair::new();
    let _claim = win(&pair.one, &hold()).await;
    let began = Instant::now();
    let begun = begin(&pair.other, &Terms { wait: Some(Duration::from_secs(10)), ..hold() }).await;
    assert!(matches!(begun, Begun::InFlight { .. }), "{begun:?}");
    assert!(began.elapsed().abs_diff(Duration::from_secs(10)) <= AT_ONCE, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn line_of_one_key_has_an_end() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let waiters: Vec<_> = (0..MAX_WAITERS_PER_KEY).map(|_| wait(&pair.one, waiting(hold()))).collect();
    pass(Duration::from_secs(1)).await;
    let asked = Instant::now();
    let (begun, at) = wait(&pair.one, waiting(hold())).await.expect("no panic");
    assert!(matches!(begun, Begun::InFlight { .. }), "{begun:?}");
    assert!(at - asked <= AT_ONCE, "one too many is turned away at once, not after {:?}", at - asked);
    // Another key has a line of its own.
    let other = onceproxy::RecordId::from_bytes([7; 32]);
    let begun = pair.one.begin(&other, fingerprint(), &waiting(hold())).await.expect("it answers");
    assert!(matches!(begun, Begun::Execute(_)), "{begun:?}");
    claim.complete("receipt").await.expect("it is recorded");
    let done = Instant::now();
    for waiter in waiters {
        let (begun, at) = waiter.await.expect("no panic");
        assert!(is_replay(&begun, "receipt"), "{begun:?}");
        assert!(at - done <= AT_ONCE);
    }
}

#[tokio::test(start_paused = true)]
async fn one_waiter_takes_a_released_key_and_the_others_wait_on() {
    let pair = Pair::new();
    let claim = win(&pair.one, &waiting(hold())).await;
    let waiters: Vec<_> =
        (0..40).map(|number| wait(if number % 2 == 0 { &pair.one } else { &pair.other }, waiting(hold()))).collect();
    pass(Duration::from_secs(2)).await;
    let (told, mut executions) = tokio::sync::mpsc::unbounded_channel();
    let answers: Vec<_> = waiters
        .into_iter()
        .map(|waiter| {
            let told = told.clone();
            tokio::spawn(async move {
                match waiter.await.expect("no panic").0 {
                    Begun::Execute(claim) => {
                        told.send(claim.attempt()).expect("the test listens");
                        pass(Duration::from_secs(5)).await;
                        claim.complete("second").await.expect("it is recorded");
                    }
                    begun => assert!(is_replay(&begun, "second"), "{begun:?}"),
                }
            })
        })
        .collect();
    claim.release().await.expect("it is released");
    for answer in answers {
        answer.await.expect("no panic");
    }
    drop(told);
    assert_eq!(executions.recv().await, Some(1));
    assert_eq!(executions.recv().await, None, "one execution");
}

#[tokio::test(start_paused = true)]
async fn waiter_is_told_at_once_what_waiting_does_not_change() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let began = Instant::now();
    let begun = pair.other.begin(&id(), Fingerprint::of("charge 900"), &waiting(hold())).await.expect("it answers");
    assert!(matches!(begun, Begun::Mismatch), "{begun:?}");
    claim.unknown("reset").await.expect("it is recorded");
    assert!(is_unknown(&begin(&pair.other, &waiting(hold())).await, 1, "reset"));
    assert!(began.elapsed() <= AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn waiter_learns_of_an_owner_that_dies() {
    let pair = Pair::new();
    let _claim = win(&pair.one, &hold()).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    let began = Instant::now();
    let (begun, at) = wait(&pair.other, waiting(hold())).await.expect("no panic");
    assert!(is_unknown(&begun, 1, ""), "{begun:?}");
    assert!(at - began >= LEASE && at - began <= LEASE + POLL, "{:?}", at - began);
}

#[tokio::test(start_paused = true)]
async fn waiter_outlasts_a_store_that_fails_for_a_while() {
    let pair = Pair::new();
    let claim = win(&pair.other, &hold()).await;
    let waiter = wait(&pair.one, waiting(hold()));
    pass(Duration::from_secs(1)).await;
    pair.faults.fault_all(Call::Create, Fault::Refuse);
    pass(Duration::from_secs(20)).await;
    claim.complete("receipt").await.expect("it is recorded");
    pass(Duration::from_secs(5)).await;
    assert!(!waiter.is_finished());
    pair.faults.heal();
    let (begun, _) = waiter.await.expect("no panic");
    assert!(is_replay(&begun, "receipt"), "{begun:?}");
}

#[tokio::test(start_paused = true)]
async fn waiting_leaves_nothing_behind() {
    let pair = Pair::new();
    let ledger = Ledger::over(pair.faults.clone());
    let claim = win(&ledger, &hold()).await;
    for _ in 0..3 {
        let waiters: Vec<_> = (0..MAX_WAITERS_PER_KEY).map(|_| wait(&ledger, waiting(hold()))).collect();
        pass(Duration::from_secs(1)).await;
        // Callers that hang up leave the line.
        waiters.iter().for_each(JoinHandle::abort);
        for waiter in waiters {
            waiter.await.expect_err("it was aborted");
        }
    }
    let waiter = wait(&ledger, waiting(hold()));
    pass(Duration::from_secs(1)).await;
    claim.complete("receipt").await.expect("it is recorded");
    assert!(is_replay(&waiter.await.expect("no panic").0, "receipt"));
    // The listener to the store's notices ends with the ledger, at the next notice.
    drop(ledger);
    let other = onceproxy::RecordId::from_bytes([7; 32]);
    let begun = pair.other.begin(&other, fingerprint(), &waiting(hold())).await.expect("it answers");
    let Begun::Execute(claim) = begun else { panic!("{begun:?}") };
    claim.complete("receipt").await.expect("it is recorded");
    pass(AT_ONCE).await;
    assert_eq!(Arc::strong_count(&pair.faults), 2, "the test's handle and the first ledger's");
}

#[tokio::test(start_paused = true)]
async fn waiter_that_meets_what_nobody_can_read_is_told_so() {
    let pair = Pair::new();
    let claim = win(&pair.other, &hold()).await;
    let ledger = pair.one.clone();
    let waiter = tokio::spawn(async move { ledger.begin(&id(), fingerprint(), &waiting(hold())).await });
    pass(Duration::from_secs(3)).await;
    pair.faults.fault_all(Call::Create, Fault::Damage);
    let told = waiter.await.expect("no panic");
    assert!(matches!(told, Err(onceproxy::StoreError::Corrupt)), "{told:?}");
    drop(claim);
}
