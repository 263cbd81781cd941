//! Winning a key, or reading what is under it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use crate::failpoint;
use crate::fingerprint::Fingerprint;
use crate::ledger::claim::{Claim, LeaseClock};
use crate::ledger::judge::{Unexecuted, Verdict, judge, unexecuted};
use crate::ledger::keeper::Keeper;
use crate::ledger::store::{Created, Draft, Entry, Notice, Replaced, StoreError};
use crate::ledger::take_back::TakeBack;
use crate::ledger::terms::{MIN_LEASE, Terms};
use crate::ledger::{Begun, Ledger, Shared};
use crate::record::{Record, State, Version};
use crate::scope::RecordId;

/// How often one call may lose a race before it says that the key is busy.
const MAX_ROUNDS: u32 = 16;
/// The pauses between two looks at another's execution. Notices come sooner; these are the truth.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// The pause before a reserve is repeated of which the answer was lost.
const REPEAT: Duration = Duration::from_millis(5);
/// How long an owner that lost its key waits for the one that has it, where the terms do not say.
#[cfg(feature = "http")]
const FOLLOW: Duration = Duration::from_secs(10);

impl Ledger {
    /// Wins the key, or says what is under it. Waits for another's execution when the terms say so.
    ///
    /// # Errors
    /// A [`StoreError`] when the store does not answer, refuses, or holds something unreadable. Then nothing was
    /// begun: a reserve that may have been written is taken back in the background.
    ///
    /// # Cancellation
    /// A key that may have been won is given back in the background.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time.
    pub async fn begin(&self, id: &RecordId, fingerprint: Fingerprint, terms: &Terms) -> Result<Begun, StoreError> {
        match (self.begin_at_once(id, fingerprint, terms).await?, terms.wait) {
            (Begun::InFlight { retry_after }, Some(wait)) => {
                self.begin_waiting(id, fingerprint, terms, wait, retry_after).await
            }
            (begun, _) => Ok(begun),
        }
    }

    /// [`Ledger::begin`] without waiting.
    pub(crate) async fn begin_at_once(
        &self,
        id: &RecordId,
        fingerprint: Fingerprint,
        terms: &Terms,
    ) -> Result<Begun, StoreError> {
        let mut entry = match self.reserve(id, Record::first(fingerprint, terms), None, terms).await? {
            Reserved::Won(claim) => return Ok(Begun::Execute(claim)),
            Reserved::Occupied(entry) => entry,
        };
        for _ in 0..MAX_ROUNDS {
            let attempt = match judge(&entry, &fingerprint, terms) {
                Verdict::TakeOver { attempt } => attempt,
                verdict => return Ok(Begun::from_verdict(verdict, entry)),
            };
            let record = Record { attempt, ..Record::first(fingerprint, terms) };
            match self.reserve(id, record, Some(entry), terms).await? {
                Reserved::Won(claim) => return Ok(Begun::Execute(claim)),
                Reserved::Occupied(present) => entry = present,
            }
        }
        Ok(Begun::InFlight { retry_after: LAST_LOOK })
    }

