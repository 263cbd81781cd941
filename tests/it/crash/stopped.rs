//! An owner that stands still past its lease (a long pause, a frozen machine) and wakes up in another world.

use std::time::Duration;

use super::{assert_is_execution, assert_refused, attempts, pay};
use crate::support::client::{Answer, Pending};
use crate::support::proxy::{Proxy, Setup};
use crate::support::redis::RedisServer;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::{Signal, eventually};

const GRACE: Duration = Duration::from_millis(300);

/// An owner that stands still in the middle of an execution, and another proxy.
struct Stand {
    owner: Proxy,
    other: Proxy,
    upstream: Upstream,
    /// Lets the upstream answer the owner.
    answer: Signal,
    waiting: Pending,
    _redis: RedisServer,
}

/// The answer to an execution that waits for a signal.
fn execution(number: usize, signal: &Signal) -> Reply {
    let number = number.to_string();
    Reply::status(201).field("x-execution", &number).body(format!("execution {number}")).after(signal)
}

impl Stand {
    fn new(change: impl FnOnce(Setup) -> Setup) -> Stand {
        let redis = RedisServer::start();
        let upstream = Upstream::start();
        let setup = change(Setup::new(upstream.address, &redis.url()));
        let (owner, other) = (setup.start(), setup.start());
        let answer = Signal::default();
        upstream.then(execution(1, &answer));
        let waiting = pay("k").send_aside(owner.address);
        upstream.wait_for_executions(1);
        owner.stand_still();
        Stand { owner, other, upstream, answer, waiting, _redis: redis }
    }

    fn retry(&self) -> Answer {
        pay("k").send(self.other.address).expect("an answer")
    }

    /// Asks until the owner's lease is over.
    fn retry_until_decided(&self) -> Answer {
        eventually("the owner's lease to end", || Some(self.retry()).filter(|answer| answer.outcome() != "in-flight"))
    }

    /// Lets the upstream's answer come, and then the owner.
    fn wake_the_owner(&self) {
        self.answer.give();
        self.owner.go_on();
    }
}

#[test]
fn an_owner_that_comes_back_late_completes_what_nobody_took() {
    let stand = Stand::new(|setup| setup);
    assert_refused(&stand.retry(), 409, "in-flight");
    assert_refused(&stand.retry_until_decided(), 409, "outcome-unknown");
    stand.wake_the_owner();
    assert_is_execution(&stand.waiting.end().expect("the owner answers"), 1, "executed");
    let replayed = pay("k").send(stand.other.address).expect("an answer");
    assert_is_execution(&replayed, 1, "replayed");
    assert_eq!(attempts(&stand.upstream), [1]);
}

#[test]
fn an_owner_that_was_taken_over_gives_the_recorded_answer_and_not_its_own() {
    let stand = Stand::new(|setup| setup.retry(GRACE));
    stand.upstream.then(execution(2, &stand.answer));
    // The owner's own answer comes with the other's: it lies in its socket while it sleeps.
    stand.answer.give();
    assert_is_execution(&stand.retry_until_decided(), 2, "executed");
    stand.wake_the_owner();
    assert_is_execution(&stand.waiting.end().expect("the owner answers"), 2, "replayed");
    assert_eq!(attempts(&stand.upstream), [1, 2]);
    let record = stand.other.record("k").expect("a record");
    assert_eq!((record.state.as_str(), record.attempt), ("completed", 2));
}

#[test]
fn an_owner_that_was_taken_over_waits_for_the_new_attempt() {
    let stand = Stand::new(|setup| setup.retry(GRACE));
    let second = Signal::default();
    stand.upstream.then(execution(2, &second));
    let taker = taken_over(&stand);
    stand.wake_the_owner();
    stand.owner.wait_for_line("the claim is lost");
    assert!(!stand.waiting.has_ended(), "the owner does not know an answer yet");
    second.give();
    assert_is_execution(&taker.end().expect("an answer"), 2, "executed");
    assert_is_execution(&stand.waiting.end().expect("the owner answers"), 2, "replayed");
    assert_eq!(attempts(&stand.upstream), [1, 2]);
}

#[test]
fn an_owner_that_was_taken_over_by_a_slow_attempt_gives_no_answer_of_its_own() {
    let stand = Stand::new(|setup| setup.retry(GRACE).wait(Duration::from_millis(200)));
    let second = Signal::default();
    stand.upstream.then(execution(2, &second));
    let taker = taken_over(&stand);
    stand.wake_the_owner();
    assert_refused(&stand.waiting.end().expect("the owner answers"), 409, "in-flight");
    second.give();
    assert_is_execution(&taker.end().expect("an answer"), 2, "executed");
    assert_eq!(attempts(&stand.upstream), [1, 2]);
}

/// Sends retries to the other proxy until one of them has taken the key over.
fn taken_over(stand: &Stand) -> Pending {
    loop {
        let taker = pay("k").send_aside(stand.other.address);
        let executes = eventually("the take-over", || match attempts(&stand.upstream).as_slice() {
            [1, 2] => Some(true),
            _ if taker.has_ended() => Some(false),
            _ => None,
        });
        if executes {
            return taker;
        }
        assert_refused(&taker.end().expect("an answer"), 409, "in-flight");
    }
}

#[test]
fn an_owner_that_lost_its_key_before_the_first_byte_sends_nothing() {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let setup = Setup::new(upstream.address, &redis.url()).retry(GRACE);
    let owner = setup.clone().upstream("max_connections", "1").upstream("connect_timeout", "\"60s\"").start();
    let other = setup.start();
    let first = Signal::default();
    upstream.then(execution(1, &first));
    let occupying = pay("first").send_aside(owner.address);
    upstream.wait_for_executions(1);
    // The only connection is taken: this one is reserved and waits.
    let waiting = pay("k").send_aside(owner.address);
    eventually("the reserve", || other.record("k"));
    owner.stand_still();
    let taken = eventually("the take-over", || {
        let answer = pay("k").send(other.address).expect("an answer");
        (answer.outcome() == "executed").then_some(answer)
    });
    first.give();
    owner.go_on();
    // Not "not executed": the key has taken effect, though not through this owner.
    let late = waiting.end().expect("the owner answers");
    assert_eq!((late.outcome().as_str(), &late.body), ("replayed", &taken.body), "{}", late.text());
    assert_is_execution(&occupying.end().expect("the owner answers"), 1, "executed");
    let of_k = upstream.executions_of("k");
    assert_eq!(of_k.iter().map(|seen| seen.attempt).collect::<Vec<_>>(), [Some(2)]);
    let replayed = pay("k").send(other.address).expect("an answer");
    assert_eq!((replayed.outcome().as_str(), replayed.body), ("replayed", taken.body));
}
