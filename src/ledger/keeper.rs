//! The keeper: the task behind a claim. It alone writes the record, one write at a time, and knows which versions are
//! its own.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use crate::failpoint;
use crate::ledger::Shared;
use crate::ledger::background::Underway;
use crate::ledger::claim::{Fate, LeaseClock, NotRecorded, Order, Outcome, Recorded};
use crate::ledger::judge::{Footing, Unexecuted, footing};
use crate::ledger::store::{Created, Draft, Notice, Replaced, Store, StoreError};
use crate::ledger::take_back::Undo;
use crate::record::{Record, State, Version};
use crate::scope::RecordId;

/// The first pause after a failed write; it doubles up to a third of the lease.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How often one write may find another version in place. A lost answer makes two; more is a broken store.
const MAX_STALE: u32 = 8;
/// How many versions a claim remembers; a store that loses more of the latest writes than that has lost the claim.
const MAX_WRITTEN: usize = 1024;

/// How often an outcome fails while renewals pass, until its fallback is recorded.
const MAX_REFUSALS: u32 = 5;

pub(super) struct Keeper {
    pub(super) store: Arc<dyn Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) id: RecordId,
    /// The record as it stands in flight; every write is a variation of it.
    pub(super) record: Record,
    /// How long a finished record is kept.
    pub(super) retention: Duration,
    /// The version that was in place when a write was last acknowledged.
    pub(super) current: Version,
    /// The versions of its writes so far, the latest last: after a failover an earlier one may be in place again.
    pub(super) written: VecDeque<Version>,
    /// Creates of which the answer was lost: they may still be on their way.
    pub(super) late: Vec<Version>,
    /// A renewal of which the answer was lost, and when it was first sent.
    pub(super) pending: Option<(Draft, Instant)>,
    pub(super) lease: Arc<LeaseClock>,
    /// What a release leaves.
    pub(super) unexecuted: Unexecuted,
    pub(super) notice: Notice,
}

/// What a definite write came to.
enum Written {
    Done,
    Recreated,
    /// Written over an unknown or released record that nobody had taken.
    Reclaimed,
}

enum WriteError {
    AlreadyDone,
    Superseded,
    Store(StoreError),
}

impl Keeper {
    /// Renews until the order comes, then writes the last word.
    pub(super) async fn run(mut self: Box<Self>, mut orders: oneshot::Receiver<Order>, sent: Instant) {
        let third = self.record.lease / 3;
        let mut renew_at = sent + third;
        let mut pause = FIRST_PAUSE;
        let mut lost = false;
        let order = loop {
            tokio::select! {
                biased;
                order = &mut orders => break order,
                () = sleep_until(renew_at), if !lost => {}
            }
            // Boxed, as what comes at the end: most claims only wait here, and every one is moved into its task.
            match Box::pin(self.renew()).await {
                Ok(sent) => {
                    pause = FIRST_PAUSE;
                    renew_at = sent + third;
                }
                Err(WriteError::Store(error)) => {
                    debug!(record = %self.id.prefix(), %error, "a renewal failed and is repeated");
                    renew_at = Instant::now() + pause;
                    pause = (pause * 2).min(third);
                }
                Err(WriteError::AlreadyDone | WriteError::Superseded) => {
                    self.lease.lose();
                    self.shared.alarms.leases_lost();
                    warn!(record = %self.id.prefix(), attempt = self.record.attempt, "the claim is lost: another holds the key");
                    lost = true;
                }
            }
        };
        Box::pin(self.finish(order.expect("a claim that goes away says so"))).await;
    }

    /// Begins the lease anew; gives the instant from which it counts.
    async fn renew(&mut self) -> Result<Instant, WriteError> {
        let (draft, sent) = self.pending.take().unwrap_or_else(|| (Draft::new(self.record.clone()), Instant::now()));
        match self.write(&draft, Overwrite::Own, Notice::Skip).await {
            Ok(_) => {
                self.lease.extend(sent, self.record.lease);
                Ok(sent)
            }
            Err(WriteError::Store(error)) => {
                // A repeat under the same version may find itself in place: its lease counts from the first sending.
                self.pending = Some((draft, sent));
                Err(WriteError::Store(error))
            }
            Err(other) => Err(other),
        }
    }

