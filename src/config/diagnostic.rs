//! A finding about a file: what is wrong, where, what it clashes with, and what would help.

use std::ops::Range;

/// A place in the file's text, in bytes.
pub type Span = Range<usize>;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot work.
    Error,
    /// It works, but it may hurt.
    Warning,
}

/// One finding. No message holds a secret's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where; nowhere when something is missing from the file as a whole.
    pub place: Option<Span>,
    /// The other place that has to do with it.
    pub related: Option<Related>,
    /// What would help.
    pub help: Option<String>,
}

/// The second place of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Where.
    pub place: Span,
    /// What is there.
    pub label: String,
}

/// All findings about a file, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(Vec<Diagnostic>);

/// A position as an editor shows it: both numbers begin at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Diagnostic {
    /// Begins an error.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), place: None, related: None, help: None }
    }

    /// Begins a warning.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// Says where.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Span>>) -> Diagnostic {
        self.place = place.into();
        self
    }

    /// Adds the second place, if there is one.
    #[must_use]
    pub fn and(mut self, place: impl Into<Option<Span>>, label: impl Into<String>) -> Diagnostic {
        self.related = place.into().map(|place| Related { place, label: label.into() });
        self
    }

    /// Says what would help.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Offers the known name that is most like the one that was written, or else all of them.
    #[must_use]
    pub fn suggest<'n>(self, written: &str, known: impl IntoIterator<Item = &'n str>) -> Diagnostic {
        let known: Vec<&str> = known.into_iter().collect();
        match closest(written, &known) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None if known.is_empty() => self,
            None => self.help(format!("known here: {}", known.join(", "))),
        }
    }
}

impl Findings {
    /// Adds a finding, unless it is there: what is wrong in `[defaults]` shows in every route.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if !self.0.contains(&diagnostic) {
            self.0.push(diagnostic);
        }
    }

    /// Says whether there is an error among them.
    pub fn has_errors(&self) -> bool {
        self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// The findings in the order of their places; those without one come first.
    pub fn sorted(mut self) -> Vec<Diagnostic> {
        self.0.sort_by_key(|diagnostic| diagnostic.place.as_ref().map(|place| (place.start, place.end)));
        self.0
    }
}

/// The name that a misspelt one was most likely meant to be.
pub fn closest<'n>(written: &str, known: &[&'n str]) -> Option<&'n str> {
    let written = written.to_ascii_lowercase();
    let likeness = |name: &str| strsim::jaro_winkler(&written, &name.to_ascii_lowercase());
    known
        .iter()
        .map(|name| (likeness(name), *name))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

impl Position {
    /// Finds the position of a byte of a text; one behind its end is at its end.
    pub fn of(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}
