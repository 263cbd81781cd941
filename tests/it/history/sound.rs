//! Histories in which all is well.

use super::story::{RETENTION, Story, one_execution};
use super::{Answer, Promise};

fn assert_sound(story: &Story, promise: Promise) {
    assert_eq!(story.breaks(promise), []);
}

#[test]
fn an_execution_and_its_replays_are_sound() {
    let story = one_execution().sent(2).sent(3).replayed(3, "a").replayed(2, "a").sent(4).lost(4);
    assert_sound(&story, Promise::Hold);
    assert_sound(&story, Promise::Retry);
}

#[test]
fn duplicates_of_a_running_execution_may_be_turned_away() {
    let story = Story::new().sent(1).sent(2).executed(1, 1, "a").answered(2, Answer::InFlight).first(1, "a");
    assert_sound(&story, Promise::Hold);
}

/// The answer to 2 was on its way while 1 was answered.
#[test]
fn an_answer_to_a_request_that_was_sent_before_the_first_answer_may_know_less() {
    let story = Story::new().sent(1).sent(2).executed(1, 1, "a").first(1, "a").answered(2, Answer::InFlight);
    assert_sound(&story, Promise::Hold);
}

#[test]
fn an_execution_whose_process_died_may_be_held() {
    let story = Story::new().sent(1).executed(1, 1, "a").lost(1).sent(2).answered(2, Answer::InFlight);
    let story = story.sent(3).answered(3, Answer::Held).sent(4).answered(4, Answer::Held);
    assert_sound(&story, Promise::Hold);
}

#[test]
fn a_held_execution_may_complete_late() {
    let story = Story::new().sent(1).executed(1, 1, "a").sent(2).answered(2, Answer::Held);
    assert_sound(&story.first(1, "a").sent(3).replayed(3, "a"), Promise::Hold);
}

/// It was sent before anybody was told that the outcome is unknown, and was slow on its way.
#[test]
fn an_execution_of_an_earlier_request_may_come_after_it_was_held() {
    let story = Story::new().sent(1).sent(2).answered(2, Answer::Held).executed(1, 1, "a").first(1, "a");
    assert_sound(&story, Promise::Hold);
}

#[test]
fn a_held_key_is_free_when_its_owner_comes_back_with_the_proof_that_nothing_was_executed() {
    let held = Story::new().sent(1).sent(2).answered(2, Answer::Held);
    let free = |story: Story| story.sent(3).executed(3, 1, "a").first(3, "a");
    assert_sound(&free(held.clone().answered(1, Answer::NotExecuted)), Promise::Hold);
    // It stood still until the store's answer came too late; what it had reserved all the same was taken back.
    assert_sound(&free(held.clone().answered(1, Answer::Unavailable)), Promise::Hold);
    // Its process was killed after it had given the key back.
    assert_sound(&free(held.clone().lost(1)), Promise::Hold);
    // The key was free a moment before the owner's client heard of it.
    assert_sound(&free(held).answered(1, Answer::NotExecuted), Promise::Hold);
}

#[test]
fn under_retry_a_new_attempt_may_run_and_its_answer_is_the_only_one() {
    let story = Story::new().sent(1).executed(1, 1, "a").lost(1).sent(2).executed(2, 2, "b").first(2, "b");
    assert_sound(&story.sent(3).replayed(3, "b"), Promise::Retry);
}

#[test]
fn a_late_owner_may_get_the_answer_of_the_attempt_that_took_over() {
    let story = Story::new().sent(1).executed(1, 1, "a").sent(2).executed(2, 2, "b").first(2, "b");
    assert_sound(&story.replayed(1, "b"), Promise::Retry);
}

#[test]
fn a_key_that_was_released_may_run_again() {
    let story = Story::new().sent(1).answered(1, Answer::NotExecuted).sent(2).executed(2, 1, "a").first(2, "a");
    assert_sound(&story, Promise::Hold);
}

#[test]
fn a_store_that_is_away_has_forgotten_nothing() {
    let story = one_execution().sent(2).answered(2, Answer::Unavailable).sent(3).replayed(3, "a");
    assert_sound(&story, Promise::Hold);
}

#[test]
fn after_the_retention_a_key_lives_again() {
    let story = one_execution().sent(2).replayed(2, "a").later(RETENTION);
    assert_sound(&story.sent(3).executed(3, 1, "b").first(3, "b").sent(4).replayed(4, "b"), Promise::Hold);
}

#[test]
fn an_answer_that_could_not_be_recorded_need_not_be_known() {
    let unrecorded = Answer::Unrecorded("a".to_owned());
    let story = Story::new().sent(1).executed(1, 1, "a").answered(1, unrecorded).sent(2).answered(2, Answer::Held);
    assert_sound(&story, Promise::Hold);
}
