//! The conformance suite: what every store has to do, checked on a store.
//!
//! A store of your own passes the whole of it in one test:
//!
//! ```
//! use std::sync::Arc;
//! use onceproxy::Store;
//! use onceproxy::stores::conformance;
//! use onceproxy::stores::memory::MemoryStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let open = async || Arc::new(MemoryStore::new()) as Arc<dyn Store>;
//! let report = conformance::run(open).await.expect("the store conforms");
//! assert!(report.passed.contains(&"a fresh create is new"));
//! # }
//! ```
//!
//! Some checks need a way around the store, to fill it up or to plant bytes that are no record; a [`Specimen`] has
//! them. What could not be checked for want of one is named in the [`Report`].
//!
//! Calls that end in `MaybeApplied` are repeated, as the ledger does, so that a store whose answers get lost passes too.
//! Time is real: a few checks wait for a keep of some hundred milliseconds to end.

mod ages;
mod bench;
mod creates;
pub mod faulty;
mod limits;
mod operator;
mod promises;
mod races;
mod swaps;

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::timeout;

use crate::ledger::store::Store;
use crate::scope::RecordId;
use crate::stores::conformance::bench::Bench;

/// How long one check may take: a store whose calls never end is to be named, not waited for.
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// A store under test, and the ways around it.
pub trait Specimen: Send + Sync {
    /// The store, which holds nothing when the specimen is fresh.
    fn store(&self) -> Arc<dyn Store>;

    /// Makes the store full: from here on no further record fits.
    fn fill(&self) -> impl Future<Output = Able> + Send {
        async { Able::No }
    }

    /// Puts bytes that the store did not write in the place of a record's bytes.
    fn plant(&self, id: &RecordId, value: &[u8]) -> impl Future<Output = Able> + Send {
        let _ = (id, value);
        async { Able::No }
    }

    /// The bytes in a record's place.
    fn peek(&self, id: &RecordId) -> impl Future<Output = Option<Vec<u8>>> + Send {
        let _ = id;
        async { None }
    }
}

/// A store and no way around it.
impl Specimen for Arc<dyn Store> {
    fn store(&self) -> Arc<dyn Store> {
        self.clone()
    }
}

/// Whether something can be done to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Able {
    /// It was done.
    Yes,
    /// This kind of store has no such thing.
    No,
}

/// What the suite did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The checks that were passed.
    pub passed: Vec<&'static str>,
    /// The checks that the specimen had no way for.
    pub left_out: Vec<&'static str>,
}

/// The checks that a store does not pass.
#[derive(PartialEq, Eq, thiserror::Error)]
pub struct Failures(pub Vec<Failure>);

/// A check that a store does not pass.
#[derive(Clone, PartialEq, Eq)]
pub struct Failure {
    /// The check: a fact that does not hold.
    pub check: &'static str,
    /// What was seen instead.
    pub seen: String,
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store does not conform")?;
        self.0.iter().try_for_each(|failure| write!(f, "\n  not so: {}: {}", failure.check, failure.seen))
    }
}

/// As `Display`: what `expect` prints is to be read.
impl fmt::Debug for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks a store. `open` gives a fresh one, which nobody else uses, for each check.
///
/// # Errors
/// [`Failures`] that name every check that was not passed, and say what was seen.
///
/// # Panics
/// Outside of a tokio runtime with time.
pub async fn run<S: Specimen>(open: impl AsyncFn() -> S) -> Result<Report, Failures> {
    let mut suite = Suite { open, report: Report::default(), failures: Vec::new() };

    suite.check("a fresh create is new", creates::fresh_is_new).await;
    suite.check("a repeat of a create is new", creates::repeat_is_new).await;
    suite.check("a duplicate sees the entry and its age", creates::duplicate_sees_the_entry).await;
    suite.check("a record comes back byte by byte", creates::record_is_byte_exact).await;
    suite.check("of a thousand concurrent creates one is new", creates::thousand_give_one_new).await;
    suite.check("a cancelled call corrupts nothing", creates::cancelled_call_corrupts_nothing).await;

    suite.check("a replace of the right version is done", swaps::right_version).await;
    suite.check("a replace of a wrong version is stale and shows the entry", swaps::wrong_version).await;
    suite.check("a repeat of a replace is done", swaps::repeated_replace).await;
    suite.check("a replace of a vanished record creates nothing", swaps::vanished_record).await;
    suite.check("a remove takes the right version only, and may be repeated", swaps::remove).await;
    suite.check("an old owner's version changes nothing in a new record", swaps::old_owner).await;

    suite.check("a renewal begins age and keep anew", ages::renewal).await;
    suite.check("a record lives through its keep and not after it", ages::keep_ends).await;
    suite.check("a shorter keep counts from its write", ages::shorter_keep).await;
    suite.check("purge is bounded and spares the living", ages::purge).await;

    suite.check("of a take-over and a renewal one loses", races::take_over_against_renewal).await;
    suite.check("of a hundred take-overs one wins", races::hundred_take_overs).await;
    suite.check("a completion beside a create never makes a record look dead", races::completion_beside_create).await;

    suite.check_around("an unreadable value is an error and stays as it is", limits::unreadable).await;
    suite.check_around("a full store still tells, records and frees", limits::full).await;

    suite.check("a list shows everything", operator::list).await;
    suite.check("a notice comes for a changed record", operator::notice).await;

    suite.check("lost answers do not execute twice", promises::lost_answers).await;
    suite.check("a create whose answer was lost frees the key soon", promises::swallowed_create).await;

    match suite.failures.is_empty() {
        true => Ok(suite.report),
        false => Err(Failures(suite.failures)),
    }
}

struct Suite<F> {
    open: F,
    report: Report,
    failures: Vec<Failure>,
}

impl<S: Specimen, F: AsyncFn() -> S> Suite<F> {
    async fn check(&mut self, check: &'static str, body: impl AsyncFnOnce(Bench) -> Result<(), String>) {
        self.check_around(check, async |_, bench| body(bench).await.map(|()| Able::Yes)).await;
    }

    /// As `check`, for those that need a way around the store.
    async fn check_around(&mut self, check: &'static str, body: impl AsyncFnOnce(&S, Bench) -> Result<Able, String>) {
        let specimen = (self.open)().await;
        let bench = Bench::new(specimen.store());
        let guarded = AssertUnwindSafe(body(&specimen, bench)).catch_unwind();
        let failed = match timeout(CHECK_LIMIT, guarded).await {
            Ok(Ok(Ok(Able::Yes))) => return self.report.passed.push(check),
            Ok(Ok(Ok(Able::No))) => return self.report.left_out.push(check),
            Ok(Ok(Err(seen))) => seen,
            Ok(Err(_)) => "the store panicked".to_owned(),
            Err(_) => format!("not finished after {CHECK_LIMIT:?}"),
        };
        self.failures.push(Failure { check, seen: failed });
    }
}
