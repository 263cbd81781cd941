//! Taking back a reserve that ended in a refusal, or that arrives when its claim has been released: otherwise a lost
//! answer would hold the key for the whole retention.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::ledger::background::Underway;
use crate::ledger::store::{Draft, Entry, Notice, Store, StoreError};
use crate::ledger::{Ledger, Shared};
use crate::record::{Record, State};
use crate::scope::RecordId;

const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Undoes a reserve when it is dropped before it is disarmed: after a refusal, and when the caller went away.
pub(super) struct TakeBack<'a> {
    ledger: &'a Ledger,
    id: &'a RecordId,
    draft: &'a Draft,
    previous: Option<&'a Entry>,
    is_armed: bool,
}

/// How a write is undone.
pub(super) struct Undo {
    pub(super) store: Arc<dyn Store>,
    pub(super) shared: Arc<Shared>,
    pub(super) id: RecordId,
    pub(super) draft: Draft,
    /// What stood there before a take-over.
    pub(super) previous: Option<Record>,
}

impl<'a> TakeBack<'a> {
    pub(super) fn armed(
        ledger: &'a Ledger,
        id: &'a RecordId,
        draft: &'a Draft,
        previous: Option<&'a Entry>,
    ) -> TakeBack<'a> {
        TakeBack { ledger, id, draft, previous, is_armed: true }
    }

    /// The reserve stands, or is known not to.
    pub(super) fn disarm(mut self) {
        self.is_armed = false;
    }

    fn undo(&self) -> Undo {
        Undo {
            store: self.ledger.store.clone(),
            shared: self.ledger.shared.clone(),
            id: *self.id,
            draft: self.draft.clone(),
            previous: self.previous.map(|entry| entry.record.clone()),
        }
    }
}

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        // Without a runtime nothing can be undone; the lease ends and the key is unknown.
        if let Ok(runtime) = Handle::try_current() {
            let undo = self.undo();
            let underway = Underway::begin(&undo.shared);
            runtime.spawn(undo.run(underway));
        }
    }
}

impl Undo {
    /// Undoes, and does so again later.
    async fn run(self, underway: Underway) {
        self.undo_after(Duration::ZERO, Instant::now()).await;
        self.again(underway).await;
    }

    /// Undoes what arrives later: a command may be on its way although it has been repeated, or undone. The end of the
    /// process waits for what is likely, not for the last time.
    pub(super) async fn again(self, underway: Underway) {
        let began = Instant::now();
        self.undo_after(self.shared.patience, began).await;
        drop(underway);
        self.undo_after(self.draft.record.lease, began).await;
    }

    /// Undoes after this time, as soon as the store answers, unless the record would have been forgotten by then.
    async fn undo_after(&self, wait: Duration, began: Instant) {
        sleep(wait).await;
        let mut pause = FIRST_PAUSE;
        while began.elapsed() < self.draft.record.keep && self.undo().await.is_err() {
            sleep(pause).await;
            pause = (pause * 2).min(self.draft.record.lease / 3);
        }
    }

    /// Whatever another version stands there: ours does not, which is all that is asked for.
    async fn undo(&self) -> Result<(), StoreError> {
        match &self.previous {
            None => drop(self.store.remove(&self.id, &self.draft.version, Notice::Send).await?),
            Some(previous) => {
                let state = match previous.state {
                    // It was dead when it was taken over.
                    State::InFlight => State::Unknown,
                    state => state,
                };
                let restored = Draft::new(Record { state, ..previous.clone() });
                drop(self.store.replace(&self.id, &self.draft.version, &restored, Notice::Send).await?);
            }
        }
        Ok(())
    }
}
