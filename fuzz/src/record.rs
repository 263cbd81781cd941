//! Stored records: no bytes make the decoder panic, and it reads back exactly what was written.

use std::time::Duration;

use bytes::Bytes;
use onceproxy::record::{MAX_LABEL_LENGTH, Record, State, Version};
use onceproxy::{Fingerprint, OnUnknown};

/// The version stands in front of what the checksum is about.
const VERSION_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;
/// Magic and format.
const FRONT: &[u8] = b"OP\x01";

/// Takes the bytes for a record as they are, for one with a right front and checksum, and for what a record is made of.
pub fn check(data: &[u8]) {
    decode(Bytes::copy_from_slice(data));
    if let Some(sealed) = seal(data) {
        decode(sealed);
    }
    encode(&mut Input(data));
}

/// What can be read is written as it stood.
fn decode(bytes: Bytes) {
    if let Ok((version, record)) = Record::decode(&bytes) {
        assert_eq!(record.encode(&version), bytes, "{record:?}");
    }
}

/// The same bytes as far as the fields go, but with magic, format and checksum in their places.
fn seal(data: &[u8]) -> Option<Bytes> {
    let mut bytes = data.to_vec();
    let end = bytes.len().checked_sub(CHECKSUM_BYTES)?;
    bytes.get_mut(VERSION_BYTES..VERSION_BYTES + FRONT.len())?.copy_from_slice(FRONT);
    let checksum = crc32fast::hash(bytes.get(VERSION_BYTES..end)?);
    bytes[end..].copy_from_slice(&checksum.to_be_bytes());
    Some(bytes.into())
}

/// What is written can be read.
fn encode(input: &mut Input<'_>) {
    let [state, retry] = input.take();
    let record = Record {
        state: State::ALL[usize::from(state) % State::ALL.len()],
        on_unknown: if retry % 2 == 0 { OnUnknown::Hold } else { OnUnknown::Retry },
        attempt: u32::from_be_bytes(input.take()),
        lease: Duration::from_millis(u64::from_be_bytes(input.take())),
        keep: Duration::from_millis(u64::from_be_bytes(input.take())),
        grace: Duration::from_millis(u64::from_be_bytes(input.take())),
        fingerprint: Fingerprint::from_bytes(input.take()),
        status: u16::from_be_bytes(input.take()),
        route: input.text().into(),
        reason: input.text().into(),
        outcome: Bytes::copy_from_slice(input.0),
    };
    let version = Version::from_bytes(input.take());
    let (read_version, read) = Record::decode(&record.encode(&version)).expect("what was written can be read");
    assert!(is_kept(&record.route, &read.route) && is_kept(&record.reason, &read.reason), "{record:?} became {read:?}");
    let Record { route, reason, .. } = read.clone();
    assert_eq!((read_version, read), (version, Record { route, reason, ..record }));
}

/// Whether a label was kept, or cut at the last character that fits.
fn is_kept(label: &str, kept: &str) -> bool {
    match label.strip_prefix(kept).and_then(|rest| rest.chars().next()) {
        Some(next) => kept.len() + next.len_utf8() > MAX_LABEL_LENGTH && kept.len() <= MAX_LABEL_LENGTH,
        None => label == kept,
    }
}

/// Bytes to make values of; zeros when they are used up.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// A text of up to 510 bytes or so.
    fn text(&mut self) -> String {
        let [length] = self.take();
        let (taken, rest) = self.0.split_at((usize::from(length) * 2).min(self.0.len()));
        self.0 = rest;
        String::from_utf8_lossy(taken).into_owned()
    }
}
