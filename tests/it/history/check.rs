//! The rules, each a function over what happened under one key.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::{Answer, Event, Promise, RequestNumber, Violation, What};

/// What happened under one key.
#[derive(Default)]
struct Life<'a> {
    executions: Vec<Execution<'a>>,
    answers: Vec<Answered<'a>>,
    lost: Vec<Lost>,
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

struct Lost {
    position: usize,
    request: RequestNumber,
    sent: usize,
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
            What::Lost { request } => {
                let (sent, key) = of(request);
                lives.entry(key).or_default().lost.push(Lost { position, request: *request, sent });
            }
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

impl Answered<'_> {
    fn says_not_executed(&self) -> bool {
        matches!(self.answer, Answer::NotExecuted | Answer::Unavailable)
    }
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
            if answered.says_not_executed()
                && self.executions.iter().any(|execution| execution.request == answered.request)
            {
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
        let Some(held) = held.filter(|held| !self.may_be_released_after(held.position)) else { return };
        for execution in self.executions.iter().filter(|execution| execution.sent > held.position) {
            violations.push(Violation::ExecutedAfterHeld { key: key.to_owned(), request: execution.request });
        }
    }

    /// Whether an owner from before this position was still there after it, and may have given the key back: it never
    /// reached the upstream, and its client was told so, or lost it.
    fn may_be_released_after(&self, position: usize) -> bool {
        let told = self.answers.iter().filter(|answered| answered.says_not_executed());
        let told = told.map(|answered| (answered.request, answered.sent, answered.position));
        let lost = self.lost.iter().map(|lost| (lost.request, lost.sent, lost.position));
        told.chain(lost).any(|(request, sent, ended)| {
            sent < position && ended > position && self.executions.iter().all(|execution| execution.request != request)
        })
    }
}
