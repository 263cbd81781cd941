//! The kinds of value that a setting can have: times, sizes, counts, texts, and one of several words.

use std::time::Duration;

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Findings, closest};
use super::section::{Setting, wrong_kind};

/// A duration between two limits, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within<const MIN: u64, const MAX: u64>(pub Duration);

/// A timeout: up to a day.
pub type Timeout = Within<1, DAY>;

/// How long something is kept: up to ten years.
pub type Retention = Within<1, { 3653 * DAY }>;

/// A day in milliseconds.
pub const DAY: u64 = 24 * 3600 * 1000;

/// A number of bytes between two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size<const MIN: u64, const MAX: u64>(pub u64);

/// An integer between two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count<const MIN: u64, const MAX: u64>(pub u64);

/// A setting that the design has, but this release does not.
#[derive(Debug, Clone)]
pub enum NotBuilt {}

/// One of several words.
pub trait Choice: Copy + PartialEq + 'static {
    /// Each word and what it means.
    const WORDS: &'static [(&'static str, Self)];

    /// The word for a value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

/// Declares the words of a type, and that a setting can be one of them.
macro_rules! choice {
    ($kind:ty { $($word:literal => $value:path),+ $(,)? }) => {
        impl $crate::config::values::Choice for $kind {
            const WORDS: &'static [(&'static str, $kind)] = &[$(($word, $value)),+];
        }

        impl $crate::config::section::Setting for $kind {
            fn read(
                value: &::toml::Spanned<::toml::de::DeValue<'_>>,
                name: &'static str,
                findings: &mut $crate::config::diagnostic::Findings,
            ) -> Option<$kind> {
                $crate::config::values::word(value, name, findings)
            }

            fn schema() -> ::serde_json::Value {
                ::serde_json::json!({ "enum": [$($word),+] })
            }
        }
    };
}
pub(super) use choice;

/// A value that is written as a text.
macro_rules! text_setting {
    ($kind:ty, $schema:tt, $parse:expr) => {
        impl $crate::config::section::Setting for $kind {
            fn read(
                value: &::toml::Spanned<::toml::de::DeValue<'_>>,
                name: &'static str,
                findings: &mut $crate::config::diagnostic::Findings,
            ) -> Option<$kind> {
                $crate::config::values::parsed(value, name, findings, $parse)
            }

            fn schema() -> ::serde_json::Value {
                ::serde_json::json!($schema)
            }
        }
    };
}
pub(super) use text_setting;

/// Reads a text through a parser whose error says what is wrong, without a place.
pub(super) fn parsed<T>(
    value: &Spanned<DeValue<'_>>,
    name: &str,
    findings: &mut Findings,
    parse: impl FnOnce(&str, &str) -> Result<T, Diagnostic>,
) -> Option<T> {
    let Some(text) = value.get_ref().as_str() else {
        findings.push(wrong_kind(value, name, "a text"));
        return None;
    };
    parse(name, text).map_err(|wrong| findings.push(wrong.at(value.span()))).ok()
}

/// Reads one of several words.
pub(super) fn word<T: Choice>(value: &Spanned<DeValue<'_>>, name: &str, findings: &mut Findings) -> Option<T> {
    parsed(value, name, findings, |name, text| {
        if let Some((_, value)) = T::WORDS.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let words: Vec<&str> = T::WORDS.iter().map(|(word, _)| *word).collect();
        let all = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        let wrong = Diagnostic::error(format!("`{name}` is {text:?}, which is none of {all}"));
        Err(match closest(text, &words) {
            Some(word) => wrong.help(format!("did you mean {word:?}?")),
            None => wrong,
        })
    })
}

/// Parses a duration.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration, Diagnostic> {
    humantime::parse_duration(text).map_err(|error| {
        Diagnostic::error(format!("`{name}` is not a duration: {error}"))
            .help(r#"durations look like "250ms", "30s", "24h", "7d""#)
    })
}

/// Writes a duration as a file would have it.
pub fn show_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.as_millis());
    match () {
        () if !millis.is_multiple_of(1000) => format!("{millis}ms"),
        () if seconds > 0 && seconds.is_multiple_of(24 * 3600) && seconds > 24 * 3600 => {
            format!("{}d", seconds / (24 * 3600))
        }
        () if seconds > 0 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        () if seconds > 120 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        () => format!("{seconds}s"),
    }
}

