//! The mirror's machinery: a section is declared once, as a list of names, sentences and kinds of value; reading it,
//! refusing unknown names, laying one over another and the JSON schema follow from the declaration.

use std::fmt;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Findings, Span};

/// A value that the file gives, and where.
#[derive(Debug, Clone)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub origin: Origin,
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The setting that holds the section, such as `defaults` or `policy`; empty for the file itself.
    pub section: &'static str,
    /// The place.
    pub span: Span,
}

/// A setting, as its section declares it.
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// What it is for, in a sentence.
    pub about: &'static str,
    /// Whether this release has it.
    pub built: bool,
    /// The schema of its value.
    pub schema: fn() -> Value,
    /// The settings of its own, if it is a section or a list of sections.
    pub below: fn() -> &'static [Described],
}

/// A kind of value.
pub trait Setting: Sized {
    /// Whether this release has it.
    const BUILT: bool = true;

    /// Reads a value; what is wrong with it goes to the findings.
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self>;

    /// The schema of its values.
    fn schema() -> Value;

    /// The settings of its own.
    fn below() -> &'static [Described] {
        &[]
    }
}

/// A table with declared settings.
pub trait Section: Sized {
    /// Its settings.
    const SETTINGS: &'static [Described];

    /// Reads a table, which the setting `section` holds.
    fn from_table(table: &DeTable<'_>, section: &'static str, findings: &mut Findings) -> Self;

    /// Lays these settings over those of another section.
    #[must_use]
    fn over(&self, below: &Self) -> Self;

    /// Each setting and where it is given.
    fn origins(&self) -> Vec<(&'static str, Option<Origin>)>;

    /// Says whether a setting is written, well or badly.
    fn has(&self, name: &str) -> bool;

    /// Says whether all that is written could be read.
    fn is_sound(&self) -> bool;
}

/// Declares a section.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $name:ident { $( $(#[doc = $doc:literal])+ $field:ident: $kind:ty, )+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Default)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: Option<$crate::config::section::Given<$kind>>, )+
            written: Vec<&'static str>,
        }

        impl $crate::config::section::Section for $name {
            const SETTINGS: &'static [$crate::config::section::Described] = &[$(
                $crate::config::section::Described {
                    name: stringify!($field),
                    about: concat!($($doc),+),
                    built: <$kind as $crate::config::section::Setting>::BUILT,
                    schema: <$kind as $crate::config::section::Setting>::schema,
                    below: <$kind as $crate::config::section::Setting>::below,
                },
            )+];

            fn from_table(
                table: &::toml::de::DeTable<'_>,
                section: &'static str,
                findings: &mut $crate::config::diagnostic::Findings,
            ) -> $name {
                $crate::config::section::refuse_unknown(table, section, Self::SETTINGS, findings);
                $name {
                    $( $field: $crate::config::section::setting(table, stringify!($field), section, findings), )+
                    written: [$(stringify!($field)),+].into_iter().filter(|name| table.contains_key(*name)).collect(),
                }
            }

            fn over(&self, below: &$name) -> $name {
                $name {
                    $( $field: self.$field.as_ref().or(below.$field.as_ref()).cloned(), )+
                    written: self.written.iter().chain(&below.written).copied().collect(),
                }
            }

            fn origins(&self) -> Vec<(&'static str, Option<$crate::config::section::Origin>)> {
                vec![$( (stringify!($field), self.$field.as_ref().map(|given| given.origin.clone())), )+]
            }

            fn has(&self, name: &str) -> bool {
                self.written.contains(&name)
            }

            fn is_sound(&self) -> bool {
                let read: Vec<&str> = self.origins().iter().filter(|(_, at)| at.is_some()).map(|(n, _)| *n).collect();
                self.written.iter().all(|name| read.contains(name))
            }
        }

        impl $crate::config::section::Setting for $name {
            fn read(
                value: &::toml::Spanned<::toml::de::DeValue<'_>>,
                name: &'static str,
                findings: &mut $crate::config::diagnostic::Findings,
            ) -> Option<$name> {
                let table = $crate::config::section::table(value, name, findings)?;
                Some(<$name as $crate::config::section::Section>::from_table(table, name, findings))
            }

            fn schema() -> ::serde_json::Value {
                $crate::config::schema::section(<$name as $crate::config::section::Section>::SETTINGS)
            }

            fn below() -> &'static [$crate::config::section::Described] {
                <$name as $crate::config::section::Section>::SETTINGS
            }
        }
    };
}
pub(super) use section;

impl<T> Given<T> {
    /// Where the value stands.
    pub fn span(&self) -> Span {
        self.origin.span.clone()
    }
}

impl fmt::Debug for Described {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Where a section is, in words.
pub(super) fn inside(section: &str) -> String {
    match section {
        "" => "at the top of the file".to_owned(),
        "routes" => "in [[routes]]".to_owned(),
        "upstreams" => "in an upstream".to_owned(),
        "policy" | "fingerprint" | "client_cert" | "tls" => format!("in `{section}`"),
        section => format!("in [{section}]"),
    }
}

/// Reports the names of a table that are not declared.
pub(super) fn refuse_unknown(table: &DeTable<'_>, section: &str, settings: &[Described], findings: &mut Findings) {
    let known: Vec<&str> = settings.iter().map(|setting| setting.name).collect();
    for key in table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
        let name = key.get_ref().as_ref();
        let unknown = Diagnostic::error(format!("unknown setting `{name}` {}", inside(section))).at(key.span());
        findings.push(match super::schema::home(name) {
            Some(home) => unknown.help(format!("`{name}` belongs {home}")),
            None => unknown.suggest(name, known.iter().copied()),
        });
    }
}

/// Reads one setting of a table, if it is there.
pub(super) fn setting<T: Setting>(
    table: &DeTable<'_>,
    name: &'static str,
    section: &'static str,
    findings: &mut Findings,
) -> Option<Given<T>> {
    let value = table.get(name)?;
    let origin = Origin { section, span: value.span() };
    Some(Given { value: T::read(value, name, findings)?, origin })
}

/// The table of a setting that has to be one.
pub(super) fn table<'v, 't>(
    value: &'v Spanned<DeValue<'t>>,
    name: &str,
    findings: &mut Findings,
) -> Option<&'v DeTable<'t>> {
    let table = value.get_ref().as_table();
    if table.is_none() {
        findings.push(wrong_kind(value, name, "a table of settings"));
    }
    table
}

/// The finding that a value is of another kind.
pub(super) fn wrong_kind(value: &Spanned<DeValue<'_>>, name: &str, expected: &str) -> Diagnostic {
    let article = match value.get_ref() {
        DeValue::Integer(_) | DeValue::Array(_) => "an",
        _ => "a",
    };
    Diagnostic::error(format!("`{name}` is {expected}, not {article} {}", value.get_ref().type_str())).at(value.span())
}
