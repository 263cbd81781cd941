//! Random histories of one key against a plain model that shares no code with the ledger.

use std::sync::Arc;
use std::time::Duration;

use onceproxy::ledger::claim::{Outcome, Recorded, Released};
use onceproxy::ledger::operate::{Decided, Decision};
use onceproxy::ledger::store::Store;
use onceproxy::stores::conformance::faulty::{Call, Fault, FaultyStore};
use onceproxy::stores::memory::MemoryStore;
use onceproxy::{Begun, Claim, Fingerprint, Ledger, NotRecorded, OnUnknown, Terms};
use proptest::bool::weighted;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use tokio::time::Instant;

use super::{GRACE, LEASE, hold, id};

/// Something that happens to the key.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin {
        other_body: bool,
        retry: bool,
    },
    Complete,
    Release,
    Unknown,
    Drop,
    /// The owner's process stops: it writes nothing any more.
    Stop,
    /// The process that was stopped first comes back and completes.
    ComeBack,
    Pass {
        seconds: u64,
    },
    OperatorReleases,
    OperatorSettles,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (weighted(0.1), weighted(0.9)).prop_map(|(other_body, retry)| Step::Begin { other_body, retry }),
        2 => Just(Step::Complete),
        3 => Just(Step::Release),
        2 => Just(Step::Unknown),
        1 => Just(Step::Drop),
        3 => Just(Step::Stop),
        2 => Just(Step::ComeBack),
        5 => (0_u64..40).prop_map(|seconds| Step::Pass { seconds }),
        1 => Just(Step::OperatorReleases),
        1 => Just(Step::OperatorSettles),
    ]
}

/// What the plain model knows of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plain {
    Free,
    /// `lease_end` is only known once the owner was stopped.
    Running {
        attempt: u32,
        other_body: bool,
        retry: bool,
        lease_end: Option<Instant>,
    },
    Unknown {
        attempt: u32,
        other_body: bool,
        retry: bool,
        since: Instant,
        grace: Duration,
    },
    Done {
        other_body: bool,
        outcome: String,
    },
    Released {
        attempt: u32,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Execute(u32),
    Replay(String),
    Mismatch,
    InFlight,
    Unknown(u32),
}

impl Plain {
    /// What one who comes now has to get.
    fn answer(&self, other_body: bool, retry: bool, now: Instant) -> Answer {
        let after_unknown = |attempt: u32, both_retry: bool, since: Instant, grace: Duration| match (
            both_retry,
            now - since >= grace,
        ) {
            (false, _) => Answer::Unknown(attempt),
            (true, false) => Answer::InFlight,
            (true, true) => Answer::Execute(attempt + 1),
        };
        match self {
            Plain::Free => Answer::Execute(1),
            Plain::Released { attempt } => Answer::Execute(attempt + 1),
            Plain::Running { other_body: theirs, .. }
            | Plain::Unknown { other_body: theirs, .. }
            | Plain::Done { other_body: theirs, .. }
                if *theirs != other_body =>
            {
                Answer::Mismatch
            }
            Plain::Done { outcome, .. } => Answer::Replay(outcome.clone()),
            Plain::Running { attempt, retry: theirs, lease_end: Some(end), .. } if *end <= now => {
                after_unknown(*attempt, *theirs && retry, *end, GRACE)
            }
            Plain::Running { .. } => Answer::InFlight,
            Plain::Unknown { attempt, retry: theirs, since, grace, .. } => {
                after_unknown(*attempt, *theirs && retry, *since, *grace)
            }
        }
    }

    /// The attempt about which an operator may decide.
    fn undecided(&self, now: Instant) -> Option<u32> {
        match self {
            Plain::Unknown { attempt, .. } => Some(*attempt),
            Plain::Running { attempt, lease_end: Some(end), .. } if *end <= now => Some(*attempt),
            _ => None,
        }
    }

    fn other_body(&self) -> bool {
        match self {
            Plain::Running { other_body, .. } | Plain::Unknown { other_body, .. } | Plain::Done { other_body, .. } => {
                *other_body
            }
            Plain::Free | Plain::Released { .. } => false,
        }
    }
}

