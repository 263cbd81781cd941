//! What shells, editors and readers of manuals want: completions, the schema, the manual pages.

use std::{fs, io};

use clap::builder::Resettable;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::args::{Arguments, ManArguments};
use super::{Failure, output};
use crate::config::schema;

/// Prints the JSON schema of the configuration file.
pub(super) fn schema() -> Result<(), Failure> {
    output::say(&format!("{:#}", schema::schema()));
    Ok(())
}

/// Prints the completions of a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "onceproxy", &mut script);
    output::write(&script);
    Ok(())
}

/// Prints the manual, or writes it into a folder: one page per command.
pub(super) fn man(arguments: &ManArguments) -> Result<(), Failure> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(command, &mut pages).map_err(|error| Failure::Failed(format!("cannot make the manual: {error}")))?;
    let Some(folder) = &arguments.out else {
        pages.iter().for_each(|(_, page)| output::write(page));
        return Ok(());
    };
    for (name, page) in pages {
        let path = folder.join(name);
        fs::write(&path, page).map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    }
    Ok(())
}

/// Adds a command's page with its file's name, then those of the commands below.
fn add_pages(command: Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let below: Vec<Command> = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let examples = command.get_after_help().map(ToString::to_string);
    // The library would fill the lines of the examples to one paragraph.
    let man = Man::new(command.after_help(Resettable::Reset));
    let mut page = Vec::new();
    man.render(&mut page)?;
    if let Some(examples) = examples {
        let mut section = Roff::new();
        section.control("SH", ["EXAMPLES"]).control("nf", []);
        for line in examples.trim_start_matches("Examples:\n").lines() {
            section.text([roman(line)]);
        }
        section.control("fi", []).to_writer(&mut page)?;
    }
    pages.push((man.get_filename(), page));
    below.into_iter().try_for_each(|command| add_pages(command, pages))
}
