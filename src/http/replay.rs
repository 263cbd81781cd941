//! A response as it is recorded, and back. The first answer and every replay leave through [`Recording::deliver`], so
//! that they are equal by construction.
//!
//! ```text
//! 1 format (1) · 1 kind (0 whole, 1 not stored) · 2 status
//! 4 number of fields, then each: 4 length, name, 4 length, value
//! 4 number of trailers, likewise
//! the body, to the end
//! ```

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONNECTION, DATE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::answer::remove_ours;
use super::attempt::IDEMPOTENCY_REPLAYED;
use super::body::{KeptBody, ResponseBody};
use super::budget::Reserved;
#[cfg(feature = "proxy")]
use crate::ledger::claim::Outcome;

const FORMAT: u8 = 1;
const WHOLE: u8 = 0;
const NOT_STORED: u8 = 1;

/// How many fields are added to those that were recorded, at most.
const ADDED: usize = 4;

/// A response as it is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    pub(super) status: StatusCode,
    /// End-to-end fields only.
    pub(super) headers: HeaderMap,
    pub(super) chunks: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
}

/// What a record's outcome holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recorded {
    Whole(Recording),
    /// The response was too large to keep.
    NotStored {
        status: StatusCode,
        location: Option<String>,
    },
}

/// Takes out of a response's fields what belongs to one connection, what is ours, and the length, which is told by the
/// bytes themselves. A missing Date is written (RFC 9110 section 6.6.1), so that a replay has the first answer's.
pub(super) fn keep_end_to_end(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    remove_ours(headers);
    if !headers.contains_key(DATE) {
        headers.insert(DATE, date());
    }
}

/// The time as a field's value, written once a second.
fn date() -> HeaderValue {
    thread_local! {
        static LAST: RefCell<(Duration, HeaderValue)> =
            const { RefCell::new((Duration::MAX, HeaderValue::from_static(""))) };
    }
    let now = SystemTime::now();
    let second = Duration::from_secs(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
    LAST.with_borrow_mut(|(at, value)| {
        if *at != second {
            let text = httpdate::fmt_http_date(now);
            *value = HeaderValue::try_from(text).expect("a date is made of field characters");
            *at = second;
        }
        value.clone()
    })
}

/// Takes out what belongs to one connection, and the length.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let mut dropped: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    if dropped.contains(&CONNECTION) {
        let lines = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        let nominated = lines.flat_map(|value| value.split(',')).map(|name| HeaderName::try_from(name.trim()));
        dropped.extend(nominated.filter_map(Result::ok));
    }
    for name in dropped {
        headers.remove(name);
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" | "content-length")
        || name.starts_with("proxy-")
}

/// Takes the fields out that the policy does not store; they go to the first client only.
pub(super) fn split_dropped(headers: &mut HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut dropped = HeaderMap::new();
    for name in names {
        if let http::header::Entry::Occupied(entry) = headers.entry(name) {
            let (name, values) = entry.remove_entry_mult();
            values.for_each(|value| {
                dropped.append(name.clone(), value);
            });
        }
    }
    dropped
}

impl Recording {
    /// The record's outcome.
    pub(super) fn encode(&self) -> Bytes {
        let body: usize = self.chunks.iter().map(Bytes::len).sum();
        let mut out = BytesMut::with_capacity(12 + fields_length(&self.headers) + body);
        out.put_u8(FORMAT);
        out.put_u8(WHOLE);
        out.put_u16(self.status.as_u16());
        put_fields(&mut out, &self.headers);
        match &self.trailers {
            Some(trailers) => put_fields(&mut out, trailers),
            None => out.put_u32(0),
        }
        self.chunks.iter().for_each(|chunk| out.put_slice(chunk));
        out.freeze()
    }

    /// The record's outcome; the response's body is a part of its bytes from now on.
    pub(super) fn encode_and_share(&mut self) -> Bytes {
        let encoded = self.encode();
        let body: usize = self.chunks.iter().map(Bytes::len).sum();
        if body > 0 {
            self.chunks = vec![encoded.slice(encoded.len() - body..)];
        }
        encoded
    }

    /// The outcome of a response that an operator gives instead of the upstream.
    #[cfg(feature = "proxy")]
    pub(crate) fn settled(status: StatusCode, mut headers: HeaderMap, body: Bytes) -> Outcome {
        keep_end_to_end(&mut headers);
        let chunks = if body.is_empty() { Vec::new() } else { vec![body] };
        let recording = Recording { status, headers, chunks, trailers: None };
        Outcome { bytes: recording.encode(), status: status.as_u16(), remark: "", fallback: None }
    }

