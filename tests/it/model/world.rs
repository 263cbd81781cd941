//! The world of the model: one record in a store, a few callers with a proxy each, an upstream, an operator, and time.
//!
//! Time is counted in leases: one tick ends every lease that began before it. The grace is one lease long. Answers and
//! requests to the store get lost or come late, a caller's process can crash between any two events, and the upstream
//! acts when it likes, also for a caller that is dead.

use std::time::Duration;

use bytes::Bytes;
use onceproxy::ledger::judge::{Settleable, settleable};
use onceproxy::ledger::store::Entry;
use onceproxy::record::Version;
use onceproxy::{Fingerprint, OnUnknown, Record, State, Terms};
use stateright::{Model, Property};

use super::caller::{Caller, Ending, Phase, Upstream};

pub const CALLERS: usize = 3;
/// After this many ticks the lease and the grace are over.
const OLDEST: u8 = 2;
/// The operator's version, and who an answer is from when the operator settled.
const OPERATOR: u8 = 60;

/// How the protocol is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// As the ledger does.
    Right,
    /// The record goes with its lease, as with a plain lock that expires.
    RecordDiesWithLease,
    /// A broken connection is taken for a request that was not executed.
    ReleaseOnReset,
    /// A write overwrites whatever is there.
    NoCompare,
    /// The first byte is sent without a look at the lease.
    SendAfterLease,
}

/// What a caller asks, and under which terms.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub body: u8,
    pub retry: bool,
}

/// The bounds of a check.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub protocol: Protocol,
    /// At most [`CALLERS`].
    pub callers: Vec<Asked>,
    /// Whether a claim is renewed once.
    pub renewals: bool,
    /// How many store calls go unanswered.
    pub timeouts: u8,
    pub crashes: u8,
    /// Whether an operator decides once.
    pub operator: bool,
}

/// The record in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stored {
    pub version: u8,
    pub state: State,
    pub attempt: u8,
    pub body: u8,
    pub retry: bool,
    /// In ticks.
    pub age: u8,
    /// Whose execution the outcome is of.
    pub outcome: u8,
}

/// A write on its way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    Create(Stored),
    Replace { expected: u8, record: Stored },
    Remove { expected: u8 },
}

/// What the store answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    Done,
    Stale(Option<Stored>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub stored: Option<Stored>,
    pub callers: [Caller; CALLERS],
    pub timeouts: u8,
    pub crashes: u8,
    pub operator: bool,
    /// A decision that no order of events allows.
    pub trespass: Option<&'static str>,
    /// Something that has to happen in some order of events, or the check proves nothing.
    pub seen: Option<Seen>,
}

/// Events that have to be reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    Replay,
    Mismatch,
    Unknown,
    InFlight,
    TakeOver,
    AfterRelease,
    Late,
    Superseded,
    AlreadyDone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    Tick,
    /// A caller's own step, or something that happens to it.
    Caller(usize, Happening),
    OperatorReleases,
    OperatorSettles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    Begins,
    WriteArrives,
    StrayArrives,
    ReadsReply,
    RepeatsWrite,
    GivesUp,
    Crashes,
    Renews,
    Sends,
    CannotConnect,
    UpstreamActs,
    GetsAnswer,
    LosesConnection,
    SeesLeaseOver,
}

const HAPPENINGS: [Happening; 14] = [
    Happening::Begins,
    Happening::WriteArrives,
    Happening::StrayArrives,
    Happening::ReadsReply,
    Happening::RepeatsWrite,
    Happening::GivesUp,
    Happening::Crashes,
    Happening::Renews,
    Happening::Sends,
    Happening::CannotConnect,
    Happening::UpstreamActs,
    Happening::GetsAnswer,
    Happening::LosesConnection,
    Happening::SeesLeaseOver,
];

