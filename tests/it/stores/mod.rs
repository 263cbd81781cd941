//! The stores: each passes the whole conformance suite, and goes wrong the way it should.

mod conformance;
mod memory;
mod redis;
mod redis_faults;
mod redis_setup;
mod specimens;
mod sqlite;
mod sqlite_commits;
mod suite;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use onceproxy::ledger::store::Draft;
use onceproxy::record::Version;
use onceproxy::{Fingerprint, OnUnknown, Record, RecordId, State};

/// An id that was never used.
fn fresh_id() -> RecordId {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(Version::random().as_bytes());
    bytes[16..].copy_from_slice(Version::random().as_bytes());
    RecordId::from_bytes(bytes)
}

/// A write of a claim, kept for ten minutes.
fn in_flight() -> Draft {
    Draft::new(Record {
        state: State::InFlight,
        attempt: 1,
        on_unknown: OnUnknown::Hold,
        lease: Duration::from_secs(30),
        keep: Duration::from_secs(600),
        grace: Duration::from_secs(10),
        fingerprint: Fingerprint::of("charge 100"),
        route: Arc::from("create-payment"),
        status: 0,
        reason: Arc::from(""),
        outcome: Bytes::new(),
    })
}

/// A write of a finished record.
fn completed(outcome: &'static str) -> Draft {
    Draft::new(Record { state: State::Completed, status: 201, outcome: outcome.into(), ..in_flight().record })
}
