//! onceproxy

#[cfg(feature = "proxy")]
pub mod admin;
#[cfg(feature = "proxy")]
pub mod app;
#[cfg(feature = "proxy")]
pub mod cli;
#[cfg(feature = "proxy")]
pub mod config;
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
pub use ledger::claim::{Claim, NotRecorded, Outcome, Recorded};
pub use ledger::store::{Store, StoreError};
pub use ledger::terms::Terms;
pub use ledger::{Begun, Ledger};
pub use record::{OnUnknown, Record, State};
pub use scope::{RecordId, Scope};
