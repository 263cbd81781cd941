//! Measures onceproxy against nginx on one machine, in one run.
//!
//! `just bench` runs all of it and writes `docs/performance.md`. One thread is the client, one the upstream; the servers
//! between them are real processes that take turns, round by round, and what is reported is the median of the ratios
//! of neighbours. A run whose counts do not add up ends with an error and writes nothing.

mod arguments;
mod connection;
mod cores;
mod cost;
mod experiment;
mod footprint;
mod h2load;
mod load;
mod machine;
mod message;
mod nginx;
mod process;
mod proxy;
mod redis;
mod reload;
mod report;
mod scenarios;
mod secure;
mod slow;
mod speed;
mod stage;
mod statistics;
mod transfers;
mod upstream;

use std::process::ExitCode;

use arguments::Arguments;
use report::Report;
use stage::Context;

/// What went wrong, said to a person.
type Failure = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => return ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("compare: {failure}\n\n{}", arguments::USAGE);
            return ExitCode::from(2);
        }
    };
    match compare(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("compare: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn compare(arguments: Arguments) -> Result<()> {
    if arguments.list {
        scenarios::list();
        return Ok(());
    }
    let scenarios = scenarios::chosen(&arguments)?;
    machine::allow_many_files()?;
    let mut report = Report::new(machine::describe(&arguments)?, arguments.command_line.clone());
    let context = Context::new(arguments)?;
    for scenario in scenarios {
        eprintln!("{}: {}", scenario.name, scenario.what);
        (scenario.run)(&context, &mut report).map_err(|failure| format!("{}: {failure}", scenario.name))?;
    }
    let text = report.render();
    println!("{text}");
    if let Some(path) = &context.arguments.write {
        report::write_between_markers(path, &text)?;
    }
    Ok(())
}
