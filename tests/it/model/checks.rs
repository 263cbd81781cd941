//! The checks: the protocol holds in every order of events, and each known-bad one does not.

use std::collections::HashSet;

use stateright::{Checker, HasDiscoveries, Model};

use super::world::{ANSWER_STAYS, AT_MOST_ONCE, Asked, Bounds, NO_TRESPASS, ONE_ANSWER, Protocol};

const HOLD: Asked = Asked { body: 0, retry: false };
const RETRY: Asked = Asked { body: 0, retry: true };
const OTHER_BODY: Asked = Asked { body: 1, retry: true };

fn bounds(callers: &[Asked]) -> Bounds {
    let callers = callers.to_vec();
    Bounds { protocol: Protocol::Right, callers, renewals: false, timeouts: 0, crashes: 1, operator: false }
}

/// Runs through every order of events.
fn holds(bounds: Bounds) {
    let name = format!("{bounds:?}");
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    eprintln!("{name}: {} states", checker.unique_state_count());
    assert!(checker.is_done());
    checker.assert_properties();
}

/// Looks for the orders of events that break these properties.
fn fails(bounds: Bounds, broken: &[&'static str]) {
    let wanted: HashSet<&'static str> = broken.iter().copied().collect();
    let checker =
        bounds.checker().threads(2).finish_when(HasDiscoveries::AllOf(wanted.into_iter().collect())).spawn_bfs().join();
    for property in broken {
        checker.assert_any_discovery(property);
    }
}

/// A fault more for two callers than for three: the orders of events grow with both.
fn with_faults(callers: &[Asked]) -> Bounds {
    Bounds { renewals: true, timeouts: 1, crashes: 1, ..bounds(callers) }
}

#[test]
fn key_takes_effect_at_most_once_under_hold() {
    holds(bounds(&[HOLD, HOLD, HOLD]));
    holds(with_faults(&[HOLD, HOLD]));
}

#[test]
fn retry_of_one_side_is_hold() {
    holds(bounds(&[HOLD, RETRY, OTHER_BODY]));
    holds(with_faults(&[HOLD, RETRY]));
}

#[test]
fn all_get_one_answer_under_retry() {
    holds(bounds(&[RETRY, RETRY, OTHER_BODY]));
    holds(with_faults(&[RETRY, RETRY]));
}

#[test]
fn operator_does_not_break_hold() {
    holds(Bounds { operator: true, crashes: 0, ..bounds(&[HOLD, HOLD, OTHER_BODY]) });
    holds(Bounds { operator: true, ..with_faults(&[HOLD, HOLD]) });
}

#[test]
fn record_that_dies_with_its_lease_executes_twice() {
    let protocol = Protocol::RecordDiesWithLease;
    fails(Bounds { protocol, ..bounds(&[HOLD, HOLD, HOLD]) }, &[AT_MOST_ONCE]);
    // Nobody has to crash: to be slow is enough, and two clients get two answers, or one that nobody recorded.
    let slow = Bounds { protocol, crashes: 0, ..bounds(&[HOLD, HOLD, HOLD]) };
    fails(slow, &[AT_MOST_ONCE]);
}

#[test]
fn release_on_reset_executes_twice() {
    let protocol = Protocol::ReleaseOnReset;
    fails(Bounds { protocol, crashes: 0, ..bounds(&[HOLD, HOLD, HOLD]) }, &[AT_MOST_ONCE]);
}

#[test]
fn write_without_a_compare_gives_two_answers() {
    let protocol = Protocol::NoCompare;
    let blind = Bounds { protocol, crashes: 0, ..bounds(&[RETRY, RETRY, RETRY]) };
    fails(blind, &[ONE_ANSWER, ANSWER_STAYS]);
}

#[test]
fn sending_after_the_lease_executes_what_an_operator_released() {
    let protocol = Protocol::SendAfterLease;
    let careless = Bounds { protocol, crashes: 0, operator: true, ..bounds(&[HOLD, HOLD, HOLD]) };
    fails(careless, &[AT_MOST_ONCE]);
}

#[test]
fn properties_have_names_of_their_own() {
    let names: Vec<&str> =
        bounds(&[RETRY, RETRY, OTHER_BODY]).properties().iter().map(|property| property.name).collect();
    let distinct: HashSet<&&str> = names.iter().collect();
    assert_eq!(names.len(), distinct.len());
    assert!(names.contains(&NO_TRESPASS));
}
