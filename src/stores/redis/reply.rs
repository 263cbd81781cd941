//! What Redis's replies say of a write.

use std::time::Duration;

use ::redis::{ServerError, Value};
use bytes::Bytes;

use crate::ledger::store::{Entry, StoreError};
use crate::record::{Record, millis};

/// The server's error in a reply.
pub(super) fn error_of(reply: &Value) -> Option<&ServerError> {
    match reply {
        Value::ServerError(error) => Some(error),
        _ => None,
    }
}

/// A command that the server refused changed nothing.
pub(super) fn refusal(error: &ServerError) -> StoreError {
    let text = error.to_string();
    // A script's failure carries the inner error's code behind its own.
    let code = match error.code() {
        "ERR" => error.details().unwrap_or_default().split([' ', ':']).next().unwrap_or_default(),
        code => code,
    };
    match code {
        "OOM" => StoreError::Full(text.into()),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => StoreError::Denied(text.into()),
        "WRONGTYPE" => StoreError::Corrupt,
        _ if text.contains("WRONGTYPE") => StoreError::Corrupt,
        _ => StoreError::NotApplied(text.into()),
    }
}

/// The entry of a value and its time to live.
pub(super) fn existing(bytes: Bytes, ttl: &Value) -> Result<Entry, StoreError> {
    let (version, record) = Record::decode(&bytes)?;
    match ttl {
        Value::Int(left) if *left >= 0 => {
            let age = millis(record.keep).max(1).saturating_sub(left.unsigned_abs());
            Ok(Entry { version, record, age: Duration::from_millis(age) })
        }
        // Without a time to live it is not of our writing.
        _ => Err(StoreError::Corrupt),
    }
}

/// A reply of a shape that the command does not have.
pub(super) fn unexpected() -> StoreError {
    StoreError::MaybeApplied("Redis gave a reply of an unexpected shape".into())
}
