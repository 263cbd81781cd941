//! What an operator may do: decide what nobody can know.

use std::sync::Arc;

use crate::ledger::Ledger;
use crate::ledger::claim::Outcome;
use crate::ledger::judge::{Settleable, settleable};
use crate::ledger::store::{Draft, Entry, Notice, Replaced, StoreError};
use crate::record::{Record, State};
use crate::scope::RecordId;

/// An operator's decision about an outcome that is unknown.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It was not executed: the key is free again, its attempt number is kept.
    Release,
    /// It was executed: this is the outcome, to be replayed.
    Settle(Outcome),
}

/// What came of a decision.
#[derive(Debug)]
pub enum Decided {
    /// It stands; this is the record now.
    Done(Record),
    /// There is no such record.
    NotFound,
    /// The record is not unknown, its lease is alive, or it is at another attempt: this is it now.
    Refused(Entry),
}

impl Ledger {
    /// Decides about a record, which has to be unknown or in flight under a dead lease, and at this attempt.
    ///
    /// The write is a compare-and-set on the version that was read here, so that an owner that comes back at the same
    /// moment and the operator cannot both win.
    ///
    /// # Errors
    /// A [`StoreError`]; after `MaybeApplied` the decision may stand: look, and repeat it if not.
    pub async fn decide(
        &self,
        id: &RecordId,
        attempt: u32,
        decision: Decision,
        reason: &str,
    ) -> Result<Decided, StoreError> {
        let Some(entry) = self.store.load(id).await? else { return Ok(Decided::NotFound) };
        if entry.record.attempt != attempt || settleable(&entry) == Settleable::No {
            return Ok(Decided::Refused(entry));
        }
        let reason = Arc::from(reason);
        let record = match decision {
            Decision::Release => Record { state: State::Released, reason, ..entry.record.clone() },
            Decision::Settle(outcome) => Record {
                state: State::Completed,
                outcome: outcome.bytes,
                status: outcome.status,
                reason,
                ..entry.record.clone()
            },
        };
        let draft = Draft::new(record);
        match self.store.replace(id, &entry.version, &draft, Notice::Send).await? {
            Replaced::Done => {
                self.shared.waiters.wake(id);
                Ok(Decided::Done(draft.record))
            }
            Replaced::Stale(Some(present)) => Ok(Decided::Refused(present)),
            Replaced::Stale(None) => Ok(Decided::NotFound),
        }
    }
}
