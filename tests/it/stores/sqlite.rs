//! The SQLite file: whose it is, who may read it, and what a restart means.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use onceproxy::ledger::store::{Created, Draft, Notice, Replaced, Store, StoreError};
use onceproxy::stores::sqlite::{OpenError, SqliteOptions, SqliteStore};
use onceproxy::{Record, State};

use super::specimens::{beside, patient_sqlite, peek_in_sqlite, plant_in_sqlite, sqlite_folder};
use super::{completed, fresh_id, in_flight};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

fn open(path: &Path) -> Result<SqliteStore, OpenError> {
    SqliteStore::open_with(path, patient_sqlite())
}

fn with_prefix(prefix: &str) -> SqliteOptions {
    SqliteOptions { prefix: prefix.to_owned(), ..patient_sqlite() }
}

#[tokio::test]
async fn second_opening_is_refused_while_the_first_lives() {
    let (_folder, path) = sqlite_folder();
    let first = open(&path).expect("it opens");
    assert!(matches!(open(&path), Err(OpenError::InUse(_))));
    // The lock is not on the database file: whoever looks into it does not end it.
    drop(rusqlite::Connection::open(&path).expect("it opens beside"));
    assert!(matches!(open(&path), Err(OpenError::InUse(_))));
    assert!(first.load(&fresh_id()).await.is_ok());
    drop(first);
    open(&path).expect("it opens again");
}

#[tokio::test]
async fn links_to_a_file_lead_to_one_lock() {
    let (folder, path) = sqlite_folder();
    let (link, other_folder) = (folder.path().join("link.db"), folder.path().join("folder"));
    symlink(&path, &link).expect("a link to nothing yet");
    symlink(folder.path(), &other_folder).expect("a link");
    let through_folder = other_folder.join(path.file_name().expect("it has a name"));
    let names = [&link, &path, &through_folder];
    for first in names {
        let store = open(first).expect("it opens");
        for second in names {
            assert!(
                matches!(open(second), Err(OpenError::InUse(name)) if name == *second),
                "{second:?} beside {first:?}"
            );
        }
        store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    }
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn file_whose_making_was_cut_short_is_opened() {
    let (_folder, path) = sqlite_folder();
    rusqlite::Connection::open(&path)
        .and_then(|beside| beside.execute_batch("PRAGMA application_id = 0x6f6e6365"))
        .expect("it writes");
    let store = open(&path).expect("there is nothing in it yet");
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
}

#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    let (_folder, path) = sqlite_folder();
    let store = open(&path).expect("it opens");
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix:?}");
    }
    drop(store);
    for suffix in ["", ".lock"] {
        fs::set_permissions(beside(&path, suffix), Permissions::from_mode(0o644)).expect("it is ours");
    }
    let store = open(&path).expect("it opens again");
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    for suffix in ["", "-wal", "-shm", ".lock"] {
        assert_eq!(mode(&beside(&path, suffix)), 0o600, "{suffix:?} after it was open to others");
    }
}

#[tokio::test]
async fn restart_leaves_what_was_in_flight_dead_from_the_restart_on() {
    let (_folder, path) = sqlite_folder();
    let (running, finished) = (fresh_id(), fresh_id());
    let (claim, outcome) = (in_flight(), completed("receipt"));
    let store = open(&path).expect("it opens");
    store.create(&running, &claim).await.expect("it writes");
    store.create(&finished, &outcome).await.expect("it writes");
    let alive = store.load(&running).await.expect("it reads").expect("it is there");
    assert!(alive.lease_left().is_some());
    drop(store);
    // As if five minutes had passed meanwhile.
    rusqlite::Connection::open(&path)
        .and_then(|beside| {
            beside.execute_batch(
                "UPDATE once_records SET written_at_ms = written_at_ms - 300000, expires_at_ms = expires_at_ms - 300000",
            )
        })
        .expect("it writes");

    let store = open(&path).expect("it opens again");
    let dead = store.load(&running).await.expect("it reads").expect("it outlives the process");
    assert_eq!(dead.version, claim.version);
    assert_eq!(dead.record, Record { lease: Duration::ZERO, ..claim.record.clone() });
    assert_eq!(dead.lease_left(), None);
    assert!(dead.age < Duration::from_secs(60), "the grace counts from the restart, but it is {:?} old", dead.age);
    let kept = store.load(&finished).await.expect("it reads").expect("it outlives the process");
    assert_eq!((kept.version, kept.record), (outcome.version, outcome.record));
    assert!(kept.age >= Duration::from_secs(300));
    // A take-over gives it a lease again.
    let second = Draft::new(Record { attempt: 2, ..in_flight().record });
    let replaced = store.replace(&running, &claim.version, &second, Notice::Skip).await.expect("it writes");
    assert_eq!(replaced, Replaced::Done);
    assert!(store.load(&running).await.expect("it reads").expect("it is there").lease_left().is_some());
}

