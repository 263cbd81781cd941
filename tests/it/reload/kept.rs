//! What a reload leaves as it is.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::{apply, connect, keyed, metric, setup, unkeyed};
use crate::support::proxy::quoted;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{PATIENCE, Signal, eventually};

#[test]
fn an_execution_under_way_ends_as_it_began_and_is_replayed() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:").policy("replay_drop_headers", "[\"x-secret\"]");
    let proxy = before.start();
    let answer = Signal::default();
    upstream.then(Reply::status(201).field("x-secret", "s").body("execution 1").after(&answer));
    let first = keyed("k").send_aside(proxy.address);
    upstream.wait_for_executions(1);
    // Another policy, another pool, and the route that it came in by is gone.
    let after = before.clone().policy("replay_drop_headers", "[]").policy("concurrent", quoted("wait"));
    let after = after.upstream("idle_timeout", quoted("3s")).route("new", "/{*rest}", "");
    apply(&proxy, &after);
    let duplicate = keyed("k").send_aside(proxy.address);
    let other = keyed("other").send(proxy.address).expect("an answer");
    assert_eq!((other.status, other.outcome().as_str()), (201, "executed"));
    assert!(!first.has_ended() && !duplicate.has_ended());
    assert_eq!(metric(&proxy, "onceproxy_in_flight{route=\"pay\"}"), 1.0);
    answer.give();
    let (first, duplicate) = (first.end().expect("an answer"), duplicate.end().expect("an answer"));
    assert_eq!((first.status, first.outcome().as_str(), first.text().as_str()), (201, "executed", "execution 1"));
    assert_eq!((duplicate.outcome().as_str(), duplicate.text().as_str()), ("replayed", "execution 1"));
    assert_eq!(duplicate.field("x-secret"), "", "the first request's policy did not store it");
    assert_eq!(upstream.executions_of("k").len(), 1);
    assert_eq!(metric(&proxy, "onceproxy_in_flight{route=\"pay\"}"), 0.0);
    assert_eq!(metric(&proxy, "onceproxy_requests_total{route=\"pay\",outcome=\"executed\"}"), 1.0);
}

#[test]
fn idle_connections_to_an_upstream_stay_where_it_is_the_same() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:").upstream("idle_timeout", quoted("60s"));
    let proxy = before.start();
    let mut connection = connect(proxy.address);
    let send = |connection: &mut _| assert_eq!(unkeyed().send_over(connection).expect("an answer").status, 201);
    send(&mut connection);
    apply(&proxy, &before.clone().policy("lease", quoted("2s")));
    send(&mut connection);
    assert_eq!(upstream.connections(), 1);
    apply(&proxy, &before.clone().upstream("idle_timeout", quoted("50s")));
    eventually("the end of the old connection", || (upstream.open_connections() == 0).then_some(()));
    send(&mut connection);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn counts_go_on_across_a_reload() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    for number in 0..3 {
        keyed("k").send(proxy.address).expect("an answer");
        apply(&proxy, &before.clone().policy("lease", format!("\"{}s\"", number + 2)));
    }
    let count =
        |outcome: &str| metric(&proxy, &format!("onceproxy_requests_total{{route=\"pay\",outcome=\"{outcome}\"}}"));
    assert_eq!((count("executed"), count("replayed")), (1.0, 2.0));
}

#[test]
fn limits_change_while_they_are_used() {
    let upstream = Upstream::start();
    let before = setup(upstream.address, "memory:");
    let proxy = before.start();
    let mut first = connect(proxy.address);
    assert_eq!(unkeyed().send_over(&mut first).expect("an answer").status, 201);
    let after = before.clone().listener("max_connections", "1").policy("max_request_body", quoted("4B"));
    assert_eq!(apply(&proxy, &after), ["listener.max_connections", "routes.pay.policy.max_request_body"]);
    assert_eq!(keyed("k").send_over(&mut first).expect("an answer").status, 413);
    // The listener had the next place in its hand already; there is none after that.
    let mut second = connect(proxy.address);
    assert_eq!(unkeyed().send_over(&mut second).expect("an answer").status, 201);
    let mut third = unkeyed().begin(proxy.address).expect("the kernel takes it");
    third.set_read_timeout(Some(Duration::from_millis(300))).expect("a time limit");
    let mut byte = [0];
    let waits = third.read(&mut byte).expect_err("no answer");
    assert!(matches!(waits.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{waits}");
    apply(&proxy, &before);
    third.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    assert_eq!(third.read(&mut byte).expect("an answer"), 1);
}
