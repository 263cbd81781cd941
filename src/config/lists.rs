//! Values that hold others: lists, and tables whose names are the user's.

use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Findings};
use super::section::{Described, Given, Origin, Section, Setting, table, wrong_kind};

/// A list with at least one element.
#[derive(Debug, Clone)]
pub struct List<T>(pub Vec<Given<T>>);

/// A table whose names are the user's: `[upstreams.NAME]`; in the order of the file.
#[derive(Debug, Clone)]
pub struct Named<T>(pub Vec<(String, Given<T>)>);

impl<T: Setting> Setting for Vec<Given<T>> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        let Some(elements) = value.get_ref().as_array() else {
            findings.push(wrong_kind(value, name, "a list"));
            return None;
        };
        let read: Vec<Given<T>> = elements
            .iter()
            .filter_map(|element| {
                let origin = Origin { section: name, span: element.span() };
                Some(Given { value: T::read(element, name, findings)?, origin })
            })
            .collect();
        // A list with a bad element counts as not read, so that nothing is concluded from the rest of it. A list of
        // tables is more than its parts: what is wrong with one of them stays there.
        let whole = read.len() == elements.len() || !T::below().is_empty();
        whole.then_some(read)
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema() })
    }

    fn below() -> &'static [Described] {
        T::below()
    }
}

impl<T: Setting> Setting for List<T> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        let elements = Vec::<Given<T>>::read(value, name, findings)?;
        if elements.is_empty() {
            findings
                .push(Diagnostic::error(format!("`{name}` is empty: leave it out for its default")).at(value.span()));
            return None;
        }
        Some(List(elements))
    }

    fn schema() -> Value {
        json!({ "type": "array", "items": T::schema(), "minItems": 1 })
    }
}

impl<T: Section + Setting> Setting for Named<T> {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Self> {
        let table = table(value, name, findings)?;
        let mut entries: Vec<(String, Given<T>)> = Vec::new();
        for (key, value) in table {
            let own = key.get_ref().as_ref();
            if let Err(wrong) = plain_name("an upstream's name", own) {
                findings.push(wrong.at(key.span()));
            }
            let Some(section) = T::read(value, name, findings) else { continue };
            entries
                .push((own.to_owned(), Given { value: section, origin: Origin { section: name, span: key.span() } }));
        }
        entries.sort_by_key(|(_, given)| given.origin.span.start);
        Some(Named(entries))
    }

    fn schema() -> Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }

    fn below() -> &'static [Described] {
        T::below()
    }
}

/// Accepts a name that can stand in metrics, logs and command lines.
pub(super) fn plain_name(what: &str, name: &str) -> Result<(), Diagnostic> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    Err(Diagnostic::error(format!("{what} is 1 to 64 letters, digits, `-`, `_` or `.`; {name:?} is not")))
}

/// The elements that stand twice, each with the first one like it.
pub(super) fn repeated<T: PartialEq>(elements: &[Given<T>]) -> impl Iterator<Item = (&Given<T>, &Given<T>)> {
    elements.iter().enumerate().filter_map(|(index, element)| {
        let first = elements[..index].iter().find(|other| other.value == element.value)?;
        Some((first, element))
    })
}
