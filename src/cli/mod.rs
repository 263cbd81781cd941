//! The command line: the only floor that reads the environment, prints, and ends the process.
//!
//! Exit codes: 0 done, 1 failed while running or refused, 2 the configuration or the arguments are wrong.

mod args;
mod check;
mod client;
mod config_file;
mod demo;
mod healthcheck;
mod output;
mod records;
mod run;
mod shell;
mod signals;
mod systemd;
mod token;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};

/// Why a command ends badly.
#[derive(Debug)]
enum Failure {
    /// The arguments or the configuration are wrong: exit code 2.
    Wrong(String),
    /// The configuration is wrong, and this report says how: exit code 2.
    Report(String),
    /// It failed while running, or was refused: exit code 1.
    Failed(String),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version come this way too, with code 0; nobody is left to hear of a closed pipe.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Records(arguments) => records::run(arguments),
        Command::Healthcheck(arguments) => healthcheck::run(&arguments),
        Command::Schema => shell::schema(),
        Command::Completions { shell } => shell::completions(shell),
        Command::Man(arguments) => shell::man(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

impl Failure {
    /// Says it on standard error, and gives the exit code.
    fn tell(&self) -> ExitCode {
        let (text, code) = match self {
            Failure::Wrong(message) => (format!("error: {message}"), 2),
            Failure::Report(report) => (report.trim_end().to_owned(), 2),
            Failure::Failed(message) => (format!("error: {message}"), 1),
        };
        output::complain(&text);
        ExitCode::from(code)
    }
}

/// A runtime on this thread: the proxy has threads of its own, and the other commands do one thing after the other.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))
}
