//! Histories in which one rule is broken: it is found, and no other.

use super::story::{RETENTION, Story, one_execution};
use super::{Answer, Promise, Violation};

fn key() -> String {
    "k".to_owned()
}

#[test]
fn two_executions_under_hold_are_found() {
    let story = Story::new().sent(1).executed(1, 1, "a").lost(1).sent(2).executed(2, 2, "b").lost(2);
    assert_eq!(story.breaks(Promise::Hold), [Violation::ExecutedTwice { key: key(), requests: [1, 2] }]);
    assert_eq!(story.breaks(Promise::Retry), []);
}

/// A request that reaches the upstream twice was sent again by the program.
#[test]
fn a_request_that_is_executed_twice_is_found() {
    let story = Story::new().sent(1).executed(1, 1, "a").executed(1, 1, "b").lost(1);
    for promise in [Promise::Hold, Promise::Retry] {
        assert_eq!(story.breaks(promise), [Violation::ExecutedTwice { key: key(), requests: [1, 1] }]);
    }
}

#[test]
fn an_attempt_that_two_requests_run_is_found_under_retry() {
    let story = Story::new().sent(1).executed(1, 2, "a").lost(1).sent(2).executed(2, 2, "b").lost(2);
    assert_eq!(story.breaks(Promise::Retry), [Violation::ExecutedTwice { key: key(), requests: [1, 2] }]);
}

#[test]
fn a_second_execution_right_before_the_retention_ends_is_found() {
    let story = Story::new().sent(1).executed(1, 1, "a").lost(1).sent(2).later(RETENTION - 4 * SECOND);
    let story = story.executed(2, 1, "b").lost(2);
    assert_eq!(story.breaks(Promise::Hold), [Violation::ExecutedTwice { key: key(), requests: [1, 2] }]);
}

const SECOND: std::time::Duration = std::time::Duration::from_secs(1);

/// Both were sent before either was answered, so that nothing was forgotten.
#[test]
fn two_answers_of_one_key_are_found() {
    let story = Story::new().sent(1).executed(1, 1, "a").sent(2).executed(2, 2, "b");
    let story = story.first(1, "a").first(2, "b");
    assert_eq!(story.breaks(Promise::Retry), [Violation::AnswersDiffer { key: key(), requests: [1, 2] }]);
}

#[test]
fn an_answer_of_another_key_is_found() {
    let story = one_execution().sent_with(2, "other").replayed(2, "a");
    assert_eq!(story.breaks(Promise::Hold), [Violation::NotAnExecutionsAnswer { request: 2 }]);
}

#[test]
fn an_answer_that_came_before_its_execution_is_found() {
    let story = Story::new().sent(1).first(1, "a").executed(1, 1, "a");
    assert_eq!(story.breaks(Promise::Hold), [Violation::NotAnExecutionsAnswer { request: 1 }]);
}

/// Only the request that was executed may get the answer as a first one.
#[test]
fn a_replay_that_is_not_marked_is_found() {
    let story = Story::new().sent(1).sent(2).executed(1, 1, "a").first(1, "a").first(2, "a");
    assert_eq!(story.breaks(Promise::Hold), [Violation::NotAnExecutionsAnswer { request: 2 }]);
    let unrecorded = Answer::Unrecorded("a".to_owned());
    let story = Story::new().sent(1).sent(2).executed(1, 1, "a").first(1, "a").answered(2, unrecorded);
    let found = story.breaks(Promise::Hold);
    assert!(found.contains(&Violation::NotAnExecutionsAnswer { request: 2 }), "{found:?}");
}

#[test]
fn a_request_that_was_executed_although_its_client_was_told_otherwise_is_found() {
    for told in [Answer::NotExecuted, Answer::Unavailable] {
        let story = Story::new().sent(1).executed(1, 1, "a").answered(1, told.clone());
        assert_eq!(story.breaks(Promise::Hold), [Violation::ExecutedAllTheSame { request: 1 }]);
        let late = Story::new().sent(1).answered(1, told).executed(1, 1, "a");
        assert_eq!(late.breaks(Promise::Hold), [Violation::ExecutedAllTheSame { request: 1 }]);
    }
}

#[test]
fn an_answer_that_is_not_known_any_more_is_found() {
    let forgetful = [Answer::InFlight, Answer::Held, Answer::Unknown, Answer::NotExecuted];
    for answer in forgetful {
        let story = one_execution().sent(2).replayed(2, "a").sent(3).answered(3, answer.clone());
        assert_eq!(story.breaks(Promise::Hold), [Violation::Forgotten { request: 3, answer }]);
    }
}

#[test]
fn an_answer_that_is_not_known_right_before_the_retention_ends_is_found() {
    let story = one_execution().sent(2).later(RETENTION - 4 * SECOND).answered(2, Answer::InFlight);
    let found = [Violation::Forgotten { request: 2, answer: Answer::InFlight }];
    assert_eq!(story.breaks(Promise::Hold), found);
}

#[test]
fn a_held_key_that_is_executed_by_a_later_request_is_found() {
    let story = Story::new().sent(1).lost(1).sent(2).answered(2, Answer::Held).sent(3).executed(3, 2, "a").lost(3);
    assert_eq!(story.breaks(Promise::Hold), [Violation::ExecutedAfterHeld { key: key(), request: 3 }]);
    assert_eq!(story.breaks(Promise::Retry), []);
}

/// It did reach the upstream: whatever became of it, the key stays held.
#[test]
fn a_held_key_that_is_executed_again_after_its_owner_came_back_is_found() {
    let story = Story::new().sent(1).executed(1, 1, "a").sent(2).answered(2, Answer::Held).lost(1);
    let found = story.sent(3).executed(3, 2, "b").lost(3).breaks(Promise::Hold);
    let twice = Violation::ExecutedTwice { key: key(), requests: [1, 3] };
    assert_eq!(found, [twice, Violation::ExecutedAfterHeld { key: key(), request: 3 }]);
}

#[test]
#[should_panic(expected = "request 2 was never sent")]
fn a_history_with_an_answer_to_nothing_is_none() {
    one_execution().first(2, "a").breaks(Promise::Hold);
}
