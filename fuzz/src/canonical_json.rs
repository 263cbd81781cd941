//! Canonical JSON: the same for every spelling of a document, and another one for every other document.
//!
//! A first line that begins with `/` holds pointers to places that do not count.

use std::collections::BTreeMap;

use onceproxy::fingerprint::json::{MAX_DEPTH, Pointer, canonical};
use serde::de::IgnoredAny;

/// Takes the bytes for a document.
pub fn check(data: &[u8]) {
    let (pointers, document) = pointers(data);
    let written = canonical(document, &[]);
    let read = read(document);
    // The other reader gives up a little earlier.
    let is_deep = depth(document) + 2 > MAX_DEPTH;
    assert!(is_deep || written.is_some() == read.is_some(), "{} has a form: {}", show(document), written.is_some());
    if let Some(written) = &written {
        assert_eq!(canonical(written, &[]).as_ref(), Some(written), "the form of {} has another form", show(document));
    }
    if let (Some(written), Some(read)) = (&written, &read) {
        // The document can be told from its form: no other document has the same one.
        assert!(self::read(written).as_ref() == Some(read), "{} became {}", show(document), show(written));
        let mut other = Vec::new();
        respell(read, &mut other);
        assert_eq!(canonical(&other, &[]).as_ref(), Some(written), "{} has another form", show(&other));
    }
    let omitted = canonical(document, &pointers);
    assert_eq!(omitted.is_some(), written.is_some(), "pointers decide whether {} is JSON", show(document));
    if let Some(omitted) = omitted {
        assert!(is_deep || self::read(&omitted).is_some(), "{} became {}", show(document), show(&omitted));
    }
    for pointer in &pointers {
        assert_eq!(pointer.scalar(document).is_ok(), written.is_some());
    }
}

fn pointers(data: &[u8]) -> (Vec<Pointer>, &[u8]) {
    let Some(at) = data.iter().position(|&byte| byte == b'\n').filter(|_| data.starts_with(b"/")) else {
        return (Vec::new(), data);
    };
    let line = String::from_utf8_lossy(&data[..at]);
    (line.split(' ').filter_map(Pointer::parse).collect(), &data[at + 1..])
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How deep brackets nest, at most.
fn depth(document: &[u8]) -> usize {
    document.iter().filter(|byte| b"[{".contains(byte)).count()
}

/// A document as another reader understands it: numbers are what is written.
#[derive(PartialEq, Eq)]
enum Document {
    Literal(String),
    Text(String),
    List(Vec<Document>),
    Members(BTreeMap<String, Document>),
}

/// Reads a document with the help of `serde_json`, which knows what is well-formed and what a string's characters are.
fn read(document: &[u8]) -> Option<Document> {
    let text = std::str::from_utf8(document).ok()?;
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let mut rest = text;
    value(&mut rest)
}

/// Reads a value of a document that is well-formed; `None` for a member that is there twice and for half a character.
fn value(rest: &mut &str) -> Option<Document> {
    match next(rest) {
        '[' => {
            let mut elements = Vec::new();
            if !eat(rest, ']') {
                loop {
                    elements.push(value(rest)?);
                    if eat(rest, ']') {
                        break;
                    }
                    assert!(eat(rest, ','));
                }
            }
            Some(Document::List(elements))
        }
        '{' => {
            let mut members = BTreeMap::new();
            if !eat(rest, '}') {
                loop {
                    assert!(eat(rest, '"'));
                    let name = string(rest)?;
                    assert!(eat(rest, ':'));
                    let member = value(rest)?;
                    if members.insert(name, member).is_some() {
                        return None;
                    }
                    if eat(rest, '}') {
                        break;
                    }
                    assert!(eat(rest, ','));
                }
            }
            Some(Document::Members(members))
        }
        '"' => string(rest).map(Document::Text),
        first => {
            let end = rest.find([',', ']', '}', ' ', '\t', '\n', '\r']).unwrap_or(rest.len());
            let literal = format!("{first}{}", &rest[..end]);
            *rest = &rest[end..];
            Some(Document::Literal(literal))
        }
    }
}

/// Reads a string behind its first quote.
fn string(rest: &mut &str) -> Option<String> {
    let mut is_escaped = false;
    let end = rest.find(|c| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    });
    let end = end.expect("the string has an end");
    let text = serde_json::from_str(&format!("\"{}\"", &rest[..end])).ok();
    *rest = &rest[end + 1..];
    text
}

fn next(rest: &mut &str) -> char {
    *rest = rest.trim_start();
    let first = rest.chars().next().expect("the document goes on");
    *rest = &rest[first.len_utf8()..];
    first
}

fn eat(rest: &mut &str, wanted: char) -> bool {
    *rest = rest.trim_start();
    let found = rest.strip_prefix(wanted);
    *rest = found.unwrap_or(rest);
    found.is_some()
}

/// Writes a document with its members from the last to the first, white space wherever it may stand, and all of every
/// string escaped.
fn respell(document: &Document, out: &mut Vec<u8>) {
    out.extend_from_slice(b" \t");
    match document {
        Document::Literal(text) => out.extend_from_slice(text.as_bytes()),
        Document::Text(text) => escape(text, out),
        Document::List(elements) => {
            out.push(b'[');
            for (at, element) in elements.iter().enumerate() {
                out.extend_from_slice(if at > 0 { &b",\n"[..] } else { b"\r" });
                respell(element, out);
            }
            out.push(b']');
        }
        Document::Members(members) => {
            out.extend_from_slice(b"{ ");
            for (at, (name, member)) in members.iter().rev().enumerate() {
                out.extend_from_slice(if at > 0 { &b" ,\n"[..] } else { b"\n" });
                escape(name, out);
                out.extend_from_slice(b" :");
                respell(member, out);
            }
            out.extend_from_slice(b" }");
        }
    }
    out.push(b'\n');
}

fn escape(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for unit in text.encode_utf16() {
        out.extend_from_slice(format!("\\u{unit:04X}").as_bytes());
    }
    out.push(b'"');
}
