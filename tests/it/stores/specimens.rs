//! The stores as the conformance suite takes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use onceproxy::ledger::store::{Draft, Store, StoreError};
use onceproxy::stores::conformance::faulty::{Fault, FaultyStore};
use onceproxy::stores::conformance::{Able, Specimen};
use onceproxy::stores::memory::{Limits, MemoryStore};
use onceproxy::stores::redis::{RedisOptions, RedisStore};
use onceproxy::stores::sqlite::{SqliteOptions, SqliteStore};
use onceproxy::telemetry::metrics::Metrics;
use onceproxy::telemetry::timed::TimedStore;
use onceproxy::{Record, RecordId};
use tempfile::TempDir;

use super::{fresh_id, in_flight};
use crate::support::redis::RedisServer;

/// A memory store of few records, so that it can be filled.
pub struct Memory(Arc<MemoryStore>);

impl Memory {
    pub fn open() -> Memory {
        Memory(Arc::new(MemoryStore::with_limits(Limits { max_entries: 200, ..Limits::default() })))
    }
}

impl Specimen for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    async fn fill(&self) -> Able {
        loop {
            match self.0.create(&fresh_id(), &Draft::new(Record { ..in_flight().record })).await {
                Ok(_) => {}
                Err(StoreError::Full(_)) => return Able::Yes,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A SQLite store in a folder of its own.
pub struct Sqlite {
    store: Arc<SqliteStore>,
    folder: TempDir,
}

impl Sqlite {
    pub fn open() -> Sqlite {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open_with(&path_in(&folder), patient_sqlite()).expect("it opens");
        Sqlite { store: Arc::new(store), folder }
    }

    fn beside(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(path_in(&self.folder)).expect("it opens beside")
    }
}

impl Specimen for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn plant(&self, id: &RecordId, value: &[u8]) -> Able {
        plant_in_sqlite(&self.beside(), id, value);
        Able::Yes
    }

    async fn peek(&self, id: &RecordId) -> Option<Vec<u8>> {
        peek_in_sqlite(&self.beside(), id)
    }
}

fn path_in(folder: &TempDir) -> PathBuf {
    folder.path().join("once.db")
}

/// Overwrites a record's bytes.
pub fn plant_in_sqlite(beside: &rusqlite::Connection, id: &RecordId, value: &[u8]) {
    let changed = beside
        .execute("UPDATE once_records SET record = ?2 WHERE id = ?1", rusqlite::params![id.as_bytes(), value])
        .expect("it writes");
    assert_eq!(changed, 1, "there is a record to overwrite");
}

pub fn peek_in_sqlite(beside: &rusqlite::Connection, id: &RecordId) -> Option<Vec<u8>> {
    beside.query_row("SELECT record FROM once_records WHERE id = ?1", [id.as_bytes()], |row| row.get(0)).ok()
}

/// A folder for a SQLite store, and the path in it.
pub fn sqlite_folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = path_in(&folder);
    (folder, path)
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// A Redis store with a prefix of its own on a server that a test owns.
pub struct Redis {
    server: Arc<RedisServer>,
    store: Arc<RedisStore>,
    prefix: String,
}

impl Redis {
    pub fn open(server: &Arc<RedisServer>) -> Redis {
        static OPENED: AtomicUsize = AtomicUsize::new(0);
        // The specimen before may have filled it.
        server.set("maxmemory", "0");
        let prefix = format!("once-{}", OPENED.fetch_add(1, Ordering::Relaxed));
        let options = RedisOptions { prefix: prefix.clone(), ..patient() };
        let store = RedisStore::new(&server.url(), options).expect("a good URL");
        Redis { server: server.clone(), store: Arc::new(store), prefix }
    }
}

/// On a busy machine a call may take long; what is too slow is another test's subject.
pub fn patient() -> RedisOptions {
    RedisOptions { command_timeout: Duration::from_secs(10), ..RedisOptions::default() }
}

/// As [`patient`], of SQLite.
pub fn patient_sqlite() -> SqliteOptions {
    SqliteOptions { command_timeout: Duration::from_secs(10), ..SqliteOptions::default() }
}

impl Specimen for Redis {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn fill(&self) -> Able {
        self.server.set("maxmemory", "1");
        // Nor does it know a script any more.
        self.server.command::<()>(&["SCRIPT", "FLUSH"]);
        Able::Yes
    }

    async fn plant(&self, id: &RecordId, value: &[u8]) -> Able {
        let mut command = redis::cmd("SET");
        command.arg(format!("{}:1:{{{id}}}", self.prefix)).arg(value).arg("PX").arg(600_000);
        let mut connection = self.server.connection();
        command.exec(&mut connection).expect("it writes");
        Able::Yes
    }

    async fn peek(&self, id: &RecordId) -> Option<Vec<u8>> {
        let mut command = redis::cmd("GET");
        command.arg(format!("{}:1:{{{id}}}", self.prefix)).query(&mut self.server.connection()).expect("it reads")
    }
}

/// A specimen behind a wrapper.
pub struct Wrapped<S> {
    inner: S,
    outer: Arc<dyn Store>,
}

impl<S: Specimen> Wrapped<S> {
    /// Every third write is applied, and its answer lost. (With every other one, of two writers in turn one gets all.)
    pub fn swallowing(inner: S) -> Wrapped<S> {
        let faulty = FaultyStore::new(inner.store());
        faulty.fault_every(3, Fault::Swallow);
        Wrapped { outer: Arc::new(faulty), inner }
    }

    /// Every third write is lost on its way.
    pub fn losing(inner: S) -> Wrapped<S> {
        let faulty = FaultyStore::new(inner.store());
        faulty.fault_every(3, Fault::Lose);
        Wrapped { outer: Arc::new(faulty), inner }
    }

    pub fn timed(inner: S) -> Wrapped<S> {
        let metrics = Metrics::new().expect("metrics");
        Wrapped { outer: Arc::new(TimedStore::new(inner.store(), metrics.store())), inner }
    }
}

impl<S: Specimen> Specimen for Wrapped<S> {
    fn store(&self) -> Arc<dyn Store> {
        self.outer.clone()
    }

    async fn fill(&self) -> Able {
        self.inner.fill().await
    }

    async fn plant(&self, id: &RecordId, value: &[u8]) -> Able {
        self.inner.plant(id, value).await
    }

    async fn peek(&self, id: &RecordId) -> Option<Vec<u8>> {
        self.inner.peek(id).await
    }
}
