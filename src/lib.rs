//! onceproxy

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

pub use fingerprint::{Fingerprint, FingerprintBuilder};
pub use key::{Key, KeyError, KeySyntax};
pub use ledger::store::{Store, StoreError};
pub use ledger::terms::Terms;
pub use record::{OnUnknown, Record, State};
pub use scope::{RecordId, Scope};
