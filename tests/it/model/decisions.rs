//! Where the model asks the ledger's own judgement, and compares it with what is so.

use onceproxy::State;
use onceproxy::ledger::judge::{Footing, Verdict, footing, judge};

use super::caller::{Ending, Fate, TAKE_OVER, record};
use super::world::{Bounds, Seen, Stored, World, Write, entry, fingerprint, terms};

/// A caller that did not win the key learns what is under it.
pub fn weigh(world: &mut World, number: usize, present: Stored, bounds: &Bounds) {
    let asked = bounds.callers[number];
    let verdict = judge(&entry(&present), &fingerprint(asked.body), &terms(asked));
    let same = present.body == asked.body;
    let dead = present.state == State::Unknown || present.state == State::InFlight && present.age > 0;
    let retry = present.retry && asked.retry;
    match verdict {
        Verdict::Replay => {
            world.require(same && present.state == State::Completed, "a replay of what is not this request's");
            world.seen = Some(Seen::Replay);
            world.callers[number].end(Ending::Answered(present.outcome));
        }
        Verdict::Mismatch => {
            world.require(!same && present.state != State::Released, "a mismatch of what is the same");
            world.seen = Some(Seen::Mismatch);
            world.callers[number].end(Ending::Refused);
        }
        Verdict::InFlight { .. } => {
            let alive = present.state == State::InFlight && present.age == 0;
            world.require(same && (alive || dead && retry), "in flight, and nobody flies");
            world.seen = Some(Seen::InFlight);
            world.callers[number].end(Ending::Refused);
        }
        Verdict::Unknown => {
            world.require(same && dead && !retry, "unknown, and it is known");
            world.seen = Some(Seen::Unknown);
            world.callers[number].end(Ending::Refused);
        }
        Verdict::TakeOver { attempt } => {
            let grace_over = match present.state {
                State::InFlight => present.age > 1,
                State::Unknown => present.age > 0,
                State::Completed | State::Released => false,
            };
            let free = present.state == State::Released || same && retry && grace_over;
            world.require(free, "a key is taken over that is not free");
            world.require(attempt == u32::from(present.attempt) + 1, "a take-over with a wrong number");
            world.seen = Some(if present.state == State::Released { Seen::AfterRelease } else { Seen::TakeOver });
            let attempt = u8::try_from(attempt).expect("few attempts");
            let caller = &mut world.callers[number];
            caller.previous = Some(present);
            caller.taken_over = Some(present.state);
            caller.attempt = attempt;
            caller.holds = true;
            let taken = record(number, TAKE_OVER, attempt, State::InFlight, asked);
            caller.write(Write::Replace { expected: present.version, record: taken });
        }
    }
}

/// An owner finds something else than it wrote under its last word.
pub fn find_footing(world: &mut World, number: usize, fate: Fate, present: Stored, bounds: &Bounds) {
    let asked = bounds.callers[number];
    let caller = &mut world.callers[number];
    let own = caller.own_versions(number);
    let found = footing(&own, u32::from(caller.attempt), &fingerprint(asked.body), &entry(&present));
    if found == Footing::Untaken {
        let untaken = present.attempt == caller.attempt && present.body == asked.body;
        world.require(untaken && present.state != State::InFlight, "untaken, and another has had it");
    }
    let caller = &mut world.callers[number];
    match (found, fate, caller.last) {
        (Footing::Own, _, Some(Write::Remove { .. })) => {
            caller.current = present.version;
            caller.write(Write::Remove { expected: present.version });
        }
        (Footing::Own, _, Some(Write::Replace { record, .. } | Write::Create(record)))
        | (Footing::Untaken, Fate::Completed, Some(Write::Replace { record, .. } | Write::Create(record))) => {
            caller.current = present.version;
            caller.write(Write::Replace { expected: present.version, record });
        }
        (Footing::AlreadyDone | Footing::Superseded, Fate::Completed, _) => {
            let attempt = caller.attempt;
            world.require(present.attempt >= attempt, "an owner gives way to an older attempt");
            let done = found == Footing::AlreadyDone;
            world.require(done == (present.state == State::Completed), "done, and it is not");
            world.seen = Some(if done { Seen::AlreadyDone } else { Seen::Superseded });
            // Its own answer is nobody's any more: the client gets the recorded one, or none.
            let verdict = judge(&entry(&present), &fingerprint(asked.body), &terms(asked));
            world.callers[number].end(match verdict {
                Verdict::Replay => Ending::Answered(present.outcome),
                _ => Ending::Refused,
            });
        }
        _ => world.callers[number].end(Ending::Refused),
    }
}
