//! The SQLite writer: calls that come together share a commit, and a commit that fails is no small matter.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use onceproxy::ledger::store::{Created, Notice, Replaced, Store, StoreError};
use onceproxy::stores::sqlite::{Fatal, MAX_BATCH, SqliteOptions, SqliteStore};
use rusqlite::Connection;

use super::specimens::{beside, patient_sqlite, peek_in_sqlite, sqlite_folder};
use super::{completed, fresh_id, in_flight};

fn never(error: &rusqlite::Error) -> ! {
    panic!("a commit failed: {error}")
}

fn ending_in(fatal: Fatal) -> SqliteOptions {
    SqliteOptions { fatal, ..patient_sqlite() }
}

/// Counts the commits in a write-ahead log: the frames that carry the size of the database after a commit.
fn commits(path: &Path) -> usize {
    let log = fs::read(beside(path, "-wal")).expect("there is a log");
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().expect("four bytes"));
    let page = usize::try_from(number(8)).expect("a page size");
    let frames = (32..).step_by(24 + page).take_while(|at| at + 24 + page <= log.len());
    // Frames of an earlier round of the log carry other salts.
    frames.filter(|at| log[at + 8..at + 16] == log[16..24] && number(at + 4) != 0).count()
}

#[tokio::test]
async fn file_is_made_in_one_commit() {
    let (_folder, path) = sqlite_folder();
    let _store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens");
    assert_eq!(commits(&path), 1, "what is killed in between leaves a part of it");
}

#[tokio::test]
async fn calls_that_come_together_share_a_commit() {
    let (_folder, path) = sqlite_folder();
    let store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens");
    let before = commits(&path);
    // While somebody else writes, the writer cannot begin, and the calls queue up.
    let other = Connection::open(&path).expect("it opens beside");
    other.execute_batch("BEGIN IMMEDIATE").expect("it begins");
    let ids: Vec<_> = (0..MAX_BATCH + 44).map(|_| fresh_id()).collect();
    let draft = in_flight();
    let mut writes: Vec<_> = ids.iter().map(|id| store.create(id, &draft)).collect();
    for write in &mut writes {
        assert!(write.now_or_never().is_none(), "nobody can write now");
    }
    other.execute_batch("ROLLBACK").expect("it ends");
    for created in futures_util::future::join_all(writes).await {
        assert_eq!(created.expect("it writes"), Created::New);
    }
    // The writer took what was there when it first looked, then a full group, then the rest, if there was one.
    let together = commits(&path) - before;
    assert!((2..=3).contains(&together), "{together} commits of at most {MAX_BATCH} changes");
    // A call that comes alone has a commit of its own, and waits for no other.
    store.replace(&ids[0], &draft.version, &completed("x"), Notice::Skip).await.expect("it writes");
    assert_eq!(commits(&path) - before, together + 1);
}

#[tokio::test]
async fn commit_that_fails_ends_the_process() {
    static ENDED: AtomicUsize = AtomicUsize::new(0);
    /// Stands for the end of the process: ends the writer.
    fn fatal(error: &rusqlite::Error) -> ! {
        ENDED.fetch_add(1, Ordering::SeqCst);
        panic!("on purpose: {error}")
    }
    let (_folder, path) = sqlite_folder();
    let store = SqliteStore::open_with(&path, ending_in(fatal)).expect("it opens");
    store.create(&fresh_id(), &in_flight()).await.expect("it writes");
    // A descriptor that cannot be written to: an I/O error, as of a dying disk.
    let log = Log::swap(&path, &File::open("/dev/null").expect("it opens"));
    let write = store.create(&fresh_id(), &in_flight()).await;
    assert!(matches!(write, Err(StoreError::MaybeApplied(_))), "{write:?}");
    assert_eq!(ENDED.load(Ordering::SeqCst), 1);
    // SQLite has closed its descriptors, or will: there is nothing to restore.
    drop(log);
    let later = store.create(&fresh_id(), &in_flight()).await;
    assert!(later.is_err(), "nothing is answered after it: {later:?}");
}

