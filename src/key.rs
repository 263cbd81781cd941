//! The key: what the client sent to name its operation.
//!
//! A key travels either as an RFC 9651 String (`"8e03978e"`, section 3.3.3) or bare (`8e03978e`); both forms of the
//! same characters are one key. Case matters.

use std::fmt;

/// The largest key that any policy may allow, in characters.
pub const MAX_KEY_LENGTH: usize = 255;

/// A client's name for one operation: 1 to 255 printable ASCII characters.
///
/// ```
/// use onceproxy::Key;
///
/// let bare = Key::parse("8e03978e-40d5")?;
/// let quoted = Key::parse("\"8e03978e-40d5\"")?;
/// assert_eq!(bare, quoted);
/// assert!(Key::parse("").is_err());
/// # Ok::<(), onceproxy::KeyError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

/// Which spellings of a key a policy accepts.
///
/// ```
/// use onceproxy::{Key, KeyError, KeySyntax};
///
/// assert_eq!(Key::parse_as(b"abc", KeySyntax::Structured, 255), Err(KeyError::NotStructured));
/// assert_eq!(Key::parse_as(b"abc", KeySyntax::Uuid, 255), Err(KeyError::NotUuid));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeySyntax {
    /// Quoted or bare.
    #[default]
    Any,
    /// Only an RFC 9651 String.
    Structured,
    /// Quoted or bare, and the characters are a UUID (RFC 9562, hyphenated).
    Uuid,
}

/// Why a text is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Nothing between the quotes, or nothing at all.
    #[error("the key is empty")]
    Empty,
    /// More characters than allowed.
    #[error("the key is longer than {0} characters")]
    TooLong(usize),
    /// A character that a key cannot hold.
    #[error("the key holds a character that is not allowed there")]
    BadCharacter,
    /// Not a well-formed RFC 9651 String.
    #[error("the key is not a well-formed quoted string (RFC 9651, section 3.3.3)")]
    BadString,
    /// A comma: a list of keys, or several fields joined to one.
    #[error("more than one key")]
    List,
    /// The policy asks for the quoted form.
    #[error("the key has to be a quoted string (RFC 9651, section 3.3.3)")]
    NotStructured,
    /// The policy asks for a UUID.
    #[error("the key has to be a UUID")]
    NotUuid,
    /// The key is in a JSON body, and the body is not one that every reader reads alike.
    #[error("the body that holds it is not JSON that every reader reads alike")]
    NotJson,
}

impl Key {
    /// Parses a key in either form, up to [`MAX_KEY_LENGTH`] characters.
    ///
    /// # Errors
    /// A [`KeyError`] that names the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Key, KeyError> {
        Key::parse_as(text.as_bytes(), KeySyntax::Any, MAX_KEY_LENGTH)
    }

    /// Parses the raw value of a header field under a policy's syntax and limit.
    ///
    /// # Errors
    /// A [`KeyError`] that names the first thing that is wrong.
    pub fn parse_as(value: &[u8], syntax: KeySyntax, max_length: usize) -> Result<Key, KeyError> {
        let value = trim_spaces(value);
        let text = match value.first() {
            None => return Err(KeyError::Empty),
            Some(b'"') => quoted(value, max_length)?,
            Some(_) if syntax == KeySyntax::Structured => return Err(KeyError::NotStructured),
            Some(_) => bare(value, max_length)?,
        };
        if syntax == KeySyntax::Uuid && !is_uuid(&text) {
            return Err(KeyError::NotUuid);
        }
        Ok(Key(text.into()))
    }

    /// Takes a text from a place that has no quoting of its own (a query parameter, a JSON string) as the key itself.
    ///
    /// # Errors
    /// A [`KeyError`] that names the first thing that is wrong.
    pub fn literal(text: &str, syntax: KeySyntax, max_length: usize) -> Result<Key, KeyError> {
        let max_length = max_length.min(MAX_KEY_LENGTH);
        match text.len() {
            0 => return Err(KeyError::Empty),
            n if n > max_length => return Err(KeyError::TooLong(max_length)),
            _ => {}
        }
        if !text.bytes().all(|b| (0x20..=0x7e).contains(&b)) {
            return Err(KeyError::BadCharacter);
        }
        if syntax == KeySyntax::Uuid && !is_uuid(text) {
            return Err(KeyError::NotUuid);
        }
        Ok(Key(text.into()))
    }

    /// The key's characters, without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Shows the length only: a key is the client's secret and has no place in logs.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} characters)", self.0.len())
    }
}

fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn bare(value: &[u8], max_length: usize) -> Result<String, KeyError> {
    let max_length = max_length.min(MAX_KEY_LENGTH);
    for &byte in value {
        match byte {
            b',' => return Err(KeyError::List),
            b'"' | b';' | b'\\' => return Err(KeyError::BadCharacter),
            0x21..=0x7e => {}
            _ => return Err(KeyError::BadCharacter),
        }
    }
    if value.len() > max_length {
        return Err(KeyError::TooLong(max_length));
    }
    Ok(value.iter().map(|&b| char::from(b)).collect())
}

/// RFC 9651 section 4.2.5, followed by parameters (4.2.3.2) that are checked and dropped.
fn quoted(value: &[u8], max_length: usize) -> Result<String, KeyError> {
    let max_length = max_length.min(MAX_KEY_LENGTH);
    let (text, rest) = string(&value[1..])?;
    parameters(rest)?;
    match text.len() {
        0 => Err(KeyError::Empty),
        n if n > max_length => Err(KeyError::TooLong(max_length)),
        _ => Ok(text),
    }
}

/// Reads a String whose opening quote is gone; returns it unescaped, and what follows the closing quote.
fn string(value: &[u8]) -> Result<(String, &[u8]), KeyError> {
    let mut text = String::with_capacity(value.len());
    let mut rest = value;
    loop {
        rest = match rest {
            [b'"', rest @ ..] => return Ok((text, rest)),
            [b'\\', escaped @ (b'"' | b'\\'), rest @ ..] => {
                text.push(char::from(*escaped));
                rest
            }
            [b'\\', ..] | [] => return Err(KeyError::BadString),
            [byte @ 0x20..=0x7e, rest @ ..] => {
                text.push(char::from(*byte));
                rest
            }
            _ => return Err(KeyError::BadCharacter),
        }
    }
}

