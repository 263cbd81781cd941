//! What must hold for a whole history of requests, answers and executions, whatever was killed in between.
//!
//! The checker knows nothing of the program. It sees what clients sent and got, and what the upstream did, in the order
//! in which that was written down: a request before it was sent, an execution before it was answered, an answer after it
//! came. So "later in the history" never claims more than what really was later. Each request carries a number of its
//! own through to the upstream, so that an execution is known to be of *this* request and not of another with its key.
//!
//! | rule | broken when |
//! |---|---|
//! | once | under hold a key is executed twice; under retry an attempt of it is |
//! | one answer | two success answers of a key come from two executions |
//! | a real answer | a success answer is not that of an earlier execution of its key; a first one not of its own |
//! | not executed | a request was executed whose client was told that it was not |
//! | not lost | a client got the recorded answer, and a request sent after that is not answered with it |
//! | held | under hold a client was told that the outcome is unknown, and a request sent after that is executed |
//!
//! A held key becomes free when its owner was only slow, and comes back with the proof that nothing was executed. Such an
//! owner's client waits for longer than the one who was told that the outcome is unknown; that of a dead one does not.
//!
//! Records are kept for the retention, counted from no earlier than the execution: two executions of a key that lie so
//! far apart are two lives of it, and an answer need not be known any more so long after its execution.

mod broken;
mod check;
mod journal;
mod sound;
mod story;

use std::time::Duration;

pub use self::check::check;
pub use self::journal::Journal;

/// The number that a request carries through to the upstream.
pub type RequestNumber = u64;

/// Something that was seen, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Duration,
    pub what: What,
}

/// A request, an answer, or an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A client is about to send a request.
    Sent { request: RequestNumber, key: String },
    /// A client got a whole answer.
    Answered { request: RequestNumber, answer: Answer },
    /// A client got none.
    Lost { request: RequestNumber },
    /// The upstream acts on a request, and is about to give this answer.
    Executed { request: RequestNumber, key: String, attempt: u32, answer: String },
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The answer of the execution, as its first client gets it.
    First(String),
    /// The same, as a duplicate gets it.
    Replay(String),
    /// The same, but it could not be recorded.
    Unrecorded(String),
    /// That nothing was executed.
    NotExecuted,
    /// That nobody knows whether its own execution took effect.
    Unknown,
    /// That nobody knows the outcome of an earlier one, and that it is not executed again.
    Held,
    /// That another is being executed.
    InFlight,
    /// Nothing about the key: the store or the program could not.
    Unavailable,
}

/// What was promised about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    Hold,
    Retry,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    ExecutedTwice { key: String, requests: [RequestNumber; 2] },
    AnswersDiffer { key: String, requests: [RequestNumber; 2] },
    NotAnExecutionsAnswer { request: RequestNumber },
    ExecutedAllTheSame { request: RequestNumber },
    Forgotten { request: RequestNumber, answer: Answer },
    ExecutedAfterHeld { key: String, request: RequestNumber },
}

impl Answer {
    /// The upstream's answer, where it has been recorded.
    fn recorded(&self) -> Option<&str> {
        match self {
            Answer::First(answer) | Answer::Replay(answer) => Some(answer),
            Answer::Unrecorded(_)
            | Answer::NotExecuted
            | Answer::Unknown
            | Answer::Held
            | Answer::InFlight
            | Answer::Unavailable => None,
        }
    }
}

impl What {
    /// The key that it is about.
    pub fn key<'a>(&'a self, events: &'a [Event]) -> Option<&'a str> {
        match self {
            What::Sent { key, .. } | What::Executed { key, .. } => Some(key),
            What::Answered { request, .. } | What::Lost { request } => key_of(*request, events),
        }
    }
}

impl Violation {
    /// The key that it is about.
    pub fn key<'a>(&'a self, events: &'a [Event]) -> Option<&'a str> {
        match self {
            Violation::ExecutedTwice { key, .. }
            | Violation::AnswersDiffer { key, .. }
            | Violation::ExecutedAfterHeld { key, .. } => Some(key),
            Violation::NotAnExecutionsAnswer { request }
            | Violation::ExecutedAllTheSame { request }
            | Violation::Forgotten { request, .. } => key_of(*request, events),
        }
    }
}

fn key_of(request: RequestNumber, events: &[Event]) -> Option<&str> {
    events.iter().find_map(|event| match &event.what {
        What::Sent { request: sent, key } if *sent == request => Some(key.as_str()),
        _ => None,
    })
}
