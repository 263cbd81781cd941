//! A request as a client wrote it, made into what a server hands on.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri, Version};

/// Reads a request line, fields and a body; `None` where a server would have refused to.
pub(crate) fn read(data: &[u8]) -> Option<(Parts, Bytes)> {
    let (head, body) = split(data);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut words = lines.next()?.split(|&byte| byte == b' ');
    let (method, target) = (Method::from_bytes(words.next()?).ok()?, Uri::try_from(words.next()?).ok()?);
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.version = match words.next() {
        Some(b"HTTP/2") => Version::HTTP_2,
        Some(b"HTTP/1.0") => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    (parts.method, parts.uri) = (method, target);
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        parts.headers.append(name, value);
    }
    Some((parts, Bytes::copy_from_slice(body)))
}

/// Head and body; the empty line between them belongs to neither.
fn split(data: &[u8]) -> (&[u8], &[u8]) {
    for end in [&b"\r\n\r\n"[..], b"\n\n"] {
        if let Some(at) = data.windows(end.len()).position(|window| window == end) {
            return (&data[..at], &data[at + end.len()..]);
        }
    }
    (data.trim_ascii_end(), b"")
}
