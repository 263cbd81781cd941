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
    let is_plain = !path.contains('%')
        && path.starts_with('/')
        && (path.len() == 1 || path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | "..")));
    if is_plain {
        return Cow::Borrowed(path);
    }
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let resolved = format!("/{}", segments.join("/"));
    if resolved == path { Cow::Borrowed(path) } else { Cow::Owned(resolved) }
}

fn decode_unreserved(path: &str) -> String {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let escape = rest.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escape.map(char::from).filter(|letter| letter.is_ascii_alphanumeric() || "-._~".contains(*letter)) {
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
    fn names_do_not_count_in_patterns() {
        let pattern = Pattern::parse("/a/{id}/{{x}}/{*rest}").expect("a pattern");
        assert_eq!(pattern.text, "/a/{p0}/{{x}}/{*p1}");
        assert_eq!(pattern.names, ["id", "rest"]);
        for bad in ["a", "/{", "/}", "/{}", "/{*}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }
}
