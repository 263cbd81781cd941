//! The file: its lock, its mode, its schema, and the statements on it.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fs4::{FileExt, TryLockError};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, params};

use super::clock::{Clock, Wall, wall_ms};
use crate::ledger::store::{Created, Draft, Entry, Filter, Finding, Page, Replaced, Severity, StoreError};
use crate::record::{Record, State, Version, millis};
use crate::scope::RecordId;

/// Written into the file's header: this is a store of ours, of this schema.
const APPLICATION_ID: i64 = 0x6f6e_6365;
const SCHEMA: i64 = 1;
/// How much further the clock has to be behind the wall clock before that is written down.
const CLOCK_PRECISION_MS: i64 = 1000;

/// Why a file cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// The file or its lock cannot be opened.
    #[error("cannot open {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// SQLite cannot open it.
    #[error("cannot open {0}: {1}")]
    Sqlite(PathBuf, #[source] rusqlite::Error),
    /// It is a database, but not one of ours, or of another release.
    #[error("{0} is not a store of this release of onceproxy")]
    Foreign(PathBuf),
    /// The prefix cannot be part of a table's name.
    #[error("the store's prefix {0:?} has to be letters, digits and underscores")]
    BadPrefix(String),
    /// No thread for the writer.
    #[error("cannot start the writer: {0}")]
    Thread(#[source] io::Error),
}

pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    prefix: String,
    sql: Sql,
    clock: Clock,
    /// Held as long as one connection is open.
    lock: Arc<File>,
}

/// The statements, with the table's name in them.
struct Sql {
    select: String,
    insert: String,
    update: String,
    delete: String,
    purge: String,
    list: String,
    note_clock: String,
}

impl Database {
    pub(super) fn open(path: &Path, prefix: &str) -> Result<Database, OpenError> {
        Database::open_by(path, prefix, wall_ms)
    }

