//! Loading: a text, and what flags and environment say, made into a configuration or a report of what is wrong.

use std::fmt;

use secrecy::SecretString;
use serde_json::Value;
use toml::de::DeTable;

use super::Config;
use super::check;
use super::diagnostic::{Diagnostic, Findings, Severity};
use super::explain::{self, ExplainError};
use super::file::File;
use super::mask::masked;
use super::render::{self, Style};
use super::secret::Lookups;
use super::section::Section;

/// What flags and environment say; each beats the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// The data listener's address.
    pub listen: Option<String>,
    /// The only upstream's URL.
    pub upstream: Option<String>,
    /// The store's URL.
    pub store: Option<String>,
    /// The admin listener's address.
    pub admin: Option<String>,
    /// The admin API's token.
    pub admin_token: Option<SecretString>,
    /// A log level or filter.
    pub log: Option<String>,
}

/// What came of loading a file.
pub struct Report {
    /// The findings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// The configuration, unless there are errors.
    pub config: Option<Config>,
    /// What messages call the file.
    pub file_name: String,
    /// The file's text, without its secrets.
    pub(super) text: String,
    pub(super) file: Option<File>,
}

/// What runs without a file, but for the upstream.
const WITHOUT_FILE: &str = include_str!("without_file.toml");

/// Loads a file's text. All that is wrong with it is in the report.
pub fn load(text: &str, file_name: &str, overrides: &Overrides, lookups: &Lookups<'_>) -> Report {
    let mut findings = Findings::default();
    let file = parse(text, &mut findings);
    let config = file.as_ref().and_then(|file| check::config(file, overrides, lookups, &mut findings));
    let text = masked(text, file.as_ref());
    Report { diagnostics: findings.sorted(), config, file_name: file_name.to_owned(), text, file }
}

fn parse(text: &str, findings: &mut Findings) -> Option<File> {
    match DeTable::parse(text) {
        Ok(table) => Some(File::from_table(table.get_ref(), "", findings)),
        Err(error) => {
            let wrong = Diagnostic::error(format!("this is not TOML: {}", error.message().replace('\n', "; ")));
            findings.push(wrong.at(error.span()));
            None
        }
    }
}

impl Config {
    /// The configuration without a file: one upstream, every POST and PATCH with a key protected, an embedded store.
    ///
    /// # Errors
    /// The report of what is wrong with the URL or an override.
    pub fn for_upstream(url: &str, overrides: &Overrides) -> Result<Config, Box<Report>> {
        let overrides = Overrides { upstream: Some(url.to_owned()), ..overrides.clone() };
        let nothing = Lookups { environment: &|_| None, file: &|_| Err(std::io::ErrorKind::NotFound.into()) };
        let mut report = load(WITHOUT_FILE, "command line", &overrides, &nothing);
        match report.config.take() {
            Some(config) => Ok(config),
            None => Err(Box::new(report)),
        }
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Report").field("file", &self.file_name).field("diagnostics", &self.diagnostics).finish()
    }
}

impl Report {
    /// Says whether there are errors, so that there is no configuration.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Renders the findings for people.
    pub fn to_text(&self, style: Style) -> String {
        render::text(&self.diagnostics, &self.text, &self.file_name, style)
    }

    /// Renders the findings for programs: an array of objects.
    pub fn to_json(&self) -> Value {
        render::json(&self.diagnostics, &self.text, &self.file_name)
    }

    /// Explains what becomes of a request such as `POST /v1/payments`.
    ///
    /// # Errors
    /// The request is not one, or the configuration has errors.
    pub fn explain(&self, request: &str) -> Result<String, ExplainError> {
        explain::explain(self, request)
    }
}
