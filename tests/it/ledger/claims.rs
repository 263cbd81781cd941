//! A claim from its winning to its end: renewals, releases, drops.

use std::time::Duration;

use onceproxy::ledger::claim::{Recorded, Released};
use onceproxy::ledger::operate::{Decided, Decision};
use onceproxy::ledger::store::{Notice, Store};
use onceproxy::stores::conformance::faulty::{Call, Fault};
use onceproxy::{Begun, Fingerprint, State};

use super::{AT_ONCE, LEASE, Pair, RETENTION, begin, fingerprint, hold, id, is_unknown, pass, retry, retry_after, win};

#[tokio::test(start_paused = true)]
async fn claim_is_renewed_for_as_long_as_the_work_takes() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    for _ in 0..50 {
        // Not a multiple of the renewals.
        pass(RETENTION / 7 + Duration::from_secs(1)).await;
        let entry = pair.entry().await.expect("it is kept beyond the retention of its first write");
        assert!(entry.lease_left().is_some_and(|left| left >= LEASE / 2), "{entry:?}");
        assert!(claim.holds());
        retry_after(&pair.duplicate(&retry()).await);
    }
    let renewals = pair.faults.calls(Call::Replace);
    let expected = (50 * (RETENTION / 7 + Duration::from_secs(1))).as_secs() / (LEASE / 3).as_secs();
    assert!(
        (renewals as u64).abs_diff(expected) <= 1,
        "{renewals} renewals, one every third of the lease is {expected}"
    );
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Yes);
    assert_eq!(pair.replayed().await, "receipt");
    pass(RETENTION - Duration::from_secs(1)).await;
    assert_eq!(pair.replayed().await, "receipt");
    pass(Duration::from_secs(2)).await;
    assert_eq!(pair.entry().await, None, "the retention counts from the completion");
}

#[tokio::test(start_paused = true)]
async fn renewals_end_with_the_claim() {
    let pair = Pair::new();
    win(&pair.one, &hold()).await.complete("receipt").await.expect("it is recorded");
    let calls = pair.faults.calls(Call::Replace);
    pass(10 * LEASE).await;
    assert_eq!(pair.faults.calls(Call::Replace), calls);
}

#[tokio::test(start_paused = true)]
async fn renewal_whose_answer_was_lost_is_repeated_and_holds() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    for fault in [Fault::Swallow, Fault::Lose, Fault::Refuse] {
        for _ in 0..3 {
            pair.faults.fault_next(Call::Replace, fault);
        }
        pass(LEASE).await;
        assert!(claim.holds(), "{fault:?}");
        assert!(pair.entry().await.expect("it is there").lease_left().is_some(), "{fault:?}");
    }
    assert_eq!(pair.one.alarms(), Default::default());
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Yes);
}

#[tokio::test(start_paused = true)]
async fn claim_that_is_not_renewed_ends_for_its_owner_before_it_ends_for_others() {
    let pair = Pair::new();
    let claim = win(&pair.one, &retry()).await;
    let watch = claim.watch();
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(LEASE - Duration::from_millis(1)).await;
    assert!(claim.holds() && watch());
    pass(Duration::from_millis(1)).await;
    assert!(!claim.holds() && !watch());
    // A write that was answered late begins the lease when it was sent, not when it was answered.
    pair.faults.heal();
    pass(LEASE).await;
    assert!(claim.holds());
    pair.faults.fault_all(Call::Replace, Fault::Stall);
    pass(LEASE / 3 + LEASE / 2).await;
    let store_says = pair.entry().await.expect("it is there").lease_left().expect("it was renewed");
    pair.faults.heal();
    pair.faults.fault_all(Call::Replace, Fault::Refuse);
    pass(Duration::from_millis(1)).await;
    assert!(claim.holds());
    pass(store_says).await;
    assert!(!claim.holds(), "the owner believes in a lease that the store does not");
}

#[tokio::test(start_paused = true)]
async fn released_first_attempt_leaves_nothing() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    pass(LEASE).await;
    assert_eq!(claim.release().await.expect("it is released"), Released::Free);
    assert_eq!(pair.entry().await, None);
    assert_eq!(win(&pair.other, &hold()).await.attempt(), 1);
}

#[tokio::test(start_paused = true)]
async fn released_attempt_after_an_operators_release_keeps_its_number() {
    let pair = Pair::new();
    win(&pair.one, &hold()).await.unknown("reset").await.expect("it is recorded");
    let decided = pair.other.decide(&id(), 1, Decision::Release, "called the bank").await.expect("it answers");
    assert!(matches!(decided, Decided::Done(_)), "{decided:?}");
    let second = win(&pair.other, &hold()).await;
    assert_eq!(second.attempt(), 2);
    assert_eq!(second.release().await.expect("it is released"), Released::Free);
    let entry = pair.entry().await.expect("the number is kept");
    assert_eq!((entry.record.state, entry.record.attempt), (State::Released, 2));
    // A key that is free again is free for any request.
    let begun = pair.one.begin(&id(), Fingerprint::of("charge 900"), &hold()).await.expect("it answers");
    let Begun::Execute(third) = begun else { panic!("{begun:?}") };
    assert_eq!(third.attempt(), 3);
    third.complete("receipt").await.expect("it is recorded");
}

