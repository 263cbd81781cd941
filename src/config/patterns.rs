//! Path patterns: what they may look like, what two of them have in common, and which one is wider.

use super::diagnostic::Diagnostic;

/// A segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment<'p> {
    /// A text, or a parameter with a text before or behind it.
    Text { before: &'p str, parameter: bool, behind: &'p str },
    /// The rest of the path.
    Rest,
}

/// The same pattern without the names of its parameters: two patterns with one shape match the same paths.
pub(super) fn shape(pattern: &str) -> String {
    let segments = segments(pattern).map(|segment| match segment {
        Segment::Text { before, parameter: true, behind } => format!("{before}{{}}{behind}"),
        Segment::Text { before, .. } => before.to_owned(),
        Segment::Rest => "{*}".to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The names of a pattern's parameters.
pub(super) fn parameters(pattern: &str) -> Vec<&str> {
    pattern.split('/').filter_map(|segment| Some(split(segment)?.1.trim_start_matches('*'))).collect()
}

/// Says whether every path that `narrow` matches is matched by `wide` too.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    let (mut wide, mut narrow) = (segments(wide), segments(narrow));
    loop {
        match (wide.next(), narrow.next()) {
            (Some(Segment::Rest), _) => return true,
            (None, None) => return true,
            (Some(wide), Some(narrow)) if covers_segment(&wide, &narrow) => {}
            _ => return false,
        }
    }
}

/// Checks a pattern's form; whether two fit beside each other shows later.
pub(super) fn check(name: &str, pattern: &str) -> Result<(), Diagnostic> {
    let wrong = |what: &str| Diagnostic::error(format!("`{name}` is {pattern:?}, {what}"));
    if !pattern.starts_with('/') {
        return Err(wrong("which does not begin with `/`").help(format!("did you mean \"/{pattern}\"?")));
    }
    if pattern.contains(['?', '#']) {
        return Err(wrong("but a path has no query and no fragment"));
    }
    if !pattern.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("but in a request these characters are percent-encoded: it never matches"));
    }
    let is_resolved_away = |segment: &str| matches!(segment, "" | "." | "..");
    if pattern != "/" && pattern.split('/').skip(1).any(is_resolved_away) {
        return Err(wrong("which never matches: empty and dot segments of a request are resolved first"));
    }
    if has_needless_escape(pattern) {
        return Err(wrong("which never matches: escapes of letters, digits and `-._~` are decoded first"));
    }
    matchit::Router::new().insert(pattern, ()).map_err(|error| {
        let what = match error {
            matchit::InsertError::InvalidParamSegment => "but a segment holds one parameter at most",
            matchit::InsertError::InvalidCatchAll => "but `{*name}` stands alone and at the end",
            _ => "whose braces do not make parameters",
        };
        wrong(what).help("patterns look like /v1/payments/{id} or /{*rest}")
    })
}

fn segments(pattern: &str) -> impl Iterator<Item = Segment<'_>> {
    pattern.split('/').map(|segment| match split(segment) {
        Some(("", name, "")) if name.starts_with('*') => Segment::Rest,
        Some((before, _, behind)) => Segment::Text { before, parameter: true, behind },
        None => Segment::Text { before: segment, parameter: false, behind: "" },
    })
}

/// Splits a segment at its parameter; doubled braces are none.
fn split(segment: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    let start = loop {
        let at = from + segment[from..].find('{')?;
        match segment[at + 1..].starts_with('{') {
            true => from = at + 2,
            false => break at,
        }
    };
    let end = start + segment[start..].find('}')?;
    Some((&segment[..start], &segment[start + 1..end], &segment[end + 1..]))
}

fn covers_segment(wide: &Segment<'_>, narrow: &Segment<'_>) -> bool {
    match (wide, narrow) {
        (Segment::Text { before, parameter: true, behind }, Segment::Text { before: b, parameter, behind: e }) => {
            let longest = before.len() + behind.len();
            match parameter {
                true => b.starts_with(before) && e.ends_with(behind),
                false => b.len() > longest && b.starts_with(before) && b.ends_with(behind),
            }
        }
        (wide, narrow) => wide == narrow,
    }
}

fn has_needless_escape(pattern: &str) -> bool {
    pattern.split('%').skip(1).any(|rest| {
        let byte = rest.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_have_no_name_in_a_shape() {
        assert_eq!(shape("/a/{id}/{*rest}"), shape("/a/{other}/{*all}"));
        assert_ne!(shape("/a/{id}"), shape("/a/id"));
        assert_ne!(shape("/a/{id}.json"), shape("/a/{id}"));
        assert_eq!(parameters("/a/{id}/x-{name}.json/{*rest}"), ["id", "name", "rest"]);
        assert_eq!(parameters("/a/{{id}}"), Vec::<&str>::new());
    }

    #[test]
    fn wider_patterns_cover_narrower_ones() {
        for (wide, narrow) in
            [("/{*rest}", "/"), ("/{*rest}", "/a/{id}"), ("/a/{id}", "/a/b"), ("/a/{x}", "/a/{x}.json"), ("/a", "/a")]
        {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [("/a/{id}", "/a"), ("/a/{id}", "/a/b/c"), ("/a/b", "/a/{id}"), ("/a/{id}", "/{*rest}")] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }

    #[test]
    fn a_segment_shorter_than_prefix_and_suffix_is_not_covered() {
        assert!(covers("/{id}.json", "/a.json"));
        assert!(!covers("/{id}.json", "/.json"));
    }
}
