//! The state machine: what a record means to one who comes with a key.
//!
//! Pure functions of what the store said. They are the only place where states, leases and fingerprints are weighed;
//! the model check of the tests runs on them.

use std::time::Duration;

use crate::fingerprint::Fingerprint;
use crate::ledger::store::Entry;
use crate::ledger::terms::Terms;
use crate::record::{OnUnknown, State, Version};

/// When to ask again about an execution that may end at any time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What one who comes with a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done: give the recorded outcome.
    Replay,
    /// The key was used for something else.
    Mismatch,
    /// Another executes, or may still execute.
    InFlight {
        /// When it makes sense to ask again.
        retry_after: Duration,
    },
    /// Nobody knows whether it was executed, and it is not executed again.
    Unknown,
    /// Execute, after a compare-and-set on this entry has won the key.
    TakeOver {
        /// The number of the new attempt.
        attempt: u32,
    },
}

/// Judges a record for one who comes with this fingerprint under these terms.
pub fn judge(entry: &Entry, fingerprint: &Fingerprint, terms: &Terms) -> Verdict {
    let record = &entry.record;
    let take_over = Verdict::TakeOver { attempt: record.attempt.saturating_add(1) };
    let unknown_for = match record.state {
        State::Released => return take_over,
        _ if record.fingerprint != *fingerprint => return Verdict::Mismatch,
        State::Completed => return Verdict::Replay,
        State::InFlight if entry.lease_left().is_some() => return Verdict::InFlight { retry_after: ASK_AGAIN },
        State::InFlight => entry.age.saturating_sub(record.lease),
        State::Unknown => entry.age,
    };
    match (record.on_unknown, terms.on_unknown) {
        (OnUnknown::Retry, OnUnknown::Retry) => {}
        _ => return Verdict::Unknown,
    }
    match record.grace.checked_sub(unknown_for).filter(|left| !left.is_zero()) {
        Some(left) => Verdict::InFlight { retry_after: left },
        None => take_over,
    }
}

/// What the owner of a claim does when it finds another version in place than the one it expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Footing {
    /// It is a write of its own, of which the answer was lost: repeat against this version.
    Own,
    /// Nobody took over, but an operator or a restart has touched the record: an outcome may still be written over it.
    Untaken,
    /// Another has finished, or an operator has settled.
    AlreadyDone,
    /// Another owns the key.
    Superseded,
}

/// Judges the entry in place for the owner of a claim who wrote `own` versions for `attempt`.
pub fn footing(own: &[Version], attempt: u32, fingerprint: &Fingerprint, entry: &Entry) -> Footing {
    if own.contains(&entry.version) {
        return Footing::Own;
    }
    match entry.record.state {
        State::Completed => Footing::AlreadyDone,
        State::Unknown | State::Released
            if entry.record.attempt == attempt && entry.record.fingerprint == *fingerprint =>
        {
            Footing::Untaken
        }
        State::InFlight | State::Unknown | State::Released => Footing::Superseded,
    }
}

/// What a proof that an attempt executed nothing makes of the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unexecuted {
    /// Nothing was there before it: the record goes.
    Forgotten,
    /// An operator had given the key back before it: it is free again, and keeps the attempt's number.
    Free,
    /// An earlier attempt may have executed: nobody knows, as before.
    Unknown,
}

/// Judges what is left of a key whose owner executed nothing, by the state that it took over, if there was any.
pub fn unexecuted(taken_over: Option<State>) -> Unexecuted {
    match taken_over {
        None => Unexecuted::Forgotten,
        Some(State::Released) => Unexecuted::Free,
        Some(State::InFlight | State::Unknown | State::Completed) => Unexecuted::Unknown,
    }
}

/// Whether an operator may decide about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settleable {
    /// Nobody knows the outcome, and nobody is at work.
    Yes,
    /// It is running, done, or free already.
    No,
}

/// Judges whether an operator may release or settle: only what is unknown, or in flight under a dead lease.
pub fn settleable(entry: &Entry) -> Settleable {
    match entry.record.state {
        State::Unknown => Settleable::Yes,
        State::InFlight if entry.lease_left().is_none() => Settleable::Yes,
        State::InFlight | State::Completed | State::Released => Settleable::No,
    }
}
