//! Canonical JSON: the same document in another order or with other white space gives the same bytes.
//!
//! Numbers keep their text as written: pushing them through a float would make two different 64-bit ids equal. A body
//! with a member name twice in one object has no canonical form (readers disagree about which one counts), nor has
//! one that is not JSON, nor one nested deeper than [`MAX_DEPTH`]; the caller falls back to the bytes as they are.

mod parse;

use parse::{Value, parse};

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 128;

/// A place in a document that does not count: an RFC 6901 pointer in which `*` stands for every element of an array
/// or member of an object.
///
/// ```
/// use onceproxy::fingerprint::json::{Pointer, canonical};
///
/// let omit = [Pointer::parse("/items/*/trace").expect("it begins with a slash")];
/// let body = br#"{"n": 1.0, "items": [{"trace": "a", "id": 7}]}"#;
/// assert_eq!(canonical(body, &omit).as_deref(), Some(&br#"{"items":[{"id":7}],"n":1.0}"#[..]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Parses a pointer; it begins with `/`.
    pub fn parse(text: &str) -> Option<Pointer> {
        let rest = text.strip_prefix('/')?;
        let mut steps = Vec::new();
        for step in rest.split('/') {
            if step.replace("~0", "").replace("~1", "").contains('~') {
                return None;
            }
            steps.push(step.replace("~1", "/").replace("~0", "~"));
        }
        Some(Pointer(steps))
    }

    /// Finds what this pointer names: a string's characters, a number as written. `None` for `null` too.
    ///
    /// # Errors
    /// [`NotJson`] when readers may disagree about the document.
    pub fn scalar(&self, document: &[u8]) -> Result<Option<Scalar>, NotJson> {
        let root = parse(document).ok_or(NotJson)?;
        Ok(self.find(&root).and_then(Scalar::of))
    }

    fn find<'v>(&self, root: &'v Value<'v>) -> Option<&'v Value<'v>> {
        self.0.iter().try_fold(root, |value, step| match value {
            Value::Object(members) => members.get(step),
            Value::Array(elements) => elements.get(index(step)?),
            Value::Literal(_) | Value::Text(_) => None,
        })
    }
}

/// The document is not JSON, or readers may disagree about it: it has a member twice, or nests too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the document is not JSON that every reader reads alike")]
pub struct NotJson;

impl Scalar {
    fn of(value: &Value<'_>) -> Option<Scalar> {
        match value {
            Value::Text(text) => Some(Scalar::String(text.clone())),
            Value::Literal(text) if text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                Some(Scalar::Number((*text).to_owned()))
            }
            Value::Literal("null") => None,
            Value::Literal(_) | Value::Array(_) | Value::Object(_) => Some(Scalar::Other),
        }
    }
}

/// A place of a document, as far as it is a string or a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scalar {
    /// The characters, unescaped.
    String(String),
    /// The number's text as written.
    Number(String),
    /// There is something, but neither of them.
    Other,
}

/// RFC 6901 section 4: digits without a leading zero.
fn index(step: &str) -> Option<usize> {
    if step.len() > 1 && step.starts_with('0') || !step.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    step.parse().ok()
}

/// The canonical bytes of `document` without the places in `omit`; `None` when it has no canonical form.
pub fn canonical(document: &[u8], omit: &[Pointer]) -> Option<Vec<u8>> {
    let root = parse(document)?;
    let mut out = Vec::with_capacity(document.len());
    let omit: Vec<&[String]> = omit.iter().map(|pointer| pointer.0.as_slice()).collect();
    write(&root, &omit, &mut out);
    Some(out)
}

fn write(value: &Value<'_>, omit: &[&[String]], out: &mut Vec<u8>) {
    match value {
        Value::Literal(text) => out.extend_from_slice(text.as_bytes()),
        Value::Text(text) => write_string(text, out),
        Value::Array(elements) => {
            out.push(b'[');
            let kept = elements
                .iter()
                .enumerate()
                .filter_map(|(i, element)| below(omit, &i.to_string()).map(|omit| (element, omit)));
            for (n, (element, omit)) in kept.enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(element, &omit, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            let kept = members.iter().filter_map(|(name, member)| below(omit, name).map(|omit| (name, member, omit)));
            for (n, (name, member, omit)) in kept.enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write_string(name, out);
                out.push(b':');
                write(member, &omit, out);
            }
            out.push(b'}');
        }
    }
}

