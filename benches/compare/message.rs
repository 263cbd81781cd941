//! What goes over the wire: requests with the key patched in, and as much of an answer as has to be read.

use crate::Result;

/// Digits of a key.
const KEY_LENGTH: usize = 16;
const KEY_PLACE: [u8; KEY_LENGTH] = [b'0'; KEY_LENGTH];
/// The longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// The body of a request of the usual size, in bytes.
pub const BODY_BYTES: usize = 300;

/// What a request looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub method: Method,
    pub path: &'static str,
    /// Of a POST.
    pub body_bytes: usize,
    pub key: KeyField,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyField {
    Absent,
    Present,
}

/// The bytes of a request, all of which but the key stay the same.
pub struct Request {
    bytes: Vec<u8>,
    key_at: Option<usize>,
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// Marked `Idempotency-Replayed: true`.
    pub replayed: bool,
    /// The server ends the connection with it.
    pub last: bool,
    /// Head and body together, in bytes.
    pub whole_bytes: usize,
    pub body_bytes: usize,
}

impl Request {
    pub fn new(shape: &Shape) -> Request {
        let mut request = Request::head(shape);
        if shape.method == Method::Post {
            request.bytes.extend(json(shape.body_bytes));
        }
        request
    }

    /// Without the body that it announces.
    pub fn head(shape: &Shape) -> Request {
        let mut head = match shape.method {
            Method::Get => format!("GET {} HTTP/1.1\r\nHost: 127.0.0.1\r\n", shape.path),
            Method::Post => format!(
                "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
                shape.path, shape.body_bytes
            ),
        };
        let mut key_at = None;
        if shape.key == KeyField::Present {
            head.push_str("Idempotency-Key: \"");
            key_at = Some(head.len());
            head.push_str(&String::from_utf8_lossy(&KEY_PLACE));
            head.push_str("\"\r\n");
        }
        head.push_str("\r\n");
        Request { bytes: head.into_bytes(), key_at }
    }

    /// The request under this key.
    pub fn under(&mut self, key: u64) -> &[u8] {
        if let Some(at) = self.key_at {
            let mut rest = key;
            for place in self.bytes[at..at + KEY_LENGTH].iter_mut().rev() {
                *place = b"0123456789abcdef"[(rest & 15) as usize];
                rest >>= 4;
            }
        }
        &self.bytes
    }
}

/// A JSON string of this many bytes, quotes included.
pub fn json(length: usize) -> Vec<u8> {
    let mut body = vec![b'x'; length];
    if let [first, .., last] = body.as_mut_slice() {
        *first = b'"';
        *last = b'"';
    }
    body
}

impl Head {
    /// Reads the head once it is there in full.
    pub fn read(bytes: &[u8]) -> Result<Option<Head>> {
        let Some(end) = end_of_head(bytes) else {
            if bytes.len() > MAX_HEAD_BYTES {
                return Err("the head of an answer does not end".into());
            }
            return Ok(None);
        };
        let head = std::str::from_utf8(&bytes[..end])?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.get(9..12)).and_then(|digits| digits.parse().ok());
        let mut length = None;
        let mut replayed = false;
        let mut last = false;
        for line in lines {
            if let Some(value) = field(line, "content-length:") {
                length = value.parse::<usize>().ok();
            } else if let Some(value) = field(line, "idempotency-replayed:") {
                replayed = value == "true";
            } else if let Some(value) = field(line, "connection:") {
                last = value.eq_ignore_ascii_case("close");
            }
        }
        match (status, length) {
            (Some(status), Some(length)) => {
                Ok(Some(Head { status, replayed, last, whole_bytes: end + length, body_bytes: length }))
            }
            _ => Err(format!("an answer without status or Content-Length: {head:?}").into()),
        }
    }
}

/// Where the body begins.
pub fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a header line of this name, which is in lower case and ends with the colon.
pub fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim())
}
