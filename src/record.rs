//! The record: what a store holds under scope and key, and its bytes.
//!
//! A stored value is one binary string: the 16-byte version of its last write, a fixed header, three short texts, the
//! outcome, and a CRC-32 of everything between version and checksum. All numbers are big-endian.
//!
//! ```text
//! 16 version · 2 "OP" · 1 format (1) · 1 state · 1 flags · 4 attempt
//! 8 lease, ms · 8 keep, ms · 8 grace, ms · 32 fingerprint · 2 status
//! 1 length of the route · the route · 1 length of the reason · the reason
//! 8 length of the outcome · the outcome · 4 CRC-32
//! ```

mod version;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::fingerprint::Fingerprint;
use crate::record::version::VERSION_LENGTH;

pub use crate::record::version::Version;

const MAGIC: &[u8; 2] = b"OP";
const FORMAT: u8 = 1;
const FLAG_RETRY: u8 = 1;
/// Version, magic, format, state, flags, attempt, three durations, fingerprint, status.
const HEADER_LENGTH: usize = VERSION_LENGTH + 2 + 1 + 1 + 1 + 4 + 8 + 8 + 8 + 32 + 2;
/// Two texts' lengths, the outcome's length, the checksum.
const SHORTEST: usize = HEADER_LENGTH + 1 + 1 + 8 + 4;
/// The longest route name and reason, in bytes.
pub const MAX_LABEL_LENGTH: usize = 255;

/// How far the execution under a key has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Somebody executes, or died while executing: the lease tells.
    InFlight,
    /// Done, and the outcome is here.
    Completed,
    /// Nobody can tell whether it was executed.
    Unknown,
    /// An operator gave the key back, and no attempt since has executed; the attempt number is kept.
    Released,
}

impl State {
    /// Every state, in the order of the stored numbers.
    pub const ALL: [State; 4] = [State::InFlight, State::Completed, State::Unknown, State::Released];

    /// The name used in the admin API and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            State::InFlight => "in-flight",
            State::Completed => "completed",
            State::Unknown => "unknown",
            State::Released => "released",
        }
    }

    /// The number that stands for the state in stored records.
    pub fn number(self) -> u8 {
        match self {
            State::InFlight => 1,
            State::Completed => 2,
            State::Unknown => 3,
            State::Released => 4,
        }
    }

    fn from_number(number: u8) -> Option<State> {
        State::ALL.into_iter().find(|state| state.number() == number)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to a key of which nobody can tell whether it was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnUnknown {
    /// Not executed again while the record lives: at most once.
    #[default]
    Hold,
    /// A later duplicate executes again: at least once.
    Retry,
}

/// What the store holds under scope and key.
///
/// ```
/// use onceproxy::record::{Record, State, Version};
/// # use bytes::Bytes;
/// # use onceproxy::{Fingerprint, OnUnknown};
/// # use std::time::Duration;
/// # let record = Record {
/// #     state: State::Completed,
/// #     attempt: 1,
/// #     on_unknown: OnUnknown::Hold,
/// #     lease: Duration::from_secs(30),
/// #     keep: Duration::from_secs(60),
/// #     grace: Duration::ZERO,
/// #     fingerprint: Fingerprint::of("charge"),
/// #     route: "pay".into(),
/// #     status: 201,
/// #     reason: "".into(),
/// #     outcome: Bytes::from("receipt 7"),
/// # };
/// let version = Version::random();
/// let mut bytes = record.encode(&version);
/// assert_eq!(Record::decode(&bytes), Ok((version, record)));
/// bytes.truncate(bytes.len() - 1);
/// assert!(Record::decode(&bytes).is_err());
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// How far the execution has come.
    pub state: State,
    /// The number of the claim that wrote this, from 1.
    pub attempt: u32,
    /// The choice the record began under.
    pub on_unknown: OnUnknown,
    /// How long after the last write the claim is alive. Whole milliseconds count.
    pub lease: Duration,
    /// How long the store keeps the record after this write. Whole milliseconds count.
    pub keep: Duration,
    /// How long to wait after a dead lease or an unknown before another attempt. Whole milliseconds count.
    pub grace: Duration,
    /// What the request was.
    pub fingerprint: Fingerprint,
    /// The route's name, for the operator; at most [`MAX_LABEL_LENGTH`] bytes are kept.
    pub route: Arc<str>,
    /// The answer's status, 0 where there is none.
    pub status: u16,
    /// Why an outcome is unknown, or what an operator did; at most [`MAX_LABEL_LENGTH`] bytes are kept.
    pub reason: Arc<str>,
    /// The answer, opaque here.
    pub outcome: Bytes,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("state", &self.state)
            .field("attempt", &self.attempt)
            .field("on_unknown", &self.on_unknown)
            .field("lease", &self.lease)
            .field("keep", &self.keep)
            .field("grace", &self.grace)
            .field("fingerprint", &self.fingerprint)
            .field("route", &self.route)
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("outcome_length", &self.outcome.len())
            .finish()
    }
}

/// Stored bytes that are not a record this program can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A record of another format: written by another release.
    #[error("the record has format {0}, this program reads format {FORMAT}")]
    UnknownFormat(u8),
    /// Damaged, cut short, or not a record at all.
    #[error("the stored bytes are not a record, or are damaged")]
    Corrupt,
}