/// The pointers that go on below `step`; `None` when one of them ends there, which omits the place.
fn below<'p>(omit: &[&'p [String]], step: &str) -> Option<Vec<&'p [String]>> {
    let mut deeper = Vec::new();
    for pointer in omit {
        match pointer.split_first() {
            Some((first, rest)) if first == step || first == "*" => {
                if rest.is_empty() {
                    return None;
                }
                deeper.push(rest);
            }
            _ => {}
        }
    }
    Some(deeper)
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canon(document: &str, omit: &[&str]) -> Option<String> {
        let omit: Vec<Pointer> = omit.iter().map(|p| Pointer::parse(p).expect("a good pointer")).collect();
        canonical(document.as_bytes(), &omit).map(|bytes| String::from_utf8(bytes).expect("canonical JSON is UTF-8"))
    }

    #[test]
    fn order_space_and_escapes_do_not_count() {
        assert_eq!(canon(" {\"b\" : [1 , 2],\n\"a\":\"x\"}", &[]), canon(r#"{"a":"\u0078","b":[1,2]}"#, &[]));
        assert_eq!(canon(r#""\ud83d\ude00\/""#, &[]), canon("\"😀/\"", &[]));
    }

    #[test]
    fn numbers_keep_their_text() {
        assert_ne!(canon("9007199254740993", &[]), canon("9007199254740992", &[]));
        assert_ne!(canon("1.0", &[]), canon("1", &[]));
        assert_eq!(canon("[-0.5e+10]", &[]).as_deref(), Some("[-0.5e+10]"));
    }

    #[test]
    fn array_order_counts() {
        assert_ne!(canon("[1,2]", &[]), canon("[2,1]", &[]));
    }

    #[test]
    fn what_has_no_canonical_form() {
        for bad in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1,"\u0061":2}"#,
            "",
            "nul",
            "[1,]",
            "{\"a\"}",
            "01",
            "1.",
            "-",
            "1e",
            "\"\x01\"",
            r#""\ud800""#,
            r#""\udc00""#,
            r#""\ud800\u0041""#,
            "[1] 2",
            "+1",
            "\"abc",
        ] {
            assert_eq!(canon(bad, &[]), None, "{bad}");
        }
        assert_eq!(canonical(b"\"\xff\"", &[]), None);
        assert!(canon(&format!("{}{}", "[".repeat(128), "]".repeat(128)), &[]).is_some());
        assert!(canon(&"[".repeat(100_000), &[]).is_none());
    }

    #[test]
    fn omitted_places_do_not_count() {
        let a = r#"{"items":[{"trace":1,"x":2},{"x":3}],"meta":{"sent_at":"now","k":1}}"#;
        let b = r#"{"items":[{"x":2},{"trace":9,"x":3}],"meta":{"k":1}}"#;
        let omit = ["/items/*/trace", "/meta/sent_at"];
        assert_eq!(canon(a, &omit), canon(b, &omit));
        assert_ne!(canon(a, &[]), canon(b, &[]));
        assert_eq!(canon(r#"{"a/b":1,"c":2}"#, &["/a~1b"]).as_deref(), Some(r#"{"c":2}"#));
        assert_eq!(canon(r#"[1,2,3]"#, &["/1"]).as_deref(), Some("[1,3]"));
        assert!(Pointer::parse("a").is_none());
        assert!(Pointer::parse("/~2").is_none());
    }

    #[test]
    fn pointer_finds_a_scalar() {
        let find = |pointer: &str, text: &str| Pointer::parse(pointer).expect("a good pointer").scalar(text.as_bytes());
        assert_eq!(find("/a/0", r#"{"a":["k"]}"#), Ok(Some(Scalar::String("k".into()))));
        assert_eq!(
            find("/id", r#"{"id":12345678901234567890}"#),
            Ok(Some(Scalar::Number("12345678901234567890".into())))
        );
        assert_eq!(find("/id", r#"{"id":true}"#), Ok(Some(Scalar::Other)));
        assert_eq!(find("/id", r#"{"id":{}}"#), Ok(Some(Scalar::Other)));
        assert_eq!(find("/id", r#"{"id":null}"#), Ok(None));
        assert_eq!(find("/a/00", r#"{"a":["k"]}"#), Ok(None));
        for unreadable in ["", "{", r#"{"id":"a","id":"b"}"#, "\u{feff}{\"id\":\"a\"}"] {
            assert_eq!(find("/id", unreadable), Err(NotJson), "{unreadable}");
        }
    }
}