/// Writes a number of bytes as a file would have it.
pub fn show_size(bytes: u64) -> String {
    [("GiB", 30), ("MiB", 20), ("KiB", 10)]
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift)
        .map_or(format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

impl<const MIN: u64, const MAX: u64> Setting for Within<MIN, MAX> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        if !value.get_ref().is_str() {
            findings.push(wrong_kind(value, name, r#"a duration such as "30s""#));
            return None;
        }
        parsed(value, name, findings, |name, text| {
            let found = duration(name, text)?;
            let (min, max) = (Duration::from_millis(MIN), Duration::from_millis(MAX));
            if found < min || found > max {
                let (min, max) = (show_duration(min), show_duration(max));
                return Err(Diagnostic::error(format!("`{name}` is {text:?}, but it has to be from {min} to {max}")));
            }
            Ok(Within(found))
        })
    }

    fn schema() -> Value {
        let limits = (Duration::from_millis(MIN), Duration::from_millis(MAX));
        let range = format!("a duration from {} to {}", show_duration(limits.0), show_duration(limits.1));
        json!({ "type": "string", "format": "duration-text", "pattern": "^[0-9]", "$comment": range })
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Size<MIN, MAX> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        let bytes: u64 = match value.get_ref() {
            DeValue::String(text) => match text.parse::<bytesize::ByteSize>() {
                Ok(size) => size.as_u64(),
                Err(_) => {
                    let wrong = Diagnostic::error(format!("`{name}` is {text:?}, which is not a size"));
                    findings.push(wrong.at(value.span()).help(r#"sizes look like "64KiB", "1MiB", or 65536"#));
                    return None;
                }
            },
            DeValue::Integer(_) => integer(value, name, findings)?,
            _ => {
                findings.push(wrong_kind(value, name, r#"a size such as "64KiB""#));
                return None;
            }
        };
        if !(MIN..=MAX).contains(&bytes) {
            let (found, min, max) = (show_size(bytes), show_size(MIN), show_size(MAX));
            let wrong = Diagnostic::error(format!("`{name}` is {found}, but it has to be from {min} to {max}"));
            findings.push(wrong.at(value.span()));
            return None;
        }
        Some(Size(bytes))
    }

    fn schema() -> Value {
        json!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9.]+ *([KMGkmg]i?)?[Bb]?$" },
            { "type": "integer", "minimum": MIN, "maximum": MAX },
        ]})
    }
}

impl<const MIN: u64, const MAX: u64> Setting for Count<MIN, MAX> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        if !value.get_ref().is_integer() {
            findings.push(wrong_kind(value, name, "an integer"));
            return None;
        }
        let found = integer(value, name, findings)?;
        if !(MIN..=MAX).contains(&found) {
            let wrong = format!("`{name}` is {found}, but it has to be from {MIN} to {MAX}");
            findings.push(Diagnostic::error(wrong).at(value.span()));
            return None;
        }
        Some(Count(found))
    }

    fn schema() -> Value {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Reads an integer that is not negative.
fn integer(value: &Spanned<DeValue<'_>>, name: &str, findings: &mut Findings) -> Option<u64> {
    let integer = value.get_ref().as_integer()?;
    let found = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
    if found.is_none() {
        let wrong = format!("`{name}` is {integer}, which is negative or too large");
        findings.push(Diagnostic::error(wrong).at(value.span()));
    }
    found
}

impl Setting for bool {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            findings.push(wrong_kind(value, name, "true or false"));
        }
        found
    }

    fn schema() -> Value {
        json!({ "type": "boolean" })
    }
}

impl Setting for NotBuilt {
    const BUILT: bool = false;

    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<NotBuilt> {
        let wrong = Diagnostic::error(format!("`{name}` is not built yet: this release has no such setting"));
        findings.push(wrong.at(value.span()).help("take it out; it is refused rather than ignored"));
        None
    }

    fn schema() -> Value {
        json!({ "not": {}, "$comment": "not built yet" })
    }
}