    /// The response that the first client and every later one gets.
    pub(super) fn deliver<B>(self, reserved: Option<Reserved>) -> Response<ResponseBody<B>> {
        let mut response = Response::new(ResponseBody::kept(KeptBody::new(self.chunks, self.trailers, reserved)));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }

    /// Marks a recording as given before.
    pub(super) fn mark_replayed(&mut self) {
        self.headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
        if !self.headers.contains_key(CACHE_CONTROL) {
            self.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
}

impl Recorded {
    /// The outcome of a response that is not kept.
    pub(super) fn encode_not_stored(status: StatusCode, headers: &HeaderMap) -> Bytes {
        let mut location = HeaderMap::new();
        if let Some(value) = headers.get(LOCATION) {
            location.insert(LOCATION, value.clone());
        }
        let mut out = BytesMut::with_capacity(12 + fields_length(&location));
        out.put_u8(FORMAT);
        out.put_u8(NOT_STORED);
        out.put_u16(status.as_u16());
        put_fields(&mut out, &location);
        out.put_u32(0);
        out.freeze()
    }

    /// Reads a record's outcome; the body shares its bytes. `None` when it is not one of a response.
    pub(super) fn decode(mut input: Bytes) -> Option<Recorded> {
        if input.try_get_u8().ok()? != FORMAT {
            return None;
        }
        let kind = input.try_get_u8().ok()?;
        let status = StatusCode::from_u16(input.try_get_u16().ok()?).ok()?;
        let headers = get_fields(&mut input)?;
        let trailers = get_fields(&mut input)?;
        match kind {
            WHOLE => Some(Recorded::Whole(Recording {
                status,
                headers,
                trailers: Some(trailers).filter(|trailers| !trailers.is_empty()),
                chunks: if input.is_empty() { Vec::new() } else { vec![input] },
            })),
            NOT_STORED => {
                let location = headers.get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
                Some(Recorded::NotStored { status, location })
            }
            _ => None,
        }
    }
}

fn fields_length(headers: &HeaderMap) -> usize {
    4 + headers.iter().map(|(name, value)| 8 + name.as_str().len() + value.len()).sum::<usize>()
}

fn put_fields(out: &mut BytesMut, headers: &HeaderMap) {
    out.put_u32(headers.len() as u32);
    for (name, value) in headers {
        out.put_u32(name.as_str().len() as u32);
        out.put_slice(name.as_str().as_bytes());
        out.put_u32(value.len() as u32);
        out.put_slice(value.as_bytes());
    }
}

fn get_fields(input: &mut Bytes) -> Option<HeaderMap> {
    let count = input.try_get_u32().ok()? as usize;
    // With room for what a replay adds.
    let mut headers = if count == 0 { HeaderMap::new() } else { HeaderMap::with_capacity(count.min(64) + ADDED) };
    for _ in 0..count {
        let name = HeaderName::from_bytes(&get_text(input)?).ok()?;
        let value = HeaderValue::from_maybe_shared(get_text(input)?).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

fn get_text(input: &mut Bytes) -> Option<Bytes> {
    let length = input.try_get_u32().ok()? as usize;
    (length <= input.len()).then(|| input.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_bytes(b"\xff2").expect("opaque bytes are allowed"));
        headers.append("content-type", HeaderValue::from_static("application/octet-stream"));
        let mut trailers = HeaderMap::new();
        trailers.append("grpc-status", HeaderValue::from_static("0"));
        Recording {
            status: StatusCode::CREATED,
            headers,
            chunks: vec![Bytes::from_static(b"\0\xffbody")],
            trailers: Some(trailers),
        }
    }

    #[test]
    fn what_was_recorded_is_read() {
        assert_eq!(Recorded::decode(recording().encode()), Some(Recorded::Whole(recording())));
        let empty = Recording { chunks: Vec::new(), trailers: None, ..recording() };
        let read = Recorded::decode(empty.encode());
        assert_eq!(read, Some(Recorded::Whole(empty)));
    }

    #[test]
    fn no_cut_of_the_head_is_read_as_a_response() {
        let bytes = recording().encode();
        for length in 0..bytes.len() - b"\0\xffbody".len() {
            assert_eq!(Recorded::decode(bytes.slice(..length)), None, "cut at {length}");
        }
    }

    #[test]
    fn hop_by_hop_fields_are_not_kept_h36() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("proxy-authenticate", "Basic"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "timeout=5"),
            ("idempotency-status", "executed"),
            ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
            ("x-kept", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        keep_end_to_end(&mut headers);
        let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_eq!(headers["date"], "Tue, 15 Nov 1994 08:12:31 GMT");
        assert!(headers.contains_key("x-kept"));
    }
}