/// The stored record as the ledger sees it.
pub fn entry(stored: &Stored) -> Entry {
    Entry {
        version: version(stored.version),
        record: Record {
            state: stored.state,
            attempt: u32::from(stored.attempt),
            on_unknown: on_unknown(stored.retry),
            lease: Duration::from_secs(1),
            keep: Duration::from_secs(1000),
            grace: Duration::from_secs(1),
            fingerprint: fingerprint(stored.body),
            route: "".into(),
            status: 0,
            reason: "".into(),
            outcome: Bytes::new(),
        },
        age: Duration::from_secs(u64::from(stored.age)),
    }
}

pub fn version(number: u8) -> Version {
    Version::from_bytes([number; 16])
}

pub fn fingerprint(body: u8) -> Fingerprint {
    Fingerprint::from_bytes([body; 32])
}

pub fn terms(asked: Asked) -> Terms {
    Terms { on_unknown: on_unknown(asked.retry), ..Terms::default() }
}

fn on_unknown(retry: bool) -> OnUnknown {
    if retry { OnUnknown::Retry } else { OnUnknown::Hold }
}

impl World {
    /// Does a write.
    pub fn apply(&mut self, write: Write, protocol: Protocol) -> Reply {
        match (write, self.stored) {
            (Write::Create(record), None) => self.put(record),
            (Write::Create(record), Some(present)) if present.version == record.version => Reply::Done,
            (Write::Replace { record, .. }, Some(present)) if present.version == record.version => Reply::Done,
            (Write::Replace { expected, record }, Some(present))
                if present.version == expected || protocol == Protocol::NoCompare =>
            {
                self.put(record)
            }
            (Write::Remove { expected }, Some(present)) if present.version == expected => {
                self.stored = None;
                Reply::Done
            }
            (Write::Remove { .. }, None) => Reply::Done,
            (_, present) => Reply::Stale(present),
        }
    }

    fn put(&mut self, record: Stored) -> Reply {
        self.stored = Some(Stored { age: 0, ..record });
        Reply::Done
    }

    pub fn require(&mut self, holds: bool, otherwise: &'static str) {
        if !holds && self.trespass.is_none() {
            self.trespass = Some(otherwise);
        }
    }

    fn tick(&mut self, protocol: Protocol) {
        if let Some(stored) = &mut self.stored {
            stored.age = (stored.age + 1).min(OLDEST);
            if protocol == Protocol::RecordDiesWithLease && stored.state == State::InFlight {
                self.stored = None;
            }
        }
        self.callers.iter_mut().for_each(Caller::tick);
    }

    /// The operator has asked the bank: releases what was not executed and never will be, settles the rest.
    fn operator_decides(&mut self, state: State) {
        let Some(stored) = self.stored.filter(|stored| settleable(&entry(stored)) == Settleable::Yes) else { return };
        let undecided = stored.state == State::Unknown || stored.state == State::InFlight && stored.age > 0;
        self.require(undecided, "an operator decided what was not unknown");
        let executed = self.callers.iter().any(|caller| caller.upstream != Upstream::Idle);
        if (state == State::Released) == executed {
            return;
        }
        self.operator = false;
        self.put(Stored { version: OPERATOR, state, outcome: OPERATOR, ..stored });
    }

    fn executions(&self) -> usize {
        self.callers.iter().filter(|caller| caller.upstream == Upstream::Acted).count()
    }

    fn answers(&self) -> impl Iterator<Item = (usize, u8)> + '_ {
        self.callers.iter().enumerate().filter_map(|(number, caller)| match caller.phase {
            Phase::Done(Ending::Answered(whose)) => Some((number, whose)),
            _ => None,
        })
    }
}