#[tokio::test]
async fn full_disk_is_full_and_heals() {
    let (_folder, path) = sqlite_folder();
    let store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens");
    let (id, draft) = (fresh_id(), in_flight());
    store.create(&id, &draft).await.expect("it writes");
    // Nothing has to be read from the log: all of it is in the database.
    let other = Connection::open(&path).expect("it opens beside");
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("it is moved");
    drop(other);
    let log = Log::swap(&path, &OpenOptions::new().read(true).write(true).open("/dev/full").expect("it opens"));
    let refused = fresh_id();
    let write = store.create(&refused, &in_flight()).await;
    assert!(matches!(write, Err(StoreError::Full(_))), "{write:?}");
    let replace = store.replace(&id, &draft.version, &completed("x"), Notice::Skip).await;
    assert!(matches!(replace, Err(StoreError::Full(_))), "{replace:?}");
    log.restore();
    assert_eq!(store.load(&refused).await.expect("it reads"), None, "what was refused is not there");
    let replaced = store.replace(&id, &draft.version, &completed("x"), Notice::Skip).await.expect("it writes again");
    assert_eq!(replaced, Replaced::Done);
    assert_eq!(store.create(&refused, &in_flight()).await.expect("it writes again"), Created::New);
}

#[tokio::test]
async fn full_disk_still_tells_what_is_there_to_those_who_come_with_others() {
    let (_folder, path) = sqlite_folder();
    let store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens");
    let id = fresh_id();
    store.create(&id, &completed("receipt")).await.expect("it writes");
    let other = Connection::open(&path).expect("it opens beside");
    other.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("it is moved");
    drop(other);
    let log = Log::swap(&path, &OpenOptions::new().read(true).write(true).open("/dev/full").expect("it opens"));
    // Many at once share a transaction, the finished one in their middle.
    let drafts: Vec<_> = (0..40).map(|number| (if number % 2 == 0 { id } else { fresh_id() }, in_flight())).collect();
    let calls = drafts.iter().map(|(id, draft)| store.create(id, draft));
    for (number, reply) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
        match number % 2 {
            0 => assert!(
                matches!(&reply, Ok(Created::Existing(entry)) if entry.record.outcome == "receipt"),
                "{reply:?}"
            ),
            _ => assert!(matches!(reply, Err(StoreError::Full(_))), "{reply:?}"),
        }
    }
    log.restore();
}

#[tokio::test]
async fn file_that_another_program_locks_refuses_in_time_and_heals() {
    let (_folder, path) = sqlite_folder();
    let limit = Duration::from_millis(400);
    let options = SqliteOptions { command_timeout: limit, ..ending_in(never) };
    let store = SqliteStore::open_with(&path, options).expect("it opens");
    let (id, draft) = (fresh_id(), in_flight());
    let other = Connection::open(&path).expect("it opens beside");
    other.execute_batch("BEGIN IMMEDIATE").expect("it begins");
    let began = Instant::now();
    let write = store.create(&id, &draft).await;
    assert!(matches!(write, Err(StoreError::NotApplied(_) | StoreError::MaybeApplied(_))), "{write:?}");
    assert!(began.elapsed() < limit * 5, "{:?}", began.elapsed());
    assert_eq!(store.load(&id).await.expect("it can be read"), None);
    other.execute_batch("ROLLBACK").expect("it ends");
    drop(store);
    let store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens again");
    assert!(store.create(&id, &draft).await.is_ok());
}

