//! How findings are shown: with the file's lines and a caret for people, as JSON for programs.

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use super::diagnostic::{Diagnostic, Position, Severity, Span};

/// Whether the text goes to a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bare text.
    Plain,
    /// With ANSI colours.
    Colours,
}

/// Renders findings about a file, each with the lines it is about, and a last line that counts them.
pub fn text(diagnostics: &[Diagnostic], source: &str, file_name: &str, style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Colours => Renderer::styled(),
    };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics {
        out.push_str(&renderer.render(&groups(diagnostic, source, file_name)));
        out.push_str("\n\n");
    }
    out.push_str(&format!("{file_name}: {}\n", summary(diagnostics)));
    out
}

/// Renders findings as an array of objects.
pub fn json(diagnostics: &[Diagnostic], source: &str, file_name: &str) -> Value {
    diagnostics.iter().map(|diagnostic| object(diagnostic, source, file_name)).collect()
}

/// Counts findings in words.
pub fn summary(diagnostics: &[Diagnostic]) -> String {
    let count = |severity| diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let words = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        count => format!("{count} {word}s"),
    };
    match (count(Severity::Error), count(Severity::Warning)) {
        (0, 0) => "no errors".to_owned(),
        (errors, 0) => words(errors, "error"),
        (0, warnings) => words(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", words(errors, "error"), words(warnings, "warning")),
    }
}

fn groups<'a>(diagnostic: &'a Diagnostic, source: &'a str, file_name: &'a str) -> Vec<Group<'a>> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let title = level.primary_title(diagnostic.message.as_str());
    let mut group = match &diagnostic.place {
        Some(place) => {
            let primary = AnnotationKind::Primary.span(visible(place, source));
            let related = diagnostic.related.iter().map(|related| {
                AnnotationKind::Context.span(visible(&related.place, source)).label(related.label.as_str())
            });
            title.element(Snippet::source(source).path(file_name).annotation(primary).annotations(related))
        }
        None => title.element(annotate_snippets::Origin::path(file_name)),
    };
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    vec![group]
}

/// A place as it is marked: only its first line, and never behind the end of the text.
fn visible(place: &Span, source: &str) -> Span {
    let end = place.end.min(source.len());
    let start = place.start.min(end);
    let marked = source.get(start..end).unwrap_or_default();
    let first_line = marked.lines().next().unwrap_or_default().trim_end();
    start..start + first_line.len()
}

fn object(diagnostic: &Diagnostic, source: &str, file_name: &str) -> Value {
    let severity = match diagnostic.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let start = diagnostic.place.as_ref().map(|place| Position::of(source, place.start));
    let related = diagnostic.related.as_ref().map(|related| {
        let position = Position::of(source, related.place.start);
        json!({ "line": position.line, "column": position.column, "message": related.label })
    });
    json!({
        "severity": severity,
        "message": diagnostic.message,
        "file": file_name,
        "line": start.map(|position| position.line),
        "column": start.map(|position| position.column),
        "end": diagnostic.place.as_ref().map(|place| {
            let end = Position::of(source, place.end);
            json!({ "line": end.line, "column": end.column })
        }),
        "help": diagnostic.help,
        "related": related,
    })
}