impl Record {
    /// Writes the record's bytes under a version.
    pub fn encode(&self, version: &Version) -> Bytes {
        let route = label(&self.route);
        let reason = label(&self.reason);
        let mut out = BytesMut::with_capacity(SHORTEST + route.len() + reason.len() + self.outcome.len());
        out.put_slice(version.as_bytes());
        out.put_slice(MAGIC);
        out.put_u8(FORMAT);
        out.put_u8(self.state.number());
        out.put_u8(match self.on_unknown {
            OnUnknown::Hold => 0,
            OnUnknown::Retry => FLAG_RETRY,
        });
        out.put_u32(self.attempt);
        out.put_u64(millis(self.lease));
        out.put_u64(millis(self.keep));
        out.put_u64(millis(self.grace));
        out.put_slice(self.fingerprint.as_bytes());
        out.put_u16(self.status);
        out.put_u8(route.len() as u8);
        out.put_slice(route);
        out.put_u8(reason.len() as u8);
        out.put_slice(reason);
        out.put_u64(self.outcome.len() as u64);
        out.put_slice(&self.outcome);
        let checksum = crc32fast::hash(&out[VERSION_LENGTH..]);
        out.put_u32(checksum);
        out.freeze()
    }

    /// Reads a record's bytes; the outcome shares them.
    ///
    /// # Errors
    /// [`Unreadable`] when the bytes are of another format or damaged.
    pub fn decode(bytes: &Bytes) -> Result<(Version, Record), Unreadable> {
        let mut input = Input { bytes, at: 0 };
        let version = Version::from_bytes(input.array()?);
        if &input.array::<2>()? != MAGIC {
            return Err(Unreadable::Corrupt);
        }
        let [format] = input.array()?;
        if format != FORMAT {
            return Err(Unreadable::UnknownFormat(format));
        }
        let checked = bytes.len().checked_sub(4).filter(|end| *end > VERSION_LENGTH).ok_or(Unreadable::Corrupt)?;
        if crc32fast::hash(&bytes[VERSION_LENGTH..checked]).to_be_bytes() != bytes[checked..] {
            return Err(Unreadable::Corrupt);
        }
        let [state, flags] = input.array()?;
        let record = Record {
            state: State::from_number(state).ok_or(Unreadable::Corrupt)?,
            on_unknown: match flags {
                0 => OnUnknown::Hold,
                FLAG_RETRY => OnUnknown::Retry,
                _ => return Err(Unreadable::Corrupt),
            },
            attempt: u32::from_be_bytes(input.array()?),
            lease: Duration::from_millis(u64::from_be_bytes(input.array()?)),
            keep: Duration::from_millis(u64::from_be_bytes(input.array()?)),
            grace: Duration::from_millis(u64::from_be_bytes(input.array()?)),
            fingerprint: Fingerprint::from_bytes(input.array()?),
            status: u16::from_be_bytes(input.array()?),
            route: input.label()?,
            reason: input.label()?,
            outcome: {
                let length = u64::from_be_bytes(input.array()?);
                input.take(usize::try_from(length).map_err(|_| Unreadable::Corrupt)?)?
            },
        };
        if input.at != checked {
            return Err(Unreadable::Corrupt);
        }
        Ok((version, record))
    }
}

/// Whole milliseconds, as they are stored.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A label's bytes, cut at a character's border when too long.
fn label(text: &str) -> &[u8] {
    let mut end = text.len().min(MAX_LABEL_LENGTH);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text.as_bytes()[..end]
}

struct Input<'a> {
    bytes: &'a Bytes,
    at: usize,
}

impl Input<'_> {
    fn take(&mut self, length: usize) -> Result<Bytes, Unreadable> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len()).ok_or(Unreadable::Corrupt)?;
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let end = self.at + N;
        let taken = self.bytes.get(self.at..end).ok_or(Unreadable::Corrupt)?;
        self.at = end;
        Ok(taken.try_into().expect("the slice has N bytes"))
    }

    fn label(&mut self) -> Result<Arc<str>, Unreadable> {
        let [length] = self.array()?;
        let taken = self.take(usize::from(length))?;
        std::str::from_utf8(&taken).map(Arc::from).map_err(|_| Unreadable::Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            state: State::Completed,
            attempt: 3,
            on_unknown: OnUnknown::Retry,
            lease: Duration::from_secs(30),
            keep: Duration::from_secs(86_400),
            grace: Duration::from_millis(1500),
            fingerprint: Fingerprint::of(b"x"),
            route: "create-payment".into(),
            status: 201,
            reason: "".into(),
            outcome: Bytes::from_static(b"\0\xff{}"),
        }
    }

    #[test]
    fn what_was_written_is_read() {
        for state in State::ALL {
            let record = Record { state, ..record() };
            let version = Version::random();
            assert_eq!(Record::decode(&record.encode(&version)), Ok((version, record)));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_behind_the_version_is_seen() {
        let bytes = record().encode(&Version::random());
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes.slice(..length)).is_err(), "cut at {length}");
        }
        for at in VERSION_LENGTH..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= 1 << bit;
                assert!(Record::decode(&Bytes::from(damaged)).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn another_format_is_told_apart_from_damage() {
        let mut bytes = record().encode(&Version::random()).to_vec();
        bytes[VERSION_LENGTH + 2] = 9;
        assert_eq!(Record::decode(&Bytes::from(bytes)), Err(Unreadable::UnknownFormat(9)));
        assert_eq!(Record::decode(&Bytes::from_static(b"hello")), Err(Unreadable::Corrupt));
    }

    #[test]
    fn long_labels_are_cut_at_a_character() {
        let record = Record { reason: "é".repeat(200).into(), ..record() };
        let (_, read) = Record::decode(&record.encode(&Version::random())).expect("it reads");
        assert_eq!(&*read.reason, "é".repeat(127));
    }
}