fn parameters(mut rest: &[u8]) -> Result<(), KeyError> {
    loop {
        rest = match rest {
            [] => return Ok(()),
            [b';', rest @ ..] => trim_spaces(rest),
            _ if trim_spaces(rest).first() == Some(&b',') => return Err(KeyError::List),
            _ => return Err(KeyError::BadString),
        };
        let name = rest.iter().take_while(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'));
        let length = name.count();
        if length == 0 || !matches!(rest[0], b'a'..=b'z' | b'*') {
            return Err(KeyError::BadString);
        }
        rest = &rest[length..];
        if let [b'=', value @ ..] = rest {
            rest = bare_item(value)?;
        }
    }
}

/// Steps over one bare item (RFC 9651, section 4.2.3.1) and returns what follows it.
fn bare_item(value: &[u8]) -> Result<&[u8], KeyError> {
    let span = |rest: &[u8], allowed: fn(&u8) -> bool| rest.iter().take_while(|b| allowed(b)).count();
    match value {
        [b'"', rest @ ..] => string(rest).map(|(_, rest)| rest),
        [b'?', b'0' | b'1', rest @ ..] => Ok(rest),
        [b':', rest @ ..] => {
            let length = span(rest, |b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
            rest[length..].strip_prefix(b":").ok_or(KeyError::BadString)
        }
        [b'%', b'"', rest @ ..] => {
            let length = span(rest, |b| matches!(b, 0x20..=0x21 | 0x23..=0x7e));
            rest[length..].strip_prefix(b"\"").ok_or(KeyError::BadString)
        }
        [b'A'..=b'Z' | b'a'..=b'z' | b'*', ..] => {
            let length = span(value, |b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(b));
            Ok(&value[length..])
        }
        [b'@' | b'-' | b'0'..=b'9', rest @ ..] => {
            let length = span(rest, |b| b.is_ascii_digit() || matches!(b, b'.' | b'-'));
            let number = value[..=length].strip_prefix(b"@").unwrap_or(&value[..=length]);
            let number = number.strip_prefix(b"-").unwrap_or(number);
            let digits = number.iter().filter(|b| b.is_ascii_digit()).count();
            let points = number.iter().filter(|b| **b == b'.').count();
            let well_formed = (1..=15).contains(&digits)
                && points <= 1
                && digits + points == number.len()
                && number[0] != b'.'
                && number[number.len() - 1] != b'.';
            if well_formed { Ok(&rest[length..]) } else { Err(KeyError::BadString) }
        }
        _ => Err(KeyError::BadString),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<String, KeyError> {
        Key::parse_as(text, KeySyntax::Any, MAX_KEY_LENGTH).map(|k| k.as_str().to_owned())
    }

    #[test]
    fn quoted_and_bare_are_one_key_h38() {
        assert_eq!(parse(b"abc"), parse(b"\"abc\""));
        assert_eq!(parse(b" \t\"a b\" "), Ok("a b".into()));
        assert_eq!(parse(br#""a\"b\\c""#), Ok(r#"a"b\c"#.into()));
    }

    #[test]
    fn case_matters_h41() {
        assert_ne!(parse(b"Abc"), parse(b"abc"));
    }

    #[test]
    fn parameters_are_ignored_when_well_formed_h38() {
        for good in [
            &br#""k";a"#[..],
            br#""k"; a=1;b=?0"#,
            br#""k";a="x\"y";*b=tok/en:1"#,
            br#""k";a=:aGk=:;b=@-12;c=%"f%c3""#,
            br#""k";a=1.5"#,
        ] {
            assert_eq!(parse(good), Ok("k".into()), "{}", String::from_utf8_lossy(good));
        }
        for bad in [
            &br#""k";"#[..],
            br#""k"; "#,
            br#""k";A=1"#,
            br#""k";a="#,
            br#""k";a=1.;b"#,
            br#""k";a=-"#,
            br#""k"x"#,
            br#""k" ;a"#,
            br#""k";a=:x"#,
        ] {
            assert_eq!(parse(bad), Err(KeyError::BadString), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn malformed_keys_are_refused_h39_h40() {
        assert_eq!(parse(b""), Err(KeyError::Empty));
        assert_eq!(parse(b"  "), Err(KeyError::Empty));
        assert_eq!(parse(b"\"\""), Err(KeyError::Empty));
        assert_eq!(parse(b"a,b"), Err(KeyError::List));
        assert_eq!(parse(b"\"a\", \"b\""), Err(KeyError::List));
        assert_eq!(parse(b"\"a"), Err(KeyError::BadString));
        assert_eq!(parse(br#""a\n""#), Err(KeyError::BadString));
        for bad in [&b"a b"[..], b"a;b", b"a\\b", b"a\"b", b"caf\xc3\xa9", b"\"\xff\"", b"a\x7f", b"\"a\x01\""] {
            assert_eq!(parse(bad), Err(KeyError::BadCharacter), "{bad:?}");
        }
        assert_eq!(parse(&[b'a'; 256]), Err(KeyError::TooLong(255)));
        assert!(parse(&[b'a'; 255]).is_ok());
    }

    #[test]
    fn syntax_is_obeyed() {
        let uuid = "8e03978e-40d5-43e8-bc93-6894a57f9324";
        assert_eq!(Key::parse_as(b"abc", KeySyntax::Structured, 255), Err(KeyError::NotStructured));
        assert_eq!(Key::parse_as(b"abc", KeySyntax::Uuid, 255), Err(KeyError::NotUuid));
        assert!(Key::parse_as(uuid.as_bytes(), KeySyntax::Uuid, 255).is_ok());
        assert!(Key::literal(uuid, KeySyntax::Uuid, 255).is_ok());
        assert_eq!(Key::parse_as(b"abcd", KeySyntax::Any, 3), Err(KeyError::TooLong(3)));
        assert_eq!(Key::literal("", KeySyntax::Any, 255), Err(KeyError::Empty));
    }

    #[test]
    fn debug_output_hides_the_key() {
        assert_eq!(format!("{:?}", Key::parse("secret").expect("a good key")), "Key(6 characters)");
    }
}
