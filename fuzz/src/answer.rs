//! Recorded answers: whatever a record holds as its outcome, the next client gets an answer or a refusal.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use onceproxy::Policy;
use onceproxy::ledger::store::{Draft, Notice, Replaced};
use onceproxy::record::Record;

use super::stage::{Stage, UPSTREAM};

/// Takes the bytes for the outcome of an execution.
pub fn check(data: &[u8]) {
    let stage = Stage::new(Arc::new(Policy::required()));
    let request = Request::post("http://api.example/").header("idempotency-key", "k").body(()).expect("a request");
    let (parts, ()) = request.into_parts();
    let body = Bytes::from_static(b"100");
    let first = stage.send(&parts, &body);
    let id = first.record.expect("a protected request has a record");
    let store = stage.ledger.store();
    let entry = stage.wait_for(store.load(&id)).expect("the store is there").expect("it was recorded");
    let good = entry.record.outcome.clone();
    let draft = Draft::new(Record { outcome: Bytes::copy_from_slice(data), ..entry.record });
    let replaced = stage.wait_for(store.replace(&id, &entry.version, &draft, Notice::Skip));
    assert_eq!(replaced.expect("the store is there"), Replaced::Done);
    let replay = stage.send(&parts, &body);
    if replay.field("idempotency-status") == b"replayed" {
        assert_eq!(replay.field("idempotency-replayed"), b"true");
        assert!(data.ends_with(&replay.body), "{replay:?}");
    } else {
        assert!(!replay.headers.contains_key(UPSTREAM));
        replay.assert_is_one();
    }
    assert_eq!(stage.executions(&id), 1);
    if *good == *data {
        assert_eq!((replay.status, replay.body), (first.status, first.body));
    }
}
