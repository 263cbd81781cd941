//! The last word about a claim, when it is late, repeated, or not believed.

use std::time::Duration;

use onceproxy::NotRecorded;
use onceproxy::ledger::claim::{Outcome, Recorded, Released};
use onceproxy::ledger::store::{Draft, Notice, Replaced, Store};
use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{Begun, State, Terms};
use tokio::time::{Instant, timeout};

use super::{AT_ONCE, GRACE, LEASE, PATIENCE, Pair, hold, id, is_unknown, pass, retry, retry_after, win};

#[tokio::test(start_paused = true)]
async fn late_completion_of_an_untaken_claim_is_recorded() {
    for terms in [hold(), retry()] {
        let pair = Pair::new();
        let claim = win(&pair.one, &terms).await;
        pair.faults.fault_all(Call::Replace, Fault::Refuse);
        pass(3 * LEASE).await;
        assert!(is_unknown(&pair.duplicate(&hold()).await, 1, ""));
        pair.faults.heal();
        assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Late);
        assert_eq!(pair.replayed().await, "receipt");
    }
}

#[tokio::test(start_paused = true)]
async fn completion_whose_answer_was_lost_is_repeated() {
    for fault in [Fault::Swallow, Fault::Lose, Fault::Refuse] {
        let pair = Pair::new();
        let claim = win(&pair.one, &hold()).await;
        pair.faults.fault_next(Call::Replace, fault);
        pair.faults.fault_next(Call::Replace, fault);
        assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Yes, "{fault:?}");
        assert_eq!(pair.replayed().await, "receipt");
        assert_eq!(pair.one.alarms(), Default::default());
    }
}

#[tokio::test(start_paused = true)]
async fn completion_follows_a_renewal_whose_answer_was_lost() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    pair.faults.fault_next(Call::Replace, Fault::Swallow);
    // The renewal is in place under a version that the owner does not know of yet.
    pass(LEASE / 3 + Duration::from_millis(1)).await;
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Yes);
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn completion_of_a_vanished_record_creates_it_again() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let entry = pair.entry().await.expect("it is there");
    pair.store.remove(&id(), &entry.version, Notice::Skip).await.expect("memory answers");
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Recreated);
    assert_eq!(pair.replayed().await, "receipt");
    assert_eq!(pair.one.alarms().recreated, 1);
}

