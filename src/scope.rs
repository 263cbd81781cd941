//! The scope: whose key it is, and the record id that scope and key make together.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::key::Key;

/// Whose key it is. Equal keys under different scopes never meet.
///
/// A scope is a list of named parts; each part is hashed with its length before it, so that `a` + `bc` is not
/// `ab` + `c`.
///
/// ```
/// use onceproxy::{Key, RecordId, Scope};
///
/// let key = Key::parse("42")?;
/// let alice = Scope::new("payments").with("account", b"alice");
/// let bob = Scope::new("payments").with("account", b"bob");
/// assert_ne!(RecordId::new(&alice, &key), RecordId::new(&bob, &key));
/// # Ok::<(), onceproxy::KeyError>(())
/// ```
#[derive(Clone)]
pub struct Scope(Sha256);

impl Scope {
    /// Begins a scope with its namespace: the name of the service whose keys these are.
    pub fn new(namespace: &str) -> Scope {
        Scope(Sha256::new_with_prefix(b"onceproxy scope 1\n")).with("namespace", namespace.as_bytes())
    }

    /// Adds a part.
    #[must_use]
    pub fn with(mut self, name: &str, value: &[u8]) -> Scope {
        add_part(&mut self.0, name, value);
        self
    }

    /// Adds a part that is known to be absent, which is another scope than an empty value.
    #[must_use]
    pub fn without(mut self, name: &str) -> Scope {
        self.0.update(b"-");
        self.0.update((name.len() as u64).to_be_bytes());
        self.0.update(name);
        self
    }
}

/// Says nothing of the parts: they are credentials.
impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}

/// Adds a named part with the lengths before name and value, so that no two lists of parts make the same bytes.
pub(crate) fn add_part(hash: &mut Sha256, name: &str, value: &[u8]) {
    hash.update(b"+");
    hash.update((name.len() as u64).to_be_bytes());
    hash.update(name);
    hash.update((value.len() as u64).to_be_bytes());
    hash.update(value);
}

/// The name of a record: a SHA-256 of scope and key, 64 hexadecimal digits in text.
///
/// `Debug` prints the first 12 digits, which is how logs name a record; `Display` prints all of them.
///
/// ```
/// use onceproxy::{Key, RecordId, Scope};
///
/// let id = RecordId::new(&Scope::new("payments"), &Key::parse("42")?);
/// assert_eq!(id.to_string().parse(), Ok(id));
/// assert!(id.to_string().starts_with(&id.prefix().to_string()));
/// # Ok::<(), onceproxy::KeyError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId([u8; 32]);

impl RecordId {
    /// Names the record of a key in a scope.
    pub fn new(scope: &Scope, key: &Key) -> RecordId {
        let mut hash = scope.0.clone();
        add_part(&mut hash, "key", key.as_str().as_bytes());
        RecordId(hash.finalize().into())
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Rebuilds an id from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> RecordId {
        RecordId(bytes)
    }

    /// The first 12 hexadecimal digits: enough to find a record, too few to name a key.
    pub fn prefix(&self) -> impl fmt::Display + '_ {
        Hex(&self.0[..6])
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// At most 32 bytes.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In one piece: the store's key is written for every call.
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX_DIGITS[usize::from(byte >> 4)];
            pair[1] = HEX_DIGITS[usize::from(byte & 0xf)];
        }
        let digits = &digits[..self.0.len() * 2];
        f.write_str(std::str::from_utf8(digits).expect("digits are ASCII"))
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0), f)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Hex(&self.0[..6]), f)
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record id is 64 hexadecimal digits")]
pub struct BadRecordId;

impl FromStr for RecordId {
    type Err = BadRecordId;

    fn from_str(text: &str) -> Result<RecordId, BadRecordId> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(BadRecordId);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|d| d as u8).ok_or(BadRecordId);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(RecordId(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scope: Scope) -> RecordId {
        RecordId::new(&scope, &Key::parse("k").expect("a good key"))
    }

    #[test]
    fn parts_do_not_run_into_each_other_h42() {
        assert_ne!(id(Scope::new("n").with("a", b"bc")), id(Scope::new("n").with("ab", b"c")));
        assert_ne!(id(Scope::new("n").with("a", b"b").with("c", b"")), id(Scope::new("n").with("a", b"bc")));
        assert_ne!(id(Scope::new("n").with("a", b"")), id(Scope::new("n").without("a")));
    }

    #[test]
    fn text_form_has_a_fixed_length_and_comes_back_h42() {
        let id = id(Scope::new("n"));
        assert_eq!(id.to_string().len(), 64);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<RecordId>(), Err(BadRecordId));
        assert_eq!("g".repeat(64).parse::<RecordId>(), Err(BadRecordId));
        assert!(id.to_string().starts_with(&format!("{id:?}")));
    }
}
