//! A record as the operator sees it. Never its outcome: that is between client and upstream.

use serde_json::{Value, json};

use crate::ledger::store::Entry;
use crate::record::{OnUnknown, State, millis};
use crate::scope::RecordId;

/// The state as a duplicate would meet it: what is in flight under a dead lease is unknown.
pub(super) fn state(entry: &Entry) -> State {
    match entry.record.state {
        State::InFlight if entry.lease_left().is_none() => State::Unknown,
        state => state,
    }
}

pub(super) fn record(id: &RecordId, entry: &Entry) -> Value {
    let record = &entry.record;
    let state = state(entry);
    let reason: &str = match (record.state, state) {
        (State::InFlight, State::Unknown) => "lease-ended",
        _ => &record.reason,
    };
    json!({
        "id": id.to_string(),
        "route": &*record.route,
        "state": state.as_str(),
        "attempt": record.attempt,
        "age_ms": millis(entry.age),
        "lease_left_ms": match record.state {
            State::InFlight => entry.lease_left().map_or(0, millis),
            _ => 0,
        },
        "keep_left_ms": millis(record.keep.saturating_sub(entry.age)),
        "unknown_outcome": match record.on_unknown {
            OnUnknown::Hold => "hold",
            OnUnknown::Retry => "retry",
        },
        "reason": if reason.is_empty() { Value::Null } else { reason.into() },
        "status": if record.status == 0 { Value::Null } else { record.status.into() },
    })
}
