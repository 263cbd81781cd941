//! HTTP/1.1 messages, read from a socket that may end in the middle of one.

use std::io::{self, BufRead, ErrorKind, Read};

/// A start line and fields, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    pub start: String,
    pub fields: Vec<(String, String)>,
}

/// Which side sent a message; an answer may end with its connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Request,
    Answer,
}

impl Head {
    /// The values of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The first value of a field.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

/// Reads a head; `None` when the other side closed before its first byte.
pub fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let Some(start) = read_line(reader)? else { return Ok(None) };
    let mut head = Head { start, fields: Vec::new() };
    loop {
        let line = read_line(reader)?.ok_or(ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            return Ok(Some(head));
        }
        let (name, value) = line.split_once(':').ok_or(ErrorKind::InvalidData)?;
        head.fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads the body that a head announces.
pub fn read_body(reader: &mut impl BufRead, head: &Head, kind: Kind) -> io::Result<Vec<u8>> {
    if head.first("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return read_chunks(reader);
    }
    let mut body = Vec::new();
    match (head.first("content-length"), kind) {
        (Some(length), _) => {
            let length: usize = length.parse().map_err(|_| ErrorKind::InvalidData)?;
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
        }
        (None, Kind::Request) => {}
        (None, Kind::Answer) => drop(reader.read_to_end(&mut body)?),
    }
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?.ok_or(ErrorKind::UnexpectedEof)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| ErrorKind::InvalidData)?;
        if size == 0 {
            break;
        }
        let begin = body.len();
        body.resize(begin + size, 0);
        reader.read_exact(&mut body[begin..])?;
        if read_line(reader)?.as_deref() != Some("") {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    // Trailers are of no interest here.
    while !read_line(reader)?.ok_or(ErrorKind::UnexpectedEof)?.is_empty() {}
    Ok(body)
}

/// Reads a line; `None` at the end, an error for half a line.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<String>> {
    const LONGEST_LINE_BYTES: u64 = 64 << 10;
    let mut line = Vec::new();
    reader.by_ref().take(LONGEST_LINE_BYTES).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = line.strip_suffix(b"\r\n").ok_or(ErrorKind::UnexpectedEof)?;
    Ok(Some(String::from_utf8_lossy(text).into_owned()))
}
