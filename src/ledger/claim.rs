//! The claim: the right to execute, held under a lease that renews itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ledger::Shared;
use crate::ledger::background::Underway;
use crate::ledger::judge::Unexecuted;
use crate::ledger::store::StoreError;
use crate::scope::RecordId;

/// The right to execute under a key. A task of its own renews it until it is used up by [`Claim::complete`],
/// [`Claim::release`] or [`Claim::unknown`].
///
/// A claim that is dropped without a word is recorded as unknown, with the reason `dropped`: whoever held it may have
/// executed.
///
/// ```
/// use onceproxy::stores::memory::MemoryStore;
/// use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Recorded, Scope, Terms};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = Ledger::new(MemoryStore::new());
/// let id = RecordId::new(&Scope::new("jobs"), &Key::parse("job-1")?);
/// let begun = ledger.begin(&id, Fingerprint::of("charge"), &Terms::default()).await?;
/// let Begun::Execute(claim) = begun else { panic!("nobody else is here") };
/// assert!(claim.holds());
/// assert_eq!(claim.attempt(), 1);
/// assert_eq!(claim.complete("receipt 7").await?, Recorded::Yes);
/// # Ok(()) }
/// ```
#[must_use = "a claim that is dropped leaves its key unknown"]
pub struct Claim {
    id: RecordId,
    attempt: u32,
    lease: Arc<LeaseClock>,
    /// What a release leaves.
    unexecuted: Unexecuted,
    shared: Arc<Shared>,
    /// Gone once the claim has been used up.
    keeper: Option<oneshot::Sender<Order>>,
}

/// What an execution came to, to be replayed.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What a duplicate gets; opaque to the ledger.
    pub bytes: Bytes,
    /// A status for the operator, 0 where there is none.
    pub status: u16,
    /// A remark for the operator.
    pub remark: &'static str,
    /// A small outcome to record in its place, should the store refuse this one again and again while it takes smaller
    /// writes. Without one the write is repeated for the whole retention.
    pub fallback: Option<Box<Outcome>>,
}

/// An outcome that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Under a living lease.
    Yes,
    /// After the lease had ended; nobody had taken over.
    Late,
    /// The record had vanished from the store and was created again.
    Recreated,
}

/// What a release came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The key is free.
    Free,
    /// This attempt did not execute, but the one that it took the key over from may have: the outcome of the key is
    /// unknown again. Under [`OnUnknown::Retry`](crate::record::OnUnknown::Retry) a duplicate may try at once.
    Unknown,
    /// The key was not this claim's any more: another attempt has it, or an operator has decided.
    Taken,
}

/// Why an outcome is not in the record.
#[derive(Debug, thiserror::Error)]
pub enum NotRecorded {
    /// The record holds another outcome: of another attempt, or an operator's.
    #[error("the key has another outcome already")]
    AlreadyDone,
    /// Another attempt has the key.
    #[error("another attempt has taken the key over")]
    Superseded,
    /// The store keeps failing; the write goes on in the background.
    #[error("the outcome could not be recorded in time: {0}")]
    Unrecorded(#[source] Arc<StoreError>),
    /// The task that keeps the claim is gone with its runtime.
    #[error("the runtime that kept the claim has ended")]
    Abandoned,
}

/// The last word about a claim.
pub(super) enum Fate {
    Completed(Outcome),
    Unknown(Arc<str>),
    Released,
}

pub(super) struct Order {
    pub(super) fate: Fate,
    pub(super) answer: oneshot::Sender<Result<Recorded, NotRecorded>>,
    pub(super) underway: Underway,
}

/// The local end of a lease: counted on the monotonic clock from before the write that began it was sent, so that it
/// never lies behind the store's.
pub(super) struct LeaseClock {
    base: Instant,
    /// Nanoseconds after `base`; 0 when the claim is lost.
    end: AtomicU64,
}

impl Claim {
    pub(super) fn new(
        id: RecordId,
        attempt: u32,
        lease: Arc<LeaseClock>,
        unexecuted: Unexecuted,
        shared: Arc<Shared>,
        keeper: oneshot::Sender<Order>,
    ) -> Claim {
        Claim { id, attempt, lease, unexecuted, shared, keeper: Some(keeper) }
    }

    /// The record's name.
    pub fn id(&self) -> &RecordId {
        &self.id
    }

