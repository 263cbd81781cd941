//! Taking back a reserve that ended in a refusal: otherwise a lost answer would hold the key for the whole retention.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::ledger::Ledger;
use crate::ledger::store::{Draft, Entry, Notice, Store, StoreError};
use crate::record::{Record, State};
use crate::scope::RecordId;

const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Undoes a reserve when it is dropped before it is disarmed: after a refusal, and when the caller went away.
pub(super) struct TakeBack(Option<Undo>);

struct Undo {
    store: Arc<dyn Store>,
    patience: Duration,
    id: RecordId,
    draft: Draft,
    /// What stood there before a take-over.
    previous: Option<Record>,
}

impl TakeBack {
    pub(super) fn armed(ledger: &Ledger, id: &RecordId, draft: &Draft, previous: Option<&Entry>) -> TakeBack {
        TakeBack(Some(Undo {
            store: ledger.store.clone(),
            patience: ledger.shared.patience,
            id: *id,
            draft: draft.clone(),
            previous: previous.map(|entry| entry.record.clone()),
        }))
    }

    /// The reserve stands, or is known not to.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for TakeBack {
    fn drop(&mut self) {
        // Without a runtime nothing can be undone; the lease ends and the key is unknown.
        if let (Some(undo), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(undo.run());
        }
    }
}

impl Undo {
    /// Undoes, and does so again later: a command that was on its way may arrive after the first undoing.
    async fn run(self) {
        let began = Instant::now();
        for wait in [Duration::ZERO, self.patience, self.draft.record.lease] {
            sleep(wait).await;
            let mut pause = FIRST_PAUSE;
            while self.undo().await.is_err() {
                if began.elapsed() >= self.draft.record.keep {
                    return;
                }
                sleep(pause).await;
                pause = (pause * 2).min(self.draft.record.lease / 3);
            }
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
