//! The operator's word, against owners that come back.

use std::time::Duration;

use onceproxy::ledger::claim::{Outcome, Recorded};
use onceproxy::ledger::operate::{Decided, Decision};
use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{Begun, Claim, Fingerprint, NotRecorded, State, StoreError};

use super::{AT_ONCE, LEASE, Pair, hold, id, pass, win};

fn settlement() -> Decision {
    Decision::Settle(Outcome { bytes: "settled".into(), status: 201, remark: "", fallback: None })
}

/// A key under a dead lease, whose owner is only cut off.
async fn dead() -> (Pair, Claim) {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE).await;
    (pair, claim)
}

async fn decide(pair: &Pair, attempt: u32, decision: Decision) -> Decided {
    pair.other.decide(&id(), attempt, decision, "called the bank").await.expect("it answers")
}

#[tokio::test(start_paused = true)]
async fn release_frees_the_key_for_any_request_and_keeps_the_number() {
    let (pair, _claim) = dead().await;
    let Decided::Done(record) = decide(&pair, 1, Decision::Release).await else { panic!("not done") };
    assert_eq!((record.state, &*record.reason), (State::Released, "called the bank"));
    let begun = pair.other.begin(&id(), Fingerprint::of("charge 900"), &hold()).await.expect("it answers");
    let Begun::Execute(claim) = begun else { panic!("{begun:?}") };
    assert_eq!(claim.attempt(), 2);
}

#[tokio::test(start_paused = true)]
async fn settlement_is_replayed() {
    let (pair, _claim) = dead().await;
    let Decided::Done(record) = decide(&pair, 1, settlement()).await else { panic!("not done") };
    assert_eq!((record.state, record.status), (State::Completed, 201));
    assert_eq!(pair.replayed().await, "settled");
}

#[tokio::test(start_paused = true)]
async fn only_an_unknown_of_the_expected_attempt_is_decided() {
    let pair = Pair::new();
    assert!(matches!(decide(&pair, 1, Decision::Release).await, Decided::NotFound));
    let refused = async |attempt: u32, when: &str| {
        for decision in [Decision::Release, settlement()] {
            let before = pair.entry().await.expect("it is there");
            let decided = decide(&pair, attempt, decision).await;
            assert!(matches!(decided, Decided::Refused(_)), "{when}: {decided:?}");
            assert_eq!(pair.entry().await.expect("it is there").version, before.version, "{when}");
        }
    };
    let claim = win(&pair.one, &hold()).await;
    refused(1, "alive").await;
    pass(LEASE * 10).await;
    refused(1, "renewed").await;
    claim.unknown("reset").await.expect("it is recorded");
    refused(2, "another attempt").await;
    refused(0, "another attempt").await;
    assert!(matches!(decide(&pair, 1, Decision::Release).await, Decided::Done(_)));
    refused(1, "released already").await;
    win(&pair.one, &hold()).await.complete("second").await.expect("it is recorded");
    refused(2, "completed").await;
    assert_eq!(pair.replayed().await, "second");
}

#[tokio::test(start_paused = true)]
async fn late_owner_overrules_a_release_that_nobody_has_used() {
    let (pair, claim) = dead().await;
    decide(&pair, 1, Decision::Release).await;
    pair.faults.heal();
    assert_eq!(claim.complete("first").await.expect("it is recorded"), Recorded::Late);
    assert_eq!(pair.replayed().await, "first");
}

#[tokio::test(start_paused = true)]
async fn late_owner_cannot_undo_a_settlement() {
    let (pair, claim) = dead().await;
    decide(&pair, 1, settlement()).await;
    pair.faults.heal();
    let late = claim.complete("first").await;
    assert!(matches!(late, Err(NotRecorded::AlreadyDone)), "{late:?}");
    assert_eq!(pair.replayed().await, "settled");
}

#[tokio::test(start_paused = true)]
async fn late_guess_does_not_overrule_a_release() {
    let (pair, claim) = dead().await;
    decide(&pair, 1, Decision::Release).await;
    pair.faults.heal();
    claim.unknown("reset").await.expect_err("the operator knows better");
    assert_eq!(pair.entry().await.expect("it is there").record.state, State::Released);
}

#[tokio::test(start_paused = true)]
async fn late_owner_cannot_complete_once_a_released_key_was_used() {
    let (pair, claim) = dead().await;
    decide(&pair, 1, Decision::Release).await;
    let second = win(&pair.other, &hold()).await;
    pair.faults.heal();
    let late = claim.complete("first").await;
    assert!(matches!(late, Err(NotRecorded::Superseded)), "{late:?}");
    second.complete("second").await.expect("it is recorded");
    assert_eq!(pair.replayed().await, "second");
}

#[tokio::test(start_paused = true)]
async fn owner_that_comes_between_look_and_decision_wins() {
    let pair = Pair::new();
    win(&pair.other, &hold()).await.unknown("reset").await.expect("it is recorded");
    // The operator's process has read the record, and its write is on the way.
    pair.faults.fault_next(Call::Replace, Fault::Hang);
    let deciding = tokio::spawn({
        let ledger = pair.one.clone();
        async move { ledger.decide(&id(), 1, Decision::Release, "slow").await }
    });
    pass(AT_ONCE).await;
    let Decided::Done(_) = decide(&pair, 1, settlement()).await else { panic!("not done") };
    pair.faults.heal();
    match deciding.await.expect("no panic").expect("it answers") {
        Decided::Refused(entry) => assert_eq!(entry.record.state, State::Completed),
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.replayed().await, "settled");
}

#[tokio::test(start_paused = true)]
async fn decision_whose_answer_was_lost_says_so() {
    let pair = Pair::new();
    win(&pair.other, &hold()).await.unknown("reset").await.expect("it is recorded");
    pair.faults.fault_next(Call::Replace, Fault::Swallow);
    let decided = pair.one.decide(&id(), 1, settlement(), "x").await;
    assert!(matches!(decided, Err(StoreError::MaybeApplied(_))), "{decided:?}");
    assert_eq!(pair.replayed().await, "settled");
}

#[tokio::test(start_paused = true)]
async fn decision_wakes_those_who_wait() {
    let pair = Pair::new();
    let retry = super::waiting(super::retry());
    drop(win(&pair.one, &retry).await);
    let waiter = tokio::spawn({
        let ledger = pair.other.clone();
        async move { super::begin(&ledger, &retry).await }
    });
    pass(Duration::from_secs(3)).await;
    let decided_at = tokio::time::Instant::now();
    decide(&pair, 1, settlement()).await;
    match waiter.await.expect("no panic") {
        Begun::Replay(outcome) => assert_eq!(outcome, "settled"),
        other => panic!("{other:?}"),
    }
    assert!(decided_at.elapsed() <= AT_ONCE);
}
