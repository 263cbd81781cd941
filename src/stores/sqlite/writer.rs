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

/// What a change came to, to be told when the group is committed.
enum Done {
    Created(Result<Created, StoreError>),
    Replaced(Result<Replaced, StoreError>),
    Purged(Result<usize, StoreError>),
}

/// What became of a group.
enum Ended {
    Committed(Vec<Done>),
    /// None of it was written, and why.
    Undone(Undone),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Undone {
    DiskFull,
    /// SQLite ended the transaction by itself.
    GivenUp,
}

/// Writes until all handles of the store are gone and the queue is empty.
pub(super) fn write(
    database: &Database,
    queue: &Receiver<Change>,
    notices: &broadcast::Sender<RecordId>,
    fatal: Fatal,
) {
    while let Ok(first) = queue.recv() {
        let queued = std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok()));
        commit(database, queued.take(MAX_BATCH).collect(), notices, fatal);
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

/// Writes a group in one transaction. When there is no room for all of it, each change has one of its own: what only
/// reads, and what still fits, must not fail with the rest.
fn commit(database: &Database, changes: Vec<Change>, notices: &broadcast::Sender<RecordId>, fatal: Fatal) {
    match transact(database, &changes, fatal) {
        Ok(Ended::Committed(done)) => {
            for (change, done) in changes.into_iter().zip(done) {
                let changed = change.changed(&done);
                change.answer(done);
                if let Some(id) = changed {
                    // Nobody listens: nobody waits.
                    let _ = notices.send(id);
                }
            }
        }
        Ok(Ended::Undone(_)) if changes.len() > 1 => {
            changes.into_iter().for_each(|change| commit(database, vec![change], notices, fatal));
        }
        Ok(Ended::Undone(Undone::DiskFull)) => {
            changes.into_iter().for_each(|change| change.refuse(|| StoreError::Full("the disk is full".into())));
        }
        Ok(Ended::Undone(Undone::GivenUp)) => {
            let why = "SQLite gave the transaction up; the disk may be full";
            changes.into_iter().for_each(|change| change.refuse(|| StoreError::NotApplied(why.into())));
        }
        Err(error) => {
            warn!(%error, "SQLite cannot begin a transaction");
            let why = error.to_string();
            changes.into_iter().for_each(|change| change.refuse(|| StoreError::NotApplied(why.clone().into())));
        }
    }
}

/// One transaction; an error is one of its beginning.
fn transact(database: &Database, changes: &[Change], fatal: Fatal) -> rusqlite::Result<Ended> {
    database.begin()?;
    let mut done = Vec::with_capacity(changes.len());
    for change in changes {
        done.push(change.apply(database));
        if !database.in_transaction() {
            return Ok(Ended::Undone(Undone::GivenUp));
        }
    }
    match database.commit() {
        Ok(()) => Ok(Ended::Committed(done)),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) => {
            database.roll_back();
            Ok(Ended::Undone(Undone::DiskFull))
        }
        Err(error) => fatal(&error),
    }
}

impl Change {
    fn apply(&self, database: &Database) -> Done {
        match self {
            Change::Create { id, draft, .. } => Done::Created(database.create(id, draft)),
            Change::Replace { id, expected, draft, .. } => Done::Replaced(database.replace(id, expected, draft)),
            Change::Remove { id, expected, .. } => Done::Replaced(database.remove(id, expected)),
            Change::Purge { limit, .. } => Done::Purged(database.purge(*limit)),
        }
    }

    /// The record that somebody asked to hear of, when it has changed.
    fn changed(&self, done: &Done) -> Option<RecordId> {
        match (self, done) {
            (
                Change::Replace { id, notice: Notice::Send, .. } | Change::Remove { id, notice: Notice::Send, .. },
                Done::Replaced(Ok(Replaced::Done)),
            ) => Some(*id),
            _ => None,
        }
    }

    /// Tells what it came to; whoever no longer waits for it does not get it.
    fn answer(self, done: Done) {
        match (self, done) {
            (Change::Create { answer, .. }, Done::Created(result)) => drop(answer.send(result)),
            (Change::Replace { answer, .. } | Change::Remove { answer, .. }, Done::Replaced(result)) => {
                drop(answer.send(result));
            }
            (Change::Purge { answer, .. }, Done::Purged(result)) => drop(answer.send(result)),
            _ => unreachable!("each change is done as what it is"),
        }
    }

    fn refuse(self, why: impl FnOnce() -> StoreError) {
        match self {
            Change::Create { answer, .. } => drop(answer.send(Err(why()))),
            Change::Replace { answer, .. } | Change::Remove { answer, .. } => drop(answer.send(Err(why()))),
            Change::Purge { answer, .. } => drop(answer.send(Err(why()))),
        }
    }
}
