//! Standard output and error. A reader that went away (`| head`) is no reason to fail, nor to panic.

use std::io::{Write, stderr, stdout};

/// Prints lines on standard output.
pub(super) fn say(text: &str) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints bytes on standard output as they are.
pub(super) fn write(bytes: &[u8]) {
    let mut out = stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Prints lines on standard error.
pub(super) fn complain(text: &str) {
    let _ = writeln!(stderr().lock(), "{text}");
}

/// A text from elsewhere, so that it cannot steer a terminal.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}
