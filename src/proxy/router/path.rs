//! Paths as routes see them.

use std::borrow::Cow;

/// A pattern with its parameters' names taken out, so that they do not count in comparisons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    /// The pattern with numbers for names.
    pub(super) text: String,
    /// The names, in order.
    pub(super) names: Vec<String>,
}

impl Pattern {
    /// Parses a matchit pattern as far as its parameters; the rest is checked by matchit when it is inserted.
    pub(super) fn parse(path: &str) -> Result<Pattern, String> {
        if !path.starts_with('/') {
            return Err("it has to begin with /".to_owned());
        }
        let mut text = String::with_capacity(path.len());
        let mut names = Vec::new();
        let mut rest = path;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..];
            if let Some(after) = brace.strip_prefix("{{").or_else(|| brace.strip_prefix("}}")) {
                text.push_str(&brace[..2]);
                rest = after;
                continue;
            }
            let inner = brace.strip_prefix('{').ok_or("a } has no {")?;
            let (name, after) = inner.split_once('}').ok_or("a { is not closed")?;
            let (star, name) = match name.strip_prefix('*') {
                Some(name) => ("*", name),
                None => ("", name),
            };
            if name.is_empty() || name.contains(['{', '/', '*']) {
                return Err("a parameter needs a name".to_owned());
            }
            text.push_str(&format!("{{{star}p{}}}", names.len()));
            names.push(name.to_owned());
            rest = after;
        }
        text.push_str(rest);
        Ok(Pattern { text, names })
    }
}

/// The path that decides: unreserved escapes decoded (RFC 3986 section 6.2.2.2), dot segments resolved (section
/// 5.2.4), empty segments left out. Borrowed when it is the path as received.
pub(super) fn resolve(path: &str) -> Cow<'_, str> {
    if is_plain(path) {
        return Cow::Borrowed(path);
    }
    let resolved = resolve_segments(decode(path, is_unreserved).split('/'), Empty::LeftOut);
    if resolved == path { Cow::Borrowed(path) } else { Cow::Owned(resolved) }
}

/// Whether nobody could read a path otherwise than it is written. Says so of most paths, in one pass.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    let is_plain = path.bytes().all(|byte| {
        let is_plain = match byte {
            b'%' | b';' | b'\\' => false,
            b'/' | b'.' => before != b'/',
            _ => true,
        };
        before = byte;
        is_plain
    });
    is_plain && path.starts_with('/') && (path.len() == 1 || before != b'/')
}

/// The paths that upstreams of other habits may take this one for: all of ASCII decoded, or only what is unreserved;
/// `\\` for `/`; what stands behind a `;` in a segment cut off, before or after decoding; empty segments counted by `..`.
/// Most paths leave no choice.
pub(super) fn read_otherwise(path: &str) -> Vec<String> {
    if is_plain(path) || !path.contains(['%', ';', '\\']) && !path.contains("//") {
        return Vec::new();
    }
    let mut spelled = vec![path.to_owned()];
    add_each(&mut spelled, without_parameters);
    let mut decoded = Vec::new();
    for path in &spelled {
        add(&mut decoded, decode(path, is_unreserved));
        add(&mut decoded, decode(path, is_printable));
    }
    add_each(&mut decoded, |path| path.replace('\\', "/"));
    add_each(&mut decoded, without_parameters);
    let mut read = Vec::new();
    for path in &decoded {
        add(&mut read, resolve_segments(path.split('/'), Empty::LeftOut));
        add(&mut read, resolve_segments(path.split('/'), Empty::Counted));
    }
    read
}

/// Adds what a change makes of each text.
fn add_each(texts: &mut Vec<String>, change: impl Fn(&str) -> String) {
    let changed: Vec<String> = texts.iter().map(|text| change(text)).collect();
    changed.into_iter().for_each(|text| add(texts, text));
}

fn add(texts: &mut Vec<String>, text: String) {
    if !texts.contains(&text) {
        texts.push(text);
    }
}

fn without_parameters(path: &str) -> String {
    let segments = path.split('/').map(|segment| segment.split_once(';').map_or(segment, |(name, _)| name));
    segments.collect::<Vec<&str>>().join("/")
}

fn is_unreserved(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "-._~".contains(letter)
}

fn is_printable(letter: char) -> bool {
    letter.is_ascii() && !letter.is_ascii_control()
}

/// What `..` makes of an empty segment before it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    /// Nothing: it goes up from the segment before that.
    LeftOut,
    /// It goes up from there, as RFC 3986 has it.
    Counted,
}

/// Follows the dots, then leaves empty segments out.
fn resolve_segments<'p>(path: impl Iterator<Item = &'p str>, empty: Empty) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path {
        match segment {
            "" if empty == Empty::LeftOut => {}
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.retain(|segment| !segment.is_empty());
    format!("/{}", segments.join("/"))
}

/// Decodes the escapes of some characters.
fn decode(path: &str, is_decoded: impl Fn(char) -> bool) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let escape = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape.map(char::from).filter(|letter| is_decoded(*letter)) {
            Some(letter) => {
                decoded.push(letter);
                rest = &rest[at + 3..];
            }
            None => {
                decoded.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_resolved_as_an_upstream_might() {
        for (received, resolved) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b/", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/../a", "/a"),
            ("/%61/%2E%2e/b", "/b"),
            ("/a%2Fb", "/a%2Fb"),
            ("/a%2fb%7E", "/a%2fb~"),
            ("/a%zz%", "/a%zz%"),
            ("/a%é", "/a%é"),
            ("*", "/*"),
        ] {
            assert_eq!(resolve(received), resolved, "{received}");
        }
        assert!(matches!(resolve("/a/b"), Cow::Borrowed(_)));
    }

    #[test]
    fn other_readers_see_more() {
        for (received, read) in [
            ("/v1%2Fpayments", "/v1/payments"),
            ("/v1/payments;x=1", "/v1/payments"),
            ("/v1/payments%3Abatch", "/v1/payments:batch"),
            ("/a%5C..%5Cv1/b", "/v1/b"),
            ("/a%00%ff", "/a%00%ff"),
            // The parameter goes first, its escape is never decoded.
            ("/v1/payments;x%2F..", "/v1/payments"),
            // The escape is decoded first, and is in the parameter.
            ("/v1/payments/..%3B/a", "/v1/a"),
            // A segment of its own, to go up from.
            ("/v1/payments/;%2F..", "/v1/payments"),
            ("/v1/payments/x%5Cy%2F..", "/v1/payments"),
            ("/v1/%2F/..;/payments", "/v1/payments"),
            ("/v1/payments//..", "/v1/payments"),
        ] {
            let all = read_otherwise(received);
            assert!(all.iter().any(|path| path == read), "{received}: {all:?}");
        }
        assert!(read_otherwise("/v1/payments").is_empty());
        // A common escape leaves no choice.
        assert_eq!(read_otherwise("/v1/%7Ea%20b"), ["/v1/~a%20b", "/v1/~a b"]);
    }

    #[test]
    fn names_do_not_count_in_patterns() {
        let pattern = Pattern::parse("/a/{id}/{{x}}/{*rest}").expect("a pattern");
        assert_eq!(pattern.text, "/a/{p0}/{{x}}/{*p1}");
        assert_eq!(pattern.names, ["id", "rest"]);
        for bad in ["a", "/{", "/}", "/{}", "/{*}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
