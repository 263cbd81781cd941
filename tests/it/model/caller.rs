//! A caller and its proxy: wins the key, executes, writes the last word, as `begin` and the keeper of a claim do.

use onceproxy::State;
use onceproxy::ledger::judge::{Unexecuted, unexecuted};
use onceproxy::record::Version;

use super::decisions::{find_footing, weigh};
use super::world::{Asked, Bounds, Happening, Protocol, Reply, Seen, Stored, World, Write, version};

/// The kinds of a caller's writes; each has a version of its own.
pub const RESERVE: u8 = 1;
pub const TAKE_OVER: u8 = 2;
pub const RENEWAL: u8 = 3;
pub const LAST_WORD: u8 = 4;
pub const UNDO: u8 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Caller {
    pub phase: Phase,
    pub upstream: Upstream,
    /// A write under way.
    wire: Option<Write>,
    /// One that was given up, and may arrive all the same.
    stray: Option<Write>,
    reply: Option<Reply>,
    /// The last write that was made, to be repeated.
    pub last: Option<Write>,
    /// What stood there before a take-over.
    pub previous: Option<Stored>,
    /// The version that is believed to be in place.
    pub current: u8,
    pub attempt: u8,
    /// The state that was taken over.
    pub taken_over: Option<State>,
    /// Whether the lease holds by the caller's own clock.
    pub holds: bool,
    renewal: Renewal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Phase {
    #[default]
    Idle,
    Reserving,
    Won,
    Sent,
    Finishing(Fate),
    Undoing,
    Done(Ending),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Upstream {
    #[default]
    Idle,
    OnItsWay,
    Acted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    Completed,
    Unknown,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// With an answer, and whose execution it is of.
    Answered(u8),
    /// With a refusal, or with nothing.
    Refused,
    Crashed,
}

/// The one renewal that a caller makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
enum Renewal {
    #[default]
    None,
    /// Under way, and no lease has ended since it was sent.
    Fresh,
    /// Under way for longer than a lease.
    Old,
    /// Answered, or given up.
    Over,
}

impl Caller {
    pub fn tick(&mut self) {
        self.holds = false;
        if self.renewal == Renewal::Fresh {
            self.renewal = Renewal::Old;
        }
    }

    fn is_waiting(&self) -> bool {
        self.wire.is_some() || self.reply.is_some()
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Done(_))
    }

    /// Whether something can happen now.
    pub fn may(&self, happening: Happening, world: &World, bounds: &Bounds) -> bool {
        let alive = !self.is_over();
        match happening {
            Happening::Begins => self.phase == Phase::Idle,
            Happening::WriteArrives => self.wire.is_some(),
            Happening::StrayArrives => self.stray.is_some(),
            Happening::ReadsReply => alive && self.reply.is_some(),
            Happening::RepeatsWrite => alive && self.is_waiting() && world.timeouts > 0,
            Happening::GivesUp => self.phase == Phase::Reserving && self.is_waiting() && world.timeouts > 0,
            Happening::Crashes => alive && self.phase != Phase::Idle && world.crashes > 0,
            Happening::Renews => {
                let at_work = matches!(self.phase, Phase::Won | Phase::Sent) && !self.is_waiting();
                bounds.renewals && at_work && self.renewal == Renewal::None
            }
            Happening::Sends => self.phase == Phase::Won && (self.holds || bounds.protocol == Protocol::SendAfterLease),
            Happening::CannotConnect => self.phase == Phase::Won && !self.is_waiting(),
            Happening::UpstreamActs => self.upstream == Upstream::OnItsWay,
            Happening::GetsAnswer => {
                self.phase == Phase::Sent && self.upstream == Upstream::Acted && !self.is_waiting()
            }
            Happening::LosesConnection => self.phase == Phase::Sent && !self.is_waiting(),
            Happening::SeesLeaseOver => self.phase == Phase::Won && !self.holds && !self.is_waiting(),
        }
    }

    pub fn write(&mut self, write: Write) {
        self.wire = Some(write);
        self.last = Some(write);
    }

    pub fn end(&mut self, ending: Ending) {
        // What no longer matters is forgotten, so that equal worlds are equal.
        *self = Caller {
            phase: Phase::Done(ending),
            upstream: self.upstream,
            stray: self.wire.or(self.stray),
            ..Caller::default()
        };
    }

    pub fn own_versions(&self, number: usize) -> Vec<Version> {
        let mut own = vec![version(self.current)];
        if self.renewal != Renewal::None {
            own.push(version(version_of(number, RENEWAL)));
        }
        own
    }
}

fn version_of(number: usize, kind: u8) -> u8 {
    u8::try_from(number).expect("few callers") * 8 + kind
}

pub fn record(number: usize, kind: u8, attempt: u8, state: State, asked: Asked) -> Stored {
    let whose = u8::try_from(number).expect("few callers");
    let outcome = if state == State::Completed { whose } else { 0 };
    Stored { version: version_of(number, kind), state, attempt, body: asked.body, retry: asked.retry, age: 0, outcome }
}

/// Lets something happen to a caller.
pub fn happen(world: &mut World, number: usize, happening: Happening, bounds: &Bounds) {
    let asked = bounds.callers[number];
    let caller = &mut world.callers[number];
    match happening {
        Happening::Begins => {
            caller.phase = Phase::Reserving;
            caller.attempt = 1;
            caller.holds = true;
            caller.write(Write::Create(record(number, RESERVE, 1, State::InFlight, asked)));
        }
        Happening::WriteArrives => {
            let write = caller.wire.take().expect("there is one");
            let before = world.stored;
            let reply = world.apply(write, bounds.protocol);
            if before != world.stored && is_late(write, before) {
                world.seen = Some(Seen::Late);
            }
            let caller = &mut world.callers[number];
            if !caller.is_over() {
                caller.reply = Some(reply);
            }
        }
        Happening::StrayArrives => {
            let write = caller.stray.take().expect("there is one");
            world.apply(write, bounds.protocol);
        }
        Happening::ReadsReply => read_reply(world, number, bounds),
        Happening::RepeatsWrite => {
            lose(world, number);
            let caller = &mut world.callers[number];
            match (caller.phase, caller.last) {
                // A renewal is not repeated here: the last word finds it, or not.
                (Phase::Won | Phase::Sent, _) => caller.renewal = Renewal::Over,
                (_, last) => caller.wire = last,
            }
        }
        Happening::GivesUp => {
            lose(world, number);
            undo(&mut world.callers[number], number);
        }
        Happening::Crashes => {
            caller.end(Ending::Crashed);
            world.crashes -= 1;
        }
        Happening::Renews => {
            caller.renewal = Renewal::Fresh;
            let renewed = record(number, RENEWAL, caller.attempt, State::InFlight, asked);
            caller.write(Write::Replace { expected: caller.current, record: renewed });
        }
        Happening::Sends => {
            caller.phase = Phase::Sent;
            caller.upstream = Upstream::OnItsWay;
        }
        Happening::UpstreamActs => caller.upstream = Upstream::Acted,
        Happening::GetsAnswer => finish(caller, number, Fate::Completed, asked),
        Happening::CannotConnect | Happening::SeesLeaseOver => finish(caller, number, Fate::Released, asked),
        Happening::LosesConnection => {
            let fate = match bounds.protocol {
                Protocol::ReleaseOnReset => Fate::Released,
                _ => Fate::Unknown,
            };
            finish(caller, number, fate, asked);
        }
    }
}

/// Says whether a completion comes after its lease.
fn is_late(write: Write, before: Option<Stored>) -> bool {
    let completes = matches!(write, Write::Replace { record: Stored { state: State::Completed, .. }, .. });
    completes && before.is_some_and(|before| before.state == State::InFlight && before.age > 0)
}

/// A store call goes unanswered: its write is still on the way, or its answer is gone.
fn lose(world: &mut World, number: usize) {
    world.timeouts -= 1;
    let caller = &mut world.callers[number];
    caller.stray = caller.wire.take().or(caller.stray);
    caller.reply = None;
}

fn undo(caller: &mut Caller, number: usize) {
    caller.phase = Phase::Undoing;
    caller.holds = false;
    let (Some(Write::Create(Stored { version: reserved, .. }))
    | Some(Write::Replace { record: Stored { version: reserved, .. }, .. })) = caller.last
    else {
        unreachable!("a reserve is a create or a replace");
    };
    let write = match caller.previous {
        None => Write::Remove { expected: reserved },
        Some(previous) => {
            let state = if previous.state == State::InFlight { State::Unknown } else { previous.state };
            let restored = Stored { version: version_of(number, UNDO), state, ..previous };
            Write::Replace { expected: reserved, record: restored }
        }
    };
    caller.write(write);
}

fn finish(caller: &mut Caller, number: usize, fate: Fate, asked: Asked) {
    caller.phase = Phase::Finishing(fate);
    let state = match fate {
        Fate::Completed => State::Completed,
        Fate::Unknown => State::Unknown,
        Fate::Released => match unexecuted(caller.taken_over) {
            Unexecuted::Forgotten => return caller.write(Write::Remove { expected: caller.current }),
            Unexecuted::Free => State::Released,
            Unexecuted::Unknown => State::Unknown,
        },
    };
    let last_word = record(number, LAST_WORD, caller.attempt, state, asked);
    caller.write(Write::Replace { expected: caller.current, record: last_word });
}

fn read_reply(world: &mut World, number: usize, bounds: &Bounds) {
    let caller = &mut world.callers[number];
    let reply = caller.reply.take().expect("there is one");
    match (caller.phase, reply) {
        (Phase::Reserving, Reply::Done) => {
            caller.phase = Phase::Won;
            caller.current = version_of(number, if caller.previous.is_some() { TAKE_OVER } else { RESERVE });
            caller.previous = None;
        }
        (Phase::Reserving, Reply::Stale(Some(present))) => weigh(world, number, present, bounds),
        (Phase::Reserving | Phase::Won | Phase::Sent | Phase::Finishing(_), Reply::Stale(None)) => match caller.last {
            Some(Write::Replace { record, .. }) => caller.write(Write::Create(record)),
            other => unreachable!("only a replace finds nothing, not {other:?}"),
        },
        (Phase::Won | Phase::Sent, Reply::Done) => {
            caller.holds |= caller.renewal == Renewal::Fresh;
            caller.renewal = Renewal::Over;
            caller.current = version_of(number, RENEWAL);
        }
        (Phase::Won | Phase::Sent, Reply::Stale(Some(_))) => {
            caller.renewal = Renewal::Over;
            caller.holds = false;
        }
        (Phase::Finishing(fate), Reply::Done) => {
            let whose = u8::try_from(number).expect("few callers");
            caller.end(if fate == Fate::Completed { Ending::Answered(whose) } else { Ending::Refused });
        }
        (Phase::Finishing(fate), Reply::Stale(Some(present))) => find_footing(world, number, fate, present, bounds),
        (Phase::Undoing, _) => caller.end(Ending::Refused),
        (phase, reply) => unreachable!("{phase:?} got {reply:?}"),
    }
}