#[tokio::test(start_paused = true)]
async fn completion_that_keeps_failing_is_told_in_time_and_written_in_the_end() {
    for fault in [Fault::Refuse, Fault::Lose, Fault::Swallow] {
        let pair = Pair::new();
        let claim = win(&pair.one, &retry()).await;
        pair.faults.fault_all(Call::Replace, fault);
        pair.faults.fault_all(Call::Create, fault);
        let began = Instant::now();
        let recorded = claim.complete("receipt").await;
        assert!(matches!(recorded, Err(NotRecorded::Unrecorded(_))), "{fault:?}: {recorded:?}");
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE + PATIENCE / 2, "{:?}", began.elapsed());
        assert_eq!(pair.one.alarms().unrecorded, 1);
        // Longer than the lease and the grace: what was swallowed is in place all the while.
        pass(2 * (LEASE + GRACE)).await;
        pair.faults.heal();
        pass(LEASE).await;
        assert_eq!(pair.replayed().await, "receipt", "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn completion_that_only_fails_for_its_size_keeps_its_key_in_flight() {
    let pair = Pair::new();
    let claim = win(&pair.one, &retry()).await;
    pair.faults.fault_larger_than(3, Fault::Refuse);
    let recorded = claim.complete("receipt").await;
    assert!(matches!(recorded, Err(NotRecorded::Unrecorded(_))), "{recorded:?}");
    for _ in 0..50 {
        pass(LEASE / 7).await;
        let entry = pair.entry().await.expect("it is there");
        assert!(entry.lease_left().is_some(), "the owner lives, but its lease is over: {entry:?}");
        retry_after(&pair.duplicate(&retry()).await);
    }
    pair.faults.heal();
    pass(LEASE).await;
    assert_eq!(pair.replayed().await, "receipt");
}

/// An outcome of 7 bytes with a fallback of 2.
fn large() -> Outcome {
    Outcome { fallback: Some(Box::new(Outcome::from("no"))), ..Outcome::from("receipt") }
}

#[tokio::test(start_paused = true)]
async fn outcome_that_never_fits_gives_way_to_its_fallback() {
    for fault in [Fault::Refuse, Fault::Lose, Fault::Full] {
        let pair = Pair::new();
        let claim = win(&pair.one, &hold()).await;
        pair.faults.fault_larger_than(3, fault);
        let recorded = claim.complete(large()).await;
        assert!(matches!(recorded, Err(NotRecorded::Unrecorded(_))), "{fault:?}: {recorded:?}");
        timeout(LEASE * 3, pair.one.idle()).await.expect("it does not try for ever");
        assert!(pair.faults.count(fault) >= 5, "{fault:?}: given up after {}", pair.faults.count(fault));
        assert_eq!(pair.replayed().await, "no", "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn outcome_does_not_give_way_while_the_store_takes_nothing() {
    for fault in [Fault::Refuse, Fault::Lose, Fault::Swallow] {
        let pair = Pair::new();
        let claim = win(&pair.one, &hold()).await;
        pair.faults.fault_all(Call::Replace, fault);
        claim.complete(large()).await.expect_err("it is not recorded");
        pass(LEASE * 10).await;
        pair.faults.heal();
        pass(LEASE).await;
        assert_eq!(pair.replayed().await, "receipt", "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn outcome_that_is_in_place_does_not_give_way() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    // It is written, and nobody is told.
    pair.faults.fault_larger_than(3, Fault::Swallow);
    claim.complete(large()).await.expect_err("nobody knows that it is recorded");
    pass(LEASE * 10).await;
    assert_eq!(pair.replayed().await, "receipt");
    pair.faults.heal();
    timeout(LEASE, pair.one.idle()).await.expect("it finds itself in place");
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn owner_past_its_lease_cannot_complete_after_a_take_over() {
    let pair = Pair::new();
    let first = win(&pair.one, &retry()).await;
    // Stopped: it sends nothing.
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE + GRACE).await;
    let second = win(&pair.other, &retry()).await;
    assert_eq!(second.attempt(), 2);
    pair.faults.heal();
    let late = first.complete("first").await;
    assert!(matches!(late, Err(NotRecorded::Superseded)), "{late:?}");
    let entry = pair.entry().await.expect("it is there");
    assert_eq!((entry.record.state, entry.record.attempt), (State::InFlight, 2), "a zombie changes nothing");
    assert_eq!(second.complete("second").await.expect("it is recorded"), Recorded::Yes);
    assert_eq!(pair.replayed().await, "second");
}

#[tokio::test(start_paused = true)]
async fn owner_whose_successor_is_done_learns_so() {
    let pair = Pair::new();
    let first = win(&pair.one, &retry()).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE + GRACE).await;
    win(&pair.other, &retry()).await.complete("second").await.expect("it is recorded");
    pair.faults.heal();
    let late = first.complete("first").await;
    assert!(matches!(late, Err(NotRecorded::AlreadyDone)), "{late:?}");
    assert_eq!(pair.replayed().await, "second");
}

#[tokio::test(start_paused = true)]
async fn owner_that_wakes_up_learns_by_its_renewal_that_it_lost_the_key() {
    let pair = Pair::new();
    let first = win(&pair.one, &retry()).await;
    pair.faults.fault_all(Call::Replace, Fault::Hang);
    pass(LEASE + GRACE).await;
    let second = win(&pair.other, &retry()).await;
    // The renewal was on its way all the while.
    pair.faults.heal();
    pass(AT_ONCE).await;
    assert!(!first.holds());
    assert_eq!(pair.one.alarms().leases_lost, 1);
    assert!(second.holds());
    // Its other last words change nothing either.
    first.unknown("reset").await.expect_err("the key is another's");
    let entry = pair.entry().await.expect("it is there");
    assert_eq!((entry.record.state, entry.record.attempt), (State::InFlight, 2));
}

#[tokio::test(start_paused = true)]
async fn release_by_an_owner_that_lost_the_key_frees_nothing() {
    let pair = Pair::new();
    let first = win(&pair.one, &retry()).await;
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE + GRACE).await;
    let second = win(&pair.other, &retry()).await;
    pair.faults.heal();
    assert_eq!(first.release().await.expect("its own is gone"), Released::Taken);
    let begun = pair.duplicate(&retry()).await;
    assert!(matches!(begun, Begun::InFlight { .. }), "{begun:?}");
    assert_eq!(second.complete("second").await.expect("it is recorded"), Recorded::Yes);
}

#[tokio::test(start_paused = true)]
async fn earlier_write_that_is_in_place_again_is_still_the_owners() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let created = pair.entry().await.expect("it is reserved");
    // Some renewals later the store fails over to a replica that has not seen them.
    pass(LEASE).await;
    let present = pair.entry().await.expect("it is renewed");
    assert_ne!(present.version, created.version);
    let again = Draft { version: created.version, record: created.record };
    let back = pair.store.replace(&id(), &present.version, &again, Notice::Skip).await;
    assert_eq!(back.expect("memory answers"), Replaced::Done);
    claim.complete("receipt").await.expect("it is recorded");
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn terms_that_cannot_work_are_made_to() {
    let pair = Pair::new();
    let terms = Terms { lease: Duration::ZERO, retention: Duration::from_millis(1), ..hold() };
    let claim = win(&pair.one, &terms).await;
    pass(Duration::from_secs(30)).await;
    assert!(matches!(pair.duplicate(&terms).await, Begun::InFlight { .. }), "nobody executes beside it");
    claim.complete("receipt").await.expect("it is recorded");
}

#[tokio::test(start_paused = true)]
async fn outcome_that_is_recorded_is_never_undone_by_its_own_owner() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    // It arrives, and no answer ever comes back; renewals get through.
    pair.faults.fault_larger_than(100, Fault::Swallow);
    let outcome = "receipt ".repeat(100);
    let told = claim.complete(outcome.clone()).await;
    assert!(matches!(told, Err(NotRecorded::Unrecorded(_))), "{told:?}");
    // From now on not even that: what is in place has to stay there.
    pair.faults.fault_larger_than(100, Fault::Lose);
    for _ in 0..40 {
        pass(LEASE / 10).await;
        assert_eq!(pair.entry().await.expect("it is there").record.state, State::Completed);
    }
    assert_eq!(pair.replayed().await, outcome);
}