/// A process that won the key.
struct Owner {
    claim: Claim,
    faults: Arc<FaultyStore>,
    attempt: u32,
    other_body: bool,
    retry: bool,
    won: Instant,
    /// Whether nothing was under the key, or an operator's release.
    was_free: bool,
    /// When its lease ends, once it was stopped.
    lease_end: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    steps: usize,
    take_overs: usize,
    late: usize,
    superseded: usize,
    replays: usize,
    released_unknown: usize,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.steps += other.steps;
        self.take_overs += other.take_overs;
        self.late += other.late;
        self.superseded += other.superseded;
        self.replays += other.replays;
        self.released_unknown += other.released_unknown;
    }
}

struct History {
    store: MemoryStore,
    plain: Plain,
    owner: Option<Owner>,
    stopped: Vec<Owner>,
    outcomes: u32,
    seen: Seen,
}

/// Lets every task do what it can do without time.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl History {
    fn new() -> History {
        History {
            store: MemoryStore::new(),
            plain: Plain::Free,
            owner: None,
            stopped: Vec::new(),
            outcomes: 0,
            seen: Seen::default(),
        }
    }

    async fn step(&mut self, step: Step) {
        self.seen.steps += 1;
        match step {
            Step::Begin { other_body, retry } => self.begin(other_body, retry).await,
            Step::Complete => self.complete().await,
            Step::Release => self.release().await,
            Step::Unknown => {
                let Some(owner) = self.owner.take() else { return };
                owner.claim.unknown("reset").await.expect("the owner lives");
                self.plain = Plain::Unknown {
                    attempt: owner.attempt,
                    other_body: owner.other_body,
                    retry: owner.retry,
                    since: Instant::now(),
                    grace: GRACE,
                };
            }
            Step::Drop => {
                let Some(owner) = self.owner.take() else { return };
                let Owner { claim, attempt, other_body, retry, .. } = owner;
                drop(claim);
                self.plain = Plain::Unknown { attempt, other_body, retry, since: Instant::now(), grace: GRACE };
            }
            Step::Stop => self.stop(),
            Step::ComeBack => self.come_back().await,
            // The odd part keeps every instant off the ends of leases and graces.
            Step::Pass { seconds } => tokio::time::sleep(Duration::from_millis(seconds * 1000 + 137)).await,
            Step::OperatorReleases => self.decide(None).await,
            Step::OperatorSettles => self.decide(Some("settled")).await,
        }
        settle().await;
    }

    async fn begin(&mut self, other_body: bool, retry: bool) {
        let faults = Arc::new(FaultyStore::new(Arc::new(self.store.clone())));
        let ledger = Ledger::over(faults.clone());
        let terms = Terms { on_unknown: if retry { OnUnknown::Retry } else { OnUnknown::Hold }, ..hold() };
        let fingerprint = Fingerprint::of(if other_body { "charge 900" } else { "charge 100" });
        let won = Instant::now();
        let expected = self.plain.answer(other_body, retry, won);
        let begun = ledger.begin(&id(), fingerprint, &terms).await.expect("memory answers");
        let answer = match &begun {
            Begun::Execute(claim) => Answer::Execute(claim.attempt()),
            Begun::Replay(outcome) => Answer::Replay(String::from_utf8_lossy(outcome).into_owned()),
            Begun::Mismatch => Answer::Mismatch,
            Begun::InFlight { .. } => Answer::InFlight,
            Begun::Unknown { attempt, .. } => Answer::Unknown(*attempt),
        };
        assert_eq!(answer, expected, "of {:?}", self.plain);
        self.seen.replays += usize::from(matches!(answer, Answer::Replay(_)));
        if let Begun::Execute(claim) = begun {
            let attempt = claim.attempt();
            self.seen.take_overs += usize::from(attempt > 1);
            assert!(self.owner.is_none(), "two owners at once");
            let was_free = matches!(self.plain, Plain::Free | Plain::Released { .. });
            self.plain = Plain::Running { attempt, other_body, retry, lease_end: None };
            self.owner = Some(Owner { claim, faults, attempt, other_body, retry, won, was_free, lease_end: None });
        }
    }

    fn fresh_outcome(&mut self) -> String {
        self.outcomes += 1;
        format!("outcome {}", self.outcomes)
    }

    async fn complete(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        let outcome = self.fresh_outcome();
        assert_eq!(owner.claim.complete(outcome.clone()).await.expect("the owner lives"), Recorded::Yes);
        self.plain = Plain::Done { other_body: owner.other_body, outcome };
    }

    async fn release(&mut self) {
        let Some(owner) = self.owner.take() else { return };
        let Owner { claim, attempt, other_body, retry, was_free, .. } = owner;
        let released = claim.release().await.expect("the owner lives");
        self.seen.released_unknown += usize::from(!was_free);
        (self.plain, _) = match (attempt, was_free) {
            (1, _) => (Plain::Free, assert_eq!(released, Released::Free)),
            (_, true) => (Plain::Released { attempt }, assert_eq!(released, Released::Free)),
            (_, false) => {
                let since = Instant::now();
                let unknown = Plain::Unknown { attempt, other_body, retry, since, grace: Duration::ZERO };
                (unknown, assert_eq!(released, Released::Unknown))
            }
        };
    }

    fn stop(&mut self) {
        let Some(mut owner) = self.owner.take() else { return };
        for call in [Call::Create, Call::Replace, Call::Remove] {
            owner.faults.fault_all(call, Fault::Refuse);
        }
        let third = LEASE / 3;
        let renewals = u32::try_from(owner.won.elapsed().as_millis() / third.as_millis()).expect("few");
        owner.lease_end = Some(owner.won + third * renewals + LEASE);
        if let Plain::Running { lease_end, .. } = &mut self.plain {
            *lease_end = owner.lease_end;
        }
        self.stopped.push(owner);
    }

    async fn come_back(&mut self) {
        if self.stopped.is_empty() {
            return;
        }
        let owner = self.stopped.remove(0);
        let outcome = self.fresh_outcome();
        owner.faults.heal();
        let recorded = owner.claim.complete(outcome.clone()).await;
        let its_own = match &self.plain {
            Plain::Running { attempt, .. } | Plain::Unknown { attempt, .. } => *attempt == owner.attempt,
            Plain::Released { attempt } => *attempt == owner.attempt,
            Plain::Done { .. } | Plain::Free => false,
        };
        let in_time = owner.lease_end.is_some_and(|end| Instant::now() < end);
        match (recorded, &self.plain) {
            (Ok(Recorded::Yes), Plain::Running { .. }) if its_own && in_time => {}
            (Ok(Recorded::Late), _) if its_own => self.seen.late += 1,
            (Err(NotRecorded::AlreadyDone), Plain::Done { .. }) => return,
            (Err(NotRecorded::Superseded), Plain::Running { .. } | Plain::Unknown { .. } | Plain::Released { .. })
                if !its_own =>
            {
                self.seen.superseded += 1;
                return;
            }
            (recorded, plain) => panic!("attempt {} came back to {plain:?}: {recorded:?}", owner.attempt),
        }
        self.plain = Plain::Done { other_body: owner.other_body, outcome };
    }

    async fn decide(&mut self, settlement: Option<&'static str>) {
        let ledger = Ledger::new(self.store.clone());
        let present = self.store.load(&id()).await.expect("memory answers");
        let attempt = present.map_or(1, |entry| entry.record.attempt);
        let decision = match settlement {
            None => Decision::Release,
            Some(text) => Decision::Settle(Outcome::from(text)),
        };
        let undecided = self.plain.undecided(Instant::now());
        match (ledger.decide(&id(), attempt, decision, "operator").await.expect("memory answers"), undecided) {
            (Decided::Done(_), Some(expected)) => assert_eq!(attempt, expected),
            (Decided::Refused(_), None) => return,
            (Decided::NotFound, None) => return assert_eq!(self.plain, Plain::Free),
            (decided, undecided) => panic!("{:?} of attempt {undecided:?}: {decided:?}", self.plain),
        }
        let other_body = self.plain.other_body();
        self.plain = match settlement {
            None => Plain::Released { attempt },
            Some(text) => Plain::Done { other_body, outcome: text.to_owned() },
        };
    }
}

#[test]
fn ledger_answers_as_the_plain_model_does() {
    let histories = proptest::collection::vec(step(), 1..80);
    let seen = std::cell::RefCell::new(Seen::default());
    let config = Config { cases: 1200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&histories, |steps| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let history = runtime.block_on(async {
                let mut history = History::new();
                for step in steps {
                    history.step(step).await;
                }
                history
            });
            seen.borrow_mut().add(&history.seen);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    // A model that never comes to the hard parts proves nothing.
    let seen = seen.into_inner();
    assert!(seen.steps > 1000 && seen.take_overs > 50 && seen.replays > 50, "{} take-overs", seen.take_overs);
    assert!(seen.released_unknown > 3, "{} released after an unknown", seen.released_unknown);
    assert!(seen.late > 10 && seen.superseded > 10, "{} late, {} superseded", seen.late, seen.superseded);
}