#[tokio::test]
async fn call_that_takes_too_long_ends_as_what_it_was() {
    let (_folder, path) = sqlite_folder();
    let options = SqliteOptions { command_timeout: Duration::from_millis(50), ..ending_in(never) };
    let store = SqliteStore::open_with(&path, options).expect("it opens");
    let other = Connection::open(&path).expect("it opens beside");
    // As slow as a dying disk: it counts to two million first.
    other
        .execute_batch(
            "CREATE VIEW slow AS WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 2000000)
                 SELECT max(x) AS x FROM n;
             CREATE TRIGGER slowly BEFORE INSERT ON once_records WHEN (SELECT x FROM slow) > 0 BEGIN SELECT 1; END",
        )
        .expect("it writes");
    let id = fresh_id();
    let write = store.create(&id, &in_flight()).await;
    assert!(matches!(write, Err(StoreError::MaybeApplied(_))), "{write:?}");
    assert_eq!(peek_in_sqlite(&other, &id), None, "it was not waited for");
    // It had been taken, and is done all the same: whoever wants to write waits for it.
    other.busy_timeout(Duration::from_secs(30)).expect("it waits");
    other.execute_batch("BEGIN IMMEDIATE; COMMIT").expect("it writes");
    assert!(peek_in_sqlite(&other, &id).is_some());
    other
        .execute_batch(
            "DROP TRIGGER slowly;
             ALTER TABLE once_records RENAME TO once_there;
             CREATE VIEW once_records AS SELECT once_there.* FROM once_there, slow WHERE slow.x > 0",
        )
        .expect("it writes");
    let look = store.load(&id).await;
    assert!(matches!(look, Err(StoreError::NotApplied(_))), "{look:?}");
}

#[tokio::test]
async fn transaction_that_sqlite_gives_up_is_done_again_without_its_culprit() {
    let (_folder, path) = sqlite_folder();
    let store = SqliteStore::open_with(&path, ending_in(never)).expect("it opens");
    let other = Connection::open(&path).expect("it opens beside");
    // An error in the middle of a group that ends the whole transaction.
    other
        .execute_batch(
            "CREATE TRIGGER no_unknown BEFORE INSERT ON once_records WHEN new.state = 3
             BEGIN SELECT RAISE(ROLLBACK, 'gone'); END;
             BEGIN IMMEDIATE",
        )
        .expect("it writes");
    let ids: Vec<_> = (0..9).map(|_| fresh_id()).collect();
    let good = in_flight();
    let mut bad = in_flight();
    bad.record.state = onceproxy::State::Unknown;
    let drafts = |at: usize| if at == 4 { &bad } else { &good };
    let mut writes: Vec<_> = ids.iter().enumerate().map(|(at, id)| store.create(id, drafts(at))).collect();
    for write in &mut writes {
        assert!(write.now_or_never().is_none(), "nobody can write now");
    }
    other.execute_batch("ROLLBACK").expect("it ends");
    for (at, created) in futures_util::future::join_all(writes).await.into_iter().enumerate() {
        match at {
            4 => assert!(matches!(created, Err(StoreError::NotApplied(_))), "{created:?}"),
            _ => assert!(matches!(created, Ok(Created::New)), "call {at} got {created:?}"),
        }
        let stored = store.load(&ids[at]).await.expect("it reads");
        assert_eq!(stored.is_some(), at != 4, "call {at}");
    }
}

/// The store's write-ahead log, with another file behind its descriptors.
struct Log {
    originals: Vec<(RawFd, OwnedFd)>,
}

impl Log {
    fn swap(path: &Path, other: &File) -> Log {
        let log = beside(&fs::canonicalize(path).expect("it is there"), "-wal");
        let mut originals = Vec::new();
        for entry in fs::read_dir("/proc/self/fd").expect("Linux") {
            let entry = entry.expect("it reads");
            let number: RawFd = entry.file_name().to_string_lossy().parse().expect("a number");
            if fs::read_link(entry.path()).is_ok_and(|target| target == log) {
                originals.push((number, put(number, other)));
            }
        }
        assert!(!originals.is_empty(), "the log is open");
        Log { originals }
    }

    fn restore(self) {
        for (number, original) in self.originals {
            put(number, original);
        }
    }
}

/// Puts another file behind a descriptor that SQLite owns, and gives what was there.
#[expect(unsafe_code, reason = "a disk that fails under SQLite cannot be had in another way")]
fn put(number: RawFd, file: impl AsFd) -> OwnedFd {
    // SAFETY: the descriptor is open, as /proc said, and is given back before this function ends, so that it is never
    // closed here.
    let mut descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    let original = descriptor.try_clone().expect("a descriptor");
    rustix::io::dup2(file, &mut descriptor).expect("it takes the place");
    let _ = descriptor.into_raw_fd();
    original
}
