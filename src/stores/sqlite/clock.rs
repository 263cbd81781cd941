//! The file's clock: it goes on while the file is open, whatever happens to the wall clock, and never goes back.
//!
//! The wall clock is asked at the opening only, for the time that has passed since the file was closed. It may have been
//! set meanwhile, or while the file was open: a machine without a clock of its own begins in 1970 and is put right soon
//! after. So the file keeps by how much its clock was behind the wall clock at most, and an opening goes on from there.
//! Where all that errs, a record is kept too long, which is safe: one that is dropped too early takes effect again.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time in milliseconds since 1970, as the machine has it.
pub(super) type Wall = fn() -> i64;

/// Clones tell the same time.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    opened_ms: i64,
    opened: Instant,
    wall: Wall,
}

impl Clock {
    /// A clock for a file whose newest record was written at `newest_ms`, and whose clock was `behind_ms` at most.
    pub(super) fn new(wall: Wall, newest_ms: i64, behind_ms: i64) -> Clock {
        let opened_ms = wall().saturating_sub(behind_ms).max(newest_ms);
        Clock { opened_ms, opened: Instant::now(), wall }
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.opened_ms.saturating_add(i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// How far it is behind the wall clock now; negative when it is ahead.
    pub(super) fn behind_ms(&self) -> i64 {
        (self.wall)().saturating_sub(self.now_ms())
    }
}

/// The machine's wall clock.
pub(super) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::super::file::Database;
    use crate::fingerprint::Fingerprint;
    use crate::ledger::store::{Created, Draft, Entry};
    use crate::record::{OnUnknown, Record, State, Version};
    use crate::scope::RecordId;

    const TODAY: Duration = Duration::from_secs(1_800_000_000);
    const KEEP: Duration = Duration::from_secs(600);

    thread_local! {
        static WALL: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn set_wall(since_1970: Duration) {
        WALL.set(since_1970);
    }

    fn open(path: &Path, since_1970: Duration) -> Database {
        set_wall(since_1970);
        Database::open_by(path, "once", || i64::try_from(WALL.get().as_millis()).expect("a time")).expect("it opens")
    }

    /// A transaction as the writer makes it.
    fn create(database: &Database, state: State) -> RecordId {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(Version::random().as_bytes());
        let id = RecordId::from_bytes(bytes);
        let draft = Draft::new(Record {
            state,
            attempt: 1,
            on_unknown: OnUnknown::Hold,
            lease: Duration::from_secs(30),
            keep: KEEP,
            grace: Duration::from_secs(10),
            fingerprint: Fingerprint::of("charge 100"),
            route: Arc::from("create-payment"),
            status: 0,
            reason: Arc::from(""),
            outcome: Bytes::new(),
        });
        database.begin().expect("it begins");
        assert_eq!(database.create(&id, &draft).expect("it writes"), Created::New);
        database.commit().expect("it commits");
        id
    }

    fn load(database: &Database, id: &RecordId) -> Option<Entry> {
        database.load(id).expect("it reads")
    }

    #[test]
    fn wall_clock_that_is_set_forward_ends_no_lease_and_no_record() {
        let folder = tempfile::tempdir().expect("a folder");
        let writing = open(&folder.path().join("a.db"), TODAY);
        let reading = writing.beside().expect("it opens beside");
        let id = create(&writing, State::InFlight);
        set_wall(TODAY + KEEP * 2);
        for database in [&writing, &reading] {
            assert!(load(database, &id).expect("it lives").lease_left().is_some());
        }
        assert_eq!(writing.purge(100).expect("it purges"), 0);
        let later = create(&writing, State::InFlight);
        assert!(load(&reading, &later).expect("it lives").age < Duration::from_secs(30));
    }

    #[test]
    fn wall_clock_that_is_set_back_brings_nothing_back_at_the_next_opening() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let ended = create(&open(&path, TODAY), State::Completed);
        let kept = create(&open(&path, TODAY + KEEP), State::Completed);
        let database = open(&path, TODAY - KEEP * 100);
        assert_eq!(load(&database, &ended), None);
        assert!(load(&database, &kept).is_some());
        // Nor does what is written now end when the wall clock is put right.
        let later = create(&database, State::Completed);
        drop(database);
        let database = open(&path, TODAY + KEEP + Duration::from_secs(60));
        assert!(load(&database, &kept).is_some());
        assert!(load(&database, &later).is_some());
    }

    #[test]
    fn records_outlive_the_start_of_a_machine_without_a_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.db");
        let database = open(&path, Duration::from_secs(3));
        let early = create(&database, State::Completed);
        set_wall(TODAY);
        let id = create(&database, State::Completed);
        drop(database);
        // The time that the file was closed counts, and nothing more.
        let database = open(&path, TODAY + KEEP / 2);
        for id in [early, id] {
            let age = load(&database, &id).expect("it is kept").age;
            assert!((KEEP / 2..KEEP).contains(&age), "{age:?}");
        }
        drop(database);
        let database = open(&path, TODAY + KEEP * 2);
        assert_eq!(load(&database, &id), None);
    }
}
