//! Secrets: written in the file, or better in a variable of the environment or in a file of their own.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostic::{Diagnostic, Findings};
use super::section::{Given, Section, Setting, section, wrong_kind};

/// Where a secret is.
#[derive(Debug, Clone)]
pub enum Secret {
    /// In the file itself.
    Written(SecretString),
    /// In a variable of the environment.
    Env(String),
    /// In a file.
    File(PathBuf),
}

/// How secrets outside the file are looked up: nothing here reads the environment by itself.
pub struct Lookups<'a> {
    /// The value of a variable of the environment.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file.
    pub file: &'a dyn Fn(&Path) -> io::Result<String>,
}

section! {
    /// A secret that is somewhere else.
    SecretPlace {
        /// The name of an environment variable.
        env: String,
        /// The path of a file; a line break at its end does not count.
        file: String,
    }
}

impl Setting for Secret {
    fn read(value: &Spanned<DeValue<'_>>, name: &'static str, findings: &mut Findings) -> Option<Secret> {
        let table = match value.get_ref() {
            DeValue::String(text) if !text.is_empty() => return Some(Secret::Written(text.as_ref().into())),
            DeValue::String(_) => {
                findings.push(Diagnostic::error(format!("`{name}` is empty")).at(value.span()));
                return None;
            }
            DeValue::Table(table) => table,
            _ => {
                findings.push(wrong_kind(value, name, "a text or a table"));
                return None;
            }
        };
        let place = SecretPlace::from_table(table, name, findings);
        match (place.env, place.file) {
            (Some(variable), None) => Some(Secret::Env(variable.value)),
            (None, Some(path)) => Some(Secret::File(path.value.into())),
            (None, None) if !table.is_empty() => None,
            _ => {
                let wrong = Diagnostic::error(format!("`{name}` names neither or both of `env` and `file`"));
                findings.push(wrong.at(value.span()).help(r#"write a text, { env = "NAME" } or { file = "PATH" }"#));
                None
            }
        }
    }

    fn schema() -> Value {
        json!({ "anyOf": [{ "type": "string", "minLength": 1 }, SecretPlace::schema()] })
    }
}

/// Looks a secret up.
pub(super) fn reveal(
    given: &Given<Secret>,
    name: &str,
    lookups: &Lookups<'_>,
    findings: &mut Findings,
) -> Option<SecretString> {
    let found = match &given.value {
        Secret::Written(secret) => Ok(secret.expose_secret().to_owned()),
        Secret::Env(variable) => (lookups.environment)(variable)
            .ok_or_else(|| format!("`{name}`: the environment variable {variable} is not set")),
        Secret::File(path) => (lookups.file)(path)
            .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
            .map_err(|error| format!("`{name}`: {} cannot be read: {error}", path.display())),
    };
    let found = found.and_then(|secret| match secret.is_empty() {
        true => Err(format!("`{name}`: the secret is empty")),
        false => Ok(SecretString::from(secret)),
    });
    found.map_err(|wrong| findings.push(Diagnostic::error(wrong).at(given.span()))).ok()
}
