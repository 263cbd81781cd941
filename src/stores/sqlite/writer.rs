//! The threads behind the store: one writes, in groups, and one reads beside it.

use std::sync::mpsc::Receiver;

use tokio::sync::{broadcast, oneshot};
use tracing::warn;

use super::file::Database;
use super::{Fatal, MAX_BATCH};
use crate::ledger::store::{Created, Draft, Entry, Filter, Finding, Notice, Page, Replaced, StoreError};
use crate::record::Version;
use crate::scope::RecordId;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

/// A call that only reads.
pub(super) enum Look {
    Load { id: RecordId, answer: Answer<Option<Entry>> },
    List { filter: Filter, cursor: Option<String>, answer: Answer<Page> },
    Preflight { answer: Answer<Vec<Finding>> },
}

/// A call that may write.
pub(super) enum Change {
    Create { id: RecordId, draft: Draft, answer: Answer<Created> },
    Replace { id: RecordId, expected: Version, draft: Draft, notice: Notice, answer: Answer<Replaced> },
    Remove { id: RecordId, expected: Version, notice: Notice, answer: Answer<Replaced> },
    Purge { limit: usize, answer: Answer<usize> },
}

/// An answer that is given when the group is committed; with the error that stands for it when it is not.
type Held = Box<dyn FnOnce(Result<(), StoreError>)>;

/// Writes until all handles of the store are gone and the queue is empty.
pub(super) fn write(
    database: &Database,
    queue: &Receiver<Change>,
    notices: &broadcast::Sender<RecordId>,
    fatal: Fatal,
) {
    while let Ok(first) = queue.recv() {
        let queued = std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok()));
        commit(database, queued.take(MAX_BATCH), notices, fatal);
    }
}

/// Reads until all handles of the store are gone.
pub(super) fn read(database: &Database, queue: &Receiver<Look>) {
    while let Ok(look) = queue.recv() {
        // Whoever no longer waits for the answer does not get it.
        match look {
            Look::Load { id, answer } => drop(answer.send(database.load(&id))),
            Look::List { filter, cursor, answer } => drop(answer.send(database.list(filter, cursor.as_deref()))),
            Look::Preflight { answer } => drop(answer.send(Ok(database.preflight()))),
        }
    }
}

fn commit(
    database: &Database,
    mut changes: impl Iterator<Item = Change>,
    notices: &broadcast::Sender<RecordId>,
    fatal: Fatal,
) {
    if let Err(error) = database.begin() {
        warn!(%error, "SQLite cannot begin a transaction");
        return changes.for_each(|change| change.refuse(&error.to_string()));
    }
    let mut changed = Vec::new();
    let mut held: Vec<Held> = Vec::new();
    for change in changes.by_ref() {
        held.push(change.apply(database, &mut changed));
        if !database.in_transaction() {
            let why = "SQLite gave the transaction up; the disk may be full";
            held.into_iter().for_each(|answer| answer(Err(StoreError::NotApplied(why.into()))));
            return changes.for_each(|change| change.refuse(why));
        }
    }
    match database.commit() {
        Ok(()) => {
            held.into_iter().for_each(|answer| answer(Ok(())));
            // Nobody listens: nobody waits.
            changed.into_iter().for_each(|id| drop(notices.send(id)));
        }
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
            database.roll_back();
            held.into_iter().for_each(|answer| answer(Err(StoreError::Full("the disk is full".into()))));
        }
        Err(error) => fatal(&error),
    }
}

impl Change {
    /// Does it, and holds the answer until the commit.
    fn apply(self, database: &Database, changed: &mut Vec<RecordId>) -> Held {
        match self {
            Change::Create { id, draft, answer } => hold(answer, database.create(&id, &draft)),
            Change::Replace { id, expected, draft, notice, answer } => {
                let result = database.replace(&id, &expected, &draft);
                note(changed, &id, notice, &result);
                hold(answer, result)
            }
            Change::Remove { id, expected, notice, answer } => {
                let result = database.remove(&id, &expected);
                note(changed, &id, notice, &result);
                hold(answer, result)
            }
            Change::Purge { limit, answer } => hold(answer, database.purge(limit)),
        }
    }

    fn refuse(self, why: &str) {
        let refusal = || StoreError::NotApplied(why.into());
        match self {
            Change::Create { answer, .. } => drop(answer.send(Err(refusal()))),
            Change::Replace { answer, .. } | Change::Remove { answer, .. } => drop(answer.send(Err(refusal()))),
            Change::Purge { answer, .. } => drop(answer.send(Err(refusal()))),
        }
    }
}

fn hold<T: 'static>(answer: Answer<T>, result: Result<T, StoreError>) -> Held {
    Box::new(move |committed| drop(answer.send(committed.and(result))))
}

fn note(changed: &mut Vec<RecordId>, id: &RecordId, notice: Notice, result: &Result<Replaced, StoreError>) {
    if notice == Notice::Send && matches!(result, Ok(Replaced::Done)) {
        changed.push(*id);
    }
}
