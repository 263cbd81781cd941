//! The kill matrix: a process is killed at each step of a request, and another one meets what it left behind.
//!
//! Every cell of the table is a process of its own, killed at a fail point that it reported.

use std::thread;
use std::time::{Duration, Instant};

use super::{Policy, assert_is_execution, assert_refused, attempts, pay};
use crate::support::client::{Answer, Request};
use crate::support::proxy::{Proxy, Setup};
use crate::support::redis::RedisServer;
use crate::support::upstream::Upstream;
use crate::support::waiting::eventually;

/// A lease that ends within the test.
const SHORT: Duration = Duration::from_secs(1);
/// A lease that does not, however slow the machine is.
const LONG: Duration = Duration::from_secs(60);
/// How much longer a retry waits after a dead lease.
const GRACE: Duration = Duration::from_millis(500);

/// A line of the table.
#[derive(Clone, Copy)]
struct Row {
    /// Where the process is killed.
    point: &'static str,
    /// What it may leave in the store.
    leaves: &'static [Left],
    /// What the upstream has seen of the request by then.
    upstream: Reached,
    /// Whether Redis knows the store's script, so that the last word takes one command.
    script: Script,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Nothing,
    InFlight,
    Completed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reached {
    NotConnected,
    Connected,
    Part,
    Executed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Script {
    Known,
    Unknown,
}

/// When the retry comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retried {
    BeforeTheLeaseEnds,
    /// Under retry: and after the grace.
    AfterIt,
}

const IN_FLIGHT: Row =
    Row { point: "", leaves: &[Left::InFlight], upstream: Reached::NotConnected, script: Script::Known };

impl Row {
    /// Tries the four cells of the line at once.
    fn try_all(self) {
        let redis = RedisServer::start();
        let url = redis.url();
        if self.script == Script::Known {
            warm_up(&url);
        }
        thread::scope(|scope| {
            for policy in [Policy::Hold, Policy::Retry] {
                for retried in [Retried::BeforeTheLeaseEnds, Retried::AfterIt] {
                    let url = &url;
                    scope.spawn(move || self.try_cell(url, policy, retried));
                }
            }
        });
    }

    fn try_cell(self, redis: &str, policy: Policy, retried: Retried) {
        let upstream = Upstream::start();
        let lease = match retried {
            Retried::BeforeTheLeaseEnds => LONG,
            Retried::AfterIt => SHORT,
        };
        let setup = Setup::new(upstream.address, redis).lease(lease);
        let setup = match policy {
            Policy::Hold => setup,
            Policy::Retry => setup.retry(GRACE),
        };
        let survivor = setup.start();
        let mut victim = setup.clone().failpoint(self.point).start();
        let key = format!("{policy}-{}", lease.as_secs());
        let began = Instant::now();
        let lost = pay(&key).send_aside(victim.address);
        victim.wait_for_failpoint(self.point);
        self.wait_for_upstream(&upstream);
        victim.kill();
        lost.end().expect_err("nobody gets an answer from a process that was killed before it gave one");
        // Whatever the dead process had sent by then has been worked off before the answer to this.
        survivor.record(&key);
        let found = left_in(survivor.record(&key).map(|record| (record.state, record.attempt)));
        assert!(self.leaves.contains(&found), "{found:?} was left behind at {}", self.point);
        let cell = Cell { survivor, upstream, key, began, before: usize::from(self.upstream == Reached::Executed) };
        match (found, retried, policy) {
            (Left::Nothing, ..) => cell.is_fresh(),
            (Left::Completed, ..) => cell.is_replayed(),
            (Left::InFlight, Retried::BeforeTheLeaseEnds, _) => cell.is_in_flight(),
            (Left::InFlight, Retried::AfterIt, Policy::Hold) => cell.is_held(),
            (Left::InFlight, Retried::AfterIt, Policy::Retry) => cell.is_taken_over(),
        }
    }

    /// The upstream runs in another process: what was sent to it takes a moment.
    fn wait_for_upstream(self, upstream: &Upstream) {
        match self.upstream {
            Reached::NotConnected => assert_eq!(upstream.connections(), 0),
            Reached::Connected => {
                eventually("a connection", || (upstream.connections() == 1).then_some(()));
                assert_eq!(upstream.received_bytes(), 0);
            }
            Reached::Part => {
                eventually("a part of the request", || (upstream.received_bytes() > 0).then_some(()));
                assert!(upstream.received().is_empty(), "the request came whole");
            }
            Reached::Executed => upstream.wait_for_executions(1),
        }
    }
}

/// What is left behind of a killed execution, and who is to find it.
struct Cell {
    survivor: Proxy,
    upstream: Upstream,
    key: String,
    /// From before the killed request was sent.
    began: Instant,
    /// How often the killed attempt was executed.
    before: usize,
}

impl Cell {
    fn retry(&self) -> Answer {
        pay(&self.key).send(self.survivor.address).expect("an answer")
    }

    /// Asks until the answer is another one than that the first is in flight.
    fn retry_until_decided(&self) -> Answer {
        eventually("the lease to end", || {
            let answer = self.retry();
            let decided = answer.outcome() != "in-flight";
            if !decided {
                assert_refused(&answer, 409, "in-flight");
                assert_eq!(self.upstream.executions().len(), self.before, "it ran again while it was in flight");
            }
            decided.then_some(answer)
        })
    }

