//! `check`: every problem of a file at once; on demand what becomes of a request, and whether store and upstreams are
//! there.

mod online;

use std::path::Path;

use serde_json::json;

use super::args::{CheckArguments, Format};
use super::config_file::ConfigFile;
use super::run::style_of_errors;
use super::{Failure, output, runtime};
use crate::config::diagnostic::Severity;
use crate::config::load::{Overrides, Report};
use crate::config::render;

use self::online::Reached;

/// Checks a file. What flags and environment would say to `run` does not count here, but for secrets: the file does.
pub(super) fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let report = ConfigFile::new(&arguments.file, Overrides::default()).read()?;
    let explanation = match &arguments.explain {
        Some(request) if !report.has_errors() => {
            Some(report.explain(request).map_err(|error| Failure::Wrong(format!("`--explain`: {error}")))?)
        }
        _ => None,
    };
    let reached = match &report.config {
        Some(config) if arguments.online => runtime()?.block_on(online::reach(config)),
        _ => Vec::new(),
    };
    match arguments.format {
        Format::Text => print_text(&report, &reached, explanation.as_deref()),
        Format::Json => print_json(&report, &reached, explanation.as_deref()),
    }
    verdict(&arguments.file, &report, &reached, arguments.deny_warnings)
}

fn print_text(report: &Report, reached: &[Reached], explanation: Option<&str>) {
    output::complain(report.to_text(style_of_errors()).trim_end());
    for reached in reached {
        let how = match &reached.finding {
            Ok(text) => format!("ok: {text}"),
            Err((Severity::Warning, text)) => format!("warning: {text}"),
            Err((Severity::Error, text)) => format!("error: {text}"),
        };
        output::complain(&format!("{}: {how}", reached.what));
    }
    if let Some(explanation) = explanation {
        output::say(explanation.trim_end());
    }
}

fn print_json(report: &Report, reached: &[Reached], explanation: Option<&str>) {
    let reached: Vec<_> = reached
        .iter()
        .map(|reached| {
            let (severity, text) = match &reached.finding {
                Ok(text) => ("ok", text),
                Err((Severity::Warning, text)) => ("warning", text),
                Err((Severity::Error, text)) => ("error", text),
            };
            json!({ "what": reached.what, "severity": severity, "message": text })
        })
        .collect();
    let document = json!({
        "file": report.file_name,
        "summary": render::summary(&report.diagnostics),
        "findings": report.to_json(),
        "online": reached,
        "explanation": explanation,
    });
    output::say(&format!("{document:#}"));
}

/// A file that cannot work counts more than a store that is away.
fn verdict(file: &Path, report: &Report, reached: &[Reached], deny_warnings: bool) -> Result<(), Failure> {
    let name = file.display();
    if report.has_errors() {
        return Err(Failure::Wrong(format!("{name} cannot work")));
    }
    if deny_warnings && !report.diagnostics.is_empty() {
        return Err(Failure::Wrong(format!("{name} has warnings, and --deny-warnings forbids them")));
    }
    let counts = |reached: &&Reached| match reached.finding {
        Ok(_) => false,
        Err((Severity::Warning, _)) => deny_warnings,
        Err((Severity::Error, _)) => true,
    };
    match reached.iter().filter(counts).count() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{name}: --online found {count} of {} at fault", reached.len()))),
    }
}
