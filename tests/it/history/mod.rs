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
//! Records are kept for the retention, counted from no earlier than the execution: two executions of a key that lie so
//! far apart are two lives of it, and an answer need not be known any more so long after its execution.

mod broken;
mod sound;
mod story;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The number that a request carries through to the upstream.
pub type RequestNumber = u64;

/// Something that was seen, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub at: Duration,
    pub what: What,
}

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

/// What happened under one key.
#[derive(Default)]
struct Life<'a> {
    executions: Vec<Execution<'a>>,
    answers: Vec<Answered<'a>>,
}

struct Execution<'a> {
    position: usize,
    at: Duration,
    request: RequestNumber,
    sent: usize,
    attempt: u32,
    answer: &'a str,
}

struct Answered<'a> {
    position: usize,
    at: Duration,
    request: RequestNumber,
    sent: usize,
    answer: &'a Answer,
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

/// Finds every rule that a history breaks.
///
/// # Panics
/// When it is no history: an answer or an execution of a request that was never sent.
pub fn check(events: &[Event], retention: Duration, promise: impl Fn(&str) -> Promise) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (key, life) in lives(events) {
        life.once(key, promise(key), retention, &mut violations);
        life.one_answer(key, retention, &mut violations);
        life.real_answers(&mut violations);
        life.not_executed(&mut violations);
        life.not_lost(retention, &mut violations);
        if promise(key) == Promise::Hold {
            life.held(key, &mut violations);
        }
    }
    violations
}

/// Sorts a history by its keys.
fn lives(events: &[Event]) -> BTreeMap<&str, Life<'_>> {
    let mut sent: HashMap<RequestNumber, (usize, &str)> = HashMap::new();
    let mut lives: BTreeMap<&str, Life<'_>> = BTreeMap::new();
    for (position, Event { at, what }) in events.iter().enumerate() {
        let of = |request: &RequestNumber| {
            *sent.get(request).unwrap_or_else(|| panic!("request {request} was never sent, but: {what:?}"))
        };
        match what {
            What::Sent { request, key } => {
                let first = sent.insert(*request, (position, key)).is_none();
                assert!(first, "request {request} was sent twice");
            }
            What::Answered { request, answer } => {
                let (sent, key) = of(request);
                let answered = Answered { position, at: *at, request: *request, sent, answer };
                lives.entry(key).or_default().answers.push(answered);
            }
            What::Lost { request } => drop(of(request)),
            What::Executed { request, key, attempt, answer } => {
                let (sent, sent_key) = of(request);
                assert_eq!(sent_key, key, "the key of request {request}");
                let execution = Execution { position, at: *at, request: *request, sent, attempt: *attempt, answer };
                lives.entry(key).or_default().executions.push(execution);
            }
        }
    }
    lives
}

impl Life<'_> {
    /// The execution that an answer is from.
    fn execution_of(&self, answer: &str) -> Option<&Execution<'_>> {
        self.executions.iter().find(|execution| execution.answer == answer)
    }

    fn once(&self, key: &str, promise: Promise, retention: Duration, violations: &mut Vec<Violation>) {
        for (index, second) in self.executions.iter().enumerate() {
            let first = self.executions[..index].iter().find(|first| {
                second.at - first.at < retention
                    && match promise {
                        Promise::Hold => true,
                        Promise::Retry => first.attempt == second.attempt,
                    }
            });
            if let Some(first) = first {
                let requests = [first.request, second.request];
                violations.push(Violation::ExecutedTwice { key: key.to_owned(), requests });
            }
        }
    }

    fn one_answer(&self, key: &str, retention: Duration, violations: &mut Vec<Violation>) {
        let mut first: Option<&Answered<'_>> = None;
        for second in &self.answers {
            let Some(answer) = second.answer.recorded() else { continue };
            let known = first.and_then(|first| first.answer.recorded().map(|answer| (first, answer)));
            let Some((before, known)) = known.filter(|(_, known)| *known != answer) else {
                first = first.or(Some(second));
                continue;
            };
            let apart = match (self.execution_of(known), self.execution_of(answer)) {
                (Some(one), Some(other)) => one.at.abs_diff(other.at),
                // Another rule is broken, too.
                _ => Duration::ZERO,
            };
            if apart < retention {
                let requests = [before.request, second.request];
                violations.push(Violation::AnswersDiffer { key: key.to_owned(), requests });
            }
            first = Some(second);
        }
    }

    fn real_answers(&self, violations: &mut Vec<Violation>) {
        for answered in &self.answers {
            let (answer, is_own) = match answered.answer {
                Answer::First(answer) | Answer::Unrecorded(answer) => (answer, true),
                Answer::Replay(answer) => (answer, false),
                _ => continue,
            };
            let is_real = self.executions.iter().any(|execution| {
                execution.answer == answer
                    && execution.position < answered.position
                    && (!is_own || execution.request == answered.request)
            });
            if !is_real {
                violations.push(Violation::NotAnExecutionsAnswer { request: answered.request });
            }
        }
    }

    fn not_executed(&self, violations: &mut Vec<Violation>) {
        for answered in &self.answers {
            let says_so = matches!(answered.answer, Answer::NotExecuted | Answer::Unavailable);
            if says_so && self.executions.iter().any(|execution| execution.request == answered.request) {
                violations.push(Violation::ExecutedAllTheSame { request: answered.request });
            }
        }
    }

    fn not_lost(&self, retention: Duration, violations: &mut Vec<Violation>) {
        for (index, later) in self.answers.iter().enumerate() {
            if *later.answer == Answer::Unavailable {
                continue;
            }
            let known = self.answers[..index].iter().rev().find_map(|earlier| {
                let answer = earlier.answer.recorded().filter(|_| earlier.position < later.sent)?;
                let execution = self.execution_of(answer)?;
                (later.at < execution.at + retention).then_some(answer)
            });
            let is_known = matches!((known, later.answer), (Some(known), Answer::Replay(answer)) if known == answer);
            if known.is_some() && !is_known {
                let answer = later.answer.clone();
                violations.push(Violation::Forgotten { request: later.request, answer });
            }
        }
    }

    fn held(&self, key: &str, violations: &mut Vec<Violation>) {
        let held = self.answers.iter().find(|answered| *answered.answer == Answer::Held);
        let Some(held) = held else { return };
        for execution in self.executions.iter().filter(|execution| execution.sent > held.position) {
            violations.push(Violation::ExecutedAfterHeld { key: key.to_owned(), request: execution.request });
        }
    }
}

/// Writes a history down as it happens, from many threads.
pub struct Journal {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

impl Journal {
    pub fn new() -> Journal {
        Journal { began: Instant::now(), events: Mutex::default() }
    }

    pub fn write(&self, what: What) {
        let mut events = self.lock();
        let at = self.began.elapsed();
        events.push(Event { at, what });
    }

    /// Counts what was written so far.
    pub fn count(&self, is_counted: impl Fn(&What) -> bool) -> usize {
        self.lock().iter().filter(|event| is_counted(&event.what)).count()
    }

    /// The keys of requests that were sent and have not come to an end.
    pub fn keys_under_way(&self) -> Vec<String> {
        let mut under_way = BTreeMap::new();
        for Event { what, .. } in self.lock().iter() {
            match what {
                What::Sent { request, key } => drop(under_way.insert(*request, key.clone())),
                What::Answered { request, .. } | What::Lost { request } => drop(under_way.remove(request)),
                What::Executed { .. } => {}
            }
        }
        under_way.into_values().collect()
    }

    /// The history so far; the next one begins.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("nobody panics in here")
    }
}