    fn is_fresh(&self) {
        assert_is_execution(&self.retry(), 1, "executed");
        assert_is_execution(&self.retry(), 1, "replayed");
        assert_eq!(attempts(&self.upstream), [1]);
    }

    fn is_replayed(&self) {
        assert_is_execution(&self.retry(), 1, "replayed");
        // The lease is no matter any more.
        eventually("the lease and the grace to be over", || (self.began.elapsed() > SHORT + GRACE).then_some(()));
        assert_is_execution(&self.retry(), 1, "replayed");
        assert_eq!(attempts(&self.upstream), [1]);
    }

    fn is_in_flight(&self) {
        assert_refused(&self.retry(), 409, "in-flight");
        assert_eq!(self.upstream.executions().len(), self.before);
        assert_eq!(self.shown(), ("in-flight".to_owned(), 1));
    }

    fn is_held(&self) {
        let answer = self.retry_until_decided();
        assert!(self.began.elapsed() >= SHORT, "the lease was alive");
        assert_refused(&answer, 409, "outcome-unknown");
        assert_refused(&self.retry(), 409, "outcome-unknown");
        assert_eq!(self.upstream.executions().len(), self.before);
        assert_eq!(self.shown(), ("unknown".to_owned(), 1));
    }

    fn is_taken_over(&self) {
        let answer = self.retry_until_decided();
        assert!(self.began.elapsed() >= SHORT + GRACE, "the lease or the grace had not ended");
        assert_is_execution(&answer, self.before + 1, "executed");
        assert_is_execution(&self.retry(), self.before + 1, "replayed");
        assert_eq!(attempts(&self.upstream), if self.before == 1 { vec![1, 2] } else { vec![2] });
        assert_eq!(self.shown(), ("completed".to_owned(), 2));
    }

    fn shown(&self) -> (String, u64) {
        let record = self.survivor.record(&self.key).expect("a record");
        (record.state, record.attempt)
    }
}

fn left_in(record: Option<(String, u64)>) -> Left {
    match record {
        None => Left::Nothing,
        Some((state, 1)) if state == "completed" => Left::Completed,
        // Its lease may have ended by now.
        Some((state, 1)) if state == "in-flight" || state == "unknown" => Left::InFlight,
        Some(other) => panic!("{other:?} was left behind"),
    }
}

/// Completes one request, so that Redis knows the script.
fn warm_up(redis: &str) {
    let upstream = Upstream::start();
    let proxy = Setup::new(upstream.address, redis).start();
    let answer = Request::post("/pay").key("warm-up").send(proxy.address).expect("an answer");
    assert_is_execution(&answer, 1, "executed");
}

#[test]
fn k1_killed_while_the_body_is_read_leaves_nothing() {
    Row { point: "body-reading", leaves: &[Left::Nothing], ..IN_FLIGHT }.try_all();
}

#[test]
fn k2_killed_with_the_reserve_sent_leaves_nothing_or_a_claim() {
    Row { point: "reserve-sent", leaves: &[Left::Nothing, Left::InFlight], ..IN_FLIGHT }.try_all();
}

#[test]
fn k3_killed_with_the_key_reserved_leaves_a_claim() {
    Row { point: "reserved", ..IN_FLIGHT }.try_all();
}

#[test]
fn k4_killed_when_connected_leaves_a_claim() {
    Row { point: "connected", upstream: Reached::Connected, ..IN_FLIGHT }.try_all();
}

#[test]
fn k5_killed_with_a_part_of_the_request_sent_leaves_a_claim() {
    Row { point: "request-part-sent", upstream: Reached::Part, ..IN_FLIGHT }.try_all();
}

#[test]
fn k6_killed_with_the_request_sent_leaves_a_claim() {
    Row { point: "request-sent", upstream: Reached::Executed, ..IN_FLIGHT }.try_all();
}

#[test]
fn k7_killed_with_a_part_of_the_response_read_leaves_a_claim() {
    Row { point: "response-part-read", upstream: Reached::Executed, ..IN_FLIGHT }.try_all();
}

#[test]
fn k8_killed_with_the_response_read_leaves_a_claim() {
    Row { point: "response-read", upstream: Reached::Executed, ..IN_FLIGHT }.try_all();
}

const COMPLETE_SENT: Row = Row {
    point: "complete-sent",
    leaves: &[Left::Completed, Left::InFlight],
    upstream: Reached::Executed,
    script: Script::Known,
};

#[test]
fn k9_killed_with_the_outcome_sent_leaves_the_outcome_or_a_claim() {
    COMPLETE_SENT.try_all();
}

/// Redis asks for the script's text first, so that the outcome has not been sent.
#[test]
fn k9_killed_with_the_outcome_sent_to_a_redis_without_the_script_leaves_a_claim() {
    Row { leaves: &[Left::InFlight], script: Script::Unknown, ..COMPLETE_SENT }.try_all();
}

#[test]
fn k10_killed_with_the_outcome_recorded_leaves_the_outcome() {
    Row { point: "recorded", leaves: &[Left::Completed], upstream: Reached::Executed, ..IN_FLIGHT }.try_all();
}

#[test]
fn k11_killed_while_replying_leaves_the_outcome() {
    Row { point: "replying", leaves: &[Left::Completed], upstream: Reached::Executed, ..IN_FLIGHT }.try_all();
}
