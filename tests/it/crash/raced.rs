//! Many at once with one key, over two proxies on one Redis.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use super::{assert_is_execution, attempts, pay};
use crate::support::client::Answer;
use crate::support::proxy::Setup;
use crate::support::redis::RedisServer;
use crate::support::upstream::{Reply, Upstream};
use crate::support::waiting::Signal;

const CLIENTS: usize = 200;
/// How many may wait for one key in one process.
const WAITERS_PER_PROXY: usize = 64;

/// Sends the same request from many clients at once; the upstream answers when `refused` clients were turned away.
fn race(change: impl FnOnce(Setup) -> Setup, refused: usize) -> (Vec<Answer>, Upstream) {
    let redis = RedisServer::start();
    let upstream = Upstream::start();
    let enough = Signal::default();
    upstream.then(Reply::status(201).field("x-execution", "1").body("execution 1").after(&enough));
    let setup = change(Setup::new(upstream.address, &redis.url()));
    let proxies = [setup.start(), setup.start()];
    let start = Arc::new(Barrier::new(CLIENTS));
    let (tell, told) = std::sync::mpsc::channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (start, tell, address) = (start.clone(), tell.clone(), proxies[client % 2].address);
            thread::spawn(move || {
                start.wait();
                let answer = pay("k").send(address).expect("an answer");
                if answer.status == 409 {
                    tell.send(()).expect("the test listens");
                }
                answer
            })
        })
        .collect();
    for turn in 0..refused {
        let patience = Duration::from_secs(30);
        told.recv_timeout(patience).unwrap_or_else(|_| panic!("only {turn} clients were turned away"));
    }
    enough.give();
    (clients.into_iter().map(|client| client.join().expect("a client")).collect(), upstream)
}

fn counted(answers: &[Answer]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.outcome()).or_default() += 1;
    }
    counts
}

fn counts(expected: &[(&str, usize)]) -> BTreeMap<String, usize> {
    expected.iter().map(|(outcome, count)| ((*outcome).to_owned(), *count)).collect()
}

#[test]
fn of_two_hundred_at_once_one_is_executed_and_the_others_are_turned_away() {
    let (answers, upstream) = race(|setup| setup, CLIENTS - 1);
    assert_eq!(counted(&answers), counts(&[("executed", 1), ("in-flight", CLIENTS - 1)]));
    assert_eq!(attempts(&upstream), [1]);
}

#[test]
fn of_two_hundred_at_once_that_wait_one_is_executed_and_the_others_get_its_answer() {
    // A process lets so many wait; one of the clients executes.
    let waiters = 2 * WAITERS_PER_PROXY;
    let turned_away = CLIENTS - 1 - waiters;
    let (answers, upstream) = race(|setup| setup.wait(Duration::from_secs(30)), turned_away);
    let expected = counts(&[("executed", 1), ("in-flight", turned_away), ("replayed", waiters)]);
    assert_eq!(counted(&answers), expected);
    for answer in answers.iter().filter(|answer| answer.status == 201) {
        assert_is_execution(answer, 1, &answer.outcome());
    }
    assert_eq!(attempts(&upstream), [1]);
}
