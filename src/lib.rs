//! A request that carries an `Idempotency-Key` takes effect once, however often it is sent: the duplicate gets the first
//! answer back, marked `Idempotency-Replayed: true`.
//!
//! Three ways to have it: the program `onceproxy`, a reverse proxy in front of an API that cannot be changed; the
//! [`IdempotencyLayer`] around a handler of axum, hyper or anything else that is a tower service; and the [`Ledger`]
//! alone, for jobs, webhooks and queue consumers, without HTTP.
//!
//! # A handler that runs once per key
//!
//! ```
//! use axum::{Router, body::Body, http::Request, routing::post};
//! use onceproxy::stores::memory::MemoryStore;
//! use onceproxy::{IdempotencyLayer, Ledger, Policy};
//! use tower::ServiceExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let ledger = Ledger::new(MemoryStore::new());
//! let once = IdempotencyLayer::new(ledger).policy(Policy::required().namespace("payments"));
//! let app: Router = Router::new().route("/payments", post(|| async { "paid" }).layer(once));
//!
//! let request = || Request::post("/payments").header("idempotency-key", "8e03978e").body(Body::from("100"));
//! let first = app.clone().oneshot(request()?).await?;
//! let again = app.oneshot(request()?).await?;
//! assert_eq!(first.headers()["idempotency-status"], "executed");
//! assert_eq!(again.headers()["idempotency-replayed"], "true");
//! # Ok(()) }
//! ```
//!
//! With several processes, the memory store becomes a `RedisStore` that they share. A scope says whose key it is: by
//! default the host and the credentials of the request, better the account that a login found
//! ([`Policy::scope_from`]).
//!
//! # A job that runs once
//!
//! ```
//! use onceproxy::stores::memory::MemoryStore;
//! use onceproxy::{Begun, Fingerprint, Key, Ledger, RecordId, Scope, Terms};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let ledger = Ledger::new(MemoryStore::new());
//! let id = RecordId::new(&Scope::new("jobs/charge"), &Key::parse("job-1")?);
//! match ledger.begin(&id, Fingerprint::of("charge 100"), &Terms::default()).await? {
//!     Begun::Execute(claim) => {
//!         // The effect happens here; the claim renews itself meanwhile.
//!         claim.complete("receipt 7").await?;
//!     }
//!     Begun::Replay(receipt) => println!("done before: {receipt:?}"),
//!     Begun::InFlight { retry_after } => println!("another has it; again in {retry_after:?}"),
//!     Begun::Mismatch => println!("the id was used for another job"),
//!     Begun::Unknown { reason, .. } => println!("somebody has to find out what became of it: {reason}"),
//! }
//! # let again = ledger.begin(&id, Fingerprint::of("charge 100"), &Terms::default()).await?;
//! # assert!(matches!(again, Begun::Replay(receipt) if receipt == "receipt 7"));
//! # Ok(()) }
//! ```
//!
//! # What is guaranteed
//!
//! - Of any number of requests under one key and scope, through any number of processes on one store, one executes at a
//!   time, and after it has completed none, for as long as the record is kept.
//! - Every later one with the same fingerprint gets the recorded answer; one with another fingerprint is refused and
//!   changes nothing.
//! - An answer is recorded before it leaves, and an execution goes on when its client hangs up.
//! - A key is given back only with proof that nothing was executed.
//! - A store that is away, full or unreadable refuses: nothing is executed unless the policy says so.
//!
//! # What is not
//!
//! When an execution began and nobody saw its end (a process died, a connection broke), nobody can tell whether it took
//! effect. The policy chooses: *hold*, the default, does not execute it again while the record lives; *retry* may
//! execute it twice. Exactly once exists only where whatever has the effect remembers the key itself, or where record
//! and effect commit in one transaction. An attempt's number lets a system behind turn an older attempt away; it is no
//! substitute for that. What the store forgets (an eviction, a failover to a replica that was behind, a lost disk) is
//! forgotten here too.
//!
//! The header is that of draft-ietf-httpapi-idempotency-key-header-07, which has expired without becoming a standard.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `http` | the layer |
//! | `redis` | the store for any number of processes |
//! | `sqlite` | the embedded store, for one process |
//! | `conformance` | the suite that every store passes, for stores of one's own |
//! | `proxy` | the program: configuration, listener, upstream pool, admin API, command line |
//!
//! `proxy`, `redis` and `sqlite` are the default. A library takes `default-features = false` and, say,
//! `features = ["http", "redis"]`. The ledger and the store in memory are always there.
//!
//! # Map
//!
//! Modules stand on floors, and import only from those below:
//!
//! | floor | modules |
//! |---|---|
//! | words | [`key`], [`scope`], [`fingerprint`], [`record`] |
//! | the protocol | [`ledger`] |
//! | what it stands between | [`stores`], [`http`] |
//! | the proxy | `proxy` |
//! | the program | `config`, `telemetry`, `admin`, `app`, `cli` |

#[cfg(feature = "proxy")]
pub mod admin;
#[cfg(feature = "proxy")]
pub mod app;
#[cfg(feature = "proxy")]
pub mod cli;
#[cfg(feature = "proxy")]
pub mod config;
#[cfg_attr(not(feature = "proxy"), allow(dead_code, reason = "some points are in the layer and the proxy"))]
mod failpoint;
pub mod fingerprint;
#[cfg(feature = "http")]
pub mod http;
pub mod key;
pub mod ledger;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod record;
pub mod scope;
pub mod stores;
#[cfg(feature = "proxy")]
pub mod telemetry;

pub use fingerprint::{Fingerprint, FingerprintBuilder};
#[cfg(feature = "http")]
pub use http::{Attempt, Disposition, Idempotency, IdempotencyLayer, Policy};
pub use key::{Key, KeyError, KeySyntax};
pub use ledger::claim::{Claim, NotRecorded, Outcome, Recorded, Released};
pub use ledger::store::{Store, StoreError};
pub use ledger::terms::Terms;
pub use ledger::{Begun, Ledger};
pub use record::{OnUnknown, Record, State};
pub use scope::{RecordId, Scope};