    /// Writes the last word. When the store keeps failing the owner is told after the ledger's patience, and the
    /// writing goes on, with renewals between, until the record would have been forgotten anyway.
    async fn finish(mut self: Box<Self>, order: Order) {
        // Under way until the end of this function.
        let Order { mut fate, answer, underway: _underway } = order;
        let mut fallback = match &mut fate {
            Fate::Completed(outcome) => outcome.fallback.take(),
            Fate::Unknown(_) | Fate::Released => None,
        };
        let began = Instant::now();
        let mut answer = Some(answer);
        let mut pause = FIRST_PAUSE;
        let mut refusals = 0;
        let mut draft = self.last_word(fate);
        loop {
            let error = match self.write_last_word(draft.as_ref()).await {
                ControlFlow::Break(result) => {
                    self.shared.waiters.wake(&self.id);
                    match (answer.take(), result) {
                        (Some(answer), result) => drop(answer.send(result)),
                        (None, Ok(_)) => debug!(record = %self.id.prefix(), "an outcome was recorded in the end"),
                        (None, Err(error)) => {
                            warn!(record = %self.id.prefix(), %error, "an outcome could not be recorded");
                        }
                    }
                    return;
                }
                ControlFlow::Continue(error) => Arc::new(error),
            };
            let hopeless = matches!(*error, StoreError::Corrupt | StoreError::UnknownFormat(_));
            if (hopeless || began.elapsed() >= self.shared.patience)
                && let Some(answer) = answer.take()
            {
                self.shared.alarms.unrecorded();
                warn!(record = %self.id.prefix(), %error, "an outcome is not recorded yet");
                drop(answer.send(Err(NotRecorded::Unrecorded(error))));
            }
            if hopeless || began.elapsed() >= self.retention {
                return;
            }
            let patience_left = self.shared.patience.saturating_sub(began.elapsed());
            sleep(if answer.is_some() { pause.min(patience_left.max(FIRST_PAUSE)) } else { pause }).await;
            pause = (pause * 2).min(self.record.lease / 3);
            // A large outcome may fail where a small renewal passes: the key stays in flight meanwhile. The pause is a
            // third of the lease at most, so that another third is left when it is noticed.
            let is_due = self.lease.ends_within(self.record.lease * 2 / 3);
            let is_told = answer.is_none();
            if is_due || is_told && fallback.is_some() {
                let renewed = self.renew().await;
                refusals += u32::from(is_told && renewed.is_ok());
            }
            // An outcome that is still on its way expects the version that this renewal has replaced.
            if refusals >= MAX_REFUSALS
                && let Some(fallback) = fallback.take()
            {
                warn!(record = %self.id.prefix(), "the store takes smaller writes only: the outcome is not kept whole");
                draft = self.last_word(Fate::Completed(*fallback));
            }
        }
    }

    /// The write that ends the claim; none when the record is to be removed.
    fn last_word(&self, fate: Fate) -> Option<Draft> {
        let kept = Record { keep: self.retention, ..self.record.clone() };
        let not_executed = Arc::from("not-executed");
        Some(Draft::new(match fate {
            Fate::Completed(Outcome { bytes, status, remark, fallback: _ }) => {
                Record { state: State::Completed, outcome: bytes, status, reason: Arc::from(remark), ..kept }
            }
            Fate::Unknown(reason) => Record { state: State::Unknown, reason, ..kept },
            Fate::Released => match self.unexecuted {
                Unexecuted::Forgotten => return None,
                // An earlier attempt's number is kept, so that it can still be told from the next one.
                Unexecuted::Free => Record { state: State::Released, reason: not_executed, ..kept },
                // The earlier attempt had its grace before it was taken over.
                Unexecuted::Unknown => {
                    Record { state: State::Unknown, reason: not_executed, grace: Duration::ZERO, ..kept }
                }
            },
        }))
    }

    async fn write_last_word(
        &mut self,
        draft: Option<&Draft>,
    ) -> ControlFlow<Result<Recorded, NotRecorded>, StoreError> {
        let Some(draft) = draft else { return self.remove().await };
        let written = self.write(draft, overwrite_for(draft.record.state), self.notice).await;
        ControlFlow::Break(match written {
            Ok(Written::Recreated) => Ok(Recorded::Recreated),
            Ok(Written::Done) if self.lease.holds() => Ok(Recorded::Yes),
            Ok(Written::Done | Written::Reclaimed) => Ok(Recorded::Late),
            Err(WriteError::AlreadyDone) => Err(NotRecorded::AlreadyDone),
            Err(WriteError::Superseded) => Err(NotRecorded::Superseded),
            Err(WriteError::Store(error)) => return ControlFlow::Continue(error),
        })
    }

