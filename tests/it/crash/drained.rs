//! A process that is asked to end has executions under way.

use std::net::TcpStream;
use std::time::Duration;

use super::{assert_is_execution, assert_refused, attempts, pay};
use crate::support::proxy::Setup;
use crate::support::redis::RedisServer;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{Signal, eventually};

#[test]
fn what_is_under_way_is_finished_and_recorded_and_nobody_new_gets_in() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let setup = Setup::new(upstream.address, &redis.url());
    let (mut leaving, staying) = (setup.start(), setup.start());
    let answer = Signal::default();
    upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").after(&answer));
    let waiting = pay("k").send_aside(leaving.address);
    upstream.wait_for_executions(1);
    leaving.ask_to_end();
    eventually("new connections to be refused", || TcpStream::connect(leaving.address).is_err().then_some(()));
    assert!(!waiting.has_ended(), "the execution is under way");
    assert_refused(&pay("k").send(staying.address).expect("an answer"), 409, "in-flight");
    answer.give();
    assert_is_execution(&waiting.end().expect("an answer"), 1, "executed");
    assert_eq!(leaving.end().code(), Some(0));
    assert_is_execution(&pay("k").send(staying.address).expect("an answer"), 1, "replayed");
    assert_eq!(attempts(&upstream), [1]);
}

#[test]
fn a_lease_is_renewed_while_the_process_drains() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let setup = Setup::new(upstream.address, &redis.url());
    let (mut leaving, staying) = (setup.start(), setup.start());
    let slow = Duration::from_millis(2500);
    upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").delay(slow));
    let waiting = pay("k").send_aside(leaving.address);
    upstream.wait_for_executions(1);
    leaving.ask_to_end();
    while !waiting.has_ended() {
        let answer = pay("k").send(staying.address).expect("an answer");
        assert!(["in-flight", "replayed"].contains(&answer.outcome().as_str()), "{}", answer.text());
    }
    assert_is_execution(&waiting.end().expect("an answer"), 1, "executed");
    assert_eq!(leaving.end().code(), Some(0));
}

#[test]
fn an_outcome_that_could_not_be_recorded_is_written_before_the_process_ends() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let setup = Setup::new(upstream.address, &redis.url());
    let (mut leaving, staying) = (setup.start(), setup.start());
    let answer = Signal::default();
    upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").after(&answer));
    let waiting = pay("k").send_aside(leaving.address);
    upstream.wait_for_executions(1);
    // It refuses to write.
    redis.set("min-replicas-to-write", "1");
    answer.give();
    assert_is_execution(&waiting.end().expect("an answer"), 1, "unrecorded");
    leaving.ask_to_end();
    leaving.wait_for_line("draining");
    // Until the lease ends is more time than an end needs.
    eventually("the end of the lease", || {
        let duplicate = pay("k").send(staying.address).expect("an answer");
        (duplicate.outcome() == "outcome-unknown").then_some(())
    });
    redis.set("min-replicas-to-write", "0");
    assert_eq!(leaving.end().code(), Some(0));
    assert_is_execution(&pay("k").send(staying.address).expect("an answer"), 1, "replayed");
    assert_eq!(attempts(&upstream), [1]);
}

#[test]
fn after_the_grace_what_was_not_sent_is_released_and_what_was_sent_is_unknown() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let setup = Setup::new(upstream.address, &redis.url());
    let small = setup.clone().upstream("max_connections", "1").upstream("connect_timeout", "\"60s\"");
    let (mut leaving, staying) = (small.grace(Duration::from_millis(300)).start(), setup.start());
    upstream.then(Reply::silence());
    let sent = pay("sent").send_aside(leaving.address);
    upstream.wait_for_executions(1);
    // The only connection is taken: this one is reserved and waits.
    let unsent = pay("unsent").send_aside(leaving.address);
    eventually("the reserve", || staying.record("unsent"));
    leaving.ask_to_end();
    let (sent, unsent) = (sent.end().expect("an answer"), unsent.end().expect("an answer"));
    assert_eq!((sent.status, sent.outcome().as_str()), (502, "unknown"), "{}", sent.text());
    assert_eq!((unsent.status, unsent.outcome().as_str()), (503, "not-executed"), "{}", unsent.text());
    assert_eq!(unsent.field("idempotency-outcome"), "not-executed");
    assert_eq!(leaving.end().code(), Some(0));
    assert_eq!(staying.record("unsent"), None);
    let record = staying.record("sent").expect("a record");
    assert_eq!((record.state.as_str(), record.attempt, record.reason.as_str()), ("unknown", 1, "drained"));
    assert_refused(&pay("sent").send(staying.address).expect("an answer"), 409, "outcome-unknown");
    assert_is_execution(&pay("unsent").send(staying.address).expect("an answer"), 1, "executed");
    assert_eq!(attempts(&upstream), [1, 1]);
}