impl Model for Bounds {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            stored: None,
            callers: std::array::from_fn(|_| Caller::default()),
            timeouts: self.timeouts,
            crashes: self.crashes,
            operator: self.operator,
            trespass: None,
            seen: None,
        }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        events.push(Event::Tick);
        if world.operator {
            events.extend([Event::OperatorReleases, Event::OperatorSettles]);
        }
        for (number, caller) in world.callers.iter().enumerate().take(self.callers.len()) {
            let possible = HAPPENINGS.into_iter().filter(|happening| caller.may(*happening, world, self));
            events.extend(possible.map(|happening| Event::Caller(number, happening)));
        }
    }

    fn next_state(&self, last: &World, event: Event) -> Option<World> {
        let mut world = World { seen: None, ..last.clone() };
        match event {
            Event::Tick => world.tick(self.protocol),
            Event::OperatorReleases => world.operator_decides(State::Released),
            Event::OperatorSettles => world.operator_decides(State::Completed),
            Event::Caller(number, happening) => super::caller::happen(&mut world, number, happening, self),
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Bounds>> {
        let mut properties = vec![
            Property::<Bounds>::always(AT_MOST_ONCE, |bounds, world| bounds.may_repeat() || world.executions() <= 1),
            Property::<Bounds>::always(ONE_ANSWER, |bounds, world| {
                let mut answers = world.answers().filter(|(number, _)| bounds.callers[*number].body == 0);
                let first = answers.next();
                answers.all(|(_, whose)| Some(whose) == first.map(|(_, whose)| whose))
            }),
            Property::<Bounds>::always(OWN_ANSWER, |bounds, world| {
                world.answers().all(|(number, whose)| {
                    let author = bounds.callers.get(usize::from(whose));
                    author.is_none_or(|author| author.body == bounds.callers[number].body)
                })
            }),
            Property::<Bounds>::always(ANSWER_STAYS, |_, world| {
                world.answers().all(|(_, whose)| {
                    world.stored.is_some_and(|stored| stored.state == State::Completed && stored.outcome == whose)
                })
            }),
            Property::<Bounds>::always(FREE_IS_UNUSED, |_, world| {
                let free = world.stored.is_none_or(|stored| stored.state == State::Released);
                !free || world.executions() == 0
            }),
            Property::<Bounds>::always(NO_TRESPASS, |_, world| world.trespass.is_none()),
            Property::<Bounds>::sometimes("replayed", |_, world| world.seen == Some(Seen::Replay)),
            Property::<Bounds>::sometimes("in flight", |_, world| world.seen == Some(Seen::InFlight)),
            Property::<Bounds>::sometimes("late", |_, world| world.seen == Some(Seen::Late)),
        ];
        if self.callers.iter().any(|asked| !asked.retry) {
            properties.push(Property::<Bounds>::sometimes("unknown", |_, world| world.seen == Some(Seen::Unknown)));
        }
        if self.callers.iter().any(|asked| asked.body != 0) {
            properties.push(Property::<Bounds>::sometimes("mismatch", |_, world| world.seen == Some(Seen::Mismatch)));
        }
        if self.may_repeat() {
            properties.extend([
                Property::<Bounds>::sometimes("taken over", |_, world| world.seen == Some(Seen::TakeOver)),
                Property::<Bounds>::sometimes("superseded", |_, world| world.seen == Some(Seen::Superseded)),
                Property::<Bounds>::sometimes("executed twice", |_, world| world.executions() == 2),
            ]);
        }
        if self.operator {
            properties.extend([
                Property::<Bounds>::sometimes("released", |_, world| world.seen == Some(Seen::AfterRelease)),
                Property::<Bounds>::sometimes("already done", |_, world| world.seen == Some(Seen::AlreadyDone)),
            ]);
        }
        properties
    }
}

pub const AT_MOST_ONCE: &str = "at most one execution under hold";
pub const ONE_ANSWER: &str = "one answer for all";
pub const OWN_ANSWER: &str = "an answer belongs to its request";
pub const ANSWER_STAYS: &str = "an answer that was given stays recorded";
pub const FREE_IS_UNUSED: &str = "a free key has not taken effect";
pub const NO_TRESPASS: &str = "nobody decides what is not so";

impl Bounds {
    /// Two callers of the same request who both accept a second execution.
    fn may_repeat(&self) -> bool {
        (0..self.callers.len()).any(|one| {
            (0..one).any(|other| {
                let (one, other) = (self.callers[one], self.callers[other]);
                one.retry && other.retry && one.body == other.body
            })
        })
    }
}