    async fn remove(&mut self) -> ControlFlow<Result<Recorded, NotRecorded>, StoreError> {
        for _ in 0..MAX_STALE {
            let entry = match self.store.remove(&self.id, &self.current, self.notice).await {
                Ok(Replaced::Done | Replaced::Stale(None)) => {
                    self.take_back_what_is_late();
                    return ControlFlow::Break(Ok(Recorded::Yes));
                }
                Ok(Replaced::Stale(Some(entry))) => entry,
                Err(error) => return ControlFlow::Continue(error),
            };
            if !self.adopt(&entry.version) {
                return ControlFlow::Break(Err(match entry.record.state {
                    State::Completed => NotRecorded::AlreadyDone,
                    State::InFlight | State::Unknown | State::Released => NotRecorded::Superseded,
                }));
            }
        }
        ControlFlow::Continue(StoreError::NotApplied("the record keeps changing under the removal".into()))
    }

    /// Where no record is, a create that arrives late makes one: the key would be held by nobody.
    fn take_back_what_is_late(&mut self) {
        for version in std::mem::take(&mut self.late) {
            let undo = Undo {
                store: self.store.clone(),
                shared: self.shared.clone(),
                id: self.id,
                draft: Draft { version, record: self.record.clone() },
                previous: None,
            };
            tokio::spawn(undo.again(Underway::begin(&self.shared)));
        }
    }

    /// Puts a draft in the place of whatever is ours.
    async fn write(&mut self, draft: &Draft, overwrite: Overwrite, notice: Notice) -> Result<Written, WriteError> {
        let mut reclaimed = false;
        // A last word is not: a renewal that finds it in place must leave it there.
        if draft.record.state == State::InFlight {
            self.remember(draft.version);
        }
        for _ in 0..MAX_STALE {
            let mut replace = self.store.replace(&self.id, &self.current, draft, notice);
            if draft.record.state == State::Completed {
                failpoint::reach_when_sent("complete-sent", &mut replace).await;
            }
            let entry = match replace.await.map_err(WriteError::Store)? {
                Replaced::Done => {
                    self.current = draft.version;
                    return Ok(if reclaimed { Written::Reclaimed } else { Written::Done });
                }
                Replaced::Stale(Some(entry)) => entry,
                Replaced::Stale(None) => match self.store.create(&self.id, draft).await {
                    Ok(Created::New) => {
                        self.current = draft.version;
                        self.shared.alarms.recreated();
                        warn!(record = %self.id.prefix(), "the record of a running claim had vanished from the store");
                        return Ok(Written::Recreated);
                    }
                    Ok(Created::Existing(entry)) => entry,
                    Err(error) => {
                        if matches!(error, StoreError::MaybeApplied(_)) && !self.late.contains(&draft.version) {
                            self.late.push(draft.version);
                        }
                        return Err(WriteError::Store(error));
                    }
                },
            };
            match footing(self.written.make_contiguous(), self.record.attempt, &self.record.fingerprint, &entry) {
                Footing::Own => {
                    self.adopt(&entry.version);
                }
                Footing::Untaken if overwrite == Overwrite::Untaken => {
                    reclaimed = true;
                    self.current = entry.version;
                }
                Footing::AlreadyDone => return Err(WriteError::AlreadyDone),
                Footing::Untaken | Footing::Superseded => return Err(WriteError::Superseded),
            }
        }
        Err(WriteError::Store(StoreError::NotApplied("the record keeps changing under the write".into())))
    }

    /// Takes a version that is in place as the current one when it is ours.
    fn adopt(&mut self, version: &Version) -> bool {
        let is_ours = self.written.contains(version);
        if is_ours {
            self.current = *version;
        }
        if self.pending.as_ref().is_some_and(|(pending, _)| pending.version == *version) {
            self.pending = None;
        }
        is_ours
    }

    fn remember(&mut self, version: Version) {
        if self.written.contains(&version) {
            return;
        }
        if self.written.len() >= MAX_WRITTEN {
            self.written.pop_front();
        }
        self.written.push_back(version);
    }
}

/// What a write may be put in the place of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overwrite {
    /// Only of own writes.
    Own,
    /// Also of an unknown or released record that nobody has taken.
    Untaken,
}

/// An outcome is worth more than an operator's guess; a guess is not.
fn overwrite_for(state: State) -> Overwrite {
    match state {
        State::Completed => Overwrite::Untaken,
        State::InFlight | State::Unknown | State::Released => Overwrite::Own,
    }
}
