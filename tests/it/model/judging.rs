//! `judge` against the table of the protocol, written out a second time in another form.

use std::time::Duration;

use bytes::Bytes;
use onceproxy::ledger::judge::{Footing, Settleable, Unexecuted, Verdict, footing, judge, settleable, unexecuted};
use onceproxy::ledger::store::Entry;
use onceproxy::record::Version;
use onceproxy::{Fingerprint, OnUnknown, Record, State, Terms};
use proptest::prelude::{any, prop_assert_eq, proptest};
use proptest::test_runner::Config;

const POLICIES: [OnUnknown; 2] = [OnUnknown::Hold, OnUnknown::Retry];

fn entry(state: State, on_unknown: OnUnknown, times: [u64; 3], attempt: u32) -> Entry {
    let [lease, grace, age] = times.map(Duration::from_millis);
    Entry {
        version: Version::from_bytes([1; 16]),
        record: Record {
            state,
            attempt,
            on_unknown,
            lease,
            keep: Duration::from_secs(100_000),
            grace,
            fingerprint: Fingerprint::from_bytes([0; 32]),
            route: "".into(),
            status: 0,
            reason: "".into(),
            outcome: Bytes::new(),
        },
        age,
    }
}

/// The row of the table that answers, in milliseconds and booleans.
fn row(entry: &Entry, same: bool, reader: OnUnknown) -> &'static str {
    let [lease, grace, age] = [entry.record.lease, entry.record.grace, entry.age].map(|time| time.as_millis());
    let dead_for = match entry.record.state {
        State::Released => return "owner",
        State::Completed if same => return "replay",
        State::InFlight if same && age < lease => return "in flight",
        State::InFlight => age.wrapping_sub(lease),
        State::Unknown => age,
        State::Completed => 0,
    };
    if !same {
        return "mismatch";
    }
    if entry.record.on_unknown == OnUnknown::Hold || reader == OnUnknown::Hold {
        return "unknown";
    }
    if dead_for < grace { "in flight" } else { "owner" }
}

fn name(verdict: Verdict, attempt: u32) -> &'static str {
    match verdict {
        Verdict::Replay => "replay",
        Verdict::Mismatch => "mismatch",
        Verdict::InFlight { retry_after } => {
            assert!(!retry_after.is_zero(), "come again at once");
            "in flight"
        }
        Verdict::Unknown => "unknown",
        Verdict::TakeOver { attempt: next } => {
            assert_eq!(next, attempt.saturating_add(1));
            "owner"
        }
    }
}

fn judged(entry: &Entry, same: bool, reader: OnUnknown) -> &'static str {
    let fingerprint = Fingerprint::from_bytes([if same { 0 } else { 1 }; 32]);
    let terms = Terms { on_unknown: reader, ..Terms::default() };
    name(judge(entry, &fingerprint, &terms), entry.record.attempt)
}

#[test]
fn every_state_at_every_edge_of_time_is_in_the_table() {
    let mut cases = 0;
    for state in State::ALL {
        for on_unknown in POLICIES {
            for reader in POLICIES {
                for same in [true, false] {
                    for (lease, grace) in [(1000, 500), (1000, 0), (0, 500), (0, 0), (1, 1)] {
                        for age in [0, 1, 499, 500, 501, 999, 1000, 1001, 1499, 1500, 1501, u64::MAX] {
                            let entry = entry(state, on_unknown, [lease, grace, age], 1);
                            assert_eq!(
                                judged(&entry, same, reader),
                                row(&entry, same, reader),
                                "{entry:?}, same {same}, {reader:?}"
                            );
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(cases, 4 * 2 * 2 * 2 * 5 * 12);
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn judge_is_total_and_as_the_table_says(
        state in 0_usize..4,
        retry in any::<[bool; 2]>(),
        same in any::<bool>(),
        lease in any::<u64>(),
        grace in any::<u64>(),
        age in any::<u64>(),
        attempt in any::<u32>(),
    ) {
        let [record, reader] = retry.map(|retry| POLICIES[usize::from(retry)]);
        let entry = entry(State::ALL[state], record, [lease, grace, age], attempt);
        prop_assert_eq!(judged(&entry, same, reader), row(&entry, same, reader));
    }

    #[test]
    fn time_alone_never_takes_a_verdict_back(
        state in 0_usize..4,
        lease in 0_u64..5000,
        grace in 0_u64..5000,
        ages in any::<[u16; 2]>(),
    ) {
        // In flight, then unknown or free: never the other way round.
        let rank = |age: u16| {
            let entry = entry(State::ALL[state], OnUnknown::Retry, [lease, grace, u64::from(age)], 1);
            match judged(&entry, true, OnUnknown::Retry) {
                "in flight" => 0,
                _ => 1,
            }
        };
        let [one, other] = ages;
        assert!(rank(one.min(other)) <= rank(one.max(other)));
    }
}

#[test]
fn wait_that_is_told_ends_with_the_grace() {
    for (state, age, left) in [(State::InFlight, 1200, 300), (State::Unknown, 100, 400), (State::Unknown, 499, 1)] {
        let entry = entry(state, OnUnknown::Retry, [1000, 500, age], 1);
        let terms = Terms { on_unknown: OnUnknown::Retry, ..Terms::default() };
        let verdict = judge(&entry, &entry.record.fingerprint, &terms);
        assert_eq!(verdict, Verdict::InFlight { retry_after: Duration::from_millis(left) });
    }
}

#[test]
fn operator_may_decide_the_unknown_and_the_dead_only() {
    for state in State::ALL {
        for age in [0, 999, 1000, 1001] {
            let expected = match state {
                State::Unknown => Settleable::Yes,
                State::InFlight if age >= 1000 => Settleable::Yes,
                _ => Settleable::No,
            };
            assert_eq!(settleable(&entry(state, OnUnknown::Hold, [1000, 0, age], 1)), expected, "{state} at {age}");
        }
    }
}

#[test]
fn proof_of_one_attempt_frees_no_key_that_another_may_have_used() {
    assert_eq!(unexecuted(None), Unexecuted::Forgotten);
    for state in State::ALL {
        let expected = if state == State::Released { Unexecuted::Free } else { Unexecuted::Unknown };
        assert_eq!(unexecuted(Some(state)), expected, "{state}");
    }
}

#[test]
fn owner_stands_on_its_own_writes_and_on_what_nobody_took() {
    let own = [Version::from_bytes([1; 16]), Version::from_bytes([2; 16])];
    let same = Fingerprint::from_bytes([0; 32]);
    for state in State::ALL {
        for (attempt, fingerprint, version) in [2, 3]
            .into_iter()
            .flat_map(|attempt| [(attempt, same), (attempt, Fingerprint::from_bytes([1; 32]))])
            .flat_map(|(attempt, fingerprint)| [1, 2, 3].map(|version| (attempt, fingerprint, version)))
        {
            let mut present = entry(state, OnUnknown::Hold, [1000, 0, 0], attempt);
            present.version = Version::from_bytes([version; 16]);
            present.record.fingerprint = fingerprint;
            let expected = if version < 3 {
                Footing::Own
            } else if state == State::Completed {
                Footing::AlreadyDone
            } else if state != State::InFlight && attempt == 2 && fingerprint == same {
                Footing::Untaken
            } else {
                Footing::Superseded
            };
            assert_eq!(footing(&own, 2, &same, &present), expected, "{present:?}");
        }
    }
}
