//! A store of one's own: any place that compares and sets atomically will do.
//!
//! Here it is a table in memory that stands for one in a database. A row holds a record's bytes and the time of its
//! last write; all that the protocol asks of it is in [`TableStore`]. What records mean is not its business.
//!
//! ```sh
//! cargo run --example custom_store --no-default-features
//! ```
//!
//! A real one proves itself by `onceproxy::stores::conformance` (feature `conformance`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use onceproxy::ledger::store::{
    Created, Draft, Entry, Filter, Finding, Notice, Notices, Page, Replaced, Severity, StoreFuture,
};
use onceproxy::record::Version;
use onceproxy::{Begun, Fingerprint, Key, Ledger, Record, RecordId, Scope, Store, StoreError, Terms};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ledger = Ledger::new(TableStore::default());
    let id = RecordId::new(&Scope::new("mail"), &Key::parse("welcome-alice")?);
    for _ in 0..2 {
        match ledger.begin(&id, Fingerprint::of("welcome, Alice"), &Terms::default()).await? {
            Begun::Execute(claim) => {
                println!("the mail is sent");
                claim.complete("message 1").await?;
            }
            Begun::Replay(message) => println!("it was sent before: {}", String::from_utf8_lossy(&message)),
            other => println!("not now: {other:?}"),
        }
    }
    Ok(())
}

/// A store over a table. Clones share it.
#[derive(Clone, Default)]
pub struct TableStore {
    rows: Arc<Mutex<BTreeMap<RecordId, Row>>>,
}

struct Row {
    bytes: Bytes,
    written: Instant,
}

impl Row {
    fn new(draft: &Draft) -> Row {
        Row { bytes: draft.record.encode(&draft.version), written: Instant::now() }
    }

    /// Bytes that are not a record are an error, and stay as they are.
    fn entry(&self) -> Result<Entry, StoreError> {
        let (version, record) = Record::decode(&self.bytes)?;
        Ok(Entry { version, record, age: self.written.elapsed() })
    }
}

impl TableStore {
    /// Begins what a database would call a transaction.
    fn begin(&self) -> MutexGuard<'_, BTreeMap<RecordId, Row>> {
        self.rows.lock().expect("nobody panics while holding it")
    }

    /// Puts bytes under an id, whatever was there: as a clumsy hand would.
    pub fn overwrite(&self, id: &RecordId, bytes: &'static [u8]) {
        self.begin().insert(*id, Row { bytes: Bytes::from_static(bytes), written: Instant::now() });
    }
}

/// Reads a row; one past its keep is as good as gone.
fn living(rows: &BTreeMap<RecordId, Row>, id: &RecordId) -> Result<Option<Entry>, StoreError> {
    let entry = rows.get(id).map(Row::entry).transpose()?;
    Ok(entry.filter(|entry| entry.age < entry.record.keep))
}

impl Store for TableStore {
    fn create<'a>(&'a self, id: &'a RecordId, draft: &'a Draft) -> StoreFuture<'a, Created> {
        Box::pin(async move {
            let mut rows = self.begin();
            match living(&rows, id)? {
                // The answer to the first try was lost, and this is the second.
                Some(entry) if entry.version == draft.version => Ok(Created::New),
                Some(entry) => Ok(Created::Existing(entry)),
                None => {
                    rows.insert(*id, Row::new(draft));
                    Ok(Created::New)
                }
            }
        })
    }

    fn replace<'a>(
        &'a self,
        id: &'a RecordId,
        expected: &'a Version,
        draft: &'a Draft,
        _: Notice,
    ) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let mut rows = self.begin();
            match living(&rows, id)? {
                Some(entry) if entry.version == draft.version => Ok(Replaced::Done),
                Some(entry) if entry.version == *expected => {
                    rows.insert(*id, Row::new(draft));
                    Ok(Replaced::Done)
                }
                other => Ok(Replaced::Stale(other)),
            }
        })
    }

    fn remove<'a>(&'a self, id: &'a RecordId, expected: &'a Version, _: Notice) -> StoreFuture<'a, Replaced> {
        Box::pin(async move {
            let mut rows = self.begin();
            match living(&rows, id)? {
                Some(entry) if entry.version != *expected => Ok(Replaced::Stale(Some(entry))),
                _ => {
                    rows.remove(id);
                    Ok(Replaced::Done)
                }
            }
        })
    }

    fn load<'a>(&'a self, id: &'a RecordId) -> StoreFuture<'a, Option<Entry>> {
        Box::pin(async move { living(&self.begin(), id) })
    }

    /// Nobody is told: those who wait look again by themselves, a little later.
    fn notices(&self) -> StoreFuture<'_, Notices> {
        Box::pin(async { Ok(Box::pin(futures_util::stream::pending()) as Notices) })
    }

    /// A page goes on after the id that is its cursor.
    fn list<'a>(&'a self, filter: Filter, cursor: Option<&'a str>) -> StoreFuture<'a, Page> {
        Box::pin(async move {
            let after = match cursor.map(str::parse::<RecordId>) {
                Some(Ok(id)) => Some(id),
                Some(Err(error)) => return Err(StoreError::NotApplied(error.into())),
                None => None,
            };
            let mut page = Page::default();
            for (id, row) in self.begin().iter().filter(|(id, _)| after.is_none_or(|after| **id > after)) {
                if page.entries.len() == filter.limit.max(1) {
                    page.next = page.entries.last().map(|(id, _)| id.to_string());
                    break;
                }
                match row.entry() {
                    Ok(entry) if entry.age >= entry.record.keep => {}
                    Ok(entry) if filter.state.is_some_and(|state| state != entry.record.state) => {}
                    Ok(entry) => page.entries.push((*id, entry)),
                    Err(_) => page.unreadable += 1,
                }
            }
            Ok(page)
        })
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async move {
            let mut rows = self.begin();
            let is_past = |row: &Row| row.entry().is_ok_and(|entry| entry.age >= entry.record.keep);
            let past: Vec<RecordId> =
                rows.iter().filter(|(_, row)| is_past(row)).map(|(id, _)| *id).take(limit).collect();
            past.iter().for_each(|id| drop(rows.remove(id)));
            Ok(past.len())
        })
    }

    fn preflight(&self) -> StoreFuture<'_, Vec<Finding>> {
        let text = "a table in memory; lost with the process".to_owned();
        Box::pin(async { Ok(vec![Finding { severity: Severity::Info, text }]) })
    }
}