    pub(super) fn open_by(path: &Path, prefix: &str, wall: Wall) -> Result<Database, OpenError> {
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) {
            return Err(OpenError::BadPrefix(prefix.to_owned()));
        }
        // Made with its mode before SQLite sees it; the files beside it get the same.
        private(path)?;
        // One file has one lock, whatever links lead to it.
        let real = path.canonicalize().map_err(|error| OpenError::Io(path.to_owned(), error))?;
        let lock = lock(&real, path)?;
        let connection = connect(&real)?;
        recognise(&connection, path)?;
        prepare(&connection, prefix, path)?;
        close_to_others(&real)?;
        let failed = |error| OpenError::Sqlite(path.to_owned(), error);
        let clock = clock(&connection, prefix, wall).map_err(failed)?;
        let database = Database {
            connection,
            path: real,
            prefix: prefix.to_owned(),
            sql: Sql::new(prefix),
            clock,
            lock: Arc::new(lock),
        };
        database.end_leases().map_err(failed)?;
        Ok(database)
    }

    /// Another connection to the same file.
    pub(super) fn beside(&self) -> Result<Database, OpenError> {
        Ok(Database {
            connection: connect(&self.path)?,
            path: self.path.clone(),
            prefix: self.prefix.clone(),
            sql: Sql::new(&self.prefix),
            clock: self.clock,
            lock: self.lock.clone(),
        })
    }

    /// Waits that long for another program's lock before a call is refused.
    pub(super) fn wait_for_locks(&self, longest: Duration) -> rusqlite::Result<()> {
        self.connection.busy_timeout(longest)
    }

    /// Whoever was at work with this file is gone: the lock says so.
    fn end_leases(&self) -> rusqlite::Result<()> {
        let statement = format!("UPDATE {}_records SET lease_ms = 0, written_at_ms = ?1 WHERE state = ?2", self.prefix);
        self.connection.execute(&statement, params![self.clock.now_ms(), State::InFlight.number()]).map(drop)
    }

    /// Begins a transaction. What it writes bears the time of the file's clock, so how that stands to the wall clock
    /// belongs into it.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        self.note_clock().inspect_err(|_| self.roll_back())
    }

    /// Writes only where there is more to say than that clocks are not exact.
    fn note_clock(&self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(&self.sql.note_clock)?;
        statement.execute(params![self.clock.behind_ms(), CLOCK_PRECISION_MS]).map(drop)
    }

    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }

    /// Whether the transaction that was begun is still there: some failures end it inside SQLite.
    pub(super) fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    pub(super) fn roll_back(&self) {
        // Where SQLite has rolled back by itself there is nothing left to do.
        let _ = self.connection.execute_batch("ROLLBACK");
    }

    pub(super) fn create(&self, id: &RecordId, draft: &Draft) -> Result<Created, StoreError> {
        match self.load(id)? {
            Some(entry) if entry.version == draft.version => Ok(Created::New),
            Some(entry) => Ok(Created::Existing(entry)),
            None => self.write(&self.sql.insert, id, draft).map(|()| Created::New),
        }
    }

    pub(super) fn replace(&self, id: &RecordId, expected: &Version, draft: &Draft) -> Result<Replaced, StoreError> {
        match self.load(id)? {
            Some(entry) if entry.version == draft.version => Ok(Replaced::Done),
            Some(entry) if entry.version == *expected => {
                self.write(&self.sql.update, id, draft).map(|()| Replaced::Done)
            }
            other => Ok(Replaced::Stale(other)),
        }
    }

    pub(super) fn remove(&self, id: &RecordId, expected: &Version) -> Result<Replaced, StoreError> {
        match self.load(id)? {
            Some(entry) if entry.version != *expected => Ok(Replaced::Stale(Some(entry))),
            Some(_) => {
                let mut statement = self.connection.prepare_cached(&self.sql.delete).map_err(failure)?;
                statement.execute(params![id.as_bytes()]).map_err(failure)?;
                Ok(Replaced::Done)
            }
            None => Ok(Replaced::Done),
        }
    }

    pub(super) fn load(&self, id: &RecordId) -> Result<Option<Entry>, StoreError> {
        let mut statement = self.connection.prepare_cached(&self.sql.select).map_err(failure)?;
        let now = self.clock.now_ms();
        let row = statement.query_row(params![id.as_bytes(), now], Stored::read).optional().map_err(failure)?;
        row.map(|stored| stored.entry(now)).transpose()
    }

    fn write(&self, sql: &str, id: &RecordId, draft: &Draft) -> Result<(), StoreError> {
        let record = &draft.record;
        let now = self.clock.now_ms();
        let expires = now.saturating_add(i64::try_from(millis(record.keep)).unwrap_or(i64::MAX));
        let lease = i64::try_from(millis(record.lease)).unwrap_or(i64::MAX);
        let bytes = record.encode(&draft.version);
        let mut statement = self.connection.prepare_cached(sql).map_err(failure)?;
        statement
            .execute(params![id.as_bytes(), record.state.number(), lease, now, expires, &*bytes])
            .map_err(failure)
            .map(drop)
    }

    pub(super) fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let mut statement = self.connection.prepare_cached(&self.sql.purge).map_err(failure)?;
        statement.execute(params![self.clock.now_ms(), i64::try_from(limit).unwrap_or(i64::MAX)]).map_err(failure)
    }

    /// A page in the order of the ids; the cursor is the last one.
    pub(super) fn list(&self, filter: Filter, cursor: Option<&str>) -> Result<Page, StoreError> {
        let after = match cursor {
            None => Vec::new(),
            Some(cursor) => cursor
                .parse::<RecordId>()
                .map(|id| id.as_bytes().to_vec())
                .map_err(|_| StoreError::NotApplied("the cursor is not one".into()))?,
        };
        let now = self.clock.now_ms();
        let state = filter.state.map(State::number);
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(&self.sql.list).map_err(failure)?;
        let rows = statement
            .query_map(params![after, now, state, limit], |row| {
                Ok((RecordId::from_bytes(row.get(3)?), Stored::read(row)?))
            })
            .map_err(failure)?
            .collect::<rusqlite::Result<Vec<_>>>()
            .map_err(failure)?;
        let mut page = Page::default();
        if rows.len() >= filter.limit {
            page.next = rows.last().map(|(id, _)| id.to_string());
        }
        for (id, stored) in rows {
            match stored.entry(now) {
                Ok(entry) => page.entries.push((id, entry)),
                Err(_) => page.unreadable += 1,
            }
        }
        Ok(page)
    }

    pub(super) fn preflight(&self) -> Vec<Finding> {
        let text = format!("SQLite {}, {}", rusqlite::version(), self.path.display());
        vec![Finding { severity: Severity::Info, text }]
    }
}

impl Sql {
    fn new(prefix: &str) -> Sql {
        let table = format!("{prefix}_records");
        Sql {
            select: format!("SELECT record, lease_ms, written_at_ms FROM {table} WHERE id = ?1 AND expires_at_ms > ?2"),
            // What is past its keep but not purged yet does not count.
            insert: format!(
                "INSERT OR REPLACE INTO {table} (id, state, lease_ms, written_at_ms, expires_at_ms, record)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
            ),
            update: format!(
                "UPDATE {table} SET state = ?2, lease_ms = ?3, written_at_ms = ?4, expires_at_ms = ?5, record = ?6
                 WHERE id = ?1"
            ),
            delete: format!("DELETE FROM {table} WHERE id = ?1"),
            purge: format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE expires_at_ms <= ?1 LIMIT ?2)"
            ),
            list: format!(
                "SELECT record, lease_ms, written_at_ms, id FROM {table}
                 WHERE id > ?1 AND expires_at_ms > ?2 AND (?3 IS NULL OR state = ?3) ORDER BY id LIMIT ?4"
            ),
            note_clock: format!("UPDATE {prefix}_clock SET behind_ms = ?1 WHERE behind_ms < ?1 - ?2"),
        }
    }
}

