//! The key parser: both spellings are one key, limits hold, and what parses can be written and read again.

use onceproxy::key::MAX_KEY_LENGTH;
use onceproxy::{Key, KeyError, KeySyntax};

/// Takes the bytes for a field's value.
pub fn check(data: &[u8]) {
    let parsed = parse(data);
    for syntax in [KeySyntax::Structured, KeySyntax::Uuid] {
        if let Ok(narrow) = Key::parse_as(data, syntax, MAX_KEY_LENGTH) {
            assert_eq!(parsed.as_ref(), Ok(&narrow), "{syntax:?} takes what nobody else takes");
        }
    }
    for limit in [0, 1, 36, MAX_KEY_LENGTH - 1, 10_000] {
        match (Key::parse_as(data, KeySyntax::Any, limit), &parsed) {
            (Ok(key), Ok(parsed)) => assert!(key == *parsed && key.as_str().len() <= limit),
            (Ok(_), Err(error)) => panic!("good with the limit {limit}, without one {error:?}"),
            (Err(error), Ok(parsed)) => {
                assert!(error == KeyError::TooLong(limit) && parsed.as_str().len() > limit, "{limit}: {error:?}");
            }
            (Err(_), Err(_)) => {}
        }
    }
    if let Ok(key) = parsed {
        every_spelling(&key);
    }
}

fn parse(value: impl AsRef<[u8]>) -> Result<Key, KeyError> {
    Key::parse_as(value.as_ref(), KeySyntax::Any, MAX_KEY_LENGTH)
}

/// Each way to write a key gives the key.
fn every_spelling(key: &Key) {
    let text = key.as_str();
    assert!((1..=MAX_KEY_LENGTH).contains(&text.len()), "{} characters", text.len());
    assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)), "{text:?}");
    let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let one = Ok(key.clone());
    assert_eq!(parse(&quoted), one);
    assert_eq!(parse(format!(" \t{quoted}\t ")), one);
    assert_eq!(parse(format!("{quoted};a=\"x\";b=1.5")), one);
    assert_eq!(Key::parse_as(quoted.as_bytes(), KeySyntax::Structured, MAX_KEY_LENGTH), one);
    assert_eq!(Key::literal(text, KeySyntax::Any, MAX_KEY_LENGTH), one);
    assert_eq!(parse(format!("{quoted}, {quoted}")), Err(KeyError::List));
    assert_eq!(parse(format!("{quoted};")), Err(KeyError::BadString));
    if text.bytes().any(|byte| b" \",;\\".contains(&byte)) {
        assert_ne!(parse(text), one, "{text:?} has no bare form");
    } else {
        assert_eq!(parse(text), one);
        assert_eq!(parse(format!("{text},{text}")), Err(KeyError::List));
    }
}
