//! Made-up histories: one event a second, unless time is let pass.

use std::time::Duration;

use super::{Answer, Event, Promise, RequestNumber, Violation, What, check};

pub(super) const RETENTION: Duration = Duration::from_secs(1000);

/// A history being made up, of the key `k`.
#[derive(Clone, Default)]
pub(super) struct Story {
    now: Duration,
    events: Vec<Event>,
}

impl Story {
    pub(super) fn new() -> Story {
        Story::default()
    }

    fn then(mut self, what: What) -> Story {
        self.now += Duration::from_secs(1);
        self.events.push(Event { at: self.now, what });
        self
    }

    pub(super) fn sent(self, request: RequestNumber) -> Story {
        self.then(What::Sent { request, key: "k".to_owned() })
    }

    pub(super) fn sent_with(self, request: RequestNumber, key: &str) -> Story {
        self.then(What::Sent { request, key: key.to_owned() })
    }

    pub(super) fn executed(self, request: RequestNumber, attempt: u32, answer: &str) -> Story {
        let answer = answer.to_owned();
        self.then(What::Executed { request, key: "k".to_owned(), attempt, answer })
    }

    pub(super) fn answered(self, request: RequestNumber, answer: Answer) -> Story {
        self.then(What::Answered { request, answer })
    }

    pub(super) fn first(self, request: RequestNumber, answer: &str) -> Story {
        self.answered(request, Answer::First(answer.to_owned()))
    }

    pub(super) fn replayed(self, request: RequestNumber, answer: &str) -> Story {
        self.answered(request, Answer::Replay(answer.to_owned()))
    }

    pub(super) fn lost(self, request: RequestNumber) -> Story {
        self.then(What::Lost { request })
    }

    pub(super) fn later(mut self, time: Duration) -> Story {
        self.now += time;
        self
    }

    /// The rules that the story breaks.
    pub(super) fn breaks(&self, promise: Promise) -> Vec<Violation> {
        check(&self.events, RETENTION, |_| promise)
    }
}

/// One request, executed and answered with `a`.
pub(super) fn one_execution() -> Story {
    Story::new().sent(1).executed(1, 1, "a").first(1, "a")
}