/// A row: the record's bytes, and the columns that overrule them.
struct Stored {
    record: Vec<u8>,
    lease_ms: i64,
    written_at_ms: i64,
}

impl Stored {
    fn read(row: &Row<'_>) -> rusqlite::Result<Stored> {
        Ok(Stored { record: row.get(0)?, lease_ms: row.get(1)?, written_at_ms: row.get(2)? })
    }

    fn entry(self, now_ms: i64) -> Result<Entry, StoreError> {
        let (version, record) = Record::decode(&Bytes::from(self.record))?;
        let lease = Duration::from_millis(u64::try_from(self.lease_ms).unwrap_or(0));
        // The reader may have looked at the clock before the writer did.
        let age = Duration::from_millis(u64::try_from(now_ms - self.written_at_ms).unwrap_or(0));
        Ok(Entry { version, record: Record { lease, ..record }, age })
    }
}

/// A statement that failed inside a transaction that was not committed changed nothing.
fn failure(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.into()),
        _ => StoreError::NotApplied(error.into()),
    }
}

fn connect(path: &Path) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| OpenError::Sqlite(path.to_owned(), error))
}

/// A clock that goes on from what the file holds.
fn clock(connection: &Connection, prefix: &str, wall: Wall) -> rusqlite::Result<Clock> {
    let number = |sql: String| connection.query_row(&sql, [], |row| row.get::<_, i64>(0));
    let newest = number(format!("SELECT coalesce(max(written_at_ms), 0) FROM {prefix}_records"))?;
    let behind = number(format!("SELECT behind_ms FROM {prefix}_clock"))?;
    Ok(Clock::new(wall, newest, behind))
}

/// Takes the lock of a file by its real path; the other path is the one that the user knows.
fn lock(real: &Path, path: &Path) -> Result<File, OpenError> {
    let mut name = real.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = private(&name)?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::Io(name, error)),
    }
}

/// Opens a file; where there is none, makes one that only its owner can read.
fn private(path: &Path) -> Result<File, OpenError> {
    let failed = |error| OpenError::Io(path.to_owned(), error);
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)
}

/// Takes from everybody else what a file of ours, and those beside it, may have been open for.
fn close_to_others(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        match std::fs::set_permissions(&name, Permissions::from_mode(0o600)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::Io(PathBuf::from(name), error)),
        }
    }
    Ok(())
}

/// Makes sure that the file is ours, or new. One that is not is left exactly as it is.
fn recognise(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign(path.to_owned()),
        _ => OpenError::Sqlite(path.to_owned(), error),
    };
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(failed);
    match (number("application_id")?, number("user_version")?) {
        (APPLICATION_ID, SCHEMA) => Ok(()),
        // Made, but not yet prepared.
        (0 | APPLICATION_ID, 0) => {
            let tables: i64 =
                connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
            match tables {
                0 => Ok(()),
                _ => Err(OpenError::Foreign(path.to_owned())),
            }
        }
        _ => Err(OpenError::Foreign(path.to_owned())),
    }
}

/// Makes what is not there yet, as a whole or not at all: what is killed in between leaves a file that can be opened.
fn prepare(connection: &Connection, prefix: &str, path: &Path) -> Result<(), OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let schema = format!(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         BEGIN IMMEDIATE;
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {SCHEMA};
         CREATE TABLE IF NOT EXISTS {prefix}_records (
             id BLOB PRIMARY KEY, state INTEGER NOT NULL, lease_ms INTEGER NOT NULL, written_at_ms INTEGER NOT NULL,
             expires_at_ms INTEGER NOT NULL, record BLOB NOT NULL
         ) STRICT, WITHOUT ROWID;
         CREATE INDEX IF NOT EXISTS {prefix}_records_expiry ON {prefix}_records (expires_at_ms);
         CREATE TABLE IF NOT EXISTS {prefix}_clock (one INTEGER PRIMARY KEY CHECK (one = 1), behind_ms INTEGER NOT NULL)
             STRICT;
         INSERT OR IGNORE INTO {prefix}_clock (one, behind_ms) VALUES (1, 0);
         COMMIT;"
    );
    connection.execute_batch(&schema).map_err(failed)
}
