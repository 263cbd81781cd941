//! The result, as Markdown.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use crate::Result;
use crate::experiment::{Figure, Rounds};

/// Between these lines of `docs/performance.md` stands what the last whole run said.
const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// What is aimed at.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Within a hundredth.
    Exactly(f64),
    /// Nothing is aimed at: the figure is only stated.
    Stated,
}

/// The rows so far.
pub struct Report {
    machine: Vec<String>,
    command_line: String,
    goals: Vec<String>,
    figures: Vec<String>,
}

impl Report {
    pub fn new(machine: Vec<String>, command_line: String) -> Report {
        Report { machine, command_line, goals: Vec::new(), figures: Vec::new() }
    }

    /// Adds a row: what was measured, the deciding figure, how it is to be shown, and the goal.
    pub fn row(&mut self, what: &str, decides: f64, shown: impl fmt::Display, goal: Goal) {
        eprintln!("  {what}: {shown} ({goal}: {})", goal.verdict(decides));
        self.goals.push(format!("| {what} | {shown} | {goal} | {} |", goal.verdict(decides)));
    }

    /// Adds a row with the median ratio of two sides.
    pub fn ratio(&mut self, what: &str, rounds: &Rounds, side: usize, against: usize, figure: Figure, goal: Goal) {
        let spread = rounds.ratio(side, against, figure);
        self.row(what, spread.median, spread, goal);
    }

    /// Adds every side's own figures.
    pub fn sides(&mut self, scenario: &str, rounds: &Rounds) {
        for (index, name) in rounds.names.iter().enumerate() {
            let median = |figure, places| match rounds.figure(index, figure).median {
                none if none.is_nan() => "–".to_owned(),
                median => format!("{median:.places$}"),
            };
            self.figures.push(format!(
                "| {scenario} | {name} | {} | {} | {} | {} |",
                median(Figure::Rate, 0),
                median(Figure::Cpu, 1),
                median(Figure::Median, 0),
                median(Figure::OneOfHundred, 0),
            ));
        }
    }

    pub fn render(&self) -> String {
        let mut text = String::new();
        for line in &self.machine {
            text.push_str(line);
            text.push_str("  \n");
        }
        let command = format!("cargo bench --no-default-features --bench compare -- {}", self.command_line);
        let _ = write!(text, "Command: `{}`\n\n", command.trim_end().trim_end_matches(" --"));
        text.push_str("| measured | result | goal | |\n|---|---|---|---|\n");
        for row in &self.goals {
            text.push_str(row);
            text.push('\n');
        }
        if !self.figures.is_empty() {
            text.push_str("\nThe sides themselves, medians of the rounds:\n\n");
            text.push_str("| scenario | side | requests/s | CPU µs/request | p50 µs | p99 µs |\n");
            text.push_str("|---|---|--:|--:|--:|--:|\n");
            for row in &self.figures {
                text.push_str(row);
                text.push('\n');
            }
        }
        text
    }
}

/// Puts the text in the place of what stood between the markers of the file.
pub fn write_between_markers(path: &Path, text: &str) -> Result<()> {
    let failed = |error| format!("{}: {error}", path.display());
    let old = fs::read_to_string(path).map_err(failed)?;
    let parts = old.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        return Err(format!("{} has no lines {BEGIN} and {END}", path.display()).into());
    };
    Ok(fs::write(path, format!("{before}{BEGIN}\n{text}{END}{after}")).map_err(failed)?)
}

impl Goal {
    fn verdict(self, figure: f64) -> &'static str {
        let met = match self {
            Goal::AtLeast(least) => figure >= least,
            Goal::AtMost(most) => figure <= most,
            Goal::Exactly(exact) => (figure - exact).abs() <= 0.01,
            Goal::Stated => return "stated",
        };
        if met { "met" } else { "**missed**" }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtLeast(least) => write!(f, "at least {least}"),
            Goal::AtMost(most) => write!(f, "at most {most}"),
            Goal::Exactly(exact) => write!(f, "exactly {exact}"),
            Goal::Stated => f.write_str("none"),
        }
    }
}
