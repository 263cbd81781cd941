//! The embedded store: one SQLite file for one process.
//!
//! WAL with `synchronous = FULL`: what was acknowledged survives a crash. One thread reads; another writes: it takes what is queued, at
//! most [`MAX_BATCH`] changes, into one transaction and waits for no more, so that many callers share one fsync. A lock
//! on `PATH.lock` keeps a second process out.
//!
//! When the lock was taken, nobody else is at work: everything in flight gets a lease of zero, counted from now. Under
//! hold it is unknown at once; under retry the grace runs from the restart.
//!
//! Leases and keeps are counted by a clock of the file's own, which nobody sets: see `clock`.
//!
//! A commit that fails for another reason than a full disk ends the process: what SQLite holds in memory and what is on
//! the disk may differ then, and nothing that is answered after it could be trusted.

mod clock;
mod file;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::{broadcast, oneshot};
use tokio::time::timeout;

use crate::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Store, StoreError, StoreFuture,
};
use crate::record::Version;
use crate::scope::RecordId;
use crate::stores::sqlite::file::Database;
use crate::stores::sqlite::writer::{Change, Look, read, write};

pub use crate::stores::sqlite::file::OpenError;

/// How many changes share one transaction at most.
pub const MAX_BATCH: usize = 256;
/// How many calls wait for the writer at most; more are refused.
const QUEUE: usize = 8192;
const NOTICES: usize = 1024;
const ENDED: &str = "the SQLite thread has ended";

/// What ends the process after a commit that failed. Tests put something else in its place.
pub type Fatal = fn(&rusqlite::Error) -> !;

/// How a [`SqliteStore`] works.
///
/// ```
/// use std::time::Duration;
///
/// use onceproxy::stores::sqlite::SqliteOptions;
///
/// let patient = SqliteOptions { command_timeout: Duration::from_secs(5), ..SqliteOptions::default() };
/// assert_eq!(patient.prefix, "once");
/// ```
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The first part of the tables' names.
    pub prefix: String,
    /// The longest time of one call. A disk that is slower has what it wrote looked for again.
    pub command_timeout: Duration,
    /// What is done after a commit that failed; by default the process ends.
    pub fatal: Fatal,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions { prefix: "once".to_owned(), command_timeout: Duration::from_millis(500), fatal: abort }
    }
}

/// A store in one SQLite file. Clones share it; the file is closed when the last one is dropped.
#[derive(Clone)]
pub struct SqliteStore {
    shared: Arc<Shared>,
}

struct Shared {
    /// Gone when the store is dropped, which ends the threads.
    queues: Option<Queues>,
    threads: Vec<JoinHandle<()>>,
    command_timeout: Duration,
    notices: broadcast::Sender<RecordId>,
}

struct Queues {
    changes: SyncSender<Change>,
    looks: SyncSender<Look>,
}

impl SqliteStore {
    /// Opens a file, and creates it where there is none, readable by its owner only.
    ///
    /// # Errors
    /// [`OpenError`] when another process has it, when it is not a store of this release, or when it cannot be opened.
    pub fn open(path: &Path) -> Result<SqliteStore, OpenError> {
        SqliteStore::open_with(path, SqliteOptions::default())
    }

    /// As [`SqliteStore::open`], with options.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(path: &Path, options: SqliteOptions) -> Result<SqliteStore, OpenError> {
        let SqliteOptions { prefix, command_timeout, fatal } = options;
        let writing = Database::open(path, &prefix)?;
        let reading = writing.beside()?;
        // Whoever waits for a lock of another program's is told so before the call ends without an answer.
        for database in [&writing, &reading] {
            database.wait_for_locks(command_timeout / 2).map_err(|error| OpenError::Sqlite(path.to_owned(), error))?;
        }
        let (changes, change_queue) = mpsc::sync_channel(QUEUE);
        let (looks, look_queue) = mpsc::sync_channel(QUEUE);
        let notices = broadcast::Sender::new(NOTICES);
        let told = notices.clone();
        let threads = vec![
            thread("sqlite-writer", move || write(&writing, &change_queue, &told, fatal))?,
            thread("sqlite-reader", move || read(&reading, &look_queue))?,
        ];
        let queues = Some(Queues { changes, looks });
        Ok(SqliteStore { shared: Arc::new(Shared { queues, threads, command_timeout, notices }) })
    }

    async fn change<T>(
        &self,
        change: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Change,
    ) -> Result<T, StoreError> {
        let answered = ask(&self.shared.queues().changes, change)?;
        timeout(self.shared.command_timeout, answered)
            .await
            .map_err(|elapsed| StoreError::MaybeApplied(elapsed.into()))?
            .unwrap_or_else(|_| Err(StoreError::MaybeApplied(ENDED.into())))
    }

    async fn look<T>(
        &self,
        look: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Look,
    ) -> Result<T, StoreError> {
        let answered = ask(&self.shared.queues().looks, look)?;
        timeout(self.shared.command_timeout, answered)
            .await
            .map_err(|elapsed| StoreError::NotApplied(elapsed.into()))?
            .unwrap_or_else(|_| Err(StoreError::NotApplied(ENDED.into())))
    }
}

/// Hands a call to a thread, which will answer.
fn ask<J, T>(
    queue: &SyncSender<J>,
    call: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> J,
) -> Result<oneshot::Receiver<Result<T, StoreError>>, StoreError> {
    let (answer, answered) = oneshot::channel();
    queue.try_send(call(answer)).map_err(|error| match error {
        TrySendError::Full(_) => StoreError::NotApplied("too many calls wait for SQLite".into()),
        TrySendError::Disconnected(_) => StoreError::NotApplied(ENDED.into()),
    })?;
    Ok(answered)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(OpenError::Thread)
}

impl Shared {
    fn queues(&self) -> &Queues {
        self.queues.as_ref().expect("the queues are there until the store is dropped")
    }
}

/// Ends the process.
fn abort(error: &rusqlite::Error) -> ! {
    tracing::error!(%error, "a commit failed: what is on the disk is not known, the process ends");
    eprintln!("onceproxy: a commit of the SQLite store failed: {error}");
    std::process::abort()
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.queues.take());
        // They finish their queues; a panic there has been printed already.
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Store for SqliteStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        let (id, draft) = (*id, draft.clone());
        Box::pin(self.change(move |answer| Change::Create { id, draft, answer }))
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        notice: Notice,
    ) -> StoreFuture<'a, Replaced> {
        let (id, expected, draft) = (*id, *expected, draft.clone());
        Box::pin(self.change(move |answer| Change::Replace { id, expected, draft, notice, answer }))
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, notice: Notice) -> StoreFuture<'a, Replaced> {
        let (id, expected) = (*id, *expected);
        Box::pin(self.change(move |answer| Change::Remove { id, expected, notice, answer }))
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        let id = *id;
        Box::pin(self.look(move |answer| Look::Load { id, answer }))
    }

    fn notices(&self) -> StoreFuture<'_, Notices> {
        let notices = stream::unfold(self.shared.notices.subscribe(), |mut receiver| async {
            loop {
                match receiver.recv().await {
                    Ok(id) => return Some((id, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Box::pin(async { Ok(notices.boxed() as Notices) })
    }

    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        let cursor = cursor.map(str::to_owned);
        Box::pin(self.look(move |answer| Look::List { filter, cursor, answer }))
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(self.change(move |answer| Change::Purge { limit, answer }))
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        Box::pin(self.look(|answer| Look::Preflight { answer }))
    }
}