    /// Waits for another's execution, and takes the key when it becomes free.
    pub(crate) async fn begin_waiting(
        &self,
        id: &RecordId,
        fingerprint: Fingerprint,
        terms: &Terms,
        wait: Duration,
        mut retry_after: Duration,
    ) -> Result<Begun, StoreError> {
        let deadline = Instant::now() + wait;
        let Some(ticket) = self.shared.waiters.enter(id) else { return Ok(Begun::InFlight { retry_after }) };
        self.listen();
        let mut pause = FIRST_LOOK;
        loop {
            // Subscribed before the look: an end between look and wait still rings.
            let mut ring = std::pin::pin!(ticket.bell.notified());
            ring.as_mut().enable();
            match self.begin_at_once(id, fingerprint, terms).await {
                Ok(Begun::InFlight { retry_after: later }) => retry_after = later,
                Ok(begun) => return Ok(begun),
                // What is there now is of another release, or damaged: no waiting makes it readable.
                Err(error @ (StoreError::Corrupt | StoreError::UnknownFormat(_))) => return Err(error),
                // Somebody was at work a moment ago: not a reason to say that nobody is.
                Err(error) => debug!(record = %id.prefix(), %error, "a look while waiting failed"),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Begun::InFlight { retry_after });
            }
            let _ = timeout(pause.min(left), ring).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// What is under a key for an owner that lost it. Waits, never takes the key.
    #[cfg(feature = "http")]
    pub(crate) async fn follow(&self, id: &RecordId, fingerprint: Fingerprint, terms: &Terms) -> Begun {
        let busy = Begun::InFlight { retry_after: LAST_LOOK };
        let deadline = Instant::now() + terms.wait.unwrap_or(FOLLOW);
        let Some(ticket) = self.shared.waiters.enter(id) else { return busy };
        self.listen();
        let mut pause = FIRST_LOOK;
        loop {
            let mut ring = std::pin::pin!(ticket.bell.notified());
            ring.as_mut().enable();
            if let Ok(Some(entry)) = self.store.load(id).await {
                match judge(&entry, &fingerprint, terms) {
                    Verdict::InFlight { .. } | Verdict::TakeOver { .. } => {}
                    verdict => return Begun::from_verdict(verdict, entry),
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return busy;
            }
            let _ = timeout(pause.min(left), ring).await;
            pause = (pause * 2).min(LAST_LOOK);
        }
    }

    /// Writes a reserve: a create, or a take-over of `previous`. Repeats it while its answer is lost.
    async fn reserve(
        &self,
        id: &RecordId,
        record: Record,
        previous: Option<Entry>,
        terms: &Terms,
    ) -> Result<Reserved, StoreError> {
        let draft = Draft::new(record);
        let sent = Instant::now();
        let guard = TakeBack::armed(self, id, &draft, previous.as_ref());
        // Whether a write of ours may still be on its way.
        let mut doubtful = false;
        loop {
            let reply = match &previous {
                None => {
                    let mut create = self.store.create(id, &draft);
                    failpoint::reach_when_sent("reserve-sent", &mut create).await;
                    create.await
                }
                Some(entry) => match self.store.replace(id, &entry.version, &draft, Notice::Skip).await {
                    Ok(Replaced::Done) => Ok(Created::New),
                    Ok(Replaced::Stale(Some(present))) => Ok(Created::Existing(present)),
                    // Gone meanwhile: whoever comes next creates it.
                    Ok(Replaced::Stale(None)) => self.store.create(id, &draft).await,
                    Err(error) => Err(error),
                },
            };
            match reply {
                Ok(Created::New) => {
                    guard.disarm();
                    let unexecuted = unexecuted(previous.map(|entry| entry.record.state));
                    let late = doubtful.then_some(draft.version).into_iter().collect();
                    return Ok(Reserved::Won(self.claim(id, draft, unexecuted, late, sent, terms)));
                }
                Ok(Created::Existing(entry)) => {
                    if !doubtful {
                        guard.disarm();
                    }
                    return Ok(Reserved::Occupied(entry));
                }
                Err(StoreError::MaybeApplied(_)) if sent.elapsed() < self.shared.patience => {
                    doubtful = true;
                    sleep(REPEAT).await;
                }
                Err(error) => {
                    if !doubtful && !matches!(error, StoreError::MaybeApplied(_)) {
                        guard.disarm();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Begins to keep a claim that was won by a write that was sent at this instant.
    fn claim(
        &self,
        id: &RecordId,
        draft: Draft,
        unexecuted: Unexecuted,
        late: Vec<Version>,
        sent: Instant,
        terms: &Terms,
    ) -> Claim {
        let lease = Arc::new(LeaseClock::begin(sent, draft.record.lease));
        let (orders, inbox) = oneshot::channel();
        let claim = Claim::new(*id, draft.record.attempt, lease.clone(), unexecuted, self.shared.clone(), orders);
        // Boxed: it is moved several times before its task has its place.
        let keeper = Box::new(Keeper {
            store: self.store.clone(),
            shared: self.shared.clone(),
            id: *id,
            record: draft.record,
            retention: terms.retention,
            current: draft.version,
            written: VecDeque::from([draft.version]),
            late,
            pending: None,
            lease,
            unexecuted,
            notice: notice_for(terms),
        });
        tokio::spawn(keeper.run(inbox, sent));
        claim
    }

    /// Listens to the store's notices, once per ledger, from the first waiter on.
    fn listen(&self) {
        if self.shared.listening.swap(true, Ordering::AcqRel) {
            return;
        }
        let listening = Listening(Arc::downgrade(&self.shared));
        let store = self.store.clone();
        tokio::spawn(async move {
            let mut pause = FIRST_LOOK;
            loop {
                if let Ok(mut notices) = store.notices().await {
                    pause = FIRST_LOOK;
                    while let Some(id) = notices.next().await {
                        let Some(shared) = listening.0.upgrade() else { return };
                        shared.waiters.wake(&id);
                    }
                }
                let Some(shared) = listening.0.upgrade() else { return };
                shared.waiters.wake_all();
                drop(shared);
                sleep(pause).await;
                pause = (pause * 2).min(LAST_LOOK);
            }
        });
    }
}

impl Begun {
    fn from_verdict(verdict: Verdict, entry: Entry) -> Begun {
        match verdict {
            Verdict::Replay => Begun::Replay(entry.record.outcome),
            Verdict::Mismatch => Begun::Mismatch,
            Verdict::InFlight { retry_after } => Begun::InFlight { retry_after },
            Verdict::Unknown => Begun::Unknown { attempt: entry.record.attempt, reason: entry.record.reason },
            Verdict::TakeOver { .. } => unreachable!("a take-over is handled by the caller"),
        }
    }
}

impl Record {
    /// The record of a first attempt.
    fn first(fingerprint: Fingerprint, terms: &Terms) -> Record {
        // Terms that cannot work are made to: a record that ends before its lease is renewed forgets an execution.
        let lease = terms.lease.max(MIN_LEASE);
        let keep = terms.retention.max(lease * 4).max(lease.saturating_add(terms.retry_grace));
        Record {
            state: State::InFlight,
            attempt: 1,
            on_unknown: terms.on_unknown,
            lease,
            keep,
            grace: terms.retry_grace,
            fingerprint,
            route: terms.route.clone(),
            status: 0,
            reason: Arc::from(""),
            outcome: Bytes::new(),
        }
    }
}

/// Notices cost the store something: only where duplicates wait.
fn notice_for(terms: &Terms) -> Notice {
    if terms.wait.is_some() { Notice::Send } else { Notice::Skip }
}

enum Reserved {
    Won(Claim),
    Occupied(Entry),
}

/// The listener's mark; when its runtime ends, the next waiter starts another.
struct Listening(Weak<Shared>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.listening.store(false, Ordering::Release);
        }
    }
}