    /// The number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says whether the lease still holds. Ask right before the effect begins: after the lease has ended another may
    /// own the key.
    pub fn holds(&self) -> bool {
        self.lease.holds()
    }

    /// A question that can be asked without the claim at hand, see [`Claim::holds`].
    pub fn watch(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let lease = self.lease.clone();
        move || lease.holds()
    }

    /// Records the outcome.
    ///
    /// # Errors
    /// [`NotRecorded`] when another outcome or attempt stands in the record, or when the store kept failing for the
    /// ledger's patience; then the write goes on in the background.
    ///
    /// # Cancellation
    /// The write goes on when the future is dropped, be it before its first poll.
    pub fn complete<O: Into<Outcome>>(
        self,
        outcome: O,
    ) -> impl Future<Output = Result<Recorded, NotRecorded>> + Send + use<O> {
        self.order(Fate::Completed(outcome.into()))
    }

    /// Gives the key back. Only with proof that this attempt executed nothing. That frees the key unless an earlier
    /// attempt may have executed.
    ///
    /// # Errors
    /// [`NotRecorded`] when the store kept failing for the ledger's patience; then the write goes on in the background.
    ///
    /// # Cancellation
    /// As [`Claim::complete`].
    pub fn release(self) -> impl Future<Output = Result<Released, NotRecorded>> + Send + use<> {
        let released = match self.unexecuted {
            Unexecuted::Forgotten | Unexecuted::Free => Released::Free,
            Unexecuted::Unknown => Released::Unknown,
        };
        let answered = self.order(Fate::Released);
        async move {
            match answered.await {
                Ok(_) => Ok(released),
                Err(NotRecorded::AlreadyDone | NotRecorded::Superseded) => Ok(Released::Taken),
                Err(error @ (NotRecorded::Unrecorded(_) | NotRecorded::Abandoned)) => Err(error),
            }
        }
    }

    /// Records that nobody can tell whether it was executed, and why.
    ///
    /// # Errors
    /// As [`Claim::complete`].
    ///
    /// # Cancellation
    /// As [`Claim::complete`].
    pub fn unknown(self, reason: &str) -> impl Future<Output = Result<Recorded, NotRecorded>> + Send + use<> {
        self.order(Fate::Unknown(Arc::from(reason)))
    }

    /// Gives the order at once; the future only awaits what comes of it.
    fn order(mut self, fate: Fate) -> impl Future<Output = Result<Recorded, NotRecorded>> + Send + use<> {
        let answered = self.say(fate).expect("a claim is used up by value, so only once");
        async move { answered.await.unwrap_or(Err(NotRecorded::Abandoned)) }
    }
}

impl Claim {
    /// Sends the last word to the keeper, if it was not sent before.
    fn say(&mut self, fate: Fate) -> Option<oneshot::Receiver<Result<Recorded, NotRecorded>>> {
        let keeper = self.keeper.take()?;
        let (answer, answered) = oneshot::channel();
        // To a keeper that is gone nothing can be sent; the answer's sender falls, and that is the answer.
        let _ = keeper.send(Order { fate, answer, underway: Underway::begin(&self.shared) });
        Some(answered)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.say(Fate::Unknown(Arc::from("dropped")));
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("id", &self.id).field("attempt", &self.attempt).finish()
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome").field("status", &self.status).field("length", &self.bytes.len()).finish()
    }
}

impl<T: Into<Bytes>> From<T> for Outcome {
    fn from(bytes: T) -> Outcome {
        Outcome { bytes: bytes.into(), status: 0, remark: "", fallback: None }
    }
}

impl LeaseClock {
    pub(super) fn begin(sent: Instant, lease: Duration) -> LeaseClock {
        let clock = LeaseClock { base: sent, end: AtomicU64::new(0) };
        clock.extend(sent, lease);
        clock
    }

    /// A write that was sent at this instant has begun the lease anew.
    pub(super) fn extend(&self, sent: Instant, lease: Duration) {
        let end = sent.saturating_duration_since(self.base).saturating_add(lease);
        self.end.store(u64::try_from(end.as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
    }

    pub(super) fn lose(&self) {
        self.end.store(0, Ordering::Release);
    }

    pub(super) fn holds(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Says whether the lease will not hold any more after this time.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        self.base.elapsed().saturating_add(time).as_nanos() >= u128::from(self.end.load(Ordering::Acquire))
    }
}
