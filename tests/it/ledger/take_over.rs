//! Who may take a key over, and when.

use std::time::Duration;

use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{Begun, Fingerprint, State, Terms};

use super::{AT_ONCE, GRACE, LEASE, Pair, fingerprint, hold, id, is_unknown, pass, retry, retry_after, win};

/// A key whose owner has not been heard of since.
async fn abandoned(terms: &Terms) -> Pair {
    let pair = Pair::new();
    let claim = win(&pair.one, terms).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    // Kept by a task that never ends: it cannot even say that it was dropped.
    tokio::spawn(async move {
        let _claim = claim;
        std::future::pending::<()>().await;
    });
    pair
}

#[tokio::test(start_paused = true)]
async fn held_key_is_never_taken_over() {
    let pair = abandoned(&hold()).await;
    pass(LEASE - AT_ONCE).await;
    retry_after(&pair.duplicate(&retry()).await);
    pass(AT_ONCE).await;
    for _ in 0..5 {
        assert!(is_unknown(&pair.duplicate(&hold()).await, 1, ""));
        assert!(is_unknown(&pair.duplicate(&retry()).await, 1, ""), "the record began under hold");
        pass(GRACE * 3).await;
    }
}

#[tokio::test(start_paused = true)]
async fn key_is_taken_over_after_lease_and_grace() {
    let pair = abandoned(&retry()).await;
    pass(LEASE).await;
    assert_eq!(retry_after(&pair.duplicate(&retry()).await), GRACE);
    pass(GRACE - AT_ONCE).await;
    assert_eq!(retry_after(&pair.duplicate(&retry()).await), AT_ONCE);
    pass(AT_ONCE).await;
    let second = win(&pair.other, &retry()).await;
    assert_eq!(second.attempt(), 2);
    retry_after(&pair.duplicate(&retry()).await);
    second.complete("second").await.expect("it is recorded");
    assert_eq!(pair.replayed().await, "second");
}

#[tokio::test(start_paused = true)]
async fn take_over_needs_retry_in_the_reader_too() {
    let pair = abandoned(&retry()).await;
    pass(LEASE + GRACE * 2).await;
    assert!(is_unknown(&pair.duplicate(&hold()).await, 1, ""));
    assert_eq!(win(&pair.other, &retry()).await.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn grace_after_an_unknown_counts_from_its_writing() {
    let pair = Pair::new();
    let claim = win(&pair.one, &retry()).await;
    pass(LEASE * 5).await;
    claim.unknown("reset").await.expect("it is recorded");
    assert_eq!(retry_after(&pair.duplicate(&retry()).await), GRACE);
    pass(GRACE - AT_ONCE).await;
    retry_after(&pair.duplicate(&retry()).await);
    pass(AT_ONCE).await;
    assert_eq!(win(&pair.other, &retry()).await.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn other_request_under_the_key_is_refused_in_every_state_but_released() {
    let other = Fingerprint::of("charge 900");
    let refused = async |pair: &Pair, when: &str| {
        for terms in [hold(), retry()] {
            let begun = pair.other.begin(&id(), other, &terms).await.expect("it answers");
            assert!(matches!(begun, Begun::Mismatch), "{when}: {begun:?}");
        }
    };
    let pair = abandoned(&retry()).await;
    refused(&pair, "running").await;
    pass(LEASE).await;
    refused(&pair, "dead").await;
    pass(GRACE).await;
    refused(&pair, "dead, and the grace is over").await;
    let second = win(&pair.other, &retry()).await;
    second.unknown("reset").await.expect("it is recorded");
    refused(&pair, "unknown").await;
    pass(GRACE).await;
    refused(&pair, "unknown, and the grace is over").await;
    win(&pair.other, &retry()).await.complete("third").await.expect("it is recorded");
    refused(&pair, "completed").await;
    let entry = pair.entry().await.expect("it is there");
    assert_eq!((entry.record.attempt, entry.record.fingerprint), (3, fingerprint()));
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_take_overs_one_wins() {
    let pair = abandoned(&retry()).await;
    pass(LEASE + GRACE).await;
    let rivals: Vec<_> = (0..100)
        .map(|_| {
            let ledger = pair.other.clone();
            tokio::spawn(async move { ledger.begin(&id(), fingerprint(), &retry()).await })
        })
        .collect();
    let mut winners = Vec::new();
    for rival in rivals {
        match rival.await.expect("no panic").expect("it answers") {
            Begun::Execute(claim) => winners.push(claim),
            begun => drop(retry_after(&begun)),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(winners[0].attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn renewal_that_comes_first_keeps_the_key() {
    let pair = Pair::new();
    let first = win(&pair.one, &retry()).await;
    pair.faults.fault_all(Call::Replace, Fault::Hang);
    pass(LEASE + GRACE - AT_ONCE).await;
    pair.faults.heal();
    pass(AT_ONCE).await;
    retry_after(&pair.duplicate(&retry()).await);
    pass(LEASE).await;
    assert!(first.holds());
    first.complete("first").await.expect("it is recorded");
    assert_eq!(pair.replayed().await, "first");
}

#[tokio::test(start_paused = true)]
async fn take_over_whose_record_was_renewed_meanwhile_is_none() {
    let pair = Pair::new();
    let first = win(&pair.other, &retry()).await;
    first.unknown("reset").await.expect("it is recorded");
    pass(GRACE).await;
    // One has read that the key may be taken; before its write arrives another takes it.
    pair.faults.fault_next(Call::Replace, Fault::Hang);
    let slow = tokio::spawn({
        let ledger = pair.one.clone();
        async move { ledger.begin(&id(), fingerprint(), &retry()).await }
    });
    pass(AT_ONCE).await;
    let second = win(&pair.other, &retry()).await;
    pair.faults.heal();
    retry_after(&slow.await.expect("no panic").expect("it answers"));
    assert!(second.holds());
    assert_eq!(pair.entry().await.expect("it is there").record.attempt, 2);
}

#[tokio::test(start_paused = true)]
async fn attempts_count_up_over_many_take_overs() {
    let pair = Pair::new();
    for attempt in 1..=5 {
        let claim = win(&pair.one, &retry()).await;
        assert_eq!(claim.attempt(), attempt);
        drop(claim);
        pass(GRACE + Duration::from_millis(1)).await;
    }
    let entry = pair.entry().await.expect("it is there");
    assert_eq!((entry.record.state, entry.record.attempt), (State::Unknown, 5));
}
