//! What the loop runs on: an upstream with moods that writes down what it does, and two proxies that are killed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::dice::Dice;
use crate::history::{Journal, Promise, RequestNumber, What};
use crate::support::proxy::{Proxy, Setup};
use crate::support::redis::RedisServer;
use crate::support::upstream::{Received, Reply, Upstream};

/// Longer than any run of the loop's rounds.
pub(super) const RETENTION: Duration = Duration::from_secs(600);
/// Long enough for what the upstream does.
const GRACE: Duration = Duration::from_millis(300);

pub(super) struct Stage {
    pub(super) journal: Arc<Journal>,
    pub(super) upstream: Upstream,
    proxies: Mutex<[Proxy; 2]>,
    addresses: Mutex<[SocketAddr; 2]>,
    setup: Setup,
    requests: AtomicU64,
    _redis: RedisServer,
}

impl Stage {
    pub(super) fn new(dice: &Dice) -> Stage {
        let redis = RedisServer::start();
        let journal = Arc::new(Journal::new());
        let upstream = moody_upstream(journal.clone(), dice.clone());
        let retry = format!("unknown_outcome = \"retry\", retry_grace = \"{}ms\"", GRACE.as_millis());
        let setup = Setup::new(upstream.address, &redis.url())
            .policy("retention", format!("\"{}s\"", RETENTION.as_secs()))
            .route("hold", "/hold", "")
            .route("retry", "/retry", &retry);
        let proxies = [setup.start(), setup.start()];
        let addresses = Mutex::new([proxies[0].address, proxies[1].address]);
        let requests = AtomicU64::new(0);
        Stage { journal, upstream, proxies: Mutex::new(proxies), addresses, setup, requests, _redis: redis }
    }

    /// Where a proxy is to be found at present; nobody listens there while it is being started.
    pub(super) fn address(&self, proxy: usize) -> SocketAddr {
        self.addresses.lock().expect("nobody panics in here")[proxy]
    }

    /// Kills one proxy and starts it again.
    pub(super) fn kill(&self, proxy: usize) {
        let mut proxies = self.proxies.lock().expect("nobody panics in here");
        proxies[proxy].kill();
        proxies[proxy] = self.setup.start();
        self.addresses.lock().expect("nobody panics in here")[proxy] = proxies[proxy].address;
    }

    /// Stops one proxy in its tracks. Until it goes on, clients find the other one in its place.
    pub(super) fn stand_still(&self, proxy: usize) -> Paused<'_> {
        self.proxies.lock().expect("nobody panics in here")[proxy].stand_still();
        let mut addresses = self.addresses.lock().expect("nobody panics in here");
        addresses[proxy] = addresses[1 - proxy];
        Paused { stage: self, proxy }
    }

    pub(super) fn next_request(&self) -> RequestNumber {
        self.requests.fetch_add(1, Ordering::AcqRel)
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Acquire)
    }
}

/// A proxy that stands still.
pub(super) struct Paused<'a> {
    stage: &'a Stage,
    proxy: usize,
}

impl Paused<'_> {
    pub(super) fn go_on(self) {
        let proxies = self.stage.proxies.lock().expect("nobody panics in here");
        proxies[self.proxy].go_on();
        self.stage.addresses.lock().expect("nobody panics in here")[self.proxy] = proxies[self.proxy].address;
    }
}

/// What was promised about a key of this loop.
pub(super) fn promise(key: &str) -> Promise {
    match key.starts_with("hold") {
        true => Promise::Hold,
        false => Promise::Retry,
    }
}

/// An upstream that mostly answers, and sometimes refuses, hangs up, answers half, or guesses.
fn moody_upstream(journal: Arc<Journal>, dice: Dice) -> Upstream {
    Upstream::answering(move |received| {
        let request = request_number(received);
        let mut dice = dice.for_thread(request);
        if dice.percent(5) {
            return Reply::status(429).without_acting();
        }
        let key = received.key.clone().expect("a key");
        let attempt = received.attempt.expect("an attempt's number");
        let answer = format!("request {request}, attempt {attempt}");
        journal.write(What::Executed { request, key, attempt, answer: answer.clone() });
        // The answer takes its time, so that a kill finds something under way.
        thread::sleep(Duration::from_millis(dice.below(20)));
        let reply = Reply::status(201).body(answer);
        match dice.below(100) {
            0..2 => Reply::reset(),
            2..4 => reply.cut_after(60),
            4..6 => Reply::status(503),
            6..15 => reply.chunked(),
            15..20 => reply.then_close(),
            20..25 => reply.then_reset_next(),
            _ => reply,
        }
    })
}

fn request_number(received: &Received) -> RequestNumber {
    received.head.first("x-request").and_then(|number| number.parse().ok()).expect("a request's number")
}
