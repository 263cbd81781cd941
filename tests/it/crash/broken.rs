//! The other side breaks: an upstream that refuses, resets, falls silent or stops in the middle, a client that hangs up.

use std::time::Duration;

use super::{assert_is_execution, assert_refused, attempts, pay};
use crate::support::client::Answer;
use crate::support::proxy::{Proxy, Setup};
use crate::support::redis::RedisServer;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{Signal, eventually};

struct Stand {
    proxy: Proxy,
    upstream: Upstream,
    _redis: RedisServer,
}

impl Stand {
    fn new() -> Stand {
        Stand::with(|setup| setup)
    }

    fn with(change: impl FnOnce(Setup) -> Setup) -> Stand {
        let redis = RedisServer::start();
        let upstream = Upstream::start();
        let proxy = change(Setup::new(upstream.address, &redis.url())).start();
        Stand { proxy, upstream, _redis: redis }
    }

    fn pay(&self, key: &str) -> Answer {
        pay(key).send(self.proxy.address).expect("an answer")
    }

    /// Asserts that a first answer left its outcome unknown, and that it stays so.
    fn assert_unknown(&self, first: &Answer, status: u16, code: &str) {
        assert_eq!((first.status, first.outcome().as_str()), (status, "unknown"), "{}", first.text());
        assert_eq!(first.json()["code"], code);
        let record = self.proxy.record("k").expect("a record");
        assert_eq!((record.state.as_str(), record.attempt, record.reason.as_str()), ("unknown", 1, code));
        let executions = self.upstream.executions().len();
        assert_refused(&self.pay("k"), 409, "outcome-unknown");
        assert_eq!(self.upstream.executions().len(), executions);
    }
}

#[test]
fn an_upstream_that_refuses_has_not_executed_and_the_key_is_free() {
    let stand = Stand::new();
    stand.upstream.go_away();
    let refused = stand.pay("k");
    assert_eq!((refused.status, refused.outcome().as_str()), (502, "not-executed"), "{}", refused.text());
    assert_eq!(refused.field("idempotency-outcome"), "not-executed");
    assert_eq!(stand.proxy.record("k"), None);
    stand.upstream.come_back();
    assert_is_execution(&stand.pay("k"), 1, "executed");
    assert_eq!(attempts(&stand.upstream), [1]);
}

#[test]
fn an_upstream_that_resets_after_reading_leaves_the_outcome_unknown() {
    let stand = Stand::new();
    stand.upstream.then(Reply::reset());
    stand.assert_unknown(&stand.pay("k"), 502, "upstream-lost");
}

#[test]
fn an_upstream_that_falls_silent_leaves_the_outcome_unknown() {
    let stand = Stand::with(|setup| setup.upstream("response_timeout", "\"300ms\""));
    stand.upstream.then(Reply::silence());
    stand.assert_unknown(&stand.pay("k"), 504, "upstream-timeout");
}

#[test]
fn an_answer_that_is_cut_short_leaves_the_outcome_unknown() {
    for bytes in [10, 60] {
        let stand = Stand::new();
        stand.upstream.then(Reply::status(201).body("a body of which the end is missing").cut_after(bytes));
        stand.assert_unknown(&stand.pay("k"), 502, "upstream-lost");
    }
    let stand = Stand::new();
    stand.upstream.then(Reply::status(201).body("a body of which the end is missing").chunked().cut_after(70));
    stand.assert_unknown(&stand.pay("k"), 502, "upstream-lost");
}

#[test]
fn an_idle_connection_that_ended_holds_no_key() {
    let stand = Stand::new();
    stand.upstream.then(Reply::status(201).then_close());
    assert_eq!(stand.pay("first").outcome(), "executed");
    eventually("the server to close", || (stand.upstream.open_connections() == 0).then_some(()));
    assert_eq!(stand.pay("second").outcome(), "executed");
    stand.upstream.close_idle(1);
    assert_eq!(stand.pay("third").outcome(), "executed");
    let connections: Vec<usize> = stand.upstream.received().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1, 2]);
}

/// The server gave the connection up while the request was on its way: it may have read it.
#[test]
fn an_idle_connection_that_is_reset_under_a_request_leaves_the_outcome_unknown() {
    let stand = Stand::with(|setup| setup.upstream("idle_timeout", "\"60s\""));
    stand.upstream.then(Reply::status(201).then_reset_next());
    // Each worker has connections of its own: the one that is to be reset is met again sooner or later.
    let unknown = (0..64).map(|number| format!("first-{number}")).find_map(|key| {
        let answer = stand.pay(&key);
        (answer.outcome() == "unknown").then_some((key, answer))
    });
    let (key, answer) = unknown.expect("one of them meets the reset");
    assert_eq!((answer.status, &answer.json()["code"]), (502, &"upstream-lost".into()), "{}", answer.text());
    assert!(stand.upstream.executions_of(&key).is_empty(), "it was reset before it was read");
    assert_refused(&stand.pay(&key), 409, "outcome-unknown");
    assert!(stand.upstream.executions_of(&key).is_empty(), "it was sent again");
}

#[test]
fn an_answer_in_chunks_is_replayed_as_it_came_and_the_request_arrived_as_it_was_sent() {
    let stand = Stand::new();
    stand.upstream.then(Reply::status(201).body("many small chunks make one large body").trailer("x-sum", "7"));
    let (first, second) = (stand.pay("k"), stand.pay("k"));
    assert_eq!((first.outcome().as_str(), second.outcome().as_str()), ("executed", "replayed"));
    assert_eq!(first.text(), "many small chunks make one large body");
    assert_eq!(first.body, second.body);
    let received = stand.upstream.received();
    let [request] = received.as_slice() else { panic!("one request: {received:?}") };
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/pay"));
    assert_eq!((request.body.as_slice(), request.key.as_deref()), (&b"amount=7"[..], Some("k")));
}

#[test]
fn a_client_that_hangs_up_gets_its_answer_on_the_retry() {
    let stand = Stand::new();
    let answer = Signal::default();
    stand.upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").after(&answer));
    let connection = pay("k").begin(stand.proxy.address).expect("it is sent");
    stand.upstream.wait_for_executions(1);
    drop(connection);
    assert_refused(&stand.pay("k"), 409, "in-flight");
    answer.give();
    let replayed = eventually("the outcome to be recorded", || {
        Some(stand.pay("k")).filter(|answer| answer.outcome() != "in-flight")
    });
    assert_is_execution(&replayed, 1, "replayed");
    assert_eq!(attempts(&stand.upstream), [1]);
}

/// A lease is renewed for as long as the upstream works.
#[test]
fn an_upstream_that_is_slower_than_the_lease_is_waited_for() {
    let stand = Stand::new();
    let slow = Duration::from_millis(2200);
    stand.upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").delay(slow));
    let waiting = pay("k").send_aside(stand.proxy.address);
    stand.upstream.wait_for_executions(1);
    while !waiting.has_ended() {
        let answer = stand.pay("k");
        assert!(["in-flight", "replayed"].contains(&answer.outcome().as_str()), "{}", answer.text());
    }
    assert_is_execution(&waiting.end().expect("an answer"), 1, "executed");
    assert_eq!(attempts(&stand.upstream), [1]);
}
