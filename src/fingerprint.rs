//! The fingerprint: what the request was, so that a key cannot be used for something else.

pub mod json;

use std::fmt;

use sha2::{Digest, Sha256};

use crate::scope::add_part;

/// A SHA-256 over the parts of a request or job that have to be the same on a retry.
///
/// ```
/// use onceproxy::Fingerprint;
///
/// assert_eq!(Fingerprint::of(b"charge 100"), Fingerprint::of(b"charge 100"));
/// assert_ne!(Fingerprint::of(b"charge 100"), Fingerprint::of(b"charge 900"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of one run of bytes, for callers that have no parts.
    pub fn of(payload: impl AsRef<[u8]>) -> Fingerprint {
        let mut builder = FingerprintBuilder::new();
        builder.body(payload.as_ref());
        builder.finish()
    }

    /// The fingerprint's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Rebuilds a fingerprint from its bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Fingerprint {
        Fingerprint(bytes)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Collects named parts and a body that comes in chunks.
///
/// Each part goes in with its length, so that no two different requests make the same input. The body's chunk borders
/// do not matter.
///
/// ```
/// use onceproxy::{Fingerprint, FingerprintBuilder};
///
/// let mut builder = FingerprintBuilder::new();
/// builder.body(b"char");
/// builder.body(b"ge");
/// assert_eq!(builder.finish(), Fingerprint::of("charge"));
/// ```
pub struct FingerprintBuilder {
    parts: Sha256,
    body: Sha256,
}

impl FingerprintBuilder {
    /// Begins an empty fingerprint.
    pub fn new() -> FingerprintBuilder {
        FingerprintBuilder { parts: Sha256::new_with_prefix(b"onceproxy fingerprint 1\n"), body: Sha256::new() }
    }

    /// Adds a named part.
    pub fn part(&mut self, name: &str, value: &[u8]) {
        add_part(&mut self.parts, name, value);
    }

    /// Adds the next chunk of the body.
    pub fn body(&mut self, chunk: &[u8]) {
        self.body.update(chunk);
    }

    /// Closes the fingerprint.
    pub fn finish(mut self) -> Fingerprint {
        let body = self.body.finalize();
        add_part(&mut self.parts, "body", &body);
        Fingerprint(self.parts.finalize().into())
    }
}

impl Default for FingerprintBuilder {
    fn default() -> FingerprintBuilder {
        FingerprintBuilder::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_into_each_other() {
        let of = |parts: &[(&str, &str)]| {
            let mut builder = FingerprintBuilder::new();
            parts.iter().for_each(|(name, value)| builder.part(name, value.as_bytes()));
            builder.finish()
        };
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_ne!(of(&[("a", "b"), ("c", "d")]), of(&[("a", "bcd")]));
    }

    #[test]
    fn chunk_borders_do_not_matter() {
        let mut builder = FingerprintBuilder::new();
        builder.body(b"char");
        builder.body(b"ge");
        assert_eq!(builder.finish(), Fingerprint::of(b"charge"));
    }
}