#[tokio::test]
async fn foreign_files_are_refused_and_left_as_they_are() {
    let database = |path: &Path, sql: &str| {
        rusqlite::Connection::open(path).and_then(|connection| connection.execute_batch(sql)).expect("it writes");
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&Path));
    let foreign: [Case; 4] = [
        ("a database with a table", &|path| database(path, "CREATE TABLE customers (name TEXT)")),
        ("another program's database", &|path| database(path, "PRAGMA application_id = 7; CREATE TABLE t (a)")),
        ("a later release's store", &|path| {
            database(path, "PRAGMA application_id = 0x6f6e6365; PRAGMA user_version = 99")
        }),
        ("no database", &|path| fs::write(path, "a letter to a friend ".repeat(100)).expect("it writes")),
    ];
    for (name, prepare) in foreign {
        let (_folder, path) = sqlite_folder();
        prepare(&path);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
        let before = fs::read(&path).expect("it reads");
        match open(&path) {
            Err(OpenError::Foreign(refused)) => assert_eq!(refused, path),
            other => panic!("{name}: {:?}", other.err()),
        }
        assert_eq!(fs::read(&path).expect("it reads"), before, "{name}");
        assert_eq!(mode(&path), 0o644, "{name}");
    }
}

#[tokio::test]
async fn prefix_that_is_no_name_is_refused() {
    let (_folder, path) = sqlite_folder();
    for prefix in ["", "a b", "a;DROP TABLE x", "\u{e9}", "a-b"] {
        assert!(
            matches!(SqliteStore::open_with(&path, with_prefix(prefix)), Err(OpenError::BadPrefix(_))),
            "{prefix:?}"
        );
    }
    let first = SqliteStore::open_with(&path, with_prefix("one")).expect("it opens");
    let (id, draft) = (fresh_id(), in_flight());
    first.create(&id, &draft).await.expect("it writes");
    drop(first);
    let second = SqliteStore::open_with(&path, with_prefix("two")).expect("it opens");
    assert_eq!(second.load(&id).await.expect("it reads"), None, "prefixes share a file, not records");
}

#[tokio::test]
async fn damaged_record_survives_a_restart_and_every_call() {
    let (_folder, path) = sqlite_folder();
    let (id, draft) = (fresh_id(), in_flight());
    let store = open(&path).expect("it opens");
    store.create(&id, &draft).await.expect("it writes");
    let beside = rusqlite::Connection::open(&path).expect("it opens beside");
    let mut damaged = draft.record.encode(&draft.version).to_vec();
    damaged[60] ^= 0x10;
    plant_in_sqlite(&beside, &id, &damaged);
    drop(store);
    let store = open(&path).expect("it opens again");
    assert!(matches!(store.load(&id).await, Err(StoreError::Corrupt)));
    assert!(matches!(store.create(&id, &in_flight()).await, Err(StoreError::Corrupt)));
    // Not even the version that its bytes still show helps.
    assert!(matches!(
        store.replace(&id, &draft.version, &completed("x"), Notice::Skip).await,
        Err(StoreError::Corrupt)
    ));
    assert!(matches!(store.remove(&id, &draft.version, Notice::Skip).await, Err(StoreError::Corrupt)));
    assert_eq!(peek_in_sqlite(&beside, &id), Some(damaged));
}

#[tokio::test]
async fn store_that_was_dropped_has_written_what_it_had_taken() {
    let (_folder, path) = sqlite_folder();
    let store = open(&path).expect("it opens");
    let ids: Vec<_> = (0..50).map(|_| fresh_id()).collect();
    let draft = completed("x");
    let writes: Vec<_> = ids.iter().map(|id| store.create(id, &draft)).collect();
    for created in futures_util::future::join_all(writes).await {
        assert_eq!(created.expect("it writes"), Created::New);
    }
    drop(store);
    let store = open(&path).expect("it opens again");
    for id in &ids {
        assert_eq!(store.load(id).await.expect("it reads").expect("it is there").record.state, State::Completed);
    }
}
