//! Clients that send keys again and again, and write down what they are told.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::dice::Dice;
use super::stage::{Stage, promise};
use crate::history::{Answer, Promise, What};
use crate::support::client::{self, Request};
use crate::support::waiting::eventually;

/// How far back a client reaches for a key that others have used.
const REACH: u64 = 24;
/// The pause between two requests of a client, at most.
const PAUSE_MS: u64 = 12;

/// The keys of one round. All clients draw from them, so that they meet.
pub(super) struct Keys {
    round: u64,
    newest: AtomicU64,
    used: Mutex<BTreeSet<String>>,
}

impl Keys {
    pub(super) fn of_round(round: u64) -> Keys {
        Keys { round, newest: AtomicU64::new(0), used: Mutex::default() }
    }

    /// A new key, or one of the last.
    fn draw(&self, dice: &mut Dice) -> String {
        let number = match dice.percent(35) {
            true => self.newest.fetch_add(1, Ordering::AcqRel) + 1,
            false => self.newest.load(Ordering::Acquire).saturating_sub(dice.below(REACH)),
        };
        let promised = if number.is_multiple_of(2) { "hold" } else { "retry" };
        let key = format!("{promised}-{}-{number}", self.round);
        self.used.lock().expect("nobody panics in here").insert(key.clone());
        key
    }

    pub(super) fn used(&self) -> Vec<String> {
        self.used.lock().expect("nobody panics in here").iter().cloned().collect()
    }
}

/// Sends requests until it is told to stop.
pub(super) fn load(stage: &Stage, keys: &Keys, mut dice: Dice, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let key = keys.draw(&mut dice);
        send(stage, &key, dice.below(2) as usize);
        thread::sleep(Duration::from_millis(dice.below(PAUSE_MS)));
    }
}

/// Asks for a key until its fate is known: it has an answer, or under hold nobody knows.
pub(super) fn ask_until_decided(stage: &Stage, key: &str) {
    let mut turn = 0;
    eventually(&format!("the fate of {key}"), || {
        turn += 1;
        match (send(stage, key, turn % 2)?, promise(key)) {
            (Answer::First(_) | Answer::Replay(_), _) | (Answer::Held, Promise::Hold) => Some(()),
            _ => None,
        }
    });
}

/// Sends one request and writes down what becomes of it.
fn send(stage: &Stage, key: &str, proxy: usize) -> Option<Answer> {
    let request = stage.next_request();
    stage.journal.write(What::Sent { request, key: key.to_owned() });
    let path = match promise(key) {
        Promise::Hold => "/hold",
        Promise::Retry => "/retry",
    };
    let sent =
        Request::post(path).key(key).field("x-request", &request.to_string()).body(key).send(stage.address(proxy));
    match sent {
        Ok(answer) => {
            let answer = told(&answer);
            stage.journal.write(What::Answered { request, answer: answer.clone() });
            Some(answer)
        }
        Err(_) => {
            stage.journal.write(What::Lost { request });
            None
        }
    }
}

/// What an answer tells of the request.
fn told(answer: &client::Answer) -> Answer {
    let text = answer.text();
    match answer.outcome().as_str() {
        "executed" => Answer::First(text),
        "replayed" => Answer::Replay(text),
        "unrecorded" => Answer::Unrecorded(text),
        "not-executed" | "released" => Answer::NotExecuted,
        "unknown" => Answer::Unknown,
        "outcome-unknown" => Answer::Held,
        "in-flight" => Answer::InFlight,
        "store-unavailable" | "overloaded" => Answer::Unavailable,
        other => panic!("{other:?} is no answer for this loop: {} {text}", answer.status),
    }
}
