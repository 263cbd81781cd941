//! Processes that are killed, stopped, raced and drained, or whose other side breaks, on a real Redis.

mod broken;
mod drained;
mod killed;
mod raced;
mod stopped;

use std::fmt;

use crate::support::client::{Answer, Request};
use crate::support::upstream::Upstream;

/// What becomes of an outcome that nobody knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Hold,
    Retry,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Hold => "hold",
            Policy::Retry => "retry",
        })
    }
}

/// The request of these tests.
fn pay(key: &str) -> Request {
    Request::post("/pay").key(key).body("amount=7")
}

/// Asserts that an answer is the one of this execution, executed or replayed as the status says.
fn assert_is_execution(answer: &Answer, number: usize, status: &str) {
    let seen = (answer.status, answer.outcome(), answer.text(), answer.field("x-execution").to_owned());
    assert_eq!(seen, (201, status.to_owned(), format!("execution {number}"), number.to_string()));
    assert_eq!(answer.field("idempotency-replayed") == "true", status == "replayed");
}

/// Asserts that an answer turns a duplicate away.
fn assert_refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.outcome()), (status, code.to_owned()), "{}", answer.text());
    let asks_again = answer.field("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1);
    assert_eq!(asks_again, code == "in-flight", "Retry-After of {code}");
}

/// The attempts that the upstream acted on, in order.
fn attempts(upstream: &Upstream) -> Vec<u32> {
    upstream.executions().iter().map(|request| request.attempt.expect("an attempt's number")).collect()
}
