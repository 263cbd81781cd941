//! Two proxies on one Redis under load, killed at random moments and started again, and the whole history checked.
//!
//! `ONCEPROXY_KILLS` is how many kills (100), `ONCEPROXY_KILL_SEED` the seed. The seed decides what is done, not how the
//! machine's threads fall; it is printed, so that a run can be tried again.

mod clients;
mod dice;
mod stage;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use self::clients::Keys;
use self::dice::Dice;
use self::stage::{RETENTION, Stage, promise};
use crate::history::{Answer, Event, What, check};
use crate::support::waiting::eventually;

const CLIENTS: u64 = 6;
/// Kills before the history is checked and a new one begins.
const ROUND: u64 = 100;
/// How long the proxies run between two kills, at most.
const CALM_MS: u64 = 400;
/// Every so many kills the upstream is away for a moment.
const OUTAGE_EVERY: u64 = 20;
/// Every so many kills a proxy stands still until others have decided about its keys, and comes back.
const PAUSE_EVERY: u64 = 25;

/// What a run has seen.
#[derive(Default)]
struct Tally {
    kills: u64,
    keys: usize,
    executions: usize,
    /// Executions of a second or later attempt.
    again: usize,
    first: usize,
    replayed: usize,
    held: usize,
    unknown: usize,
    not_executed: usize,
    in_flight: usize,
    unrecorded: usize,
    unavailable: usize,
    lost: usize,
}

#[test]
fn killed_proxies_keep_every_promise() {
    let kills = from_environment("ONCEPROXY_KILLS").unwrap_or(100);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock after 1970");
    let seed = from_environment("ONCEPROXY_KILL_SEED").unwrap_or(now.as_nanos() as u64);
    println!("kill loop: seed {seed}");
    let mut dice = Dice::new(seed);
    let stage = Stage::new(&dice);
    let began = Instant::now();
    let mut tally = Tally::default();
    let mut round = 0;
    while tally.kills < kills {
        let keys = Keys::of_round(round);
        tally.kills += run_round(&stage, &keys, &mut dice, ROUND.min(kills - tally.kills));
        ask_for_all(&stage, &keys);
        let events = stage.journal.take();
        let violations = check(&events, RETENTION, promise);
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}\n{}", of_first(&violations, &events));
        tally.keys += keys.used().len();
        tally.add(&events);
        stage.upstream.forget();
        round += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("kill loop: seed {seed}, {seconds:.0} s, {} requests, {tally}: no violation", stage.requests());
    tally.is_telling();
}

/// Loads the proxies and kills them so often; gives the number of kills.
fn run_round(stage: &Stage, keys: &Keys, dice: &mut Dice, kills: u64) -> u64 {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let dice = dice.for_thread(client);
            let stop = &stop;
            scope.spawn(move || clients::load(stage, keys, dice, stop));
        }
        // Also when an assertion in here fails: the clients would run on, and the scope waits for them.
        let _stop = StopOnDrop(&stop);
        for kill in 0..kills {
            // Not to wait for something: the moment of the kill is what is random here.
            thread::sleep(Duration::from_millis(dice.below(CALM_MS)));
            if kill % OUTAGE_EVERY == OUTAGE_EVERY / 2 {
                outage(stage);
            }
            stage.kill(dice.below(2) as usize);
            if kill % PAUSE_EVERY == PAUSE_EVERY / 2 {
                pause(stage, dice.below(2) as usize);
            }
        }
    });
    kills
}

/// Takes the upstream away until a client was told so.
fn outage(stage: &Stage) {
    let is_refusal = |what: &What| matches!(what, What::Answered { answer: Answer::NotExecuted, .. });
    stage.upstream.go_away();
    let before = stage.journal.count(is_refusal);
    eventually("a request that finds no upstream", || (stage.journal.count(is_refusal) > before).then_some(()));
    stage.upstream.come_back();
}

/// Stops a proxy in the middle of its executions until the other one has taken over what may be taken over.
fn pause(stage: &Stage, proxy: usize) {
    let paused = stage.stand_still(proxy);
    for key in stage.journal.keys_under_way() {
        clients::ask_until_decided(stage, &key);
    }
    paused.go_on();
}

/// Asks for every key once more when all is quiet: what was recorded has to be there, and what was not is decided.
fn ask_for_all(stage: &Stage, keys: &Keys) {
    let used = keys.used();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(key) = used.get(next.fetch_add(1, Ordering::AcqRel)) {
                    clients::ask_until_decided(stage, key);
                    // Once more, after the answer: it must be known now.
                    clients::ask_until_decided(stage, key);
                }
            });
        }
    });
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// The history of the key of the first violation.
fn of_first(violations: &[crate::history::Violation], events: &[Event]) -> String {
    let Some(key) = violations.first().and_then(|violation| violation.key(events)) else { return String::new() };
    let of_key = events.iter().filter(|event| event.what.key(events) == Some(key));
    of_key.map(|event| format!("{:?} {:?}\n", event.at, event.what)).collect()
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Tally {
    fn add(&mut self, events: &[Event]) {
        for Event { what, .. } in events {
            let counter = match what {
                What::Sent { .. } => continue,
                What::Lost { .. } => &mut self.lost,
                What::Executed { attempt, .. } => {
                    self.again += usize::from(*attempt > 1);
                    &mut self.executions
                }
                What::Answered { answer, .. } => match answer {
                    Answer::First(_) => &mut self.first,
                    Answer::Replay(_) => &mut self.replayed,
                    Answer::Unrecorded(_) => &mut self.unrecorded,
                    Answer::NotExecuted => &mut self.not_executed,
                    Answer::Unknown => &mut self.unknown,
                    Answer::Held => &mut self.held,
                    Answer::InFlight => &mut self.in_flight,
                    Answer::Unavailable => &mut self.unavailable,
                },
            };
            *counter += 1;
        }
    }

    /// A loop in which nothing happened proves nothing.
    fn is_telling(&self) {
        let seen = [self.first, self.replayed, self.held, self.not_executed, self.lost, self.again];
        assert!(seen.iter().all(|count| *count > 0), "{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} keys, {} executions ({} of them again)",
            self.kills, self.keys, self.executions, self.again
        )?;
        write!(f, "; answers: {} executed, {} replayed, {} held", self.first, self.replayed, self.held)?;
        write!(f, ", {} unknown, {} not executed, {} in flight", self.unknown, self.not_executed, self.in_flight)?;
        write!(f, ", {} unrecorded, {} unavailable, {} lost", self.unrecorded, self.unavailable, self.lost)
    }
}