#[tokio::test(start_paused = true)]
async fn released_attempt_after_an_unknown_one_leaves_the_key_unknown() {
    for first_dies in [true, false] {
        let pair = Pair::new();
        let first = win(&pair.one, &retry()).await;
        if first_dies {
            // Its lease ends, and it says nothing.
            pair.faults.fault_all(Call::Replace, Fault::Refuse);
            std::mem::forget(first);
        } else {
            first.unknown("reset").await.expect("it is recorded");
        }
        pass(super::GRACE + LEASE).await;
        let second = win(&pair.other, &retry()).await;
        assert_eq!(second.attempt(), 2);
        assert_eq!(second.release().await.expect("it is released"), Released::Unknown);
        let entry = pair.entry().await.expect("it is there");
        assert_eq!((entry.record.state, entry.record.attempt), (State::Unknown, 2));
        assert_eq!(&*entry.record.reason, "not-executed");
        let other = pair.other.begin(&id(), Fingerprint::of("charge 900"), &retry()).await.expect("it answers");
        assert!(matches!(other, Begun::Mismatch), "{other:?}");
        assert!(is_unknown(&pair.duplicate(&hold()).await, 2, "not-executed"));
        // The first had its grace.
        assert_eq!(win(&pair.other, &retry()).await.attempt(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn release_whose_answer_was_lost_is_repeated() {
    for fault in [Fault::Swallow, Fault::Lose, Fault::Refuse] {
        let pair = Pair::new();
        let claim = win(&pair.one, &hold()).await;
        pair.faults.fault_next(Call::Remove, fault);
        claim.release().await.expect("it is released");
        assert_eq!(pair.entry().await, None, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_claim_is_unknown_at_once() {
    for terms in [hold(), retry()] {
        let pair = Pair::new();
        drop(win(&pair.one, &terms).await);
        pass(Duration::from_millis(1)).await;
        let entry = pair.entry().await.expect("it is there");
        assert_eq!((entry.record.state, &*entry.record.reason), (State::Unknown, "dropped"));
        assert!(is_unknown(&pair.duplicate(&hold()).await, 1, "dropped"));
    }
}

#[tokio::test(start_paused = true)]
async fn panic_of_the_work_is_unknown_at_once() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let work = tokio::spawn(async move {
        let _claim = claim;
        panic!("on purpose");
    });
    work.await.expect_err("it panics");
    pass(Duration::from_millis(1)).await;
    assert!(is_unknown(&pair.duplicate(&hold()).await, 1, "dropped"));
}

#[tokio::test(start_paused = true)]
async fn unknown_carries_its_reason_and_is_held() {
    let pair = Pair::new();
    win(&pair.one, &hold()).await.unknown("upstream-timeout").await.expect("it is recorded");
    for _ in 0..3 {
        assert!(is_unknown(&pair.duplicate(&hold()).await, 1, "upstream-timeout"));
        assert!(is_unknown(&begin(&pair.one, &retry()).await, 1, "upstream-timeout"));
        pass(RETENTION / 4).await;
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_completion_goes_on() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    pair.faults.fault_all(Call::Replace, Fault::Hang);
    let completing = claim.complete("receipt");
    tokio::time::timeout(Duration::from_millis(10), completing).await.expect_err("it hangs");
    pair.faults.heal();
    pass(Duration::from_millis(1)).await;
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn last_word_is_written_though_nobody_ever_asks_what_came_of_it() {
    let pair = Pair::new();
    drop(win(&pair.one, &hold()).await.release());
    pass(AT_ONCE).await;
    assert_eq!(pair.entry().await, None);
    drop(win(&pair.one, &hold()).await.unknown("reset"));
    pass(AT_ONCE).await;
    assert!(is_unknown(&pair.duplicate(&hold()).await, 1, "reset"));
    let pair = Pair::new();
    drop(win(&pair.one, &hold()).await.complete("receipt"));
    pass(AT_ONCE).await;
    assert_eq!(pair.replayed().await, "receipt");
}

#[tokio::test(start_paused = true)]
async fn vanished_record_comes_back_with_the_next_renewal_and_is_counted() {
    let pair = Pair::new();
    let claim = win(&pair.one, &hold()).await;
    let entry = pair.entry().await.expect("it is there");
    pair.store.remove(&id(), &entry.version, Notice::Skip).await.expect("memory answers");
    pass(LEASE / 3 + Duration::from_millis(1)).await;
    let entry = pair.entry().await.expect("it is back");
    assert_eq!((entry.record.state, entry.record.attempt), (State::InFlight, 1));
    assert_eq!(entry.record.fingerprint, fingerprint());
    assert_eq!(pair.one.alarms().recreated, 1);
    assert!(claim.holds());
    assert_eq!(claim.complete("receipt").await.expect("it is recorded"), Recorded::Yes);
}
